"""Attacks: the contract for every registered one, and each formula against an explicit loop."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from few_digits import few_digits
from torch import Tensor, nn

from advhash.attacks import ensemble
from advhash.attacks.base import Attack, AttackData, Goal, Knowledge, Perturbed
from advhash.attacks.black_box.baselines import Blend, Noise
from advhash.attacks.gradient.anchors import (
    ANCHORS,
    anchor_codes,
    candidate_rows,
    fit_prototype,
    label_sets,
)
from advhash.attacks.gradient.objectives import (
    hash_term,
    hash_term_tmm,
    lsgan,
    prototype_loss,
    reconstruction,
    similarity,
    soft_code,
)
from advhash.attacks.gradient.steps import step_length, stepped
from advhash.attacks.gradient.targeted import DHTA, P2P
from advhash.attacks.prosgan import prosgan
from advhash.attacks.prosgan.networks import Discriminator, Generator
from advhash.attacks.prosgan.prosgan import ProSGAN
from advhash.budget import Budget
from advhash.codes import HashCodes
from advhash.codes.metrics import retrieval_average_precision
from advhash.data import Batch, Dataset, Modality, Split
from advhash.errors import ConfigError, DataError, UnknownName, UsageError
from advhash.registry import ATTACKS
from advhash.victims.base import HashVictim
from advhash.victims.image.pairwise import DPSH

UNBOUNDED = Budget("none", math.inf)
BUDGETS = [Budget("linf", 8 / 255), Budget("l2", 1.5)]
MOMENTUM = ("mi", "di", "ti", "ni", "sini", "vmi")
QUERIES = 40
# Settings that keep the whole file short; an attack that is not named runs with its defaults.
QUICK: dict[str, dict[str, Any]] = {
    "prosgan": {"epochs": 12, "batch_size": 16, "width": 12, "blocks": 2, "prototype_steps": 200},
    "universal": {"steps": 30, "batch_size": 16},
    "tha": {"steps": 20, "prototype_steps": 200, "hidden": 128, "feature": 64},
    **{
        name: {"steps": 20}
        for name in (
            "dhta",
            "evolved",
            "p2p",
            "mainstay",
            "sdha",
            "hag",
            "cgat",
            "mainstay-untargeted",
        )
    },
    "sdha-untargeted": {"steps": 20},
    **{
        f"{name}{goal}": {"queries": 100}
        for name in ("nes", "square", "ta-square")
        for goal in ("", "-untargeted")
    },
    **{f"ta-{name}": {"steps": 6} for name in ("apgd", "apgd-untargeted", "apgdt")},
    **{
        f"ta-{name}": {"steps": 6, "step": 0.3}
        for name in ("pgd", "pgd-untargeted", *(f"{kind}fgsm" for kind in MOMENTUM))
    },
}
NAMES = [entry.name for entry in ATTACKS if "image" in entry.build.modalities]
TARGETED = [name for name in NAMES if ATTACKS[name].build.goal == "targeted"]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny tensors on a shared machine: a second thread only waits for the first."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ensemble, "STEPS", 8)  # of every member of autohash, which has no settings
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return few_digits(700, 600, QUERIES)


@pytest.fixture(scope="module")
def victim(data: Dataset) -> HashVictim:
    trained = DPSH(bits=16, image_size=16, epochs=8, batch_size=32).fit(data, seed=0)
    trained.zero_grad(set_to_none=True)
    return trained


@pytest.fixture(scope="module")
def fitted(victim: HashVictim, served: AttackData) -> dict[str, Attack]:
    """Every registered attack, fitted once."""
    return {
        name: ATTACKS.create(name, QUICK.get(name, {})).fit(
            victim, served, ATTACKS[name].build.default_budget, seed=0
        )
        for name in NAMES
    }


def wanted(attack: Attack, targets: Tensor) -> Tensor | None:
    return targets if attack.goal == "targeted" else None


def tmap(codes: HashCodes, targets: Tensor, served: AttackData) -> float:
    scores = retrieval_average_precision(
        codes, served.codes, targets.numpy(), served.labels.numpy()
    )
    return float(scores.mean())


def beats_noise(
    attack: Attack, victim: HashVictim, queries: Batch, targets: Tensor, served: AttackData
) -> bool:
    """Whether t-MAP is above that of uniform noise of the same budget, and of the same L2."""
    budget = UNBOUNDED if math.isinf(attack.default_budget.eps) else Budget("linf", 16 / 255)
    reached = attack.perturb(victim, queries, targets, budget)
    length = Budget("l2", 1.0).distance(queries.inputs["image"], reached.batch.inputs["image"])
    floors = [budget, Budget("l2", max(length.mean().item(), 1e-3))]
    noise = [Noise().perturb(victim, queries, None, floor).codes for floor in floors]
    best = max(tmap(codes, targets, served) for codes in noise)
    return tmap(reached.codes, targets, served) > best + 0.01


class DoNothing(Attack):
    """Returns its input."""

    goal: ClassVar[Goal] = "targeted"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"image"})
    knowledge: ClassVar[Knowledge] = frozenset()

    def run(
        self, victim: HashVictim, batch: Batch, targets: Tensor | None, budget: Budget
    ) -> Tensor:
        return batch.inputs["image"]


# The contract, for every registered attack


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_inside_budget_bounds_and_grid(
    name: str, budget: Budget, fitted: dict[str, Attack], victim: HashVictim, queries: Batch,
    targets: Tensor,
) -> None:  # fmt: skip
    attack = fitted[name]
    if budget.norm not in attack.norms:
        with pytest.raises(UsageError, match=f"expected a budget in .*, got {budget.norm}"):
            attack.perturb(victim, queries, wanted(attack, targets), budget)
        return
    result = attack.perturb(victim, queries, wanted(attack, targets), budget)
    clean, moved = queries.inputs["image"], result.batch.inputs["image"]
    assert moved.shape == clean.shape
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1
    assert bool((result.distance <= budget.eps + 1e-5).all())
    assert torch.allclose(budget.distance(clean, moved), result.distance)
    assert torch.allclose(moved * 255, (moved * 255).round(), atol=1e-3)
    assert np.array_equal(result.codes.words, victim.encode(moved, "image").words)
    assert not torch.equal(clean, moved)


@pytest.mark.parametrize("name", NAMES)
def test_leaves_everything_else_untouched(
    name: str, fitted: dict[str, Attack], victim: HashVictim, queries: Batch, targets: Tensor
) -> None:
    attack = fitted[name]
    inputs = {key: values.clone() for key, values in queries.inputs.items()}
    weights = {key: values.clone() for key, values in victim.state_dict().items()}
    aims = targets.clone()
    victim.train()
    first = next(victim.parameters()).requires_grad_(False)
    torch.manual_seed(5)
    random_state = torch.random.get_rng_state()
    try:
        attack.perturb(victim, queries, wanted(attack, targets), BUDGETS[0])
        assert all(module.training for module in victim.modules())
        flags = [values.requires_grad for values in victim.parameters()]
        assert flags == [False] + [True] * (len(flags) - 1)
    finally:
        victim.eval()
        first.requires_grad_(True)
    assert torch.equal(random_state, torch.random.get_rng_state())
    assert torch.equal(aims, targets)
    assert all(torch.equal(values, queries.inputs[key]) for key, values in inputs.items())
    assert all(torch.equal(values, victim.state_dict()[key]) for key, values in weights.items())
    assert all(values.grad is None for values in victim.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_output(
    name: str, fitted: dict[str, Attack], victim: HashVictim, queries: Batch, targets: Tensor
) -> None:
    attack = fitted[name]

    def once(seed: int) -> Tensor:
        torch.manual_seed(seed + 100)  # the state outside must not matter
        moved = attack.perturb(victim, queries, wanted(attack, targets), BUDGETS[0], seed=seed)
        return moved.batch.inputs["image"]

    assert torch.equal(once(3), once(3))


@pytest.mark.parametrize("name", TARGETED)
def test_beats_noise(
    name: str, fitted: dict[str, Attack], victim: HashVictim, queries: Batch, targets: Tensor,
    served: AttackData,
) -> None:  # fmt: skip
    assert beats_noise(fitted[name], victim, queries, targets, served)


def test_doing_nothing_does_not_beat_noise(
    victim: HashVictim, queries: Batch, targets: Tensor, served: AttackData
) -> None:
    assert not beats_noise(DoNothing(), victim, queries, targets, served)


@pytest.mark.parametrize("name", NAMES)
def test_missing_or_superfluous_targets(
    name: str, fitted: dict[str, Attack], victim: HashVictim, queries: Batch, targets: Tensor
) -> None:
    attack = fitted[name]
    wrong = None if attack.goal == "targeted" else targets
    with pytest.raises(UsageError, match="expected targets only for targeted attacks"):
        attack.perturb(victim, queries, wrong, BUDGETS[0])


class TwoModal(HashVictim):
    """Untrained codes of images and text."""

    def __init__(self) -> None:
        super().__init__()
        self.bits, self.history = 4, []
        self.bounds = {"image": (0.0, 1.0), "text": (0.0, math.inf)}
        self.image, self.text = nn.Linear(3 * 16 * 16, 4), nn.Linear(5, 4)

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        codes: Tensor = (self.image if modality == "image" else self.text)(inputs.flatten(1))
        return codes

    def fit(self, data: Dataset, *, seed: int, progress: object = None) -> TwoModal:  # type: ignore[override]
        return self


@pytest.mark.parametrize("name", NAMES)
def test_wrong_modality(
    name: str, fitted: dict[str, Attack], victim: HashVictim, queries: Batch, targets: Tensor
) -> None:
    attack = fitted[name]
    with pytest.raises(UsageError, match="expected a modality of the victim"):
        attack.perturb(victim, queries, wanted(attack, targets), BUDGETS[0], "text")
    both = Batch({**queries.inputs, "text": torch.ones(QUERIES, 5)}, queries.labels, queries.index)
    with pytest.raises(UsageError, match="expected a query modality"):
        attack.perturb(TwoModal(), both, wanted(attack, targets), BUDGETS[0], "text")


@pytest.mark.parametrize("name", NAMES)
def test_overrun(
    name: str, fitted: dict[str, Attack], victim: HashVictim, queries: Batch, targets: Tensor
) -> None:
    attack = fitted[name]
    overrun = attack.perturb(victim, queries, wanted(attack, targets), BUDGETS[0]).overrun
    if math.isinf(attack.default_budget.eps):  # no bound as published
        assert float(overrun.min()) > 0
    else:
        assert float(overrun.max()) == 0


@pytest.mark.parametrize("name", TARGETED)
def test_before_fit(name: str, victim: HashVictim, queries: Batch, targets: Tensor) -> None:
    with pytest.raises(UsageError, match="fit"):
        ATTACKS.create(name).perturb(victim, queries, targets, BUDGETS[0])


@pytest.mark.parametrize("name", NAMES)
def test_card_is_filled_in(name: str) -> None:
    entry = ATTACKS[name]
    assert entry.source
    assert entry.summary
    assert entry.source == "control" or entry.deviations
    for preset in entry.presets:
        ATTACKS.create(name, {"preset": preset})


# Anchors


def tiny(codes: Tensor, labels: list[list[int]]) -> AttackData:
    """A database of given codes and labels."""
    marks = torch.tensor(labels, dtype=torch.uint8)
    split = Split({"image": torch.zeros(len(marks), 3, 4, 4, dtype=torch.uint8)}, marks)
    rows = torch.arange(len(marks))
    names = tuple(str(label) for label in range(marks.shape[1]))
    dataset = Dataset("tiny", {}, split, rows, split, split, names)
    return AttackData(dataset, HashCodes.pack(codes.numpy() > 0), "image", "image")


def signs(rows: int, bits: int = 8, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.where(torch.rand(rows, bits, generator=generator) > 0.5, 1.0, -1.0)


def test_candidates_are_the_exact_matches_or_else_the_nearest_sets() -> None:
    labels = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 1]])
    assert candidate_rows(labels, torch.tensor([1, 0, 0])).tolist() == [0, 2]
    assert candidate_rows(labels, torch.tensor([1, 1, 0])).tolist() == [1]
    # no row has {0,2}: the row that shares both, not those that share one
    assert candidate_rows(labels, torch.tensor([1, 0, 1])).tolist() == [3]
    # no row has {1}: of the rows that share it, the one with fewest other labels
    assert candidate_rows(labels, torch.tensor([0, 1, 0])).tolist() == [1]
    with pytest.raises(DataError, match="shares a label"):
        candidate_rows(labels[:3], torch.tensor([0, 0, 1]))


def test_majority_anchor_against_a_loop() -> None:
    codes = signs(9)
    data = tiny(codes, [[1, 0]] * 4 + [[0, 1]] * 5)
    targets = torch.tensor([[1, 0], [0, 1]], dtype=torch.uint8)
    found = anchor_codes("majority", TwoModal(), data, targets)
    for row, members in enumerate((range(4), range(4, 9))):
        for bit in range(8):
            total = sum(float(codes[member, bit]) for member in members)
            assert float(found[row, bit]) == (1.0 if total > 0 else -1.0)  # a tie is −1


def test_p2p_anchor_is_one_code_of_the_target() -> None:
    codes = signs(9)
    data = tiny(codes, [[1, 0]] * 4 + [[0, 1]] * 5)
    target = torch.tensor([[1, 0]], dtype=torch.uint8)
    drawn = {
        tuple(anchor_codes("p2p", TwoModal(), data, target, seed=seed)[0].tolist())
        for seed in range(20)
    }
    assert drawn <= {tuple(code) for code in codes[:4].tolist()}
    assert len(drawn) > 1


def test_dhta_draws_without_replacement() -> None:
    """Every draw of exactly 9 candidates is all of them, hence their majority."""
    data = tiny(signs(12), [[1, 0]] * 9 + [[0, 1]] * 3)
    target = torch.tensor([[1, 0]], dtype=torch.uint8)
    majority = anchor_codes("majority", TwoModal(), data, target)
    for seed in range(20):
        assert torch.equal(anchor_codes("dhta", TwoModal(), data, target, seed=seed), majority)


@pytest.mark.parametrize("name", ANCHORS)
def test_anchors_are_signs_of_the_right_class(
    name: str, victim: HashVictim, served: AttackData
) -> None:
    sets = label_sets(served.labels)
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    codes = anchor_codes(name, victim, served, sets, seed=2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(codes, anchor_codes(name, victim, served, sets, seed=2))
    assert codes.shape == (len(sets), victim.bits)
    assert bool((codes.abs() == 1).all())
    assert tmap(HashCodes.from_relaxed(codes), sets, served) > 0.4  # chance is 0.1


def test_rare_bits_tell_a_class_that_no_majority_tells() -> None:
    """As features after a ReLU: no bit is 1 in most rows of any class."""
    draw = np.random.default_rng(0)
    labels = np.eye(4, dtype=np.uint8)[np.arange(400) % 4]
    shares = np.where(np.repeat(np.eye(4), 32, axis=1), 0.4, 0.1)  # of each class, of 128 bits
    bits = draw.random((400, 128)) < labels @ shares
    data = tiny(torch.from_numpy(np.where(bits, 1.0, -1.0)), labels.tolist())
    sets = torch.eye(4, dtype=torch.uint8)
    reached = {
        name: tmap(HashCodes.from_relaxed(anchor_codes(name, TwoModal(), data, sets)), sets, data)
        for name in ("centre", "majority")
    }
    assert reached["centre"] > 0.95
    assert reached["majority"] < 0.4  # chance is 0.25


def test_unknown_anchor(victim: HashVictim, served: AttackData) -> None:
    with pytest.raises(UnknownName, match="did you mean 'dhta'"):
        anchor_codes("dhtta", victim, served, served.labels[:1])


def test_prototype_net_learns(served: AttackData) -> None:
    torch.manual_seed(0)
    losses: list[float] = []
    fit_prototype(
        served, hidden=64, feature=32, steps=120, report=lambda _, loss: losses.append(loss)
    )
    assert losses[-1] < losses[0] - 0.2


# Objectives


def test_objectives_against_loops() -> None:
    torch.manual_seed(0)
    relaxed, goal = torch.randn(3, 5), signs(3, 5)
    scale = torch.tensor([[0.5], [1.0], [2.0]])
    codes = soft_code(relaxed, 0.7, scale)
    pairs = [(row, bit) for row in range(3) for bit in range(5)]
    for row, bit in pairs:
        expected = math.tanh(0.7 * float(relaxed[row, bit]) / float(scale[row]))
        assert float(codes[row, bit]) == pytest.approx(expected, abs=1e-6)
    products = {(row, bit): float(codes[row, bit] * goal[row, bit]) for row, bit in pairs}
    for row in range(3):
        expected = -sum(products[row, bit] for bit in range(5)) / 5
        assert float(similarity(codes, goal)[row]) == pytest.approx(expected, abs=1e-6)
    expected = sum(1 - product for product in products.values()) / 15
    assert float(hash_term(codes, goal)) == pytest.approx(expected, abs=1e-6)
    expected = sum((1 - product) ** 2 for product in products.values()) / 15
    assert float(hash_term_tmm(codes, goal)) == pytest.approx(expected, abs=1e-6)


def test_image_objectives_against_loops() -> None:
    torch.manual_seed(0)
    first, second = torch.rand(2, 3, 2, 2), torch.rand(2, 3, 2, 2)
    gaps = zip(first.flatten().tolist(), second.flatten().tolist(), strict=True)
    expected = sum(((2 * a - 1) - (2 * b - 1)) ** 2 for a, b in gaps) / 24
    assert float(reconstruction(first, second)) == pytest.approx(expected, abs=1e-6)
    scores, labels = torch.randn(2, 4), torch.tensor([[1, 0, 1], [0, 1, 0]], dtype=torch.uint8)
    for real, flag in ((True, 0.0), (False, 1.0)):
        truth = [[*row, flag] for row in labels.tolist()]
        expected = sum(
            (float(scores[row, column]) - truth[row][column]) ** 2
            for row in range(2)
            for column in range(4)
        )
        assert float(lsgan(scores, labels, real=real)) == pytest.approx(expected / 8, abs=1e-6)


def test_prototype_loss_against_a_loop() -> None:
    torch.manual_seed(0)
    codes, predicted, database = torch.tanh(torch.randn(2, 4)), torch.rand(2, 3), signs(5, 4)
    wanted = torch.tensor([[1, 0, 0], [0, 1, 1]])
    similar = (torch.rand(2, 5) > 0.5).float()
    likelihood = 0.0
    for row in range(2):
        for other in range(5):
            theta = sum(float(codes[row, k] * database[other, k]) for k in range(4)) / 2
            likelihood += float(similar[row, other]) * theta - math.log(1 + math.exp(theta))
    labels = sum(
        (float(predicted[row, c]) - float(wanted[row, c])) ** 2
        for row in range(2)
        for c in range(3)
    )
    gap = sum((math.copysign(1, float(code)) - float(code)) ** 2 for code in codes.flatten())
    expected = -likelihood / 10 + labels / 6 + gap / (1e4 * 2)
    found = prototype_loss(codes, predicted, wanted, database, similar)
    assert float(found) == pytest.approx(expected, abs=1e-5)


# Gradient attacks


def test_step_rules_by_hand() -> None:
    start, gradient = torch.zeros(1, 1, 1, 2), torch.tensor([[[[3.0, -4.0]]]])
    assert stepped(start, gradient, "sign", 0.1).flatten().tolist() == pytest.approx([-0.1, 0.1])
    assert stepped(start, gradient, "l2", 0.5).flatten().tolist() == pytest.approx([-0.3, 0.4])
    assert step_length(0.1, "sign", UNBOUNDED, 9) == pytest.approx(3.2 / 255)
    assert step_length(0.1, "l2", Budget("l2", 2.0), 9) == pytest.approx(0.2)
    assert step_length(0.1, "sign", Budget("l2", 3.0), 9) == pytest.approx(0.1)
    assert step_length(1, "l2", Budget("linf", 0.1), 9) == pytest.approx(0.3)


class Linear(HashVictim):
    """Two bits: the sums of the first and of the second half of the pixels, less a threshold."""

    def __init__(self) -> None:
        super().__init__()
        self.bits, self.bounds, self.history = 2, {"image": (0.0, 1.0)}, []
        self.threshold = nn.Parameter(torch.tensor([0.55, 0.45]))
        self.seen: list[Tensor] = []

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        self.seen.append(inputs.detach().clone())
        return inputs.flatten(1).unflatten(1, (2, -1)).mean(dim=2) - self.threshold

    def fit(self, data: Dataset, *, seed: int, progress: object = None) -> Linear:  # type: ignore[override]
        return self


def linear_scene(steps: int, step: float) -> tuple[Linear, Perturbed]:
    """Grey images, code (−1,1), toward (1,−1)."""
    data = tiny(torch.tensor([[1.0, -1.0]]), [[1]])
    victim = Linear()
    batch = Batch(
        {"image": torch.full((3, 3, 4, 4), 128 / 255)}, torch.zeros(3, 1), torch.arange(3)
    )
    attack = P2P(steps=steps, step=step).fit(victim, data, BUDGETS[0])
    return victim, attack.perturb(victim, batch, torch.ones(3, 1), Budget("linf", 20 / 255))


def test_one_step_against_the_hand_computed_one() -> None:
    """Toward (1,−1) the first half rises and the second falls, by a quarter of 20/255."""
    _, result = linear_scene(steps=1, step=0.25)
    moved = result.batch.inputs["image"][0].flatten() * 255
    assert moved[:24].tolist() == pytest.approx([133.0] * 24)
    assert moved[24:].tolist() == pytest.approx([123.0] * 24)


def test_rests_once_the_code_is_the_anchor() -> None:
    victim, result = linear_scene(steps=50, step=0.25)
    assert result.codes.signs().tolist() == [[1.0, -1.0]] * 3
    # 128/255 ± 15/255 passes both thresholds: three steps of 5/255
    assert result.distance.tolist() == pytest.approx([15 / 255] * 3)
    assert len(victim.seen) == 6  # scale, four looks, and the harness


@pytest.mark.parametrize("budget", [*BUDGETS, UNBOUNDED], ids=str)
def test_the_best_iterate_is_returned_not_a_stale_one(
    budget: Budget, victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The returned image was looked at, and none that was looked at has fewer wrong bits."""
    attack = DHTA(steps=6).fit(victim, served, budget)
    anchors = anchor_codes("majority", victim, served, targets[:1])
    monkeypatch.setattr(attack, "anchors", lambda targets: anchors)
    seen: list[Tensor] = []
    relax = victim.relax

    def watched(inputs: Tensor, modality: Modality) -> Tensor:
        seen.append(inputs.detach().clone())
        return relax(inputs, modality)

    one = Batch({"image": queries.inputs["image"][:1]}, queries.labels[:1], queries.index[:1])
    monkeypatch.setattr(victim, "relax", watched)
    result = attack.perturb(victim, one, targets[:1], budget)
    monkeypatch.setattr(victim, "relax", relax)

    def wrong(images: Tensor) -> int:
        return int((victim.encode(images, "image").signs() != anchors.numpy()).sum())

    looked = seen[1:-1]  # without the look at the scale and the harness's own
    moved = result.batch.inputs["image"]
    assert any(torch.allclose(moved, image, atol=1e-6) for image in looked)
    assert wrong(moved) == min(wrong(image) for image in looked)


