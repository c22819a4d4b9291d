"""Means, differences and ratios over queries with their intervals, and p-values.

Intervals are 95 % ones from the BCa bootstrap over queries (Efron 1987, through scipy), of rates
exact ones (`rate_metric`), of medians those of order statistics (`median_metric`); for those over
training runs as well see `hierarchical`. Only the seed determines the draws.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
RESAMPLES = 2000
PERMUTATIONS = 9999
CONFIDENCE = 0.95
BATCH = 500  # resamples at a time
DIGITS = 12  # two sums that agree so far, relative to the sum of sizes, differ by rounding only


@dataclass(frozen=True)
class Metric:
    """A figure with its 95 % interval over n queries; a part that does not exist is None."""

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0


@dataclass(frozen=True)
class Difference(Metric):
    """A mean paired difference with its 95 % interval and its two-sided p-value in (0, 1]."""

    p: float | None = None


def _interval(samples: tuple[Floats, ...], statistic: Any, seed: int) -> tuple[float, float] | None:
    from scipy.stats import bootstrap  # half a second to import

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
            batch=BATCH,
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


def median_metric(values: npt.ArrayLike) -> Metric:
    """Median over queries with the 95 % interval of its order statistics, which draws nothing.

    values: (N,) may hold infinities; NaN marks a query that is left out. A side on which no order
    statistic is certain enough, as where N is below 6, or where it is infinite, has no bound.

    >>> median_metric([3.0, 1.0, 2.0, 5.0, 4.0, 6.0, 7.0, 8.0])
    Metric(value=4.5, low=1.0, high=8.0, n=8)
    """
    from scipy.stats import quantile_test

    kept = np.asarray(values, dtype=np.float64)
    kept = kept[~np.isnan(kept)]
    if len(kept) == 0:
        return Metric()
    interval = quantile_test(kept, p=0.5).confidence_interval(CONFIDENCE)
    value, low, high = (
        float(number) if np.isfinite(number) else None
        for number in (np.median(kept), interval.low, interval.high)
    )
    return Metric(value, low, high, len(kept))


def rate_metric(values: npt.ArrayLike, seed: int) -> Metric:
    """Share of 0/1 outcomes with the exact 95 % interval of Clopper and Pearson (1934).

    A bootstrap of outcomes that are all equal has no width; this one keeps it. Where some outcomes
    are fractions (a hit shared among ties) the interval is that of `mean_metric`.

    values: (N,) in [0,1]; NaN marks a query that is left out
    Raises ValueError: a value outside [0,1].

    >>> round(rate_metric([1, 1, 1], seed=0).low, 6)
    0.292402
    """
    from scipy.stats import binomtest

    kept = np.asarray(values, dtype=np.float64)
    kept = kept[~np.isnan(kept)]
    if ((kept < 0) | (kept > 1)).any():
        raise ValueError(f"expected outcomes in [0,1], got {kept.min():g} to {kept.max():g}")
    if len(kept) == 0 or not np.isin(kept, (0, 1)).all():
        return mean_metric(kept, seed)
    test = binomtest(int(kept.sum()), len(kept))
    interval = test.proportion_ci(CONFIDENCE, method="exact")
    return Metric(float(kept.mean()), float(interval.low), float(interval.high), len(kept))


def paired_difference(first: npt.ArrayLike, second: npt.ArrayLike, seed: int) -> Difference:
    """Mean of first − second over the same queries: BCa interval, two-sided permutation p-value.

    first, second: (N,) per query, in the same order; a query that is NaN in one is left out of both

    The p-value: were the two exchangeable on every query, each difference would have either sign
    equally often (Fisher 1935, §21). All 2ⁿ signs are tried where these are at most PERMUTATIONS,
    otherwise PERMUTATIONS random ones; the observed signs count as one of them, so p is never 0
    (Phipson and Smyth 2010). Queries without a difference have no sign and are not flipped.

    Raises ValueError: different lengths.

    >>> paired_difference([0.5, 0.7, 0.9], [0.4, 0.4, 0.4], seed=0).p  # two of eight sign patterns
    0.25
    """
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(f"expected two rows of equal length, got {one.shape} and {other.shape}")
    with np.errstate(invalid="ignore"):  # ∞ − ∞
        differences = (one - other)[~(np.isnan(one) | np.isnan(other))]
    if len(differences) == 0 or not np.isfinite(differences).all():
        return Difference(n=len(differences))
    mean, p = mean_metric(differences, seed), _sign_flip_p(differences, seed)
    return Difference(mean.value, mean.low, mean.high, mean.n, p)


def _sign_flip_p(differences: Floats, seed: int) -> float:
    from scipy.stats import monte_carlo_test, permutation_test

    moved = differences[differences != 0]
    if len(moved) < 2:
        return 1.0  # a single one: its sign and the opposite sign are equally extreme
    size = np.abs(moved).sum()

    def total(values: Floats, axis: int) -> Floats:
        # rounded: sums that are equal on paper must count as equally extreme
        return np.asarray((values.sum(axis=axis) / size).round(DIGITS))

    if 2 ** len(moved) <= PERMUTATIONS:
        result = permutation_test(
            (moved,),
            total,
            permutation_type="samples",
            vectorized=True,
            n_resamples=PERMUTATIONS,
            batch=BATCH,
        )
        return float(result.pvalue)
    generator = np.random.default_rng(seed)

    def flipped(size: tuple[int, ...]) -> Floats:
        # what permutation_test draws too, some 50 times faster: one random bit a sign
        octets = generator.integers(0, 256, (math.prod(size) + 7) // 8, dtype=np.uint8)
        signs = np.unpackbits(octets, count=math.prod(size)).reshape(size)
        return np.asarray(np.where(signs, moved, -moved))

    result = monte_carlo_test(
        moved, flipped, total, vectorized=True, n_resamples=PERMUTATIONS, batch=BATCH
    )
    return float(result.pvalue)


def ratio_of_means(numerator: npt.ArrayLike, denominator: npt.ArrayLike, seed: int) -> Metric:
    """mean numerator / mean denominator, both resampled together: not a mean of ratios.

    numerator, denominator: (N,) per query; a query that is NaN in one is left out of both
    No value where the mean denominator is not positive.

    Raises ValueError: different lengths.

    >>> ratio_of_means([1.0, 2.0], [2.0, 4.0], seed=0).value
    0.5
    """
    above, below = (np.asarray(part, dtype=np.float64) for part in (numerator, denominator))
    if above.shape != below.shape or above.ndim != 1:
        raise ValueError(f"expected two rows of equal length, got {above.shape} and {below.shape}")
    kept = ~(np.isnan(above) | np.isnan(below))
    above, below = above[kept], below[kept]
    count = len(above)
    finite = np.isfinite(above).all() and np.isfinite(below).all()
    if count == 0 or not finite or below.mean() <= 0:
        return Metric(n=count)
    value = float(above.mean() / below.mean())
    if count == 1:
        return Metric(value=value, n=count)
    if np.abs(above - value * below).max() <= 10.0**-DIGITS * np.abs(above).max():
        return Metric(value=value, low=value, high=value, n=count)  # the same in every resample

    def statistic(a: Floats, b: Floats, axis: int) -> Floats:
        span = b.mean(axis=axis)
        return np.asarray(a.mean(axis=axis) / np.where(span > 0, span, np.nan))

    low, high = _interval((above, below), statistic, seed) or (None, None)
    return Metric(value=value, low=low, high=high, n=count)


def ratio_metric(value: Floats, floor: Floats, ceiling: Floats, seed: int) -> Metric:
    """(mean value − mean floor)/(mean ceiling − mean floor), all three resampled together.

    No value where the denominator is not positive; NaN rows are left out of all three.
    """
    return ratio_of_means(
        np.subtract(value, floor), np.where(np.isnan(value), np.nan, ceiling - floor), seed
    )


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted for all tests of a table by step-down (Holm 1979): p̃ ≤ α rejects at α.

    The i-th smallest of m becomes the largest of (m − j + 1) · p₍ⱼ₎ over j ≤ i, at most 1. However
    the tests depend on each other, the chance of any false rejection is at most α. None and NaN
    are no tests: they are kept and not counted.

    Raises ValueError: a p-value outside [0, 1].

    >>> holm([0.01, None, 0.04, 0.03])
    [0.03, None, 0.06, 0.06]
    """
    adjusted = list(p_values)
    tests = [(p, place) for place, p in enumerate(p_values) if p is not None and not math.isnan(p)]
    largest = 0.0
    for rank, (p, place) in enumerate(sorted(tests)):
        if not 0 <= p <= 1:
            raise ValueError(f"expected p-values in [0, 1], got {p}")
        largest = max(largest, min(1.0, (len(tests) - rank) * p))
        adjusted[place] = largest
    return adjusted


def apart(one: Metric, other: Metric) -> bool | None:
    """Whether two intervals lie apart; None where one of them does not exist.

    >>> apart(Metric(0.2, 0.1, 0.3, 9), Metric(0.5, 0.4, 0.6, 9)), apart(Metric(0.2), Metric(0.5))
    (True, None)
    """
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return None
    return one.high < other.low or other.high < one.low


def share_lost(before: float, after: float, floor: float) -> float | None:
    """The part of what lay above a floor that is gone; None where nothing lay above it.

    >>> share_lost(0.75, 0.5, 0.25), share_lost(0.25, 0.1, 0.25)
    (0.5, None)
    """
    return None if before <= floor else (before - after) / (before - floor)


def largest_gap(first: Sequence[float], second: Sequence[float]) -> float:
    """The largest absolute difference of two rows. Raises ValueError: none, different lengths.

    >>> largest_gap([0.5, -0.25], [0.25, 0.5])
    0.75
    """
    return max(abs(one - other) for one, other in zip(first, second, strict=True))


def single_metric(value: float | None) -> Metric:
    """A figure measured once, without an interval."""
    return Metric(value=value, n=0 if value is None else 1)
