"""Our own store: every code is compared, on all cores, equal distances by id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from advhash.codes.hamming import neighbours
from advhash.codes.packed import HashCodes
from advhash.codes.vectors import unit_rows
from advhash.registry import STORES
from advhash.stores.base import Ids, Rows, Store

_SIMILARITIES = 1 << 24  # in memory at a time, as float32


@dataclass(kw_only=True, eq=False)
class _Sorted(Store):
    """Rows in memory, by ascending id."""

    exact: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self._order: Ids = np.zeros(0, np.int64)
        self._rows: Any = None

    def _add(self, ids: Ids, rows: Rows) -> None:
        named = np.concatenate([self._order, ids])
        order = np.argsort(named)
        parts: Any = rows if self._rows is None else _joined(self._rows, rows)
        self._order, self._rows = named[order], parts[order]

    def _remove(self, ids: Ids) -> None:
        kept = ~np.isin(self._order, ids)
        self._order, self._rows = self._order[kept], self._rows[kept]


def _joined(one: Any, other: Any) -> Rows:
    if isinstance(one, HashCodes):
        return HashCodes.concatenate([one, other])
    return np.concatenate([one, other])


@STORES.register("exact", source="ours, `advhash.codes.hamming`")
@dataclass(kw_only=True, eq=False)
class Exact(_Sorted):
    """Every code is compared: what the other stores are measured against."""

    def _search(self, queries: Rows, count: int) -> tuple[Ids, npt.NDArray[Any]]:
        assert isinstance(queries, HashCodes)
        rows, far = neighbours(queries, self._rows, count)
        return self._order[rows], far


@STORES.register("float", source="cosine similarity, every row compared")
@dataclass(kw_only=True, eq=False)
class ExactFloats(_Sorted):
    """Every embedding is compared by its cosine: what is lost before any bit is."""

    holds = "floats"

    def _add(self, ids: Ids, rows: Rows) -> None:
        assert not isinstance(rows, HashCodes)
        super()._add(ids, unit_rows(rows))

    def _search(self, queries: Rows, count: int) -> tuple[Ids, npt.NDArray[Any]]:
        assert not isinstance(queries, HashCodes)
        asked, known = unit_rows(queries), self._rows.T
        ids, far = self._empty(len(asked), count)
        step = max(1, _SIMILARITIES // len(self._order))
        for start in range(0, len(asked), step):
            part = slice(start, start + step)
            near = 1.0 - asked[part] @ known
            chosen = np.argpartition(near, count - 1, axis=1)[:, :count]
            ids[part] = self._order[chosen]
            far[part] = np.take_along_axis(near, chosen, 1)
        return ids, far
