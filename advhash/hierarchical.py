"""Means and ratios over training runs and queries: the hierarchical bootstrap.

Percentile intervals of 95 %. Only the seed decides over chance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from advhash.stats import CONFIDENCE, RESAMPLES, Metric, mean_metric, ratio_of_means

__all__ = ["hierarchical_mean", "hierarchical_ratio"]

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
Groups: TypeAlias = "Sequence[npt.ArrayLike | Groups]"
Tree: TypeAlias = "Floats | list[Tree]"  # values of one seed, or several seeds of one kind
VALUES_AT_ONCE = 2**21  # what a batch draws at most: 32 MiB


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
