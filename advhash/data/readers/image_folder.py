"""A folder of the user's own images, read with care: they may be broken, huge or hostile."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.data import splits
from advhash.data.dataset import Dataset, Stored
from advhash.data.images.decode import (
    MAX_BYTES,
    decode,
    printable,
    quietly,
    reason,
    refuse_broken,
    unread as unread_files,
    unread_warning,
)
from advhash.data.images.mixed import gathered, stored_images
from advhash.data.paths import PICTURES
from advhash.data.readers.shared import Size, cached_reading, check_size, visible_entries
from advhash.errors import DataError
from advhash.registry import DATASETS
from advhash.shared_labels import as_groups
from advhash.storage.places import user_path

MIN_IMAGES = 20
LEAST_OF_CLASS = 6  # pictures of a class that give a query and a validation row
Meaning = Literal["classes", "identities"]
QUERY_SHARE, VALIDATION_SHARE, HELD_OUT_SHARE = 0.15, 0.10, 0.10


@dataclass(frozen=True)
class Listing:
    """The images of a folder, sorted by class and name.

    images: class name and path of each image
    stamps: relative path, size and time of change of each image
    links:  how many links were left out: they may lead out of the folder
    unread: how many other files there are, by their suffix, and why each is not read
    """

    root: Path
    images: tuple[tuple[str, Path], ...]
    stamps: tuple[tuple[str, int, int], ...]
    links: int
    unread: Mapping[str, str]

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
    others: list[str] = []
    deeper = 0
    try:
        for folder in visible_entries(root):
            if folder.is_symlink():
                links += 1
                continue
            if not folder.is_dir():
                others.append(folder.name)
                continue
            for file in visible_entries(folder):
                if not file.name.lower().endswith(PICTURES):
                    others += [file.name] * file.is_file()
                    deeper += file.is_dir()
                    continue
                if file.is_symlink():
                    links += 1
                elif file.is_file():
                    status = file.stat()
                    images.append((printable(folder.name), Path(file.path)))
                    relative = printable(f"{folder.name}/{file.name}")
                    stamps.append((relative, status.st_size, status.st_mtime_ns))
    except OSError as error:
        raise DataError(f"{layout}, got {error.filename}: {reason(error)}") from None
    unread = unread_files(others)
    if deeper:
        unread["folders in class folders"] = f"{deeper}: one level of folders is read"
    listing = Listing(root, tuple(images), tuple(stamps), links, unread)
    left_out = f" ({links} links were left out: copy the files instead)" if links else ""
    left_out += "".join(f" ({line})" for line in unread_warning(unread))
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


def read(
    listing: Listing, size: Size, seed: int, longest: int, folder: Path, meaning: Meaning
) -> Dataset:
    """Decode all images, to size × size or as they are, and split them class by class.

    folder:  where pictures of several sizes lie meanwhile
    meaning: of a sub-folder

    Raises DataError: images that cannot be read, or are too large, their number and the first three
    in one line.
    """
    names = [relative for relative, _, _ in listing.stamps]
    order = splits.seeded_order(names, seed)
    names = [names[row] for row in order]
    files = [listing.images[row][1] for row in order]
    targets = np.array([listing.classes.index(listing.images[row][0]) for row in order])
    if size == "stored":
        images = gathered(folder, stored_images(names, files, str(listing.root), longest))
        return _split(listing, names, targets, images.evened(), meaning)
    return _split(listing, names, targets, _square(listing, names, files, size), meaning)


def _square(listing: Listing, names: Sequence[str], files: Sequence[Path], size: int) -> Tensor:
    """(N,3,size,size) of all images."""
    if len(names) * 3 * size**2 > MAX_BYTES:
        raise DataError(
            f"expected at most {MAX_BYTES >> 30} GiB of pixels, got {len(names):,} images of "
            f"{size}×{size}: choose a smaller size"
        )
    images = np.empty((len(names), 3, size, size), np.uint8)
    broken = []
    with quietly():
        for place, file in enumerate(files):
            try:
                images[place] = decode(file, size)
            except Exception as error:  # a decoder that is fed broken bytes can raise anything
                broken.append(f"{names[place]} ({reason(error)})")
    refuse_broken(broken, len(names), str(listing.root))
    return torch.from_numpy(images)


def _split(
    listing: Listing,
    names: Sequence[str],
    targets: npt.NDArray[np.int64],
    images: Stored,
    meaning: Meaning,
) -> Dataset:
    """The splits, the same pictures on one side."""
    classes = listing.classes
    first: dict[bytes, int] = {}
    groups = [
        first.setdefault(f"{tuple(image.shape)}".encode() + image.numpy().tobytes(), row)
        for row, image in enumerate(images)
    ]
    identities = meaning == "identities"
    if identities:
        rows = splits.by_identity(targets, groups, QUERY_SHARE, VALIDATION_SHARE)
        advice = "three sub-folders or more are needed, two of them with different pictures"
    else:
        rows = _stratified(targets, groups)
        advice = (
            f"of each class {100 * QUERY_SHARE:.0f} % are queries and "
            f"{100 * VALIDATION_SHARE:.0f} % validation, so one of {LEAST_OF_CLASS} different "
            f"pictures or more is needed, got at most "
            f"{_largest_class(targets, groups)}; where a sub-folder is one thing, such as a "
            "product, say so by --set dataset.labels=identities"
        )
    splits.refuse_empty(
        {name: len(rows[name]) for name in ("query", "validation", "train")},
        str(listing.root),
        advice,
    )
    return splits.assemble(
        "folder",
        rows,
        {"image": images},
        as_groups(targets) if identities else np.eye(len(classes), dtype=np.uint8)[targets],
        names,
        classes,
        source="images given by the user",
        licence="unknown",
        repeated_pictures=len(images) - len(first),
        links_left_out=listing.links,
        files_not_read=dict(listing.unread),
        warnings=[
            "Near-duplicates are not looked for: only identical pictures share a split.",
            *unread_warning(listing.unread),
        ],
    )


def _largest_class(targets: npt.NDArray[np.int64], groups: list[int]) -> int:
    """How many different pictures the largest class has."""
    return int(np.bincount(targets[np.unique(groups)]).max())


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


@DATASETS.register("folder", source="your own images: ROOT/<class>/*.png, .jpg, …")
def read_folder(
    *,
    root: str,
    size: int | Literal["stored"] = 32,
    seed: int = 0,
    longest: int = 1024,
    labels: Literal["classes", "identities"] = "classes",
) -> Dataset:
    """Your own images: one sub-folder a class, whose name is the label."""
    check_size(size, longest)
    listing = walk(user_path(root))
    return cached_reading(
        "folder",
        lambda folder: read(listing, size, seed, longest, folder, labels),
        {
            "root": root,
            "size": size,
            "seed": seed,
            **({"longest": longest} if size == "stored" else {}),
            **({"labels": labels} if labels == "identities" else {}),
        },
        ("pillow",),
        (__file__,),
        files=(str(listing.root.resolve()), listing.stamps, listing.unread),
    )
