"""Files that say which rows are relevant to which queries: BEIR folders, TREC qrels and pairs.

    BEIR    a folder: corpus.jsonl and queries.jsonl (`_id`), qrels/SPLIT.tsv (with a header)
    TREC    query, iteration, document, grade
    pairs   query, document, and perhaps a grade

Ids are those that the files of codes hold, or a file of ids, or the order of the lines in BEIR's
two files; where nothing names the rows, their numbers from 0. Queries without any judgement are not
evaluated, as trec_eval has it.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from advhash.codes.relevance import GradedPairs
from advhash.codes.stored_rows import IDS, LINES, as_ids, column_of, json_lines, loaded, reading
from advhash.errors import DataError
from advhash.storage.documents import MOST_BYTES

_SPLIT = "test"
_NAMES = re.compile(r"(query|q|corpus|doc|document|passage)([-_ ]?id)?", re.IGNORECASE)
_COLUMNS = {2: (0, 1, None), 3: (0, 1, 2), 4: (0, 2, 3)}  # of query, document and grade


@dataclass(frozen=True)
class Judgements:
    """Graded pairs of the queries that have any.

    queries: (Q,) rows of the file of queries that were judged, ascending
    pairs:   of these queries, in this order
    source:  which file says so
    rows:    how the rows were called: "ids", or "row numbers"
    ignored: judgements that name rows which are not there
    """

    queries: npt.NDArray[np.int64]
    pairs: GradedPairs
    source: str
    rows: str
    ignored: int = 0


@dataclass(frozen=True)
class Side:
    """One side of the pairs: how many rows, what they are called, and where ids may come from.

    name:  "queries" or "database"
    ids:   those in the file of codes
    given: a file of ids
    """

    name: str
    count: int
    ids: Sequence[str] | None = None
    given: Path | None = None


def read_judgements(
    path: Path, queries: Side, database: Side, *, split: str | None = None, ignore: bool = False
) -> Judgements:
    """The judgements in a file, or in a BEIR folder.

    split:  which qrels of a BEIR folder; None: test, or the only ones
    ignore: leave out judgements that name rows which are not there

    Raises DataError.
    """
    file = path
    beside: tuple[Path | None, Path | None] = (None, None)
    if path.is_dir():
        file = _qrels(path, split)
        beside = (path / "queries.jsonl", path / "corpus.jsonl")
    elif split is not None:
        raise DataError(f"{path}: expected a BEIR folder for --split {split}, got no folder")
    places, named = {}, False
    for side, lines in zip((queries, database), beside, strict=True):
        ids, own = _ids(side, lines)
        places[side.name] = _numbered(ids, side)
        named = named or own
    known_queries, known_rows = places[queries.name], places[database.name]
    strangers: dict[str, dict[str, None]] = {"queries": {}, "documents": {}}
    grades: dict[tuple[int, int], float] = {}
    ignored = 0
    for line, query, document, grade in _judged(file):
        asked, row = known_queries.get(query), known_rows.get(document)
        if asked is None:
            strangers["queries"][query] = None
        if row is None:
            strangers["documents"][document] = None
        if asked is None or row is None:
            ignored += 1
        elif grades.setdefault((asked, row), grade) != grade:
            raise DataError(
                f"{file}, line {line}: expected one grade for {query!r} and {document!r}, got "
                f"{grades[asked, row]:g} and {grade:g}"
            )
    if ignored and not ignore:
        raise _unknown(file, strangers, named)
    if not grades:
        raise DataError(f"{file}: expected judgements of these queries and documents, got none")
    pairs = np.array(list(grades), np.int64)
    judged, of = np.unique(pairs[:, 0], return_inverse=True)
    return Judgements(
        judged,
        GradedPairs.of(len(judged), of, pairs[:, 1], list(grades.values())),
        str(file),
        "ids" if named else "row numbers",
        ignored,
    )


def _unknown(file: Path, strangers: dict[str, dict[str, None]], named: bool) -> DataError:
    parts = [
        f"{len(names)} {kind} that are not there, the first {next(iter(names))!r}"
        for kind, names in strangers.items()
        if names
    ]
    by = "" if named else " (rows are called by their numbers, as no file names them)"
    return DataError(
        f"{file}: names {' and '.join(parts)}{by}: give the ids of the rows by --query-ids and "
        "--database-ids, or leave such judgements out by --ignore-unknown"
    )


def _qrels(folder: Path, split: str | None) -> Path:
    files = {file.stem: file for file in sorted((folder / "qrels").glob("*.tsv"))}
    missing = [name for name in ("corpus.jsonl", "queries.jsonl") if not (folder / name).is_file()]
    if missing or not files:
        raise DataError(
            f"{folder}: expected a BEIR folder with corpus.jsonl, queries.jsonl and qrels/*.tsv, "
            f"got no {missing[0] if missing else 'qrels/*.tsv'}"
        )
    chosen = split or (_SPLIT if _SPLIT in files else next(iter(files)))
    if chosen not in files or (split is None and _SPLIT not in files and len(files) > 1):
        raise DataError(
            f"{folder}: expected --split to be one of {', '.join(files)}, got {split or 'none'}"
        )
    return files[chosen]


def _ids(side: Side, lines: Path | None) -> tuple[Sequence[str], bool]:
    """What the rows of one side are called, and whether a file says so."""
    option = "--query-ids" if side.name == "queries" else "--database-ids"
    if side.given is not None:
        ids, where = read_ids(side.given), side.given
    elif side.ids is not None:
        return side.ids, True
    elif lines is not None:
        ids, where = read_ids(lines), lines
    else:
        return [str(row) for row in range(side.count)], False
    if len(ids) != side.count:
        raise DataError(
            f"{where}: expected {side.count} ids, one a row of the {side.name}, got {len(ids)}: "
            f"give those of the rows by {option} FILE"
        )
    return ids, True


def _numbered(ids: Sequence[str], side: Side) -> dict[str, int]:
    places = {name: row for row, name in enumerate(ids)}
    if len(places) < len(ids):
        row, name = next((row, name) for row, name in enumerate(ids) if places[name] != row)
        raise DataError(
            f"expected different ids of the {side.name}, got {name!r} in rows {row} and "
            f"{places[name]}: keep one of them"
        )
    return places


def read_ids(path: Path) -> tuple[str, ...]:
    """Ids, one a row: lines of a text, `_id` or `id` of JSON lines, an array or a column `ids`.

    Raises DataError.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        with reading(path):
            return as_ids(loaded(path, "r"), path)
    if suffix in LINES:
        with reading(path):
            return tuple(_own_ids(path))
    if suffix in (".npz", ".parquet"):
        return as_ids(column_of(path, IDS), path)
    with reading(path), path.open(encoding="utf-8-sig", errors="replace") as stream:
        return tuple(line.strip() for line in stream if line.strip())


