"""What a deployed search answers: the results of a store, after the stages that rescore them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from advhash.codes.vectors import Vectors
from advhash.errors import ConfigError, StoreError
from advhash.registry import RESCORERS, STORES
from advhash.stores.base import NONE, Ids, Store
from advhash.stores.rescoring import Rescorer

Table = Mapping[str, Any]  # a name and its settings


class Served:
    """A store and its rescorers, as one that vectors are added to and searched in.

    store, rescore: tables of registered methods, each a `name` and its settings; the rescorers
        follow each other

    Nothing is opened before the first rows are added.

    Raises UsageError: an unknown name or setting, a client that is not installed, rescorers whose
    candidates do not become fewer, or any of a store that holds floats already.
    """

    def __init__(self, store: Table, rescore: Sequence[Table] = ()) -> None:
        self.store: Store = _created(STORES, store)
        self.stages: list[Rescorer] = [_created(RESCORERS, table) for table in rescore]
        _check_stages(str(store["name"]), self.store, self.stages)
        self._ids: Ids = np.zeros(0, np.int64)
        self._kept: list[npt.NDArray[Any]] = []

    def __len__(self) -> int:
        return len(self.store)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.store.close()

    def add(self, ids: npt.ArrayLike, rows: Vectors) -> None:
        """Keep N rows under N ids. Raises StoreError, see `Store.add`."""
        named = np.asarray(ids, np.int64)
        self.store.add(named, self._stored(rows))
        if not self.stages or not len(named):
            return
        if not self._kept:
            for stage in self.stages:
                stage.learn(rows)
        kept = [stage.keep(rows) for stage in self.stages]
        if self._kept:
            kept = [np.concatenate([old, new]) for old, new in zip(self._kept, kept, strict=True)]
        self._ids = np.concatenate([self._ids, named])
        self._kept = kept

    def remove(self, ids: npt.ArrayLike) -> None:
        """Forget these rows. Raises StoreError, see `Store.remove`."""
        self.store.remove(ids)
        if self.stages:
            kept = ~np.isin(self._ids, ids)
            self._ids, self._kept = self._ids[kept], [part[kept] for part in self._kept]

    def search(self, queries: Vectors, count: int) -> tuple[Ids, npt.NDArray[Any]]:
        """Ids and distances (N, count) of the best rows, see `Store.search`.

        After a rescorer the distances are its similarities, negated: less is nearer; infinity where
        a place is empty.
        """
        multipliers = [stage.multiplier for stage in self.stages]
        ids, far = self.store.search(
            self._stored(queries), count * (multipliers[0] if multipliers else 1)
        )
        for stage, kept, following in zip(
            self.stages, self._kept, [*multipliers[1:], 1], strict=False
        ):
            ids, far = self._rescored(stage, kept, queries, ids, count * following)
        return ids[:, :count], far[:, :count]

    def _rescored(
        self, stage: Rescorer, kept: npt.NDArray[Any], queries: Vectors, ids: Ids, count: int
    ) -> tuple[Ids, npt.NDArray[Any]]:
        order = np.argsort(self._ids)
        rows = order[np.searchsorted(self._ids[order], ids).clip(0, len(order) - 1)]
        far = -stage.similarities(queries, kept, rows).astype(np.float64)
        far[ids == NONE] = np.inf
        best = np.lexsort((ids, far), axis=-1)[:, :count]
        return np.take_along_axis(ids, best, 1), np.take_along_axis(far, best, 1)

    def _stored(self, rows: Vectors) -> Any:
        return rows.codes if self.store.holds == "codes" else rows.floats


def check_served(store: Table, rescore: Sequence[Table] = ()) -> None:
    """Raise UsageError for what `Served` refuses."""
    Served(store, rescore)


def _check_stages(name: str, store: Store, stages: Sequence[Rescorer]) -> None:
    if stages and store.holds == "floats":
        raise ConfigError(f"store {name!r} holds floats: expected no rescoring, got some")
    for before, after in pairwise(stages):
        if after.multiplier > before.multiplier:
            raise ConfigError(
                "expected rescorers whose multipliers fall, as each gets what the one before "
                f"passes on, got {before.multiplier} and then {after.multiplier}"
            )


def recall_of_distances(
    distances: npt.NDArray[Any], exact: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """(N,) share of the places whose distance is within that of the last exact one.

    Equal distances are as good as each other: which of them a store gives determines nothing.

    distances: (N,k) of a store, empty places above all; exact: (N,k), ascending

    >>> recall_of_distances(np.array([[1, 2, 9]]), np.array([[1, 2, 2]])).round(2).tolist()
    [0.67]
    """
    if distances.shape != exact.shape or exact.shape[1] == 0:
        raise StoreError(f"expected as many places, got {distances.shape} and {exact.shape}")
    return np.asarray((distances <= exact[:, -1:]).mean(axis=1), np.float64)


def _created(registry: Any, table: Table) -> Any:
    return registry.create(str(table["name"]), _settings(table))


def _settings(table: Table) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key != "name"}
