"""Runs compared query by query, without any record or page."""

from __future__ import annotations

import numpy as np
import pytest

from advhash.measures.intervals import Difference, holm, paired_difference
from advhash.measures.paired_runs import (
    Pair,
    Queries,
    Rival,
    Standing,
    best_elsewhere,
    between,
    compare,
    map_lost,
    same_size,
    standings,
)

HARD = np.array([0.1, 0.3, 0.5, 0.6, 0.8, 0.9])
ROWS = np.arange(6)


def rival(gain: float, *, task: str = "one", rows: np.ndarray = ROWS, target: int = 0) -> Rival:
    """A targeted run whose t-AP on each query is that of HARD and a gain."""
    queries = Queries(rows, [[target]] * len(rows), {"tmap": HARD + gain})
    return Rival(task, "tmap", 1, float((HARD + gain).mean()), queries)


def test_runs_of_one_task_are_paired_and_their_p_values_adjusted() -> None:
    rivals = [rival(0.0), rival(0.05), rival(0.02)]
    pairs = compare(rivals)
    assert [(one.first, one.second) for one in pairs] == [(0, 1), (0, 2), (1, 2)]
    assert pairs[0].difference == paired_difference(HARD, HARD + 0.05, 0)
    assert [one.adjusted for one in pairs] == holm([one.difference.p for one in pairs])


@pytest.mark.parametrize(
    "other",
    [
        rival(0.1, task="other"),
        rival(0.1, rows=ROWS + 1),
        rival(0.1, target=1),
        Rival("one", "tmap", 1, 0.5, None),
    ],
    ids=["task", "queries", "targets", "unread"],
)
def test_runs_that_did_something_else_are_not_paired(other: Rival) -> None:
    assert compare([rival(0.0), other]) == []
    assert standings([rival(0.0), other], []) == []


def test_a_rank_is_open_where_no_test_settles_it() -> None:
    rivals = [rival(0.0), rival(0.05), rival(0.04)]
    settled, unsettled = (Difference(-0.05, -0.06, -0.04, 6, p) for p in (0.01, 0.5))
    pairs = [
        Pair(0, 1, "tmap", settled, 0.01),
        Pair(0, 2, "tmap", settled, 0.01),
        Pair(1, 2, "tmap", unsettled, 0.5),
    ]
    assert standings(rivals, pairs) == [
        Standing(1, 1, 2, "tmap"),
        Standing(2, 1, 2, "tmap"),
        Standing(0, 3, 3, "tmap"),
    ]


def test_the_difference_of_two_has_the_larger_first() -> None:
    pairs = [Pair(0, 1, "tmap", Difference(-0.2, -0.3, -0.1, 6, 0.03))]
    assert between(pairs, 1, 0) == between(pairs, 0, 1) == Difference(0.2, 0.1, 0.3, 6, 0.03)
    assert between(pairs, 0, 2) is None


def test_map_is_lost_by_untargeted_runs_alone() -> None:
    columns = {"map": HARD, "map_adversarial": HARD / 2}
    assert map_lost(Queries(ROWS, None, columns)) == paired_difference(HARD, HARD / 2, 0)
    assert map_lost(Queries(ROWS, [[0]] * 6, {"tmap": HARD})) is None
    assert map_lost(None) is None


def test_sizes_are_the_same_up_to_a_twentieth_of_the_larger() -> None:
    assert same_size(1.0, 0.96)
    assert not same_size(0.94, 1.0)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_best_of_several_is_chosen_on_other_queries(sign: int) -> None:
    generator = np.random.default_rng(3)
    table = sign * generator.normal(size=(4, 31))
    table[1, 5] = np.nan
    found = best_elsewhere(list(table), sign=sign)
    for query in range(31):
        others = [place for place in range(31) if (place - query) % 2]
        means = [sign * np.nanmean(row[others]) for row in table]
        assert found[query] == table[int(np.argmax(means)), query]
    assert sign * np.nanmean(found) < np.nanmax(sign * np.nanmean(table, axis=1)) + 1e-12


def test_the_choice_flatters_no_rival() -> None:
    """The one of 40 equal rivals that looks best is ahead on its own queries alone."""
    table = np.random.default_rng(0).normal(size=(40, 400))
    assert table.mean(axis=1).max() > 0.08
    assert abs(best_elsewhere(list(table)).mean()) < 0.08
