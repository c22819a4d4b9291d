"""SQLite with sqlite-vec, through apsw: the `sqlite3` of many Pythons loads no extension."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy.typing as npt

from advhash.codes.packed import HashCodes
from advhash.errors import StoreError
from advhash.registry import STORES
from advhash.storage.documents import reason
from advhash.stores.base import Ids, Rows, Store, octets

_MOST = 4096  # neighbours that a virtual table gives
_BEYOND = 8  # asked for beside those wanted, so that equal distances at the end are all seen


@STORES.register("sqlite-vec", source="sqlite-vec, a vec0 table of bits")
@dataclass(kw_only=True, eq=False)
class SqliteVec(Store):
    """Every code is compared, by a virtual table in memory.

    The table orders equal distances as it likes: it is asked for some more, until the distance of
    the last one is larger than of those wanted, and ids decide.
    """

    exact: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ("sqlite-vec", "apsw")
    extra: ClassVar[str] = "stores"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._base: Any = None

    def _add(self, ids: Ids, rows: Rows) -> None:
        assert isinstance(rows, HashCodes)
        values = octets(rows)
        if self._base is None:
            import apsw
            import sqlite_vec

            self._base = apsw.Connection(":memory:")
            self._base.enable_load_extension(True)
            self._base.load_extension(sqlite_vec.loadable_path())
            self._base.enable_load_extension(False)
            width = 8 * values.shape[1]
            self._base.execute(
                f"CREATE VIRTUAL TABLE codes USING vec0(id INTEGER PRIMARY KEY, code bit[{width}])"
            )
        named = zip(ids.tolist(), map(bytes, values), strict=True)
        with self._base:
            self._base.executemany("INSERT INTO codes(id, code) VALUES (?, vec_bit(?))", named)

    def _search(self, queries: Rows, count: int) -> tuple[Ids, npt.NDArray[Any]]:
        assert isinstance(queries, HashCodes)
        ids, distances = self._empty(len(queries), count)
        for place, code in enumerate(map(bytes, octets(queries))):
            nearest = self._nearest(code, count)
            ids[place], distances[place] = zip(*nearest, strict=True)
        return ids, distances

    def _nearest(self, code: bytes, count: int) -> list[tuple[int, float]]:
        asked = count + _BEYOND
        while asked <= _MOST:
            nearest = self._base.execute(
                "SELECT id, distance FROM codes WHERE code MATCH vec_bit(?) AND k = ?",
                (code, asked),
            ).fetchall()
            if len(nearest) < asked or nearest[-1][1] > nearest[count - 1][1]:
                return sorted(nearest, key=_by_distance)[:count]
            asked *= 4
        return list(
            self._base.execute(
                "SELECT id, vec_distance_hamming(code, vec_bit(?)) AS far FROM codes "
                "ORDER BY far, id LIMIT ?",
                (code, count),
            )
        )

    def _remove(self, ids: Ids) -> None:
        with self._base:
            self._base.executemany("DELETE FROM codes WHERE id = ?", ((i,) for i in ids.tolist()))

    def close(self) -> None:
        if self._base is not None:
            self._base.close()
            self._base = None

    def _versions(self) -> dict[str, str]:
        import apsw

        return {"sqlite": apsw.sqlite_lib_version()}

    @contextmanager
    def _in_one_line(self) -> Iterator[None]:
        import apsw

        try:
            yield
        except apsw.Error as error:
            raise StoreError(f"sqlite-vec refused: {reason(error)}") from error


def _by_distance(nearest: tuple[int, float]) -> tuple[float, int]:
    return nearest[1], nearest[0]
