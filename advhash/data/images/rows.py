"""Images too many for memory: decoded by threads into a file, and mapped from it, row by row."""

from __future__ import annotations

import hashlib
import math
import mmap
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool  # an interrupt does not wait for a read that hangs
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.data.images.decode import quietly, reason, refuse_broken

Pixels = npt.NDArray[np.uint8]
BLOCK = 64  # images in memory at once
MAX_THREADS = 8
# Without it Linux refuses to map, writable, a file larger than memory. Python names it since 3.13.
NO_RESERVE: int = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


@dataclass(frozen=True)
class Stored:
    """What was written.

    images: uint8 (N,3,H,W), mapped
    sha256: of all pixels
    of_row: a digest of each image, by which repeated pictures are found
    """

    images: Tensor
    sha256: str
    of_row: tuple[bytes, ...]


def image_file(folder: Path, split: str) -> Path:
    """Where the images of a split lie in the folder of a data set."""
    return folder / f"{split}.image.u8"


def decode_blocks(
    names: Sequence[str], load: Callable[[int], Pixels], where: str
) -> Iterator[Pixels]:
    """`load(row)`, (3,H,W), of every row in order, at most 64 together, by threads.

    Raises DataError, after all are read: how many could not be, and the first three with reasons.
    """
    broken: list[str] = []
    missing = np.zeros((3, 1, 1), np.uint8)

    def attempt(row: int) -> Pixels:
        try:
            return load(row)
        except Exception as error:  # a decoder that is fed broken bytes can raise anything
            broken.append(f"{names[row]} ({reason(error)})")
            return missing

    threads = min(MAX_THREADS, os.cpu_count() or 1)
    with quietly(), ThreadPool(threads) as pool:
        for start in range(0, len(names), BLOCK):
            images = pool.map(attempt, range(start, min(start + BLOCK, len(names))))
            if not broken:
                yield np.stack(images)
    refuse_broken(broken, len(names), where)


def write_images(file: Path, blocks: Iterable[Pixels], size: int) -> Stored:
    """Write blocks (B,3,size,size) one after the other and map them.

    Raises OSError: the disk is full. (Writing into a mapping would kill the process instead.)
    """
    digest, of_row = hashlib.sha256(), []
    with file.open("wb") as stream:
        for block in blocks:
            for image in np.ascontiguousarray(block):
                digest.update(image)
                of_row.append(hashlib.blake2b(image, digest_size=16).digest())
                stream.write(image)
    shape = (len(of_row), 3, size, size)
    return Stored(map_images(file, shape), digest.hexdigest(), tuple(of_row))


def map_images(file: Path, shape: Sequence[int]) -> Tensor:
    """uint8 `shape` of a file: pages are read when they are used and dropped when memory is short.

    Writing to the tensor does not reach the file. Raises ValueError: the file has another size.
    """
    if file.stat().st_size != math.prod(shape):
        raise ValueError(f"expected {math.prod(shape)} bytes in {file}")
    if not math.prod(shape):
        return torch.empty(tuple(shape), dtype=torch.uint8)
    with file.open("rb") as stream:
        mapped = mmap.mmap(
            stream.fileno(),
            0,
            flags=mmap.MAP_PRIVATE | NO_RESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )
    return torch.frombuffer(mapped, dtype=torch.uint8).reshape(tuple(shape))
