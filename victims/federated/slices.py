"""One party's strip of an image as a victim of its own, so that attacks on images move it."""

from __future__ import annotations

from dataclasses import replace
from typing import Self

import torch.nn.functional as F
from torch import Tensor

from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Batch, Dataset, Modality, Split
from advhash.victims.base import HashVictim


def padded(images: Tensor) -> Tensor:
    """(B,3,s,s) squares with the (B,3,H,w) strips at their left, 0 elsewhere."""
    height, width = images.shape[2:]
    side = max(height, width)
    return F.pad(images, (0, side - width, 0, side - height))


class OneSlice(HashVictim):
    """`victim` with one modality, whose inputs are padded to squares and called "image".

    What lies outside the strip is cut off before it is hashed, so it has no gradient.
    """

    def __init__(self, victim: HashVictim, modality: Modality, size: tuple[int, int]) -> None:
        super().__init__()
        self.victim, self.modality, self.size = victim, modality, size
        self.bits = victim.bits
        self.bounds = {"image": victim.bounds[modality]}
        self.history = []
        self.differentiable, self.no_gradient = victim.differentiable, victim.no_gradient

    def cut(self, images: Tensor) -> Tensor:
        """(B,3,H,w) the strips of padded images."""
        return images[:, :, : self.size[0], : self.size[1]]

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        return self.victim.relax(self.cut(inputs), self.modality)

    def fit(self, data: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """The victim is trained already."""
        return self


def slice_batch(batch: Batch, modality: Modality) -> Batch:
    """A batch whose only input is the padded strip, as "image"."""
    return Batch({"image": padded(batch.inputs[modality])}, batch.labels, batch.index)


def slice_data(data: Dataset, modality: Modality) -> Dataset:
    """A data set whose only input is the padded strip, as "image"."""

    def only(split: Split) -> Split:
        return replace(split, inputs={"image": padded(split.tensor(modality))}, digests={})

    return replace(
        data, database=only(data.database), validation=only(data.validation), query=only(data.query)
    )
