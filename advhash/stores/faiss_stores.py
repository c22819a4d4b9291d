"""The indices of faiss: binary ones, and float ones as their rivals."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from advhash.codes.packed import HashCodes
from advhash.codes.vectors import unit_rows
from advhash.errors import StoreError
from advhash.registry import STORES
from advhash.stores.base import NONE, Ids, Rows, Store, octets

_FAISS = "faiss-cpu"


@dataclass(kw_only=True, eq=False)
class _Faiss(Store):
    """Rows are kept beside the index: what cannot be taken out of it is left out of a new one.

    It is built by one thread, since the graphs that several build differ from run to run.
    """

    exact: ClassVar[bool] = False
    packages: ClassVar[tuple[str, ...]] = (_FAISS,)
    extra: ClassVar[str] = "faiss"

    def __post_init__(self) -> None:
        super().__post_init__()
        import faiss

        self._faiss = faiss
        self._index: Any = None
        self._order: Ids = np.zeros(0, np.int64)  # the id of each row of the index
        self._rows: npt.NDArray[Any] = np.zeros((0, 0))

    @abstractmethod
    def _new(self, rows: npt.NDArray[Any]) -> Any:
        """An empty index, trained on these rows."""

    def _add(self, ids: Ids, rows: Rows) -> None:
        values = octets(rows) if isinstance(rows, HashCodes) else unit_rows(rows)
        order = np.argsort(ids)
        ids, values = ids[order], values[order]
        later = self._index is not None and (not len(self._order) or ids[0] > self._order[-1])
        if later or not self.exact:
            self._order = np.concatenate([self._order, ids])
            self._rows = np.concatenate([self._rows, values]) if len(self._rows) else values
            with _one_thread(self._faiss):
                if self._index is None:
                    self._index = self._new(values)
                self._index.add(values)
        else:  # ties go by row, so that rows go by id
            named = np.concatenate([self._order, ids])
            known = np.concatenate([self._rows, values]) if len(self._rows) else values
            order = np.argsort(named)
            self._build(named[order], known[order])

    def _build(self, ids: Ids, rows: npt.NDArray[Any]) -> None:
        self._order, self._rows = ids, np.ascontiguousarray(rows)
        with _one_thread(self._faiss):
            self._index = self._new(self._rows)
            self._index.add(self._rows)

    def _remove(self, ids: Ids) -> None:
        kept = ~np.isin(self._order, ids)
        if kept.any():
            self._build(self._order[kept], self._rows[kept])
        else:
            self._index, self._order, self._rows = None, self._order[:0], self._rows[:0]

    def _search(self, queries: Rows, count: int) -> tuple[Ids, npt.NDArray[Any]]:
        binary = isinstance(queries, HashCodes)
        values = octets(queries) if isinstance(queries, HashCodes) else unit_rows(queries)
        far, rows = self._index.search(values, count)
        gone = rows < 0
        distances = far.astype(np.int64) if binary else 1.0 - far.astype(np.float64)
        distances[gone] = self.farthest
        return np.where(gone, NONE, self._order[np.where(gone, 0, rows)]), distances

    @contextmanager
    def _in_one_line(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, AssertionError) as error:
            said = str(error).rpartition(": ")[2][:200]
            raise StoreError(f"faiss refused: {said or type(error).__name__}") from error

    def _lists(self, asked: int | None, rows: int) -> int:
        """Lists of an inverted file: as asked for, or 4·√N, with 39 rows to learn each from."""
        lists = max(1, min(round(4 * rows**0.5), rows // 39)) if asked is None else asked
        if not 1 <= lists <= rows:
            raise StoreError(f"lists: expected 1 to {rows}, one a row at most, got {lists}")
        return lists


@contextmanager
def _one_thread(faiss: Any) -> Iterator[None]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


@STORES.register("faiss-flat", source="faiss, IndexBinaryFlat")
@dataclass(kw_only=True, eq=False)
class FaissFlat(_Faiss):
    """Every code is compared."""

    exact: ClassVar[bool] = True

    def _new(self, rows: npt.NDArray[Any]) -> Any:
        return self._faiss.IndexBinaryFlat(8 * rows.shape[1])


@STORES.register("faiss-ivf", source="faiss, IndexBinaryIVF")
@dataclass(kw_only=True, eq=False)
class FaissIVF(_Faiss):
    """An inverted file: the lists of the nearest centres are compared.

    lists:  centres, learnt from the first rows that are added; None: 4·√N of them
    probes: lists that a query looks into
    """

    lists: int | None = None
    probes: int = 4

    def _new(self, rows: npt.NDArray[Any]) -> Any:
        bits = 8 * rows.shape[1]
        self._coarse = self._faiss.IndexBinaryFlat(bits)
        index = self._faiss.IndexBinaryIVF(self._coarse, bits, self._lists(self.lists, len(rows)))
        index.cp.min_points_per_centroid = 1
        index.train(rows)
        index.nprobe = self.probes
        return index


@STORES.register("faiss-hnsw", source="faiss, IndexBinaryHNSW")
@dataclass(kw_only=True, eq=False)
class FaissHNSW(_Faiss):
    """A graph whose edges lead to near codes.

    m:               edges of a row
    ef_construction: rows that are looked at for the edges of a new one
    ef_search:       rows that are looked at by a query; at least as many as it asks for
    """

    least: ClassVar[Mapping[str, int]] = {"m": 2}
    m: int = 16
    ef_construction: int = 64
    ef_search: int = 40

    def _new(self, rows: npt.NDArray[Any]) -> Any:
        index = self._faiss.IndexBinaryHNSW(8 * rows.shape[1], self.m)
        index.hnsw.efConstruction = self.ef_construction
        return index

    def _search(self, queries: Rows, count: int) -> tuple[Ids, npt.NDArray[Any]]:
        self._index.hnsw.efSearch = max(self.ef_search, count)
        return super()._search(queries, count)


@STORES.register("faiss-multihash", source="faiss, IndexBinaryMultiHash")
@dataclass(kw_only=True, eq=False)
class FaissMultiHash(_Faiss):
    """Tables by short pieces of the code: rows that share a piece, or nearly, are compared.

    tables: hash tables; None: as many as there are pieces in a code
    piece:  bits of the piece that each is kept by
    flips:  bits of a piece that may differ
    """

    least: ClassVar[Mapping[str, int]] = {"flips": 0}
    tables: int | None = None
    piece: int = 16
    flips: int = 1

    def _new(self, rows: npt.NDArray[Any]) -> Any:
        piece = min(self.piece, self.width)
        tables = self.width // piece if self.tables is None else self.tables
        if not 1 <= tables * piece <= self.width:
            raise StoreError(
                f"tables={tables} of piece={piece} bits: expected at most the {self.width} bits "
                f"of a code, got {tables * piece}"
            )
        index = self._faiss.IndexBinaryMultiHash(8 * rows.shape[1], tables, piece)
        index.nflip = self.flips
        return index


@STORES.register("faiss-float-flat", source="faiss, IndexFlatIP")
@dataclass(kw_only=True, eq=False)
class FaissFloatFlat(_Faiss):
    """Every embedding is compared, by the inner product of rows of length 1."""

    exact: ClassVar[bool] = True
    holds = "floats"

    def _new(self, rows: npt.NDArray[Any]) -> Any:
        return self._faiss.IndexFlatIP(rows.shape[1])


@STORES.register("faiss-float-ivf", source="faiss, IndexIVFFlat")
@dataclass(kw_only=True, eq=False)
class FaissFloatIVF(_Faiss):
    """An inverted file of embeddings.

    lists, probes: as of `faiss-ivf`
    """

    holds = "floats"
    lists: int | None = None
    probes: int = 4

    def _new(self, rows: npt.NDArray[Any]) -> Any:
        width, metric = rows.shape[1], self._faiss.METRIC_INNER_PRODUCT
        self._coarse = self._faiss.IndexFlatIP(width)
        lists = self._lists(self.lists, len(rows))
        index = self._faiss.IndexIVFFlat(self._coarse, width, lists, metric)
        index.cp.min_points_per_centroid = 1
        index.train(rows)
        index.nprobe = self.probes
        return index


@STORES.register("faiss-float-hnsw", source="faiss, IndexHNSWFlat")
@dataclass(kw_only=True, eq=False)
class FaissFloatHNSW(_Faiss):
    """A graph of embeddings.

    m, ef_construction, ef_search: as of `faiss-hnsw`
    """

    holds = "floats"
    least: ClassVar[Mapping[str, int]] = {"m": 2}
    m: int = 16
    ef_construction: int = 64
    ef_search: int = 40

    def _new(self, rows: npt.NDArray[Any]) -> Any:
        metric = self._faiss.METRIC_INNER_PRODUCT
        index = self._faiss.IndexHNSWFlat(rows.shape[1], self.m, metric)
        index.hnsw.efConstruction = self.ef_construction
        return index

    def _search(self, queries: Rows, count: int) -> tuple[Ids, npt.NDArray[Any]]:
        self._index.hnsw.efSearch = max(self.ef_search, count)
        return super()._search(queries, count)