def _own_ids(path: Path) -> Iterator[str]:
    for line, document in json_lines(path):
        name = document if isinstance(document, str | int) else None
        if isinstance(document, dict):
            name = next((document[key] for key in reversed(IDS) if key in document), None)
        if not isinstance(name, str | int):
            raise DataError(f"{path}, line {line}: expected a field '_id' or 'id', got none")
        yield str(name)


def _judged(path: Path) -> Iterator[tuple[int, str, str, float]]:
    """Line, query, document and grade of each judgement. Raises DataError."""
    width = 0
    with reading(path), path.open(encoding="utf-8-sig", errors="replace") as stream:
        for place in range(1, MOST_BYTES):
            line = stream.readline(MOST_BYTES)
            if not line:
                return
            if not line.strip():
                continue
            parts = _split(line, path)
            if not width:
                width = len(parts)
                if width not in _COLUMNS:
                    raise DataError(
                        f"{path}, line {place}: expected 2 columns (query, document), 3 (and a "
                        f"grade) or 4 (TREC: query, iteration, document, grade), got {width}"
                    )
                if _is_header(parts):
                    continue
            if len(parts) != width:
                raise DataError(
                    f"{path}, line {place}: expected {width} columns as before, got {len(parts)}"
                )
            query, document, grade = _COLUMNS[width]
            value = 1.0 if grade is None else _grade(parts[grade])
            if value is None:
                raise DataError(
                    f"{path}, line {place}: expected a grade, got {parts[width - 1][:20]!r}"
                )
            yield place, parts[query], parts[document], value


def _split(line: str, path: Path) -> list[str]:
    if path.suffix.lower() == ".csv" and "\t" not in line:
        return [part.strip() for part in next(csv.reader([line.strip("\r\n")]))]
    separator = "\t" if "\t" in line else None
    return [part.strip() for part in line.strip("\r\n").split(separator)]


def _is_header(parts: Sequence[str]) -> bool:
    if len(parts) == 2:
        return all(_NAMES.fullmatch(part) for part in parts)
    return _grade(parts[-1]) is None


def _grade(word: str) -> float | None:
    try:
        value = float(word)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
