"""The pictures of an adversarial set, from a folder or arrays, paired with their originals by id.

What cannot be judged is refused: files that are neither PNG nor BMP, other sizes than the originals
have, ids that name no original or one twice.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from advhash.codes.forms import Reading
from advhash.codes.judgements import read_ids
from advhash.codes.stored_rows import CODES, IDS, as_ids, loaded, member, read_rows, reading
from advhash.data.dataset import Split
from advhash.data.images.decode import (
    FORMATS,
    decode_stored,
    printable,
    quietly,
    reason,
    refuse_broken,
)
from advhash.data.images.mixed import MixedPictures, one_picture
from advhash.data.paths import PICTURES
from advhash.data.readers.shared import SIZES
from advhash.errors import DataError
from advhash.storage.documents import Unreadable, check_archive

READ = ("PNG", "BMP")
ARRAYS = (".npz", ".npy", ".parquet")
IMAGES = ("images", "image", "adversarial", "pixels")  # names of arrays and columns
TARGETS = ("targets", "target")
LONGEST = 1 << 14  # pixels a side, before a picture is decoded
COLOURS = 3


@dataclass(frozen=True)
class ForeignPictures:
    """N pictures as another tool left them.

    form:    of the files, for people
    images:  N of (3,H,W), uint8 or floats in [0,1]
    targets: what each was made to retrieve, where an archive says it
    codes:   whether codes came with them, which are not read
    """

    form: str
    ids: tuple[str, ...]
    images: Sequence[Tensor]
    targets: tuple[str, ...] | None = None
    codes: bool = False

    @property
    def digest(self) -> str:
        """SHA-256 of ids, sizes, types and pixels, in order."""
        digest = hashlib.sha256()
        for name, image in zip(self.ids, self.images, strict=True):
            digest.update(f"{name} {image.dtype} {tuple(image.shape)} ".encode())
            digest.update(image.contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Reread:
    """How originals could be read at other sizes.

    setting: that says at which; stored: whether the sizes of their files are among them
    """

    setting: str
    stored: bool


def bare(name: str) -> str:
    """A name without the suffix of a picture.

    >>> bare("cat/001.PNG"), bare("7 (no. 12)")
    ('cat/001', '7 (no. 12)')
    """
    suffix = next((suffix for suffix in PICTURES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def shown(names: Iterable[str]) -> str:
    """The first three of some names, for a message."""
    listed = [repr(name) for name in names]
    return ", ".join(listed[:3]) + (", …" if len(listed) > 3 else "")


def read_pictures(place: Path, size: tuple[int, int] | None) -> ForeignPictures:
    """The pictures of a folder or of a file of arrays. Raises DataError.

    size: (H,W) of the originals, which flat rows are cut by; None: they have several
    """
    if place.is_dir():
        files = sorted(_visible(place), key=lambda file: file.relative_to(place).as_posix())
        pictures = [file for file in files if file.name.lower().endswith(PICTURES)]
        arrays = [
            file
            for file in files
            if file.suffix.lower() in ARRAYS and not file.stem.endswith(("ids", "codes"))
        ]
        if pictures and arrays:
            raise DataError(
                f"expected pictures or one file of arrays in {place}, got {len(pictures)} pictures "
                f"and {shown(file.relative_to(place).as_posix() for file in arrays)}; move away "
                "what is not to be judged"
            )
        if pictures:
            return _folder(place, pictures)
        if len(arrays) != 1:
            got = f"{len(arrays)} files of arrays" if arrays else "nothing that can be read"
            raise DataError(
                f"expected pictures (PNG, BMP) or one file of arrays ({', '.join(ARRAYS)}) in "
                f"{place}, got {got}: save the changed pictures there"
            )
        place = arrays[0]
    if place.suffix.lower() not in ARRAYS:
        raise DataError(
            f"expected a folder of pictures or a file of arrays ({', '.join(ARRAYS)}), got {place}"
            + ("" if place.exists() else ": not there")
        )
    read = {".npz": _archive, ".npy": _array, ".parquet": _table}[place.suffix.lower()]
    foreign = read(place, size)
    if not foreign.ids:
        raise DataError(f"expected pictures in {place}, got arrays without rows")
    return foreign


def _visible(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        below = path.relative_to(folder).parts
        if path.is_file() and not path.is_symlink() and not any(part[0] == "." for part in below):
            yield path


def _folder(folder: Path, files: Sequence[Path]) -> ForeignPictures:
    """Pictures whose ids are their paths. Raises DataError: broken or unread ones."""
    images, others, broken = [], Counter[str](), []
    names = [printable(file.relative_to(folder).as_posix()) for file in files]
    first = ""
    with quietly():
        for name, file in zip(names, files, strict=True):
            try:
                with Image.open(file, formats=FORMATS) as opened:
                    form = str(opened.format)
                if form not in READ:
                    others[form] += 1
                    first = first or name
                else:
                    pixels = decode_stored(file, LONGEST)
                    images.append(torch.from_numpy(np.ascontiguousarray(pixels)))
            except Exception as error:  # a decoder that is fed broken bytes can raise anything
                broken.append(f"{name} ({reason(error)})")
    if others:
        kinds = ", ".join(f"{count} {form}" for form, count in others.items())
        raise DataError(
            f"expected PNG or BMP in {folder}, which alone are read, got {kinds} of {len(files)} "
            f"files, first {first!r}: save what the attack made as PNG"
        )
    refuse_broken(broken, len(files), str(folder))
    return ForeignPictures("picture files", tuple(bare(name) for name in names), images)


def _archive(file: Path, size: tuple[int, int] | None) -> ForeignPictures:
    with reading(file):
        try:
            held = {name.removesuffix(".npy") for name in check_archive(file)}
        except Unreadable as error:
            raise DataError(f"expected arrays in {file}, got {reason(error)}") from None
        ids, targets = _first(IDS, held), _first(TARGETS, held)
        images = _pixels(member(file, _first(IMAGES, held) or IMAGES[0]), size, file)
        names = as_ids(member(file, ids or IDS[0]), file)
        aims = None if targets is None else as_ids(member(file, targets), file)
    if aims is not None and len(aims) != len(names):
        raise DataError(
            f"{file}: expected a target for each picture, got {len(aims)} targets and {len(names)} "
            "pictures"
        )
    codes = bool(held & set(CODES))
    return ForeignPictures("a NumPy archive", _as_many(names, images, file), images, aims, codes)


def _array(file: Path, size: tuple[int, int] | None) -> ForeignPictures:
    with reading(file):
        images = _pixels(loaded(file, "r"), size, file)
    places = [
        file.with_name(f"{start}ids{suffix}")
        for start in (f"{file.stem}.", "")
        for suffix in (".npy", ".txt")
    ]
    ids = next((place for place in places if place.is_file()), None)
    if ids is None:
        raise DataError(
            f"expected the ids of {file}, one a row, in {places[1].name} or {places[3].name} "
            "beside it, got neither"
        )
    return ForeignPictures("a NumPy array", _as_many(read_ids(ids), images, file), images)


def _table(file: Path, size: tuple[int, int] | None) -> ForeignPictures:
    import pyarrow.parquet as pq

    ids = read_ids(file)  # before the schema, as it refuses what is no Parquet
    held = set(pq.read_schema(file).names)
    name = _first(IMAGES, held)
    if name is None:
        raise DataError(
            f"{file}: expected a column {' or '.join(map(repr, IMAGES))}, got "
            f"{', '.join(sorted(held))}"
        )
    rows = read_rows(file, Reading(column=name)).numbers
    if rows is None:
        raise DataError(f"{file}: expected lists of pixels in {name!r}, got texts")
    images = _pixels(rows, size, file)
    codes = bool(held & set(CODES))
    return ForeignPictures("a Parquet table", _as_many(ids, images, file), images, codes=codes)


def _first(names: Sequence[str], held: set[str]) -> str | None:
    return next((name for name in names if name in held), None)


def _as_many(ids: tuple[str, ...], images: Sequence[Tensor], file: Path) -> tuple[str, ...]:
    if len(ids) != len(images):
        raise DataError(
            f"{file}: expected as many ids as pictures, got {len(ids)} and {len(images)}"
        )
    return tuple(bare(name) for name in ids)


def _pixels(
    array: npt.NDArray[np.generic], size: tuple[int, int] | None, file: Path
) -> list[Tensor]:
    """(N,3,H,W), (N,H,W,3) or flat rows in the order channel, row, column, as N of (3,H,W)."""
    flat = array.ndim == 2 and size is not None and array.shape[1] == COLOURS * size[0] * size[1]
    if flat and size is not None:
        array = array.reshape(len(array), COLOURS, *size)
    if array.ndim != 4 or COLOURS not in (array.shape[1], array.shape[3]):
        raise DataError(
            f"{file}: expected pictures (N,3,H,W) or (N,H,W,3), or flat rows of as many values as "
            f"an original has, got shape {array.shape}"
        )
    if array.shape[1] != COLOURS:
        array = array.transpose(0, 3, 1, 2)
    if array.dtype != np.uint8:
        if array.dtype.kind != "f":
            raise DataError(f"{file}: expected uint8 or floats in [0,1], got {array.dtype}")
        low, high = float(array.min(initial=0)), float(array.max(initial=0))
        if not 0 <= low <= high <= 1:  # NaN, too
            raise DataError(
                f"{file}: expected uint8 or floats in [0,1], got {low:g} to {high:g}; divide "
                "pixels by 255, and undo any normalisation"
            )
        array = array.astype(np.float32)
    return [torch.from_numpy(np.array(image, order="C")) for image in array]


def paired(
    foreign: ForeignPictures, originals: Split, others: Split, where: str, reread: Reread
) -> npt.NDArray[np.int64]:
    """(N,) the row of each picture's original. Raises DataError: ids or sizes that do not fit.

    An id is the name of an original, with or without its suffix, or the number of its row.

    others: rows that are no originals, for what is said of ids that name one of them
    reread: how originals could be read at other sizes, for what is said of sizes
    """
    places: dict[str, int] = {str(row): row for row in range(len(originals))}
    names = [bare(name) for name in originals.names]
    counts = Counter(names)
    places |= {name: row for row, name in enumerate(names) if counts[name] == 1}
    unknown = [name for name in foreign.ids if name not in places]
    if unknown:
        elsewhere = {bare(name) for name in others.names}
        held = [name for name in unknown if name in elsewhere]
        known = f", e.g. {names[0]!r}" if names else ""
        raise DataError(
            f"expected ids of the {len(originals)} originals in {where}, their names{known} or the "
            f"numbers of their rows, got {len(unknown)} of {len(foreign.ids)} others: "
            f"{shown(unknown)}"
            + (f"; {len(held)} of them lie in the database that is searched" if held else "")
        )
    rows = np.array([places[name] for name in foreign.ids], np.int64)
    first = dict(zip(rows[::-1].tolist(), range(len(rows))[::-1], strict=True))
    double = [foreign.ids[at] for at, row in enumerate(rows.tolist()) if first[row] != at]
    if double:
        raise DataError(
            f"expected one picture for each original, got {len(double)} more: {shown(double)}"
        )
    _expect_sizes(foreign, originals, rows, reread)
    return rows


def _expect_sizes(
    foreign: ForeignPictures, originals: Split, rows: npt.NDArray[np.int64], reread: Reread
) -> None:
    images = originals.inputs["image"]
    odd = []
    for name, image, row in zip(foreign.ids, foreign.images, rows.tolist(), strict=True):
        height, width = one_picture(images, row).shape[1:]
        if tuple(image.shape[1:]) != (height, width):
            got = f"{image.shape[2]}×{image.shape[1]}"
            odd.append(f"{name!r} ({got} for {width}×{height})")
    if odd:
        more = ", …" if len(odd) > 3 else ""
        raise DataError(
            f"expected pictures as large as their originals, got {len(odd)} of {len(rows)} of "
            f"other sizes: {', '.join(odd[:3])}{more}; {_size_advice(foreign, images, reread)}"
        )


def _size_advice(
    foreign: ForeignPictures, originals: Tensor | MixedPictures, reread: Reread
) -> str:
    """How originals are read at the sizes of the pictures that were made of them."""
    if isinstance(originals, MixedPictures):
        return "save each at the size of its original"
    sizes = {tuple(image.shape[1:]) for image in foreign.images}
    height, width = next(iter(sizes))
    if len(sizes) == 1 and height == width and SIZES[0] <= width <= SIZES[1]:
        return f"read originals at the size that was attacked by --set {reread.setting}={width}"
    if reread.stored:
        return f"read originals at the sizes of their files by --set {reread.setting}=stored"
    return (
        f"originals are read as squares of one size, {SIZES[0]} to {SIZES[1]} pixels: attack "
        f"those, and name their size by --set {reread.setting}=PIXELS"
    )
