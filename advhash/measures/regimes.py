"""The phase chart of neural codes: which regime a network is in, and what determines its codes.

He, Lei, Ji and Tao (2021, arXiv 2101.05490) name three regimes, under-, critically and sufficiently
expressive, without thresholds: those here are ours.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal, TypeVar

import numpy as np
import numpy.typing as npt

Regime = Literal["under", "critical", "sufficient"]
Level = TypeVar("Level", bound=Hashable)
REGIMES: tuple[Regime, ...] = ("under", "critical", "sufficient")


def regimes(
    redundancy: npt.ArrayLike,
    accuracy: npt.ArrayLike,
    *,
    under: float,
    sufficient: float,
    saturation: float,
) -> list[Regime]:
    """Regimes of networks in ascending order of size, all else equal, by redundancy and accuracy.

    under:      redundancy above `under`
    sufficient: redundancy of at most `sufficient`, and the next size gains less than `saturation`
                in accuracy; the largest, which has no next, is judged by the step that led to it
    critical:   all others

    Raises ValueError where lengths differ or `sufficient` lies above `under`.

    >>> regimes([0.5, 0.04, 0, 0], [0.5, 0.8, 0.95, 0.955], under=0.05, sufficient=0.01,
    ...         saturation=0.01)
    ['under', 'critical', 'sufficient', 'sufficient']
    """
    ratios, right = (np.asarray(part, np.float64) for part in (redundancy, accuracy))
    if ratios.shape != right.shape or ratios.ndim != 1:
        raise ValueError(f"expected two rows of equal length, got {ratios.shape}, {right.shape}")
    if sufficient > under:
        raise ValueError(f"expected sufficient <= under, got {sufficient} and {under}")
    steps = np.diff(right)
    gains = np.append(steps, steps[-1:]) if len(steps) else np.full(len(right), np.inf)
    return [
        "under"
        if ratio > under
        else "sufficient"
        if ratio <= sufficient and gain < saturation
        else "critical"
        for ratio, gain in zip(ratios, gains, strict=True)
    ]


def means_by(values: Sequence[float], levels: Sequence[Level]) -> dict[Level, float]:
    """The mean of the values of each level, in the order in which levels first appear.

    Raises ValueError where lengths differ.

    >>> means_by([1.0, 3.0, 5.0], ["a", "a", "b"])
    {'a': 2.0, 'b': 5.0}
    """
    groups: dict[Level, list[float]] = {}
    for value, level in zip(values, levels, strict=True):
        groups.setdefault(level, []).append(value)
    return {level: float(np.mean(group)) for level, group in groups.items()}


def eta_squared(values: npt.ArrayLike, levels: Sequence[object]) -> float | None:
    """η²: the share of the variance of (N,) values that lies between the levels of a factor.

    In a full grid with as many repeats everywhere the η² of all factors, of their interactions and
    of the repeats add up to 1. None where the factor has one level or the values do not vary.

    Raises ValueError where lengths differ.

    >>> eta_squared([1.0, 1.0, 3.0, 3.0], ["a", "a", "b", "b"])
    1.0
    """
    numbers = np.asarray(values, np.float64)
    if len(numbers) != len(levels):
        raise ValueError(f"expected {len(numbers)} levels, got {len(levels)}")
    total = float(((numbers - numbers.mean()) ** 2).sum()) if len(numbers) else 0.0
    kinds = list(dict.fromkeys(levels))
    if len(kinds) < 2 or total <= 1e-18 * len(numbers):
        return None
    between = 0.0
    for kind in kinds:
        mine = numbers[[level == kind for level in levels]]
        between += len(mine) * float(mine.mean() - numbers.mean()) ** 2
    return min(1.0, between / total)


def unexplained(values: npt.ArrayLike, cells: Sequence[object]) -> float | None:
    """The share of the variance that lies within cells, between repeats; None as for `eta_squared`.

    >>> unexplained([1.0, 3.0, 1.0, 3.0], ["a", "a", "b", "b"])
    1.0
    """
    explained = eta_squared(values, cells)
    return None if explained is None else 1 - explained


def flip_labels(
    classes: npt.NDArray[np.int64], count: int, share: float, seed: int
) -> npt.NDArray[np.int64]:
    """(N,) classes, of which ⌊share · N⌋ drawn ones become another of `count` classes at random.

    Of one seed, those flipped at a lower share are flipped at a higher one too, in the same way.

    Raises ValueError: a share outside [0,1], or a single class.

    >>> flip_labels(np.zeros(4, np.int64), 2, 0.5, seed=0).sum()
    np.int64(2)
    """
    if not 0 <= share <= 1 or count < 2:
        raise ValueError(f"expected a share in [0,1] of 2 classes or more, got {share}, {count}")
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(classes))
    moves = generator.integers(1, count, len(classes))
    flipped = classes.copy()
    rows = order[: int(share * len(classes))]
    flipped[rows] = (classes[rows] + moves[rows]) % count
    return flipped
