"""Intervals: against scipy, against a second implementation, and where there is none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from scipy.stats import bootstrap, norm

from advhash.stats import (
    CONFIDENCE,
    RESAMPLES,
    Metric,
    mean_metric,
    ratio_metric,
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


def test_a_single_figure_has_no_interval() -> None:
    assert single_metric(0.25) == Metric(value=0.25, n=1)
    assert single_metric(None) == Metric()
