"""The gradient family: every formula against an explicit loop, options, bad input, indicators."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from attack_scene import Projection, Scene
from torch import Tensor

from advhash.attacks.base import Attack, Perturbed
from advhash.attacks.gradient.anchors import centre_codes, relevant_codes
from advhash.attacks.gradient.descent import GradientAttack
from advhash.attacks.gradient.hiding import HAG
from advhash.attacks.gradient.objectives import (
    circle_loss,
    hamming_hiding,
    ranking_precision,
    surrogate_distance,
    unsettled,
)
from advhash.attacks.gradient.steps import Stepper, diversified, random_point, step_length
from advhash.attacks.gradient.targeted import DHTA, THA
from advhash.budget import Budget
from advhash.chance import Chance
from advhash.codes.metrics import chance_average_precision, retrieval_average_precision
from advhash.data import Batch, Modality
from advhash.errors import ConfigError, DataError, UsageError
from advhash.registry import ATTACKS

BALL = Budget("linf", 16 / 255)
TARGETED = ("p2p", "dhta", "tha", "sdha", "mainstay")
UNTARGETED = ("hag", "cgat", "sdha-untargeted", "mainstay-untargeted")
NAMES = (*TARGETED, *UNTARGETED)
QUICK: dict[str, dict[str, Any]] = {"tha": {"prototype_steps": 250, "hidden": 64, "feature": 32}}


def soft(rows: int, bits: int = 6, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.tanh(torch.randn(rows, bits, generator=generator))


def signs(rows: int, bits: int = 6, seed: int = 1) -> Tensor:
    return torch.where(soft(rows, bits, seed) > 0, 1.0, -1.0)


def made(name: str, scene: Scene, **settings: Any) -> GradientAttack:
    attack = ATTACKS.create(name, {"steps": 15, **QUICK.get(name, {}), **settings})
    assert isinstance(attack, GradientAttack)
    return attack.fit(scene.victim, scene.data, BALL)


def attacked(attack: Attack, scene: Scene, seed: int = 0, budget: Budget = BALL) -> Perturbed:
    targets = scene.targets if attack.goal == "targeted" else None
    return attack.perturb(scene.victim, scene.queries, targets, budget, seed=seed)


def precision(result: Perturbed, labels: Tensor, scene: Scene) -> float:
    found = retrieval_average_precision(
        result.codes, scene.data.codes, labels.numpy(), scene.data.labels.numpy()
    )
    return float(found.mean())


# Formulas


def test_hag_against_a_loop() -> None:
    codes, own = soft(3), soft(3, seed=4)
    for row in range(3):
        open_bits = [
            bit
            for bit in range(6)
            if abs(float(codes[row, bit]) - math.copysign(1, float(own[row, bit]))) < 1.5
        ]
        inner = sum(float(codes[row, bit] * own[row, bit]) for bit in open_bits)
        mean = sum(float(codes[row, bit]) for bit in open_bits) / 6
        expected = (inner / len(open_bits) + 1) ** 2 + 0.5 * mean**2
        found = hamming_hiding(codes, own, weight=0.5)[row]
        assert float(found) == pytest.approx(expected, abs=1e-5)


def test_hag_leaves_flipped_bits_alone() -> None:
    own, codes = torch.tensor([[0.9, 0.9]]), torch.tensor([[-0.9, 0.3]], requires_grad=True)
    (gradient,) = torch.autograd.grad(hamming_hiding(codes, own, weight=0).sum(), codes)
    assert float(gradient[0, 0]) == 0
    assert float(gradient[0, 1]) > 0


def test_mainstay_against_a_loop() -> None:
    codes, anchors = soft(4), signs(4)
    for row in range(4):
        wrong = [-float(codes[row, bit] * anchors[row, bit]) for bit in range(6)]
        kept = [s for s in wrong if s > -0.5]
        expected = sum((s + 2) * s for s in kept) / len(kept)
        assert float(unsettled(codes, anchors)[row]) == pytest.approx(expected, abs=1e-6)
    assert float(unsettled(0.6 * anchors, anchors).abs().max()) == 0  # all bits are settled


@pytest.mark.parametrize(("far", "sharpness", "power"), [(True, 5, -0.5), (False, 10, 0.3)])
def test_sdha_against_a_loop(far: bool, sharpness: float, power: float) -> None:
    codes, others = soft(3), signs(5)
    weight = torch.tensor([[1.0, 0, 2, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]])

    def sigmoid(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    for row in range(3):
        total = 0.0
        for other in range(5):
            soft_distance, distance = 0.0, 0
            for bit in range(6):
                h, r = float(codes[row, bit]), float(others[other, bit])
                distance += (h > 0) != (r > 0)
                if far:
                    right = sigmoid(sharpness * h * r)
                    soft_distance += 0.5 * abs(h - r) * right + 1 - right
                else:
                    soft_distance += 0.5 * abs(h - r) * sigmoid(-sharpness * h * r)
            total += float(weight[row, other]) * soft_distance * (distance + 1e-8) ** power
        expected = total / max(float(weight[row].sum()), 1e-8)
        found = surrogate_distance(
            codes, others, weight, sharpness=sharpness, power=power, far=far
        )[row]
        assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-6)


def test_ranking_precision_is_average_precision_where_nothing_ties() -> None:
    """Binary codes at distances 0 to 6, one row each: the exact value, by sklearn's definition."""
    database = torch.tensor([[1.0] * (6 - d) + [-1.0] * d for d in range(7)])
    relevant = torch.tensor([[1.0, 0, 0, 1, 1, 0, 1]])
    query = torch.ones(1, 6)
    found = ranking_precision(query, database, relevant, torch.ones(7), levels=6)
    assert float(found) == pytest.approx((1 / 1 + 2 / 4 + 3 / 5 + 4 / 7) / 4, abs=1e-6)


