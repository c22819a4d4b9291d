"""Intervals: against scipy, against a second implementation, and where there is none."""

from __future__ import annotations

from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings, strategies as st
from scipy.stats import beta, bootstrap, kstest, norm, permutation_test

from advhash.measures.hierarchical import (
    crossed_mean,
    crossed_ratio,
    hierarchical_mean,
    hierarchical_rate,
)
from advhash.measures.intervals import (
    CONFIDENCE,
    PERMUTATIONS,
    RESAMPLES,
    Difference,
    Metric,
    holm,
    mean_metric,
    paired_difference,
    rate_metric,
    ratio_metric,
    ratio_of_means,
    single_metric,
)

SKEWED = np.random.default_rng(0).exponential(size=60)


def bca_by_hand(values: npt.NDArray[np.float64], resamples: int) -> tuple[float, float]:
    """Efron 1987 for the mean, written out."""
    generator = np.random.default_rng(99)
    n = len(values)
    means = np.sort(values[generator.integers(0, n, (resamples, n))].mean(axis=1))
    bias = norm.ppf((means < values.mean()).mean())
    left_out = (values.sum() - values) / (n - 1)
    spread = left_out.mean() - left_out
    acceleration = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
    bounds = []
    for tail in (0.025, 0.975):
        z = bias + norm.ppf(tail)
        share = norm.cdf(bias + z / (1 - acceleration * z))
        bounds.append(float(np.quantile(means, share)))
    return bounds[0], bounds[1]


def test_interval_of_a_mean_is_scipys_bca_with_the_same_seed() -> None:
    expected = bootstrap(
        (SKEWED,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(4),
        batch=500,
    ).confidence_interval
    metric = mean_metric(SKEWED, seed=4)
    assert (metric.low, metric.high) == (expected.low, expected.high)
    assert metric.value == SKEWED.mean()
    assert metric.n == 60


def test_interval_of_a_mean_agrees_with_the_formula_written_out() -> None:
    low, high = bca_by_hand(SKEWED, 40_000)
    metric = mean_metric(SKEWED, seed=1)
    tolerance = 0.05 * (high - low)
    assert metric.low == pytest.approx(low, abs=tolerance)
    assert metric.high == pytest.approx(high, abs=tolerance)
    assert metric.high - metric.value > metric.value - metric.low  # skewed as the data are


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    covered = 0
    for seed in range(60):
        metric = mean_metric(generator.random(40), seed)
        assert metric.low is not None
        assert metric.high is not None
        covered += metric.low <= 0.5 <= metric.high
    assert 51 <= covered < 60


@pytest.mark.parametrize(("hits", "count"), [(0, 60), (60, 60), (57, 60), (1, 1), (1, 2)])
def test_the_interval_of_a_rate_is_that_of_the_beta_quantiles(hits: int, count: int) -> None:
    """Clopper and Pearson: where each tail of the binomial distribution has 2.5 %."""
    found = rate_metric(np.repeat([1, 0], [hits, count - hits]), seed=0)
    low = beta.ppf(0.025, hits, count - hits + 1) if hits else 0.0
    high = beta.ppf(0.975, hits + 1, count - hits) if hits < count else 1.0
    assert (found.value, found.n) == (hits / count, count)
    assert found.low == pytest.approx(low, abs=1e-6)
    assert found.high == pytest.approx(high, abs=1e-6)


def test_rates_keep_a_width_at_their_ends_and_nothing_else_is_a_rate() -> None:
    assert mean_metric(np.ones(300), seed=0).low == 1  # what a rate must not say
    assert rate_metric(np.ones(300), seed=0).low == pytest.approx(0.025 ** (1 / 300))
    assert rate_metric([1, np.nan, 0], seed=0).n == 2
    shared = [0.0, 0.5, 1.0, 1.0, 0.0, 0.25]
    assert rate_metric(shared, seed=3) == mean_metric(shared, seed=3)
    assert rate_metric([], seed=0) == mean_metric([], seed=0)
    with pytest.raises(ValueError, match="expected outcomes in"):
        rate_metric([0.0, 2.0], seed=0)


@pytest.mark.parametrize("seed", [0, 2**62])
def test_only_the_seed_decides_over_chance(seed: int) -> None:
    state = np.random.get_state()[1].copy()
    assert mean_metric(SKEWED, seed) == mean_metric(SKEWED, seed)
    assert mean_metric(SKEWED, seed) != mean_metric(SKEWED, seed + 1)
    assert np.array_equal(np.random.get_state()[1], state)


def test_nan_rows_are_left_out_and_not_counted() -> None:
    holes = np.insert(SKEWED, [0, 7, 60], np.nan)
    assert mean_metric(holes, 3) == mean_metric(SKEWED, 3)


@pytest.mark.parametrize(
    ("values", "metric"),
    [
        ([], Metric()),
        ([np.nan, np.nan], Metric()),
        ([0.25], Metric(0.25, None, None, 1)),
        ([0.25, np.nan], Metric(0.25, None, None, 1)),
        ([0.5] * 9, Metric(0.5, 0.5, 0.5, 9)),
        ([0.5, np.inf], Metric(n=2)),
        ([-np.inf, np.inf], Metric(n=2)),
    ],
    ids=["none", "all-nan", "one", "one-left", "equal", "infinite", "both-infinite"],
)
def test_degenerate_means_have_no_made_up_interval(values: list[float], metric: Metric) -> None:
    assert mean_metric(values, 0) == metric


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.5] * 50 + [0.5 + 1e-16], [0.0] * 99 + [1.0]])
def test_nearly_degenerate_means_give_finite_ordered_bounds_or_none(values: list[float]) -> None:
    metric = mean_metric(values, 0)
    assert metric.value == pytest.approx(np.mean(values))
    if metric.low is not None:
        assert metric.low <= metric.high
        assert np.isfinite([metric.low, metric.high]).all()


