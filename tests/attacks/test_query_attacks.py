"""Query attacks: the hard count, each formula against a loop, victims without gradients."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from advhash.attacks.base import Attack, AttackData
from advhash.attacks.black_box.nes import NES, BlackBox
from advhash.attacks.black_box.square import (
    HALVINGS,
    Square,
    painted,
    poured,
    pyramids,
    square_side,
    stripes,
    tiles,
)
from advhash.budget import Budget
from advhash.chance import Chance
from advhash.codes import HashCodes
from advhash.data import Batch, Dataset, Modality, Split
from advhash.errors import ConfigError, DataError, UsageError
from advhash.registry import ATTACKS
from advhash.victims.base import HashVictim
from advhash.victims.external import ExternalVictim
from advhash.victims.perceptual.hashes import DHash

NAMES = ("nes", "nes-untargeted", "square", "square-untargeted")
BUDGETS = [Budget("linf", 24 / 255), Budget("l2", 1.5)]
BITS = 6


class Bands(HashVictim):
    """Six bits: sums of bands of the pixels less a threshold. It notes every image it hashes."""

    def __init__(self) -> None:
        super().__init__()
        self.bits, self.bounds, self.history = BITS, {"image": (0.0, 1.0)}, []
        self.differentiable = False
        self.register_buffer("threshold", torch.linspace(0.47, 0.53, BITS))
        self.seen: list[Tensor] = []

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        assert not torch.is_grad_enabled()
        self.seen.append(inputs.clone())
        return inputs.flatten(1).unflatten(1, (BITS, -1)).mean(dim=2) - self.threshold

    def fit(self, data: Dataset, *, seed: int, progress: object = None) -> Bands:  # type: ignore[override]
        return self


def database(codes: Tensor, labels: list[list[int]]) -> AttackData:
    marks = torch.tensor(labels, dtype=torch.uint8)
    split = Split({"image": torch.zeros(len(marks), 3, 8, 8, dtype=torch.uint8)}, marks)
    dataset = Dataset("tiny", {}, split, torch.arange(len(marks)), split, split, ("0", "1"))
    return AttackData(dataset, HashCodes.pack(codes.numpy() > 0), "image", "image")


@pytest.fixture
def served() -> AttackData:
    """All bits 1 under label 0, all bits 0 under label 1."""
    return database(torch.tensor([[1.0] * BITS, [-1.0] * BITS]), [[1, 0], [0, 1]])


def grey(count: int = 5) -> Batch:
    images = torch.full((count, 3, 8, 8), 128 / 255)
    return Batch({"image": images}, torch.tensor([[0, 1]] * count), torch.arange(count))


def aims(attack: Attack, count: int = 5) -> Tensor | None:
    return torch.tensor([[1, 0]] * count) if attack.goal == "targeted" else None


def attacked(name: str, served: AttackData, budget: Budget, **settings: Any) -> tuple[Any, ...]:
    victim, attack = Bands(), ATTACKS.create(name, settings)
    attack.fit(victim, served, budget)
    return victim, attack, attack.perturb(victim, grey(), aims(attack), budget)


# The count of queries


@pytest.mark.parametrize("queries", [2, 3, 4, 7, 12, 13, 60])
@pytest.mark.parametrize("name", NAMES)
def test_the_number_of_queries_is_hard(name: str, queries: int, served: AttackData) -> None:
    """Counted at the victim, not by the attack; the harness's own look at the end is not one."""
    victim, attack, _ = attacked(name, served, Budget("linf", 1 / 255), queries=queries)
    asked = sum(len(images) for images in victim.seen[:-1])
    assert asked <= 5 * queries
    assert asked >= 5 * (queries - 2)  # out of reach, so they are all spent (NES needs pairs)
    assert attack.indicators() == {"queries_per_image": pytest.approx(asked / 5)}


def test_queries_are_counted_since_fit(served: AttackData) -> None:
    victim, budget = Bands(), Budget("linf", 1 / 255)
    attack = Square(queries=9)
    assert attack.indicators() == {}
    for _ in range(2):
        attack.fit(victim, served, budget)
        for count in (1, 4):
            attack.perturb(victim, grey(count), aims(attack, count), budget)
        assert attack.indicators() == {"queries_per_image": 9.0}


