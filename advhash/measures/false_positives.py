"""How often pictures that differ are taken for one: rates over thresholds with their intervals.

Every picture stands in many pairs, so pairs are no independent draws. Whole groups of pictures are
drawn anew in their place, and a pair counts as often as both of its groups were drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from advhash.measures.intervals import CONFIDENCE, Metric, rate_metric

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
GROUPS = 64  # at most
DRAWS = 1000
LEAST_GROUPS = 8  # with a close pair, for an interval to say anything
BLOCK = 4096  # pictures at a time
NORMAL = 1.959964  # the 97.5 % point of the normal distribution


def group_edges(count: int) -> Counts:
    """(G+1,) where each group of neighbouring rows begins: 64 groups, fewer of few rows."""
    return np.linspace(0, count, min(GROUPS, max(count // 2, 1)) + 1).astype(np.int64)


@dataclass(frozen=True)
class Rates:
    """Rates of false positives per comparison at thresholds 0 … K.

    value, low, high: (K+1,) shares of all pairs
    resolved: (K+1,) whether enough groups have close pairs; where not, `high` is that of the next
        threshold that is resolved, which bounds it since rates grow with the threshold
    pairs:    how many were compared
    """

    value: Floats
    low: Floats
    high: Floats
    resolved: npt.NDArray[np.bool_]
    pairs: int

    def metric(self, threshold: int) -> Metric:
        """At a threshold; without a lower end where it is not resolved: `high` is a bound alone."""
        low = float(self.low[threshold]) if self.resolved[threshold] else None
        return Metric(float(self.value[threshold]), low, float(self.high[threshold]), self.pairs)

    def threshold(self, rate: float) -> int | None:
        """The largest at which even the upper end of the interval is at most `rate`."""
        return _last(self.high <= rate)

    def estimate(self, rate: float) -> int | None:
        """The largest at which `value` is at most `rate`, whatever its interval."""
        return _last(self.value <= rate)


def _last(allowed: npt.NDArray[np.bool_]) -> int | None:
    places = np.flatnonzero(allowed)
    return int(places[-1]) if len(places) else None


def false_positive_rates(counts: Counts, edges: Counts, seed: int) -> Rates:
    """Rates of `close_pairs.pair_counts`, with BCa intervals over groups of pictures (Efron 1987).

    Percentiles alone lie too low where a few groups have most of the close pairs.

    counts: (G,G,K+1) at [g,h], g ≤ h; pairs that show one thing are taken out before

    >>> counts = np.zeros((2, 2, 3), np.int64)
    >>> counts[0, 1] = [0, 1, 3]
    >>> false_positive_rates(counts, np.array([0, 2, 4]), seed=0).value.tolist()
    [0.0, 0.25, 1.0]
    """
    within = counts.cumsum(axis=2).astype(np.float64)
    groups, _, levels = counts.shape
    compared = within[:, :, -1]
    pairs = compared.sum()
    weights = _weights(groups, seed)
    drawn = ((weights @ compared) * weights).sum(axis=1)
    rates = np.empty((len(weights), levels))
    for level in range(levels):
        hits = ((weights @ within[:, :, level]) * weights).sum(axis=1)
        np.divide(hits, drawn, out=rates[:, level], where=drawn > 0)
    if not pairs:  # nothing to compare: anything may be
        none = np.zeros(levels)
        return Rates(none, none, np.ones(levels), none > 0, 0)
    value = within.sum(axis=(0, 1)) / pairs
    low, high = _accelerated(rates[drawn > 0], value, _without_each(within))
    close = within > 0
    touched = (close.any(axis=0) | close.any(axis=1)).sum(axis=0)  # groups, at each threshold
    resolved = touched >= min(LEAST_GROUPS, groups)
    high = np.where(resolved, high, 1.0)
    high = np.minimum.accumulate(high[::-1])[::-1]
    return Rates(value, np.minimum(low, value), np.maximum(high, value), resolved, int(pairs))


def _without_each(within: Floats) -> Floats:
    """(G,K+1) the rates without each of the groups."""
    own = np.diagonal(within, axis1=0, axis2=1).T
    involved = within.sum(axis=0) + within.sum(axis=1) - own
    left = within.sum(axis=(0, 1)) - involved
    return np.asarray(left / np.maximum(left[:, -1:], 1))


def _accelerated(drawn: Floats, value: Floats, without: Floats) -> tuple[Floats, Floats]:
    """The ends of BCa intervals of each column.

    drawn: (D,L) bootstrap draws of the L figures `value`; without: (G,L) these without each group
    """
    from scipy.special import ndtr, ndtri

    count, columns = drawn.shape
    influence = without.mean(axis=0) - without
    spread = 6 * np.square(influence).sum(axis=0) ** 1.5
    skew = np.divide((influence**3).sum(axis=0), spread, out=np.zeros(columns), where=spread > 0)
    below = ((drawn < value).sum(axis=0) + (drawn == value).sum(axis=0) / 2) / count
    shift = ndtri(np.clip(below, 1 / count, 1 - 1 / count))
    tail = ndtri((1 - CONFIDENCE) / 2)
    ordered = np.sort(drawn, axis=0)
    ends = []
    for normal in (tail, -tail):
        place = ndtr(shift + (shift + normal) / (1 - skew * (shift + normal))) * (count - 1)
        low = place.astype(np.int64)
        near, far = (
            np.take_along_axis(ordered, np.minimum(at, count - 1)[None], axis=0)[0]
            for at in (low, low + 1)
        )
        ends.append(near + (place - low) * (far - near))
    return ends[0], ends[1]


def lookup_rate(counts: npt.NDArray[np.int32], edges: Counts, size: int) -> Metric:
    """Share of pictures that find at least one false match in a bank of `size` other pictures.

    counts: (N,G) close pictures of each picture, by their group, see `close_pairs.ClosePairs`
    size:   a bank that is larger than the other pictures is judged as one of all of them: at least

    Where k of n other pictures are close, `size` drawn ones hold none with C(n − k, size) /
    C(n, size). Draws with replacement lose close pictures, and with them matches, so the interval
    is that of the jackknife over groups, both as what asks and as what the bank is drawn from, on a
    logarithmic scale of odds. Its variance is at least the true one on average (Efron and Stein
    1981). A share of 0 or 1 has no odds: its interval is the exact one of as many groups.
    """
    rows = np.diff(edges)
    total, groups = int(rows.sum()), len(rows)
    weights = np.concatenate([np.ones((1, groups)), 1 - np.eye(groups)])
    others = np.maximum(weights @ rows - 1, 0)
    asked = np.minimum(size, others)
    sums = np.zeros(len(weights))
    of_row = np.repeat(np.arange(groups), rows)
    for start in range(0, total, BLOCK):
        part = slice(start, start + BLOCK)
        matched = 1 - _none_of(asked, counts[part] @ weights.T, others)
        sums += (matched * weights[:, of_row[part]].T).sum(axis=0)
    shares = sums / np.maximum(weights @ rows, 1)
    value = float(shares[0])
    spread = float(np.sqrt((groups - 1) / groups * np.square(shares[1:] - shares[1:].mean()).sum()))
    if not 0 < value < 1:
        return replace(rate_metric(np.full(groups, value), 0), n=total)
    odds, reach = np.log(value / (1 - value)), NORMAL * spread / (value * (1 - value))
    low, high = 1 / (1 + np.exp(-(odds - reach))), 1 / (1 + np.exp(-(odds + reach)))
    return Metric(value, float(low), float(high), total)


def _none_of(asked: Floats, close: Floats, others: Floats) -> Floats:
    """(N,D) how likely none of `asked` (D,) of `others` (D,) is close, where (N,D) are."""
    from scipy.special import gammaln

    left = others - close - asked
    with np.errstate(invalid="ignore"):
        chance = gammaln(others - close + 1) - gammaln(others + 1)
        chance += gammaln(others - asked + 1) - gammaln(np.maximum(left, 0) + 1)
    return np.asarray(np.where(left < 0, 0, np.exp(chance)))


def lookup_bound(rate: float, size: int) -> float:
    """What the share of `lookup_rate` is at most, where `rate` bounds the rate per comparison.

    >>> lookup_bound(0.01, 2), lookup_bound(1.0, 2)
    (0.02, 1.0)
    """
    return min(size * rate, 1.0)


def rate_among(
    kept: npt.NDArray[np.bool_],
    pairs: Counts,
    edges: Counts,
    rates: Rates,
    threshold: int,
    seed: int,
) -> Metric:
    """The rate of false positives per comparison among some of the pictures alone.

    kept:  (N,) whether each counts, at least two of them
    pairs: (P,2) rows of all false positives at `threshold`
    rates: of all pictures. Where too few groups have a close pair, the bound is theirs: as many
        pairs among fewer
    """
    each = np.add.reduceat(kept.astype(np.int64), edges[:-1])
    compared = np.triu(np.outer(each, each), 1) + np.diag(each * (each - 1) // 2)
    counts = np.stack([np.zeros_like(compared), compared], axis=2)
    close = pairs[kept[pairs].all(axis=1)]
    groups = np.sort(np.searchsorted(edges, close, side="right") - 1, axis=1)
    np.add.at(counts, (groups[:, 0], groups[:, 1]), [1, -1])
    rate = false_positive_rates(counts, edges, seed).metric(0)
    if rate.low is not None:
        return rate
    bound = min(float(rates.high[threshold]) * rates.pairs / rate.n, 1)
    return Metric(rate.value, None, max(bound, rate.value or 0), rate.n)


def _weights(groups: int, seed: int) -> Floats:
    """(DRAWS,G) how often each group is drawn."""
    generator = np.random.default_rng(seed)
    return generator.multinomial(groups, np.full(groups, 1 / groups), DRAWS).astype(np.float64)
