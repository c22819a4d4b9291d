"""What the first results of a served search are worth, query by query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from advhash.codes.code_files import StoredCodes
from advhash.codes.packed import HashCodes
from advhash.codes.relevance import FIRST, Relevance
from advhash.codes.vectors import Vectors
from advhash.errors import ConfigError, DataError
from advhash.registry import STORES
from advhash.stores.base import NONE, Ids, Store
from advhash.stores.served import Served, Table, recall_of_distances

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Search:
    """A search as it is served: a store and the rescorers behind it.

    store, rescore: tables of registered methods, see `Served`
    """

    store: Table
    rescore: Sequence[Table] = ()

    @property
    def label(self) -> str:
        """How pages and terminals call it: `faiss-ivf, float ×10`."""
        stages = (f"{stage['name']} ×{stage.get('multiplier', 10)}" for stage in self.rescore)
        return ", ".join([str(self.store["name"]), *stages])

    @property
    def needs_floats(self) -> bool:
        """Whether codes alone are not enough for it."""
        holds = STORES.describe(str(self.store["name"])).fact("holds")
        return bool(self.rescore) or holds == "floats"

    def results(
        self, queries: Vectors, database: Vectors, count: int = FIRST
    ) -> tuple[Ids, Floats, dict[str, Any]]:
        """Rows (N, count) of a database, the share of those that its store finds, and parameters.

        The share (N,) is that of the first `count` results of the store, before any rescoring,
        which are as near as the last of the exact ones.

        Raises UsageError; DataError: fewer rows than that; StoreError.
        """
        expect_rows(len(database), count)
        rows = np.arange(len(database))
        with Served(self.store, self.rescore) as served:
            served.add(rows, database)
            ids, _ = served.search(queries, count)
            share = store_recall(served.store, queries, database, count)
            parameters = {
                "store": {"name": self.store["name"], **served.store.parameters()},
                "rescore": [dict(stage) for stage in self.rescore],
            }
        return ids, share, parameters


def store_recall(store: Store, queries: Vectors, database: Vectors, count: int = FIRST) -> Floats:
    """(N,) share of the first `count` rows of a store that are as near as the last exact one.

    database: what the store holds

    Raises StoreError.
    """
    if store.exact:
        return np.ones(len(queries))
    codes = store.holds == "codes"
    asked, known = ((each.codes if codes else each.floats) for each in (queries, database))
    _, far = store.search(asked, count)
    with STORES.create("exact" if codes else "float") as ours:
        ours.add(np.arange(len(database)), known)
        _, nearest = ours.search(asked, count)
    return recall_of_distances(far, nearest + 1e-6)


def served_columns(
    ids: Ids,
    relevance: Relevance,
    database_labels: HashCodes,
    relevant: npt.NDArray[np.int64] | None,
) -> dict[str, Floats]:
    """Precision and recall (N,) of the first results; NaN where nothing is relevant.

    ids:      (N,k) rows, −1 where a place is empty: nothing relevant is there
    relevant: (N,) how many rows of the database are relevant; None: grades are chances of being one
        of k relevant rows, as of neighbours, and precision and recall are one
    """
    grades = relevance.graded(np.where(ids == NONE, 0, ids), database_labels)
    grades = np.where(ids == NONE, 0.0, grades)
    if relevant is None:
        return {"served_recall_at_10": grades.mean(axis=1)}
    hits = (grades > 0).sum(axis=1)
    share = np.full(len(ids), np.nan)
    np.divide(hits, relevant, out=share, where=relevant > 0)
    precision = np.where(relevant > 0, hits / ids.shape[1], np.nan)
    return {"served_precision_at_10": precision, "served_recall_at_10": share}


def expect_rows(rows: int, count: int = FIRST) -> None:
    """Raise DataError where a database has fewer rows than results are looked at."""
    if rows < count:
        raise DataError(
            f"expected at least {count} rows in the database, as many as results are looked at, "
            f"got {rows}"
        )


@dataclass(frozen=True)
class Asked:
    """A search with what it is asked and what it holds. Raises DataError: too few rows."""

    search: Search
    queries: Vectors
    database: Vectors

    def __post_init__(self) -> None:
        expect_rows(len(self.database))

    def of(self, rows: npt.NDArray[np.int64]) -> Asked:
        """The same for some of the queries."""
        return Asked(self.search, self.queries[rows], self.database)

    def columns(
        self,
        relevance: Relevance,
        database_labels: HashCodes,
        relevant: npt.NDArray[np.int64] | None,
    ) -> tuple[dict[str, Floats], dict[str, Any]]:
        """`served_columns` and `store_recall_at_10` (N,), and the parameters of the store."""
        ids, share, parameters = self.search.results(self.queries, self.database)
        columns = served_columns(ids, relevance, database_labels, relevant)
        return {**columns, "store_recall_at_10": share}, parameters


def expect_floats(search: Search, *sides: object) -> None:
    """Raise ConfigError where a search needs floats and a side has none."""
    if search.needs_floats and any(side is None for side in sides):
        raise ConfigError(
            f"{search.label}: expected floats of queries and database, which are rescored or "
            "stored, got codes: give embeddings and --quantise"
        )


def vectors_of(stored: StoredCodes) -> Vectors:
    """The rows of a file: their codes, and the floats that these were made of, where it has any."""
    if stored.floats is None or stored.limits is None:
        empty = np.zeros((len(stored), 0), np.float32)
        return Vectors(stored.codes, empty, empty)
    floats = np.asarray(stored.floats, np.float32)
    return Vectors(stored.codes, floats, np.asarray(floats - stored.limits, np.float32))