def test_one_query_too_many_is_a_bug(served: AttackData) -> None:
    images = grey().inputs["image"]
    with torch.no_grad():
        box = BlackBox(Bands(), images, BUDGETS[0], 2, lambda own: -own)
        rows = torch.arange(5)
        box.probe(rows[:3], images[:3])
        assert box.spent.tolist() == [2, 2, 2, 1, 1]
        with pytest.raises(RuntimeError, match="at most 2 queries"):
            box.send(rows, images)


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_returned_was_seen_and_is_the_best_of_it(
    name: str, budget: Budget, served: AttackData
) -> None:
    victim, attack, result = attacked(name, served, budget, queries=60)
    clean, moved = grey().inputs["image"], result.batch.inputs["image"]
    own = victim.encode(clean[:1], "image").signs()
    goal = np.ones((1, BITS)) if attack.goal == "targeted" else -own
    looks = victim.seen[:-2]  # without the harness's look and this test's
    everything = torch.cat(looks)
    assert torch.allclose(everything * 255, (everything * 255).round(), atol=1e-4)
    inside = everything[budget.distance(clean[:1], everything) <= budget.eps + 1e-6]
    least = (victim.encode(inside, "image").signs() != goal).sum(axis=1).min()
    wrong = (result.codes.signs() != goal).sum(axis=1)
    assert wrong.min() <= least
    for image in moved:
        assert bool((everything == image).flatten(1).all(dim=1).any())
    assert float(result.overrun.max()) == 0


@pytest.mark.parametrize("name", NAMES)
def test_an_image_rests_once_its_code_is_the_goal(name: str, served: AttackData) -> None:
    """40/255 is four times the way from 128/255 to the farthest threshold."""
    victim, attack, result = attacked(name, served, Budget("linf", 40 / 255), queries=1000)
    if attack.goal == "targeted":
        assert (result.codes.signs() == 1).all()
    else:
        own = victim.encode(grey().inputs["image"], "image").signs()
        assert (result.codes.signs() == -own).all()
    assert attack.indicators()["queries_per_image"] < 400


@pytest.mark.parametrize("name", NAMES)
def test_a_query_equal_to_its_target_costs_one_query(name: str, served: AttackData) -> None:
    """White images have the anchor's code already; an untargeted attack goes on from there."""
    victim, attack = Bands(), ATTACKS.create(name, {"queries": 20})
    attack.fit(victim, served, BUDGETS[0])
    white = Batch({"image": torch.ones(2, 3, 8, 8)}, torch.tensor([[1, 0]] * 2), torch.arange(2))
    result = attack.perturb(victim, white, aims(attack, 2), BUDGETS[0])
    if attack.goal == "targeted":
        assert attack.indicators() == {"queries_per_image": 1.0}
        assert torch.equal(result.batch.inputs["image"], white.inputs["image"])
    else:
        assert attack.indicators()["queries_per_image"] > 15


# Bad input


@pytest.mark.parametrize("name", NAMES)
def test_budgets_that_it_cannot_keep(name: str, served: AttackData) -> None:
    for budget in (Budget("l0", 5), Budget("none", math.inf)):
        with pytest.raises(UsageError, match=f"expected a budget in l2, linf, got {budget.norm}"):
            attacked(name, served, budget)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_a_batch_of_one(name: str, budget: Budget, served: AttackData) -> None:
    victim, attack = Bands(), ATTACKS.create(name, {"queries": 120})
    attack.fit(victim, served, budget)
    result = attack.perturb(victim, grey(1), aims(attack, 1), budget)
    assert not torch.equal(result.batch.inputs["image"], grey(1).inputs["image"])


