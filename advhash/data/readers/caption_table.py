"""Your own photographs, with captions and labels in a CSV beside them."""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from advhash.data import splits
from advhash.data.dataset import Dataset, TextKind
from advhash.data.images import picture_sets
from advhash.data.images.decode import Fit, decode, printable
from advhash.data.images.rows import Pixels
from advhash.data.readers import captioned, shared
from advhash.data.readers.captioned import MAX_CAPTION, Captioned, assemble, check_settings
from advhash.data.readers.shared import Layout, cached_reading
from advhash.data.text.kinds import check_text, with_text
from advhash.errors import DataError
from advhash.registry import DATASETS
from advhash.storage.documents import reason

__all__: list[str] = []

CAPTIONED = Layout(
    ("captioned",), "captions.csv (columns image, caption, labels, and split where there is one)"
)
SPLIT_NAMES = {
    "train": "train", "restval": "train", "database": "held_out", "none": "held_out",
    "dev": "validation", "val": "validation", "validation": "validation",
    "test": "query", "query": "query",
}  # fmt: skip
SHARES = {"query": 0.15, "validation": 0.1, "held_out": 0.1}
MIN_ITEMS = 20


@DATASETS.register("captioned", source="your own images and captions.csv")
def read_captioned(
    *,
    root: str | None = None,
    table: str = "captions.csv",
    size: int = 64,
    fit: Fit = "centre",
    vocabulary: int = 2000,
    seed: int = 0,
    text: TextKind = "words",
    text_length: int = 32,
) -> Dataset:
    """Your own images with captions and labels from a CSV: images and text."""
    check_settings(size, vocabulary)
    check_text(text, text_length)
    folder = CAPTIONED.find(root)
    file = shared.inside(folder, [table], "the setting table")[0]
    if not file.is_file():
        raise CAPTIONED.missing(folder, f"got no {table}")
    listed = _read_table(folder, file)
    data = cached_reading(
        "captioned",
        functools.partial(_captioned, folder, table, listed, size, fit, vocabulary, seed),
        {
            "root": root, "table": table, "size": size, "fit": fit,
            "vocabulary": vocabulary, "seed": seed,
        },
        ("pillow", "scikit-learn"),
        (__file__, captioned, picture_sets),
        [
            os.path.realpath(folder),
            *shared.content(file),
            shared.stamps(folder, listed.captions, table),
        ],
    )  # fmt: skip
    return with_text(data, text, text_length, vocabulary)


@dataclass
class _Table:
    """The first caption of each image in a CSV, its labels, its split or ""; extra captions."""

    captions: dict[str, str] = field(default_factory=dict)
    labels: dict[str, set[str]] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    further: int = 0


def _read_table(root: Path, file: Path) -> _Table:
    """Raises DataError, naming the line."""
    listed = _Table()
    rows = csv.DictReader(io.StringIO("\n".join(shared.read_lines(file)), newline=""))
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
            name = shared.below(root, row["image"].strip(), where)
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
        raise DataError(f"expected a CSV file {file}, got: {reason(error)}") from None
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
    paths = shared.inside(folder, names, table)
    classes = sorted(set().union(*listed.labels.values()))
    labels = np.array(
        [[label in listed.labels[name] for label in classes] for name in names], np.uint8
    )
    parts = [SPLIT_NAMES.get(listed.parts[name], "") for name in names]
    if not all(parts):
        parts = _shares(paths, labels)

    def load(row: int) -> Pixels:
        return decode(paths[row], size, fit)

    return assemble(
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
