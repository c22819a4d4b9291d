"""autohash: the worst case per query, judged by average precision, and its failure indicators."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch
from attack_scene import Projection, Scene
from torch import Tensor

from advhash.attacks import ensemble
from advhash.attacks.base import Attack
from advhash.attacks.ensemble import AutoHash, AutoHashUntargeted, Ranking
from advhash.attacks.gradient.hiding import Mainstay, MainstayUntargeted
from advhash.attacks.gradient.targeted import DHTA
from advhash.budget import Budget
from advhash.codes.metrics import retrieval_average_precision
from advhash.data import Batch, Modality
from advhash.errors import DataError, UsageError
from advhash.measures.sanity import check_indicators

BALL = Budget("linf", 12 / 255)
STEPS = 12


@pytest.fixture(scope="module", autouse=True)
def short() -> object:
    """The number of steps is no setting: the ensemble is fixed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensemble, "STEPS", STEPS)
        yield


def scores(attack: Attack, scene: Scene, budget: Budget = BALL) -> np.ndarray:
    """Average precision of each query: of the target's labels, or of its own."""
    targets = scene.targets if attack.goal == "targeted" else None
    attack.fit(scene.victim, scene.data, budget)
    result = attack.perturb(scene.victim, scene.queries, targets, budget)
    labels = scene.queries.labels if targets is None else targets
    return retrieval_average_precision(
        result.codes, scene.data.codes, labels.numpy(), scene.data.labels.numpy()
    )


def test_there_is_nothing_to_tune() -> None:
    for build in (AutoHash, AutoHashUntargeted):
        assert list(inspect.signature(build).parameters) == ["survive"]  # what pictures meet


def test_no_query_is_worse_than_under_a_member_and_some_are_better(scene: Scene) -> None:
    best = scores(AutoHash(), scene)
    for rival in (Mainstay(steps=STEPS), DHTA(steps=STEPS)):
        other = scores(rival, scene)
        assert best.mean() > other.mean() + 0.02
    assert (best >= scores(Mainstay(steps=STEPS), scene) - 1e-6).all()


def test_untargeted_no_query_is_worse_than_under_mainstay(scene: Scene) -> None:
    best, other = (
        scores(AutoHashUntargeted(), scene),
        scores(MainstayUntargeted(steps=STEPS), scene),
    )
    assert (best <= other + 1e-6).all()
    assert best.mean() < other.mean() - 0.02


def test_the_kept_shares_add_up(scene: Scene) -> None:
    attack = AutoHash()
    scores(attack, scene)
    found = attack.indicators()
    kept = [found[f"kept_{name}"] for name in (*attack.members(), "nes")]
    assert sum(kept) == pytest.approx(1)
    assert found["kept_nes"] == 0
    assert found["query_lead"] <= 0
    assert max(kept) < 1
    assert found["black_box_lead"] < 0
    assert check_indicators(found) == []


def test_solved_queries_are_not_attacked_further(scene: Scene) -> None:
    """Where every query is its own target, blend or mainstay ends it and sdha never runs."""
    seen: list[str] = []
    attack = AutoHash()
    attack.fit(scene.victim, scene.data, BALL)
    for name, member in attack._fitted.items():
        if isinstance(member, Ranking):
            member.descend = lambda *_, name=name: seen.append(name)  # type: ignore
    easy = scene.data.dataset.database.rows(torch.arange(6))
    attack.perturb(scene.victim, easy, easy.labels, Budget("linf", 40 / 255))
    assert seen == []


class Masked(Projection):
    """Gradients that are zero, codes that are not: only attacks without gradients work."""

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        return super().relax(inputs, modality).detach() + 0 * inputs.sum()


def test_a_black_box_that_is_stronger_than_the_white_box_is_flagged(scene: Scene) -> None:
    masked = scene.seen_by(Masked().eval())
    attack = AutoHash()
    scores(attack, masked, Budget("linf", 60 / 255))
    assert attack.indicators()["black_box_lead"] > 0
    flags = {flag.name for flag in check_indicators(attack.indicators())}
    assert {"black_box_lead", "query_lead", "zero_gradient", "stalled"} == flags


def test_nes_tries_what_is_not_solved_and_nothing_without_a_bound(scene: Scene) -> None:
    attack = AutoHash()
    scores(attack, scene, Budget("linf", 2 / 255))
    unsolved = len(attack.notes()["black_box_lead"])
    assert len(attack.notes()["query_lead"]) == unsolved > 8
    free = Budget("none", math.inf)
    attack.fit(scene.victim, scene.data, free)
    attack.perturb(scene.victim, scene.queries, scene.targets, free)
    assert "query_lead" not in attack.notes()


@pytest.mark.parametrize("build", [AutoHash, AutoHashUntargeted])
def test_a_batch_of_one_and_before_fit(build: type[AutoHash], scene: Scene) -> None:
    one = Batch(
        {"image": scene.queries.inputs["image"][:1]},
        scene.queries.labels[:1],
        scene.queries.index[:1],
    )
    targets = scene.targets[:1] if build.goal == "targeted" else None
    with pytest.raises(UsageError, match="call fit"):
        build().perturb(scene.victim, one, targets, BALL)
    result = build().fit(scene.victim, scene.data, BALL).perturb(scene.victim, one, targets, BALL)
    assert len(result.codes) == 1
    assert float(result.distance.max()) <= BALL.eps + 1e-6


def test_a_target_that_no_row_has_is_refused(scene: Scene) -> None:
    attack = AutoHash().fit(scene.victim, scene.data, BALL)
    with pytest.raises(DataError, match="shares a label"):
        attack.perturb(scene.victim, scene.queries, torch.zeros(12, 3, dtype=torch.uint8), BALL)


def test_ranking_checks_its_levels() -> None:
    with pytest.raises(ValueError, match="levels"):
        Ranking(levels=0)
