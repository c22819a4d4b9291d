"""The least L2 change of a stored picture, in whole grey levels, that leaves the real hash.

The exact answer's change (`certificates`) is mostly below half a grey level, where rounding leaves
nothing. So changes that reach somewhat further are scaled until the rounded picture is out by the
hash itself, and each is corrected by what rounding took from the values of the linear map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import scipy.linalg

from advhash.victims.perceptual.certificates import Aim, LinearHash
from advhash.victims.perceptual.hashes import PerceptualHash
from advhash.victims.perceptual.resampling import Picture

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]
REACHES = ((0.1, 0), (0.25, 0), (0.0, 0), (0.5, 1), (1.0, 2), (2.0, 4))  # see `Aim.weights`
CORRECTIONS = 2  # of each
SMALLEST, LARGEST = 0.9, 64.0  # scales of a change
PRECISION = 1.01  # of a scale
SAMPLED = 30_000  # colour values that tell how long a rounded change is


def least_stored(
    victim: PerceptualHash, linear: LinearHash, pixels: Pixels, threshold: int
) -> Pixels | None:
    """(H,W,3) the nearest picture to this one, by L2, that was seen to leave the threshold.

    linear: the map of `victim` on pictures of this size

    None: none was seen. What is returned was hashed by `victim` as it would be stored.
    """
    own = victim.bits_of(Picture.of(pixels))
    flips = threshold // 2 + 1
    if flips > min(own.sum(), (~own).sum()):
        return None
    clean = pixels.astype(np.float64)
    aim = Aim(linear.values(clean), own, linear.gram(), flips)

    def leaves(change: Floats) -> bool:
        moved = Picture.of((clean + change).astype(np.uint8))
        return int((victim.bits_of(moved) != own).sum()) > threshold

    best: Floats | None = None
    for change in _changes(linear, aim, clean):
        better = _shrunk(change, clean, best, leaves)
        best = best if better is None else better
    return None if best is None else (clean + best).astype(np.uint8)


def _changes(linear: LinearHash, aim: Aim, clean: Floats) -> Iterator[Floats]:
    """(H,W,3) changes before they are rounded, the most promising first."""
    ridge = 1e-9 * np.trace(aim.gram) / len(aim.gram) * np.eye(len(aim.gram))
    factor = scipy.linalg.cho_factor(aim.gram + ridge)
    t = aim.median()
    for margin, spare in REACHES:
        weights = aim.weights(t, margin=margin, spare=spare)
        wanted = aim.gram @ weights
        change = linear.picture(weights)
        yield change
        for _ in range(CORRECTIONS):
            rounded = _rounded(change, clean)
            got = linear.values(rounded)
            along = wanted @ scipy.linalg.cho_solve(factor, got)
            if along <= 0:  # rounding left nothing
                break
            got *= (wanted @ scipy.linalg.cho_solve(factor, wanted)) / along
            change = change + linear.picture(scipy.linalg.cho_solve(factor, wanted - got))
            yield change


def _rounded(change: Floats, clean: Floats) -> Floats:
    """The change of whole grey levels that keeps the picture within 0 … 255."""
    return np.asarray((clean + change).round().clip(0, 255) - clean)


def _shrunk(
    change: Floats, clean: Floats, best: Floats | None, leaves: Callable[[Floats], bool]
) -> Floats | None:
    """The least multiple of a change, rounded, that leaves; None where none is below `best`."""
    if best is None:
        low = high = SMALLEST
        while not leaves(_rounded(high * change, clean)):
            low, high = high, high * 1.5
            if high > LARGEST:
                return None
    else:
        low, most = SMALLEST, float(np.square(best).sum())
        high = _scale_within(most, change, clean)
        nearer = _rounded(high * change, clean)
        if high <= low or np.square(nearer).sum() >= most or not leaves(nearer):
            return None
    least = _halved(lambda scale: leaves(_rounded(scale * change, clean)), low, high)[1]
    return _rounded(least * change, clean)


def _scale_within(most: float, change: Floats, clean: Floats) -> float:
    """About the largest multiple of a change that has, rounded, a square sum below `most`."""
    step = 1 + change.size // SAMPLED
    step += step % 3 == 0  # all colours
    some, levels = change.ravel()[::step], clean.ravel()[::step]
    return _halved(
        lambda scale: np.square(_rounded(scale * some, levels)).sum() * step >= most,
        SMALLEST,
        LARGEST,
    )[0]


def _halved(holds: Callable[[float], bool], low: float, high: float) -> tuple[float, float]:
    """Around the least scale at which something holds that holds at `high`, by ratios."""
    while high > PRECISION * low:
        middle = float(np.sqrt(low * high))
        if holds(middle):
            high = middle
        else:
            low = middle
    return low, high
