"""Expectation over transformation, and retrieval figures after the real JPEG codec."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from attack_scene import Scene
from PIL import Image
from torch import Tensor, nn
from untrained import Untrained, drawn

from advhash.attacks.base import AttackData
from advhash.attacks.gradient.hiding import Mainstay
from advhash.attacks.gradient.targeted import P2P
from advhash.attacks.gradient.transforms import TRANSFORMS, Transformed
from advhash.budget import Budget
from advhash.codes import HashCodes
from advhash.codes.metrics import Scoring, retrieval_average_precision
from advhash.data import Batch, Dataset, Modality, Split
from advhash.data.codec import through_codec
from advhash.errors import UnknownName, UsageError
from advhash.experiments.attack.columns import codec_columns

BITS, NAMES = 8, sorted(TRANSFORMS)


class Small(Untrained):
    def __init__(self, modality: Modality = "image") -> None:
        super().__init__(nn.Sequential(nn.Flatten(), nn.Linear(3 * 24 * 24, BITS)), BITS, modality)


@pytest.fixture(scope="module")
def victim() -> Small:
    return drawn(Small)


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Five smooth pictures on the 8-bit grid."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(5, 3, 6, 6, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=24, mode="bilinear")
    return (smooth * 255).round() / 255


# The transforms


@pytest.mark.parametrize("name", NAMES)
def test_a_transform_changes_images_and_lets_gradients_through(name: str, images: Tensor) -> None:
    torch.manual_seed(3)
    given = images.clone().requires_grad_()
    drawn = [TRANSFORMS[name](given) for _ in range(12)]
    assert all(out.shape == images.shape and bool(out.isfinite().all()) for out in drawn)
    assert any(not torch.allclose(out, images, atol=1e-3) for out in drawn)
    assert any(not torch.allclose(out, drawn[0], atol=1e-4) for out in drawn)
    (gradient,) = torch.autograd.grad(sum((out * images).sum() for out in drawn), given)
    assert bool((gradient.flatten(1).abs().amax(dim=1) > 0).all())


@pytest.mark.parametrize("name", NAMES)
def test_a_draw_is_the_same_for_the_whole_batch(name: str, images: Tensor) -> None:
    """So that an image's adversarial does not depend on which others are still under attack."""
    for seed in range(3):
        torch.manual_seed(seed)
        together = TRANSFORMS[name](images)
        torch.manual_seed(seed)
        alone = TRANSFORMS[name](images[:1])
        assert torch.allclose(together[:1], alone, atol=1e-5)


