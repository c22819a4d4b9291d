"""Rank metrics from distance histograms: exact, tie-aware, independent of the database's order.

A Hamming ranking has at most K+1 levels; the order inside a level is arbitrary. `ties` says what
is done about it:

    expected     the expectation over all orders inside the levels, in closed form (default)
    optimistic   relevant rows first: the upper bound
    pessimistic  relevant rows last: the lower bound

`stable` (ties by database row, as published code has it) needs the ranking itself:
`stable_average_precision`, and `published_average_precision` for the conventions of published code.

A query without a relevant row (`empty`) scores `zero` (default), is dropped (`skip`: its value is
NaN here and leaves the mean) or is an `error`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from advhash.codes.hamming import DistanceHistograms, Labels, distances, histograms, packed
from advhash.codes.packed import HashCodes
from advhash.errors import DataError
from advhash.shared_labels import are_groups, shares

Floats = npt.NDArray[np.float64]
LevelTies = Literal["expected", "optimistic", "pessimistic"]
Ties = Literal["expected", "optimistic", "pessimistic", "stable"]
Empty = Literal["zero", "skip", "error"]
Convention = Literal["prosgan", "dhta", "deephash"]


@dataclass(frozen=True)
class Scoring:
    """How a ranking is judged: what becomes of ties, where it is cut, queries that find nothing."""

    ties: Ties = "expected"
    top_k: int | None = None
    empty: Empty = "zero"


PUBLISHED: dict[Convention, str] = {
    "prosgan": "ProS-GAN's CalcMap: the whole ranking; queries without a hit count 0",
    "dhta": "DHTA's evaluation: the first k; queries without a hit are dropped, which flatters",
    "deephash": "DeepHash-pytorch's CalcTopMap: the first k; queries without a hit count 0",
}


def _harmonic(count: npt.NDArray[np.int64]) -> Floats:
    """H_n = 1 + 1/2 + … + 1/n, H_0 = 0."""
    from scipy.special import digamma

    return np.asarray(digamma(count + 1.0) + np.euler_gamma)


def _close(values: Floats, relevant: npt.NDArray[np.int64], empty: Empty) -> Floats:
    """Treat the queries without a relevant row."""
    none = relevant == 0
    if empty == "error" and none.any():
        raise DataError(
            f"{int(none.sum())} of {len(none)} queries have no relevant database row: "
            "expected at least one each; use empty=zero or empty=skip"
        )
    return np.where(none, np.nan if empty == "skip" else 0.0, values)


def _findable(relevant: npt.NDArray[np.int64], top_k: int | None) -> npt.NDArray[np.int64]:
    """How many relevant rows the first k can hold: min(R, k); at least 1, to divide by."""
    return np.clip(relevant, 1, top_k)


def _check_cut(top_k: int | None) -> None:
    if top_k is not None and top_k < 1:
        raise ValueError(f"expected top_k >= 1, got {top_k}")


class _Levels:
    """The levels of N rankings, cut after the first `top_k` rows; all fields (N,K+1).

    rows, relevant: in the level; before, hits: rows and relevant rows in nearer levels
    edges:          (N,K+2) ranks at which the levels begin and the last one ends, within the cut
    seen:           rows of the level within the cut
    """

    def __init__(self, counts: DistanceHistograms, top_k: int | None) -> None:
        _check_cut(top_k)
        self.rows = counts.total
        self.relevant = counts.relevant
        edges = np.pad(np.cumsum(self.rows, axis=1), ((0, 0), (1, 0)))
        self.before = edges[:, :-1]
        self.hits = np.cumsum(self.relevant, axis=1) - self.relevant
        self.edges = edges if top_k is None else np.minimum(edges, top_k)
        self.seen = np.diff(self.edges)

    @property
    def share(self) -> Floats:
        """Chance that a row of the level is relevant."""
        return self.relevant / np.maximum(self.rows, 1)

    def relevant_span(self, ties: LevelTies) -> tuple[npt.NDArray[np.int64], ...]:
        """Where the relevant rows of a level begin, all first or all last, and how many are seen.

        start (N,K+1): ranked rows before them; shown (N,K+1)
        """
        offset = 0 if ties == "optimistic" else self.rows - self.relevant
        return self.before + offset, np.clip(self.seen - offset, 0, self.relevant)

    def ended(self, values: Floats, ties: LevelTies, needed: npt.NDArray[np.int64]) -> Floats:
        """(N,) values of a measure in [0,1], exactly 1 where the ranking is perfect.

        That is counted: each of the first `needed` (N,) ranks surely holds a relevant row. Sums of
        floats are off by some last bits there, on either side of 1.
        """
        ranks = np.minimum(needed[:, None] - self.before, self.rows)  # of them, within the level
        if ties == "optimistic":
            filled = self.relevant >= ranks
        else:
            filled = self.relevant == self.rows
        perfect = (filled | (ranks <= 0)).all(axis=1)
        return np.where(perfect, 1.0, np.minimum(values, 1.0))

    def relevant_seen(self, ties: LevelTies) -> Floats:
        """(N,) relevant rows within the cut."""
        if ties == "expected":
            whole = self.seen == self.rows  # there the product would round
            return np.asarray(np.where(whole, self.relevant, self.share * self.seen).sum(axis=1))
        _, shown = self.relevant_span(ties)
        return np.asarray(shown.sum(axis=1), dtype=np.float64)


def average_precision(
    counts: DistanceHistograms,
    *,
    ties: LevelTies = "expected",
    top_k: int | None = None,
    empty: Empty = "zero",
) -> Floats:
    """(N,) average precision of each query, divided by min(R, top_k).

    Inside a level with n rows of which r are relevant, after N₀ rows of which R₀ are relevant,
    position j holds a relevant row with probability r/n, and then R₀ + 1 + (j−1)(r−1)/(n−1) of the
    first N₀+j rows are relevant on average. Summing over j gives harmonic numbers.

    >>> counts = DistanceHistograms(np.array([[1, 2]]), np.array([[1, 1]]))
    >>> average_precision(counts).round(4).tolist()  # ranks 1 and, equally likely, 2 or 3
    [0.9167]
    """
    levels = _Levels(counts, top_k)
    if ties == "expected":
        # Σ 1/(N₀+j) and Σ (j−1)/(N₀+j) = seen − (N₀+1)·Σ 1/(N₀+j), j = 1..seen
        inverse = np.diff(_harmonic(levels.edges))
        spread = levels.seen - (levels.before + 1) * inverse
        slope = (levels.relevant - 1) / np.maximum(levels.rows - 1, 1)
        level = levels.share * ((levels.hits + 1) * inverse + slope * spread)
    else:
        # Σ (R₀+i)/(start+i), i = 1..shown
        start, shown = levels.relevant_span(ties)
        inverse = _harmonic(start + shown) - _harmonic(start)
        level = shown + (levels.hits - start) * inverse
    relevant = counts.relevant_rows
    findable = _findable(relevant, top_k)
    return _close(levels.ended(level.sum(axis=1) / findable, ties, findable), relevant, empty)


def chance_average_precision(
    relevant: npt.NDArray[np.int64], size: int, *, top_k: int | None = None, empty: Empty = "zero"
) -> Floats:
    """(N,) exact expected average precision of a random order of `size` rows.

    (H_N + (R−1)/(N−1)·(N−H_N))/N for R relevant rows of N, and 0 for R = 0: not R/N.
    """
    counts = DistanceHistograms(np.full((len(relevant), 1), size), relevant[:, None])
    return average_precision(counts, top_k=top_k, empty=empty)


def precision_at(
    counts: DistanceHistograms, top_k: int, *, ties: LevelTies = "expected", empty: Empty = "zero"
) -> Floats:
    """(N,) share of relevant rows among the first min(top_k, M).

    >>> counts = DistanceHistograms(np.array([[1, 2]]), np.array([[1, 1]]))
    >>> precision_at(counts, 2).tolist()
    [0.75]
    """
    precision = _Levels(counts, top_k).relevant_seen(ties) / max(1, min(top_k, counts.rows))
    return _close(precision, counts.relevant_rows, empty)


def recall_at(
    counts: DistanceHistograms, top_k: int, *, ties: LevelTies = "expected", empty: Empty = "zero"
) -> Floats:
    """(N,) share of the relevant rows that are among the first top_k."""
    relevant = counts.relevant_rows
    hits = _Levels(counts, top_k).relevant_seen(ties)
    return _close(hits / np.maximum(relevant, 1), relevant, empty)


def recall_ceiling(counts: DistanceHistograms, top_k: int, *, empty: Empty = "zero") -> Floats:
    """(N,) the most that `recall_at` can be: the share of the relevant rows that top_k places hold.

    >>> recall_ceiling(DistanceHistograms(np.array([[1, 4]]), np.array([[1, 3]])), 2).tolist()
    [0.5]
    """
    relevant = counts.relevant_rows
    return _close(np.minimum(relevant, top_k) / np.maximum(relevant, 1), relevant, empty)


def hit_at(counts: DistanceHistograms, top_k: int) -> Floats:
    """(N,) the chance that a relevant row is among the first `top_k`, ties in random order.

    >>> counts = DistanceHistograms(np.array([[1, 2]]), np.array([[0, 1]]))
    >>> hit_at(counts, 2).tolist()  # one of the two rows at distance 1 is relevant, one is taken
    [0.5]

    Raises ValueError: top_k below 1.
    """
    from scipy.stats import hypergeom  # half a second to import

    _check_cut(top_k)
    before = counts.total.cumsum(axis=1) - counts.total  # rows nearer than each level
    taken = np.clip(top_k - before, 0, counts.total)
    chance = hypergeom.pmf(0, counts.total, counts.relevant, taken)
    missed = np.where(taken > 0, chance, 1.0)  # levels without a row have no such chance
    hit = 1 - missed.prod(axis=1)  # of logarithms: by some last bits outside [0,1]
    return np.asarray(hit.round(12).clip(0, 1), dtype=np.float64)


def precision_within(
    counts: DistanceHistograms, radius: int = 2, *, empty: Empty = "zero"
) -> Floats:
    """(N,) share of relevant rows within a Hamming radius (hash lookup): 0 where there is no row.

    Raises ValueError for a negative radius.
    """
    if radius < 0:
        raise ValueError(f"expected a radius >= 0, got {radius}")
    rows = counts.total[:, : radius + 1].sum(axis=1)
    hits = counts.relevant[:, : radius + 1].sum(axis=1)
    return _close(hits / np.maximum(rows, 1), counts.relevant_rows, empty)


def precision_recall_curve(
    counts: DistanceHistograms, *, empty: Empty = "zero"
) -> tuple[Floats, Floats]:
    """Precision and recall (K+1,) within every radius 0..K, means over the queries.

    A query without a row within the radius has precision 0 there, as in `precision_within`.
    """
    relevant = counts.relevant_rows
    rows, hits = np.cumsum(counts.total, axis=1), np.cumsum(counts.relevant, axis=1)
    precision = _close_rows(hits / np.maximum(rows, 1), relevant, empty)
    recall = _close_rows(hits / np.maximum(relevant, 1)[:, None], relevant, empty)
    return precision, recall


def _close_rows(values: Floats, relevant: npt.NDArray[np.int64], empty: Empty) -> Floats:
    """(K+1,) means over the queries that count."""
    kept = ~np.isnan(_close(np.zeros(len(relevant)), relevant, empty))
    return np.asarray(values[kept].mean(axis=0)) if kept.any() else np.full(values.shape[1], np.nan)


def normalised_gain(
    counts: DistanceHistograms,
    *,
    ties: LevelTies = "expected",
    top_k: int | None = None,
    empty: Empty = "zero",
) -> Floats:
    """(N,) NDCG with gain 1 for a relevant row and discount 1/log2(1 + rank).

    Järvelin & Kekäläinen, ACM TOIS 2002. Holds one number a ranked row, up to top_k.

    >>> counts = DistanceHistograms(np.array([[1, 1]]), np.array([[0, 1]]))
    >>> normalised_gain(counts).round(4).tolist()
    [0.6309]
    """
    levels = _Levels(counts, top_k)
    depth = counts.rows if top_k is None else min(top_k, counts.rows)
    discount = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, depth + 2)))])

    def span(start: npt.NDArray[np.int64], length: npt.NDArray[np.int64]) -> Floats:
        first, last = np.minimum(start, depth), np.minimum(start + length, depth)
        return np.asarray(discount[last] - discount[first])

    if ties == "expected":
        gain = levels.share * span(levels.before, levels.seen)
    else:
        gain = span(*levels.relevant_span(ties))
    relevant = counts.relevant_rows
    findable = np.minimum(_findable(relevant, top_k), depth)
    value = levels.ended(gain.sum(axis=1) / discount[findable], ties, findable)
    return _close(value, relevant, empty)


@dataclass(frozen=True)
class LevelGains:
    """Grades of the relevant rows of N queries, by distance.

    gain:   (N,K+1) their sum at each distance 0..K
    starts: (N+1,) where the grades of a query begin in `grades`, and where the last ones end
    grades: the grades above 0, those of a query in descending order
    """

    gain: Floats
    starts: npt.NDArray[np.int64]
    grades: Floats

    @property
    def queries(self) -> npt.NDArray[np.int64]:
        """Whose each grade is."""
        return np.repeat(np.arange(len(self.gain)), np.diff(self.starts))


def graded_gain(
    counts: DistanceHistograms,
    gains: LevelGains,
    *,
    top_k: int | None = None,
    empty: Empty = "zero",
) -> Floats:
    """(N,) NDCG with the grade as gain, discount 1/log2(1 + rank), ties by expectation.

    DCG = Σ_r g_r / log2(1 + r) over the ranks r up to top_k (Järvelin & Kekäläinen, ACM TOIS 2002;
    the gain is linear, as trec_eval and BEIR have it, not 2^g − 1), divided by that of the best
    order. In a random order of the n rows of a level, each rank holds each row with probability
    1/n, so that its gain is on average ḡ, the level's mean grade. DCG is linear in the gains, and
    IDCG, that of the best order, knows no ties, so that the expectation is exactly (McSherry and
    Najork, ECIR 2008)

        E[NDCG] = Σ_levels ḡ · Σ_{ranks of the level, up to top_k} 1/log2(1 + r) / IDCG

    >>> counts = DistanceHistograms(np.array([[2, 1]]), np.array([[2, 0]]))
    >>> gains = LevelGains(np.array([[4.0, 0.0]]), np.array([0, 2]), np.array([3.0, 1.0]))
    >>> graded_gain(counts, gains).round(4).tolist()  # grades 3, 1 and 1, 3 are equally likely
    [0.8984]
    """
    levels = _Levels(counts, top_k)
    depth = counts.rows if top_k is None else min(top_k, counts.rows)
    discount = 1 / np.log2(np.arange(2, depth + 2))
    summed = np.concatenate([[0.0], np.cumsum(discount)])
    mean = gains.gain / np.maximum(levels.rows, 1)
    span = (
        summed[np.minimum(levels.edges[:, 1:], depth)]
        - summed[np.minimum(levels.edges[:, :-1], depth)]
    )
    reached = (mean * span).sum(axis=1)
    ranks = np.arange(len(gains.grades)) - np.repeat(gains.starts[:-1], np.diff(gains.starts))
    kept = ranks < depth
    best = np.bincount(
        gains.queries[kept], gains.grades[kept] * discount[ranks[kept]], minlength=len(reached)
    )
    value = np.minimum(reached / np.where(best > 0, best, 1.0), 1.0)
    value = np.where(np.isclose(reached, best, rtol=1e-12, atol=0), 1.0, value)  # sums round
    return _close(value, counts.relevant_rows, empty)


def graded_recall(counts: DistanceHistograms, gains: LevelGains, top_k: int) -> Floats:
    """(N,) share of all grades of a query that lie among the first top_k, ties by expectation.

    With the chance of being a neighbour as the grade, this is the expected recall.

    >>> counts = DistanceHistograms(np.array([[1, 2]]), np.array([[1, 1]]))
    >>> gains = LevelGains(np.array([[1.0, 1.0]]), np.array([0, 2]), np.array([1.0, 1.0]))
    >>> graded_recall(counts, gains, 2).tolist()
    [0.75]
    """
    levels = _Levels(counts, top_k)
    seen = gains.gain * (levels.seen / np.maximum(levels.rows, 1))
    whole = gains.gain.sum(axis=1)
    return np.asarray(np.minimum(seen.sum(axis=1) / np.where(whole > 0, whole, 1.0), 1.0))


def _ranked_hits(
    query: HashCodes,
    database: HashCodes,
    query_labels: Labels,
    database_labels: Labels,
    top_k: int | None,
) -> Iterator[tuple[npt.NDArray[np.int64], int]]:
    """The ranks (from 1) of each query's hits within the first k, ties by row, and its R."""
    hits = _hits(query_labels, database_labels)
    for row in range(len(query)):
        single = slice(row, row + 1)
        order = np.argsort(distances(query[single], database)[0], kind="stable")[:top_k]
        hit = hits(row)
        yield np.flatnonzero(hit[order]) + 1, int(hit.sum())


