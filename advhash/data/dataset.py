"""What a data set is: images as uint8, text as numbers, multi-hot labels, three splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.data.images.mixed import MixedPictures, as_tensor, to_unit, type_name
from advhash.errors import DataError, UsageError, counted
from advhash.registry import data_called, is_own
from advhash.shared_labels import are_groups

Modality = str  # "image", "text", "table"; of a federation "party0", "party1" …
SplitName = Literal["train", "database", "validation", "query"]
Stored = Tensor | MixedPictures
FEW = 6  # classes that a data set names where it is printed
TextKind = Literal["words", "tokens", "sentence", "characters"]  # see advhash/data/text/kinds.py


@dataclass(frozen=True, repr=False)
class Batch:
    """B items.

    inputs: "image" (B,3,H,W) float32 in [0,1]; "text" (B,V) float32 counts, (B,L) int64 tokens,
            (B,384) float32 embeddings or (B,L) int32 characters
    labels: (B,C) uint8 multi-hot, or (B,L) int32 groups; see advhash/shared_labels.py
    index:  (B,) int64, row in the split it came from

    >>> import torch
    >>> import advhash as ah
    >>> digits = ah.load_dataset("digits")
    >>> digits.query.rows([0, 5])
    <Batch of 2 rows: image float32 (2, 3, 32, 32) in 0 … 1, labels uint8 (2, 10), index in 0 … 5>
    >>> images = torch.zeros(2, 3, 32, 32)
    >>> len(ah.Batch({"image": images}, digits.query.labels[:2], torch.arange(2)))
    2
    """

    inputs: Mapping[Modality, Tensor]
    labels: Tensor
    index: Tensor

    def __post_init__(self) -> None:
        """Raise UsageError for what is no tensor, e.g. an array of numpy."""
        if not isinstance(self.inputs, Mapping):
            raise UsageError(
                f'Batch: expected inputs={{"image": tensor}}, got {type(self.inputs).__name__}'
            )
        parts = {**self.inputs, "labels": self.labels, "index": self.index}
        for name, value in parts.items():
            if not isinstance(value, Tensor):
                raise UsageError(
                    f"Batch: expected {name} to be a tensor of torch, got "
                    f"{type(value).__name__}; use torch.as_tensor(…)"
                )
            if value.dim() == 0 or len(value) != len(self.labels):
                raise UsageError(
                    f"Batch: expected as many labels as rows of {name}, got {len(self.labels)} "
                    f"labels and {name} of shape {tuple(value.shape)}"
                )
        if self.index.dim() != 1 or self.index.is_floating_point():
            raise UsageError(
                "Batch: expected whole numbers as index, one a row, got "
                f"{self.index.dtype} of shape {tuple(self.index.shape)}"
            )

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        inputs = [f"{name} {_kind(part)}{_range(part)}" for name, part in self.inputs.items()]
        shown = [*inputs, f"labels {_kind(self.labels)}", f"index{_range(self.index)}"]
        return f"<Batch of {counted(len(self), 'row')}: {', '.join(shown)}>"

    def to(self, device: torch.device | str) -> Batch:
        return Batch(
            {name: values.to(device) for name, values in self.inputs.items()},
            self.labels.to(device),
            self.index.to(device),
        )


@dataclass(frozen=True, repr=False)
class Split:
    """The rows of one split, as stored: images uint8 (N,3,H,W), text of one of four kinds.

    Large images lie in a mapped file: `rows` and `batches` read what they return, no more. Images
    of several sizes are `MixedPictures`: a batch holds those of one size.

    names: one short human-readable name a row, for pictures and tables
    texts: what "text" was made from, one string a row, or ()
    digests: SHA-256 of the inputs that lie in a mapped file, so that none is read to be compared
    """

    inputs: Mapping[Modality, Stored]
    labels: Tensor
    names: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    digests: Mapping[Modality, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        parts = {**self.inputs, "labels": self.labels}
        shown = (f"{name} {_kind(part)}" for name, part in parts.items())
        return f"<Split of {counted(len(self), 'row')}: {', '.join(shown)}>"

    def rows(self, index: Tensor | npt.NDArray[np.int64]) -> Batch:
        """The given rows as a batch of raw units ([0,1] pixels).

        Raises UsageError: pictures of several sizes.
        """
        index = self._numbers(index)
        return Batch(
            {name: self.unit(name, values[index]) for name, values in self.inputs.items()},
            self.labels[index],
            index,
        )

    def _numbers(self, index: Tensor | npt.NDArray[np.int64]) -> Tensor:
        """(N,) row numbers; a mask of all rows stands for those that it marks."""
        try:
            given = torch.as_tensor(index)
        except (TypeError, ValueError, RuntimeError):
            given = torch.empty(0, 0)
        if given.dtype == torch.bool and given.shape == (len(self),):
            return given.nonzero()[:, 0]
        whole = not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
        if given.dim() != 1 or not (whole or given.numel() == 0):
            raise UsageError(
                f"expected the numbers of rows, one whole number each, or a mask of {len(self)} "
                f"rows, got {type(index).__name__} {tuple(given.shape)} of {given.dtype}"
            )
        given = given.to(torch.int64)
        if given.numel() and not 0 <= int(given.min()) <= int(given.max()) < len(self):
            raise UsageError(
                f"expected rows in 0 … {len(self) - 1}, got {int(given.min())} to "
                f"{int(given.max())}"
            )
        return given

    @staticmethod
    def unit(modality: Modality, stored: Stored) -> Tensor:
        """Stored values in the units that victims and attacks see; whole numbers of texts stay."""
        if isinstance(stored, MixedPictures):
            return to_unit(stored.stacked())
        if modality == "image" or modality.startswith("party"):
            return to_unit(stored)
        return stored if stored.dtype in (torch.int64, torch.int32) else stored.float()

    @property
    def mixed(self) -> MixedPictures | None:
        """Its pictures, where these have several sizes."""
        images = self.inputs.get("image")
        return images if isinstance(images, MixedPictures) else None

    def tensor(self, modality: Modality) -> Tensor:
        """All stored values of a modality. Raises UsageError: pictures of several sizes."""
        return as_tensor(self.inputs[modality])

    def batches(self, size: int) -> Iterator[Batch]:
        """All rows in order, `size` at a time; pictures of several sizes one size after the other.

        `Batch.index` says which rows they are.
        """
        for rows in self.groups(torch.arange(len(self)), size):
            yield self.rows(rows)

    def groups(self, rows: Tensor, size: int) -> list[Tensor]:
        """Places among the given rows that make a batch each, in the same way."""
        if self.mixed is not None:
            return self.mixed[rows].batches(size)
        return list(torch.arange(len(rows)).split(size)) if len(rows) else []

    def sample(self, size: int) -> Batch:
        """The first rows, at most `size`; of several sizes, those that are as large as the first.

        For what looks at a few rows, whichever they are.
        """
        rows = torch.arange(min(size, len(self)))
        if self.mixed is not None:
            same = (self.mixed.sizes == self.mixed.sizes[:1]).all(axis=1)
            rows = torch.from_numpy(np.flatnonzero(same)[:size])
            rows = rows[self.groups(rows, size)[0]] if len(rows) else rows
        return self.rows(rows)

    def take(self, index: Tensor | npt.NDArray[np.int64]) -> Split:
        """A split of the given rows only, copied into memory."""
        index = torch.as_tensor(index, dtype=torch.int64)
        rows = index.tolist()
        return Split(
            {name: values[index] for name, values in self.inputs.items()},
            self.labels[index],
            tuple(self.names[row] for row in rows) if self.names else (),
            tuple(self.texts[row] for row in rows) if self.texts else (),
        )


@dataclass(frozen=True, repr=False)
class Dataset:
    """A retrieval data set.

    database:   what queries search in; victims are trained on its rows `train_rows` only
    validation: for choosing settings and thresholds, never for a reported figure
    query:      the held-out queries
    classes:    names of the C label columns; where labels are groups, names of the groups, or ()
    increments: for lifelong victims, the default order in which new categories arrive, each a
                tuple of class names; an item is new if it carries any of them
    card:       what a reader must know: counts, source, licence, warnings
    attribution: the line that the licence demands beside every picture, or ""
    text_kind:  what "text" holds: counts of words, tokens, embeddings, or the text itself
    vocabulary: what the V columns of "text" count, or what the V tokens are, e.g. "word:dog"; ()
                where that is not known
    training:   the rows that victims are trained on where the database holds none of them, as some
                published lists have it; None: they are its rows `train_rows`, none otherwise
    parties:    how many columns of the table each party of a federation holds, in their order; ()
                where the data do not say
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
    vocabulary: tuple[str, ...] = ()
    text_kind: TextKind = "words"
    parties: tuple[int, ...] = ()
    training: Split | None = None

    def __repr__(self) -> str:
        labels = counted(self.label_count, "group" if self.grouped else "class")
        if not self.grouped and self.classes:
            named = self.classes[:FEW]
            labels += f": {', '.join(named)}{', …' if len(self.classes) > FEW else ''}"
        counts = {name: f"{name} {len(split):,}" for name, split in self.stored.items()}
        if self.training is None:
            counts["database"] += f" ({len(self.train_rows):,} trained on)"
        inputs = (f"{name} {_kind(part)}" for name, part in self.database.inputs.items())
        return (
            f"{self.called}, {labels}\n"
            f"rows: {', '.join(counts.values())}\n"
            f"database: {', '.join(inputs)}"
        )

    @property
    def called(self) -> str:
        """What people call it, see `advhash.registry.data_called`."""
        return data_called(self.name, self.settings)

    @property
    def named(self) -> dict[str, str]:
        """For plans: what it is called, and where that is a name of the user's own, its reader."""
        reader = {"reader": self.name} if is_own(self.name, self.settings) else {}
        return {"name": self.called, **reader}

    @property
    def modalities(self) -> tuple[Modality, ...]:
        return tuple(self.database.inputs)

    @property
    def pictures(self) -> dict[str, Any] | None:
        """What size of pictures a model is fed, and what sizes are stored where that is known.

        {"fed": [width, height], "stored": {count, larger, smallest, median, largest} or None};
        fed is None where each picture is fed at its own size.
        """
        images = self.query.inputs.get("image")
        if images is None:
            return None
        stored = self.card.get("stored_pictures")
        if isinstance(images, MixedPictures):
            return {"fed": None, "stored": stored}
        height, width = images.shape[-2:]
        return {"fed": [width, height], "stored": stored}

    @property
    def grouped(self) -> bool:
        """Whether labels are groups, such as the pictures of one product, and no classes."""
        return are_groups(self.database.labels)

    @property
    def label_count(self) -> int:
        """How many labels there are: columns, or numbers of groups up to the largest."""
        if not self.grouped:
            return self.database.labels.shape[1]
        return 1 + max(int(part.labels.max()) for part in self.stored.values() if len(part))

    def class_count(self, user: str) -> int:
        """How many classes there are, for a victim or an attack that learns them one by one.

        Raises DataError: labels are groups.
        """
        if self.grouped:
            raise DataError(
                f"{user} learns classes: expected data with classes, got {self.name!r} with "
                f"{self.label_count:,} groups of rows that belong together; take another method "
                "or another data set"
            )
        return len(self.classes)

    @property
    def mixed(self) -> bool:
        """Whether pictures have several sizes."""
        return any(split.mixed is not None for split in self.stored.values())

    def expect_one_size(self, user: str) -> None:
        """Raise DataError where pictures have several sizes, for what can only take one."""
        if self.mixed:
            raise DataError(
                f"{user} takes pictures of one size: expected that, got {self.name!r} at the sizes "
                "of its files; give all one size by --set dataset.size=PIXELS"
            )

    @property
    def train(self) -> Split:
        """The rows that victims are trained on: a copy of those in the database."""
        return self.database.take(self.train_rows) if self.training is None else self.training

    @property
    def train_labels(self) -> Tensor:
        """(N,C) labels of `train`, without a copy of the rest."""
        if self.training is None:
            return self.database.labels[self.train_rows]
        return self.training.labels

    def rows_trained_on(self, user: str) -> Tensor:
        """`train_rows`, for what needs them in the database. Raises DataError: they are not."""
        if self.training is not None:
            raise DataError(
                f"{user} needs training rows that are in the database: those of {self.name!r} are "
                "lists apart (training: apart on the card); list them for the database too"
            )
        return self.train_rows

    @property
    def stored(self) -> dict[str, Split]:
        """The splits that are kept, by name, "training" where there is one."""
        splits = {"database": self.database, "validation": self.validation, "query": self.query}
        return splits if self.training is None else {**splits, "training": self.training}

    def split(self, name: SplitName) -> Split:
        if name == "train":  # a copy, made only where it is asked for
            return self.train
        return {"database": self.database, "validation": self.validation, "query": self.query}[name]

    def fingerprint(self) -> str:
        """SHA-256 over all stored values: equal iff the data are equal."""
        digest = hashlib.sha256(repr((self.name, self.classes)).encode())
        if self.text_kind != "words":
            digest.update(self.text_kind.encode())
        if self.vocabulary:
            digest.update(repr(self.vocabulary).encode())
        if self.parties:
            digest.update(f"parties{self.parties}".encode())
        for split in self.stored.values():
            for modality in sorted(split.inputs):
                values = split.inputs[modality]
                known = split.digests.get(modality)
                if isinstance(values, MixedPictures):
                    digest.update(f"{modality}{values.sizes.tolist()}{values.dtype}".encode())
                    digest.update((known or values.sha256()).encode())
                    continue
                digest.update(f"{modality}{tuple(values.shape)}{values.dtype}".encode())
                digest.update(_bytes(values) if known is None else known.encode())
            digest.update(_bytes(split.labels))
            if split.texts:
                digest.update(repr(split.texts).encode())
        digest.update(_bytes(self.train_rows))
        return digest.hexdigest()


def _kind(values: Stored) -> str:
    """Type and shape of stored values, none of which is read."""
    if isinstance(values, MixedPictures):
        return repr(values)
    return f"{type_name(values.dtype)} {tuple(values.shape)}"


def _range(values: Tensor) -> str:
    """The smallest and the largest of the values, where there are any."""
    if not values.numel():
        return ""
    low, high = values.min().item(), values.max().item()
    form = ".3g" if values.is_floating_point() else ","
    return f" in {low:{form}} … {high:{form}}"


def _bytes(values: Tensor) -> memoryview:
    """The bytes of a tensor; no copy where its rows lie one after the other."""
    return values.contiguous().numpy().reshape(-1).view(np.uint8).data
