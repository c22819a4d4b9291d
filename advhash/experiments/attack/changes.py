"""Changes as pages show them: a picture, its change enlarged around mid-grey, what comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from advhash.experiments.attack.examples import SAMPLES, THUMBNAIL_SIDE, picture
from advhash.reports.record import GAIN
from advhash.storage.files import storage_errors

KINDS = ("clean", "change", "changed")
MID_GREY = 128
SMOOTH, NOISE = Image.Resampling.LANCZOS, Image.Resampling.NEAREST  # noise must not average out
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Change:
    """A change of one picture.

    linf: in grey levels; l2: in grey levels a colour value, the root of the mean square
    images: (3,h,w,3) uint8 of KINDS, reduced
    """

    linf: int
    l2: float
    images: Tensor

    @classmethod
    def of(
        cls,
        clean: Pixels,
        changed: Pixels,
        turn: Callable[[Image.Image], Image.Image] = lambda image: image,
    ) -> Change:
        """From (H,W,3) pictures; turn: to the way up that people see them."""
        moved = changed.astype(np.int64) - clean
        enlarged = np.clip(MID_GREY + GAIN * moved, 0, 255).astype(np.uint8)
        images = [turn(Image.fromarray(each)) for each in (clean, enlarged, changed)]
        for image, resampling in zip(images, (SMOOTH, NOISE, SMOOTH), strict=True):
            image.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE), resampling)
        return cls(
            int(np.abs(moved).max()),
            float(np.sqrt((moved**2).mean())),
            torch.from_numpy(np.stack([np.asarray(image) for image in images])),
        )

    @classmethod
    def of_tensors(cls, clean: Tensor, changed: Tensor) -> Change:
        """From (3,H,W) pictures in [0,1], which are rounded to grey levels."""
        return cls.of(eight_bits(clean), eight_bits(changed))


def eight_bits(image: Tensor) -> Pixels:
    """(H,W,3) grey levels of a (3,H,W) picture in [0,1]."""
    octets = (255 * image.detach().cpu().float().clamp(0, 1)).round().to(torch.uint8)
    return np.ascontiguousarray(octets.permute(1, 2, 0).numpy())


def write_change(folder: Path, label: str, images: Tensor) -> list[str]:
    """Write (3,h,w,3) pictures of KINDS below a run folder: their names. Raises StorageError."""
    files = [f"{SAMPLES}/{kind}-{label}.png" for kind in KINDS]
    for file, image in zip(files, images, strict=True):
        write_sample(folder, file, image.permute(2, 0, 1))
    return files


def write_sample(folder: Path, name: str, image: Tensor) -> None:
    """Write a (3,h,w) uint8 picture below a run folder. Raises StorageError."""
    file = folder / name
    with storage_errors(file.parent):
        file.parent.mkdir(exist_ok=True)
        picture(image.float() / 255, longest=THUMBNAIL_SIDE).save(file, optimize=True)