def _hits(query_labels: Labels, database_labels: Labels) -> Callable[[int], npt.NDArray[np.bool_]]:
    """Which database rows share a label with a query."""
    if not isinstance(query_labels, HashCodes) and are_groups(query_labels):
        assert not isinstance(database_labels, HashCodes)
        groups, known = query_labels, database_labels
        return lambda row: shares(groups[row : row + 1], known)[0]
    wanted, owned = packed(query_labels), packed(database_labels)
    if wanted.bits != owned.bits:
        raise ValueError(f"expected {owned.bits} label columns, got {wanted.bits}")
    return lambda row: np.asarray((wanted.words[row] & owned.words).any(axis=1))


def _precision_sum(ranks: npt.NDArray[np.int64]) -> float:
    return float((np.arange(1, len(ranks) + 1) / ranks).sum())


def stable_average_precision(
    query: HashCodes,
    database: HashCodes,
    query_labels: Labels,
    database_labels: Labels,
    *,
    top_k: int | None = None,
    empty: Empty = "zero",
) -> Floats:
    """(N,) average precision with ties ranked by database row, as most published code has it."""
    _check_cut(top_k)
    ranked = list(_ranked_hits(query, database, query_labels, database_labels, top_k))
    sums = np.array([_precision_sum(ranks) for ranks, _ in ranked], dtype=np.float64)
    relevant = np.array([count for _, count in ranked], dtype=np.int64)
    return _close(sums / _findable(relevant, top_k), relevant, empty)