def test_the_smooth_jpeg_is_near_the_real_one(
    images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    quality = 70
    monkeypatch.setattr(Tensor, "uniform_", lambda self, low, high: self.fill_(quality))
    smooth = TRANSFORMS["jpeg"](images)
    monkeypatch.undo()
    real = through_codec(images, quality)
    assert float((smooth - real).abs().mean()) < 0.3 * float((real - images).abs().mean()) + 0.01


# The victim behind them


def test_real_codes_are_the_mean_over_the_draws(victim: Small, images: Tensor) -> None:
    seen = Transformed(victim, ("flip", "noise", "crop"), samples=4)
    torch.manual_seed(5)
    found = seen.relax(images, "image")
    torch.manual_seed(5)
    codes = []
    for _ in range(4):
        moved = TRANSFORMS["crop"](TRANSFORMS["noise"](TRANSFORMS["flip"](images)))
        codes.append(victim.relax(moved.clamp(0, 1), "image"))
    expected = torch.zeros_like(found)
    for code in codes:
        for row in range(5):
            for bit in range(BITS):
                expected[row, bit] += code[row, bit] / 4
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(seen.relax(images, "image"), found, atol=1e-4)  # a new draw


def test_it_stands_for_its_victim(victim: Small) -> None:
    seen = Transformed(victim, ("noise",), samples=1)
    assert (seen.bits, seen.bounds, seen.differentiable) == (BITS, victim.bounds, True)
    assert list(seen.parameters()) == list(victim.parameters())


def test_what_it_refuses(victim: Small) -> None:
    with pytest.raises(UnknownName, match="did you mean 'crop'"):
        Transformed(victim, ("crops",), samples=2)
    for names, samples in (((), 2), (("crop",), 0)):
        with pytest.raises(ValueError, match="samples >= 1 and at least one transform"):
            Transformed(victim, names, samples)
    with pytest.raises(UsageError, match="expected a victim of images, got one of text"):
        Transformed(Small("text"), ("crop",), samples=2)


def database() -> AttackData:
    """Codes of ten classes, four rows each."""
    generator = torch.Generator().manual_seed(2)
    codes = torch.rand(10, BITS, generator=generator) > 0.5
    labels = torch.eye(10, dtype=torch.uint8).repeat(4, 1)
    split = Split({"image": torch.zeros(40, 3, 24, 24, dtype=torch.uint8)}, labels)
    data = Dataset("tiny", {}, split, torch.arange(40), split, split, tuple("0123456789"))
    return AttackData(data, HashCodes.pack(codes.repeat(4, 1).numpy()), "image", "image")


def test_an_attack_through_them_survives_them_better(victim: Small, images: Tensor) -> None:
    """Judged on fresh draws, by the share of bits that are the anchor's."""
    served, budget = database(), Budget("linf", 12 / 255)
    targets = torch.eye(10, dtype=torch.uint8)[[1, 2, 3, 4, 5]]
    batch = Batch({"image": images}, torch.eye(10)[:5], torch.arange(5))
    names = ("resize", "crop", "noise")
    anchors = torch.from_numpy(served.codes.signs())[1:6]
    shares = []
    for seen in (victim, Transformed(victim, names, samples=8)):
        attack = P2P(steps=40).fit(seen, served, budget)
        moved = attack.perturb(seen, batch, targets, budget, seed=0).batch.inputs["image"]
        assert float(budget.distance(images, moved).max()) <= budget.eps + 1e-6
        torch.manual_seed(99)
        judge = [Transformed(victim, names, samples=1).encode(moved, "image") for _ in range(100)]
        shares.append(np.mean([(codes.signs() == anchors.numpy()).mean() for codes in judge]))
    assert shares[1] > shares[0] + 0.03


def test_a_lucky_draw_neither_ends_a_descent_nor_is_kept(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Draws that show an image of the anchor's code, whatever is given: the plain code counts."""
    queries, targets = scene.data.dataset.query.rows(torch.arange(1)), scene.targets[:1]
    victim, free, ball = scene.victim, Budget("none", math.inf), Budget("linf", 16 / 255)
    anchor = Mainstay(steps=200).fit(victim, scene.data, free)
    lucky = anchor.perturb(victim, queries, targets, free)
    clean = victim.encode(queries.inputs["image"], "image").signs()
    goal = lucky.codes.signs()
    assert (goal == anchor.anchors(targets).numpy()).all()
    shown = lucky.batch.inputs["image"]
    monkeypatch.setitem(TRANSFORMS, "noise", lambda images: images + (shown - images).detach())
    attack = Mainstay(steps=20, transforms=("noise",)).fit(victim, scene.data, ball)
    moved = attack.perturb(victim, queries, targets, ball)
    assert (moved.codes.signs() != goal).sum() < (clean != goal).sum()


# The real codec


def test_the_codec_is_pillow_s(images: Tensor) -> None:
    back = through_codec(images, 75)
    for row in range(5):
        pixels = (images[row] * 255).round().byte().permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="JPEG", quality=75)
        expected = np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert("RGB"))
        assert np.array_equal((back[row] * 255).round().byte().permute(1, 2, 0).numpy(), expected)


@pytest.mark.parametrize("targeted", [True, False])
@pytest.mark.parametrize("ties", ["expected", "stable"])
def test_retrieval_after_jpeg_against_a_loop(
    targeted: bool, ties: str, victim: Small, images: Tensor
) -> None:
    served = database()
    wanted = torch.eye(10, dtype=torch.uint8)[[1, 2, 3, 4, 5]].numpy()
    found = codec_columns(
        victim,
        images,
        "image",
        served.codes,
        wanted=wanted,
        database_labels=served.labels.numpy(),
        targeted=targeted,
        scoring=Scoring(ties),  # type: ignore[arg-type]
        batch_size=2,
    )
    stem = "tmap" if targeted else "map_adversarial"
    assert list(found) == [f"{stem}_jpeg75", f"{stem}_jpeg90"]
    for quality in (75, 90):
        codes = victim.encode(through_codec(images, quality), "image")
        expected = (
            retrieval_average_precision(codes, served.codes, wanted, served.labels.numpy())
            if ties == "expected"
            else stable(codes, served, wanted)
        )
        assert found[f"{stem}_jpeg{quality}"] == pytest.approx(expected, abs=1e-9)


def stable(codes: HashCodes, served: AttackData, wanted: np.ndarray) -> list[float]:
    """Average precision of a ranking by distance, then row."""
    scores = []
    for row, code in enumerate(codes.signs()):
        distance = (served.codes.signs() != code).sum(axis=1)
        order = sorted(range(40), key=lambda item: (distance[item], item))
        hits, total = 0, 0.0
        for rank, item in enumerate(order, 1):
            if (served.labels[item].numpy() * wanted[row]).any():
                hits += 1
                total += hits / rank
        scores.append(total / hits)
    return scores
