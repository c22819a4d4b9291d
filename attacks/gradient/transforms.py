"""Expectation over transformation: perturbations that survive crops, noise and compression.

`Transformed` is a victim whose real codes are means over random transforms, so that every attack
by gradients works through it unchanged (Athalye et al., ICML 2018). The gradient family takes it as
settings. Scores come from the plain victim, and of JPEG from the real codec: `advhash.data.codec`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from advhash.budget import clipped
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset, Modality
from advhash.errors import UnknownName, UsageError
from advhash.victims.base import HashVictim

Transform = Callable[[Tensor], Tensor]


def _augmentation() -> Any:
    """kornia's module, where a transform is first drawn: most attacks draw none."""
    import kornia.augmentation

    return kornia.augmentation


@functools.cache
def _cropping(height: int, width: int) -> Any:
    return _augmentation().RandomResizedCrop(
        (height, width), scale=(0.8, 1.0), ratio=(0.9, 1.1), same_on_batch=True, p=1.0
    )


@functools.cache
def _resizing() -> Any:
    return _augmentation().RandomAffine(0.0, scale=(0.8, 1.1), same_on_batch=True, p=1.0)


@functools.cache
def _flipping() -> Any:
    return _augmentation().RandomHorizontalFlip(same_on_batch=True, p=0.5)


@functools.cache
def _colouring() -> Any:
    return _augmentation().ColorJitter(0.2, 0.2, 0.2, 0.05, same_on_batch=True, p=1.0)


@functools.cache
def _noise() -> Any:
    return _augmentation().RandomGaussianNoise(0.0, 4 / 255, same_on_batch=True, p=1.0)


def crop(images: Tensor) -> Tensor:
    """A window of 80 to 100 % of the area, resized to the image's size."""
    cropped: Tensor = _cropping(*images.shape[2:])(images)
    return cropped


def resize(images: Tensor) -> Tensor:
    """Smaller or larger by a factor of 0.8 to 1.1 around the centre, on black."""
    scaled: Tensor = _resizing()(images)
    return scaled


def flip(images: Tensor) -> Tensor:
    """Mirrored from left to right, half of the time."""
    flipped: Tensor = _flipping()(images)
    return flipped


def colour(images: Tensor) -> Tensor:
    """Brightness, contrast and saturation by up to 20 %, hue by up to 18°."""
    coloured: Tensor = _colouring()(images)
    return coloured


def noise(images: Tensor) -> Tensor:
    """Gaussian noise of 4/255."""
    noisy: Tensor = _noise()(images)
    return noisy


def jpeg(images: Tensor) -> Tensor:
    """JPEG at a quality of 60 to 95 with smooth roundings."""
    from kornia.enhance import jpeg_codec_differentiable

    quality = torch.empty(1, device=images.device).uniform_(60, 95)
    compressed: Tensor = jpeg_codec_differentiable(images, quality.expand(len(images)))
    return compressed


TRANSFORMS: dict[str, Transform] = {
    "colour": colour,
    "crop": crop,
    "flip": flip,
    "jpeg": jpeg,
    "noise": noise,
    "resize": resize,
}


def check_transforms(names: Sequence[str], samples: int) -> None:
    """Raise UnknownName; ValueError: samples below 1, no transform."""
    if samples < 1 or not names:
        raise ValueError(
            "expected samples >= 1 and at least one transform, "
            f"got samples={samples}, transforms={tuple(names)}"
        )
    for name in names:
        if name not in TRANSFORMS:
            raise UnknownName("transform", name, TRANSFORMS)


class Transformed(HashVictim):
    """`victim` behind random transforms: `relax` is the mean over `samples` draws of all of them.

    transforms: names in TRANSFORMS, applied in this order
    samples:    draws a call; each is the same for all images of the batch, so that the result of an
                image depends on no other, and new at every call

    Draws come from torch's global generator, which `Attack.perturb` seeds. Images only.

    Raises UnknownName; ValueError: samples below 1, no transform; UsageError: no images.
    """

    def __init__(self, victim: HashVictim, transforms: Sequence[str], samples: int) -> None:
        super().__init__()
        check_transforms(transforms, samples)
        if "image" not in victim.bounds:
            raise UsageError(
                f"transforms: expected a victim of images, got one of {', '.join(victim.bounds)}"
            )
        self.victim, self.transforms, self.samples = victim, tuple(transforms), samples
        self.bits = victim.bits
        self.bounds = {"image": victim.bounds["image"]}
        self.history = []
        self.differentiable, self.no_gradient = victim.differentiable, victim.no_gradient

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        """(B,K) mean of the real codes of `samples` transformed copies of (B,3,H,W) images."""
        total: Tensor | None = None
        for _ in range(self.samples):
            images = inputs
            for name in self.transforms:
                images = TRANSFORMS[name](images)
            codes = self.victim.relax(clipped(images, self.bounds["image"]), modality)
            total = codes if total is None else total + codes
        assert total is not None
        return total / self.samples

    def fit(self, data: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """The victim is trained already."""
        return self
