"""Candidates of a store, ordered anew by what is kept beside their codes.

Each is a stage: from the `multiplier`·k candidates that come in, it passes on the best. Two stages
follow each other, such as ±1 of the codes and then floats.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from advhash.codes.packed import HashCodes
from advhash.codes.vectors import Floats, Vectors, unit_rows
from advhash.registry import RESCORERS

_VALUES = 1 << 24  # in memory at a time


@dataclass(kw_only=True, eq=False)
class Rescorer(ABC):
    """multiplier: candidates that come in for each result that is asked for in the end"""

    uses: ClassVar[str]
    multiplier: int = 10

    def __post_init__(self) -> None:
        if self.multiplier < 1:
            raise ValueError(f"expected a multiplier above 0, got {self.multiplier}")

    @abstractmethod
    def learn(self, rows: Vectors) -> None:
        """Set what the rows of the database decide, once, when the first are added."""

    @abstractmethod
    def keep(self, rows: Vectors) -> npt.NDArray[Any]:
        """What is stored of rows (N,…)."""

    @abstractmethod
    def asked(self, queries: Vectors) -> Floats:
        """(N,W) what is compared of queries."""

    @abstractmethod
    def compared(self, kept: npt.NDArray[Any]) -> Floats:
        """(N,W) what is compared of stored rows."""

    def similarities(
        self, queries: Vectors, kept: npt.NDArray[Any], rows: npt.NDArray[np.int64]
    ) -> Floats:
        """(N,C) inner products of queries with their candidates, which `rows` (N,C) names.

        kept: of all rows, as `keep` made them
        """
        asked = self.asked(queries)
        result = np.empty(rows.shape, np.float32)
        step = max(1, _VALUES // max(1, rows.shape[1] * asked.shape[1]))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            result[part] = np.einsum("nw,ncw->nc", asked[part], self.compared(kept[rows[part]]))
        return result


@RESCORERS.register("float", source="sentence-transformers, rescoring of binary search")
@dataclass(kw_only=True, eq=False)
class FloatRescorer(Rescorer):
    """Cosine similarity of the embeddings, which are stored as float32."""

    def learn(self, rows: Vectors) -> None:
        pass

    def keep(self, rows: Vectors) -> npt.NDArray[Any]:
        return unit_rows(rows.floats)

    def asked(self, queries: Vectors) -> Floats:
        return unit_rows(queries.floats)

    def compared(self, kept: npt.NDArray[Any]) -> Floats:
        return kept


@RESCORERS.register("int8", source="sentence-transformers, quantize_embeddings to int8")
@dataclass(kw_only=True, eq=False)
class Int8Rescorer(Rescorer):
    """The float query against rows in 256 steps, between the extremes of each dimension.

    The extremes are of the rows that are added first; others are clipped to them.
    """

    def learn(self, rows: Vectors) -> None:
        values = unit_rows(rows.floats)
        self._low = values.min(axis=0)
        self._step = np.maximum((values.max(axis=0) - self._low) / 255, 1e-12).astype(np.float32)

    def keep(self, rows: Vectors) -> npt.NDArray[Any]:
        steps = np.round((unit_rows(rows.floats) - self._low) / self._step)
        return np.asarray(steps.clip(0, 255) - 128, np.int8)

    def asked(self, queries: Vectors) -> Floats:
        return unit_rows(queries.floats)

    def compared(self, kept: npt.NDArray[Any]) -> Floats:
        return np.asarray((kept.astype(np.float32) + 128) * self._step + self._low, np.float32)


@RESCORERS.register("asymmetric", source="the float query against ±1 of the stored codes")
@dataclass(kw_only=True, eq=False)
class AsymmetricRescorer(Rescorer):
    """The real values of the query against ±1 of the codes: nothing but codes is stored."""

    def learn(self, rows: Vectors) -> None:
        self._bits = rows.codes.bits

    def keep(self, rows: Vectors) -> npt.NDArray[Any]:
        return rows.codes.words

    def asked(self, queries: Vectors) -> Floats:
        return unit_rows(queries.real)

    def compared(self, kept: npt.NDArray[Any]) -> Floats:
        codes = HashCodes(kept.reshape(-1, kept.shape[-1]), self._bits)
        return codes.signs().reshape(*kept.shape[:-1], self._bits)
