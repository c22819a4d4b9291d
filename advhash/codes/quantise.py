"""Bits from real embeddings: one threshold a dimension, set by the database alone.

    sign     0: the bits of `quantize_embeddings` of sentence-transformers
    mean     the mean of the database, so that a dimension that is always positive has two values
    median   its median, so that half of the database has each bit

A bit is 1 iff the value is above its threshold. Queries never move a threshold.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

Rule = Literal["sign", "mean", "median"]
RULES: tuple[Rule, ...] = get_args(Rule)
Thresholds = npt.NDArray[np.float64]
_VALUES = 1 << 24  # in memory at a time, as float64


def thresholds(database: npt.NDArray[Any], rule: Rule) -> Thresholds:
    """(K,) of the rows (M,K) of a database, real numbers, which may be mapped from a file.

    Raises ValueError: no row, or a rule that is none.

    >>> rows = np.array([[1.0, -3.0], [2.0, 1.0], [6.0, 5.0]])
    >>> [thresholds(rows, name).tolist() for name in RULES]
    [[0.0, 0.0], [3.0, 1.0], [2.0, 1.0]]
    """
    if rule not in RULES:
        raise ValueError(f"expected {', '.join(RULES)}, got {rule!r}")
    if database.ndim != 2 or 0 in database.shape:
        raise ValueError(f"expected (M,K) rows of a database, got shape {database.shape}")
    rows, width = database.shape
    if rule == "mean":
        sums = np.zeros(width)
        for part in _blocks(database):
            sums += np.asarray(part, np.float64).sum(axis=0)
        return np.asarray(sums / rows)
    if rule == "median":
        step = max(1, _VALUES // rows)
        columns = (database[:, start : start + step] for start in range(0, width, step))
        return np.concatenate([np.median(np.asarray(part, float), axis=0) for part in columns])
    return np.zeros(width)


def above(rows: npt.NDArray[Any], limits: Thresholds) -> npt.NDArray[np.bool_]:
    """(N,K) bits of real rows (N,K): 1 iff above the threshold of their dimension.

    Raises ValueError: other dimensions, or a NaN, which has no bit.

    >>> above(np.array([[0.0, 2.0]]), np.array([0.0, 1.0])).tolist()
    [[False, True]]
    """
    if rows.ndim != 2 or rows.shape[1:] != limits.shape:
        raise ValueError(f"expected rows of {len(limits)} numbers, got shape {rows.shape}")
    bits = np.empty(rows.shape, bool)
    done = 0
    for part in _blocks(rows):
        values = np.asarray(part, np.float64)
        if np.isnan(values).any():
            raise ValueError("expected real numbers, got NaN: the model that made them is broken")
        bits[done : done + len(part)] = values > limits
        done += len(part)
    return bits


def _blocks(rows: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    step = max(1, _VALUES // rows.shape[1])
    for start in range(0, len(rows), step):
        yield rows[start : start + step]
