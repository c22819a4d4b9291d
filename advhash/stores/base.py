"""The contract of a store: rows by id, and the nearest of them to a query.

    with STORES.create("faiss-ivf", {"lists": 64}) as store:
        store.add(ids, codes)
        found, distances = store.search(queries, 10)
        store.remove(ids[:5])

The constructor is the config. What a store promises is kept here, whatever its client does: ids are
whole numbers given once, results are sorted by distance and then by id, and a place that an
approximate index leaves empty has the id −1.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar, Literal, Self, TypeAlias, final

import numpy as np
import numpy.typing as npt

from advhash.codes.packed import HashCodes
from advhash.errors import StoreError, UsageError

Ids = npt.NDArray[np.int64]
Rows: TypeAlias = HashCodes | npt.NDArray[np.float32]
NONE = -1  # the id of a place that was left empty


class Store(ABC):
    """Codes of K bits by Hamming distance, or embeddings of D dimensions by cosine distance.

    exact:    whether it finds the nearest rows, equal distances by id
    holds:    what its rows are
    packages: of the client that it needs, and `extra` that installs them
    least:    the smallest value of a setting, where it is not 1

    A subclass is a dataclass of keyword-only settings. It is closed at the end of a `with`.

    Raises UsageError, from the constructor, which opens nothing: a client that is not installed.
    Raises ValueError: a setting below its smallest value, at which some clients abort.
    """

    exact: ClassVar[bool]
    holds: ClassVar[Literal["codes", "floats"]] = "codes"
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    least: ClassVar[Mapping[str, int]] = {}

    def __post_init__(self) -> None:
        expect_installed(self)
        for name, value in vars(self).items():
            if isinstance(value, int) and not isinstance(value, bool):
                least = self.least.get(name, 1)
                if value < least:
                    raise ValueError(f"{name}: expected at least {least}, got {value}")
        self.width = 0  # bits or dimensions; 0 before the first rows
        self._ids: Ids = np.zeros(0, np.int64)

    @final
    def __len__(self) -> int:
        return len(self._ids)

    @final
    def __enter__(self) -> Self:
        return self

    @final
    def __exit__(self, *_: object) -> None:
        self.close()

    @final
    def add(self, ids: npt.ArrayLike, rows: Rows) -> None:
        """Keep N rows under N ids, whole numbers from 0.

        Raises StoreError: ids that are twice or there already, as many ids as rows are expected,
        rows of another width; and where the client or its server fails.
        """
        named = np.asarray(ids, np.int64).reshape(-1)
        if len(named) != len(rows):
            raise StoreError(f"expected as many ids as rows, got {len(named)} and {len(rows)}")
        if len(named) == 0:
            return
        self._check_width(rows)
        if int(named.min()) < 0:
            raise StoreError(f"expected ids from 0, got {int(named.min())}")
        known, counts = np.unique(named, return_counts=True)
        twice = known[(counts > 1) | np.isin(known, self._ids, assume_unique=True)]
        if len(twice):
            raise StoreError(
                f"expected different ids, got {int(twice[0])} twice (so are {len(twice)} ids): "
                "keep one row of each, or remove the old one first"
            )
        self.width = _width(rows)
        with self._in_one_line():
            self._add(named, rows)
        self._ids = np.concatenate([self._ids, named])

    @final
    def search(self, queries: Rows, count: int) -> tuple[Ids, npt.NDArray[Any]]:
        """The ids and distances, both (N, min(count, rows)), of the nearest rows of N queries.

        Sorted by distance and then by id. Hamming distances are whole numbers, cosine distances lie
        from 0 to 2. Empty places come last, with the id −1 and a distance above all others: K + 1,
        or infinity.

        Raises StoreError as `add` does.
        """
        if count < 1:
            raise StoreError(f"expected at least one row of a search, got {count}")
        self._check_width(queries)
        count = min(count, len(self))
        if count == 0 or len(queries) == 0:
            return np.zeros((len(queries), count), np.int64), np.zeros((len(queries), count))
        with self._in_one_line():
            ids, distances = self._search(queries, count)
        return _ordered(ids, distances)

    @final
    def remove(self, ids: npt.ArrayLike) -> None:
        """Forget these rows. Raises StoreError for an id that is not there, and as `add` does."""
        named = np.unique(np.asarray(ids, np.int64).reshape(-1))
        strange = named[~np.isin(named, self._ids)]
        if len(strange):
            raise StoreError(f"expected ids that are in the store, got {int(strange[0])}")
        if len(named):
            with self._in_one_line():
                self._remove(named)
            self._ids = self._ids[~np.isin(self._ids, named)]

    @final
    def parameters(self) -> dict[str, Any]:
        """What a run records: its name is its registry's; settings, and versions of the client."""
        settings = {item.name: getattr(self, item.name) for item in fields(self)}  # type: ignore[arg-type]
        return {
            "settings": settings,
            "exact": self.exact,
            "holds": self.holds,
            "versions": {name: _version(name) for name in self.packages} | self._versions(),
        }

    @property
    def farthest(self) -> float:
        """The distance of an empty place."""
        return float("inf") if self.holds == "floats" else self.width + 1

    def _empty(self, queries: int, count: int) -> tuple[Ids, npt.NDArray[Any]]:
        """Places that nothing was found for yet."""
        kind: Any = np.float64 if self.holds == "floats" else np.int64
        return np.full((queries, count), NONE, np.int64), np.full(
            (queries, count), self.farthest, kind
        )

    @abstractmethod
    def _add(self, ids: Ids, rows: Rows) -> None: ...

    @abstractmethod
    def _search(self, queries: Rows, count: int) -> tuple[Ids, npt.NDArray[Any]]:
        """As `search`, in any order. 1 ≤ count ≤ rows."""

    @abstractmethod
    def _remove(self, ids: Ids) -> None: ...

    def close(self) -> None:  # noqa: B027
        """Let go of files, connections and tables."""

    def _versions(self) -> dict[str, str]:
        """Versions of what is no package."""
        return {}

    @contextmanager
    def _in_one_line(self) -> Iterator[None]:
        """Turn what the client raises into one line."""
        yield

    def _check_width(self, rows: Rows) -> None:
        kind = "codes" if isinstance(rows, HashCodes) else "floats"
        if kind != self.holds:
            raise StoreError(f"expected rows of {self.holds}, got {kind}")
        if self.width and _width(rows) != self.width:
            unit = "bits" if self.holds == "codes" else "dimensions"
            raise StoreError(f"expected rows of {self.width} {unit}, got {_width(rows)}")


