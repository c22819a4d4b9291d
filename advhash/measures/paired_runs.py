"""Runs compared query by query: paired differences, and ranks that leave open what they leave open.

Everything here is computed from the queries of the runs with one seed, and can be computed again
from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from advhash.measures.intervals import Difference, Floats, holm, paired_difference
from advhash.storage.documents import check_unpacked

SEED = 0  # of intervals and p-values: a page is the same whenever it is drawn
SETTLED = 0.05  # p, adjusted for all pairs, below which an order is settled
SAME_MEAN = 1e-9  # a column whose mean differs more from what was stated is of another run
SAME_SIZE = 0.05  # relative difference up to which two distances count as the same


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
class Rival:
    """A run as others are compared with it.

    task:    what it did; only runs of equal tasks are compared
    metric:  the figure by which it is compared
    sign:    1 where a higher figure is the stronger attack, else −1
    value:   the mean of the figure, None where it does not exist
    queries: None where they could not be read
    """

    task: object
    metric: str
    sign: int
    value: float | None
    queries: Queries | None


@dataclass(frozen=True)
class Pair:
    """Two runs by their places among those compared; the difference is first − second."""

    first: int
    second: int
    metric: str
    difference: Difference
    adjusted: float | None = None  # the p-value adjusted for all pairs (Holm 1979)


@dataclass(frozen=True)
class Standing:
    """A run by its place among those compared, and the best and the worst rank that it may have."""

    run: int
    best: int
    worst: int
    metric: str


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except pa.ArrowException as error:
        raise ValueError(str(error) or type(error).__name__) from None


@_plain_errors()
def read_queries(
    file: Path,
    columns: Mapping[str, str],
    means: Mapping[str, float | None],
    *,
    count: int,
    targeted: bool,
) -> Queries:
    """Read the queries of a run from its Parquet table, ordered by their rows.

    columns: name of each figure → its column in the file
    means:   of each figure, as the record states it
    count:   queries of the run

    Raises ValueError, TypeError and OSError: damaged, or of another run.
    """
    wanted = ["query", *(["target"] if targeted else []), *columns.values()]
    with pq.ParquetFile(file) as stored:
        if stored.metadata.num_rows != count:
            raise ValueError(f"{stored.metadata.num_rows} queries, {count} in the record")
        groups = (stored.metadata.row_group(place) for place in range(stored.num_row_groups))
        rows_alone = stored.metadata.num_rows * len(wanted) * 8
        check_unpacked(max(rows_alone, sum(group.total_byte_size for group in groups)))
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
        stated = means.get(name)
        kept = column[~np.isnan(column)]
        if stated is None:
            raise ValueError(f"the record has no {name}")
        if len(kept) == 0 or not abs(kept.mean() - stated) <= SAME_MEAN:
            raise ValueError(f"the mean of {name} is not that of the record")
    targets = None
    if targeted:
        listed = table["target"].cast(pa.list_(pa.int64())).to_pylist()
        targets = [sorted(listed[place]) for place in order]
    return Queries(rows[order], targets, values)


def compare(rivals: Sequence[Rival]) -> list[Pair]:
    """All pairs of runs of equal tasks, on the same queries and with the same targets."""
    pairs = []
    for first, second in combinations(range(len(rivals)), 2):
        one, other = rivals[first], rivals[second]
        if one.queries is None or other.queries is None or one.task != other.task:
            continue
        if not np.array_equal(one.queries.rows, other.queries.rows):
            continue
        if one.queries.targets != other.queries.targets:
            continue
        columns, others = one.queries.columns, other.queries.columns
        difference = paired_difference(columns[one.metric], others[one.metric], SEED)
        pairs.append(Pair(first, second, one.metric, difference))
    adjusted = holm([pair.difference.p for pair in pairs])
    return [replace(pair, adjusted=p) for pair, p in zip(pairs, adjusted, strict=True)]


def best_elsewhere(rivals: Sequence[Floats], *, sign: int = 1) -> Floats:
    """(N,) of each query the figure of the rival that is best on queries other than it.

    Queries at even places take the rival with the best mean at odd ones, and the other way about;
    so the choice among several flatters none of them.

    rivals: (N,) each, of the same queries in the same order; NaN where a query is left out
    sign:   1 where a higher figure is better, else −1

    >>> best_elsewhere([np.array([0.9, 0.0, 0.9, 0.0]), np.array([0.1, 0.2, 0.1, 0.2])]).tolist()
    [0.1, 0.0, 0.1, 0.0]
    """
    table = np.stack(rivals)
    chosen = np.empty(table.shape[1])
    for here in (0, 1):
        seen = table[:, 1 - here :: 2]
        known = ~np.isnan(seen)
        means = np.where(known, seen, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        chosen[here::2] = table[np.argmax(sign * means), here::2]
    return chosen


def map_lost(queries: Queries | None) -> Difference | None:
    """What attacked queries lose of MAP, query by query; None for a run that is not led by it."""
    if queries is None or queries.targets is not None or "map" not in queries.columns:
        return None
    return paired_difference(queries.columns["map"], queries.columns["map_adversarial"], SEED)


def standings(rivals: Sequence[Rival], pairs: Sequence[Pair]) -> list[Standing]:
    """The largest set of runs of one task, the strongest attack first; [] where no two were paired.

    A run is below as many others as were shown to be stronger, and above as many as were shown to
    be weaker: best and worst rank differ where that leaves a choice.
    """
    groups: list[set[int]] = []
    for pair in pairs:
        both = {pair.first, pair.second}
        joined = [group for group in groups if group & both]
        groups = [group for group in groups if not group & both]
        groups.append(both.union(*joined))
    if not groups:
        return []
    group = max(groups, key=len)
    stronger = dict.fromkeys(group, 0)
    weaker = dict.fromkeys(group, 0)
    metric, sign = rivals[min(group)].metric, rivals[min(group)].sign
    for pair in pairs:
        value, p = pair.difference.value, pair.adjusted
        if pair.first not in group or value is None or p is None or p >= SETTLED:
            continue
        ahead, behind = (pair.first, pair.second) if sign * value > 0 else (pair.second, pair.first)
        stronger[behind] += 1
        weaker[ahead] += 1

    def strength(place: int) -> float:
        return sign * (rivals[place].value or 0.0)

    return [
        Standing(place, 1 + stronger[place], len(group) - weaker[place], metric)
        for place in sorted(group, key=lambda place: (-strength(place), place))
    ]


def between(pairs: Sequence[Pair], one: int, other: int) -> Difference | None:
    """The difference of two runs by their places, whichever has more first; None of no pair."""
    for pair in pairs:
        if {pair.first, pair.second} == {one, other}:
            difference = pair.difference
            if difference.value is None or difference.value >= 0:
                return difference
            low, high = (None if x is None else -x for x in (difference.high, difference.low))
            return Difference(-difference.value, low, high, difference.n, difference.p)
    return None


def same_size(one: float, other: float) -> bool:
    """Whether two distances are alike enough for what they reach to be compared.

    >>> same_size(0.96, 1.0), same_size(0.9, 1.0)
    (True, False)
    """
    near, far = sorted((one, other))
    return far - near <= SAME_SIZE * far
