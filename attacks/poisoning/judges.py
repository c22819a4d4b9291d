"""Known queries that judge items before these are planted: those that no item was made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from advhash.attacks.poisoning.base import Floats, Places, Seen
from advhash.codes.hamming import distances, neighbours
from advhash.codes.packed import HashCodes
from advhash.codes.relevance import FIRST, float_neighbours
from advhash.codes.vectors import Vectors, unit_rows

Which = npt.NDArray[np.bool_]
BLOCK = 256  # queries whose candidates are in memory at a time


def halves(count: int) -> tuple[tuple[Places, Places], tuple[Places, Places]]:
    """Rows of `count` queries that items are made of, and those that judge them; then in turn.

    >>> [[side.tolist() for side in each] for each in halves(3)]
    [[[0, 2], [1]], [[1], [0, 2]]]
    """
    rows = np.arange(count)
    return (rows[::2], rows[1::2]), (rows[1::2], rows[::2])


@dataclass(frozen=True)
class Judges:
    """Q queries, and how near an item must come to be among their first 10 results.

    queries: their codes
    bits:    (Q,) Hamming distances of the documents that an item must come before: of the 10th, or
        of the last candidate where floats rank those that bits choose; None: floats rank all
    directions: (Q,D) of length 1, where floats rank
    cosines: (Q,) of the 10th document by floats; None: codes rank
    """

    queries: HashCodes
    bits: Places | None
    directions: Floats | None
    cosines: Floats | None

    @classmethod
    def of(cls, queries: Vectors, seen: Seen, *, held: bool = False) -> Self:
        """The queries among the documents of the corpus, by exact search.

        held: whether each query is a document itself, which does not count as its result
        """
        corpus, others = seen.corpus, len(seen.corpus) - held
        first = min(FIRST + held, len(corpus))
        if seen.ranks == "codes" or seen.candidates == FIRST:  # floats reorder what bits show
            far = neighbours(queries.codes, corpus.codes, first)[1]
            return cls(queries.codes, far[:, -1], None, None)
        units = unit_rows(queries.floats)
        if seen.candidates is None or seen.candidates >= others:
            nearest = float_neighbours(units, corpus.floats, first)
            asked = np.repeat(np.arange(len(units)), np.diff(nearest.starts))
            cosines = (units[asked] * unit_rows(corpus.floats[nearest.rows])).sum(axis=1)
            tenth = np.minimum.reduceat(cosines, nearest.starts[:-1])
            return cls(queries.codes, None, units, tenth)
        rows, far = neighbours(queries.codes, corpus.codes, seen.candidates + held)
        rows = rows[:, :-1]  # an item that is a candidate takes the place of the last one
        near = np.concatenate(
            [
                _cosines(units[start : start + BLOCK], corpus, rows[start : start + BLOCK])
                for start in range(0, len(rows), BLOCK)
            ]
        )
        near.sort(axis=1)
        return cls(queries.codes, far[:, -1], units, near[:, -first])

    def finds(self, items: Vectors) -> Which:
        """(P,Q) which queries would have each item among their first 10, were it the only one."""
        near = np.ones((len(items), len(self.queries)), bool)
        if self.bits is not None:
            near = distances(items.codes, self.queries) < self.bits
        if self.directions is not None and self.cosines is not None:
            near &= unit_rows(items.floats) @ self.directions.T > self.cosines
        return near


def _cosines(units: Floats, corpus: Vectors, rows: Places) -> Floats:
    """(Q,C) of queries (Q,D) of length 1 and the documents that `rows` (Q,C) name for each."""
    chosen, places = np.unique(rows, return_inverse=True)
    near = units @ unit_rows(corpus.floats[chosen]).T
    return np.asarray(np.take_along_axis(near, places.reshape(rows.shape), axis=1))