class TestRatio:
    """Queries of very different difficulty, of whose way to the ceiling half is covered."""

    generator = np.random.default_rng(7)
    floor = generator.random(80) * 0.6
    ceiling = floor + 0.1 + generator.random(80) * 0.6
    value = floor + 0.5 * (ceiling - floor) + generator.normal(0, 1e-3, 80)

    def test_it_is_a_ratio_of_means_not_a_mean_of_ratios(self) -> None:
        metric = ratio_metric(np.array([0.4, 0.2]), np.array([0.0, 0.1]), np.array([0.8, 0.2]), 0)
        assert metric.value == pytest.approx((0.3 - 0.05) / (0.5 - 0.05))
        assert metric.value != pytest.approx((0.4 / 0.8 + 1) / 2)

    def test_the_three_are_resampled_together(self) -> None:
        """Resampled apart, the interval would be some 0.3 wide."""
        metric = ratio_metric(self.value, self.floor, self.ceiling, 0)
        assert metric.value == pytest.approx(0.5, abs=0.005)
        assert metric.low <= metric.value <= metric.high
        assert 1e-4 < metric.high - metric.low < 0.01

    def test_its_interval_is_scipys_with_the_same_seed(self) -> None:
        def statistic(v: object, f: object, c: object) -> float:
            return (np.mean(v) - np.mean(f)) / (np.mean(c) - np.mean(f))

        expected = bootstrap(
            (self.value, self.floor, self.ceiling),
            statistic,
            paired=True,
            vectorized=False,
            n_resamples=RESAMPLES,
            confidence_level=CONFIDENCE,
            method="BCa",
            rng=np.random.default_rng(5),
            batch=500,
        ).confidence_interval
        metric = ratio_metric(self.value, self.floor, self.ceiling, 5)
        assert metric.low == pytest.approx(expected.low, abs=1e-12)
        assert metric.high == pytest.approx(expected.high, abs=1e-12)

    def test_a_nan_in_one_leaves_the_row_out_of_all_three(self) -> None:
        value, floor, ceiling = (
            np.append(x, x[:3]) for x in (self.value, self.floor, self.ceiling)
        )
        value[80] = floor[81] = ceiling[82] = np.nan
        whole = ratio_metric(self.value, self.floor, self.ceiling, 1)
        assert ratio_metric(value, floor, ceiling, 1) == whole
        assert whole.n == 80

    def test_no_room_above_the_floor_means_no_value(self) -> None:
        assert ratio_metric(self.value, self.floor, self.floor, 0) == Metric(n=80)
        assert ratio_metric(self.value, self.ceiling, self.floor, 0) == Metric(n=80)

    def test_no_rows_mean_no_value(self) -> None:
        none = np.array([])
        assert ratio_metric(none, none, none, 0) == Metric()
        assert ratio_metric(np.array([np.nan]), np.array([0.0]), np.array([1.0]), 0) == Metric()

    def test_one_row_has_a_value_and_no_interval(self) -> None:
        metric = ratio_metric(np.array([0.5]), np.array([0.0]), np.array([1.0]), 0)
        assert metric == Metric(value=0.5, n=1)

    def test_resamples_without_room_leave_no_interval_rather_than_a_wild_one(self) -> None:
        floor, ceiling = np.array([0.0, 0.5]), np.array([1.0, 0.4])
        metric = ratio_metric(np.array([0.5, 0.5]), floor, ceiling, 0)
        assert metric == Metric(value=pytest.approx(0.25 / 0.45), n=2)

    def test_it_is_the_ratio_of_means_of_the_two_distances(self) -> None:
        above, below = self.value - self.floor, self.ceiling - self.floor
        assert ratio_metric(self.value, self.floor, self.ceiling, 3) == ratio_of_means(
            above, below, 3
        )


