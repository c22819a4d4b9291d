"""pgvector on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from advhash.codes.packed import HashCodes
from advhash.errors import StoreError, UsageError
from advhash.registry import STORES
from advhash.storage.documents import reason
from advhash.stores.base import Ids, Rows, Store
from advhash.stores.postgres import checked_address, connect_to, own_server

_TABLE = "advhash_codes"
_MEMORY = ("temp_buffers = '256MB'", "maintenance_work_mem = '256MB'")
_MOST_SEARCHED = 1000  # rows that pgvector's graph can be asked to look at


@dataclass(kw_only=True, eq=False)
class Pgvector(Store):
    """A temporary table of `bit(K)`, which the server drops with the session, however that ends.

    It lies in the schema that PostgreSQL gives each session for such tables: no other one is made
    or written, and a table of the same name is left alone. Searches of temporary tables have one
    process of the server each.

    dsn:             of the user's server; None: one of our own, see `postgres`
    allow_superuser: whether the user of `dsn` may be one who could harm the whole server
    """

    exact: ClassVar[bool] = False
    packages: ClassVar[tuple[str, ...]] = ("psycopg",)
    extra: ClassVar[str] = "stores"
    dsn: str | None = None
    allow_superuser: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dsn is not None:
            checked_address(self.dsn)
        self._session: Any = None
        self._indexed = False

    def _index(self) -> str:
        """What makes the index; "" for none."""
        return ""

    def _before_search(self, count: int) -> str:
        """What is set before a search; "" for nothing."""
        return ""

    @property
    def _connection(self) -> Any:
        if self._session is None:
            if self.dsn is None:
                self._session = own_server().connect()
            else:
                self._session = connect_to(self.dsn, allow_superuser=self.allow_superuser)
            for setting in _MEMORY:
                self._session.execute(f"SET {setting}")
            self._session.execute(
                f"CREATE TEMPORARY TABLE {_TABLE} (id bigint, code bit({self.width}))"
            )
        return self._session

    def _add(self, ids: Ids, rows: Rows) -> None:
        assert isinstance(rows, HashCodes)
        with self._connection.cursor() as cursor:
            with cursor.copy(f"COPY pg_temp.{_TABLE} FROM STDIN") as copy:
                for row in zip(ids.tolist(), _texts(rows), strict=True):
                    copy.write_row(row)
            if not self._indexed and self._index():
                cursor.execute(self._index())
                self._indexed = True

    def _search(self, queries: Rows, count: int) -> tuple[Ids, npt.NDArray[Any]]:
        assert isinstance(queries, HashCodes)
        ids, distances = self._empty(len(queries), count)
        order = "code <~> asked.code" + (", id" if self.exact else "")
        with self._connection.cursor(binary=True) as cursor:
            if setting := self._before_search(count):
                cursor.execute(setting)
            cursor.execute(
                "SELECT asked.place - 1, found.id, found.far::int "
                f"FROM unnest(%s::text[]::bit({self.width})[]) WITH ORDINALITY asked(code, place) "
                f"CROSS JOIN LATERAL (SELECT id, code <~> asked.code AS far FROM pg_temp.{_TABLE} "
                f"ORDER BY {order} LIMIT %s) found",
                (_texts(queries), count),
            )
            rows = np.array(cursor.fetchall(), np.int64).reshape(-1, 3)
        asked = rows[:, 0]  # in groups, since the server takes one query after the other
        place = np.arange(len(asked)) - np.searchsorted(asked, asked)
        ids[asked, place], distances[asked, place] = rows[:, 1], rows[:, 2]
        return ids, distances

    def _remove(self, ids: Ids) -> None:
        self._connection.execute(
            f"DELETE FROM pg_temp.{_TABLE} WHERE id = ANY(%s)", (ids.tolist(),)
        )
        self._connection.execute(f"VACUUM pg_temp.{_TABLE}")  # else an index looks at them still

    def close(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None

    def _versions(self) -> dict[str, str]:
        if self._session is None:
            return {}
        said = self._session.execute(
            "SELECT current_setting('server_version'), "
            "(SELECT extversion FROM pg_extension WHERE extname = 'vector')"
        ).fetchone()
        return dict(zip(("postgresql", "pgvector"), said, strict=True))

    @contextmanager
    def _in_one_line(self) -> Iterator[None]:
        import psycopg

        try:
            yield
        except psycopg.OperationalError as error:
            raise StoreError(
                f"PostgreSQL ended or refused in the middle of the work: {reason(error)}"
            ) from None
        except psycopg.Error as error:
            raise StoreError(f"PostgreSQL refused: {reason(error)}") from error


def _texts(codes: HashCodes) -> list[str]:
    """Codes as texts of 0 and 1, the first bit first."""
    letters = codes.unpack().astype(np.uint8) + ord("0")
    whole = letters.tobytes().decode("ascii")
    return [whole[start : start + codes.bits] for start in range(0, len(whole), codes.bits)]


@STORES.register("pgvector", source="PostgreSQL and pgvector, no index")
@dataclass(kw_only=True, eq=False)
class PgvectorExact(Pgvector):
    """Every code is compared."""

    exact: ClassVar[bool] = True


@STORES.register("pgvector-hnsw", source="PostgreSQL and pgvector, hnsw (bit_hamming_ops)")
@dataclass(kw_only=True, eq=False)
class PgvectorHNSW(Pgvector):
    """A graph whose edges lead to near codes. The server draws it: no seed determines it.

    m, ef_construction, ef_search: as of `faiss-hnsw`; pgvector's own defaults
    """

    least: ClassVar[Mapping[str, int]] = {"m": 2}
    m: int = 16
    ef_construction: int = 64
    ef_search: int = 40

    def _index(self) -> str:
        return (
            f"CREATE INDEX ON pg_temp.{_TABLE} USING hnsw (code bit_hamming_ops) "
            f"WITH (m = {self.m:d}, ef_construction = {self.ef_construction:d})"
        )

    def _before_search(self, count: int) -> str:
        if count > _MOST_SEARCHED:
            raise UsageError(
                f"expected a search for at most {_MOST_SEARCHED} rows, which is what pgvector's "
                f"graph looks at, got {count}: ask for fewer, or rescore fewer"
            )
        return f"SET hnsw.ef_search = {min(max(self.ef_search, count), _MOST_SEARCHED):d}"


@STORES.register("pgvector-ivfflat", source="PostgreSQL and pgvector, ivfflat (bit_hamming_ops)")
@dataclass(kw_only=True, eq=False)
class PgvectorIVF(Pgvector):
    """An inverted file: the lists of the nearest centres are compared.

    lists:  centres, learnt from the first rows that are added; None: 4·√N of them
    probes: lists that a query looks into
    """

    lists: int | None = None
    probes: int = 4

    def _index(self) -> str:
        rows = self._connection.execute(f"SELECT count(*) FROM pg_temp.{_TABLE}").fetchone()[0]
        lists = max(1, round(4 * rows**0.5)) if self.lists is None else self.lists
        return (
            f"CREATE INDEX ON pg_temp.{_TABLE} USING ivfflat (code bit_hamming_ops) "
            f"WITH (lists = {lists:d})"
        )

    def _before_search(self, count: int) -> str:
        return f"SET ivfflat.probes = {self.probes:d}"
