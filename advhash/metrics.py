"""Rank metrics from distance histograms: exact, tie-aware, independent of the database's order.

A Hamming ranking has at most K+1 levels; the order inside a level is arbitrary. `ties` says what
is done about it:

    expected     the expectation over all orders inside the levels, in closed form (default)
    optimistic   relevant rows first: the upper bound
    pessimistic  relevant rows last: the lower bound

`stable` (ties by database row, as published code has it) needs the ranking itself:
`stable_average_precision`.

A query without a relevant row (`empty`) scores `zero` (default), is dropped (`skip`: its value is
NaN here and leaves the mean) or is an `error`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from advhash.codes import HashCodes
from advhash.errors import DataError
from advhash.hamming import DistanceHistograms, distances, histograms, relevance

__all__ = [
    "Empty",
    "Ties",
    "average_precision",
    "chance_average_precision",
    "recall_at",
    "retrieval_average_precision",
    "stable_average_precision",
]

Floats = npt.NDArray[np.float64]
Ties = Literal["expected", "optimistic", "pessimistic", "stable"]
Empty = Literal["zero", "skip", "error"]


def _harmonic(count: int) -> Floats:
    """H_0 … H_count."""
    return np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, count + 1))])


def _close(
    values: Floats, relevant: npt.NDArray[np.int64], top_k: int | None, empty: Empty
) -> Floats:
    """Divide the sums of precisions by min(R, k) and treat the empty queries."""
    if top_k is not None and top_k < 1:
        raise ValueError(f"expected top_k >= 1, got {top_k}")
    found = relevant if top_k is None else np.minimum(relevant, top_k)
    none = found == 0
    if empty == "error" and none.any():
        raise DataError(
            f"{int(none.sum())} of {len(none)} queries have no relevant database row: "
            "expected at least one each; use empty=zero or empty=skip"
        )
    result = values / np.maximum(found, 1)
    result[none] = np.nan if empty == "skip" else 0.0
    return result


def average_precision(
    counts: DistanceHistograms,
    *,
    ties: Literal["expected", "optimistic", "pessimistic"] = "expected",
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
    n = counts.total.astype(np.float64)
    r = counts.relevant.astype(np.float64)
    before = np.cumsum(counts.total, axis=1) - counts.total
    hits = np.cumsum(r, axis=1) - r
    size = int(counts.total.sum(axis=1).max(initial=0))
    harmonic = _harmonic(size)
    limit = size if top_k is None else top_k
    seen = np.clip(limit - before, 0, counts.total)  # positions of the level within the cut
    if ties == "expected":
        inverse = harmonic[before + seen] - harmonic[before]  # Σ 1/(N₀+j), j = 1..seen
        slope = np.divide(r - 1, n - 1, out=np.zeros_like(n), where=n > 1)
        # Σ (j−1)/(N₀+j) = seen − (N₀+1)·Σ 1/(N₀+j)
        spread = seen - (before + 1) * inverse
        share = np.divide(r, n, out=np.zeros_like(n), where=n > 0)
        level = share * ((hits + 1) * inverse + slope * spread)
    else:
        offset = np.zeros_like(before) if ties == "optimistic" else counts.total - counts.relevant
        shown = np.clip(seen - offset, 0, counts.relevant)  # relevant rows within the cut
        start = before + offset
        inverse = harmonic[np.minimum(start + shown, size)] - harmonic[np.minimum(start, size)]
        # Σ (R₀+i)/(start+i), i = 1..shown
        level = shown + (hits - start) * inverse
    return _close(level.sum(axis=1), counts.relevant.sum(axis=1), top_k, empty)


def recall_at(counts: DistanceHistograms, k: int) -> Floats:
    """(N,) expected share of each query's relevant rows among its first k; 0 where there are none.

    Inside a level that the cut divides, every order is as likely.

    >>> counts = DistanceHistograms(np.array([[1, 2]]), np.array([[1, 1]]))
    >>> recall_at(counts, 1).tolist(), recall_at(counts, 2).tolist()
    ([0.5], [0.75])
    """
    if k < 1:
        raise ValueError(f"expected k >= 1, got {k}")
    before = np.cumsum(counts.total, axis=1) - counts.total
    seen = np.clip(k - before, 0, counts.total)
    found = (counts.relevant * seen / np.maximum(counts.total, 1)).sum(axis=1)
    return np.asarray(found / np.maximum(counts.relevant.sum(axis=1), 1))


def stable_average_precision(
    query: HashCodes,
    database: HashCodes,
    query_labels: npt.NDArray[np.uint8],
    database_labels: npt.NDArray[np.uint8],
    *,
    top_k: int | None = None,
    empty: Empty = "zero",
) -> Floats:
    """(N,) average precision with ties ranked by database row, as most published code has it."""
    result = np.zeros(len(query))
    found = np.zeros(len(query), dtype=np.int64)
    for row in range(len(query)):
        one = slice(row, row + 1)
        order = np.argsort(distances(query[one], database)[0], kind="stable")[:top_k]
        hit_all = relevance(query_labels[one], database_labels)[0]
        hit = hit_all[order]
        ranks = np.flatnonzero(hit) + 1
        result[row] = (np.arange(1, len(ranks) + 1) / ranks).sum()
        found[row] = hit_all.sum()
    return _close(result, found, top_k, empty)


def chance_average_precision(
    relevant: npt.NDArray[np.int64], size: int, *, top_k: int | None = None, empty: Empty = "zero"
) -> Floats:
    """(N,) exact expected average precision of a random order of `size` rows.

    (H_N + (R−1)/(N−1)·(N−H_N))/N for R relevant rows of N, and 0 for R = 0: not R/N.
    """
    counts = DistanceHistograms(np.full((len(relevant), 1), size), relevant[:, None])
    return average_precision(counts, top_k=top_k, empty=empty)


def retrieval_average_precision(
    query: HashCodes,
    database: HashCodes,
    query_labels: npt.NDArray[np.uint8],
    database_labels: npt.NDArray[np.uint8],
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