def test_a_share_of_seconds_is_a_ratio_of_means() -> None:
    part, whole = np.array([1.0, 2.0, 3.0, np.nan]), np.array([2.0, 8.0, 10.0, 5.0])
    metric = ratio_of_means(part, whole, 0)
    assert (metric.value, metric.n) == (6 / 20, 3)
    assert 0.25 <= metric.low < 0.3 < metric.high <= 0.5


def test_a_ratio_that_no_resample_changes_is_known_exactly() -> None:
    whole = np.random.default_rng(1).random(50)
    assert ratio_of_means(0.3 * whole, whole, 0) == Metric(*[pytest.approx(0.3)] * 3, n=50)
    assert ratio_of_means(0 * whole, whole, 0) == Metric(0.0, 0.0, 0.0, 50)
    assert ratio_metric(whole + 1, whole, whole + 1, 0).low == 1.0


def test_ratios_without_a_value() -> None:
    assert ratio_of_means([1.0, 2.0], [1.0, -1.0], 0) == Metric(n=2)
    assert ratio_of_means([1.0, np.inf], [1.0, 1.0], 0) == Metric(n=2)
    assert ratio_of_means([], [], 0) == Metric()
    with pytest.raises(ValueError, match="equal length"):
        ratio_of_means([1.0], [1.0, 2.0], 0)


def sign_flip_p_by_hand(differences: list[float]) -> float:
    """The share of all 2ⁿ sign patterns whose sum lies at least as far from 0."""
    observed = abs(sum(differences)) - 1e-9
    sums = [
        abs(sum(sign * d for sign, d in zip(signs, differences, strict=True)))
        for signs in product((1, -1), repeat=len(differences))
    ]
    return sum(total >= observed for total in sums) / len(sums)


