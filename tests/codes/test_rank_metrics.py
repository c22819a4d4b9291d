"""Metrics of distance histograms against every order that the ties allow."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings, strategies as st
from sklearn.metrics import ndcg_score
from torch import tensor
from torchmetrics.functional.retrieval import (
    retrieval_normalized_dcg,
    retrieval_precision,
    retrieval_recall,
)

from advhash.codes import HashCodes
from advhash.codes.hamming import DistanceHistograms, histograms
from advhash.codes.metrics import (
    PUBLISHED,
    Convention,
    LevelTies,
    average_precision,
    normalised_gain,
    precision_at,
    precision_recall_curve,
    precision_within,
    published_average_precision,
    recall_at,
    recall_ceiling,
)
from advhash.errors import DataError

Ranking = list[tuple[int, int]]  # (distance, 0 or 1) of every database row
rankings = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=6)
cuts = st.integers(1, 8)
KINDS: list[LevelTies] = ["expected", "optimistic", "pessimistic"]


def counts_of(ranking: Ranking, levels: int = 5) -> DistanceHistograms:
    total = np.zeros((1, levels), np.int64)
    relevant = np.zeros_like(total)
    for far, hit in ranking:
        total[0, far] += 1
        relevant[0, far] += hit
    return DistanceHistograms(total, relevant)


def orders(ranking: Ranking) -> list[list[int]]:
    """The hits along every ranking that the distances allow."""
    levels = [
        [hit for far, hit in ranking if far == level]
        for level in sorted({far for far, _ in ranking})
    ]
    return [
        [hit for part in parts for hit in part]
        for parts in itertools.product(*(itertools.permutations(level) for level in levels))
    ]


def check(
    ranking: Ranking, measure: Callable[[list[int]], float], got: Callable[[LevelTies], float]
) -> None:
    slow = [measure(hits) for hits in orders(ranking)]
    assert got("expected") == pytest.approx(np.mean(slow), abs=1e-12)
    assert got("optimistic") == pytest.approx(max(slow), abs=1e-12)
    assert got("pessimistic") == pytest.approx(min(slow), abs=1e-12)


def precision_of(hits: list[int], cut: int | None) -> float:
    found = [rank for rank, hit in enumerate(hits[:cut], start=1) if hit]
    possible = min(sum(hits), cut or len(hits))
    return sum(place / rank for place, rank in enumerate(found, start=1)) / max(1, possible)


@settings(max_examples=200, deadline=None)
@given(rankings, st.one_of(st.none(), cuts))
def test_average_precision(ranking: Ranking, cut: int | None) -> None:
    counts = counts_of(ranking)
    check(
        ranking,
        lambda hits: precision_of(hits, cut),
        lambda ties: float(average_precision(counts, ties=ties, top_k=cut)[0]),
    )


@settings(max_examples=150, deadline=None)
@given(rankings, cuts)
def test_precision_at_k(ranking: Ranking, cut: int) -> None:
    counts = counts_of(ranking)
    check(
        ranking,
        lambda hits: sum(hits[:cut]) / min(cut, len(hits)),
        lambda ties: float(precision_at(counts, cut, ties=ties)[0]),
    )


@settings(max_examples=150, deadline=None)
@given(rankings, cuts)
def test_recall_at_k(ranking: Ranking, cut: int) -> None:
    counts = counts_of(ranking)
    check(
        ranking,
        lambda hits: sum(hits[:cut]) / max(1, sum(hits)),
        lambda ties: float(recall_at(counts, cut, ties=ties)[0]),
    )


def gain_of(hits: list[int], cut: int | None) -> float:
    def discounted(row: list[int]) -> float:
        return float(sum(hit / np.log2(rank + 1) for rank, hit in enumerate(row[:cut], start=1)))

    best = discounted(sorted(hits, reverse=True))
    return discounted(hits) / best if best else 0.0


@settings(max_examples=150, deadline=None)
@given(rankings, st.one_of(st.none(), cuts))
def test_normalised_gain(ranking: Ranking, cut: int | None) -> None:
    counts = counts_of(ranking)
    check(
        ranking,
        lambda hits: gain_of(hits, cut),
        lambda ties: float(normalised_gain(counts, ties=ties, top_k=cut)[0]),
    )


def tie_free(seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], DistanceHistograms]:
    generator = np.random.default_rng(seed)
    far = generator.permutation(60)[:40]
    hit = (generator.random(40) < 0.3).astype(np.int64)
    return far, hit, counts_of(list(zip(far.tolist(), hit.tolist(), strict=True)), 61)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("cut", [1, 7, 40])
@pytest.mark.parametrize("ties", KINDS)
def test_tie_free_rankings_equal_torchmetrics_and_sklearn(
    seed: int, cut: int, ties: LevelTies
) -> None:
    far, hit, counts = tie_free(seed)
    closeness, wanted = tensor(100.0 - far), tensor(hit)
    assert precision_at(counts, cut, ties=ties)[0] == pytest.approx(
        float(retrieval_precision(closeness, wanted, top_k=cut)), abs=1e-6
    )
    assert recall_at(counts, cut, ties=ties)[0] == pytest.approx(
        float(retrieval_recall(closeness, wanted, top_k=cut)), abs=1e-6
    )
    gain = normalised_gain(counts, ties=ties, top_k=cut)[0]
    assert gain == pytest.approx(
        float(retrieval_normalized_dcg(closeness, wanted, top_k=cut)), abs=1e-6
    )
    assert gain == pytest.approx(ndcg_score([hit], [100.0 - far], k=cut), abs=1e-12)


def test_precision_within_a_radius_is_zero_where_nothing_is_found() -> None:
    counts = DistanceHistograms(
        np.array([[1, 2, 1, 4], [0, 0, 0, 8]]), np.array([[1, 0, 1, 4], [0, 0, 0, 8]])
    )
    assert precision_within(counts).tolist() == [0.5, 0.0]
    assert precision_within(counts, 0).tolist() == [1.0, 0.0]
    assert precision_within(counts, 99).tolist() == [0.75, 1.0]
    with pytest.raises(ValueError, match="radius >= 0"):
        precision_within(counts, -1)


def test_the_curve_goes_through_every_radius() -> None:
    counts = DistanceHistograms(
        np.array([[1, 1, 2], [0, 4, 0], [2, 2, 0]]), np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0]])
    )
    precision, recall = precision_recall_curve(counts)
    assert precision == pytest.approx([(1 + 0 + 0) / 3, (0.5 + 0.25 + 0) / 3, (0.5 + 0.25) / 3])
    assert recall == pytest.approx([0.5 / 3, 1.5 / 3, 2 / 3])
    precision, recall = precision_recall_curve(counts, empty="skip")
    assert precision == pytest.approx([0.5, 0.375, 0.375])
    assert recall == pytest.approx([0.25, 0.75, 1.0])
    with pytest.raises(DataError, match="1 of 3 queries"):
        precision_recall_curve(counts, empty="error")


def test_a_curve_over_no_query_that_counts_has_no_values() -> None:
    counts = DistanceHistograms(np.array([[3, 1]]), np.array([[0, 0]]))
    assert np.isnan(precision_recall_curve(counts, empty="skip")).all()


@pytest.mark.parametrize("measure", [recall_at, lambda *a, **k: normalised_gain(*a[:1], **k)])
def test_queries_without_a_relevant_row_follow_the_rule(
    measure: Callable[..., npt.NDArray[np.float64]],
) -> None:
    counts = DistanceHistograms(np.array([[2, 2]]), np.array([[0, 0]]))
    assert measure(counts, 2).tolist() == [0.0]
    assert np.isnan(measure(counts, 2, empty="skip")).all()
    with pytest.raises(DataError, match="1 of 1 queries"):
        measure(counts, 2, empty="error")


def test_histograms_of_ten_million_rows_keep_their_precision() -> None:
    """Harmonic numbers come from digamma: a table of 10⁷ would take 80 MB and add its errors up."""
    total = np.array([[3_000_000, 1, 4_000_000, 2_999_999]])
    relevant = np.array([[1_000_000, 1, 10, 0]])
    got = float(average_precision(DistanceHistograms(total, relevant))[0])
    exact = 0.0
    before = hits = 0
    for rows, wanted in zip(total[0].tolist(), relevant[0].tolist(), strict=True):
        ranks = np.arange(1, rows + 1, dtype=np.longdouble)
        slope = np.longdouble(wanted - 1) / max(rows - 1, 1)
        inner = (hits + 1 + (ranks - 1) * slope) / (before + ranks)
        exact += float(np.longdouble(wanted) / rows * inner.sum())
        before, hits = before + rows, hits + wanted
    assert got == pytest.approx(exact / relevant.sum(), rel=1e-12)


class TestPublishedConventions:
    """Against their own definitions, written out as loops."""

    generator = np.random.default_rng(7)
    query = HashCodes.pack(generator.random((12, 8)) < 0.5)
    database = HashCodes.pack(generator.random((90, 8)) < 0.5)
    labels = (generator.random((12, 6)) < 0.2).astype(np.uint8)
    owned = (generator.random((90, 6)) < 0.08).astype(np.uint8)

    def ranked(self) -> list[npt.NDArray[np.bool_]]:
        rows = []
        for bits, wanted in zip(self.query.unpack(), self.labels, strict=True):
            far = (bits != self.database.unpack()).sum(axis=1)
            order = np.argsort(far, kind="stable")
            rows.append((wanted @ self.owned.T > 0)[order])
        return rows

    def test_prosgan_counts_every_query(self) -> None:
        total = 0.0
        for hit in self.ranked():
            if hit.sum() == 0:
                continue
            places = np.where(hit)[0] + 1.0
            total += float(np.mean(np.linspace(1, len(places), len(places)) / places))
        got = published_average_precision(
            "prosgan", self.query, self.database, self.labels, self.owned
        )
        assert got.mean() == pytest.approx(total / len(self.query), abs=1e-12)

    @pytest.mark.parametrize("cut", [1, 3, 20])
    def test_deephash_divides_by_the_hits_within_k(self, cut: int) -> None:
        total = 0.0
        for hit in self.ranked():
            first = hit[:cut]
            if first.sum() == 0:
                continue
            places = np.where(first)[0] + 1.0
            total += float(np.mean(np.arange(1, len(places) + 1) / places))
        got = published_average_precision(
            "deephash", self.query, self.database, self.labels, self.owned, top_k=cut
        )
        assert got.mean() == pytest.approx(total / len(self.query), abs=1e-12)

    @pytest.mark.parametrize("cut", [1, 3, 20])
    def test_dhta_drops_queries_without_a_hit(self, cut: int) -> None:
        values = []
        for hit in self.ranked():
            first = hit[:cut]
            if first.sum():
                places = np.where(first)[0] + 1.0
                values.append(float(np.mean(np.arange(1, len(places) + 1) / places)))
        got = published_average_precision(
            "dhta", self.query, self.database, self.labels, self.owned, top_k=cut
        )
        assert 0 < len(values) <= len(self.query)
        assert np.nanmean(got) == pytest.approx(np.mean(values), abs=1e-12)
        assert np.isnan(got).sum() == len(self.query) - len(values)

    def test_trap_21_they_punish_a_second_hit(self) -> None:
        """[+−+−] and [+−−−]: why they are no default."""
        query = HashCodes.pack(np.zeros((1, 4)))
        database = HashCodes.pack([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]])
        hot = np.ones((1, 1), np.uint8)
        two, one = (
            np.array([[1], [0], [1], [0]], np.uint8),
            np.array([[1], [0], [0], [0]], np.uint8),
        )
        for convention in ("deephash", "dhta"):
            higher, lower = (
                published_average_precision(convention, query, database, hot, owned, top_k=4)[0]
                for owned in (one, two)
            )
            assert higher == 1.0
            assert lower == pytest.approx(5 / 6)

    @pytest.mark.parametrize(
        ("convention", "cut"), [("prosgan", 5), ("dhta", None), ("deephash", None)]
    )
    def test_a_cut_that_the_code_has_not_is_refused(
        self, convention: Convention, cut: int | None
    ) -> None:
        with pytest.raises(ValueError, match=f"convention '{convention}'"):
            published_average_precision(
                convention, self.query, self.database, self.labels, self.owned, top_k=cut
            )

    def test_each_is_described(self) -> None:
        assert set(PUBLISHED) == {"prosgan", "dhta", "deephash"}


def test_a_shuffled_database_changes_not_one_bit_of_any_metric() -> None:
    generator = np.random.default_rng(0)
    query, database = (HashCodes.pack(generator.random((n, 10)) < 0.5) for n in (5, 300))
    labels, owned = ((generator.random((n, 4)) < 0.3).astype(np.uint8) for n in (5, 300))
    order = generator.permutation(300)

    def values(rows: npt.NDArray[np.int64]) -> list[list[float]]:
        counts = histograms(query, database[rows], labels, owned[rows])
        return [
            average_precision(counts).tolist(),
            average_precision(counts, top_k=7).tolist(),
            precision_at(counts, 7).tolist(),
            recall_at(counts, 7).tolist(),
            normalised_gain(counts).tolist(),
            precision_within(counts).tolist(),
        ]

    assert values(np.arange(300)) == values(order)


def sure_ranks(levels: list[tuple[int, int]], ties: LevelTies, needed: int) -> bool:
    """Whether each of the first ranks holds a relevant row, laid out row by row."""
    row: list[bool] = []
    for rows, relevant in levels:
        hits = [True] * relevant + [ties == "expected" and relevant == rows] * (rows - relevant)
        if ties == "expected" and relevant < rows:
            hits = [False] * rows  # none of them is sure
        row += hits[::-1] if ties == "pessimistic" else hits
    return all(row[:needed])


@pytest.mark.parametrize("ties", KINDS)
@given(
    levels=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=9),
    pure=st.integers(0, 9),
    cut=st.one_of(st.none(), st.integers(1, 200)),
)
@settings(max_examples=200, deadline=None)
def test_a_ranking_scores_one_exactly_if_it_is_perfect(
    ties: LevelTies, levels: list[tuple[int, int]], pure: int, cut: int | None
) -> None:
    """Sums of harmonic numbers said 0.9999999999999996 of one, or 1.0000000000000002."""
    found = [(rows, rows if level < pure else 0) for level, (rows, _) in enumerate(levels)]
    if pure < len(levels):
        found[pure] = (levels[pure][0], min(levels[pure]))  # the first that may hold others
    total, relevant = (np.array([column]) for column in zip(*found, strict=True))
    count = int(relevant.sum())
    if not count:
        return
    needed = min(count, cut or count)
    perfect = sure_ranks(found, ties, needed)
    for measure in (average_precision, normalised_gain):
        value = measure(DistanceHistograms(total, relevant), ties=ties, top_k=cut)[0]
        assert (value == 1.0) == perfect, f"{measure.__name__} {value!r}"
        assert 0 <= value <= 1


def test_the_ends_of_a_measure_are_reached() -> None:
    """By 400 rankings of 60,000 rows, and by their mean."""
    generator = np.random.default_rng(0)
    total = generator.multinomial(60_000, generator.dirichlet(np.ones(65)), 400)
    pure = np.arange(65) < generator.integers(9, 65, (400, 1))
    counts = DistanceHistograms(total, total * pure)
    for values in (average_precision(counts), normalised_gain(counts), recall_at(counts, 60_000)):
        assert values.tolist() == [1.0] * 400
        assert values.mean() == 1.0
    mixed = DistanceHistograms(total, generator.integers(0, total + 1))
    assert recall_at(mixed, 60_000).tolist() == [1.0] * 400


def test_recall_reaches_its_ceiling_where_relevant_rows_come_first() -> None:
    total, relevant = np.array([[30, 70], [4, 96]]), np.array([[30, 0], [4, 0]])
    counts = DistanceHistograms(total, relevant)
    ceiling = recall_ceiling(counts, 10)
    assert ceiling.tolist() == [10 / 30, 1.0]
    assert recall_at(counts, 10) == pytest.approx(ceiling)
    worse = DistanceHistograms(total, np.array([[10, 20], [1, 3]]))
    assert (recall_at(worse, 10) < recall_ceiling(worse, 10)).all()
