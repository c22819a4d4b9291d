"""The torchattacks bridge: heads against loops, its PGD against ours, every entry of the lists."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
import torchattacks
from torch import Tensor, nn
from untrained import Untrained, drawn

from advhash.attacks.base import Attack, AttackData, frozen
from advhash.attacks.bridge.heads import AnchorHead, CodeHead, PrototypeHead, own_codes
from advhash.attacks.bridge.torchattacks_bridge import load_torchattacks
from advhash.attacks.gradient.objectives import similarity, soft_code
from advhash.attacks.gradient.steps import stepped
from advhash.budget import Budget
from advhash.codes import HashCodes
from advhash.data import Batch, Dataset, Modality, Split
from advhash.errors import ConfigError, UsageError
from advhash.registry import ATTACKS
from advhash.victims.perceptual.hashes import DHash

LINF, L2 = Budget("linf", 8 / 255), Budget("l2", 1.0)
NAMES = [entry.name for entry in ATTACKS if entry.name.startswith("ta-")]
BITS, CLASSES = 12, 5


class Small(Untrained):
    def __init__(self) -> None:
        layers = nn.Conv2d(3, 8, 5, padding=2), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 256, BITS)
        super().__init__(nn.Sequential(*layers), BITS)


class Flat(Small):
    """Its code does not depend on the image, though a gradient (of 0) comes back."""

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        return 0 * super().relax(inputs, modality) + torch.linspace(-1, 1, BITS)


@pytest.fixture(scope="module")
def victim() -> Small:
    return drawn(Small)


@pytest.fixture(scope="module")
def queries() -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = (torch.rand(6, 3, 16, 16, generator=generator) * 255).round() / 255
    return Batch({"image": images}, torch.eye(CLASSES)[[0, 1, 2, 3, 4, 0]], torch.arange(6))


def database(classes: int) -> AttackData:
    """Random codes, 4 rows a class, each class around a code of its own."""
    generator = torch.Generator().manual_seed(2)
    centres = torch.where(torch.rand(classes, BITS, generator=generator) > 0.5, 1.0, -1.0)
    labels = torch.eye(classes, dtype=torch.uint8).repeat(4, 1)
    split = Split({"image": torch.zeros(len(labels), 3, 16, 16, dtype=torch.uint8)}, labels)
    names = tuple(str(number) for number in range(classes))
    dataset = Dataset("tiny", {}, split, torch.arange(len(labels)), split, split, names)
    return AttackData(dataset, HashCodes.pack(centres.repeat(4, 1).numpy() > 0), "image", "image")


@pytest.fixture(scope="module")
def served() -> AttackData:
    return database(CLASSES)


TARGETS = torch.eye(CLASSES, dtype=torch.uint8)[[1, 2, 3, 4, 0, 2]]


def aims(attack: Attack, rows: int = 6) -> Tensor | None:
    return TARGETS[:rows] if attack.goal == "targeted" else None


def built(name: str) -> Any:
    """Quick settings."""
    fields = ATTACKS[name].model.model_fields
    quick = {"steps": 8, "step": 0.25, "queries": 150}
    return ATTACKS.create(name, {key: quick[key] for key in quick if key in fields})


# The heads


def test_heads_against_loops(victim: Small, queries: Batch) -> None:
    images, alpha = queries.inputs["image"], 0.7
    generator = torch.Generator().manual_seed(3)
    goals = torch.where(torch.rand(6, BITS, generator=generator) > 0.5, 1.0, -1.0)
    with torch.no_grad():
        relaxed = victim.relax(images, "image")
        anchor = AnchorHead(victim, images, goals, alpha)(images)
        binary = CodeHead(victim, goals)(images)
        prototype = PrototypeHead(victim, images, goals[:4], alpha)(images)
    sizes = [sum(abs(float(u)) for u in row) / BITS for row in relaxed]
    for row in range(6):
        soft = [float(torch.tanh(alpha * u / sizes[row])) for u in relaxed[row]]
        agreement = sum(h * float(g) for h, g in zip(soft, goals[row], strict=True)) / BITS
        assert anchor[row].tolist() == pytest.approx([agreement, -agreement], abs=1e-5)
        bits = sum(
            (1 if u > 0 else -1) * float(g) for u, g in zip(relaxed[row], goals[row], strict=True)
        )
        assert binary[row].tolist() == pytest.approx([bits / BITS - 2, 2 - bits / BITS], abs=1e-5)
        soft = [float(torch.tanh(alpha * u / (sum(sizes) / 6))) for u in relaxed[row]]
        for column in range(4):
            expected = sum(h * float(g) for h, g in zip(soft, goals[column], strict=True)) / BITS
            assert float(prototype[row, column]) == pytest.approx(expected, abs=1e-5)


def test_a_code_head_never_changes_its_class(victim: Small, queries: Batch) -> None:
    """Square would drop such images, and put the others to their neighbours' goals."""
    images = queries.inputs["image"]
    own = own_codes(victim, images)
    for goals in (own, -own):
        assert CodeHead(victim, goals)(images).argmax(dim=1).tolist() == [1] * 6


