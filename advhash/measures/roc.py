"""Figures of detectors: thresholds from clean data, ROC, AUROC, AP and TPR with their intervals.

Higher scores are more anomalous; an input is flagged iff its score is above the threshold. Scores
may be whole numbers with many ties: all figures count them exactly.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from advhash.measures.intervals import CONFIDENCE, RESAMPLES, Metric

Floats = npt.NDArray[np.float64]
AT_ONE_PERCENT = 2000  # clean items from which on a rate of 1 % is stated


def threshold_at(clean: npt.ArrayLike, rate: float) -> float:
    """The lowest score of clean items that at most the share `rate` of them lies above.

    Raises ValueError: no clean items, a rate outside [0,1).

    >>> threshold_at([0, 0, 1, 1, 2, 9, 9, 9, 9, 9], 0.5), threshold_at(range(100), 0.05)
    (2.0, 94.0)
    """
    scores = np.sort(np.asarray(clean, np.float64))
    if not len(scores) or not 0 <= rate < 1:
        raise ValueError(f"expected clean scores and a rate in [0,1), got {len(scores)}, {rate}")
    above = len(scores) - np.searchsorted(scores, scores, side="right")
    return float(scores[above <= rate * len(scores) + 1e-9][0])


def _levels(abnormal: Floats, clean: Floats) -> tuple[Floats, Floats]:
    """Counts of both at each distinct score, the highest first."""
    values, places = np.unique(np.concatenate([abnormal, clean]), return_inverse=True)
    counts = np.zeros((2, len(values)))
    np.add.at(counts, (np.repeat([0, 1], [len(abnormal), len(clean)]), places), 1)
    return counts[0, ::-1], counts[1, ::-1]


def _auroc(found: Floats, alarms: Floats) -> Floats:
    """Of counts (…,L), the highest score first: P(abnormal > clean) + P(equal)/2."""
    total = found.sum(-1) * alarms.sum(-1)
    below = alarms.sum(-1, keepdims=True) - np.cumsum(alarms, -1)
    return np.asarray((found * (below + alarms / 2)).sum(-1) / total)


def _precision(found: Floats, alarms: Floats) -> Floats:
    """Of counts (…,L): Σ (recall gained at a score) · precision there."""
    hits, flagged = np.cumsum(found, -1), np.cumsum(found + alarms, -1)
    return np.asarray((found * hits / np.maximum(flagged, 1)).sum(-1) / found.sum(-1))


def two_samples(
    statistic: Callable[[Floats, Floats], Floats],
    abnormal: npt.ArrayLike,
    clean: npt.ArrayLike,
    seed: int,
    *,
    paired: bool = False,
) -> Metric:
    """A statistic of two samples and its 95 % percentile interval. n counts the abnormal ones.

    Both are resampled with replacement, each by itself; with `paired`, where the i-th abnormal item
    was made from the i-th clean one, the two are drawn together.
    Raises ValueError: one is empty or not finite, or pairs of unequal numbers.
    """
    one, other = np.asarray(abnormal, np.float64), np.asarray(clean, np.float64)
    if not len(one) or not len(other) or not np.isfinite(np.concatenate([one, other])).all():
        raise ValueError(f"expected finite scores of both, got {len(one)} and {len(other)}")
    if paired and len(one) != len(other):
        raise ValueError(f"expected pairs of scores, got {len(one)} and {len(other)}")
    found, alarms = _levels(one, other)
    generator = np.random.default_rng(seed)
    if paired:
        drawn = _drawn_pairs(one, other, generator)
    else:
        drawn = tuple(
            generator.multinomial(int(counts.sum()), counts / counts.sum(), RESAMPLES).astype(float)
            for counts in (found, alarms)
        )
    spread = statistic(*drawn)
    low, high = np.quantile(spread, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    return Metric(float(statistic(found, alarms)), low, high, len(one))


def _drawn_pairs(
    abnormal: Floats, clean: Floats, generator: np.random.Generator
) -> tuple[Floats, ...]:
    """Counts (R,L) of both at each distinct score, the highest first, of resampled pairs."""
    values, places = np.unique(np.concatenate([abnormal, clean]), return_inverse=True)
    levels = len(values) - 1 - places.reshape(2, -1)
    pairs, counts = np.unique(levels, axis=1, return_counts=True)
    drawn = generator.multinomial(len(abnormal), counts / len(abnormal), RESAMPLES).astype(float)
    every = np.arange(len(counts))
    sides = (
        csr_array((np.ones(len(counts)), (every, side)), shape=(len(counts), len(values)))
        for side in pairs
    )
    return tuple(np.asarray(drawn @ side) for side in sides)


def area_under_roc(
    abnormal: npt.ArrayLike, clean: npt.ArrayLike, seed: int, *, paired: bool = False
) -> Metric:
    """P(an abnormal score is above a clean one), ties counting half. paired: see `two_samples`.

    >>> area_under_roc([2.0, 3.0], [1.0, 2.0], seed=0).value
    0.875
    """
    return two_samples(_auroc, abnormal, clean, seed, paired=paired)


def average_precision(
    abnormal: npt.ArrayLike, clean: npt.ArrayLike, seed: int, *, paired: bool = False
) -> Metric:
    """Area under precision over recall as a step function; depends on how many of each there are.

    >>> average_precision([3.0, 1.0], [2.0], seed=0).value
    0.8333333333333333
    """
    return two_samples(_precision, abnormal, clean, seed, paired=paired)


def roc_curve(abnormal: npt.ArrayLike, clean: npt.ArrayLike) -> tuple[list[float], list[float]]:
    """False and true positive rates at every threshold, from (0,0) to (1,1)."""
    found, alarms = _levels(np.asarray(abnormal, np.float64), np.asarray(clean, np.float64))
    fpr, tpr = (np.concatenate([[0.0], np.cumsum(c) / c.sum()]) for c in (alarms, found))
    return fpr.tolist(), tpr.tolist()
