"""A folder of the user's own images, read with care: they may be broken, huge or hostile."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from advhash import splits
from advhash.data import Dataset
from advhash.errors import DataError

__all__ = [
    "Fit",
    "Listing",
    "decode",
    "printable",
    "quietly",
    "read",
    "reason",
    "refuse_broken",
    "walk",
]

Fit = Literal["stretch", "centre"]
CENTRE = 224 / 256  # share of the shorter side that "centre" keeps

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MAX_PIXELS = 64_000_000
MAX_BYTES = 8 * 2**30
MIN_IMAGES = 20
QUERY_SHARE, VALIDATION_SHARE, HELD_OUT_SHARE = 0.15, 0.10, 0.10


@dataclass(frozen=True)
class Listing:
    """The images of a folder, sorted by class and name.

    images: class name and path of each image
    stamps: relative path, size and time of change of each image
    links:  how many links were left out: they may lead out of the folder
    """

    root: Path
    images: tuple[tuple[str, Path], ...]
    stamps: tuple[tuple[str, int, int], ...]
    links: int

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for name, _ in self.images))


def walk(root: Path) -> Listing:
    """List `root/<class>/<image>`, without hidden files and without following links.

    Raises DataError: no such folder, fewer than 2 classes, fewer than 20 images.
    """
    layout = f"expected {root}/<class>/<image>"
    if not os.path.isdir(root):
        raise DataError(f"{layout}, got no folder {root}: check the path")
    images, stamps, links = [], [], 0
    try:
        for folder in _entries(root):
            if folder.is_symlink():
                links += 1
                continue
            if not folder.is_dir():
                continue
            for file in _entries(folder):
                if not file.name.lower().endswith(SUFFIXES):
                    continue
                if file.is_symlink():
                    links += 1
                elif file.is_file():
                    status = file.stat()
                    images.append((printable(folder.name), Path(file.path)))
                    relative = printable(f"{folder.name}/{file.name}")
                    stamps.append((relative, status.st_size, status.st_mtime_ns))
    except OSError as error:
        raise DataError(f"{layout}, got {error.filename}: {error.strerror}") from None
    listing = Listing(root, tuple(images), tuple(stamps), links)
    left_out = f" ({links} links were left out: copy the files instead)" if links else ""
    if len(listing.classes) < 2:
        raise DataError(
            f"{layout} with at least 2 classes, got {len(listing.classes)} sub-folders with "
            f"images{left_out}: make one sub-folder a class"
        )
    if len(images) < MIN_IMAGES:
        raise DataError(
            f"{layout} with at least {MIN_IMAGES} images, got {len(images)}{left_out}: add images"
        )
    return listing


def _entries(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(
            (entry for entry in entries if not entry.name.startswith(".")),
            key=lambda entry: entry.name,
        )


def printable(name: str) -> str:
    """A file name that can be printed and stored, whatever its bytes are."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def read(listing: Listing, size: int, seed: int) -> Dataset:
    """Decode all images to size × size and split them class by class.

    Raises DataError: images that cannot be read, their number and the first three in one line.
    """
    names = [relative for relative, _, _ in listing.stamps]
    order = splits.seeded_order(names, seed)
    names = [names[row] for row in order]
    if len(names) * 3 * size**2 > MAX_BYTES:
        raise DataError(
            f"expected at most {MAX_BYTES >> 30} GiB of pixels, got {len(names):,} images of "
            f"{size}×{size}: choose a smaller size"
        )
    images = np.empty((len(names), 3, size, size), np.uint8)
    broken = []
    with quietly():
        for place, row in enumerate(order):
            try:
                images[place] = decode(listing.images[row][1], size)
            except Exception as error:  # a decoder that is fed broken bytes can raise anything
                broken.append(f"{names[place]} ({reason(error)})")
    refuse_broken(broken, len(names), str(listing.root))
    classes = listing.classes
    targets = np.array([classes.index(listing.images[row][0]) for row in order])
    first: dict[bytes, int] = {}
    groups = [first.setdefault(image.tobytes(), row) for row, image in enumerate(images)]
    return splits.assemble(
        "folder",
        _stratified(targets, groups),
        {"image": torch.from_numpy(images)},
        np.eye(len(classes), dtype=np.uint8)[targets],
        names,
        classes,
        source="images given by the user",
        licence="unknown",
        repeated_pictures=len(images) - len(first),
        links_left_out=listing.links,
        warnings=["Near-duplicates are not looked for: only identical pictures share a split."],
    )


def decode(source: Path | bytes, size: int, fit: Fit = "stretch") -> npt.NDArray[np.uint8]:
    """(3,size,size) of an image file or its bytes: turned upright, on white, made square by `fit`.

    "stretch" keeps all of the picture. "centre" keeps the middle, as hashing papers do: of the
    shorter side 224/256. Remarks of Pillow about metadata are warnings; see `quietly`.
    """
    with _open(source) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"{image.width}×{image.height}: over {MAX_PIXELS:,} pixels")
        image.verify()
    with _open(source) as image:  # `verify` leaves it unusable
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        elif upright.mode in ("I", "F"):
            raise ValueError("pixels of 32 bits, whose range is not known")
        if upright.has_transparency_data:
            over = upright.convert("RGBA")
            upright = Image.new("RGBA", over.size, "white")
            upright.alpha_composite(over)
        square = upright.convert("RGB").resize(
            (size, size), Image.Resampling.BICUBIC, _box(upright.size, fit)
        )
    return np.asarray(square).transpose(2, 0, 1)


def _open(source: Path | bytes) -> Image.Image:
    return Image.open(source if isinstance(source, Path) else io.BytesIO(source), formats=FORMATS)


def _box(size: tuple[int, int], fit: Fit) -> tuple[float, float, float, float] | None:
    if fit == "stretch":
        return None
    width, height = size
    side = min(size) * CENTRE
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


@contextmanager
def quietly() -> Iterator[None]:
    """No remarks of Pillow; held around threads, since the filters belong to the process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def refuse_broken(broken: Sequence[str], count: int, where: str) -> None:
    """Raise DataError where images of `count` are broken: "name (reason)", the first three."""
    if broken:
        more = ", …" if len(broken) > 3 else ""
        raise DataError(
            f"expected readable images in {where}, got {len(broken)} of "
            f"{count} broken: {', '.join(sorted(broken)[:3])}{more}; repair or remove them"
        )


def reason(error: Exception) -> str:
    """Why an image cannot be read."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"over {MAX_PIXELS:,} pixels"
    return str(error) or type(error).__name__


def _stratified(
    targets: npt.NDArray[np.int64], groups: list[int]
) -> dict[str, npt.NDArray[np.int64]]:
    """Rows of each split, with the same shares of each class; at least one row stays to train on.

    Identical pictures stay together and count with the class of the first of them.
    """
    parts: dict[str, list[npt.NDArray[np.int64]]] = {}
    of_group = targets[groups]
    for target in np.unique(of_group):
        members = np.flatnonzero(of_group == target)
        sizes = {
            "query": round(len(members) * QUERY_SHARE),
            "validation": round(len(members) * VALIDATION_SHARE),
            "held_out": int(len(members) * HELD_OUT_SHARE),
        }
        rows = splits.split_rows([groups[row] for row in members.tolist()], sizes)
        for name, places in rows.items():
            parts.setdefault(name, []).append(members[places])
    return {name: np.concatenate(places) for name, places in parts.items()}
