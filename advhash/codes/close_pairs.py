"""All pairs of codes: counted by distance and by group, and those within a threshold listed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import numpy.typing as npt

from advhash.codes.packed import HashCodes
from advhash.compute.cores import usable_cores

Rows = npt.NDArray[np.int64]
MOST_PAIRS = 1_000_000  # that are listed; all are counted


@dataclass(frozen=True)
class ClosePairs:
    """The pairs of rows that are within a threshold.

    first, second: rows, first < second where both are of the same codes; by distance, then by row
    far:    their distances
    counts: (N,G) how many rows of each group are as close to each row
    """

    first: Rows
    second: Rows
    far: Rows
    counts: npt.NDArray[np.int32]

    @property
    def listed_all(self) -> bool:
        """Whether no close pair was left out of the list."""
        return len(self.far) < MOST_PAIRS


def pair_counts(codes: HashCodes, edges: Rows) -> npt.NDArray[np.int64]:
    """(G,G,K+1) how many pairs of rows lie at each distance, by the groups of both.

    edges: (G+1,) where each group of neighbouring rows begins, and the end
    Every pair is counted once, at [g,h] with g ≤ h. Exact, on all cores.

    >>> pair_counts(HashCodes.pack([[0, 0], [0, 1], [1, 1]]), np.array([0, 2, 3])).tolist()
    [[[0, 1, 0], [0, 1, 1]], [[0, 0, 0], [0, 0, 0]]]
    """
    groups = len(edges) - 1
    counts = np.zeros((groups, groups, codes.bits + 1), np.int64)
    words = _by_word(codes)

    def count(one: int, other: int) -> None:
        from advhash.codes import pair_kernels

        pair_kernels.count_pairs(
            words, words, *_between(edges, one, other), one == other, counts[one, other]
        )

    _shared(count, combinations_with_replacement(range(groups), 2))
    return counts


def close_pairs(codes: HashCodes, edges: Rows, threshold: int) -> ClosePairs:
    """The pairs of rows at most `threshold` bits apart; arguments as in `pair_counts`."""
    words = _by_word(codes)
    counts = np.zeros((len(codes), len(edges) - 1), np.int32)
    places = list(combinations_with_replacement(range(len(edges) - 1), 2))
    room = max(MOST_PAIRS // max(len(places), 1), 10_000)

    def find(one: int, other: int) -> npt.NDArray[np.int64]:
        from advhash.codes import pair_kernels

        listed = np.empty((room, 3), np.int64)
        size = pair_kernels.list_pairs(
            words,
            words,
            *_between(edges, one, other),
            one == other,
            threshold,
            listed,
            counts[:, one],
            counts[:, other],
        )
        return listed[: min(size, room)].copy()

    return _sorted_pairs(_shared(find, places), counts)


def close_rows(codes: HashCodes, others: HashCodes, threshold: int) -> ClosePairs:
    """The pairs of a row of `codes` and one of `others` at most `threshold` bits apart.

    Raises ValueError where the bits differ.
    """
    if codes.bits != others.bits:
        raise ValueError(f"expected codes of {others.bits} bits, got {codes.bits}")
    words, known = _by_word(codes), _by_word(others)
    counts = np.zeros((len(codes), 1), np.int32)
    parts = min(64, max(len(codes), 1))
    edges = np.linspace(0, len(codes), parts + 1).astype(np.int64)
    room = max(MOST_PAIRS // parts, 10_000)

    def find(one: int, _: int) -> npt.NDArray[np.int64]:
        from advhash.codes import pair_kernels

        listed = np.empty((room, 3), np.int64)
        size = pair_kernels.list_pairs(
            words,
            known,
            *(edges[one], edges[one + 1], 0, len(others)),
            False,
            threshold,
            listed,
            np.zeros(len(others), np.int32),
            counts[:, 0],
        )
        return listed[: min(size, room)].copy()

    return _sorted_pairs(_shared(find, ((part, 0) for part in range(parts))), counts)


def clusters(count: int, pairs: ClosePairs) -> Rows:
    """(N,) the number of the group that each of N rows belongs to, linked by close pairs.

    Groups are numbered by their first rows; a row without a close one is alone.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    links = coo_matrix((np.ones(len(pairs.far)), (pairs.first, pairs.second)), (count, count))
    _, listed = connected_components(links, directed=False)
    _, first, numbers = np.unique(listed, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[numbers], np.int64)


def _by_word(codes: HashCodes) -> npt.NDArray[np.int64]:
    """(W,N) words of codes: what lies side by side is compared side by side."""
    return np.ascontiguousarray(codes.words.T).view(np.int64)


def _between(edges: Rows, one: int, other: int) -> tuple[int, int, int, int]:
    return int(edges[one]), int(edges[one + 1]), int(edges[other]), int(edges[other + 1])


def _shared(
    work: Callable[[int, int], npt.NDArray[np.int64] | None], places: Iterable[tuple[int, int]]
) -> list[npt.NDArray[np.int64]]:
    """What `work` gives at each place, by threads."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        listed = list(pool.map(lambda place: work(*place), places))
    return [part for part in listed if part is not None]


def _sorted_pairs(parts: list[npt.NDArray[np.int64]], counts: npt.NDArray[np.int32]) -> ClosePairs:
    rows = np.concatenate([np.empty((0, 3), np.int64), *parts])
    order = np.lexsort((rows[:, 1], rows[:, 0], rows[:, 2]))[:MOST_PAIRS]
    first, second, far = rows[order].T
    return ClosePairs(first, second, far, counts)
