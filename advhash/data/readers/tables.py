"""Tables of the UCI repository as CSV: credit default, adult, Polish companies. Two classes each.

Rows are split first; whatever is learnt from data (means, deviations, medians, categories) is
learnt from the training rows. No row is synthesised: unbalanced classes are the victim's business.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from advhash.data.dataset import Dataset
from advhash.data.readers import shared
from advhash.data.readers.shared import Layout, cached_reading
from advhash.data.splits import assemble, seeded_order, split_rows
from advhash.errors import ConfigError, DataError
from advhash.registry import DATASETS
from advhash.storage.documents import decoded, read_gzip, reason

__all__: list[str] = []

FOLDERS = ("tabular_vfl",)
MAX_BYTES = 256 * 2**20  # of a table, unpacked
SHARES = {"query": 0.2, "validation": 0.1}  # the database is the rest, all of it trained on
LIMIT = 6.0  # deviations: what lies farther is clipped
MISSING = ("", "?")

Cells = list[list[str]]
Floats = npt.NDArray[np.float64]


def _read_csv(file: Path, layout: Layout) -> tuple[list[str], Cells]:
    """Header and rows. Raises DataError: missing, damaged, too large, rows of unequal length."""
    if not file.is_file():
        raise layout.missing(file.parent, f"got no {file.name}")
    try:
        head, *rows = csv.reader(decoded(read_gzip(file, MAX_BYTES)).splitlines())
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"expected a gzipped CSV file {file}, got: {reason(error)}") from None
    odd = next((place for place, row in enumerate(rows) if len(row) != len(head)), None)
    if odd is not None or not rows:
        got = "no rows" if odd is None else f"{len(rows[odd])} cells in line {odd + 2}"
        raise DataError(
            f"expected {len(head)} cells in every row of {file}, got {got}: get the file anew"
        )
    return [name.strip() for name in head], [[cell.strip() for cell in row] for row in rows]


def _numbers(cells: Sequence[str]) -> Floats | None:
    """A column as numbers, NaN where missing; None where it holds words."""
    try:
        return np.array([np.nan if cell in MISSING else float(cell) for cell in cells])
    except ValueError:
        return None


def standard(column: Floats, train: npt.NDArray[np.int64]) -> Floats:
    """(N,) centred and scaled by the training rows; the median for missing cells; clipped."""
    known = column[train][np.isfinite(column[train])]
    median = np.median(known) if len(known) else 0.0
    filled = np.where(np.isfinite(column), column, median)
    scale = filled[train].std()
    scaled = (filled - filled[train].mean()) / (scale if scale > 0 else 1.0)
    return np.asarray(scaled.clip(-LIMIT, LIMIT))


def _features(
    names: Sequence[str], columns: Sequence[Sequence[str]], train: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float32], list[str]]:
    """(N,F) numbers standardised, words as 0/1 of the categories of the training rows."""
    parts: list[Floats] = []
    kept: list[str] = []
    for name, cells in zip(names, columns, strict=True):
        numbers = _numbers(cells)
        if numbers is not None:
            parts.append(standard(numbers, train))
            kept.append(name)
            continue
        values = np.asarray(cells)
        for category in sorted(set(values[train].tolist())):
            parts.append((values == category).astype(np.float64))
            kept.append(f"{name}={category}")
    return np.stack(parts, axis=1).astype(np.float32), kept


def _table(
    name: str,
    file: Path,
    layout: Layout,
    seed: int,
    *,
    classes: tuple[str, str],
    positive: Callable[[str], bool],
    dropped: tuple[str, ...] = (),
    source: str,
) -> Dataset:
    """The last column is the class; equal rows stay on one side of the split."""
    head, cells = _read_csv(file, layout)
    order = seeded_order([str(row) for row in range(len(cells))], seed)
    rows = [cells[row] for row in order]
    targets = np.array([int(positive(row[-1])) for row in rows])
    kept = [place for place, column in enumerate(head[:-1]) if column not in dropped]
    columns = [[row[place] for row in rows] for place in kept]
    first: dict[tuple[str, ...], int] = {}
    groups = [first.setdefault(key, row) for row, key in enumerate(zip(*columns, strict=True))]
    sizes = {part: int(share * len(rows)) for part, share in SHARES.items()}
    split = {**split_rows(groups, sizes), "held_out": np.empty(0, np.int64)}
    table, features = _features([head[place] for place in kept], columns, split["train"])
    return assemble(
        name,
        split,
        {"table": torch.from_numpy(table)},
        np.eye(2, dtype=np.uint8)[targets],
        [f"{classes[target]} (no. {row})" for row, target in zip(order, targets, strict=True)],
        classes,
        source=source,
        licence="CC BY 4.0 (as UCI lists them)",
        columns=features,
        positive_share=float(targets.mean()),
        repeated_rows=len(rows) - len(set(groups)),
        warnings=[
            "Split before anything is learnt: means, deviations, medians and categories are those "
            "of the training rows. Nothing is oversampled.",
            f"Values beyond {LIMIT:g} deviations are clipped; missing cells get the median.",
        ],
    )


def _read(
    name: str, file: str, root: str | None, seed: int, settings: dict[str, object], **facts: object
) -> Dataset:
    layout = Layout(FOLDERS, file)
    path = layout.find(root) / file
    if not path.is_file():
        raise layout.missing(path.parent, f"got no {file}")
    return cached_reading(
        name,
        lambda _: _table(name, path, layout, seed, **facts),  # type: ignore[arg-type]
        settings,
        (),
        (__file__,),
        shared.content(path),
    )


@DATASETS.register("credit_default", source="Yeh and Lien, UCI 2009: credit cards in Taiwan")
def read_credit_default(*, root: str | None = None, seed: int = 0) -> Dataset:
    """30,000 credit card clients as 23 numbers: a table; whether they default (22 %)."""
    return _read(
        "credit_default", "credit_default.csv.gz", root, seed, {"root": root, "seed": seed},
        classes=("pays", "defaults"), positive=lambda cell: float(cell) == 1, dropped=("ID",),
        source="https://doi.org/10.24432/C55S3H",
    )  # fmt: skip


@DATASETS.register("adult", source="Becker and Kohavi, UCI 1996: the training part of Adult")
def read_adult(*, root: str | None = None, seed: int = 0) -> Dataset:
    """32,561 people of the 1994 census: a table; whether they earn more than 50,000 $ (24 %)."""
    return _read(
        "adult", "adult_train.csv.gz", root, seed, {"root": root, "seed": seed},
        classes=("<=50K", ">50K"), positive=lambda cell: cell.startswith(">50K"),
        source="https://doi.org/10.24432/C5XW20",
    )  # fmt: skip


@DATASETS.register("polish_bankruptcy", source="Tomczak, UCI 2016: Polish companies bankruptcy")
def read_polish_bankruptcy(*, year: int = 1, root: str | None = None, seed: int = 0) -> Dataset:
    """7,027 companies (year=5: 5,910) as 64 ratios: a table; bankrupt or not (4 or 7 %)."""
    if year not in (1, 5):
        raise ConfigError(f"expected dataset.year 1 or 5, got {year}")
    return _read(
        "polish_bankruptcy", f"polish_bankruptcy_{year}year.csv.gz", root, seed,
        {"year": year, "root": root, "seed": seed},
        classes=("stays", "bankrupt"), positive=lambda cell: float(cell) == 1,
        source="https://doi.org/10.24432/C5F600",
    )  # fmt: skip