# Its PGD is ours


@pytest.mark.parametrize("budget", [LINF, L2], ids=str)
@pytest.mark.parametrize("name", ["ta-pgd", "ta-pgd-untargeted"])
def test_pgd_is_bit_identical_to_ours_on_the_same_loss(
    name: str, budget: Budget, victim: Small, served: AttackData, queries: Batch
) -> None:
    """Float pixels, no random start, equal steps. In L2 the norms are summed in another order."""
    clean, steps = queries.inputs["image"], 20
    attack = ATTACKS.create(name, {"steps": steps, "step": 0.2}).fit(victim, served, budget)
    own = own_codes(victim, clean)
    goals = attack.goals(own, aims(attack))
    assert not torch.equal(goals, own)
    with frozen(victim):
        theirs = attack.run(victim, queries, aims(attack), budget)
        with torch.no_grad():
            scale = victim.relax(clean, "image").abs().mean(dim=1, keepdim=True)
        moved = clean.clone()
        for _ in range(steps):
            image = moved.clone().requires_grad_()
            loss = similarity(soft_code(victim.relax(image, "image"), 1.0, scale), goals).sum()
            (gradient,) = torch.autograd.grad(loss, image)
            rule = "sign" if budget.norm == "linf" else "l2"
            moved = stepped(moved, gradient, rule, 0.2 * budget.eps)  # type: ignore[arg-type]
            moved = budget.project(clean, moved, (0.0, 1.0))
    assert float(budget.distance(clean, moved).min()) > 0.9 * budget.eps
    if budget.norm == "linf":
        assert torch.equal(theirs, moved)
    else:
        assert torch.allclose(theirs, moved, atol=2e-5)


# Every entry of the lists


@pytest.mark.parametrize("name", NAMES)
def test_every_image_comes_nearer_to_its_own_goal(
    name: str, victim: Small, served: AttackData, queries: Batch
) -> None:
    """To its own, not to a neighbour's: an attack that cut the batch would mix them up."""
    clean = queries.inputs["image"]
    for budget in (LINF, L2):
        attack = built(name).fit(victim, served, budget)
        if budget.norm not in attack.norms:
            continue
        result = attack.perturb(victim, queries, aims(attack), budget)
        moved = own_codes(victim, result.batch.inputs["image"])
        before = own_codes(victim, clean)
        if name == "ta-apgdt":
            prototypes = attack.prototypes()
            first, last = before @ prototypes.T, moved @ prototypes.T
            left = first.argmax(dim=1) != last.argmax(dim=1)
            assert int(left.sum()) >= 4
            continue
        goals = attack.goals(before, aims(attack))
        weak = ("square", "tifgsm", "difgsm")  # random, and made for transfer of natural images
        drawn = any(kind in name for kind in weak)
        codes = [moved]
        for seed in range(1, 4) if drawn else ():  # of one seed, square gains from 0 to 6 bits
            found = attack.perturb(victim, queries, aims(attack), budget, seed=seed)
            codes.append(own_codes(victim, found.batch.inputs["image"]))
        gained = sum(((one != before) & (one == goals)).sum(dim=1) for one in codes)
        lost = sum(((one != before) & (one != goals)).sum(dim=1) for one in codes)
        assert int((gained - lost).sum()) >= (6 if drawn else 15), (gained, lost)
        assert bool((gained + drawn >= lost).all())  # rounding may take a bit in four runs


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_one(name: str, victim: Small, served: AttackData, queries: Batch) -> None:
    one = queries.inputs["image"][:1]
    batch = Batch({"image": one}, queries.labels[:1], queries.index[:1])
    attack = built(name).fit(victim, served, LINF)
    moved = attack.perturb(victim, batch, aims(attack, 1), LINF).batch.inputs["image"]
    assert not torch.equal(moved, one)
    assert attack.indicators()["unmoved"] == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_printed_and_nothing_changes(
    name: str, victim: Small, served: AttackData, queries: Batch, capsys: pytest.CaptureFixture[str]
) -> None:
    attack = built(name).fit(victim, served, LINF)
    victim.train()
    try:
        attack.perturb(victim, queries, aims(attack), LINF)
        assert all(module.training for module in victim.modules())
    finally:
        victim.eval()
    assert all(value.grad is None and value.requires_grad for value in victim.parameters())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", NAMES)
def test_the_victim_stays_evaluated_for_what_comes_after_in_the_same_attack(
    name: str, victim: Small, served: AttackData, queries: Batch
) -> None:
    """torchattacks calls `train` on a model that was not in eval mode when it came."""
    attack = built(name).fit(victim, served, LINF)
    with frozen(victim):
        attack.run(victim, queries, aims(attack), LINF)
        assert not any(module.training for module in victim.modules())


