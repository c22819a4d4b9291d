"""A table of one's own, CSV or Parquet, with classes in one column and perhaps several parties.

Rows are split first, equal ones on one side; whatever is learnt (medians, means, deviations,
categories) is learnt from the training rows. Numbers become one standardised feature, words one of
0 and 1 a category; all features of a column stay with the party that holds it.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from advhash.data import paths
from advhash.data.dataset import Dataset
from advhash.data.readers import shared, tables
from advhash.data.readers.shared import cached_reading
from advhash.data.readers.tables import LIMIT, MAX_BYTES, SHARES, standard
from advhash.data.splits import assemble, refuse_empty, seeded_order, split_rows
from advhash.errors import ConfigError, DataError
from advhash.registry import DATASETS
from advhash.storage.documents import decoded, read_bytes, read_gzip, reason
from advhash.storage.places import user_path

LABELS = ("label", "class", "target", "y")  # columns that are the classes where none is named
MISSING = ("", "?", "NA", "N/A", "NaN", "nan", "null", "None")
MOST_CATEGORIES = 100  # of one column of words
FEW_CATEGORIES = 20  # which need not be in several rows
ABSENT = "(missing)"  # the category of cells without a word
WORDS_OF_TEXT = 3  # that most cells of a column of texts have at least
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")  # where the delimiter is a semicolon

Columns = dict[str, list[str]]
Parties = int | dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Choices:
    """The settings of the reader; see `read_table`."""

    label: str
    numeric: tuple[str, ...]
    categorical: tuple[str, ...]
    drop: tuple[str, ...]
    missing: tuple[str, ...]
    parties: Parties
    seed: int


@DATASETS.register("table", source="your own rows: a CSV or Parquet file")
def read_table(
    *,
    root: str,
    label: str = "",
    numeric: tuple[str, ...] = (),
    categorical: tuple[str, ...] = (),
    drop: tuple[str, ...] = (),
    missing: tuple[str, ...] = MISSING,
    parties: int | dict[str, tuple[str, ...]] = 2,
    seed: int = 0,
) -> Dataset:
    """Your own table (CSV, Parquet): one column of classes, numbers and words, for parties."""
    file = _file(user_path(root))
    choices = Choices(label, numeric, categorical, drop, missing, parties, seed)
    return cached_reading(
        "table",
        lambda _: _table(file, choices),
        {
            "root": root,
            "label": label,
            "numeric": list(numeric),
            "categorical": list(categorical),
            "drop": list(drop),
            "missing": list(missing),
            "parties": parties
            if isinstance(parties, int)
            else {name: list(columns) for name, columns in parties.items()},
            "seed": seed,
        },
        ("pyarrow",),
        (__file__, tables),
        shared.content(file),
    )


def _file(place: Path) -> Path:
    """The file itself, or the only table in a folder. Raises DataError."""
    if not place.is_dir():
        if not place.name.lower().endswith(paths.TABLES) or not place.is_file():
            raise DataError(
                f"expected a table ({', '.join(paths.TABLES)}), got {place}"
                + ("" if place.exists() else ": not there")
            )
        return place
    tables = sorted(each for each in place.iterdir() if each.name.lower().endswith(paths.TABLES))
    if len(tables) != 1:
        raise DataError(
            f"expected one table in {place}, got {len(tables)}: name the file by dataset.root"
        )
    return tables[0]


def _table(file: Path, choices: Choices) -> Dataset:
    columns = read_columns(file)
    total = len(next(iter(columns.values())))
    label = _label_column(file, columns, choices.label)
    _check_names(file, columns, label, choices)
    absent = set(choices.missing)
    columns = {
        name: ["" if cell in absent else cell for cell in cells] for name, cells in columns.items()
    }
    kept = [row for row, cell in enumerate(columns[label]) if cell]
    if not kept:
        raise DataError(f"expected classes in the column {label!r} of {file}, got none")
    order = [kept[row] for row in seeded_order([str(row) for row in kept], choices.seed)]
    columns = {name: [cells[row] for row in order] for name, cells in columns.items()}
    classes, targets = _classes(file, label, columns.pop(label))
    for name in choices.drop:
        columns.pop(name, None)
    parties = _parties(file, columns, choices.parties)
    columns = {name: columns[name] for names in parties.values() for name in names}
    first: dict[tuple[str, ...], int] = {}
    groups = [
        first.setdefault(row, place)
        for place, row in enumerate(zip(*columns.values(), strict=True))
    ]
    sizes = {part: int(share * len(order)) for part, share in SHARES.items()}
    rows = {**split_rows(groups, sizes), "held_out": np.empty(0, np.int64)}
    refuse_empty({name: len(rows[name]) for name in ("query", "validation", "train")}, str(file))
    features: dict[str, list[tuple[str, npt.NDArray[np.float64]]]] = {
        name: _features(file, name, cells, rows["train"], choices)
        for name, cells in columns.items()
    }
    table = np.stack([values for each in features.values() for _, values in each], axis=1)
    widths = tuple(sum(len(features[name]) for name in names) for names in parties.values())
    return assemble(
        "table",
        rows,
        {"table": torch.from_numpy(table.astype(np.float32))},
        np.eye(len(classes), dtype=np.uint8)[targets],
        [f"{classes[target]} (no. {row})" for row, target in zip(order, targets, strict=True)],
        classes,
        parties=widths if len(widths) > 1 else (),
        source="a table given by the user",
        licence="unknown",
        label_column=label,
        columns=[name for each in features.values() for name, _ in each],
        numeric=[name for name, each in features.items() if each[0][0] == name],
        categorical=[name for name, each in features.items() if each[0][0] != name],
        parties_of_columns={party: list(names) for party, names in parties.items()},
        missing_cells={name: cells.count("") for name, cells in columns.items() if "" in cells},
        rows_without_class_left_out=total - len(kept),
        repeated_rows=len(order) - len(first),
        warnings=[
            "Split before anything is learnt: means, deviations, medians and categories are those "
            "of the training rows. Nothing is oversampled.",
            f"Values beyond {LIMIT:g} deviations are clipped; missing numbers get the median, "
            "missing words are a category of their own.",
        ],
    )


def read_columns(file: Path) -> Columns:
    """The cells of each column as text, "" where there is none. Raises DataError."""
    columns = _parquet(file) if file.suffix.lower() == ".parquet" else _csv(file)
    if len(columns) < 2 or not next(iter(columns.values())):
        rows = len(next(iter(columns.values()), []))
        raise DataError(
            f"expected a column of classes, another and rows in {file}, got {rows} rows of columns "
            f"{listed_columns(list(columns))}: add what is missing"
        )
    return columns


def _csv(file: Path) -> Columns:
    try:
        read = read_gzip if file.suffix.lower() == ".gz" else read_bytes
        lines = list(io.StringIO(decoded(read(file, MAX_BYTES)), newline=""))
        head = next((line for line in lines if line.strip()), "")
        delimiter = paths.delimiter_of(head)
        reader = csv.reader(lines, delimiter=delimiter)
        places, rows = [], []
        for row in reader:
            if row:
                places.append(reader.line_num)
                rows.append(row)
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"expected a CSV file with a header {file}, got: {reason(error)}") from None
    if not rows:
        raise DataError(f"expected a CSV file with a header {file}, got no line of text: check it")
    names, rows = [name.strip() for name in rows[0]], rows[1:]
    odd = next((place for place, row in enumerate(rows) if len(row) != len(names)), None)
    if odd is not None:
        raise DataError(
            f"expected {len(names)} cells in every row of {file}, as in its header, got "
            f"{len(rows[odd])} in line {places[odd + 1]}: mend that line"
        )
    _check_header(file, names)
    columns = {name: [row[place].strip() for row in rows] for place, name in enumerate(names)}
    return (
        {name: _points(cells) for name, cells in columns.items()} if delimiter == ";" else columns
    )


def _points(cells: list[str]) -> list[str]:
    """Decimal commas as points."""
    return [cell.replace(",", ".") if DECIMAL_COMMA.fullmatch(cell) else cell for cell in cells]


def _parquet(file: Path) -> Columns:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        described = pq.ParquetFile(file)
        groups = (described.metadata.row_group(at) for at in range(described.num_row_groups))
        size = sum(group.total_byte_size for group in groups)
        # rows that repeat take no bytes in the file, and their place in memory all the same
        size = max(size, described.metadata.num_rows * described.metadata.num_columns)
        if size > MAX_BYTES:
            raise DataError(f"expected at most {MAX_BYTES:,} bytes in {file}, got {size:,}")
        names = described.schema_arrow.names
        _check_header(file, names)
        table = described.read()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"expected a Parquet file {file}, got: {reason(error)}") from None
    nested = [each.name for each in table.schema if pa.types.is_nested(each.type)]
    if nested:
        raise DataError(
            f"expected numbers and words in {file}, got lists or tables in {nested[0]!r}: leave "
            "that column out of the file"
        )
    return {
        name: ["" if cell is None else str(cell).strip() for cell in table[name].to_pylist()]
        for name in names
    }


def _check_header(file: Path, names: Sequence[str]) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"expected a different name for each column of {file}, got {twice!r} twice")


def _texts_advice(file: Path, columns: Columns) -> str:
    """How to read a table as texts, where a column looks like some; "" where none does."""
    for name, cells in columns.items():
        given = [cell for cell in cells if cell]
        if 2 * sum(len(cell.split()) >= WORDS_OF_TEXT for cell in given) > len(given):
            return (
                f"; this was read as a table of numbers and words, as no column is called "
                f"{paths.TEXT_COLUMNS[0]}: where {name!r} holds texts, say --dataset texts --set "
                f"dataset.root={file} --set dataset.column={name}"
            )
    return ""


def _label_column(file: Path, columns: Columns, label: str) -> str:
    if label:
        return label
    likely = [name for name in columns if name.lower() in LABELS]
    if len(likely) != 1:
        raise ConfigError(
            f"expected dataset.label, the column of {file} that holds the classes: one of "
            f"{listed_columns(list(columns))}{_texts_advice(file, columns)}"
        )
    return likely[0]


def listed_columns(names: Sequence[str]) -> str:
    """The first names, for a message."""
    return ", ".join(names[:20]) + (", …" if len(names) > 20 else "")


def _check_names(file: Path, columns: Columns, label: str, choices: Choices) -> None:
    """Raise ConfigError: settings that name columns that are not there, or one in two ways."""
    asked = {
        "label": (label,),
        "numeric": choices.numeric,
        "categorical": choices.categorical,
        "drop": choices.drop,
    }
    seen: dict[str, str] = {}
    for setting, names in asked.items():
        for name in names:
            if name not in columns:
                raise ConfigError(
                    f"dataset.{setting}: expected columns of {file}, got {name!r}; it has "
                    f"{listed_columns(list(columns))}"
                )
            if seen.setdefault(name, setting) != setting:
                raise ConfigError(
                    f"dataset.{setting}: {name!r} is named by dataset.{seen[name]} already"
                )


def _classes(
    file: Path, label: str, cells: Sequence[str]
) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Names of the classes, in the order of numbers or of the alphabet, and the class of each row.

    Raises DataError: fewer than two, or as many as there are numbers to predict.
    """
    numbers = [_number(cell) for cell in cells]
    if all(value is not None and value.is_integer() for value in numbers):
        cells = [str(int(value)) for value in numbers if value is not None]
        classes = sorted(set(cells), key=int)
    else:
        classes = sorted(set(cells))
    if not 2 <= len(classes) <= max(2, len(cells) // 4):
        raise DataError(
            f"expected classes in the column {label!r} of {file}, got {len(classes)} different "
            f"values in {len(cells)} rows: name another column by dataset.label"
        )
    place = {name: at for at, name in enumerate(classes)}
    return classes, np.array([place[cell] for cell in cells])


def _parties(file: Path, columns: Columns, asked: Parties) -> Mapping[str, Sequence[str]]:
    """The columns that each party holds, each column with one. Raises ConfigError."""
    names = list(columns)
    if isinstance(asked, int):
        if not 1 <= asked <= len(names):
            raise ConfigError(
                f"dataset.parties: expected 1 to {len(names)}, the columns of {file} beside the "
                f"classes, got {asked}{_texts_advice(file, columns)}"
            )
        groups = np.array_split(np.array(names, object), asked)
        return {f"party{number}": list(group) for number, group in enumerate(groups)}
    held = [name for group in asked.values() for name in group]
    unknown = sorted(set(held) - set(names))
    twice = sorted({name for name in held if held.count(name) > 1})
    left = [name for name in names if name not in held]
    for what, wrong in (("columns that are there", unknown), ("each column once", twice)):
        if wrong:
            raise ConfigError(f"dataset.parties: expected {what}, got {listed_columns(wrong)}")
    if left or not all(asked.values()):
        raise ConfigError(
            "dataset.parties: expected one party or more with columns, and each column with a "
            f"party or in dataset.drop, got none for {listed_columns(left) or 'a party'}"
        )
    return asked


def _number(cell: str) -> float | None:
    """A cell as a number, NaN where it is not finite; None where it is none."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else math.nan


def _features(
    file: Path,
    name: str,
    cells: Sequence[str],
    train: npt.NDArray[np.int64],
    choices: Choices,
) -> list[tuple[str, npt.NDArray[np.float64]]]:
    """The features of a column, learnt from its training rows. Raises DataError."""
    numbers = [_number(cell) if cell else math.nan for cell in cells]
    wrong = [place for place, value in enumerate(numbers) if value is None]
    if name in choices.numeric and wrong:
        raise DataError(
            f"expected numbers in the column {name!r} of {file}, got {cells[wrong[0]]!r} (and "
            f"{len(wrong) - 1} more): name it in dataset.missing, or the column in "
            "dataset.categorical"
        )
    if name in choices.numeric or (not wrong and name not in choices.categorical):
        column = np.array([math.nan if value is None else value for value in numbers])
        return [(name, standard(column, train))]
    words = np.array([cell or ABSENT for cell in cells])
    categories = sorted(set(words[train].tolist()))
    most = min(MOST_CATEGORIES, max(FEW_CATEGORIES, len(train) // 3))
    if len(categories) > most:
        some = cells[wrong[0]] if wrong else cells[0]
        raise DataError(
            f"expected at most {most} different words in the column {name!r} of {file}, "
            f"got {len(categories)} in {len(train)} training rows, as {some!r}: name it in "
            f"dataset.drop, or words that stand for missing numbers in dataset.missing "
            f"({len(cells) - len(wrong)} of {len(cells)} cells are numbers)"
            f"{_texts_advice(file, {name: list(cells)})}"
        )
    return [
        (f"{name}={category}", (words == category).astype(np.float64)) for category in categories
    ]