class TestPaired:
    """Two methods on the same queries, whose difficulty varies far more than the methods differ."""

    generator = np.random.default_rng(11)
    second = generator.random(80)
    first = second + 0.02 + generator.normal(0, 0.05, 80)

    def test_value_and_interval_are_those_of_the_mean_difference(self) -> None:
        found = paired_difference(self.first, self.second, 4)
        expected = mean_metric(self.first - self.second, 4)
        assert (found.value, found.low, found.high, found.n) == (
            expected.value, expected.low, expected.high, 80,
        )  # fmt: skip

    def test_it_sees_what_overlapping_intervals_hide(self) -> None:
        one, other = mean_metric(self.first, 0), mean_metric(self.second, 0)
        assert one.low < other.high  # they overlap widely
        found = paired_difference(self.first, self.second, 0)
        assert found.low > 0
        assert found.p < 0.01

    def test_order_turns_the_sign_only(self) -> None:
        one = paired_difference(self.first, self.second, 0)
        other = paired_difference(self.second, self.first, 0)
        assert other.value == -one.value
        assert other.low == pytest.approx(-one.high, abs=2e-4)
        assert other.p == pytest.approx(one.p, abs=0.01)

    @pytest.mark.parametrize("shift", [0.0, 0.01, 0.02])
    def test_random_signs_agree_with_scipys_permutations(self, shift: float) -> None:
        differences = self.first - self.second - shift
        expected = permutation_test(
            (differences,),
            np.mean,
            permutation_type="samples",
            n_resamples=PERMUTATIONS,
            rng=np.random.default_rng(1),
            batch=500,
        ).pvalue
        found = paired_difference(differences, np.zeros(80), 0).p
        noise = np.sqrt(expected * (1 - expected) / PERMUTATIONS)
        assert found == pytest.approx(expected, abs=6 * noise + 2e-4)

    @given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
    @settings(max_examples=60, deadline=None)
    def test_few_queries_get_the_exact_p(self, tenths: list[int]) -> None:
        differences = [tenth / 10 for tenth in tenths]
        found = paired_difference(differences, [0.0] * len(tenths), 0)
        assert found.p == pytest.approx(sign_flip_p_by_hand(differences))
        assert found.p > 0

    def test_sums_that_are_equal_on_paper_are_equally_extreme(self) -> None:
        assert sum([0.1, 0.2, -0.3]) != 0  # in floating point
        assert paired_difference([0.1, 0.2, -0.3], [0.0] * 3, 0).p == 1

    def test_p_is_never_zero(self) -> None:
        found = paired_difference(self.second + 1 + self.first / 9, self.second, 0)
        assert found.p == pytest.approx(2 / (PERMUTATIONS + 1))

    def test_exact_and_random_signs_meet(self) -> None:
        """13 queries with a difference are flipped exactly, 14 at random."""
        differences = self.first[:13] - self.second[:13]
        exact = paired_difference(differences, np.zeros(13), 0).p
        assert exact == paired_difference(np.append(differences, 0), np.zeros(14), 1).p
        nearly = paired_difference(np.append(differences, 1e-9), np.zeros(14), 1).p
        assert nearly == pytest.approx(exact, abs=0.02)

    def test_p_is_uniform_where_there_is_no_difference(self) -> None:
        generator = np.random.default_rng(3)
        found = []
        for seed in range(200):
            hard = generator.exponential(size=40)
            one, other = hard * generator.random(40), hard * generator.random(40)
            found.append(paired_difference(one, other, seed).p)
        assert kstest(found, "uniform").pvalue > 0.01
        assert 2 <= sum(p <= 0.05 for p in found) <= 20

    def test_a_nan_in_either_leaves_the_query_out_of_both(self) -> None:
        one, other = (np.append(x, x[:2]) for x in (self.first, self.second))
        one[80] = other[81] = np.nan
        assert paired_difference(one, other, 5) == paired_difference(self.first, self.second, 5)

    @pytest.mark.parametrize(
        ("first", "second", "expected"),
        [
            ([], [], Difference()),
            ([np.nan], [1.0], Difference()),
            ([0.75], [0.5], Difference(0.25, None, None, 1, 1.0)),
            ([0.5] * 4, [0.5] * 4, Difference(0.0, 0.0, 0.0, 4, 1.0)),
            ([0.75] * 4, [0.5] * 4, Difference(0.25, 0.25, 0.25, 4, 2 / 16)),
            ([np.inf, 1.0], [np.inf, 1.0], Difference(n=2)),
            ([np.inf, 1.0], [0.0, 1.0], Difference(n=2)),
        ],
        ids=["none", "nan", "one", "identical", "shifted", "inf-inf", "inf"],
    )
    def test_degenerate_pairs(
        self, first: list[float], second: list[float], expected: Difference
    ) -> None:
        assert paired_difference(first, second, 0) == expected

    def test_different_lengths_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"equal length, got \(2,\) and \(3,\)"):
            paired_difference([0.1, 0.2], [0.1, 0.2, 0.3], 0)