def test_ranking_precision_against_a_loop() -> None:
    codes, database = soft(2), signs(5, seed=7)
    relevant = torch.tensor([[2.0, 0, 1, 0, 0], [0, 0, 0, 0, 0]])
    counts = torch.tensor([3.0, 1, 1, 2, 1])
    levels = 3
    hits, rows = [0.0] * (levels + 1), [0.0] * (levels + 1)
    for code in range(5):
        place = (6 - float(codes[0] @ database[code])) / 2 / (6 / levels)
        lower = min(int(place), levels - 1)
        for level, share in ((lower, 1 - (place - lower)), (lower + 1, place - lower)):
            hits[level] += share * float(relevant[0, code])
            rows[level] += share * float(counts[code])
    expected = 0.0
    for level in range(levels + 1):
        above = sum(hits[:level]) + hits[level] / 2 + 0.5
        expected += hits[level] * above / (sum(rows[:level]) + rows[level] / 2 + 0.5)
    found = ranking_precision(codes, database, relevant, counts, levels=levels)
    assert float(found[0]) == pytest.approx(expected / 3, abs=1e-5)
    assert float(found[1]) == 0


def test_circle_loss_against_a_loop() -> None:
    codes, database = soft(2), signs(4, seed=9)
    similar = torch.tensor([[1.0, 0, 0, 1], [0, 0, 1, 0]])
    push = pull = gap = 0.0
    for row in range(2):
        for other in range(4):
            score = float(codes[row] @ database[other]) / 6
            if similar[row, other]:
                pull += math.exp(-(2 - score) * score)
            else:
                push += math.exp((score + 2) * score)
        gap += sum((math.copysign(1, float(h)) - float(h)) ** 2 for h in codes[row])
    expected = (math.log(push) + math.log(pull)) / 2 + gap / 2e4
    assert float(circle_loss(codes, database, similar)) == pytest.approx(expected, abs=1e-5)
    assert math.isfinite(float(circle_loss(codes, database, torch.zeros(2, 4))))


@pytest.mark.parametrize("graded", [True, False])
def test_centres_against_a_loop(graded: bool, scene: Scene) -> None:
    data = scene.data
    labels = torch.tensor([[1, 0, 0], [1, 1, 0]], dtype=torch.uint8)
    found = centre_codes(data, labels, graded=graded)
    codes = torch.from_numpy(data.codes.signs())
    for row, wanted in enumerate(labels.tolist()):
        near, far = np.zeros(16), np.zeros(16)
        weights = others = 0.0
        for code, own in zip(codes.tolist(), data.labels.tolist(), strict=True):
            shared = sum(a * b for a, b in zip(wanted, own, strict=True))
            if shared:
                weight = shared / math.sqrt(sum(wanted) * sum(own)) if graded else 1.0
                near, weights = near + weight * np.array(code), weights + weight
            else:
                far, others = far + np.array(code), others + 1
        assert found[row].tolist() == np.where(near / weights - far / others > 0, 1, -1).tolist()


