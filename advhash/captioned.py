"""Photographs with captions: Flickr8k, and your own folder with a CSV.

The text of an item is its first caption, as counts of words; the caption itself is kept in
`Split.texts`.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from advhash import picture_sets, reading, splits
from advhash.data import Dataset
from advhash.errors import ConfigError, DataError
from advhash.image_folder import Fit, decode, printable
from advhash.image_rows import Pixels
from advhash.picture_sets import Items, card_of_rows, picture_splits
from advhash.reading import Layout, cached_reading, check_size
from advhash.registry import DATASETS
from advhash.splits import Rows
from advhash.text import count_words, frequent_words, words

__all__: list[str] = []

FLICKR8K = Layout(
    ("flickr8k_128", "flickr8k"),
    "images.zip, captions.json (file, split, captions), labels.npy and concepts.json",
)
CAPTIONED = Layout(
    ("captioned",), "captions.csv (columns image, caption, labels, and split where there is one)"
)
OFFICIAL = {"train": "train", "none": "held_out", "dev": "validation", "test": "query"}
SPLIT_NAMES = {**OFFICIAL, "database": "held_out", "val": "validation", "validation": "validation"}
SPLIT_NAMES |= {"query": "query", "restval": "train"}
SHARES = {"query": 0.15, "validation": 0.1, "held_out": 0.1}
MAX_IMAGE_BYTES = 64 * 2**20
MAX_CAPTION = 2000  # characters kept of a caption
MIN_ITEMS = 20


@DATASETS.register("flickr8k", source="Hodosh, Young and Hockenmaier, JAIR 2013")
def read_flickr8k(
    *, root: str | None = None, size: int = 64, vocabulary: int = 2000, seed: int = 0
) -> Dataset:
    """8,091 photos with a caption each: images and text, 24 labels derived from the captions."""
    _check(size, vocabulary)
    folder = FLICKR8K.find(root)
    files = [folder / name for name in ("captions.json", "labels.npy", "concepts.json")]
    absent = [file.name for file in (*files, folder / "images.zip") if not file.is_file()]
    if absent:
        raise FLICKR8K.missing(folder, f"got no {', '.join(absent)}")
    return cached_reading(
        "flickr8k",
        functools.partial(_flickr8k, folder, size, vocabulary),
        {"root": root, "size": size, "vocabulary": vocabulary, "seed": seed},
        ("pillow", "scikit-learn"),
        (__file__, picture_sets),
        [*reading.content(*files), reading.stamps(folder, ["images.zip"], "Flickr8k")],
    )


def _flickr8k(folder: Path, size: int, vocabulary: int, target: Path) -> Dataset:
    try:
        entries = json.loads((folder / "captions.json").read_text("utf-8"))
        names = [str(entry["file"]) for entry in entries]
        parts = [OFFICIAL[entry["split"]] for entry in entries]
        captions = [str(entry["captions"][0])[:MAX_CAPTION] for entry in entries]
        concepts = json.loads((folder / "concepts.json").read_text("utf-8"))
        classes = [str(name) for name in concepts["concepts"]]
        raw = np.load(folder / "labels.npy", allow_pickle=False)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"expected {FLICKR8K.contents} in {folder}, got one of another form: "
            f"{type(error).__name__} {error}"
        ) from None
    labels = reading.check_labels(raw, str(folder / "labels.npy"))
    if labels.shape != (len(names), len(classes)):
        raise DataError(
            f"expected {len(names)} rows of {len(classes)} labels, as captions.json and "
            f"concepts.json have them, in {folder / 'labels.npy'}, got {labels.shape}"
        )
    try:
        archive = zipfile.ZipFile(folder / "images.zip")
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"expected a zip file {folder / 'images.zip'}, got: {error}") from None
    with archive:

        def load(row: int) -> Pixels:
            if archive.getinfo(names[row]).file_size > MAX_IMAGE_BYTES:
                raise ValueError(f"over {MAX_IMAGE_BYTES >> 20} MiB")
            return decode(archive.read(names[row]), size)

        return _assemble(
            target,
            "flickr8k",
            Captioned(names, captions, labels, classes, load, parts),
            size,
            vocabulary,
            str(folder / "images.zip"),
            increments=(("snow", "ski_snowboard"), ("bicycle", "motor_vehicle")),
            source="https://github.com/RlNZLER/Image-Text-Matching",
            licence="photos belong to their Flickr owners; non-commercial research and education",
            warnings=[
                "Labels are derived, not annotated: one where 2 of 5 captions match a pattern. The "
                "text is the first caption, so it partly gives the labels away.",
                "Photos were squashed to squares and compressed anew: figures do not compare with "
                "published ones.",
            ],
        )


@DATASETS.register("captioned", source="your own images and captions.csv")
def read_captioned(
    *,
    root: str | None = None,
    table: str = "captions.csv",
    size: int = 64,
    fit: Fit = "centre",
    vocabulary: int = 2000,
    seed: int = 0,
) -> Dataset:
    """Your own images with captions and labels from a CSV: images and text."""
    _check(size, vocabulary)
    folder = CAPTIONED.find(root)
    file = reading.inside(folder, table, "the setting table")
    if not file.is_file():
        raise CAPTIONED.missing(folder, f"got no {table}")
    listed = _read_table(file)
    return cached_reading(
        "captioned",
        functools.partial(_captioned, folder, table, listed, size, fit, vocabulary, seed),
        {
            "root": root, "table": table, "size": size, "fit": fit,
            "vocabulary": vocabulary, "seed": seed,
        },
        ("pillow", "scikit-learn"),
        (__file__, picture_sets),
        [
            os.path.realpath(folder),
            *reading.content(file),
            reading.stamps(folder, listed.captions, table),
        ],
    )  # fmt: skip


@dataclass
class _Table:
    """Of each image in a CSV: its first caption, its labels, its split or ""; extra captions."""

    captions: dict[str, str] = field(default_factory=dict)
    labels: dict[str, set[str]] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    further: int = 0


def _read_table(file: Path) -> _Table:
    """Raises DataError, naming the line."""
    listed = _Table()
    rows = csv.DictReader(io.StringIO("\n".join(reading.read_lines(file)), newline=""))
    try:
        columns = set(rows.fieldnames or ())
        if not {"image", "caption", "labels"} <= columns:
            raise DataError(
                f"expected the columns image, caption and labels (several separated by ;) in "
                f"{file}, got {', '.join(printable(name) for name in sorted(columns)) or 'none'}"
            )
        for row in rows:
            where = f"{file}, line {rows.line_num}"
            if None in row or None in row.values():
                raise DataError(f"{where}: expected {len(columns)} fields: quote those with commas")
            name = row["image"].strip()
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or "\0" in name or not path.parts:
                reading.inside(file.parent, name, where)
            part = row.get("split", "").strip().lower()
            if part and part not in SPLIT_NAMES:
                raise DataError(
                    f"{where}: expected a split of {', '.join(sorted(SPLIT_NAMES))}, got "
                    f"{printable(part)!r}"
                )
            labels = {label.strip() for label in row["labels"].split(";")} - {""}
            if name in listed.captions:
                listed.further += 1
                if part != listed.parts[name]:
                    raise DataError(f"{where}: expected one split an image, got two for {name!r}")
                listed.labels[name] |= labels
                continue
            listed.captions[name] = row["caption"].strip()[:MAX_CAPTION]
            listed.labels[name], listed.parts[name] = labels, part
    except csv.Error as error:
        raise DataError(f"expected a CSV file {file}, got: {error}") from None
    given = {bool(part) for part in listed.parts.values()}
    if len(given) > 1:
        raise DataError(f"expected a split in every line of {file} or in none")
    if len(listed.captions) < MIN_ITEMS or not any(listed.labels.values()):
        raise DataError(
            f"expected at least {MIN_ITEMS} images with labels in {file}, got "
            f"{len(listed.captions)}: add images"
        )
    return listed


def _captioned(
    folder: Path,
    table: str,
    listed: _Table,
    size: int,
    fit: Fit,
    vocabulary: int,
    seed: int,
    target: Path,
) -> Dataset:
    names = [*listed.captions]
    names = [names[row] for row in splits.seeded_order(names, seed)]
    paths = [reading.inside(folder, name, table) for name in names]
    classes = sorted(set().union(*listed.labels.values()))
    labels = np.array(
        [[label in listed.labels[name] for label in classes] for name in names], np.uint8
    )
    parts = [SPLIT_NAMES.get(listed.parts[name], "") for name in names]
    if not all(parts):
        parts = _shares(paths, labels)

    def load(row: int) -> Pixels:
        return decode(paths[row], size, fit)

    return _assemble(
        target,
        "captioned",
        Captioned(
            [printable(name) for name in names],
            [listed.captions[name] for name in names],
            labels,
            [printable(name) for name in classes],
            load,
            parts,
        ),
        size,
        vocabulary,
        str(folder),
        increments=(),
        source="images and captions given by the user",
        licence="unknown",
        captions_left_out=listed.further,
        warnings=["Where an image has several captions, the first is its text."],
    )


def _shares(paths: list[Path], labels: npt.NDArray[np.uint8]) -> list[str]:
    """A split for every row; identical files stay together."""
    first: dict[bytes, int] = {}
    groups = [
        first.setdefault(hashlib.blake2b(path.read_bytes()).digest(), row)
        for row, path in enumerate(paths)
    ]
    sizes = {name: round(share * len(paths)) for name, share in SHARES.items()}
    empty = np.flatnonzero(labels.sum(1) == 0).tolist()
    parts = [""] * len(paths)
    for name, rows in splits.split_rows(groups, sizes, keep_in_database=empty).items():
        for row in rows.tolist():
            parts[row] = name
    return parts


@dataclass(frozen=True)
class Captioned:
    """N items; parts: "query", "validation", "held_out" or "train" of each."""

    names: list[str]
    captions: list[str]
    labels: npt.NDArray[np.uint8]
    classes: list[str]
    load: picture_sets.Load
    parts: list[str]


def _assemble(
    target: Path,
    name: str,
    found: Captioned,
    size: int,
    vocabulary: int,
    where: str,
    *,
    increments: tuple[tuple[str, ...], ...],
    warnings: list[str],
    **card: object,
) -> Dataset:
    texts = [words(caption) for caption in found.captions]
    parts = np.array(found.parts)
    database = np.flatnonzero((parts == "train") | (parts == "held_out"))
    known = frequent_words((texts[row] for row in database.tolist()), vocabulary)
    counts = count_words(texts, known)
    items = Items(found.names, found.labels, found.load, found.captions, counts)
    usable = ~items.searched_only
    rows: dict[str, Rows] = {
        "database": database,
        "validation": np.flatnonzero((parts == "validation") & usable),
        "query": np.flatnonzero((parts == "query") & usable),
    }
    train = np.flatnonzero((parts == "train") & usable)
    _refuse_empty({**rows, "train": train}, where)
    stored, repeated = picture_splits(target, items, rows, size, where)
    dropped = int((~usable & (parts == "query")).sum())
    entries, more = card_of_rows(dropped, repeated)
    return splits.finish(
        name,
        stored,
        np.searchsorted(database, train),
        found.classes,
        increments=increments,
        vocabulary=known,
        card={
            **card,
            **entries,
            "vocabulary_words": len(known),
            "database_without_label_or_text": int((~usable)[database].sum()),
            "giveaway_words": splits.giveaway_words(
                [texts[row] for row in database.tolist()], found.labels[database], found.classes
            ),
            "warnings": [*warnings, *more],
        },
    )


def _refuse_empty(rows: Mapping[str, Rows], where: str) -> None:
    empty = [name for name, part in rows.items() if not len(part)]
    if empty:
        raise DataError(
            f"expected items with labels and text in every split of {where}, got none in "
            f"{', '.join(empty)}"
        )


def _check(size: int, vocabulary: int) -> None:
    check_size(size)
    if vocabulary < 1:
        raise ConfigError(f"expected a vocabulary of at least 1 word, got {vocabulary}")
