"""Pictures of several sizes: one behind the other in one flat file, batches of one size each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.data.images.decode import (
    MAX_BYTES,
    TooLarge,
    decode_stored,
    quietly,
    reason,
    refuse_broken,
    refuse_larger,
)
from advhash.data.images.rows import map_images
from advhash.errors import DataError, UsageError, counted

COLOURS = 3
VALUES = 1 << 24  # numbers in a batch, at most, unless one picture has more
Sizes = npt.NDArray[np.int64]


def type_name(dtype: torch.dtype) -> str:
    """`uint8` for `torch.uint8`."""
    return str(dtype).removeprefix("torch.")


def to_unit(values: Tensor) -> Tensor:
    """uint8 images as float32 in [0,1]; other tensors as float32, unchanged."""
    return values.float() / 255 if values.dtype == torch.uint8 else values.float()


@dataclass(frozen=True, eq=False, repr=False)
class MixedPictures:
    """N pictures (3,H,W), each with its own H and W; rows are chosen without a copy.

    flat:   (V,) uint8 at rest, perhaps mapped from a file, or float32 in [0,1]: all pixels
    sizes:  (N,2) height and width of each picture
    starts: (N,) where each picture begins in `flat`

    >>> sizes = [(1, 2), (2, 1), (1, 2)]
    >>> pictures = MixedPictures.of([torch.zeros(3, *size) for size in sizes])
    >>> [rows.tolist() for rows in pictures.batches(8)], pictures[[2, 0]].stacked().shape
    ([[0, 2], [1]], torch.Size([2, 3, 1, 2]))
    >>> pictures
    <3 pictures of 2 sizes, float32>
    """

    flat: Tensor
    sizes: Sizes
    starts: Sizes

    @classmethod
    def behind(cls, flat: Tensor, sizes: npt.ArrayLike) -> MixedPictures:
        """Pictures that lie one behind the other. Raises ValueError: sizes that do not add up."""
        sides = np.asarray(sizes, np.int64).reshape(-1, 2)
        numbers = COLOURS * sides.prod(axis=1)
        if int(numbers.sum()) != len(flat):
            raise ValueError(f"expected {int(numbers.sum())} values, got {len(flat)}")
        return cls(flat, sides, numbers.cumsum() - numbers)

    @classmethod
    def of(cls, images: Sequence[Tensor]) -> MixedPictures:
        """A copy of these (3,H,W), at least one, one behind the other."""
        flat = torch.cat([image.reshape(-1) for image in images])
        return cls.behind(flat, [tuple(image.shape[1:]) for image in images])

    def __len__(self) -> int:
        return len(self.sizes)

    def __repr__(self) -> str:
        pictures, sizes = counted(len(self), "picture"), counted(self.count(), "size")
        return f"<{pictures} of {sizes}, {type_name(self.dtype)}>"

    @property
    def dtype(self) -> torch.dtype:
        return self.flat.dtype

    def picture(self, row: int) -> Tensor:
        """(3,H,W) of one row, a view."""
        height, width = self.sizes[row].tolist()
        start = int(self.starts[row])
        part = self.flat[start : start + COLOURS * height * width]
        return part.view(COLOURS, height, width)

    def __iter__(self) -> Iterator[Tensor]:
        return (self.picture(row) for row in range(len(self)))

    def __getitem__(self, rows: Any) -> MixedPictures:
        """The pictures of some rows, given by their numbers or a slice."""
        chosen = rows if isinstance(rows, slice) else np.asarray(rows)
        return MixedPictures(self.flat, self.sizes[chosen], self.starts[chosen])

    def stacked(self) -> Tensor:
        """(N,3,H,W). Raises UsageError where the pictures differ in size."""
        if not self.is_even():
            raise UsageError(
                f"expected pictures of one size, got {len(self)} of {self.count()} sizes: take "
                "what works on each picture at its own size, or give all one size by --set "
                "dataset.size=PIXELS"
            )
        if not len(self):
            return self.flat.new_empty((0, COLOURS, 1, 1))
        return torch.stack(list(self))

    def count(self) -> int:
        """How many sizes there are."""
        return len(np.unique(self.sizes, axis=0))

    def is_even(self) -> bool:
        """Whether all pictures have one size."""
        return bool((self.sizes == self.sizes[:1]).all())

    def batches(self, most: int) -> list[Tensor]:
        """Rows of one size each, at most `most` and so many as fit into memory; by size, by row."""
        _, kinds = np.unique(self.sizes, axis=0, return_inverse=True)
        groups = []
        for kind in range(int(kinds.max(initial=-1)) + 1):
            rows = torch.from_numpy(np.flatnonzero(kinds.reshape(-1) == kind))
            values = COLOURS * int(self.sizes[rows[0]].prod())
            groups += list(rows.split(max(1, min(most, VALUES // values))))
        return groups

    def evened(self) -> Tensor | MixedPictures:
        """(N,3,S,S) in memory where all are squares of one size, as victims of one size take it."""
        square = self.is_even() and len(self) and self.sizes[0, 0] == self.sizes[0, 1]
        return self.stacked() if square else self

    def sha256(self) -> str:
        """The digest of the pixels of all rows, in order."""
        digest = hashlib.sha256()
        for image in self:
            digest.update(image.contiguous().numpy().data)
        return digest.hexdigest()

    def write(self, file: Path) -> None:
        """The pixels of all rows, in order. Raises OSError: the disk is full."""
        with file.open("wb") as stream:
            for image in self:
                stream.write(image.contiguous().numpy().data)

    @classmethod
    def mapped(cls, file: Path, sizes: Sequence[Sequence[int]]) -> MixedPictures:
        """What `write` wrote. Raises ValueError: the file has another length."""
        numbers = COLOURS * sum(height * width for height, width in sizes)
        return cls.behind(map_images(file, (numbers,)), sizes)


def stored_images(
    names: Sequence[str], files: Sequence[Path], where: str, longest: int
) -> Iterator[npt.NDArray[np.uint8]]:
    """(3,H,W) of every file at its own size, in order.

    Raises DataError, after all are read: how many could not be, or have a side above `longest`, and
    the first three.
    """
    broken: list[str] = []
    larger: list[str] = []
    octets = 0
    with quietly():
        for name, file in zip(names, files, strict=True):
            try:
                image = decode_stored(file, longest)
            except TooLarge as error:
                larger.append(f"{name} ({error})")
                continue
            except Exception as error:  # a decoder that is fed broken bytes can raise anything
                broken.append(f"{name} ({reason(error)})")
                continue
            octets += image.size
            if octets > MAX_BYTES:
                raise DataError(
                    f"expected at most {MAX_BYTES >> 30} GiB of pixels in {where}, got more in "
                    f"{len(names):,} pictures: give all one size by --set dataset.size=PIXELS"
                )
            if not broken and not larger:
                yield image
    refuse_broken(broken, len(names), where)
    refuse_larger(larger, len(names), where, longest)


def gathered(folder: Path, images: Iterable[npt.NDArray[np.uint8]]) -> MixedPictures:
    """Pictures (3,H,W) in a file of `folder` that has no name any more, so that it ends with them.

    Raises OSError: the disk is full.
    """
    file = folder / "gathered.u8"
    sizes = []
    try:
        with file.open("wb") as stream:
            for image in images:
                sizes.append(image.shape[1:])
                stream.write(np.ascontiguousarray(image).data)
        return MixedPictures.mapped(file, sizes)
    finally:
        file.unlink(missing_ok=True)


def image_batches(images: Tensor | MixedPictures, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows and (B,3,H,W) of them in [0,1], of one size each; a tensor as it is, in order.

    >>> [rows.tolist() for rows, _ in image_batches(torch.zeros(3, 3, 2, 2), 2)]
    [[0, 1], [2]]
    """
    if isinstance(images, MixedPictures):
        for rows in images.batches(most):
            yield rows, to_unit(images[rows].stacked())
        return
    for start in range(0, len(images), most):
        part = images[start : start + most]
        yield torch.arange(start, start + len(part)), part


def one_picture(images: Tensor | MixedPictures, row: int) -> Tensor:
    """(3,H,W) of one row, as stored."""
    return images.picture(row) if isinstance(images, MixedPictures) else images[row]


def as_tensor(values: Tensor | MixedPictures) -> Tensor:
    """Values of one size as one tensor. Raises UsageError: pictures of several sizes."""
    return values.stacked() if isinstance(values, MixedPictures) else values


def in_order(rows: Sequence[Tensor]) -> npt.NDArray[np.int64]:
    """Where each row, from 0 on, stands in batches of these rows."""
    return np.asarray(torch.cat(list(rows)).argsort().numpy(), np.int64)
