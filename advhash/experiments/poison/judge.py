"""What unseen queries find: planted items, natural hubs, their own answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from advhash.codes.packed import HashCodes
from advhash.codes.relevance import GradedPairs
from advhash.measures.hierarchical import hierarchical_mean
from advhash.measures.intervals import Metric
from advhash.stores.base import NONE, Ids

Floats = npt.NDArray[np.float64]
CUTS = (1, 5, 10)


@dataclass(frozen=True)
class Judgement:
    """Per query (N,): whether an item is among the first results, and how much is found.

    top:        by how many results are looked at
    reciprocal: of the rank of the first item; 0 where none is among the first 10
    own:        recall of the query's own answers among the first 10
    """

    top: dict[int, Floats]
    reciprocal: Floats
    own: Floats


def judge(ids: Ids, items: npt.NDArray[np.int64], own: GradedPairs) -> Judgement:
    """ids: (N,10) results; items: ids that count as planted; own: answers of each query.

    >>> pairs = GradedPairs.of(1, [0, 0], [3, 4], [1.0, 1.0])
    >>> judged = judge(np.array([[7, 3, 9]]), np.array([9]), pairs)
    >>> judged.top[1].tolist(), judged.top[5].tolist(), judged.own.tolist()
    ([0.0], [1.0], [0.5])
    """
    planted = np.isin(ids, items)
    first = np.where(planted.any(axis=1), planted.argmax(axis=1), ids.shape[1])
    return Judgement(
        {cut: (first < min(cut, ids.shape[1])).astype(np.float64) for cut in CUTS},
        np.where(first < ids.shape[1], 1.0 / (1 + first), 0.0),
        own_recall(ids, own),
    )


def own_recall(ids: Ids, own: GradedPairs) -> Floats:
    """(N,) share of a query's answers among its results, of at most as many as there are results.

    Answers of fractional grade count by it; NaN where a query has none.
    """
    grades = own.graded(np.where(ids == NONE, 0, ids), HashCodes.pack(np.zeros((0, 1), bool)))
    hits = np.where(ids == NONE, 0.0, np.minimum(grades, 1)).sum(axis=1)
    sums = np.add.reduceat(np.append(np.minimum(own.grades, 1), 0.0), own.starts[:-1])
    answers = np.where(np.diff(own.starts) > 0, sums, 0.0)
    share = np.full(len(ids), np.nan)
    np.divide(hits, np.minimum(answers, ids.shape[1]), out=share, where=answers > 0)
    return share


def natural_hubs(ids: Ids, count: int) -> npt.NDArray[np.int64]:
    """The `count` documents that the known queries find most often among their first results.

    >>> natural_hubs(np.array([[4, 2], [4, 9], [2, 4]]), 2).tolist()
    [4, 2]
    """
    named, often = np.unique(ids[ids != NONE], return_counts=True)
    return named[np.argsort(-often, kind="stable")[:count]]


def figures(
    before: Judgement,
    after: Sequence[Judgement],
    natural: Judgement,
    random: Sequence[Judgement],
    seed: int,
    defended: Judgement | None = None,
) -> dict[str, Metric]:
    """Means over queries and seeds, with intervals; differences are paired by query.

    after, random: of each seed
    defended: without any attack, of the documents that the defences keep; None: there are none
    """

    def mean(values: Sequence[Floats]) -> Metric:
        return hierarchical_mean([list(row) for row in values], seed, same_queries=True)

    honest = {}
    if defended is not None:
        honest = {
            "own_recall10_defended": mean([defended.own]),
            "own_recall10_cost": mean([before.own - defended.own]),
        }
    planted = [each.top[10] for each in after]
    by_chance = [each.top[10] for each in random]
    lost = [before.own - each.own for each in after]
    return {
        **{f"planted_top{cut}": mean([each.top[cut] for each in after]) for cut in CUTS},
        "planted_top10_random": mean(by_chance),
        "planted_top10_natural": mean([natural.top[10]]),
        "planted_top10_over_random": mean(
            [mine - other for mine, other in zip(planted, by_chance, strict=True)]
        ),
        "planted_top10_over_natural": mean([mine - natural.top[10] for mine in planted]),
        "planted_reciprocal_rank": mean([each.reciprocal for each in after]),
        "own_recall10_before": mean([before.own]),
        "own_recall10_after": mean([each.own for each in after]),
        "own_recall10_lost": mean(lost),
        **honest,
    }
