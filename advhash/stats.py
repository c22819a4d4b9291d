"""Means, differences and ratios over queries with their intervals, and p-values.

Intervals are 95 % ones from the BCa bootstrap over queries (Efron 1987, through scipy), except for
`hierarchical_mean`, which also resamples training runs. Only the seed decides over chance.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap, monte_carlo_test, permutation_test

__all__ = [
    "CONFIDENCE",
    "PERMUTATIONS",
    "RESAMPLES",
    "Difference",
    "Metric",
    "hierarchical_mean",
    "hierarchical_ratio",
    "holm",
    "mean_metric",
    "paired_difference",
    "ratio_metric",
    "ratio_of_means",
    "single_metric",
]

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
Groups: TypeAlias = "Sequence[npt.ArrayLike | Groups]"
Tree: TypeAlias = "Floats | list[Tree]"  # values of one seed, or several seeds of one kind
RESAMPLES = 2000
PERMUTATIONS = 9999
CONFIDENCE = 0.95
BATCH = 500  # resamples at a time
VALUES_AT_ONCE = 2**21  # what a batch of the hierarchical bootstrap draws at most: 32 MiB
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


def hierarchical_mean(groups: Groups, seed: int, *, same_queries: bool = False) -> Metric:
    """Mean of group means with a 95 % percentile interval over training runs and queries.

    groups:       a list with the (N,) per-query values of each seed, of any lengths, or a list of
                  such lists (victim seeds, and the attack seeds of each), to any depth
    same_queries: row i is the same query in every group

    NaN rows are left out; so is a group without any value. `n` counts the values of all groups. One
    group alone gives `mean_metric`. Each resample draws groups with replacement, then groups inside
    each drawn one, then queries inside each drawn seed (Davison and Hinkley 1997, §3.8, with
    replacement at every level). With `same_queries`, a resample draws the queries once for all
    seeds, as a hard query is hard for each of them (Owen 2007, the pigeonhole bootstrap); drawn
    apart, the interval would come out too narrow by up to the root of the number of seeds. A query
    that is NaN in one group is then left out of all.

    The interval covers the choice of queries and of seeds: another training run on the same data,
    by the same recipe, with other queries of the same kind. Drawn at both levels, the spread over
    queries counts up to twice, so it is rather too wide where queries are what varies. Of the
    variance between G seeds it sees only (G − 1)/G, and percentiles know no t distribution: with 2
    or 3 seeds it is too narrow where seeds are what varies. It shows then that seeds matter, not
    how much. It says nothing about other data or settings.

    Raises ValueError: groups of different lengths with `same_queries`.

    >>> metric = hierarchical_mean([[0.2, 0.4], [0.6, 0.7, 0.8]], seed=0)
    >>> round(metric.value, 3), metric.n
    (0.5, 5)
    """
    tree = _prepared(groups, same_queries)
    leaves = _leaves(tree)
    values = np.concatenate(leaves)
    if len(leaves) == 1:
        return mean_metric(values, seed)
    if not np.isfinite(values).all():
        return Metric(n=len(values))
    value = _mean(tree)
    if np.ptp(values) == 0:
        return Metric(value=value, low=value, high=value, n=len(values))
    low, high = _bounds(_resampled_means(tree, seed, same_queries))
    return Metric(value=value, low=low, high=high, n=len(values))


def hierarchical_ratio(numerator: Groups, denominator: Groups, seed: int) -> Metric:
    """Ratio of two hierarchical means with a 95 % percentile interval, both resampled together.

    numerator, denominator: groups as in `hierarchical_mean`, of the same shape, row i of a seed
    being the same query in both; NaN in the same places

    No value where the denominator's mean is not positive; no interval where that of a resample is
    not. One group alone gives `ratio_of_means`.

    Raises ValueError: groups of different shapes.

    >>> ratio = hierarchical_ratio([[0.2, 0.4], [0.6, 0.8]], [[0.1, 0.2], [0.3, 0.4]], seed=0)
    >>> round(ratio.value, 3), round(ratio.low, 3), ratio.n
    (2.0, 2.0, 4)
    """
    above, below = _prepared(numerator, False), _prepared(denominator, False)
    shapes = [[len(leaf) for leaf in _leaves(tree)] for tree in (above, below)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"expected groups of the same shape, got {shapes[0]} and {shapes[1]}")
    count = sum(shapes[0])
    if len(shapes[0]) == 1:
        return ratio_of_means(_leaves(above)[0], _leaves(below)[0], seed)
    if not _mean(below) > 0 or not np.isfinite(_mean(above)):
        return Metric(n=count)
    means = [_resampled_means(tree, seed, False) for tree in (above, below)]  # of the same draws
    value = _mean(above) / _mean(below)
    if not (means[1] > 0).all():
        return Metric(value=value, n=count)
    low, high = _bounds(means[0] / means[1])
    return Metric(value=value, low=low, high=high, n=count)


def _bounds(resampled: Floats) -> tuple[float, float]:
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    return low, high


def _prepared(groups: Groups, same_queries: bool) -> Tree:
    """The groups as a tree without NaN. Raises ValueError: other numbers of the same queries."""
    tree = _tree(groups)
    if same_queries:
        found = [leaf for leaf in _leaves(tree) if not np.isnan(leaf).all()]
        lengths = sorted({len(leaf) for leaf in found})
        if len(lengths) > 1:
            raise ValueError(f"expected the same queries in every group, got {lengths} of them")
        if found:
            tree = _without(tree, np.isnan(np.stack(found)).max(axis=0))
    return _without(tree)


def _resampled_means(tree: Tree, seed: int, same_queries: bool) -> Floats:
    """(RESAMPLES,) means; trees of the same shape and seed get the same draws."""
    of_groups, of_queries = np.random.SeedSequence(seed).spawn(2)
    generator = np.random.default_rng(of_queries)

    def leaf_means(leaf: Floats, places: Places) -> Floats:
        if same_queries:  # the same seed and length: the same rows of every leaf
            return _query_means(leaf, RESAMPLES, np.random.default_rng(of_queries))[places]
        return _query_means(leaf, len(places), generator)

    return _resampled(tree, np.arange(RESAMPLES), np.random.default_rng(of_groups), leaf_means)


def _tree(groups: Any) -> Tree:
    if isinstance(groups, np.ndarray) and groups.ndim > 1:
        groups = list(groups)
    if isinstance(groups, list | tuple) and any(np.iterable(group) for group in groups):
        return [_tree(group) for group in groups]
    return np.atleast_1d(np.asarray(groups, dtype=np.float64))


def _leaves(tree: Tree) -> list[Floats]:
    if isinstance(tree, list):
        return [leaf for member in tree for leaf in _leaves(member)]
    return [tree]


def _without(tree: Tree, rows: npt.NDArray[np.bool_] | None = None) -> Tree:
    """Without these rows (None: the NaN ones), empty groups, and levels of a single group."""
    if not isinstance(tree, list):
        return tree[~(np.isnan(tree) if rows is None else rows)]
    members = [_without(member, rows) for member in tree]
    members = [member for member in members if len(member)]
    if len(members) == 1:
        return members[0]
    return members or np.empty(0)


def _mean(tree: Tree) -> float:
    if isinstance(tree, list):
        return float(np.mean([_mean(member) for member in tree]))
    return float(tree.mean())


def _query_means(values: Floats, count: int, generator: np.random.Generator) -> Floats:
    """(count,) means of resampled queries, in batches of bounded memory."""
    batch = max(1, VALUES_AT_ONCE // len(values))
    parts = [
        values[generator.integers(len(values), size=(min(batch, count - start), len(values)))]
        .mean(axis=1)
        for start in range(0, count, batch)
    ]  # fmt: skip
    return np.concatenate(parts) if parts else np.empty(0)


def _resampled(
    tree: Tree,
    places: Places,
    generator: np.random.Generator,
    leaf_means: Callable[[Floats, Places], Floats],
) -> Floats:
    """(len(places),) means of a resampled tree; places: the number of the resample of each."""
    if not isinstance(tree, list):
        return leaf_means(tree, places)
    drawn = generator.integers(len(tree), size=(len(places), len(tree)))
    means = np.empty(drawn.shape)
    for number, member in enumerate(tree):
        rows, columns = np.nonzero(drawn == number)
        means[rows, columns] = _resampled(member, places[rows], generator, leaf_means)
    return np.asarray(means.mean(axis=1))


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


def single_metric(value: float | None) -> Metric:
    """A figure measured once, without an interval."""
    return Metric(value=value, n=0 if value is None else 1)