def two_levels_by_hand(
    groups: list[npt.NDArray[np.float64]], resamples: int, *, same_queries: bool
) -> tuple[float, float]:
    """Seeds resampled, then queries inside each drawn seed, in explicit loops."""
    generator = np.random.default_rng(77)
    means = []
    for _ in range(resamples):
        rows = generator.integers(len(groups[0]), size=len(groups[0]))
        drawn = []
        for _ in groups:
            group = groups[generator.integers(len(groups))]
            if not same_queries:
                rows = generator.integers(len(group), size=len(group))
            drawn.append(group[rows].mean())
        means.append(np.mean(drawn))
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def runs(
    generator: np.random.Generator, seeds: int, *, of_seeds: float, of_queries: float
) -> list[npt.NDArray[np.float64]]:
    """Values around 0 of 60 queries that all seeds share."""
    shared = generator.normal(0, of_queries, 60)
    return [
        generator.normal(0, of_seeds) + shared + generator.normal(0, 1, 60) for _ in range(seeds)
    ]


class TestCrossed:
    """Orders × seeds × stages × queries."""

    generator = np.random.default_rng(3)
    cells = (
        generator.normal(0, 0.3, (4, 1, 1, 1))
        + generator.normal(0, 0.2, (4, 3, 1, 1))
        + generator.normal(0, 1.0, (1, 1, 1, 80))
        + generator.normal(0, 0.5, (4, 3, 2, 80))
        + 5
    )

    def by_hand(self, *arrays: npt.NDArray[np.float64]) -> list[list[float]]:
        generator = np.random.default_rng(9)
        found: list[list[float]] = [[] for _ in arrays]
        for _ in range(3000):
            orders = generator.integers(4, size=4)
            seeds = generator.integers(3, size=(4, 3))
            queries = generator.integers(80, size=80)
            for kept, array in zip(found, arrays, strict=True):
                stages = [
                    np.nanmean(array[order, seed, stage, queries])
                    for place, order in enumerate(orders)
                    for seed in seeds[place]
                    for stage in range(2)
                ]
                kept.append(float(np.mean(stages)))
        return found

    def test_it_agrees_with_explicit_loops(self) -> None:
        cells = self.cells.copy()
        cells[:, :, 0, ::3] = np.nan  # another part of the queries in each stage
        (found,) = self.by_hand(cells)
        low, high = np.quantile(found, [0.025, 0.975])
        metric = crossed_mean(cells, 0)
        assert metric.low == pytest.approx(low, abs=0.08 * (high - low))
        assert metric.high == pytest.approx(high, abs=0.08 * (high - low))
        stages = [np.nanmean(cells[:, :, stage], axis=-1).mean() for stage in range(2)]
        assert metric.value == pytest.approx(np.mean(stages))
        assert metric.n == cells.size - 12 * 27

    def test_a_ratio_agrees_with_explicit_loops_and_pairs_its_draws(self) -> None:
        other = self.cells / 2 + 1 + np.random.default_rng(5).normal(0, 0.3, self.cells.shape)
        above, below = self.by_hand(self.cells, other)
        low, high = np.quantile(np.divide(above, below), [0.025, 0.975])
        ratio = crossed_ratio(self.cells, other, 0)
        assert ratio.low == pytest.approx(low, abs=0.1 * (high - low))
        assert ratio.high == pytest.approx(high, abs=0.1 * (high - low))
        same = crossed_ratio(2 * self.cells, self.cells, 0)
        assert (same.low, same.high) == (pytest.approx(2), pytest.approx(2))

    def test_shared_queries_make_it_wider_than_queries_drawn_apart(self) -> None:
        hard = np.random.default_rng(2).normal(0, 1, (1, 1, 1, 80)) + np.zeros((4, 3, 1, 1))
        together = crossed_mean(hard, 0)
        apart = hierarchical_mean([[seed.ravel() for seed in order] for order in hard], 0)
        assert together.high - together.low > 2 * (apart.high - apart.low)  # type: ignore[operator]

    def test_the_same_seeds_of_all_orders_are_drawn_together(self) -> None:
        """Values that only the seed determines: drawn apart, orders would average it away."""
        seeds = np.random.default_rng(3).normal(0, 1, (1, 4, 1, 1)) + np.zeros((9, 1, 1, 30))
        apart, together = crossed_mean(seeds, 0), crossed_mean(seeds, 0, same_seeds=True)
        exact = np.random.default_rng(4).choice(seeds[0, :, 0, 0], (20_000, 4)).mean(axis=1)
        low, high = np.quantile(exact, [0.025, 0.975])
        assert together.low == pytest.approx(low, abs=0.1 * (high - low))
        assert together.high == pytest.approx(high, abs=0.1 * (high - low))
        assert together.high - together.low > 2 * (apart.high - apart.low)  # type: ignore[operator]
        ratio = crossed_ratio(seeds, np.ones(seeds.shape), 0, same_seeds=True)
        assert (ratio.low, ratio.high) == (together.low, together.high)

    def test_what_does_not_exist_has_no_value(self) -> None:
        nothing = np.full((2, 2, 1, 5), np.nan)
        assert crossed_mean(nothing, 0).value is None
        assert crossed_ratio(np.ones((2, 1, 1, 3)), np.zeros((2, 1, 1, 3)), 0).value is None
        half = np.stack([np.ones((1, 1, 3)), np.zeros((1, 1, 3))])
        assert crossed_ratio(np.ones((2, 1, 1, 3)), half, 0).low is None
        with pytest.raises(ValueError, match="orders × seeds × stages × queries"):
            crossed_mean([1.0, 2.0], 0)