def published_average_precision(
    convention: Convention,
    query: HashCodes,
    database: HashCodes,
    query_labels: Labels,
    database_labels: Labels,
    *,
    top_k: int | None = None,
) -> Floats:
    """(N,) average precision as published code computes it: to compare, not to rely on.

    All divide by the hits within the first k, not by min(R, k), so that a further hit can lower
    the score (field trap 21: hit, miss, hit scores below hit, miss, miss), and depend on the
    order of the database. They differ in the cut and in queries without a hit within it: PUBLISHED.
    Their sorts are unstable; here ties are ranked by row. NaN: the query is dropped from the mean.

    Raises ValueError for `prosgan` with a cut, which its CalcMap has not, and for the others
    without one.
    """
    if (convention == "prosgan") is not (top_k is None):
        wanted = "no top_k" if convention == "prosgan" else "a top_k"
        raise ValueError(f"convention {convention!r}: expected {wanted}, got {top_k}")
    _check_cut(top_k)
    missed = np.nan if convention == "dhta" else 0.0
    return np.array(
        [
            _precision_sum(ranks) / len(ranks) if len(ranks) else missed
            for ranks, _ in _ranked_hits(query, database, query_labels, database_labels, top_k)
        ],
        dtype=np.float64,
    )


def retrieval_average_precision(
    query: HashCodes,
    database: HashCodes,
    query_labels: Labels,
    database_labels: Labels,
    *,
    ties: Ties = "expected",
    top_k: int | None = None,
    empty: Empty = "zero",
) -> Floats:
    """(N,) average precision of each query: its mean is MAP; with target labels, t-MAP."""
    if len(database) == 0:
        raise DataError("expected a database of at least one row, got none")
    if ties == "stable":
        return stable_average_precision(
            query, database, query_labels, database_labels, top_k=top_k, empty=empty
        )
    counts = histograms(query, database, query_labels, database_labels)
    return average_precision(counts, ties=ties, top_k=top_k, empty=empty)
