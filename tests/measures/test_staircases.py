"""Means of curves that hold their value."""

from __future__ import annotations

import numpy as np
import pytest

from advhash.measures.staircases import POINTS, mean_staircase


def test_the_mean_is_that_of_what_each_curve_holds_at_the_time() -> None:
    curves = [[(1.0, 0.2), (3.0, 0.6)], [(2.0, 0.4), (2.5, 0.8)]]
    mean = mean_staircase(curves, 4.0)
    wanted = []
    for time in np.linspace(0, 4.0, POINTS):
        held = [[value for since, value in curve if since <= time] for curve in curves]
        if all(held):
            wanted.append((time, np.mean([values[-1] for values in held])))
    assert len(wanted) < POINTS  # nothing is known before both have begun
    np.testing.assert_array_equal(np.stack([mean.times, mean.values], axis=1), wanted)


@pytest.mark.parametrize("curves", [[], [[]], [[(0.0, 1.0)], []]])
def test_what_has_no_point_has_no_mean(curves: list[list[tuple[float, float]]]) -> None:
    with pytest.raises(ValueError, match="at least one point"):
        mean_staircase(curves, 1.0)
