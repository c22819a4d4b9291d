"""Traps of published attack code (the numbers are those of the field map): none can come back."""

from __future__ import annotations

import inspect
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from attack_scene import Projection, Scene
from PIL import Image
from torch import Tensor

from advhash.attacks.base import AttackData
from advhash.attacks.black_box.baselines import Noise
from advhash.attacks.gradient.anchors import centre_codes, vote
from advhash.attacks.gradient.descent import GradientAttack
from advhash.attacks.gradient.objectives import soft_code
from advhash.attacks.gradient.steps import stepped
from advhash.attacks.gradient.targeted import DHTA
from advhash.budget import Budget, round_toward
from advhash.codes import HashCodes
from advhash.data import Batch, Dataset, Modality, Split
from advhash.errors import ConfigError
from advhash.experiments.attack.columns import distance_columns
from advhash.registry import ATTACKS
from advhash.targets import choose_targets

BALL = Budget("linf", 16 / 255)
NAMES = [
    entry.name
    for entry in ATTACKS
    if inspect.isclass(entry.build) and issubclass(entry.build, GradientAttack)
]
every_attack = pytest.mark.parametrize("name", NAMES)
QUICK: dict[str, dict[str, Any]] = {"tha": {"prototype_steps": 30, "hidden": 32, "feature": 16}}


def made(name: str, scene: Scene, **settings: Any) -> GradientAttack:
    attack = ATTACKS.create(name, {"steps": 5, **QUICK.get(name, {}), **settings})
    return attack.fit(scene.victim, scene.data, BALL)  # type: ignore[no-any-return]


def aims(attack: GradientAttack, scene: Scene) -> Tensor | None:
    return scene.targets if attack.goal == "targeted" else None


class Normalising(Projection):
    """Means and deviations of ImageNet inside, as victims here have it."""

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        return super().relax((inputs - mean) / deviation, modality)


@every_attack
def test_trap_3_epsilon_is_in_pixels_and_not_in_normalised_space(name: str, scene: Scene) -> None:
    """The published 0.032 bounds (x − mean)/deviation, about 1.8/255 in pixels."""
    normalised = scene.seen_by(Normalising().eval())
    attack = made(name, normalised, steps=20)
    result = attack.perturb(
        normalised.victim, normalised.queries, aims(attack, normalised), BALL, seed=1
    )
    moved = (result.batch.inputs["image"] - normalised.queries.inputs["image"]).abs() * 255
    assert float(moved.max()) == pytest.approx(16, abs=1e-3)


