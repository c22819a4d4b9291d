"""The graph of usearch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from advhash.codes.packed import HashCodes
from advhash.registry import STORES
from advhash.stores.base import Ids, Rows, Store, octets


@STORES.register("usearch", source="usearch, an HNSW graph of packed bits")
@dataclass(kw_only=True, eq=False)
class USearch(Store):
    """A graph whose edges lead to near codes. It is built by one thread, as faiss's are.

    m, ef_construction, ef_search: as of `faiss-hnsw`, in usearch's words connectivity,
        expansion_add and expansion_search
    """

    exact: ClassVar[bool] = False
    packages: ClassVar[tuple[str, ...]] = ("usearch",)
    extra: ClassVar[str] = "stores"
    least: ClassVar[Mapping[str, int]] = {"m": 2}
    m: int = 16
    ef_construction: int = 128
    ef_search: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self._index: Any = None

    def _add(self, ids: Ids, rows: Rows) -> None:
        assert isinstance(rows, HashCodes)
        values = octets(rows)
        if self._index is None:
            from usearch.index import Index, MetricKind, ScalarKind

            self._index = Index(
                ndim=8 * values.shape[1],
                metric=MetricKind.Hamming,
                dtype=ScalarKind.B1,
                connectivity=self.m,
                expansion_add=self.ef_construction,
                expansion_search=self.ef_search,
            )
        self._index.add(ids.astype(np.uint64), values, threads=1)

    def _search(self, queries: Rows, count: int) -> tuple[Ids, npt.NDArray[Any]]:
        assert isinstance(queries, HashCodes)
        ids, distances = self._empty(len(queries), count)
        matches = self._index.search(octets(queries), count)
        keys, far, counts = matches.keys, matches.distances, getattr(matches, "counts", None)
        if counts is None:  # of one query alone
            width = len(keys)
            ids[0, :width], distances[0, :width] = keys, far
            return ids, distances
        there = np.arange(count) < np.asarray(counts)[:, None]
        ids[there] = keys[there].astype(np.int64)
        distances[there] = far[there].astype(np.int64)
        return ids, distances

    def _remove(self, ids: Ids) -> None:
        self._index.remove(ids.astype(np.uint64))