def test_a_target_that_no_database_row_has() -> None:
    victim = Bands()
    attack = Square().fit(victim, database(torch.ones(2, BITS), [[1, 0], [1, 0]]), BUDGETS[0])
    with pytest.raises(DataError, match="shares a label with some database row"):
        attack.perturb(victim, grey(), torch.tensor([[0, 1]] * 5), BUDGETS[0])


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("nes", {"queries": 1}, "queries >= 2"),
        ("nes", {"pairs": 0}, "pairs"),
        ("nes", {"cell": 0}, "cell"),
        ("nes", {"spread": 0.0}, "spread"),
        ("nes", {"momentum": 1.0}, "momentum"),
        ("square", {"queries": 1}, "queries >= 2"),
        ("square", {"share": 0.0}, "share"),
        ("square", {"share": 1.5}, "share"),
    ],
)
def test_settings_are_checked(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ATTACKS.create(name, settings)


# Victims without gradients


def test_gradient_attacks_offer_these(served: AttackData) -> None:
    attack = ATTACKS.create("dhta").fit(Bands(), served, BUDGETS[0])
    with pytest.raises(UsageError, match=r"codes alone \(nes, square, blend\)"):
        attack.perturb(Bands(), grey(), aims(attack), BUDGETS[0])


@pytest.mark.parametrize("name", ["nes-untargeted", "square-untargeted"])
def test_they_move_the_codes_of_a_perceptual_hash(name: str) -> None:
    torch.manual_seed(0)
    images = (torch.rand(4, 3, 24, 24) * 255).round() / 255
    batch = Batch({"image": images}, torch.ones(4, 1), torch.arange(4))
    victim = DHash(bits=64)
    attack = ATTACKS.create(name, {"queries": 120})
    result = attack.perturb(victim, batch, None, Budget("linf", 8 / 255))
    noise = ATTACKS.create("noise").perturb(victim, batch, None, Budget("linf", 8 / 255))
    own = victim.encode(images, "image").signs()
    changed = (result.codes.signs() != own).mean()
    assert changed > 0.03
    assert changed > 1.5 * (noise.codes.signs() != own).mean()


# The formulas


def test_nes_estimates_the_gradient() -> None:
    """On bits that are thresholds of a linear function, the estimate points along its weights."""
    torch.manual_seed(0)
    victim, images = Bands(), grey(2).inputs["image"]
    attack = NES(queries=3000, pairs=1400, spread=0.2, cell=1)
    with torch.no_grad():
        box = BlackBox(victim, images, BUDGETS[0], 3000, lambda own: torch.ones_like(own))
        slope = attack.slope(box, torch.arange(2), images, attack.pairs)
    assert box.spent.tolist() == [2801, 2801]
    for row in slope.flatten(1):  # wrong bits fall where pixels rise
        falling = -row / row.norm()
        assert float((falling / math.sqrt(row.numel())).sum()) > 0.7


def test_nes_noise_is_constant_in_its_cells() -> None:
    victim, seen = Bands(), []
    with torch.no_grad():
        box = BlackBox(victim, grey(1).inputs["image"], BUDGETS[0], 9, lambda own: -own)
        NES(cell=3, spread=0.05).slope(box, torch.arange(1), box.clean, 1)
    first, second = victim.seen[1] - box.clean, victim.seen[2] - box.clean
    assert torch.allclose(first, -second, atol=1.01 / 255)  # antithetic, but for the rounding
    for channel in range(3):
        for top in (0, 3, 6):
            for left in (0, 3, 6):
                seen.append(first[0, channel, top : top + 3, left : left + 3].unique())
    assert all(len(values) == 1 for values in seen)
    assert len(torch.cat(seen).unique()) > 10


def test_schedule_of_the_squares() -> None:
    """p halves at 0.1 %, 0.5 %, 2 %, 5 %, 10 %, 20 %, 40 %, 60 % and 80 % of the queries."""
    for queries in (500, 10_000):
        for number, at in enumerate(HALVINGS):
            after = at * queries // 10_000 + 1
            expected = round(math.sqrt(0.8 / 2 ** (number + 1) * 224 * 224))
            assert square_side(0.8, after, queries, 224, 224, 1) == expected
    sides = [square_side(0.8, query, 300, 32, 24, 3) for query in range(300)]
    assert all(first >= second for first, second in pairwise(sides))
    assert sides[0] == 24 or sides[0] == round(math.sqrt(0.8 * 32 * 24))
    assert sides[-1] == 3
    assert square_side(1.0, 0, 300, 32, 8, 3) == 8


@pytest.mark.parametrize("side", [2, 3, 4, 5, 8])
def test_pyramids_against_a_loop(side: int) -> None:
    """Squares that grow around the centre of each half add 1/k² (k = 1, 2 …)."""
    expected = torch.zeros(side, side)
    for rows, first, sign in ((side // 2, 0, 1), (side - side // 2, side // 2, -1)):
        middle = (rows // 2, side // 2)
        for reach in range(max(middle) + 1):
            for row in range(rows):
                for column in range(side):
                    if max(abs(row - middle[0]), abs(column - middle[1])) <= reach:
                        expected[first + row, column] += sign / (reach + 1) ** 2
    assert torch.allclose(pyramids(side), expected / expected.norm(), atol=1e-6)
    assert pyramids(1).tolist() == [[-1.0]]


def test_linf_squares() -> None:
    torch.manual_seed(0)
    start = stripes(torch.zeros(4, 9, 11, 3), 0.1, Chance(0, torch.arange(4)))
    assert torch.equal(start, start[:, :1].expand_as(start))
    assert torch.allclose(start.abs(), torch.full_like(start, 0.1))
    assert len(start[:, 0].flatten(1).unique(dim=0)) == 4
    for image in painted(torch.zeros(20, 9, 11, 3), 4, 0.1, Chance(0, torch.arange(20))):
        changed = image.abs().amax(dim=2) > 0
        rows, columns = changed.any(dim=1).nonzero(), changed.any(dim=0).nonzero()
        assert int(changed.sum()) == 16
        assert int(rows.max() - rows.min()) == int(columns.max() - columns.min()) == 3
        assert all(len(channel.unique()) == 2 for channel in image.unbind(dim=2))  # 0 and ±ε


def test_l2_squares_keep_the_length() -> None:
    torch.manual_seed(0)
    start = tiles(torch.zeros(6, 17, 20, 3), 1.5, Chance(0, torch.arange(6)))
    assert torch.allclose(start.flatten(1).norm(dim=1), torch.full((6,), 1.5), atol=1e-5)
    for change in (start, start / 2):  # the second leaves mass in the ball, which is used up
        moved = poured(change, 5, 1.5, Chance(0, torch.arange(6)))
        assert torch.allclose(moved.flatten(1).norm(dim=1), torch.full((6,), 1.5), atol=1e-5)
        differs = (moved != change).any(dim=3)
        assert int(differs.flatten(1).sum(dim=1).max()) <= 50  # two squares of 25
        assert int(differs.flatten(1).sum(dim=1).min()) >= 25


def test_l2_square_against_the_published_formula() -> None:
    """One image, one channel, the two squares found from the result."""
    torch.manual_seed(3)
    eps, side = 1.0, 3
    change = 0.05 * torch.randn(1, 12, 12, 1)
    moved = poured(change, side, eps, Chance(3, torch.arange(1)))
    emptied = ((moved == 0) & (change != 0))[0, :, :, 0]
    filled = ((moved != change) & (moved != 0))[0, :, :, 0].nonzero()
    top, left = filled.min(dim=0).values.tolist()
    both = emptied.clone()
    both[top : top + side, left : left + side] = True
    unused = eps**2 - float(change.square().sum())
    mass = math.sqrt(float(change[0, :, :, 0][both].square().sum()) + unused)
    old = change[0, top : top + side, left : left + side, 0]
    candidates = []
    for eta in (pyramids(side), pyramids(side).T):
        for sign in (1, -1):
            shape = sign * eta + old / old.norm()
            candidates.append(shape / shape.norm() * mass)
    found = moved[0, top : top + side, left : left + side, 0]
    assert any(torch.allclose(found, each, atol=1e-5) for each in candidates)


@pytest.mark.parametrize("shape", [(3, 4, 4), (3, 5, 9), (3, 2, 2)])
@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize("name", ["nes-untargeted", "square-untargeted"])
def test_small_and_oblong_images(name: str, budget: Budget, shape: tuple[int, ...]) -> None:
    """The victim is a user's function that leaves torch, so it has no gradient."""

    def function(images: Tensor) -> npt.NDArray[np.bool_]:
        flat = images.numpy().reshape(len(images), -1)
        return flat[:, :6] > flat.mean(axis=1, keepdims=True)

    torch.manual_seed(1)
    images = (128 + 12 * torch.randn(3, *shape)).round() / 255
    victim = ExternalVictim(function, name="a:test", sample=images)
    assert not victim.differentiable
    batch = Batch({"image": images}, torch.ones(3, 1), torch.arange(3))
    result = ATTACKS.create(name, {"queries": 40}).perturb(victim, batch, None, budget)
    own = victim.encode(images, "image").signs()
    assert (result.codes.signs() != own).any()