class TestHierarchical:
    groups = runs(np.random.default_rng(1), 4, of_seeds=0.5, of_queries=1.0)

    @pytest.mark.parametrize("same_queries", [False, True])
    def test_it_agrees_with_explicit_loops(self, same_queries: bool) -> None:
        low, high = two_levels_by_hand(self.groups, 8000, same_queries=same_queries)
        metric = hierarchical_mean(self.groups, 0, same_queries=same_queries)
        tolerance = 0.06 * (high - low)
        assert metric.low == pytest.approx(low, abs=tolerance)
        assert metric.high == pytest.approx(high, abs=tolerance)
        assert metric.value == pytest.approx(np.mean([group.mean() for group in self.groups]))
        assert metric.n == 240

    def test_groups_of_unequal_length_weigh_the_same(self) -> None:
        metric = hierarchical_mean([np.zeros(10), np.ones(1000)], 0)
        assert (metric.value, metric.n) == (0.5, 1010)
        assert (metric.low, metric.high) == (0, 1)

    def test_three_levels_are_the_mean_of_means_of_means(self) -> None:
        tree = [[[0.0, 0.2], [0.4]], [[1.0, 1.0, 1.0]]]
        metric = hierarchical_mean(tree, 0)
        assert metric.value == pytest.approx(((0.1 + 0.4) / 2 + 1) / 2)
        assert metric.n == 6
        assert 0 <= metric.low < metric.value < metric.high <= 1

    def test_victim_seeds_widen_what_attack_seeds_alone_would_give(self) -> None:
        """Attacks on one victim agree; resampled as if independent they would look certain."""
        generator = np.random.default_rng(8)
        victims = [[v + generator.normal(0, 0.1, 50) for _ in range(3)] for v in (0.1, 0.5, 0.9)]
        flat = hierarchical_mean([attack for victim in victims for attack in victim], 0)
        nested = hierarchical_mean(victims, 0)
        assert nested.value == pytest.approx(flat.value)
        assert nested.high - nested.low > 1.4 * (flat.high - flat.low)

    @pytest.mark.parametrize(("seeds", "apart"), [(3, 71), (9, 60)])
    def test_shared_queries_need_to_be_drawn_together(self, seeds: int, apart: int) -> None:
        generator = np.random.default_rng(6)
        covered = {True: 0, False: 0}
        for seed in range(80):
            groups = runs(generator, seeds, of_seeds=0.05, of_queries=2.0)
            for same in covered:
                metric = hierarchical_mean(groups, seed, same_queries=same)
                covered[same] += metric.low <= 0 <= metric.high
        assert covered[True] > 71  # 95 % say 76
        assert covered[False] < apart

    def test_it_covers_the_truth_where_seeds_vary_and_are_many(self) -> None:
        generator = np.random.default_rng(7)
        covered = 0
        for seed in range(80):
            groups = [generator.normal(0, 0.2) + generator.normal(0, 1, 60) for _ in range(9)]
            metric = hierarchical_mean(groups, seed)
            covered += metric.low <= 0 <= metric.high
        assert covered >= 70

    def test_one_group_has_the_interval_over_queries(self) -> None:
        for groups in ([SKEWED], [[SKEWED]], [SKEWED, [np.nan]], [SKEWED, []], SKEWED):
            assert hierarchical_mean(groups, 3) == mean_metric(SKEWED, 3)

    def test_only_the_seed_decides_over_chance(self) -> None:
        assert hierarchical_mean(self.groups, 1) == hierarchical_mean(self.groups, 1)
        assert hierarchical_mean(self.groups, 1) != hierarchical_mean(self.groups, 2)

    def test_nan_leaves_a_query_out_of_its_group_or_of_all(self) -> None:
        holes = [group.copy() for group in self.groups]
        holes[0][3] = np.nan
        assert hierarchical_mean(holes, 0).n == 239
        rest = [np.delete(group, 3) for group in self.groups]
        shared = hierarchical_mean(holes, 0, same_queries=True)
        assert shared == hierarchical_mean(rest, 0, same_queries=True)
        assert shared.n == 236

    @pytest.mark.parametrize("same_queries", [False, True])
    def test_degenerate_groups(self, same_queries: bool) -> None:
        def mean(groups: list[list[float]]) -> Metric:
            return hierarchical_mean(groups, 0, same_queries=same_queries)

        assert mean([]) == mean([[]]) == mean([[np.nan], [np.nan]]) == Metric()
        assert mean([[0.5, 0.5], [0.5, 0.5]]) == Metric(0.5, 0.5, 0.5, 4)
        assert mean([[0.5, np.inf], [0.5, 0.5]]) == Metric(n=4)
        assert mean([[0.25], [0.75]]) == Metric(0.5, 0.25, 0.75, 2)

    @pytest.mark.parametrize("value", [0, 1])
    def test_rates_without_any_spread_have_the_exact_interval_of_the_queries(
        self, value: int
    ) -> None:
        exact = rate_metric(np.full(40, value), 0)
        for seeds in (1, 3):
            rate = hierarchical_rate([np.full(40, value)] * seeds, 0)
            assert (rate.value, rate.low, rate.high) == (value, exact.low, exact.high)
            assert rate.n == 40 * seeds
        spread = [np.arange(40) % 2, np.zeros(40)]
        assert hierarchical_rate(spread, 0) == hierarchical_mean(spread, 0, same_queries=True)

    def test_groups_of_other_queries_are_refused_as_the_same(self) -> None:
        with pytest.raises(ValueError, match="same queries"):
            hierarchical_mean([[0.1, 0.2], [0.3]], 0, same_queries=True)


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        ([], []),
        ([0.2], [0.2]),
        ([0.01, 0.02, 0.03], [0.03, 0.04, 0.04]),
        ([0.03, 0.01, 0.02], [0.04, 0.03, 0.04]),  # wherever they stand
        ([0.01, 0.01, 0.9], [0.03, 0.03, 0.9]),
        ([0.5, 0.6, 1.0], [1.0, 1.0, 1.0]),
        ([None, 0.01, None, 0.02], [None, 0.02, None, 0.02]),
    ],
)
def test_holm_by_hand(p_values: list[float | None], adjusted: list[float | None]) -> None:
    assert holm(p_values) == pytest.approx(adjusted)


def test_holm_keeps_nan_and_refuses_what_is_no_probability() -> None:
    kept, other = holm([float("nan"), 0.3])
    assert np.isnan(kept)
    assert other == 0.3
    with pytest.raises(ValueError, match=r"got 1\.5"):
        holm([1.5])


@given(st.lists(st.floats(0, 1), max_size=12), st.sampled_from([0.01, 0.05, 0.2]))
def test_holm_rejects_as_its_definition_does(p_values: list[float], alpha: float) -> None:
    """From the smallest on, as long as p₍ᵢ₎ ≤ α/(m − i + 1); never below p nor above Bonferroni."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    rejected = set()
    for rank, place in enumerate(order):
        if p_values[place] * (len(p_values) - rank) > alpha:
            break
        rejected.add(place)
    adjusted = holm(p_values)
    assert {place for place, p in enumerate(adjusted) if p <= alpha} == rejected
    assert [adjusted[place] for place in order] == sorted(adjusted)
    for p, found in zip(p_values, adjusted, strict=True):
        assert p <= found <= min(1, p * len(p_values)) or found == p


def test_a_single_figure_has_no_interval() -> None:
    assert single_metric(0.25) == Metric(value=0.25, n=1)
    assert single_metric(None) == Metric()
