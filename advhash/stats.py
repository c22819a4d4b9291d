"""Intervals: the BCa bootstrap over queries (Efron 1987, through scipy)."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap

__all__ = ["CONFIDENCE", "RESAMPLES", "Metric", "mean_metric", "ratio_metric", "single_metric"]

Floats = npt.NDArray[np.float64]
RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Metric:
    """A figure with its 95 % interval over n queries; a part that does not exist is None."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0


def _interval(samples: tuple[Floats, ...], statistic: Any, seed: int) -> tuple[float, float] | None:
    with warnings.catch_warnings():  # degenerate: every resample is equal; there is no interval
        warnings.simplefilter("ignore")
        result = bootstrap(
            samples,
            statistic,
            paired=True,
            vectorized=True,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="BCa",
            rng=np.random.default_rng(seed),
            batch=500,
        )
    low, high = (float(bound) for bound in result.confidence_interval)
    return (low, high) if np.isfinite(low) and np.isfinite(high) else None


def mean_metric(values: npt.ArrayLike, seed: int) -> Metric:
    """Mean over queries with its 95 % interval; NaN marks a query that is left out.

    >>> mean_metric([0.5, 0.5, 0.5], seed=0).value
    0.5
    """
    kept = np.asarray(values, dtype=np.float64)
    kept = kept[~np.isnan(kept)]
    if len(kept) == 0 or not np.isfinite(kept).all():
        return Metric(n=len(kept))
    value = float(kept.mean())
    if len(kept) > 1 and np.ptp(kept) == 0:
        return Metric(value=value, low=value, high=value, n=len(kept))
    interval = (
        _interval((kept,), lambda x, axis: x.mean(axis=axis), seed) if len(kept) > 1 else None
    )
    low, high = interval or (None, None)
    return Metric(value=value, low=low, high=high, n=len(kept))


def ratio_metric(value: Floats, floor: Floats, ceiling: Floats, seed: int) -> Metric:
    """(mean value − mean floor)/(mean ceiling − mean floor), all three resampled together.

    No value where the denominator is not positive; NaN rows are left out of all three.
    """
    kept = ~(np.isnan(value) | np.isnan(floor) | np.isnan(ceiling))
    value, floor, ceiling = value[kept], floor[kept], ceiling[kept]
    count = len(value)
    if count == 0 or ceiling.mean() - floor.mean() <= 0:
        return Metric(n=count)

    def statistic(v: Floats, f: Floats, c: Floats, axis: int) -> Floats:
        span = c.mean(axis=axis) - f.mean(axis=axis)
        return np.asarray(
            (v.mean(axis=axis) - f.mean(axis=axis)) / np.where(span > 0, span, np.nan)
        )

    interval = _interval((value, floor, ceiling), statistic, seed) if count > 1 else None
    low, high = interval or (None, None)
    return Metric(value=float(statistic(value, floor, ceiling, 0)), low=low, high=high, n=count)


def single_metric(value: float | None) -> Metric:
    """A figure measured once, without an interval."""
    return Metric(value=value, n=0 if value is None else 1)
