"""How the gradient family passes images: sizes of batches, and in which precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from attack_scene import Projection, Scene, make_scene
from torch import Tensor

from advhash.attacks.gradient import precision
from advhash.attacks.gradient.descent import staying
from advhash.budget import Budget, round_toward
from advhash.data import Batch, Modality
from advhash.errors import UsageError
from advhash.registry import ATTACKS

BUDGET = Budget("linf", 80 / 255)


class Sizes(Projection):
    """Codes row by row, so that a batch determines no bit; notes of how many each pass was."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        if inputs.requires_grad:
            self.sizes.append(len(inputs))
        return torch.stack([(self.weights * (row.flatten() - 0.5)).sum(dim=1) for row in inputs])


@pytest.fixture
def scene() -> Scene:
    return make_scene().seen_by(Sizes().eval())


def many(scene: Scene, times: int) -> tuple[Batch, Tensor]:
    """The queries several times over, each with other draws, and their targets."""
    images = scene.queries.inputs["image"].repeat(times, 1, 1, 1)
    labels = scene.queries.labels.repeat(times, 1)
    batch = Batch({"image": images}, labels, torch.arange(len(images)))
    return batch, scene.targets.repeat(times, 1)


def attacked(scene: Scene, batch: Batch, targets: Tensor, **settings: Any) -> Tensor:
    method = ATTACKS.create("dhta", {"steps": 30, "votes": 3, **settings})
    method.fit(scene.victim, scene.data, BUDGET, seed=1)
    moved = method.perturb(scene.victim, batch, targets, BUDGET, seed=3).batch
    return moved.inputs["image"]  # type: ignore[no-any-return]


def test_few_sizes_of_batches_whatever_rests(scene: Scene) -> None:
    batch, targets = many(scene, 7)
    attacked(scene, batch, targets)
    sizes = scene.victim.sizes  # type: ignore[attr-defined]
    assert sizes[0] == 84
    assert min(sizes) < 60  # images do come to rest
    assert all(size % 8 == 0 for size in sizes if size not in (84, *range(16)))


@pytest.mark.parametrize(
    "settings", [{}, {"rule": "adam"}, {"momentum": 0.9, "restarts": 2}], ids=str
)
def test_images_at_rest_beside_it_change_no_image(scene: Scene, settings: dict[str, Any]) -> None:
    batch, targets = many(scene, 3)
    whole = attacked(scene, batch, targets, **settings)
    for row in range(0, len(whole), 5):
        some = slice(row, row + 1)
        alone = Batch({"image": batch.inputs["image"][some]}, batch.labels[some], batch.index[some])
        assert torch.equal(attacked(scene, alone, targets[some], **settings), whole[some])


@pytest.mark.parametrize(
    ("awake", "length", "left"),
    [(99, 100, None), (96, 100, 96), (90, 100, 96), (17, 40, 24), (15, 40, 15), (1, 16, 1)],
)
def test_how_many_stay(awake: int, length: int, left: int | None) -> None:
    mask = torch.zeros(length, dtype=torch.bool)
    mask[torch.randperm(length, generator=torch.Generator().manual_seed(0))[:awake]] = True
    kept = staying(mask)
    if left is None:
        assert kept is None
        return
    assert kept is not None
    assert len(kept) == left
    assert int(mask[kept].sum()) == awake
    assert torch.equal(kept, kept.sort().values)


def test_rounding_is_that_of_whole_steps() -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(0, 256, (40, 3, 8, 8), generator=generator) / 255
    steps = torch.randint(-40, 41, clean.shape, generator=generator) * 0.8 / 255
    for moved in (clean + steps, clean + torch.randn(clean.shape, generator=generator) * 0.03):
        inside = moved.clamp(0, 1)
        far = (inside - clean) * 255
        whole = far.round()
        slow = torch.where((far - whole).abs() < 1e-4, whole, far.trunc())
        assert torch.equal(round_toward(clean, inside), ((clean * 255).round() + slow) / 255)


def test_bf16_passes_and_float32_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "computes_bf16", lambda device: True)
    scene = make_scene()
    victim = precision.Reduced.of("bf16", scene.victim)
    images = scene.queries.inputs["image"].requires_grad_()
    codes = victim.relax(images, "image")
    assert codes.dtype == torch.float32
    exact = scene.victim.relax(images, "image")
    assert not torch.equal(codes, exact)
    assert torch.allclose(codes, exact, atol=0.05)
    batch, targets = many(scene, 1)
    method = ATTACKS.create("dhta", {"steps": 5, "precision": "bf16"})
    method.fit(scene.victim, scene.data, BUDGET, seed=1)
    result = method.perturb(scene.victim, batch, targets, BUDGET, seed=3)
    again = scene.victim.encode(result.batch.inputs["image"], "image")
    assert np.array_equal(result.codes.words, again.words)


def test_bf16_is_refused_where_it_is_emulated(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "computes_bf16", lambda device: False)
    batch, targets = many(scene, 1)
    with pytest.raises(UsageError, match="expected a processor that computes in it, got cpu"):
        attacked(scene, batch, targets, precision="bf16")
    assert precision.Reduced.of("no", scene.victim) is scene.victim
