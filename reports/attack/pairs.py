"""Runs compared query by query: the paired differences of runs that did the same task.

Everything here is computed from the `queries.parquet` of the runs, with seed 0, and can be computed
again from them. These files come from folders that others may have written: one that is damaged or
does not belong to its record takes its run out of the comparison, not off the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from advhash.errors import RunError
from advhash.measures.intervals import Difference, holm, paired_difference
from advhash.reports.record import Record, main_metric
from advhash.storage.files import expect_room

QUERIES = "queries.parquet"
SEED = 0  # of intervals and p-values: a page is the same whenever it is drawn
SAME_MEAN = 1e-9  # a column whose mean differs more from the record is not of this run

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Queries:
    """The queries of a run in order, with the figures of the headline direction.

    rows:    (N,) of the query split
    targets: class numbers of the target of each, None when untargeted
    columns: (N,) each, by the name of the metric
    """

    rows: npt.NDArray[np.int64]
    targets: list[list[int]] | None
    columns: dict[str, Floats]


@dataclass(frozen=True)
class Pair:
    """Two runs by their places on the page; the difference is first − second."""

    first: int
    second: int
    metric: str
    difference: Difference
    adjusted: float | None = None  # the p-value adjusted for all pairs of the page (Holm 1979)


def headline(record: Record) -> str:
    """The metric by which runs of this goal are compared."""
    return main_metric(record.attack.goal)


def load_queries(folder: Path, record: Record, also: Sequence[str] = ()) -> Queries:
    """Read `queries.parquet` of a run. Raises RunError: missing, damaged, not of this record.

    also: further metrics that are means of a column
    """
    file = folder / QUERIES
    inside = file.resolve().is_relative_to(folder.resolve())
    if not inside or not file.is_file():
        raise RunError(f"expected {QUERIES}, got a run folder without it; attack again")
    targeted = record.attack.goal == "targeted"
    names = ("tmap",) if targeted else ("map", "map_adversarial")
    columns = {name: f"{name}:{record.protocol.database}" for name in (*names, *also)}
    try:
        return _read(file, record, columns, targeted)
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunError(f"expected the {QUERIES} of this run, got a damaged one: {first}") from None


def _read(file: Path, record: Record, columns: dict[str, str], targeted: bool) -> Queries:
    wanted = ["query", *(["target"] if targeted else []), *columns.values()]
    with pq.ParquetFile(file) as stored:
        if stored.metadata.num_rows != record.protocol.queries:
            raise ValueError(
                f"{stored.metadata.num_rows} queries, {record.protocol.queries} in the record"
            )
        groups = (stored.metadata.row_group(place) for place in range(stored.num_row_groups))
        rows_alone = stored.metadata.num_rows * len(wanted) * 8
        expect_room(max(rows_alone, sum(group.total_byte_size for group in groups)))
        absent = [name for name in wanted if name not in stored.schema_arrow.names]
        if absent:
            raise ValueError(f"no column {absent[0]!r}")
        table = stored.read(columns=wanted)
    rows = np.asarray(table["query"].cast(pa.int64()).to_pylist(), dtype=np.int64)
    if len(np.unique(rows)) != len(rows):
        raise ValueError("a query stands in it twice")
    order = np.argsort(rows)
    values = {
        name: np.asarray(table[column].cast(pa.float64()).to_numpy(), dtype=np.float64)[order]
        for name, column in columns.items()
    }
    for name, column in values.items():
        stated = record.metrics.get(name)
        kept = column[~np.isnan(column)]
        if stated is None or stated.value is None:
            raise ValueError(f"the record has no {name}")
        if len(kept) == 0 or not abs(kept.mean() - stated.value) <= SAME_MEAN:
            raise ValueError(f"the mean of {name} is not that of the record")
    targets = None
    if targeted:
        listed = table["target"].cast(pa.list_(pa.int64())).to_pylist()
        targets = [sorted(listed[place]) for place in order]
    return Queries(rows[order], targets, values)


def same_task(one: Record, other: Record) -> bool:
    """Whether two runs attack the same victim on the same data by the same protocol."""
    return (
        one.dataset.fingerprint == other.dataset.fingerprint
        and one.victim.fingerprint == other.victim.fingerprint
        and one.attack.goal == other.attack.goal
        and one.protocol == other.protocol
    )


def compare(records: Sequence[Record], queries: Sequence[Queries | None]) -> list[Pair]:
    """All pairs of runs of the same task, on the same queries and with the same targets.

    queries: of each record, None where they could not be read
    """
    pairs = []
    for first, second in combinations(range(len(records)), 2):
        one, other = queries[first], queries[second]
        if one is None or other is None or not same_task(records[first], records[second]):
            continue
        if not np.array_equal(one.rows, other.rows) or one.targets != other.targets:
            continue
        name = headline(records[first])
        difference = paired_difference(one.columns[name], other.columns[name], SEED)
        pairs.append(Pair(first, second, name, difference))
    adjusted = holm([pair.difference.p for pair in pairs])
    return [replace(pair, adjusted=p) for pair, p in zip(pairs, adjusted, strict=True)]


def map_lost(queries: Queries | None) -> Difference | None:
    """What attacked queries lose of MAP, query by query; None for a targeted run."""
    if queries is None or queries.targets is not None:
        return None
    return paired_difference(queries.columns["map"], queries.columns["map_adversarial"], SEED)
