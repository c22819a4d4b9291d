"""Rank metrics against a slow loop over all orders of ties, sklearn and torchmetrics."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.metrics import average_precision_score
from torchmetrics.functional.retrieval import (
    retrieval_average_precision as torchmetrics_average_precision,
)

from advhash.codes import HashCodes
from advhash.codes.metrics import (
    Empty,
    Ties,
    chance_average_precision,
    retrieval_average_precision,
)
from advhash.errors import DataError

ALL_TIES: list[Ties] = ["expected", "optimistic", "pessimistic", "stable"]
CUTS = [None, 1, 2, 3, 5, 100]
Retrieval = tuple[HashCodes, HashCodes, npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


def retrieval(far: list[int], relevant: list[int], bits: int = 16) -> Retrieval:
    """One query and a database whose rows lie at the given distances from it."""
    codes = [[1] * distance + [0] * (bits - distance) for distance in far]
    labels = np.array([[hit, 1 - hit] for hit in relevant], np.uint8).reshape(-1, 2)
    query = HashCodes.pack(np.zeros((1, bits)))
    return query, HashCodes.pack(codes), np.array([[1, 0]], np.uint8), labels


def score(far: list[int], relevant: list[int], ties: Ties, top_k: int | None = None) -> float:
    return float(retrieval_average_precision(*retrieval(far, relevant), ties=ties, top_k=top_k)[0])


def precision_of_order(hits: list[int], top_k: int | None) -> float:
    """Average precision of a full ranking, by its definition."""
    total = sum(hits)
    cut = len(hits) if top_k is None else top_k
    if total == 0:
        return 0.0
    value, seen = 0.0, 0
    for rank, hit in enumerate(hits[:cut], start=1):
        seen += hit
        value += hit * seen / rank
    return value / min(total, cut)


def all_orders(far: list[int], relevant: list[int]) -> Iterator[list[int]]:
    """The relevance along every ranking that the distances allow, each permutation once."""
    levels = [
        [hit for distance, hit in zip(far, relevant, strict=True) if distance == level]
        for level in sorted(set(far))
    ]
    for parts in itertools.product(*(itertools.permutations(level) for level in levels)):
        yield [hit for part in parts for hit in part]


def random_cases(count: int) -> list[tuple[list[int], list[int]]]:
    generator = np.random.default_rng(0)
    cases = []
    for _ in range(count):
        size = int(generator.integers(1, 7))
        levels = int(generator.integers(1, 5))
        far = generator.integers(0, levels, size).tolist()
        cases.append((far, (generator.random(size) < generator.random()).astype(int).tolist()))
    return cases


CASES = [
    *random_cases(40),
    ([0, 0, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0]),
    ([0, 1, 1, 1, 1, 2], [0, 0, 1, 0, 0, 1]),
    ([2, 2, 0, 0, 1, 1], [1, 1, 1, 0, 0, 0]),
    ([3], [1]),
    ([3], [0]),
]


@pytest.mark.parametrize("top_k", CUTS)
@pytest.mark.parametrize(("far", "relevant"), CASES)
def test_ties_equal_a_loop_over_all_orders(
    far: list[int], relevant: list[int], top_k: int | None
) -> None:
    slow = [precision_of_order(hits, top_k) for hits in all_orders(far, relevant)]
    assert score(far, relevant, "expected", top_k) == pytest.approx(np.mean(slow), abs=1e-12)
    assert score(far, relevant, "optimistic", top_k) == pytest.approx(max(slow), abs=1e-12)
    assert score(far, relevant, "pessimistic", top_k) == pytest.approx(min(slow), abs=1e-12)
    by_row = [relevant[row] for row in sorted(range(len(far)), key=lambda row: (far[row], row))]
    stable = score(far, relevant, "stable", top_k)
    assert stable == pytest.approx(precision_of_order(by_row, top_k), abs=1e-12)


def tie_free(seed: int) -> tuple[list[int], list[int]]:
    generator = np.random.default_rng(seed)
    far = generator.permutation(60)[:40].tolist()
    return far, (generator.random(40) < 0.3).astype(int).tolist()


@pytest.mark.parametrize("ties", ALL_TIES)
@pytest.mark.parametrize("seed", range(5))
def test_tie_free_rankings_equal_sklearn_and_torchmetrics(ties: Ties, seed: int) -> None:
    far, relevant = tie_free(seed)
    got = float(retrieval_average_precision(*retrieval(far, relevant, 64), ties=ties)[0])
    closeness = 100 - np.array(far)  # torchmetrics drops scores <= 0
    assert got == pytest.approx(average_precision_score(relevant, closeness), abs=1e-12)
    peer = torchmetrics_average_precision(
        torch.tensor(closeness, dtype=torch.float32), torch.tensor(relevant)
    )
    assert got == pytest.approx(float(peer), abs=1e-6)


@pytest.mark.parametrize("ties", ALL_TIES)
def test_top_k_divides_by_what_could_be_found_where_torchmetrics_divides_by_hits(
    ties: Ties,
) -> None:
    far, relevant = tie_free(1)
    cut = 10
    got = float(retrieval_average_precision(*retrieval(far, relevant, 64), ties=ties, top_k=cut)[0])
    peer = torchmetrics_average_precision(
        torch.tensor(100 - np.array(far), dtype=torch.float32), torch.tensor(relevant), top_k=cut
    )
    hits = sum(relevant[row] for row in np.argsort(far)[:cut])
    assert 0 < hits < min(sum(relevant), cut)
    assert got * min(sum(relevant), cut) == pytest.approx(float(peer) * hits, abs=1e-5)


@pytest.mark.parametrize("ties", ALL_TIES)
def test_trap_21_a_second_hit_within_k_never_lowers_the_score(ties: Ties) -> None:
    """[+−+−] and [+−−−], another relevant row behind the cut: published code puts .83 below 1."""
    two = score([0, 1, 2, 3, 4], [1, 0, 1, 0, 0], ties, top_k=4)
    one = score([0, 1, 2, 3, 4], [1, 0, 0, 0, 1], ties, top_k=4)
    assert two == pytest.approx((1 + 2 / 3) / 2)
    assert one == pytest.approx(1 / 2)


@pytest.mark.parametrize("ties", ALL_TIES)
@pytest.mark.parametrize("empty", ["zero", "skip", "error"])
def test_trap_22_no_hit_within_k_counts_as_zero_and_is_not_dropped(
    ties: Ties, empty: Empty
) -> None:
    data = retrieval([0, 1, 2], [0, 0, 1])
    assert retrieval_average_precision(*data, ties=ties, top_k=2, empty=empty).tolist() == [0.0]


@pytest.mark.parametrize("ties", ALL_TIES)
@pytest.mark.parametrize("top_k", [None, 2])
class TestEmptyQueries:
    """Two queries: one finds one of two rows, the other has nothing to find."""

    query = HashCodes.pack([[0, 0], [0, 0]])
    database = HashCodes.pack([[0, 0], [0, 1]])
    query_labels = np.array([[1, 0], [0, 0]], np.uint8)
    database_labels = np.array([[1, 0], [0, 1]], np.uint8)

    def scores(self, ties: Ties, top_k: int | None, empty: Empty) -> npt.NDArray[np.float64]:
        return retrieval_average_precision(
            self.query,
            self.database,
            self.query_labels,
            self.database_labels,
            ties=ties,
            top_k=top_k,
            empty=empty,
        )

    def test_zero_counts_them(self, ties: Ties, top_k: int | None) -> None:
        assert self.scores(ties, top_k, "zero").tolist() == [1.0, 0.0]

    def test_skip_marks_them_with_nan(self, ties: Ties, top_k: int | None) -> None:
        values = self.scores(ties, top_k, "skip")
        assert values[0] == 1.0
        assert np.isnan(values[1])

    def test_error_counts_them_in_its_message(self, ties: Ties, top_k: int | None) -> None:
        with pytest.raises(DataError, match="1 of 2 queries have no relevant database row"):
            self.scores(ties, top_k, "error")


@pytest.mark.parametrize("ties", ALL_TIES)
@pytest.mark.parametrize("top_k", CUTS)
def test_a_database_of_relevant_rows_only_scores_one(ties: Ties, top_k: int | None) -> None:
    assert score([0, 0, 1, 5, 5], [1] * 5, ties, top_k) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("ties", ALL_TIES)
def test_an_empty_database_is_refused(ties: Ties) -> None:
    none = HashCodes.pack(np.zeros((0, 4)))
    one = HashCodes.pack(np.zeros((1, 4)))
    with pytest.raises(DataError, match="at least one row"):
        retrieval_average_precision(
            one, none, np.ones((1, 2), np.uint8), np.ones((0, 2), np.uint8), ties=ties
        )


@pytest.mark.parametrize("ties", ALL_TIES)
def test_no_queries_give_no_values(ties: Ties) -> None:
    none, one = HashCodes.pack(np.zeros((0, 4))), HashCodes.pack(np.zeros((1, 4)))
    labels = np.ones((1, 2), np.uint8)
    assert retrieval_average_precision(none, one, labels[:0], labels, ties=ties).shape == (0,)


@pytest.mark.parametrize("ties", ALL_TIES)
@pytest.mark.parametrize("top_k", [0, -1])
def test_a_cut_below_one_is_refused(ties: Ties, top_k: int) -> None:
    with pytest.raises(ValueError, match="top_k >= 1"):
        score([0, 1], [1, 0], ties, top_k)


@pytest.mark.parametrize("ties", ALL_TIES)
def test_a_cut_beyond_the_database_is_no_cut(ties: Ties) -> None:
    far, relevant = [0, 2, 2, 3, 3, 3], [0, 1, 0, 1, 1, 0]
    assert score(far, relevant, ties, 1000) == score(far, relevant, ties)


@pytest.mark.parametrize("ties", ALL_TIES)
def test_each_query_is_scored_by_itself(ties: Ties) -> None:
    generator = np.random.default_rng(3)
    query, database = (HashCodes.pack(generator.random((n, 6)) < 0.5) for n in (9, 40))
    query_labels, database_labels = (
        (generator.random((n, 4)) < 0.3).astype(np.uint8) for n in (9, 40)
    )
    together = retrieval_average_precision(
        query, database, query_labels, database_labels, ties=ties
    )
    alone = [
        retrieval_average_precision(
            query[row : row + 1], database, query_labels[row : row + 1], database_labels, ties=ties
        )[0]
        for row in range(9)
    ]
    assert together.tolist() == alone
    assert len(set(alone)) > 1


class TestOrderOfTheDatabase:
    """A class-sorted list, as published readers build it, favours the first classes."""

    classes = np.repeat(np.eye(10, dtype=np.uint8), 20, axis=0)

    def scores(self, ties: Ties, order: npt.NDArray[np.int64], bits: int) -> list[float]:
        codes = np.random.default_rng(0).random((200, bits)) < 0.5
        database = HashCodes.pack(codes[order])
        query = HashCodes.pack(np.zeros((10, bits)))
        labels = np.eye(10, dtype=np.uint8)
        return retrieval_average_precision(
            query, database, labels, self.classes[order], ties=ties
        ).tolist()

    @pytest.mark.parametrize("ties", ["expected", "optimistic", "pessimistic"])
    def test_permuting_it_changes_not_one_bit_of_the_result(self, ties: Ties) -> None:
        shuffled = np.random.default_rng(1).permutation(200)
        assert self.scores(ties, np.arange(200), 6) == self.scores(ties, shuffled, 6)

    def test_stable_does_depend_on_it(self) -> None:
        """Else the test above would prove nothing."""
        shuffled = np.random.default_rng(1).permutation(200)
        assert self.scores("stable", np.arange(200), 6) != self.scores("stable", shuffled, 6)

    def test_a_collapsed_victim_scores_chance_for_every_class(self) -> None:
        labels = np.eye(10, dtype=np.uint8)
        one_code = HashCodes.pack(np.zeros((200, 8)))
        data = (one_code[:10], one_code, labels, self.classes)
        chance = chance_average_precision(np.array([20]), 200)[0]
        assert retrieval_average_precision(*data).tolist() == [chance] * 10
        stable = retrieval_average_precision(*data, ties="stable")
        assert stable[0] == 1.0  # what published code reports for the first class
        assert stable[-1] < chance


@pytest.mark.parametrize("size", range(1, 7))
@pytest.mark.parametrize("top_k", CUTS)
def test_chance_is_the_mean_over_all_orders(size: int, top_k: int | None) -> None:
    for relevant in range(size + 1):
        hits = [1] * relevant + [0] * (size - relevant)
        slow = np.mean([precision_of_order(list(o), top_k) for o in itertools.permutations(hits)])
        chance = chance_average_precision(np.array([relevant]), size, top_k=top_k)[0]
        assert chance == pytest.approx(slow, abs=1e-12)
        assert chance == score([3] * size, hits, "expected", top_k)


@pytest.mark.parametrize(("relevant", "size"), [(1, 2), (1, 1000), (17, 1000), (999, 1000)])
def test_chance_equals_its_published_formula_and_not_the_relevant_share(
    relevant: int, size: int
) -> None:
    harmonic = sum(1 / rank for rank in range(1, size + 1))
    formula = (harmonic + (relevant - 1) / (size - 1) * (size - harmonic)) / size
    chance = chance_average_precision(np.array([relevant]), size)[0]
    assert chance == pytest.approx(formula, rel=1e-12)
    assert chance > relevant / size


@pytest.mark.parametrize(("empty", "value"), [("zero", 0.0), ("skip", np.nan)])
def test_chance_of_nothing_relevant_follows_the_rule(
    empty: Literal["zero", "skip"], value: float
) -> None:
    got = chance_average_precision(np.array([0, 5]), 5, empty=empty)
    np.testing.assert_equal(got[0], value)
    assert got[1] == pytest.approx(1.0)


def test_expected_value_of_a_large_level_matches_sampled_orders() -> None:
    generator = np.random.default_rng(5)
    relevant = (generator.random(300) < 0.2).astype(int).tolist()
    far = generator.integers(0, 3, 300).tolist()
    sampled = []
    for _ in range(2000):
        order = np.lexsort((generator.random(300), far))
        sampled.append(precision_of_order([relevant[row] for row in order], 50))
    error = np.std(sampled) / np.sqrt(len(sampled))
    assert score(far, relevant, "expected", 50) == pytest.approx(np.mean(sampled), abs=5 * error)
