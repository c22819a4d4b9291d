"""What is relevant to a query, and how much: one contract, whatever says so.

    SharedLabels   rows that share a label with the query: multi-hot labels or class numbers
    GradedPairs    pairs of query and row with a grade: judgements, identities, neighbours

Both give distance histograms, from which all rank metrics follow; pairs add the grades.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from advhash.codes.hamming import DistanceHistograms, pair_distances
from advhash.codes.metrics import LevelGains
from advhash.codes.packed import HashCodes
from advhash.errors import DataError
from advhash.shared_labels import NO_GROUP, GroupIndex

Similarity = Literal["cosine", "dot"]
FIRST = 10  # results that a user looks at
_LEAST_IDENTITIES = 4096  # classes, from which on a column for each costs more than pairs do
_MOST_PAIRS = 1 << 26
_MOST_PLACES = 1 << 28  # of groups in a table of rows
_SIMILARITIES = 1 << 25  # in memory at a time, as float32
_EQUAL = 1e-6  # similarities that differ by rounding, relative to the largest


class Relevance(ABC):
    """What of M database rows is relevant to each of N queries."""

    @abstractmethod
    def kernel_labels(self, classes: int) -> HashCodes:
        """(N,C) packed labels of the queries that the counting kernel compares with the database's.

        classes: label columns of the database
        """

    @abstractmethod
    def judged(
        self, counts: DistanceHistograms, query: HashCodes, database: HashCodes
    ) -> tuple[DistanceHistograms, LevelGains | None]:
        """The histograms with the relevant rows, and their grades; None: each has grade 1.

        counts: what the kernel counted by `kernel_labels`
        """

    @abstractmethod
    def graded(
        self, rows: npt.NDArray[np.int64], database_labels: HashCodes
    ) -> npt.NDArray[np.float64]:
        """(N,k) how relevant the given database rows (N,k) are to their queries; 0: not at all.

        Labels give 1; of neighbours it is the chance of being one.
        """


@dataclass(frozen=True)
class SharedLabels(Relevance):
    """Relevant is what shares at least one of the labels (N,C) of the query."""

    labels: HashCodes

    def kernel_labels(self, classes: int) -> HashCodes:
        return self.labels

    def judged(
        self, counts: DistanceHistograms, query: HashCodes, database: HashCodes
    ) -> tuple[DistanceHistograms, LevelGains | None]:
        return counts, None

    def graded(
        self, rows: npt.NDArray[np.int64], database_labels: HashCodes
    ) -> npt.NDArray[np.float64]:
        shared = self.labels.words[:, None] & database_labels.words[rows]
        return np.asarray(shared.any(axis=2), np.float64)


@dataclass(frozen=True)
class GradedPairs(Relevance):
    """Sparse pairs of N queries and M database rows, in compressed rows (CSR).

    starts: (N+1,) where the pairs of a query begin, and where the last ones end
    rows:   database row of each pair
    grades: how relevant it is; 0 and below: not at all

    Raises ValueError: arrays that do not fit each other.

    >>> pairs = GradedPairs.of(2, [1, 0, 1], [4, 2, 3], [1.0, 2.0, 1.0])
    >>> pairs.starts.tolist(), pairs.rows.tolist()
    ([0, 1, 3], [2, 4, 3])
    """

    starts: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    grades: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        counted = len(self.starts) > 0 and self.starts[0] == 0 and (np.diff(self.starts) >= 0).all()
        if not counted or not len(self.rows) == len(self.grades) == self.starts[-1]:
            raise ValueError(
                f"expected ascending starts that end with the number of pairs, got {self.starts}, "
                f"{len(self.rows)} rows and {len(self.grades)} grades"
            )

    @classmethod
    def of(
        cls, queries: int, query: npt.ArrayLike, row: npt.ArrayLike, grade: npt.ArrayLike
    ) -> GradedPairs:
        """From pairs in any order."""
        asked = np.asarray(query, np.int64)
        order = np.argsort(asked, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(asked, minlength=queries))])
        return cls(
            starts.astype(np.int64),
            np.asarray(row, np.int64)[order],
            np.asarray(grade, np.float64)[order],
        )

    @classmethod
    def of_identities(
        cls, query: npt.NDArray[np.int64], database: npt.NDArray[np.int64]
    ) -> GradedPairs:
        """Relevant are the rows of the same number: no matrix of one column an identity is made.

        >>> GradedPairs.of_identities(np.array([7, 5]), np.array([5, 7, 7])).rows.tolist()
        [1, 2, 0]
        """
        index = GroupIndex(database[:, None])
        starts = np.concatenate([[0], np.cumsum(index.counts(query[:, None]))]).astype(np.int64)
        return cls(starts, index.pairs(query[:, None])[1], np.ones(starts[-1]))

    def groups(self, rows: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
        """(N,1) a group for each query, and the groups (rows,L) of the database that say the same.

        For what knows labels alone, as attacks and their targets: a row with a grade above 0 for a
        query belongs to the group of its number. Grades are left out.

        Raises DataError: a row that answers so many queries that no table holds them.

        >>> pairs = GradedPairs.of(2, [0, 0, 1], [1, 2, 2], [1.0, 2.0, 1.0])
        >>> pairs.groups(3)[1].tolist()
        [[-1, -1], [0, -1], [0, 1]]
        """
        count = len(self.starts) - 1
        relevant = self.grades > 0
        queries = np.repeat(np.arange(count, dtype=np.int32), np.diff(self.starts))[relevant]
        answered = self.rows[relevant]
        order = np.argsort(answered, kind="stable")
        answered, queries = answered[order], queries[order]
        each = np.bincount(answered, minlength=rows)
        most = max(int(each.max(initial=0)), 1)
        if most * rows > _MOST_PLACES:
            raise DataError(
                f"expected rows that answer few queries each, got row {int(each.argmax())} which "
                f"answers {most} (of {rows:,} rows): leave it out of the judgements"
            )
        owned = np.full((rows, most), NO_GROUP, np.int32)
        owned[answered, np.arange(len(answered)) - np.repeat(each.cumsum() - each, each)] = queries
        return np.arange(count, dtype=np.int32)[:, None], owned

    def kernel_labels(self, classes: int) -> HashCodes:
        return HashCodes.pack(np.zeros((len(self.starts) - 1, classes), bool))

    def judged(
        self, counts: DistanceHistograms, query: HashCodes, database: HashCodes
    ) -> tuple[DistanceHistograms, LevelGains]:
        relevant = self.grades > 0
        queries = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))[relevant]
        rows, grades = self.rows[relevant], self.grades[relevant]
        far = pair_distances(query, database, queries, rows)
        shape = counts.total.shape
        places, size = queries * shape[1] + far, shape[0] * shape[1]
        hits = np.bincount(places, minlength=size).reshape(shape)
        gain = np.bincount(places, grades, minlength=size).astype(np.float64).reshape(shape)
        starts = np.concatenate([[0], np.cumsum(np.bincount(queries, minlength=shape[0]))])
        order = np.lexsort((-grades, queries))
        return DistanceHistograms(counts.total, hits), LevelGains(gain, starts, grades[order])

    def graded(
        self, rows: npt.NDArray[np.int64], database_labels: HashCodes
    ) -> npt.NDArray[np.float64]:
        if not len(self.rows):
            return np.zeros(rows.shape)
        most = 1 + max(int(self.rows.max()), int(rows.max(initial=0)))
        queries = np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))
        pairs = queries * most + self.rows
        order = np.argsort(pairs)
        asked = np.arange(len(rows))[:, None] * most + rows
        place = order[np.searchsorted(pairs[order], asked).clip(0, len(pairs) - 1)]
        return np.where(pairs[place] == asked, self.grades[place].clip(0), 0.0)


def identities(query: npt.NDArray[np.int64], database: npt.NDArray[np.int64]) -> GradedPairs | None:
    """Pairs for class numbers that are rather identities: many classes of few rows.

    None where one column a class is the smaller way: few classes, or too many pairs.
    """
    known, counts = np.unique(database, return_counts=True)
    if max(query.max(initial=0), known.max(initial=0)) < _LEAST_IDENTITIES:
        return None
    place = np.searchsorted(known, query).clip(0, len(known) - 1)
    pairs = int(np.where(known[place] == query, counts[place], 0).sum())
    return None if pairs > _MOST_PAIRS else GradedPairs.of_identities(query, database)


def float_neighbours(
    query: npt.NDArray[Any],
    database: npt.NDArray[Any],
    count: int,
    similarity: Similarity = "cosine",
) -> GradedPairs:
    """The `count` most similar rows (M,D) of each of (N,D) embeddings: what codes should find.

    The grade of a pair is the chance that the row is one of them: below 1 where more rows are as
    similar as the last one (up to rounding) than there are places left.

    Raises ValueError: fewer rows than `count`, or other dimensions.

    >>> rows = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [-1.0, 0.0]])
    >>> pairs = float_neighbours(np.array([[1.0, 0.1]]), rows, 2)
    >>> pairs.rows.tolist(), pairs.grades.tolist()
    ([0, 1, 2], [1.0, 0.5, 0.5])
    """
    if not 1 <= count <= len(database) or query.shape[1] != database.shape[1]:
        raise ValueError(
            f"expected at least {count} rows of {query.shape[1]} dimensions, got {database.shape}"
        )
    known = _comparable(database, similarity).T
    queries, rows, grades = [], [], []
    step = max(1, _SIMILARITIES // len(database))
    for start in range(0, len(query), step):
        near = _comparable(query[start : start + step], similarity) @ known
        last = -np.partition(-near, count - 1, axis=1)[:, count - 1 : count]
        margin = _EQUAL * (1.0 if similarity == "cosine" else np.abs(near).max(axis=1)[:, None])
        nearer = near > last + margin
        tied = (near >= last - margin) & ~nearer
        chance = (count - nearer.sum(axis=1)) / tied.sum(axis=1)
        at, row = np.nonzero(nearer | tied)
        queries.append(start + at)
        rows.append(row)
        grades.append(np.where(nearer[at, row], 1.0, chance[at]))
    return GradedPairs.of(
        len(query), *(np.concatenate([[], *parts]) for parts in (queries, rows, grades))
    )


def _comparable(rows: npt.NDArray[Any], similarity: Similarity) -> npt.NDArray[np.float32]:
    values = np.asarray(rows, np.float32)
    if similarity == "dot":
        return values
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.asarray(values / lengths, np.float32)