def expect_installed(store: type[Store] | Store) -> None:
    """Raise UsageError, with the line to type, where a client of a store is missing."""
    missing = [name for name in store.packages if _version(name) == "none"]
    if missing:
        raise UsageError(
            f"expected {', '.join(missing)} for this store, not installed: "
            f"pip install 'advhash-toolkit[{store.extra}]'"
        )


def octets(codes: HashCodes) -> npt.NDArray[np.uint8]:
    """(N, 8·words) bytes of packed codes, which are bits in an order of our own.

    Hamming distances ask for no order; bits that fill a word up are 0 in all codes.

    >>> octets(HashCodes.pack([[1, 0, 1]])).tolist()
    [[5, 0, 0, 0, 0, 0, 0, 0]]
    """
    words = np.ascontiguousarray(codes.words.astype("<u8", copy=False))
    return words.view(np.uint8).reshape(len(codes), -1)


def _ordered(ids: Ids, distances: npt.NDArray[Any]) -> tuple[Ids, npt.NDArray[Any]]:
    """(N,k) each, sorted by distance and then by id.

    Whole distances and ids that fit together into 63 bits are sorted as one number, which takes a
    fifth of the time.

    >>> [each.tolist() for each in _ordered(np.array([[7, 3, NONE]]), np.array([[2, 2, 9]]))]
    [[[3, 7, -1]], [[2, 2, 9]]]
    """
    base = int(ids.max()) + 2  # ids begin at −1
    if distances.dtype.kind != "i" or (int(distances.max()) + 1) * base >= 1 << 63:
        order = np.lexsort((ids, distances), axis=-1)
        return np.take_along_axis(ids, order, 1), np.take_along_axis(distances, order, 1)
    both = distances * base + (ids + 1)
    both.sort(axis=1)
    far = both // base
    return both - far * base - 1, far


def _width(rows: Rows) -> int:
    return rows.bits if isinstance(rows, HashCodes) else int(rows.shape[1])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
