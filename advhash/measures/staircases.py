"""Curves that hold a value until the next one is known, such as the best found so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

POINTS = 200  # at which a mean curve is taken


@dataclass(frozen=True)
class MeanStaircase:
    """The mean of several staircases: `values[i]` at `times[i]`, from where all of them are known.

    times, values: (P,), P at most POINTS
    """

    times: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]


def mean_staircase(curves: Sequence[Sequence[tuple[float, float]]], end: float) -> MeanStaircase:
    """The mean of curves of (time, value) in ascending time, at POINTS times from 0 to `end`.

    Raises ValueError: no curve, or one without a point.

    >>> mean = mean_staircase([[(0.0, 1.0)], [(0.0, 2.0), (1.0, 4.0)]], 1.0)
    >>> mean.values[[0, -1]].tolist()
    [1.5, 2.5]
    """
    if not curves or not all(curves):
        raise ValueError("expected curves with at least one point each, got none")
    times = np.linspace(0, end, POINTS)
    steps = [_at(curve, times) for curve in curves]
    known = ~np.isnan(steps).any(axis=0)
    return MeanStaircase(times[known], np.mean(steps, axis=0)[known])


def _at(
    curve: Sequence[tuple[float, float]], times: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The values of a curve at given times; NaN before its first point."""
    rows = np.asarray(curve, dtype=np.float64)
    place = np.searchsorted(rows[:, 0], times, side="right") - 1
    return np.where(place < 0, np.nan, rows[np.maximum(place, 0), 1])
