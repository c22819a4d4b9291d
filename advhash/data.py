"""What a data set is: images as uint8, text as counts, multi-hot labels, three splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.progress import Progress, silent

__all__ = [
    "Batch",
    "Dataset",
    "Modality",
    "Progress",
    "Split",
    "SplitName",
    "silent",
    "to_unit",
]

Modality = str  # "image", "text"; later "party0", "party1" …
SplitName = Literal["train", "database", "validation", "query"]


def to_unit(values: Tensor) -> Tensor:
    """uint8 images as float32 in [0,1]; other tensors as float32, unchanged."""
    return values.float() / 255 if values.dtype == torch.uint8 else values.float()


@dataclass(frozen=True)
class Batch:
    """B items.

    inputs: "image" (B,3,H,W) float32 in [0,1]; "text" (B,V) float32 counts
    labels: (B,C) uint8 multi-hot
    index:  (B,) int64, row in the split it came from
    """

    inputs: Mapping[Modality, Tensor]
    labels: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def to(self, device: torch.device | str) -> Batch:
        return Batch(
            {name: values.to(device) for name, values in self.inputs.items()},
            self.labels.to(device),
            self.index.to(device),
        )


@dataclass(frozen=True)
class Split:
    """The rows of one split, as stored: images uint8 (N,3,H,W), text (N,V) uint8 counts.

    names: one short human-readable name a row, for pictures and tables
    """

    inputs: Mapping[Modality, Tensor]
    labels: Tensor
    names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def rows(self, index: Tensor | npt.NDArray[np.int64]) -> Batch:
        """The given rows as a batch of raw units ([0,1] pixels)."""
        index = torch.as_tensor(index, dtype=torch.int64)
        return Batch(
            {name: self.unit(name, values[index]) for name, values in self.inputs.items()},
            self.labels[index],
            index,
        )

    @staticmethod
    def unit(modality: Modality, stored: Tensor) -> Tensor:
        """Stored values in the units that victims and attacks see."""
        return to_unit(stored) if modality == "image" else stored.float()

    def batches(self, size: int) -> Iterator[Batch]:
        """All rows in order, `size` at a time."""
        for start in range(0, len(self), size):
            yield self.rows(torch.arange(start, min(start + size, len(self))))

    def take(self, index: Tensor | npt.NDArray[np.int64]) -> Split:
        """A split of the given rows only."""
        index = torch.as_tensor(index, dtype=torch.int64)
        return Split(
            {name: values[index] for name, values in self.inputs.items()},
            self.labels[index],
            tuple(self.names[int(row)] for row in index) if self.names else (),
        )


@dataclass(frozen=True)
class Dataset:
    """A retrieval data set.

    database:   what queries search in; victims are trained on its rows `train_rows` only
    validation: for choosing settings and thresholds, never for a reported figure
    query:      the held-out queries
    classes:    names of the C label columns
    increments: for lifelong victims, the default order in which new categories arrive, each a
                tuple of class names; an item is new if it carries any of them
    card:       what a reader must know: counts, source, licence, warnings
    attribution: the line that the licence demands beside every picture, or ""
    """

    name: str
    settings: Mapping[str, object]
    database: Split
    train_rows: Tensor
    validation: Split
    query: Split
    classes: tuple[str, ...]
    increments: tuple[tuple[str, ...], ...] = ()
    card: Mapping[str, object] = field(default_factory=dict)
    attribution: str = ""

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return tuple(self.database.inputs)

    @property
    def train(self) -> Split:
        return self.database.take(self.train_rows)

    def split(self, name: SplitName) -> Split:
        return {
            "train": self.train,
            "database": self.database,
            "validation": self.validation,
            "query": self.query,
        }[name]

    def fingerprint(self) -> str:
        """SHA-256 over all stored values: equal iff the data are equal."""
        digest = hashlib.sha256(repr((self.name, self.classes)).encode())
        for split in (self.database, self.validation, self.query):
            for modality in sorted(split.inputs):
                values = split.inputs[modality].contiguous()
                digest.update(f"{modality}{tuple(values.shape)}{values.dtype}".encode())
                digest.update(values.numpy().tobytes())
            digest.update(split.labels.contiguous().numpy().tobytes())
        digest.update(self.train_rows.numpy().tobytes())
        return digest.hexdigest()
