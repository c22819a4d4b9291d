"""Labels, identities, graded pairs and neighbours are one contract; NDCG by brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import ndcg_score

from advhash.codes import HashCodes, relevance as module
from advhash.codes.hamming import DistanceHistograms, histograms
from advhash.codes.metrics import (
    LevelGains,
    average_precision,
    graded_gain,
    graded_recall,
    normalised_gain,
    recall_at,
)
from advhash.codes.relevance import (
    GradedPairs,
    Relevance,
    SharedLabels,
    float_neighbours,
    identities,
)


def judged(
    relevance: Relevance, query: HashCodes, database: HashCodes, labels: HashCodes | None = None
) -> tuple[DistanceHistograms, LevelGains | None]:
    owned = labels or HashCodes.pack(np.zeros((len(database), 1)))
    counts = histograms(query, database, relevance.kernel_labels(owned.bits), owned)
    return relevance.judged(counts, query, database)


def codes(rows: int, seed: int, bits: int = 5) -> HashCodes:
    return HashCodes.pack(np.random.default_rng(seed).random((rows, bits)) < 0.5)


def graded(query: int, rows: int, seed: int) -> tuple[GradedPairs, npt.NDArray[np.float64]]:
    """Pairs in no order, and the matrix (N,M) of their grades."""
    generator = np.random.default_rng(seed)
    matrix = generator.integers(-1, 4, (query, rows)) * (generator.random((query, rows)) < 0.6)
    at, row = np.nonzero(matrix)
    order = generator.permutation(len(at))
    return (
        GradedPairs.of(query, at[order], row[order], matrix[at, row][order]),
        np.maximum(matrix, 0).astype(float),
    )


def gain(grades: npt.NDArray[np.float64], cut: int) -> float:
    return sum(float(grade) / math.log2(2 + rank) for rank, grade in enumerate(grades[:cut]))


@pytest.mark.parametrize("cut", [1, 3, 6, 10])
@pytest.mark.parametrize("seed", range(4))
def test_ndcg_with_ties_is_the_mean_over_all_orders(seed: int, cut: int) -> None:
    """Six rows at few distances: every permutation that sorts by distance is tried."""
    query, database = codes(3, seed, bits=2), codes(6, seed + 10, bits=2)
    pairs, matrix = graded(3, 6, seed)
    counts, gains = judged(pairs, query, database)
    assert gains is not None
    far = (query.unpack()[:, None] != database.unpack()[None]).sum(axis=2)
    expected = []
    for distance, grades in zip(far, matrix, strict=True):
        best = gain(np.sort(grades)[::-1], cut)
        orders = [
            order
            for order in map(list, itertools.permutations(range(6)))
            if (np.diff(distance[order]) >= 0).all()
        ]
        values = [gain(grades[order], cut) / best if best else 0.0 for order in orders]
        expected.append(np.mean(values))
    assert graded_gain(counts, gains, top_k=cut) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("cut", [1, 10, 60])
def test_ndcg_with_ties_is_that_of_scikit_learn(cut: int) -> None:
    query, database = codes(20, 0, bits=12), codes(300, 1, bits=12)
    pairs, matrix = graded(20, 300, 2)
    counts, gains = judged(pairs, query, database)
    assert gains is not None
    far = (query.unpack()[:, None] != database.unpack()[None]).sum(axis=2)
    expected = [
        ndcg_score(grades[None], -distance[None], k=cut)
        for grades, distance in zip(matrix, far, strict=True)
    ]
    assert graded_gain(counts, gains, top_k=cut) == pytest.approx(expected, abs=1e-12)


def test_ndcg_is_that_of_trec_eval() -> None:
    """Documents with grades 3, 2, 3, 0, 1, 2 in the order of their distances.

    DCG@5 = 3 + 2/log2 3 + 3/2 + 0 + 1/log2 6 = 6.148712; IDCG@5 of 3, 3, 2, 2, 1 = 3 + 3/log2 3
    + 2/2 + 2/log2 5 + 1/log2 6 = 7.140995: 0.861044. At 3: 5.761860 / 5.892789 = 0.977781.
    """
    bits = 8
    far = [1, 2, 3, 4, 5, 6]
    database = HashCodes.pack(np.arange(bits) < np.array(far)[:, None])
    query = HashCodes.pack(np.zeros((1, bits)))
    pairs = GradedPairs.of(1, [0] * 5, [0, 1, 2, 4, 5], [3, 2, 3, 1, 2])
    counts, gains = judged(pairs, query, database)
    assert gains is not None
    assert graded_gain(counts, gains, top_k=5)[0] == pytest.approx(0.861044, abs=1e-6)
    assert graded_gain(counts, gains, top_k=3)[0] == pytest.approx(0.977781, abs=1e-6)
    # recall_5 and the average precision over ranks 1, 2, 3, 5, 6 (relevant: a grade above 0)
    assert recall_at(counts, 5)[0] == pytest.approx(4 / 5)
    assert average_precision(counts)[0] == pytest.approx((1 + 1 + 1 + 4 / 5 + 5 / 6) / 5)


def test_a_perfect_order_scores_exactly_1() -> None:
    generator = np.random.default_rng(0)
    grades = np.sort(generator.integers(1, 9, 60))[::-1]
    database = HashCodes.pack(np.arange(64) < np.arange(60)[:, None])
    query = HashCodes.pack(np.zeros((1, 64)))
    pairs = GradedPairs.of(1, np.zeros(60, int), np.arange(60), grades)
    counts, gains = judged(pairs, query, database)
    assert gains is not None
    for cut in (None, 1, 7, 60, 100):
        assert graded_gain(counts, gains, top_k=cut)[0] == 1.0
    worse = GradedPairs.of(1, np.zeros(60, int), np.arange(60), grades[::-1])
    counts, gains = judged(worse, query, database)
    assert gains is not None
    assert graded_gain(counts, gains)[0] < 1


def test_grades_of_1_give_the_figures_of_labels() -> None:
    """One contract: labels, and the pairs that they stand for."""
    query, database = codes(30, 1, bits=70), codes(200, 2, bits=70)
    wanted, owned = codes(30, 3, bits=6), codes(200, 4, bits=6)
    shared = (wanted.unpack()[:, None] & owned.unpack()[None]).any(axis=2)
    at, row = np.nonzero(shared)
    pairs = GradedPairs.of(30, at, row, np.ones(len(at)))
    by_labels, none = judged(SharedLabels(wanted), query, database, owned)
    by_pairs, gains = judged(pairs, query, database, owned)
    assert none is None
    assert gains is not None
    assert np.array_equal(by_labels.total, by_pairs.total)
    assert np.array_equal(by_labels.relevant, by_pairs.relevant)
    for cut in (None, 10):
        assert graded_gain(by_pairs, gains, top_k=cut) == pytest.approx(
            normalised_gain(by_labels, top_k=cut), abs=1e-12
        )
    assert graded_recall(by_pairs, gains, 10) == pytest.approx(recall_at(by_labels, 10))


def test_identities_give_the_figures_of_one_column_each() -> None:
    generator = np.random.default_rng(0)
    asked, known = generator.integers(0, 12, 20), generator.integers(0, 10, 90)
    query, database = codes(20, 1), codes(90, 2)
    hot = [HashCodes.pack(np.eye(12, dtype=bool)[numbers]) for numbers in (asked, known)]
    by_labels, _ = judged(SharedLabels(hot[0]), query, database, hot[1])
    by_pairs, _ = judged(GradedPairs.of_identities(asked, known), query, database)
    assert np.array_equal(by_labels.relevant, by_pairs.relevant)
    assert (by_labels.relevant_rows == 0).any()  # identities that the database has not


def test_class_numbers_are_identities_where_they_are_many_of_few_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = np.arange(5000)
    pairs = identities(np.array([7, 4999, 6000]), known)
    assert pairs is not None
    assert (pairs.starts.tolist(), pairs.rows.tolist()) == ([0, 1, 2, 2], [7, 4999])
    assert identities(np.array([7]), known[:4000]) is None
    monkeypatch.setattr(module, "_MOST_PAIRS", 1)
    assert identities(np.array([7, 4999]), known) is None


def test_a_query_without_a_relevant_row_follows_the_rule() -> None:
    query, database = codes(2, 1), codes(9, 2)
    pairs = GradedPairs.of(2, [0, 1, 1], [3, 4, 5], [2, 0, -1])
    counts, gains = judged(pairs, query, database)
    assert gains is not None
    assert counts.relevant_rows.tolist() == [1, 0]
    assert graded_gain(counts, gains).tolist()[1] == 0
    assert np.isnan(graded_gain(counts, gains, empty="skip")[1])


def test_pairs_are_counted_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    query, database = codes(7, 1, 130), codes(50, 2, 130)
    pairs, _ = graded(7, 50, 0)
    whole, _ = judged(pairs, query, database)
    monkeypatch.setattr("advhash.codes.hamming._FAR_PAIRS", 3)
    parts, _ = judged(pairs, query, database)
    assert np.array_equal(whole.relevant, parts.relevant)


def test_pairs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="expected ascending starts"):
        GradedPairs(np.array([0, 2]), np.array([1]), np.array([1.0]))


class TestNeighbours:
    @pytest.mark.parametrize("similarity", ["cosine", "dot"])
    @pytest.mark.parametrize("block", [1 << 25, 100])
    def test_they_are_the_nearest_rows(
        self, monkeypatch: pytest.MonkeyPatch, similarity: module.Similarity, block: int
    ) -> None:
        monkeypatch.setattr(module, "_SIMILARITIES", block)
        generator = np.random.default_rng(0)
        query, database = generator.normal(size=(9, 8)), generator.normal(size=(60, 8))
        near = query @ database.T
        if similarity == "cosine":
            near /= np.linalg.norm(database, axis=1)
        wanted = np.sort(np.argsort(-near, axis=1)[:, :10], axis=1)
        pairs = float_neighbours(query, database, 10, similarity)
        assert pairs.rows.reshape(9, 10).tolist() == wanted.tolist()
        assert (pairs.grades == 1).all()

    def test_recall_is_the_mean_over_the_orders_of_both_rankings(self) -> None:
        """Two of three equal floats are among the first three; the codes tie as well."""
        database = np.array([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8], [0.6, 0.8], [-1.0, 0.0]])
        bits = HashCodes.pack([[1, 1], [1, 0], [1, 1], [0, 0], [0, 0]])
        query, code = np.array([[1.0, 0.0]]), HashCodes.pack([[1, 1]])
        counts, gains = judged(float_neighbours(query, database, 3), code, bits)
        assert gains is not None
        pairs = list(itertools.combinations((1, 2, 3), 2))
        # rows 0 and 2 lie at distance 0, row 1 at 1, then 3 or 4
        three = [len({0, 2, 1} & {0, *two}) / 3 for two in pairs]
        four = [len({0, 2, 1, last} & {0, *two}) / 3 for two in pairs for last in (3, 4)]
        assert graded_recall(counts, gains, 3)[0] == pytest.approx(np.mean(three))
        assert graded_recall(counts, gains, 4)[0] == pytest.approx(np.mean(four))

    def test_more_than_there_are_is_refused(self) -> None:
        with pytest.raises(ValueError, match="expected at least 3 rows of 2 dimensions"):
            float_neighbours(np.ones((1, 2)), np.ones((2, 2)), 3)