def test_relevant_codes_count_every_row_once(scene: Scene) -> None:
    codes, relevant, counts = relevant_codes(scene.data, scene.queries.labels)
    stored = scene.data.codes.signs()
    for column, code in enumerate(codes.numpy()):
        same = (stored == code).all(axis=1)
        assert int(counts[column]) == same.sum()
        shared = (scene.data.labels.numpy()[same] & scene.queries.labels[0].numpy()).any(axis=1)
        assert int(relevant[0, column]) == shared.sum()


# Steps


def test_adam_is_torch_s_adam() -> None:
    torch.manual_seed(0)
    moved = torch.zeros(2, 3, 2, 2)
    rival = torch.zeros(2, 3, 2, 2, requires_grad=True)
    optimiser = torch.optim.Adam([rival], lr=0.05)
    stepper = Stepper("adam", 0.05, 0.0, moved)
    for _ in range(5):
        gradient = torch.randn(2, 3, 2, 2)
        moved = stepper.move(moved, gradient, torch.arange(2))
        rival.grad = gradient
        optimiser.step()
    assert torch.allclose(moved, rival, atol=1e-6)


def test_momentum_adds_normalised_gradients_of_each_image() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(2, 3, 2, 2), torch.randn(2, 3, 2, 2)
    stepper = Stepper("plain", 1.0, 0.5, first)
    start = stepper.move(torch.zeros_like(first), first, torch.arange(2))
    moved = stepper.move(start[1:], second[1:], torch.tensor([1]))[0]
    one, two = (g[1] / g[1].abs().mean() for g in (first, second))
    assert torch.allclose(moved, -one - (0.5 * one + two), atol=1e-5)


class Bent(Projection):
    """Its gradient is another one at every image; images are all inside [0,1], no bit rests."""

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        codes: Tensor = torch.sin(3 * super().relax(inputs, modality))
        return codes


def published(
    victim: Projection, scene: Scene, attack: GradientAttack, points: list[list[Tensor]]
) -> Tensor:
    """NI, SI and VMI written out, image by image, as the papers have them.

    points: of each step the (B,3,H,W) draws of the neighbours
    """
    length, images = attack.step * BALL.eps, scene.queries.inputs["image"]
    anchors = attack.anchors(scene.targets)
    scale = victim.relax(images, "image").detach().abs().mean(dim=1)
    results = []
    for row in range(len(images)):
        clean = images[row]

        def slope(x: Tensor, row: int = row) -> Tensor:
            total = torch.zeros_like(x)
            for power in range(attack.scales):
                point = x.clone().requires_grad_()
                soft = torch.tanh(victim.relax(point[None] / 2**power, "image")[0] / scale[row])
                loss = -(soft * anchors[row]).mean()
                total += torch.autograd.grad(loss, point)[0] / attack.scales
            return total

        x, velocity = clean.clone(), torch.zeros_like(clean)
        variance = torch.zeros_like(clean)
        for step in range(attack.steps):
            at = x
            if attack.nesterov:
                at = (x - length * attack.momentum * velocity).clamp(0, 1)
            gradient = slope(at)
            whole = gradient + variance
            velocity = attack.momentum * velocity + whole / whole.abs().mean()
            if attack.neighbours:
                near = [slope((at + draw[row]).clamp(0, 1)) for draw in points[step]]
                variance = torch.stack(near).mean(dim=0) - gradient
            x = (x - length * velocity.sign()).clamp(clean - BALL.eps, clean + BALL.eps)
            x = x.clamp(0, 1)
        results.append(x)
    return torch.stack(results)


