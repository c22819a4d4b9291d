"""Means and ratios over training runs and queries: the hierarchical bootstrap.

Percentile intervals of 95 %. Only the seed determines the draws.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from advhash.measures.intervals import CONFIDENCE, RESAMPLES, Metric, mean_metric, rate_metric

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
    queries counts up to twice, so it is rather too wide where queries are what varies. It sees only
    (G − 1)/G of the variance between G seeds, and percentiles know no t distribution: with 2
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


def hierarchical_rate(groups: Groups, seed: int) -> Metric:
    """`hierarchical_mean` of shares of the same queries, whose interval keeps its width at 0 and 1.

    Where all values are 0 or all are 1, every resample is equal, and the interval is the exact one
    of `rate_metric` over queries: a query that is 0 for one seed is hardly news for another.

    groups: (N,) values in [0,1] of each seed, row i of the same query

    >>> metric = hierarchical_rate([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]], seed=0)
    >>> metric.value, round(metric.high, 6), metric.n
    (0.0, 0.707598, 6)
    """
    metric = hierarchical_mean(groups, seed, same_queries=True)
    if metric.value not in (0, 1):
        return metric
    first = _leaves(_prepared(groups, same_queries=True))[0]
    return replace(rate_metric(first, seed), n=metric.n)


def crossed_mean(values: npt.ArrayLike, seed: int, *, same_seeds: bool = False) -> Metric:
    """Mean over orders, seeds, stages and queries with its 95 % percentile interval.

    values:     (O,E,T,N), query n being the same in all orders, seeds and stages; NaN where it
                does not count. The mean is that of the stages' means over queries, each stage
                weighing the same.
    same_seeds: seed e is the same in all orders, as a seed of the attack is for all victims: it
                draws the same targets for each

    Each resample draws orders, then seeds within each drawn one, or with `same_seeds` once for all
    orders, and draws the queries once for all of them, as a hard query is hard everywhere (Owen
    2007, the pigeonhole bootstrap); stages are not drawn. With 3 orders and 3 seeds it is too
    narrow where these are what varies, see `hierarchical_mean`. `n` counts the values.

    Raises ValueError: values of another shape.

    >>> crossed_mean([[[[0.2, 0.4]]], [[[0.6, 0.8]]]], seed=0).value
    0.5
    """
    cells = _cells(values)
    resampled = _crossed(cells, seed, same_seeds)
    return _summary(_crossed_value(cells), resampled, int((~np.isnan(cells)).sum()))


def crossed_ratio(
    numerator: npt.ArrayLike, denominator: npt.ArrayLike, seed: int, *, same_seeds: bool = False
) -> Metric:
    """Ratio of two crossed means, both resampled together; arrays as in `crossed_mean`.

    No value where the denominator's mean is not positive; no interval where that of a resample is
    not.

    >>> crossed_ratio([[[[0.2, 0.4]]]], [[[[0.1, 0.2]]]], seed=0).value
    2.0
    """
    above, below = _cells(numerator), _cells(denominator)
    count = int((~np.isnan(above)).sum())
    bottom = _crossed_value(below)
    if not bottom > 0:
        return Metric(n=count)
    floor = _crossed(below, seed, same_seeds)
    if not (floor[~np.isnan(floor)] > 0).all():
        return Metric(value=_crossed_value(above) / bottom, n=count)
    resampled = _crossed(above, seed, same_seeds) / floor
    return _summary(_crossed_value(above) / bottom, resampled, count)


def _cells(values: npt.ArrayLike) -> Floats:
    cells = np.asarray(values, dtype=np.float64)
    if cells.ndim != 4:
        raise ValueError(f"expected orders × seeds × stages × queries, got shape {cells.shape}")
    return cells


def _summary(value: float, resampled: Floats, count: int) -> Metric:
    if np.isnan(value) or np.isnan(resampled).all():
        return Metric(n=count)
    low, high = _bounds(resampled[~np.isnan(resampled)])
    return Metric(value=value, low=low, high=high, n=count)


def _mean_of(values: Floats, axis: int) -> Floats:
    """The mean without NaN; NaN where nothing is left."""
    known = ~np.isnan(values)
    count = known.sum(axis=axis)
    total = np.where(known, values, 0).sum(axis=axis)
    return np.asarray(np.where(count > 0, total / np.maximum(count, 1), np.nan))


def _crossed_value(cells: Floats) -> float:
    for _ in range(4):
        cells = _mean_of(cells, -1)
    return float(cells)


def _crossed(cells: Floats, seed: int, same_seeds: bool) -> Floats:
    """(RESAMPLES,) means; arrays of the same shape and seed get the same draws."""
    orders, seeds, stages, queries = cells.shape
    generator = np.random.default_rng(seed)
    weights = generator.multinomial(queries, np.full(queries, 1 / queries), size=RESAMPLES)
    flat = cells.reshape(-1, queries)
    known = ~np.isnan(flat)
    count = known @ weights.T  # (O·E·T, RESAMPLES)
    total = np.where(known, flat, 0) @ weights.T
    means = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    runs = _mean_of(means.reshape(orders, seeds, stages, RESAMPLES), 2)
    drawn = generator.integers(orders, size=(RESAMPLES, orders, 1))
    inner = generator.integers(seeds, size=(RESAMPLES, 1 if same_seeds else orders, seeds))
    picked = runs[drawn, inner, np.arange(RESAMPLES)[:, None, None]]
    return _mean_of(_mean_of(picked, -1), -1)


def _bounds(resampled: Floats) -> tuple[float, float]:
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()
    return low, high


def _prepared(groups: Groups, same_queries: bool) -> Tree:
    """The groups as a tree without NaN. Raises ValueError: other numbers of the same queries."""
    tree = _tree(groups)
    if same_queries:
        leaves = [leaf for leaf in _leaves(tree) if not np.isnan(leaf).all()]
        lengths = sorted({len(leaf) for leaf in leaves})
        if len(lengths) > 1:
            raise ValueError(f"expected the same queries in every group, got {lengths} of them")
        if leaves:
            tree = _without(tree, np.isnan(np.stack(leaves)).max(axis=0))
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