def test_dhta_reaches_its_anchor(
    victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    attack = DHTA().fit(victim, served, BUDGETS[0])
    result = attack.perturb(victim, queries, targets, Budget("linf", 32 / 255))
    majority = anchor_codes("majority", victim, served, targets)
    ceiling = tmap(HashCodes.from_relaxed(majority), targets, served)
    assert tmap(result.codes, targets, served) > ceiling - 0.1


def test_unbounded_scale_of_codes_does_not_stop_the_gradient(
    victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Codes a thousand times larger: the same images, since α works on their mean size."""
    attack = DHTA(steps=8).fit(victim, served, BUDGETS[0])
    plain = attack.perturb(victim, queries, targets, BUDGETS[0])
    relax = victim.relax
    monkeypatch.setattr(victim, "relax", lambda inputs, modality: 1024 * relax(inputs, modality))
    large = attack.perturb(victim, queries, targets, BUDGETS[0])
    change = (plain.batch.inputs["image"] != large.batch.inputs["image"]).float().mean()
    assert float(change) < 0.02


def test_gradient_attacks_refuse_l0(
    fitted: dict[str, Attack], victim: HashVictim, queries: Batch, targets: Tensor
) -> None:
    for name in ("dhta", "p2p"):
        with pytest.raises(UsageError, match="l0"):
            fitted[name].perturb(victim, queries, targets, Budget("l0", 5))


# ProS-GAN


@pytest.fixture
def small() -> ProSGAN:
    return ProSGAN(epochs=1, batch_size=60, width=8, blocks=0, prototype_steps=5, hidden=32)


def test_discriminator_is_updated_at_every_third_step(
    small: ProSGAN, victim: HashVictim, served: AttackData, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks: list[str] = []
    descend = prosgan.descend

    def watched(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
        last = optimiser.param_groups[0]["params"][-1]
        before = last.detach().clone()
        descend(optimiser, loss)
        assert not torch.equal(before, last)
        networks.append("G" if last.shape[0] == 12 else "D")  # 3·2² channels, or 11 outputs

    monkeypatch.setattr(prosgan, "descend", watched)
    small.fit(victim, served, UNBOUNDED)
    assert "".join(networks) == "DGGGDGGGDGGGDG"  # 600 rows in 10 steps


def test_without_discriminator(victim: HashVictim, served: AttackData) -> None:
    attack = ProSGAN(
        epochs=1, width=8, blocks=0, prototype_steps=5, hidden=32, discriminator=False
    ).fit(victim, served, UNBOUNDED)
    assert "gan" not in attack.history[-1]
    assert "hash" in attack.history[-1]


@pytest.mark.parametrize("prototype", ["prototype", "majority"])
def test_state_round_trip(
    prototype: Any, victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    settings: dict[str, Any] = {
        "epochs": 1, "width": 8, "blocks": 1, "prototype_steps": 5, "prototype": prototype
    }  # fmt: skip
    attack = ProSGAN(**settings).fit(victim, served, UNBOUNDED)
    state = attack.state()
    assert all(values.is_contiguous() and not values.requires_grad for values in state.values())
    again = ProSGAN(**settings).restore(victim, served, state)
    first = attack.perturb(victim, queries, targets, UNBOUNDED).batch.inputs["image"]
    second = again.perturb(victim, queries, targets, UNBOUNDED).batch.inputs["image"]
    assert torch.equal(first, second)
    refit = ProSGAN(**settings).fit(victim, served, UNBOUNDED)
    assert all(torch.equal(values, refit.state()[name]) for name, values in state.items())


def test_training_improves_on_the_initial_generator(
    fitted: dict[str, Attack], victim: HashVictim, served: AttackData, queries: Batch,
    targets: Tensor,
) -> None:  # fmt: skip
    trained = fitted["prosgan"].perturb(victim, queries, targets, UNBOUNDED)
    initial = ProSGAN(**{**QUICK["prosgan"], "epochs": 1, "learning_rate": 0.0})
    initial.fit(victim, served, UNBOUNDED)
    untrained = initial.perturb(victim, queries, targets, UNBOUNDED)
    assert tmap(trained.codes, targets, served) > tmap(untrained.codes, targets, served) + 0.2


def test_history(fitted: dict[str, Attack]) -> None:
    history = fitted["prosgan"].history
    assert {row["phase"] for row in history} == {"prototype", "generator"}
    rows = [row for row in history if row["phase"] == "generator"]
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    assert {"gan", "hash", "reconstruction", "discriminator", "validation_tmap"} <= set(rows[-1])
    assert rows[-1]["hash"] < rows[0]["hash"]  # type: ignore[operator]


@pytest.mark.parametrize("size", [16, 21, 32])
def test_networks_take_any_size(size: int) -> None:
    generator = Generator(7, size, width=4, downs=1, blocks=1, lifts=2, shrink=2, residual=True)
    images = torch.rand(2, 3, size, size)
    assert torch.allclose(generator(images, torch.randn(2, 7)), images, atol=1e-6)  # 0 at first
    assert Discriminator(5, size, width=4, depth=5)(images).shape == (2, 6)


def test_paper_preset_has_the_published_networks() -> None:
    attack = ATTACKS.create("prosgan", {"preset": "paper"})
    generator = Generator(512, 224, width=64, downs=2, blocks=6, lifts=4, shrink=1, residual=False)
    assert (attack.width, attack.downs, attack.blocks, attack.lifts) == (64, 2, 6, 4)
    assert generator.start == (128, 14, 14)
    assert (attack.hidden, attack.feature, attack.prototype_steps) == (4096, 512, 30_000)
    assert (attack.epochs, attack.batch_size, attack.learning_rate) == (100, 24, 1e-4)


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="rec_warmup"):
        ATTACKS.create("prosgan", {"rec_warmup": 2.0})
    with pytest.raises(ConfigError, match="steps"):
        ATTACKS.create("dhta", {"steps": 0})
    with pytest.raises(ConfigError, match="candidates"):
        ATTACKS.create("blend", {"candidates": 0})


# Baselines


def test_noise_fills_its_budget(victim: HashVictim) -> None:
    grey = Batch(
        {"image": torch.full((4, 3, 16, 16), 128 / 255)}, torch.zeros(4, 10), torch.arange(4)
    )
    for budget in BUDGETS:
        distance = Noise().perturb(victim, grey, None, budget, eight_bit=False).distance
        assert bool((distance > 0.95 * budget.eps).all())


def test_unbounded_blend_is_an_image_of_the_target(
    fitted: dict[str, Attack], victim: HashVictim, served: AttackData, queries: Batch,
    targets: Tensor,
) -> None:  # fmt: skip
    result = fitted["blend"].perturb(victim, queries, targets, UNBOUNDED)
    stored = served.dataset.database.inputs["image"].float() / 255
    for moved, target in zip(result.batch.inputs["image"], targets, strict=True):
        same = ((stored - moved).abs().flatten(1).amax(dim=1) < 1e-6).nonzero().flatten()
        assert len(same)
        assert torch.equal(served.labels[same[0]], target)
    assert tmap(result.codes, targets, served) > 0.8


def test_blend_keeps_the_best_of_its_candidates(
    victim: HashVictim, served: AttackData, queries: Batch, targets: Tensor
) -> None:
    """More candidates, never a lower precision."""
    scores = []
    for candidates in (1, 20):
        attack = Blend(candidates=candidates).fit(victim, served, BUDGETS[1])
        scores.append(
            tmap(attack.perturb(victim, queries, targets, Budget("l2", 3)).codes, targets, served)
        )
    assert scores[0] <= scores[1] + 1e-6
