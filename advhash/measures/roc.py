"""Figures of detectors: the rule that is deployed, ROC, AUROC and AP with their intervals.

Higher scores are more anomalous; an input is flagged iff its score is above the threshold. Scores
may be whole numbers with many ties: all figures count them exactly. A threshold that allows 5 % of
false alarms may reach 1 %, so that every detection rate stands beside the rate that was reached.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from advhash.measures.intervals import CONFIDENCE, RESAMPLES, Metric, rate_metric

Floats = npt.NDArray[np.float64]
ALLOWED = 0.05  # of held-out clean rows above the threshold of the deployed rule
STRICT = 0.01  # of the second, strict rule
STRICT_ROWS = 2000  # clean rows from which on the strict rule is measured


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


def is_off(threshold: float | None, highest: float | None) -> bool:
    """Whether a rule that flags scores above `threshold` can flag nothing.

    highest: the score that no code exceeds; None of either: not known, so it is not

    >>> is_off(16.0, 16.0), is_off(9.0, 16.0), is_off(9.0, None)
    (True, False, False)
    """
    return threshold is not None and highest is not None and threshold >= highest


@dataclass(frozen=True)
class DeployedRule:
    """A detector as it is used: an input is flagged iff its score is above the threshold.

    allowed: the share of the held-out clean rows that may at most lie above
    reached: the share of them that does, with ties less than `allowed`
    rows:    how many they were
    """

    threshold: float
    allowed: float
    reached: float
    rows: int

    @classmethod
    def set_on(cls, held_out: npt.ArrayLike, allowed: float = ALLOWED) -> DeployedRule:
        """The rule with the lowest threshold that `allowed` permits. Raises as `threshold_at`.

        >>> DeployedRule.set_on([0] * 94 + [1] * 5 + [2])
        DeployedRule(threshold=1.0, allowed=0.05, reached=0.01, rows=100)
        """
        scores = np.asarray(held_out, np.float64)
        threshold = threshold_at(scores, allowed)
        return cls(threshold, allowed, float((scores > threshold).mean()), len(scores))

    def flags(self, scores: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """(N,) whether items with these scores are flagged."""
        return np.asarray(scores, np.float64) > self.threshold

    def accepts(self, scores: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """(N,) whether they pass."""
        return np.asarray(scores, np.float64) <= self.threshold


def rule_metrics(
    rule: DeployedRule,
    abnormal: npt.ArrayLike,
    clean: npt.ArrayLike,
    seed: int,
    *,
    paired: bool = False,
) -> dict[str, Metric]:
    """What the rule does to items that it was not set on, and what no threshold of it could.

    detected, false_alarms: shares of abnormal and of clean items flagged, with exact intervals
    false_alarms_held_out: of the rows that the threshold was set on; no estimate, so no interval
    detected_randomised: `randomised_detection` at exactly `rule.allowed`
    """
    return {
        "detected": rate_metric(rule.flags(abnormal), seed),
        "false_alarms": rate_metric(rule.flags(clean), seed),
        "false_alarms_held_out": Metric(rule.reached, n=rule.rows),
        "detected_randomised": randomised_detection(
            abnormal, clean, rule.allowed, seed, paired=paired
        ),
    }


def operating_metrics(
    held_out: npt.ArrayLike,
    abnormal: npt.ArrayLike,
    clean: npt.ArrayLike,
    seed: int,
    *,
    paired: bool = False,
) -> tuple[DeployedRule, dict[str, Metric | None]]:
    """The deployed rule, and `rule_metrics` of it and (`strict_…`) of the strict one.

    The strict ones are None where there are fewer than `STRICT_ROWS` of either clean rows.
    """
    rule = DeployedRule.set_on(held_out)
    metrics: dict[str, Metric | None] = {**rule_metrics(rule, abnormal, clean, seed, paired=paired)}
    enough = min(np.size(held_out), np.size(clean)) >= STRICT_ROWS
    strict = (
        rule_metrics(DeployedRule.set_on(held_out, STRICT), abnormal, clean, seed, paired=paired)
        if enough
        else dict.fromkeys(metrics)
    )
    return rule, metrics | {f"strict_{name}": metric for name, metric in strict.items()}


def _levels(abnormal: Floats, clean: Floats) -> tuple[Floats, Floats]:
    """Counts of both at each distinct score, the highest first."""
    values, places = np.unique(np.concatenate([abnormal, clean]), return_inverse=True)
    counts = np.zeros((2, len(values)))
    np.add.at(counts, (np.repeat([0, 1], [len(abnormal), len(clean)]), places), 1)
    return counts[0, ::-1], counts[1, ::-1]


def _auroc(detected: Floats, alarms: Floats) -> Floats:
    """P(abnormal > clean) + P(equal)/2 from counts (…,L), the highest score first."""
    total = detected.sum(-1) * alarms.sum(-1)
    below = alarms.sum(-1, keepdims=True) - np.cumsum(alarms, -1)
    return np.asarray((detected * (below + alarms / 2)).sum(-1) / total)


def _precision(detected: Floats, alarms: Floats) -> Floats:
    """Σ (recall gained at a score) · precision there, from counts (…,L)."""
    hits, flagged = np.cumsum(detected, -1), np.cumsum(detected + alarms, -1)
    return np.asarray((detected * hits / np.maximum(flagged, 1)).sum(-1) / detected.sum(-1))


def _detection_at(rate: float) -> Callable[[Floats, Floats], Floats]:
    """The detection of the rule that flags exactly the share `rate`, from counts (…,L)."""

    def detection(detected: Floats, alarms: Floats) -> Floats:
        hits, flagged = (
            np.cumsum(np.pad(counts, [(0, 0)] * (counts.ndim - 1) + [(1, 0)]), -1)
            / counts.sum(-1, keepdims=True)
            for counts in (detected, alarms)
        )
        last = (flagged <= rate + 1e-12).sum(-1, keepdims=True) - 1  # flagged in full up to here
        after = np.minimum(last + 1, flagged.shape[-1] - 1)
        low, high = (np.take_along_axis(flagged, place, -1) for place in (last, after))
        drawn = np.where(high > low, (rate - low) / np.where(high > low, high - low, 1), 0)
        low, high = (np.take_along_axis(hits, place, -1) for place in (last, after))
        return np.asarray((low + drawn.clip(0, 1) * (high - low))[..., 0])

    return detection


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
    detected, alarms = _levels(one, other)
    generator = np.random.default_rng(seed)
    if paired:
        drawn = _drawn_pairs(one, other, generator)
    else:
        drawn = tuple(
            generator.multinomial(int(counts.sum()), counts / counts.sum(), RESAMPLES).astype(float)
            for counts in (detected, alarms)
        )
    spread = statistic(*drawn)
    low, high = np.quantile(spread, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    return Metric(float(statistic(detected, alarms)), low, high, len(one))


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


def randomised_detection(
    abnormal: npt.ArrayLike, clean: npt.ArrayLike, rate: float, seed: int, *, paired: bool = False
) -> Metric:
    """Share of abnormal items flagged where exactly the share `rate` of these clean ones is.

    All scores above a level are flagged and, of those at the level itself, a share drawn by chance:
    the ROC curve read at `rate`. Nobody deploys such a rule, as the level is one of the very items
    that it is measured on; it compares detectors whose thresholds reach different rates.
    paired: see `two_samples`

    >>> randomised_detection([2, 1, 1, 0], [1] * 10 + [0] * 90, 0.05, seed=0).value
    0.5
    """
    return two_samples(_detection_at(rate), abnormal, clean, seed, paired=paired)


def roc_curve(abnormal: npt.ArrayLike, clean: npt.ArrayLike) -> tuple[list[float], list[float]]:
    """False and true positive rates at every threshold, from (0,0) to (1,1)."""
    detected, alarms = _levels(np.asarray(abnormal, np.float64), np.asarray(clean, np.float64))
    fpr, tpr = (np.concatenate([[0.0], np.cumsum(c) / c.sum()]) for c in (alarms, detected))
    return fpr.tolist(), tpr.tolist()
