"""Codes beside the real values that they were made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from advhash.codes.packed import HashCodes

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Vectors:
    """What a model and its quantiser make of N inputs.

    codes:  K bits
    floats: (N,D) embeddings, of any length
    real:   (N,K) the real values whose signs are the bits, e.g. distances to their thresholds
    """

    codes: HashCodes
    floats: Floats
    real: Floats

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: slice | npt.NDArray[Any]) -> Vectors:
        return Vectors(self.codes[rows], self.floats[rows], self.real[rows])

    @classmethod
    def concatenate(cls, parts: list[Vectors]) -> Vectors:
        """The rows of all parts, in order."""
        return cls(
            HashCodes.concatenate([part.codes for part in parts]),
            np.concatenate([part.floats for part in parts]),
            np.concatenate([part.real for part in parts]),
        )


def unit_rows(rows: npt.NDArray[Any]) -> Floats:
    """(N,D) float32 rows of length 1, whose inner products are cosines; zeros stay zeros."""
    values = np.asarray(rows, np.float32)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return np.ascontiguousarray(values / np.maximum(lengths, np.finfo(np.float32).tiny))