@every_attack
def test_trap_7_images_come_in_pixels_and_normalisation_stays_inside_the_victim(
    name: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published victims of one name differ in whether ImageNet's normalisation is on."""
    victim = Normalising().eval()
    normalised = scene.seen_by(victim)
    ranges: list[tuple[float, float]] = []
    relax = victim.relax

    def watched(inputs: Tensor, modality: Modality) -> Tensor:
        ranges.append((float(inputs.detach().min()), float(inputs.detach().max())))
        return relax(inputs, modality)

    attack = made(name, normalised)
    monkeypatch.setattr(victim, "relax", watched)
    attack.perturb(victim, normalised.queries, aims(attack, normalised), BALL)
    assert len(ranges) >= 2
    assert min(low for low, _ in ranges) >= 0
    assert max(high for _, high in ranges) <= 1


def test_trap_9_rmse_is_the_root_of_the_mean_square_and_is_called_so() -> None:
    """One code prints the root, another the mean square, both as "perceptibility"."""
    generator = torch.Generator().manual_seed(0)
    clean, moved = torch.rand(2, 5, 3, 8, 8, generator=generator)
    columns = distance_columns(clean, moved, "image")
    square = ((moved - clean) ** 2).flatten(1).double().mean(dim=1)
    assert columns["rmse"] == pytest.approx(square.sqrt().numpy())
    assert "perceptibility" not in columns


def test_trap_24_targets_are_seeded_and_follow_from_nothing_else() -> None:
    labels, database = np.eye(5, dtype=np.uint8)[:3], np.eye(5, dtype=np.uint8)
    drawn = []
    for outside in range(3):
        np.random.seed(outside)  # what published code draws from
        drawn.append(choose_targets("disjoint", labels, database, seed=4))
    assert all(np.array_equal(drawn[0], again) for again in drawn)
    others = [choose_targets("disjoint", labels, database, seed=seed) for seed in range(8)]
    assert any(not np.array_equal(drawn[0], other) for other in others)


def test_trap_4_one_name_is_one_update_rule_and_no_batch_mean() -> None:
    """Three codes call different updates DHTA; one of them depends on the size of the batch."""
    assert ATTACKS.settings("dhta", {"preset": "paper"})["rule"] == "l2"
    gradient = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    start = torch.zeros(4, 3, 5, 5)
    for rule in ("sign", "l2", "plain"):
        together = stepped(start, gradient, rule, 0.1)  # type: ignore[arg-type]
        alone = stepped(start[:1], gradient[:1], rule, 0.1)  # type: ignore[arg-type]
        assert torch.equal(together[:1], alone)
    long = stepped(start, 100 * gradient, "l2", 0.1)
    assert torch.allclose(long, stepped(start, gradient, "l2", 0.1), atol=1e-6)
    assert not torch.allclose(long, stepped(start, gradient, "sign", 0.1), atol=1e-2)


@every_attack
def test_trap_5_no_attack_ships_with_one_iteration_or_none(name: str) -> None:
    assert ATTACKS.settings(name)["steps"] >= 100
    with pytest.raises(ConfigError, match="steps"):
        ATTACKS.create(name, {"steps": 0})
    for preset in ATTACKS[name].presets:
        assert ATTACKS.settings(name, {"preset": preset})["steps"] >= 7  # CgAT publishes 7


class Unbounded(Projection):
    """Real codes in the hundreds and no α of its own, like a backbone without tanh."""

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        return 300 * super().relax(inputs, modality)


@every_attack
def test_trap_6_and_27_alpha_is_the_attack_s_and_not_the_victim_s(name: str, scene: Scene) -> None:
    """Victims without α crash published DHTA; a scale that is frozen high kills its gradient."""
    large = scene.seen_by(Unbounded().eval())
    settings = {"rule": "sign", "steps": 10}
    attack, same = made(name, large, **settings), made(name, scene, **settings)
    result = attack.perturb(large.victim, large.queries, aims(attack, large), BALL, seed=1)
    rival = same.perturb(scene.victim, scene.queries, aims(same, scene), BALL, seed=1)
    assert attack.indicators()["saturated"] < 0.5
    changed = result.batch.inputs["image"] != rival.batch.inputs["image"]
    assert float(changed.float().mean()) < 0.05  # float sums


def test_trap_8_anchors_are_drawn_without_replacement(scene: Scene) -> None:
    """Of 9 votes among 30 rows no row votes twice: with 30 votes they are the majority of all."""
    attack = DHTA(votes=30).fit(scene.victim, scene.data, BALL)
    codes = torch.from_numpy(scene.data.codes.signs())
    rows = (scene.data.labels[:, 0] == 1).nonzero().flatten()
    target = torch.tensor([[1, 0, 0]], dtype=torch.uint8)
    for seed in range(5):
        torch.manual_seed(seed)
        assert torch.equal(attack.anchors(target)[0], vote(codes[rows]))


def test_trap_13_tanh_is_taken_once_and_alpha_is_used(scene: Scene) -> None:
    relaxed, scale = torch.tensor([[0.3, -2.0]]), torch.tensor([[0.5]])
    expected = [math.tanh(0.7 * 0.3 / 0.5), math.tanh(-0.7 * 2 / 0.5)]
    assert soft_code(relaxed, 0.7, scale)[0].tolist() == pytest.approx(expected)
    moved = []
    for alpha in (0.2, 5.0):
        attack = made("mainstay", scene, alphas=[alpha], steps=10)
        result = attack.perturb(scene.victim, scene.queries, scene.targets, BALL)
        moved.append(result.batch.inputs["image"])
    assert not torch.equal(*moved)


@every_attack
def test_trap_14_the_codes_are_those_of_the_returned_images(name: str, scene: Scene) -> None:
    """Published: the code of the image one step before."""
    attack = made(name, scene, steps=3)
    result = attack.perturb(scene.victim, scene.queries, aims(attack, scene), BALL)
    again = scene.victim.encode(result.batch.inputs["image"], "image")
    assert np.array_equal(again.words, result.codes.words)


@every_attack
def test_trap_15_no_attack_has_a_radius_of_its_own(name: str, scene: Scene) -> None:
    """Published comparisons give one method 0.032 and the others 8/255 = 0.0314."""
    assert not {"eps", "epsilon", "radius"} & set(ATTACKS[name].model.model_fields)
    attack = made(name, scene)
    for eps in (2 / 255, 8 / 255):
        budget = Budget("linf", eps)
        result = attack.perturb(scene.victim, scene.queries, aims(attack, scene), budget)
        assert float(result.distance.max()) <= eps + 1e-6


def test_trap_16_the_label_weight_of_a_centre_is_used() -> None:
    """Published: the share of common labels is computed, then overwritten by 0 and 1."""
    labels = torch.tensor([[1, 0, 0], [1, 1, 1]], dtype=torch.uint8)
    split = Split({"image": torch.zeros(2, 3, 4, 4, dtype=torch.uint8)}, labels)
    dataset = Dataset("two", {}, split, torch.arange(2), split, split, ("a", "b", "c"))
    codes = HashCodes.pack(np.array([[True, True], [False, True]]))
    data = AttackData(dataset, codes, "image", "image")
    # the first bits are 1 with weight 1 and −1 with weight 0.58: a tie, which is −1, if both are 1
    assert centre_codes(data, labels[:1], graded=True)[0].tolist() == [1, 1]
    assert centre_codes(data, labels[:1], graded=False)[0].tolist() == [-1, 1]


@every_attack
def test_trap_16_dropout_and_batch_norm_are_off_during_the_descent(
    name: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    attack, victim = made(name, scene), scene.victim
    modes: list[bool] = []
    relax = victim.relax

    def watched(inputs: Tensor, modality: Modality) -> Tensor:
        modes.append(any(module.training for module in victim.modules()))
        return relax(inputs, modality)

    monkeypatch.setattr(victim, "relax", watched)
    victim.train()
    try:
        attack.perturb(victim, scene.queries, aims(attack, scene), BALL)
        assert all(module.training for module in victim.modules())
    finally:
        victim.eval()
    assert len(modes) >= 3
    assert not any(modes)


@every_attack
def test_trap_17_black_and_white_pixels_do_not_wrap(name: str, scene: Scene) -> None:
    """Published: no clipping to [0, 255], and astype(uint8) makes white of −1."""
    images = scene.queries.inputs["image"].clone()
    images[:, :, ::2], images[:, :, 1::4] = 0.0, 1.0
    batch = Batch({"image": images}, scene.queries.labels, scene.queries.index)
    attack = made(name, scene, random_start=True)
    moved = attack.perturb(scene.victim, batch, aims(attack, scene), BALL).batch.inputs["image"]
    assert float(moved.min()) >= 0
    assert float(moved.max()) <= 1
    stored = (moved * 255).round().to(torch.uint8).float() / 255
    assert float((stored - images).abs().max()) <= 16 / 255 + 1e-6


def test_trap_18_noise_is_noise_and_no_second_query(scene: Scene) -> None:
    result = Noise().perturb(scene.victim, scene.queries, None, BALL)
    change = result.batch.inputs["image"] - scene.queries.inputs["image"]
    assert float(change.abs().max()) <= 16 / 255 + 1e-6
    assert abs(float(change.mean())) < 1 / 255


@every_attack
def test_trap_18_gradients_do_not_add_up_over_steps(
    name: str, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step is along the gradient of its own image: with a plain rule they can be told."""
    attack = made(name, scene, rule="plain", step=1.0, steps=4)
    looked: list[Tensor] = []
    grad = torch.autograd.grad

    def watched(loss: Tensor, inputs: Tensor) -> tuple[Tensor, ...]:
        found = grad(loss, inputs, retain_graph=True)
        again = grad(loss, inputs)
        assert torch.equal(found[0], again[0])
        looked.append(found[0])
        return found

    monkeypatch.setattr(torch.autograd, "grad", watched)
    attack.perturb(scene.victim, scene.queries, aims(attack, scene), BALL)
    assert len(looked) >= 2
    assert all(parameter.grad is None for parameter in scene.victim.parameters())


@every_attack
def test_trap_26_the_figures_hold_for_the_stored_picture(name: str, scene: Scene) -> None:
    """Through the real PNG codec the code stays what was scored."""
    attack = made(name, scene)
    result = attack.perturb(scene.victim, scene.queries, aims(attack, scene), BALL)
    images = result.batch.inputs["image"]
    for row, image in enumerate(images):
        buffer = io.BytesIO()
        pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(buffer, format="PNG")
        loaded = np.asarray(Image.open(io.BytesIO(buffer.getvalue()))).copy()
        again = torch.from_numpy(loaded).permute(2, 0, 1)[None].float() / 255
        code = scene.victim.encode(again, "image")
        assert np.array_equal(code.words[0], result.codes.words[row])


def test_trap_26_rounding_cannot_leave_the_ball() -> None:
    clean = torch.arange(256).float().view(1, 1, 16, 16) / 255
    moved = (clean + 8.7 / 255).clamp(0, 1)
    assert float((round_toward(clean, moved) - clean).abs().max()) <= 8.7 / 255


# attacks on words, and one that asks for a fourth class, run in files of their own
ELSEWHERE = {
    *("hotflip", "hotflip-untargeted", "token-noise", "synonyms", "synonyms-untargeted"),
    "ta-apgdt",
}
FEWER = {"steps": 2, "epochs": 1, "prototype_steps": 2, "queries": 40}


@pytest.mark.parametrize("name", [entry.name for entry in ATTACKS if entry.name not in ELSEWHERE])
def test_trap_19_and_20_every_registered_attack_runs_as_it_is(name: str, scene: Scene) -> None:
    """Released code that misses an argument, or is called with others, was never run."""
    taken = inspect.signature(ATTACKS[name].build).parameters
    attack = ATTACKS.create(name, {key: few for key, few in FEWER.items() if key in taken})
    attack.fit(scene.victim, scene.data, BALL)
    aims = scene.targets if attack.goal == "targeted" else None
    moved = attack.perturb(scene.victim, scene.queries, aims, BALL)
    assert 0 < float(moved.distance.max()) <= BALL.eps + 1e-6
    images = moved.batch.inputs["image"]
    assert (moved.codes.words == scene.victim.encode(images, "image").words).all()
