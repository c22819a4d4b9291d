"""Which labels an attack aims at: the three rules."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import chisquare

from advhash.errors import ConfigError, DataError
from advhash.targets import TargetRule, choose_targets, label_sets

Labels = npt.NDArray[np.uint8]
RULES: tuple[TargetRule, ...] = get_args(TargetRule)

# four label sets, carried by 1, 2, 3 and 14 rows, and five rows without a label
SETS = np.array([[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1]], np.uint8)
TIMES = [1, 2, 3, 14]
DATABASE = np.concatenate([np.repeat(SETS, TIMES, axis=0), np.zeros((5, 4), np.uint8)])
MANY = np.tile(np.array([[0, 0, 0, 1]], np.uint8), (6000, 1))


def random_labels(count: int, seed: int, share: float = 0.15) -> Labels:
    return (np.random.default_rng(seed).random((count, 12)) < share).astype(np.uint8)


def tally(targets: Labels) -> list[int]:
    seen = Counter(map(tuple, targets.tolist()))
    return [seen.pop(tuple(row), 0) for row in SETS.tolist()] + [sum(seen.values())]


def test_label_sets_are_distinct_and_not_empty_with_their_frequency() -> None:
    sets, counts = label_sets(np.random.default_rng(0).permutation(DATABASE))
    found = {tuple(row): int(n) for row, n in zip(sets.tolist(), counts, strict=True)}
    assert found == {tuple(row): n for row, n in zip(SETS.tolist(), TIMES, strict=True)}


@pytest.mark.parametrize("seed", range(5))
def test_disjoint_targets_share_no_label_with_their_query(seed: int) -> None:
    query, database = random_labels(300, seed), random_labels(200, 100 + seed)
    targets = choose_targets("disjoint", query, database, seed)
    assert targets.shape == query.shape
    assert not (query & targets).any()
    assert (choose_targets("uniform", query, database, seed) & query).any()  # not by luck


@pytest.mark.parametrize("rule", RULES)
def test_every_target_is_a_label_set_of_the_database_and_never_empty(rule: TargetRule) -> None:
    query, database = random_labels(200, 0), random_labels(100, 1)
    targets = choose_targets(rule, query, database, 0)
    known = {tuple(row) for row in database.tolist() if any(row)}
    assert any(not row.any() for row in database)  # rows without a label are there to be avoided
    assert {tuple(row) for row in targets.tolist()} <= known


def test_uniform_draws_each_distinct_set_equally_often() -> None:
    *seen, other = tally(choose_targets("uniform", MANY, DATABASE, 0))
    assert other == 0
    assert chisquare(seen).pvalue > 1e-3


def test_weighted_draws_by_the_number_of_rows() -> None:
    *seen, other = tally(choose_targets("weighted", MANY, DATABASE, 0))
    assert other == 0
    assert chisquare(seen, np.array(TIMES) / sum(TIMES) * len(MANY)).pvalue > 1e-3


def test_disjoint_draws_each_set_that_is_left_equally_often() -> None:
    *seen, other = tally(choose_targets("disjoint", MANY, DATABASE, 0))
    assert other == 0
    assert seen[3] == 0  # shares label 3 with the query
    assert chisquare(seen[:3]).pvalue > 1e-3


@pytest.mark.parametrize("rule", RULES)
def test_only_the_seed_decides_over_chance(rule: TargetRule) -> None:
    query, database = random_labels(50, 0), random_labels(100, 1)
    first = choose_targets(rule, query, database, 3)
    np.random.seed(99)
    assert np.array_equal(choose_targets(rule, query, database, 3), first)
    assert not np.array_equal(choose_targets(rule, query, database, 4), first)


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_the_database_changes_nothing(rule: TargetRule) -> None:
    query = random_labels(50, 0)
    database = random_labels(100, 1)
    shuffled = np.random.default_rng(5).permutation(database)
    assert np.array_equal(
        choose_targets(rule, query, database, 3), choose_targets(rule, query, shuffled, 3)
    )


def test_a_query_that_shares_a_label_with_every_set_is_an_error() -> None:
    query = np.array([[0, 0, 0, 1], [1, 1, 1, 0], [1, 1, 0, 1]], np.uint8)
    with pytest.raises(DataError, match=r"2 queries \(first: row 1\) share a label") as got:
        choose_targets("disjoint", query, DATABASE, 0)
    assert "use --targets uniform" in str(got.value)
    assert got.value.exit_code == 3


def test_one_label_set_leaves_no_target_to_choose() -> None:
    with pytest.raises(DataError, match=r"two label sets or more .* an untargeted attack"):
        choose_targets("disjoint", MANY[:3], MANY[:3], 0)


def test_a_query_without_labels_is_disjoint_from_all() -> None:
    none = np.zeros((6000, 4), np.uint8)
    assert all(count > 1000 for count in tally(choose_targets("disjoint", none, DATABASE, 0))[:4])


@pytest.mark.parametrize("rule", RULES)
def test_a_database_without_labels_is_an_error(rule: TargetRule) -> None:
    with pytest.raises(DataError, match="expected database rows with labels"):
        choose_targets(rule, MANY[:3], np.zeros((5, 4), np.uint8), 0)


@pytest.mark.parametrize("rule", RULES)
def test_no_queries_need_no_targets(rule: TargetRule) -> None:
    assert choose_targets(rule, MANY[:0], DATABASE, 0).shape == (0, 4)


def test_an_unknown_rule_is_an_error() -> None:
    with pytest.raises(ConfigError, match="expected disjoint, uniform, weighted, got 'any'"):
        choose_targets("any", MANY[:3], DATABASE, 0)  # type: ignore[arg-type]