def test_a_query_equal_to_its_target(victim: Small, served: AttackData, queries: Batch) -> None:
    """Its own code is the anchor already: the attack has nothing to reach and still works."""
    own = own_codes(victim, queries.inputs["image"])[:1]
    data = AttackData(
        served.dataset, HashCodes.pack(own.repeat(20, 1).numpy() > 0), "image", "image"
    )
    batch = Batch({"image": queries.inputs["image"][:1]}, TARGETS[:1], queries.index[:1])
    attack = built("ta-pgd").fit(victim, data, LINF)
    result = attack.perturb(victim, batch, TARGETS[:1], LINF)
    assert torch.equal(torch.from_numpy(result.codes.signs()), own)


# Traps of the package


def test_apgd_moves_images_that_agree_with_half_of_the_goal_already(
    victim: Small, served: AttackData, queries: Batch
) -> None:
    """torchattacks' plain call returns them untouched: to it they are fooled already."""
    clean = queries.inputs["image"]
    goals = own_codes(victim, clean)
    goals[:, :3] *= -1  # 9 of 12 bits agree
    head = AnchorHead(victim, clean, goals, 1.0)
    with frozen(victim):
        plain = torchattacks.APGD(head, steps=8)(clean, torch.ones(6, dtype=torch.long))
    assert torch.equal(plain, clean)
    attack = built("ta-apgd").fit(victim, served, LINF)
    attack.goals = lambda own, targets: goals
    moved = attack.perturb(victim, queries, TARGETS, LINF)
    wrong = (torch.from_numpy(moved.codes.signs()) != goals).sum(dim=1)
    assert attack.indicators() == {"unmoved": 0.0}
    assert bool((wrong < 3).all())


def test_a_gradient_of_zero_leaves_the_image_as_it_was(served: AttackData, queries: Batch) -> None:
    """MI-FGSM divides by the mean of |gradient|, hence by 0; the figure says so."""
    flat = Flat()
    for name in ("ta-mifgsm", "ta-pgd"):
        attack = built(name).fit(flat, served, LINF)
        moved = attack.perturb(flat, queries, TARGETS, LINF).batch.inputs["image"]
        assert torch.equal(moved, queries.inputs["image"])
        assert attack.indicators() == {"unmoved": 1.0}


def test_square_spends_its_queries_and_no_more(
    victim: Small, served: AttackData, queries: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    relax = victim.relax

    def watched(inputs: Tensor, modality: Modality) -> Tensor:
        assert not torch.is_grad_enabled()
        looks.append(len(inputs))
        return relax(inputs, modality)

    attack = ATTACKS.create("ta-square", {"queries": 40}).fit(victim, served, LINF)
    monkeypatch.setattr(victim, "relax", watched)
    attack.perturb(victim, queries, TARGETS, LINF)
    assert looks[:-1] == [6] * 40  # the last is the harness's
    assert attack.indicators()["queries_per_image"] == 40


# What it refuses


def test_without_torchattacks_the_error_says_how_to_install_it(
    victim: Small, served: AttackData, queries: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load_torchattacks() is torchattacks
    monkeypatch.setitem(sys.modules, "torchattacks", None)
    attack = built("ta-pgd").fit(victim, served, LINF)
    with pytest.raises(UsageError, match=r"pip install --no-deps torchattacks==3\.5\.1"):
        attack.perturb(victim, queries, TARGETS, LINF)


def test_a_victim_without_gradients(served: AttackData, queries: Batch) -> None:
    """Square needs codes only. This hash has no parameters, of which the device is taken."""
    hash_ = DHash(bits=64)
    hash_.differentiable = False
    for name in NAMES:
        attack = built(name)
        if "gradients" in attack.knowledge:
            with pytest.raises(UsageError, match="nes, square"):
                attack.perturb(hash_, queries, aims(attack), LINF)
    attack = built("ta-square-untargeted")
    result = attack.perturb(hash_, queries, None, LINF)
    own = own_codes(hash_, queries.inputs["image"])
    assert bool((torch.from_numpy(result.codes.signs()) != own).any())


def test_prototypes_are_the_majority_of_each_class(served: AttackData) -> None:
    attack = built("ta-apgdt")
    with pytest.raises(UsageError, match="call fit"):
        attack.prototypes()
    attack.fit(Small(), served, LINF)
    signs = served.codes.signs()
    for label, prototype in enumerate(attack.prototypes()):
        rows = [row for row in range(20) if int(served.labels[row, label])]
        for bit in range(BITS):
            assert float(prototype[bit]) == (
                1.0 if sum(signs[row, bit] for row in rows) > 0 else -1.0
            )


def test_too_few_classes(victim: Small, queries: Batch) -> None:
    attack = built("ta-apgdt").fit(victim, database(3), LINF)
    with pytest.raises(UsageError, match="at least 4 classes in the database, got 3"):
        attack.perturb(victim, queries, None, LINF)


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_checked(name: str) -> None:
    for field in ("steps", "step", "alpha", "queries"):
        if field in ATTACKS[name].model.model_fields:
            with pytest.raises(ConfigError, match=field):
                ATTACKS.create(name, {field: 0})
