"""The kernel of nearest neighbours: XOR and population counts, four queries at a time.

Distances are made a block of database rows at a time and never stored: each query keeps its nearest
rows so far. A block fits in the second cache, and each of its words is used by four queries.
"""

# numba's compiler types the functions itself.
# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,no-any-return,misc"

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from advhash.codes.lanes import LANES, compiled, differ, load, plus, population, sum_of, zero

QUERIES = 4  # at a time
_BLOCK_WORDS = 1 << 15  # 256 KiB


def padded(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """(N,W) words as int64 (N,W'), W' a multiple of 8; the bits added are 0."""
    width = -(-words.shape[1] // LANES) * LANES
    if words.shape[1] == width and words.flags.c_contiguous:
        return words.view(np.int64)
    wide = np.zeros((len(words), width), np.int64)
    wide[:, : words.shape[1]] = words.view(np.int64)
    return wide


@compiled
def _insert(distances, rows, far, row):
    """Put a row behind those that are as near: rows come in ascending order."""
    place = distances.shape[0] - 1
    while place > 0 and distances[place - 1] > far:
        distances[place] = distances[place - 1]
        rows[place] = rows[place - 1]
        place -= 1
    distances[place] = far
    rows[place] = row


@compiled
def keep_nearest(queries, database, first, last, distances, rows):
    """The nearest database rows of the queries first … last−1, a multiple of 4.

    queries, database: int64 (N,W) and (M,W) from `padded`
    distances, rows: int64 (N,k), ascending; `distances` holds 2⁶³−1 at first
    """
    width = queries.shape[1]
    block = max(1, _BLOCK_WORDS // width)
    last_place = distances.shape[1] - 1
    flat_queries = queries.reshape(-1)
    flat_database = database.reshape(-1)
    for start in range(0, database.shape[0], block):
        stop = min(start + block, database.shape[0])
        for query in range(first, last, 4):
            at = query * width
            for row in range(start, stop):
                near = row * width
                one, two, three, four = zero(), zero(), zero(), zero()
                for word in range(0, width, 8):
                    other = load(flat_database, near + word)
                    one = plus(one, population(differ(load(flat_queries, at + word), other)))
                    two = plus(
                        two, population(differ(load(flat_queries, at + width + word), other))
                    )
                    three = plus(
                        three,
                        population(differ(load(flat_queries, at + 2 * width + word), other)),
                    )
                    four = plus(
                        four,
                        population(differ(load(flat_queries, at + 3 * width + word), other)),
                    )
                far = sum_of(one)
                if far < distances[query, last_place]:
                    _insert(distances[query], rows[query], far, row)
                far = sum_of(two)
                if far < distances[query + 1, last_place]:
                    _insert(distances[query + 1], rows[query + 1], far, row)
                far = sum_of(three)
                if far < distances[query + 2, last_place]:
                    _insert(distances[query + 2], rows[query + 2], far, row)
                far = sum_of(four)
                if far < distances[query + 3, last_place]:
                    _insert(distances[query + 3], rows[query + 3], far, row)
