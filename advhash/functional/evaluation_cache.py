"""What evaluations gave, kept by functional hash, so that equals are evaluated once.

The functional equivalence cache of Gillard et al., arXiv 2302.05433; the released code:
unified_functional_hashing/fec.py and automl_zero/fec_cache.cc.
"""

from __future__ import annotations

import json
import math
import random
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from advhash.errors import StorageError
from advhash.storage.documents import expect_file, parse_json, reason

Kind = Literal["miss", "partial", "full"]


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation gave: named figures ("fitness", "test" …) and what it cost, in seconds.

    Seconds may be simulated.
    """

    figures: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Lookup:
    """What a candidate is worth, by the cache or by an evaluation.

    kind:     "miss" (unknown), "partial" (known, evaluated again), "full" (not evaluated)
    figures:  running means over the evaluations of this key
    seconds:  charged for it: the hash, and where it was evaluated the mean evaluation of its key
    """

    kind: Kind
    figures: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Statistics:
    """Counts of lookups by kind, of keys forgotten and evicted, and seconds.

    saved_seconds: mean evaluations that full hits did not need
    """

    misses: int = 0
    partial_hits: int = 0
    full_hits: int = 0
    forgotten: int = 0
    evicted: int = 0
    hash_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    saved_seconds: float = 0.0

    @property
    def lookups(self) -> int:
        return self.misses + self.partial_hits + self.full_hits

    @property
    def hit_rate(self) -> float:
        """Full hits of all lookups; 0 where there was none."""
        return self.full_hits / self.lookups if self.lookups else 0.0

    @property
    def hash_overhead(self) -> float:
        """Seconds of hashing of all seconds spent; 0 where there were none."""
        spent = self.hash_seconds + self.evaluation_seconds
        return self.hash_seconds / spent if spent else 0.0


_TABLES = """
CREATE TABLE IF NOT EXISTS entries (
  key TEXT PRIMARY KEY, evaluations INTEGER NOT NULL, hits INTEGER NOT NULL,
  figures TEXT NOT NULL, seconds REAL NOT NULL, used INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS by_use ON entries (used);
CREATE TABLE IF NOT EXISTS counts (name TEXT PRIMARY KEY, value REAL NOT NULL);
"""


class EquivalenceCache:
    """Running means of evaluations by functional hash.

    path:               an SQLite file, which several processes may use at once; None: in memory
    max_num_evals:      M: how often a key is evaluated before its mean is trusted; above 1 against
                        noise
    remove_probability: F: chance that a full hit makes the cache forget its key, so that a lucky
                        score cannot live forever
    forget_every:       a key is forgotten at its hit of this number; 0: never
    capacity:           most keys that are kept, the one longest unused goes first; None: no limit
    seed:               of the draws of F

    Two processes that miss a key at once both evaluate it, and both count in its mean.

    Raises ValueError for settings out of range, StorageError for a file that is no such cache.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        max_num_evals: int = 1,
        remove_probability: float = 0.0,
        forget_every: int = 0,
        capacity: int | None = 100_000,
        seed: int = 0,
    ) -> None:
        if max_num_evals < 1 or forget_every < 0 or (capacity is not None and capacity < 1):
            raise ValueError(
                "expected max_num_evals >= 1, forget_every >= 0 and capacity >= 1, got "
                f"{max_num_evals}, {forget_every} and {capacity}"
            )
        if not 0 <= remove_probability <= 1:
            raise ValueError(f"expected remove_probability in [0,1], got {remove_probability}")
        self.max_num_evals = max_num_evals
        self.remove_probability = remove_probability
        self.forget_every = forget_every
        self.capacity = capacity
        self._random = random.Random(seed)
        self._path = path
        with self._errors():
            if path is not None and path.exists():
                expect_file(path)
            self._table = sqlite3.connect(
                ":memory:" if path is None else path, timeout=60, isolation_level=None
            )
            if path is not None:
                self._table.execute("PRAGMA journal_mode=WAL")
                self._table.execute("PRAGMA synchronous=NORMAL")
            self._table.executescript(_TABLES)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, TypeError, ValueError, ArithmeticError) as error:
            raise StorageError(
                f"expected an equivalence cache in {self._path}, got: {reason(error)}; "
                "delete it, or give another file"
            ) from None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One writer at a time."""
        with self._errors():
            self._table.execute("BEGIN IMMEDIATE")
            try:
                yield self._table
            except BaseException:
                self._table.execute("ROLLBACK")
                raise
            self._table.execute("COMMIT")

    def state(self) -> dict[str, Any]:
        """All that `restore` needs, as plain JSON: keys, counts and the generator of F."""
        version, words, gauss = self._random.getstate()
        with self._errors():
            return {
                "entries": self._table.execute("SELECT * FROM entries ORDER BY used").fetchall(),
                "counts": self._table.execute("SELECT * FROM counts").fetchall(),
                "chance": [version, list(words), gauss],
            }

    def restore(self, document: Mapping[str, Any]) -> None:
        """Instead of what is here, what a `state` held. Raises StorageError for what is none."""
        try:
            with self._transaction() as table:
                table.execute("DELETE FROM entries")
                table.execute("DELETE FROM counts")
                table.executemany(
                    "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", document["entries"]
                )
                table.executemany("INSERT INTO counts VALUES (?, ?)", document["counts"])
                version, words, gauss = document["chance"]
                self._random.setstate((version, tuple(words), gauss))
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(
                f"expected the state of an equivalence cache, got: {error!r}; delete it and start "
                "again"
            ) from None

    def close(self) -> None:
        """Give the file back."""
        self._table.close()

    def __len__(self) -> int:
        with self._errors():
            return int(self._table.execute("SELECT COUNT(*) FROM entries").fetchone()[0])

    def evaluate(
        self, key: str, evaluate: Callable[[], Evaluation], *, hash_seconds: float
    ) -> Lookup:
        """The figures of a key; `evaluate` is called unless they are known well enough.

        hash_seconds: what the key cost, charged on hits and misses alike

        Raises ValueError for figures that are not finite; StorageError.
        """
        hit = self._hit(key, hash_seconds)
        if hit is not None:
            return hit
        evaluation = evaluate()
        figures = evaluation.figures.items()
        odd = {name: value for name, value in figures if not math.isfinite(value)}
        if odd:
            raise ValueError(f"expected finite figures of {key!r}, got {odd}")
        return self._add(key, evaluation, hash_seconds)

    def _hit(self, key: str, hash_seconds: float) -> Lookup | None:
        """A full hit, which may make the key forgotten; None where it must be evaluated."""
        with self._transaction() as table:
            row = table.execute(
                "SELECT hits, figures, seconds FROM entries WHERE key = ? AND evaluations >= ?",
                (key, self.max_num_evals),
            ).fetchone()
            if row is None:
                return None
            hits, (figures, seconds) = row[0] + 1, _read(row)
            lucky = self._random.random() < self.remove_probability
            if lucky or (self.forget_every and hits >= self.forget_every):
                table.execute("DELETE FROM entries WHERE key = ?", (key,))
                self._count(table, forgotten=1)
            else:
                table.execute(
                    "UPDATE entries SET hits = ?, used = ? WHERE key = ?",
                    (hits, self._now(table), key),
                )
            self._count(table, full_hits=1, hash_seconds=hash_seconds, saved_seconds=seconds)
        return Lookup("full", figures, hash_seconds)

    def _add(self, key: str, evaluation: Evaluation, hash_seconds: float) -> Lookup:
        with self._transaction() as table:
            row = table.execute(
                "SELECT evaluations, figures, seconds FROM entries WHERE key = ?", (key,)
            ).fetchone()
            kind: Kind = "miss" if row is None else "partial"
            done, before, seconds = (0, {}, 0.0) if row is None else (row[0], *_read(row))
            done += 1
            figures = {
                name: before.get(name, 0.0) + (value - before.get(name, 0.0)) / done
                for name, value in evaluation.figures.items()
            }
            seconds += (evaluation.seconds - seconds) / done
            table.execute(
                "INSERT INTO entries VALUES (?, ?, 0, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET "
                "evaluations = excluded.evaluations, figures = excluded.figures, "
                "seconds = excluded.seconds, used = excluded.used",
                (key, done, json.dumps(figures), seconds, self._now(table)),
            )
            name = "misses" if kind == "miss" else "partial_hits"
            self._count(
                table,
                **{name: 1},
                hash_seconds=hash_seconds,
                evaluation_seconds=evaluation.seconds,
            )
            self._evict(table)
        return Lookup(kind, figures, hash_seconds + seconds)

    def _evict(self, table: sqlite3.Connection) -> None:
        if self.capacity is None:
            return
        over = table.execute("SELECT COUNT(*) FROM entries").fetchone()[0] - self.capacity
        if over > 0:
            table.execute(
                "DELETE FROM entries WHERE key IN (SELECT key FROM entries ORDER BY used LIMIT ?)",
                (over,),
            )
            self._count(table, evicted=over)

    @staticmethod
    def _now(table: sqlite3.Connection) -> int:
        """A clock that ticks once a use."""
        return int(table.execute("SELECT COALESCE(MAX(used), 0) + 1 FROM entries").fetchone()[0])

    @staticmethod
    def _count(table: sqlite3.Connection, **changes: float) -> None:
        for name, change in changes.items():
            table.execute(
                "INSERT INTO counts VALUES (?, ?) "
                "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
                (name, change),
            )

    @property
    def statistics(self) -> Statistics:
        """Over all processes that use the file."""
        with self._errors():
            rows = self._table.execute("SELECT name, value FROM counts").fetchall()
            kinds = {field.name: field.type for field in fields(Statistics)}
            odd = [name for name, _ in rows if name not in kinds]
            if odd:
                raise ValueError(f"a count of {odd[0]!r}")
            counts: dict[str, Any] = {
                name: int(value) if kinds[name] == "int" else _finite(value) for name, value in rows
            }
            return Statistics(**counts)

    def document(self) -> dict[str, float]:
        """The statistics and the number of keys, for a record."""
        return {**asdict(self.statistics), "keys": len(self)}


def _read(row: tuple[int, str, float]) -> tuple[dict[str, float], float]:
    """Figures and seconds of a key. Raises ValueError, TypeError: a row that none of us wrote."""
    figures = parse_json(str(row[1]))
    if not isinstance(figures, dict):
        raise TypeError(f"figures that are a {type(figures).__name__}")
    return {str(name): _finite(value) for name, value in figures.items()}, _finite(row[2])


def _finite(value: Any) -> float:
    """A stored number. Raises ValueError, TypeError: none, or an infinite one."""
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"the number {number}")
    return number
