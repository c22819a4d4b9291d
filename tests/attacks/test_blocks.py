"""What becomes of a query is decided by seed and query, not by what stands beside it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attack_scene import Projection, Scene
from torch import Tensor

from advhash.attacks.base import Attack
from advhash.budget import Budget
from advhash.data import Batch, Modality
from advhash.registry import ATTACKS
from advhash.targets import choose_targets

ROOT = Path(__file__).resolve().parents[2]
DOCS, ATTACKS_FOLDER = ROOT / "docs", ROOT / "attacks"
BUDGETS = [Budget("linf", 8 / 255), Budget("l2", 0.7)]
RANDOM: dict[str, tuple[str, dict[str, Any]]] = {  # every draw of the attacks on pictures
    "noise": ("noise", {}),
    "anchor": ("dhta", {"steps": 3}),
    "one candidate": ("p2p", {"steps": 3}),
    "start": ("hag", {"steps": 3, "random_start": True}),
    "restarts": ("cgat", {"steps": 3, "restarts": 3}),
    "diversity": ("hag", {"steps": 4, "diversity": 0.5}),
    "neighbours": ("hag", {"steps": 3, "neighbours": 2, "momentum": 0.9, "nesterov": True}),
    "transforms": ("hag", {"steps": 3, "transforms": ["noise", "crop"], "samples": 2}),
    "momentum": ("mainstay", {"steps": 3, "momentum": 0.9, "random_start": True}),
    "adam": ("sdha", {"steps": 3, "rule": "adam", "random_start": True}),
    "nes": ("nes", {"queries": 60}),
    "square": ("square", {"queries": 60}),
    "evolved": ("evolved", {"steps": 3, "anchor": "dhta", "random_start": True, "diversity": 0.3}),
    "blend": ("blend", {}),
    "autohash": ("autohash", {}),
    "collision": ("collision", {"steps": 3}),
}


class RowByRow(Projection):
    """Each code by itself, so that a block determines no bit of it."""

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        rows = [(self.weights * (row.flatten() - 0.5)).sum(dim=1) for row in inputs]
        return torch.stack(rows) if rows else torch.zeros(0, self.bits)


@pytest.fixture(scope="module")
def exact(scene: Scene) -> Scene:
    return scene.seen_by(RowByRow().eval())


def moved(method: Attack, scene: Scene, rows: Tensor, budget: Budget) -> Tensor:
    """The pictures of these queries, attacked in one block."""
    parts = {name: values[rows] for name, values in scene.queries.inputs.items()}
    batch = Batch(parts, scene.queries.labels[rows], scene.queries.index[rows])
    aims = scene.targets[rows] if method.goal == "targeted" else None
    found = method.perturb(scene.victim, batch, aims, budget, seed=11)
    return found.batch.inputs["image"]


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize(("name", "settings"), RANDOM.values(), ids=RANDOM)
def test_blocks_and_order_change_no_bit(
    name: str, settings: dict[str, Any], budget: Budget, exact: Scene
) -> None:
    method: Attack = ATTACKS.create(name, settings)
    method.fit(exact.victim, exact.data, budget, seed=1)
    count = len(exact.queries)
    whole = moved(method, exact, torch.arange(count), budget)
    for size in (1, 5):
        parts = [moved(method, exact, rows, budget) for rows in torch.arange(count).split(size)]
        assert torch.equal(torch.cat(parts), whole)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    assert torch.equal(moved(method, exact, order, budget), whole[order])


# Files of attacks that draw from torch's generators, and for what: never for one query.
ELSEWHERE = {
    "gradient/anchors.py": "the fit of a PrototypeNet",
    "gradient/steps.py": "input diversity: size and place of the n-th call, for all images",
    "gradient/transforms.py": "transforms of the n-th call, for all images",
    "inversion/decoders.py": "the fit of a decoder",
    "poisoning/copies.py": "noise of planted copies, which answer all queries",
    "poisoning/hubs.py": "first centres of planted items, which answer all queries",
    "prosgan/networks.py": "first weights",
    "prosgan/prosgan.py": "the fit of a generator",
    "prosgan/validation.py": "the fit of a generator",
    "universal.py": "the fit of a perturbation",
}
DRAWS = re.compile(
    r"torch\.(rand|randn|randint|randperm|normal|bernoulli|multinomial)(_like)?\(|"
    r"\.(uniform_|normal_|random_|bernoulli_)\(|default_rng|\bnp\.random"
)


def test_no_attack_draws_for_a_query_but_from_its_stream() -> None:
    found = {
        file.relative_to(ATTACKS_FOLDER).as_posix()
        for file in ATTACKS_FOLDER.rglob("*.py")
        if DRAWS.search(file.read_text("utf-8"))
    }
    assert found == set(ELSEWHERE)


def test_the_documented_exceptions_are_those_of_the_code() -> None:
    coupled = {entry.name for entry in ATTACKS if entry.build.couples_queries}
    text = (DOCS / "metrics.md").read_text("utf-8").split("<!-- couples queries -->")[1]
    assert sorted(re.findall(r"`([a-z-]+)`", text)) == sorted(coupled)


@pytest.mark.parametrize("rule", ["disjoint", "uniform", "weighted"])
def test_the_target_of_a_query_is_its_own(rule: Any) -> None:
    labels = (np.random.default_rng(0).random((300, 8)) < 0.2).astype(np.uint8)
    rows = np.arange(40)
    whole = choose_targets(rule, labels[rows], labels[100:], 3, rows=rows)
    some = np.array([30, 4, 11])
    assert np.array_equal(
        choose_targets(rule, labels[some], labels[100:], 3, rows=some), whole[some]
    )
