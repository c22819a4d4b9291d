"""What an attack is given by mistake: a clear refusal before anything is trained, or a result."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest
import torch
from attack_scene import Projection, Scene
from torch import Tensor

from advhash.attacks.base import Attack
from advhash.attacks.gradient.descent import GradientAttack
from advhash.budget import Budget
from advhash.data import Batch, Modality, Split
from advhash.errors import AdvhashError, ConfigError, DataError, UsageError
from advhash.experiments.attack.run import AttackExperiment
from advhash.experiments.config import AttackConfig
from advhash.experiments.experiment import describe
from advhash.registry import ATTACKS

BALL = Budget("linf", 16 / 255)
QUICK: dict[str, dict[str, Any]] = {
    "dhta": {"steps": 3},
    "evolved": {"steps": 3},
    "mainstay": {"steps": 3},
    "sdha": {"steps": 3},
    "tha": {"steps": 3, "prototype_steps": 3, "hidden": 8, "feature": 4},
    "hag": {"steps": 3},
    "cgat": {"steps": 3},
    "mainstay-untargeted": {"steps": 3},
    "nes": {"queries": 20},
    "square": {"queries": 20},
    "blend": {},
    "universal": {"steps": 2},
    "prosgan": {"epochs": 1, "width": 4, "blocks": 1, "prototype_steps": 2, "hidden": 8},
}


def fitted(name: str, scene: Scene) -> Attack:
    attack: Attack = ATTACKS.create(name, QUICK[name])
    return attack.fit(scene.victim, scene.data, BALL)


def aims(attack: Attack, targets: Tensor) -> Tensor | None:
    return targets if attack.goal == "targeted" else None


class Blind(Projection):
    """A victim without gradients, of texts and images."""

    differentiable = False

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        return super().relax(inputs, modality).detach()


@pytest.mark.parametrize("name", ["dhta", "hag", "tha"])
def test_a_victim_without_gradients_is_offered_the_black_box_ones(name: str, scene: Scene) -> None:
    blind = Blind()
    attack = fitted(name, scene)
    with pytest.raises(UsageError, match="choose one on codes alone \\(nes, square, blend\\)"):
        attack.perturb(blind, scene.queries, aims(attack, scene.targets), BALL)


@pytest.mark.parametrize("name", ["nes", "square", "blend"])
def test_these_work_without_gradients(name: str, scene: Scene) -> None:
    blind = Blind().eval()
    seen = scene.seen_by(blind)
    attack = ATTACKS.create(name, QUICK[name]).fit(blind, seen.data, BALL)
    moved = attack.perturb(blind, scene.queries, scene.targets, BALL)
    assert float(moved.distance.max()) > 0


@pytest.mark.parametrize("name", QUICK)
def test_a_modality_that_the_victim_lacks_is_named(name: str, scene: Scene) -> None:
    attack = fitted(name, scene)
    with pytest.raises(UsageError, match="expected a modality of the victim \\(image\\)"):
        attack.perturb(scene.victim, scene.queries, aims(attack, scene.targets), BALL, "text")


@pytest.mark.parametrize("labels", [0, 1], ids=["no label", "a label of no row"])
@pytest.mark.parametrize(
    "name",
    ["dhta", "mainstay", "sdha", "tha", "nes", "square", "blend", "universal", "prosgan"],
)
def test_a_target_that_no_row_has_is_refused(name: str, labels: int, scene: Scene) -> None:
    strange = torch.zeros_like(scene.targets)
    strange[:, 2] = labels
    served = scene.data.dataset.database
    twice = served.labels.clone()  # what was of class 2 is of class 1
    twice[:, 1] |= twice[:, 2]
    twice[:, 2] = 0
    data = replace(scene.data.dataset, database=Split(served.inputs, twice))
    attack = ATTACKS.create(name, QUICK[name])
    attack.fit(scene.victim, replace(scene.data, dataset=data), BALL)
    with pytest.raises(DataError, match="shares a label with some database row"):
        attack.perturb(scene.victim, scene.queries, strange, BALL)


@pytest.mark.parametrize("name", QUICK)
def test_a_batch_of_one(name: str, scene: Scene) -> None:
    attack = fitted(name, scene)
    queries = scene.queries
    one = Batch({"image": queries.inputs["image"][:1]}, queries.labels[:1], queries.index[:1])
    moved = attack.perturb(scene.victim, one, aims(attack, scene.targets[:1]), BALL)
    assert moved.batch.inputs["image"].shape == one.inputs["image"].shape
    assert float(moved.distance) <= BALL.eps + 1e-6


@pytest.mark.parametrize("name", ["dhta", "mainstay", "sdha", "nes", "square", "blend"])
def test_a_query_that_is_its_target_already(name: str, scene: Scene) -> None:
    """Queries are database rows and their targets their own labels."""
    rows = scene.data.dataset.database.rows(torch.arange(4))
    attack = fitted(name, scene)
    moved = attack.perturb(scene.victim, rows, rows.labels, BALL)
    assert float(moved.distance.max()) <= BALL.eps + 1e-6
    assert bool(moved.batch.inputs["image"].isfinite().all())


@pytest.mark.parametrize(
    ("eps", "message"),
    [
        ("0", "positive"),
        ("0/255", "positive"),
        ("-8/255", "positive"),
        ("8", "write 8/255 for pixel units"),
        ("1.5", "at most 1 for linf"),
        ("eight", "a number, a fraction such as 8/255 or none"),
        ("8/0", "expected a"),
        ("nan", "expected a"),
    ],
)
def test_a_wrong_radius_is_told_in_words(eps: str, message: str) -> None:
    config = AttackConfig.build(
        {"victim": {"name": "dpsh"}, "attack": {"name": "dhta"}, "budget": {"eps": eps}}
    )
    with pytest.raises(ConfigError, match=message):
        describe(AttackExperiment(), config)


@pytest.mark.parametrize(
    ("attack", "budget"),
    [
        ({"name": "prosgan", "bounded": True}, {}),
        ({"name": "prosgan", "bounded": True}, {"norm": "none"}),
        ({"name": "nes"}, {"norm": "none"}),
        ({"name": "square"}, {"norm": "l0", "eps": 3}),
    ],
)
def test_a_budget_that_an_attack_cannot_take_costs_no_training(
    attack: dict[str, Any], budget: dict[str, Any]
) -> None:
    config = AttackConfig.build({"victim": {"name": "dpsh"}, "attack": attack, "budget": budget})
    with pytest.raises(AdvhashError, match="expected"):
        describe(AttackExperiment(), config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"transforms": ["jepg"]}, "unknown transform 'jepg'"),
        ({"transforms": ["jpeg"], "samples": 0}, "samples >= 1"),
        ({"samples": 3}, "name some"),
    ],
)
def test_wrong_transforms(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ATTACKS.create("dhta", settings)


def test_every_gradient_attack_takes_transforms(scene: Scene) -> None:
    """And takes its gradient through them: the outcome is another one, still inside the ball."""
    family = [
        entry.name
        for entry in ATTACKS
        if inspect.isclass(entry.build) and issubclass(entry.build, GradientAttack)
    ]
    assert {"p2p", "dhta", "tha", "hag", "cgat", "sdha", "mainstay"} <= set(family)
    for name in family:
        few = {**QUICK.get(name, {}), "steps": 4}
        plain = ATTACKS.create(name, few).fit(scene.victim, scene.data, BALL)
        through = ATTACKS.create(name, {**few, "transforms": ["noise"], "samples": 2})
        through.fit(scene.victim, scene.data, BALL)
        found = [
            one.perturb(scene.victim, scene.queries, aims(one, scene.targets), BALL)
            for one in (plain, through, through)
        ]
        images = [one.batch.inputs["image"] for one in found]
        assert not torch.equal(images[0], images[1]), name
        assert torch.equal(images[1], images[2]), name
        assert float(found[1].distance.max()) <= BALL.eps + 1e-6


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        ({"eps": "0.5/255"}, "at least 1/255, by which 8-bit pixels move"),
        ({"norm": "l2", "eps": "0.002"}, "at least 1/255"),
        ({"norm": "l2", "eps": "2000"}, "at most 55.43 for l2"),
        ({"norm": "l2", "eps": "128"}, "in \\[0,1\\] pixels"),
    ],
)
def test_a_radius_without_room_or_without_end_costs_no_training(
    budget: dict[str, Any], message: str
) -> None:
    """Under 1/255 every attack returns its input, which looked like a masked gradient."""
    tables = {"victim": {"name": "dpsh"}, "attack": {"name": "dhta"}}
    with pytest.raises(ConfigError, match=message):
        describe(AttackExperiment(), AttackConfig.build({**tables, "budget": budget}))


@pytest.mark.parametrize("budget", [{"eps": "1/255"}, {"eps": "0.5/255", "eight_bit": False}])
def test_the_smallest_radius_that_moves_something_is_taken(budget: dict[str, Any]) -> None:
    tables = {"victim": {"name": "dpsh"}, "attack": {"name": "dhta"}}
    assert (
        describe(AttackExperiment(), AttackConfig.build({**tables, "budget": budget}))["queries"]
        == 300
    )


@pytest.mark.parametrize("eps", ["8/255", "0.5", "2.5"])
def test_a_budget_of_words_is_a_whole_number_before_any_training(eps: str) -> None:
    tables = {
        "victim": {"name": "dlcmh"},
        "attack": {"name": "hotflip"},
        "protocol": {"query_modality": "text"},
    }
    with pytest.raises(UsageError, match=r"l0 budget of 1 word .* use --norm l0 --eps 2"):
        describe(AttackExperiment(), AttackConfig.build({**tables, "budget": {"eps": eps}}))


def test_more_planted_pictures_than_there_are_is_refused() -> None:
    """It planted as many as there were, and its record said as many as were asked for."""
    tables = {"victim": {"name": "dpsh"}, "attack": {"name": "dhta"}, "budget": {"eps": "8/255"}}
    describe(AttackExperiment(), AttackConfig.build({**tables, "protocol": {"poison": 150}}))
    with pytest.raises(UsageError, match=r"--poison .* expected at most 150, got 151"):
        describe(AttackExperiment(), AttackConfig.build({**tables, "protocol": {"poison": 151}}))


def test_pictures_off_the_8_bit_grid_are_refused(scene: Scene) -> None:
    """Rounding would take them up to half a step beyond a budget that they were inside."""
    images = (scene.queries.inputs["image"] + 0.4 / 255).clamp(0, 1)
    batch = Batch({"image": images}, scene.queries.labels, scene.queries.index)
    attack = fitted("dhta", scene)
    with pytest.raises(UsageError, match="multiples of 1/255"):
        attack.perturb(scene.victim, batch, scene.targets, Budget("linf", 1 / 255))
    moved = attack.perturb(
        scene.victim, batch, scene.targets, Budget("linf", 1 / 255), eight_bit=False
    )
    assert float(moved.distance.max()) <= 1 / 255 + 1e-6


@pytest.mark.parametrize("entry", list(ATTACKS), ids=lambda entry: entry.name)
def test_query_labels_are_shown_to_those_that_state_them(entry: Any, scene: Scene) -> None:
    seen: list[Tensor] = []

    class Looking(entry.build):  # type: ignore[misc, name-defined]
        modalities = frozenset({"image"})
        norms = frozenset({"linf"})

        def run(self, victim: Any, batch: Batch, targets: Tensor | None, budget: Budget) -> Tensor:
            seen.append(batch.labels)
            return batch.inputs["image"]

    attack = Looking()
    attack.perturb(scene.victim, scene.queries, aims(attack, scene.targets), BALL)
    stated = "query labels" in attack.knowledge
    assert bool(seen[0].any()) is stated