@pytest.mark.parametrize(
    "settings",
    [
        {"nesterov": True},
        {"scales": 3},
        {"neighbours": 2, "reach": 1.5},
        {"nesterov": True, "scales": 2, "neighbours": 2, "reach": 0.5},
    ],
    ids=str,
)
def test_transfer_settings_against_the_papers(
    settings: dict[str, Any], scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descent returns its best iterate: here the last one, and never rounded."""
    victim = Bent().eval()
    seen = scene.seen_by(victim)
    attack = made("dhta", seen, steps=4, momentum=0.9, alphas=[1.0], rest=False, **settings)
    draws: list[Tensor] = []
    real = Chance.uniform
    anchors = attack.anchors(scene.targets)
    attack.anchors = lambda labels: anchors  # type: ignore[method-assign]

    def kept(chance: Chance, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        draws.append(real(chance, *shape, low=low, high=high))
        return draws[-1]

    offered: list[Tensor] = []
    monkeypatch.setattr(Chance, "uniform", kept)
    monkeypatch.setattr(
        "advhash.attacks.gradient.descent.round_toward",
        lambda clean, moved: [offered.append(moved.clone()), moved.clone()][1],
    )
    attack.perturb(victim, seen.queries, seen.targets, BALL, eight_bit=False)
    count = attack.neighbours
    points = [draws[step * count : (step + 1) * count] for step in range(4)]
    for step_draws in points:
        for draw in step_draws:
            assert float(draw.abs().max()) <= attack.reach * BALL.eps
            assert float(draw.abs().max()) > 0.9 * attack.reach * BALL.eps
    wanted = published(victim, seen, attack, points)
    assert torch.allclose(offered[4], wanted, atol=1e-4)
    assert not torch.allclose(
        offered[4],
        published(victim, seen, made("dhta", seen, steps=4, momentum=0.9, alphas=[1.0]), []),
        atol=1e-3,
    )


def test_without_rest_all_steps_are_spent_on_margins(scene: Scene) -> None:
    ball, margins = Budget("linf", 48 / 255), []
    for rest in (True, False):
        attack = made("mainstay", scene, rest=rest, steps=30)
        anchors = attack.anchors(scene.targets)
        attack.loss = lambda codes, goal: -(codes * goal).mean(dim=1)  # type: ignore[method-assign]
        result = attacked(attack, scene, budget=ball)
        assert (result.codes.signs() == anchors.numpy()).all()  # rested, had they been let
        relaxed = scene.victim.relax(result.batch.inputs["image"], "image").detach()
        margins.append(float((relaxed * anchors).mean()))
    assert margins[1] > 1.1 * margins[0]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"nesterov": True}, "momentum > 0"),
        ({"nesterov": True, "momentum": 1.0, "rule": "adam"}, "other than adam"),
        ({"scales": 0}, "scales >= 1"),
        ({"neighbours": -1}, "neighbours >= 0"),
        ({"neighbours": 2, "reach": 0.0}, "reach > 0"),
    ],
    ids=str,
)
def test_transfer_settings_that_mean_nothing_are_refused(
    settings: dict[str, Any], word: str
) -> None:
    with pytest.raises(ConfigError, match=word):
        ATTACKS.create("dhta", settings)


def test_diversity_keeps_the_size_and_passes_the_gradient() -> None:
    torch.manual_seed(0)
    images, chance = torch.rand(6, 3, 20, 20, requires_grad=True), Chance(0, torch.arange(6))
    assert torch.equal(diversified(images, 0.0, chance), images)
    changed = diversified(images, 1.0, chance)
    (gradient,) = torch.autograd.grad(changed.sum(), images)
    assert changed.shape == images.shape
    assert bool((changed != images).flatten(1).any(dim=1).all())
    assert bool((gradient.flatten(1).abs().sum(dim=1) > 0).all())
    assert float(changed.detach().min()) >= 0


@pytest.mark.parametrize("budget", [BALL, Budget("l2", 0.7), Budget("none", math.inf)], ids=str)
def test_random_points_lie_in_the_ball(budget: Budget) -> None:
    clean, chance = torch.full((50, 3, 4, 4), 0.5), Chance(0, torch.arange(50))
    distance = budget.distance(clean, random_point(clean, budget, (0.0, 1.0), chance))
    limit = 32 / 255 if math.isinf(budget.eps) else budget.eps
    assert float(distance.max()) <= limit + 1e-6
    assert float(distance.mean()) > 0.8 * limit


# Options


@pytest.mark.parametrize("name", NAMES)
def test_untargeted_falls_to_chance_and_targeted_rises(name: str, scene: Scene) -> None:
    result = attacked(made(name, scene), scene, budget=Budget("linf", 24 / 255))
    if name in TARGETED:
        assert precision(result, scene.targets, scene) > 0.9
    else:
        relevant = np.full(12, 30)
        chance = chance_average_precision(relevant, 90).mean()
        assert precision(result, scene.queries.labels, scene) < chance + 0.05


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 1.0},
        {"diversity": 0.7},
        {"momentum": 1.0, "nesterov": True},
        {"momentum": 1.0, "nesterov": True, "rule": "l2"},
        {"scales": 3},
        {"neighbours": 2},
        {"momentum": 1.0, "nesterov": True, "scales": 2, "diversity": 0.5, "neighbours": 1},
        {"rest": False},
        {"random_start": True},
        {"restarts": 3},
        {"rule": "adam"},
        {"rule": "plain", "step": 30.0},
        {"rule": "l2"},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["mainstay", "sdha-untargeted"])
def test_every_option_works_and_is_repeatable(
    name: str, options: dict[str, Any], scene: Scene
) -> None:
    attack = made(name, scene, **options)
    result, again = attacked(attack, scene, seed=3), attacked(attack, scene, seed=3)
    assert torch.equal(result.batch.inputs["image"], again.batch.inputs["image"])
    assert float(result.distance.max()) <= BALL.eps + 1e-6
    assert float(result.overrun.max()) == 0
    if name == "mainstay":
        assert precision(result, scene.targets, scene) > 0.35  # of noise and of clean queries: 0.25
    else:
        assert precision(result, scene.queries.labels, scene) < 0.7  # of both: 0.98


def test_the_seed_decides_over_a_random_start(scene: Scene) -> None:
    attack = made("mainstay", scene, random_start=True, steps=3)
    one, other = (attacked(attack, scene, seed=seed).batch.inputs["image"] for seed in (0, 1))
    assert not torch.equal(one, other)


def test_restarts_never_leave_more_wrong_bits(scene: Scene) -> None:
    wrong = []
    for restarts in (1, 4):
        attack = made("mainstay", scene, restarts=restarts, steps=4)
        anchors = attack.anchors(scene.targets).numpy()
        wrong.append((attacked(attack, scene).codes.signs() != anchors).sum(axis=1))
    assert (wrong[1] <= wrong[0]).all()
    assert wrong[1].sum() < wrong[0].sum()


@pytest.mark.parametrize("name", NAMES)
def test_an_image_s_result_does_not_depend_on_its_batch(name: str, scene: Scene) -> None:
    attack = made(name, scene)
    together = attacked(attack, scene).batch.inputs["image"]
    if name in ("p2p", "dhta"):  # they draw an anchor a query
        attack.anchors = lambda labels: centre_codes(  # type: ignore[method-assign]
            scene.data, labels, graded=True
        )
        together = attacked(attack, scene).batch.inputs["image"]
    one = Batch(
        {"image": scene.queries.inputs["image"][2:3]},
        scene.queries.labels[2:3],
        scene.queries.index[2:3],
    )
    targets = scene.targets[2:3] if attack.goal == "targeted" else None
    alone = attack.perturb(scene.victim, one, targets, BALL).batch.inputs["image"]
    assert float((alone[0] != together[2]).float().mean()) < 0.02  # float sums differ in order


def test_tha_state_round_trip(scene: Scene) -> None:
    attack = made("tha", scene)
    again = THA(**QUICK["tha"]).restore(scene.victim, scene.data, attack.state())
    assert torch.equal(attack.anchors(scene.targets), again.anchors(scene.targets))
    assert attack.history[-1]["loss"] < attack.history[0]["loss"]  # type: ignore[operator]


# Bad input


@pytest.mark.parametrize("name", NAMES)
def test_what_is_refused(name: str, scene: Scene) -> None:
    attack = made(name, scene)
    targets = scene.targets if attack.goal == "targeted" else None
    with pytest.raises(UsageError, match="l0"):
        attack.perturb(scene.victim, scene.queries, targets, Budget("l0", 5))
    with pytest.raises(ConfigError, match="eps: expected a positive number"):
        Budget("linf", 0)
    for wrong in ({"steps": 0}, {"restarts": 0}, {"alphas": []}, {"diversity": 1.5}, {"step": 0.0}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            ATTACKS.create(name, wrong)


class NoGradient(Projection):
    """Codes without a gradient, and it says so."""

    differentiable = False


@pytest.mark.parametrize("name", [*NAMES, "autohash", "autohash-untargeted"])
def test_a_victim_without_gradients_is_refused(name: str, scene: Scene) -> None:
    attack = ATTACKS.create(name)
    targets = scene.targets if attack.goal == "targeted" else None
    with pytest.raises(UsageError, match="expected a differentiable victim"):
        attack.perturb(NoGradient(), scene.queries, targets, BALL)


@pytest.mark.parametrize("name", TARGETED)
def test_a_target_that_no_row_has_is_refused(name: str, scene: Scene) -> None:
    with pytest.raises(DataError, match="shares a label with some database row"):
        made(name, scene).perturb(
            scene.victim, scene.queries, torch.zeros(12, 3, dtype=torch.uint8), BALL
        )


@pytest.mark.parametrize("name", TARGETED)
def test_a_query_equal_to_its_target_stays_near(name: str, scene: Scene) -> None:
    """It works, and never makes the ranking worse than chance."""
    labels = scene.queries.labels
    result = made(name, scene).perturb(scene.victim, scene.queries, labels, BALL)
    assert precision(result, labels, scene) > 0.98


def test_hag_needs_no_database(scene: Scene) -> None:
    result = HAG(steps=5).perturb(scene.victim, scene.queries, None, BALL)
    assert not torch.equal(result.batch.inputs["image"], scene.queries.inputs["image"])
    assert "labels" not in HAG.knowledge
    assert "database codes" not in HAG.knowledge


def test_sdha_untargeted_leaves_queries_alone_that_find_nothing(scene: Scene) -> None:
    empty = Batch(scene.queries.inputs, torch.zeros_like(scene.queries.labels), scene.queries.index)
    result = made("sdha-untargeted", scene).perturb(scene.victim, empty, None, BALL)
    assert torch.equal(result.batch.inputs["image"], scene.queries.inputs["image"])


# Published settings


def test_paper_presets_are_the_published_settings() -> None:
    ball = Budget("linf", 8 / 255)
    steps = {"tha": 1 / 255, "cgat": 2 / 255, "mainstay": 1 / 255, "sdha": 0.01}
    for name, length in steps.items():
        attack = ATTACKS.create(name, {"preset": "paper"})
        assert step_length(attack.step, "sign", ball, 9) == pytest.approx(length)
    hag = ATTACKS.create("hag", {"preset": "paper"})
    assert hag.step * 10 / 255 == pytest.approx(100 / 255**2)  # in pixels of 0 to 255, ε = 10
    counts = {"tha": 100, "cgat": 7, "mainstay": 100, "sdha": 1500, "hag": 2000, "dhta": 2000}
    for name, count in counts.items():
        assert ATTACKS.create(name, {"preset": "paper"}).steps == count
    assert ATTACKS.create("cgat", {"preset": "paper"}).random_start
    assert ATTACKS.create("sdha", {"preset": "paper"}).rule == "adam"


# Indicators


class Dead(Projection):
    """Its codes are right and its gradient is zero: the textbook case of a masked gradient."""

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        return super().relax(inputs, modality).detach() + 0 * inputs.sum()


def test_a_zero_gradient_is_noted(scene: Scene) -> None:
    dead = scene.seen_by(Dead().eval())
    attack = made("dhta", dead)
    attacked(attack, dead)
    assert attack.indicators()["zero_gradient"] == 1
    assert attack.indicators()["stalled"] == 1


def test_saturation_is_noted(scene: Scene) -> None:
    attack = made("dhta", scene, alphas=[1e4])
    attacked(attack, scene)
    assert attack.indicators()["saturated"] > 0.9


def test_a_healthy_attack_notes_nothing_and_fit_forgets(scene: Scene) -> None:
    attack = made("dhta", scene)
    assert attack.indicators() == {}
    attacked(attack, scene)
    assert attack.indicators() == {"zero_gradient": 0, "saturated": 0, "stalled": 0}
    assert attack.fit(scene.victim, scene.data, BALL).indicators() == {}


def test_dhta_checks_its_votes() -> None:
    with pytest.raises(ValueError, match="votes=0"):
        DHTA(votes=0)


def test_deviations_of_the_defaults_say_so_as_settings_may_undo_them() -> None:
    texts = ATTACKS["dhta"].deviations
    assert any(text.startswith("by default 100 sign steps") for text in texts)
    assert any(text.startswith("ε is a radius") for text in texts)
