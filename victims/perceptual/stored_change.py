"""The least change of a stored picture, in whole grey levels, that leaves the real hash.

The change that the linear map of a hash asks for (`certificates`) is mostly below half a grey
level, where rounding leaves nothing. For L2, the least change of whole levels that takes chosen
bits past their median comes from the dual of that problem, for several choices of bits and
margins; each is scaled until the rounded picture is out by the hash itself. For L∞, every colour
value moves by one level up or down, as the bits that lag behind ask for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.optimize

from advhash.victims.base import HashVictim
from advhash.victims.perceptual.certificates import (
    Aim,
    LinearHash,
    diagonal,
    difference_map,
    linear_hash,
)
from advhash.victims.perceptual.hashes import PDQ, DHash, PerceptualHash, PHash
from advhash.victims.perceptual.resampling import Picture

Floats = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]
# spare bits, and margins: see `Aim.weights`
REACHES = {0: (0.02, 0.05, 0.1), 1: (0.1, 0.4), 2: (0.0, 0.2), 4: (0.0, 0.5)}
EVALUATIONS = 30  # of the dual of whole grey levels
SMALLEST, LARGEST = 0.7, 64.0  # scales of a change
PRECISION = 1.01  # of a scale
SAMPLED = 30_000  # colour values that tell how long a rounded change is
SPARES, MARGIN = (0, 2, 4), 0.1  # for L∞
TURNS, EAGERNESS = 6, 0.5  # of the weights of bits that lag behind, at one level
FLOOR = 0.8  # of the least level of some bits: others may need less


class ZeroAim(Aim):
    """The aim of a hash whose bits are values above 0: any `flips` bits must change."""

    def median(self) -> float:
        return 0.0

    def chosen(self, t: float, spare: int) -> tuple[npt.NDArray[np.int64], Floats]:
        cost = (self.values - t) ** 2 / diagonal(self.gram)
        rows = np.argsort(cost)[: self.flips + spare]
        return rows, np.where(self.bits[rows], -1.0, 1.0)


def has_map(victim: HashVictim) -> bool:
    """Whether a hash is linear but for roundings and one threshold: pdq, phash and dhash."""
    return isinstance(victim, PDQ | PHash | DHash)


def map_of(victim: PerceptualHash, height: int, width: int) -> LinearHash:
    """The linear map by which stored changes are looked for. Raises UsageError: without one."""
    if isinstance(victim, DHash):
        return difference_map(victim, height, width)
    return linear_hash(victim, height, width)


@dataclass(frozen=True)
class _Search:
    """A picture that is to leave the threshold of a hash.

    clean: (H,W,3) whole grey levels; own: (K,) its hash
    """

    victim: PerceptualHash
    linear: LinearHash
    clean: Floats
    own: npt.NDArray[np.bool_]
    threshold: int
    aim: Aim

    @classmethod
    def of(
        cls, victim: PerceptualHash, linear: LinearHash, pixels: Pixels, threshold: int
    ) -> _Search | None:
        """None where too few bits could flip, or no pixel moves any value."""
        own = victim.bits_of(Picture.of(pixels))
        clean = pixels.astype(np.float64)
        values, gram = linear.values(clean), linear.gram()
        zero = isinstance(victim, DHash)
        flips = threshold + 1 if zero else threshold // 2 + 1
        most = victim.bits if zero else min(own.sum(), (~own).sum())
        if flips > most or not gram.any():
            return None
        aim = (ZeroAim if zero else Aim)(values, own, gram, flips)
        return cls(victim, linear, clean, own, threshold, aim)

    def leaves(self, change: Floats) -> bool:
        """Whether the picture with a change of whole grey levels is out."""
        moved = Picture.of((self.clean + change).astype(np.uint8))
        return int((self.victim.bits_of(moved) != self.own).sum()) > self.threshold

    def stored(self, change: Floats | None) -> Pixels | None:
        return None if change is None else (self.clean + change).astype(np.uint8)


def least_stored(
    victim: PerceptualHash, linear: LinearHash, pixels: Pixels, threshold: int
) -> Pixels | None:
    """(H,W,3) the nearest picture to this one, by L2, that was seen to leave the threshold.

    linear: the map of `victim` on pictures of this size, see `map_of`

    None: none was seen. What is returned was hashed by `victim` as it would be stored.
    """
    search = _Search.of(victim, linear, pixels, threshold)
    if search is None:
        return None
    best: Floats | None = None
    for spare, margins in REACHES.items():
        whole = _WholeLevels.of(search, spare)
        for margin in margins:
            better = _shrunk(whole.change(margin), search.clean, best, search.leaves)
            best = best if better is None else better
    return search.stored(best)


def least_stored_level(
    victim: PerceptualHash,
    linear: LinearHash,
    pixels: Pixels,
    threshold: int,
    levels: Sequence[int],
) -> Pixels | None:
    """The same by L∞: the first of these levels, ascending, at which a picture was seen to leave.

    Every colour value moves by the level. Which way, the weights of the bits say: first those of
    the least L2, then, turn by turn, more for the bits that lag behind.
    """
    search = _Search.of(victim, linear, pixels, threshold)
    if search is None:
        return None
    pushes = [_Push.of(search, spare) for spare in SPARES]
    for level in levels:
        for push in pushes:
            if level < FLOOR * push.least:
                continue
            change = push.leaving(search, level)
            if change is not None:
                return search.stored(change)
    return None


@dataclass(frozen=True)
class _Push:
    """Bits that are to pass t, all colour values moving by one level.

    rows, signs: of `Aim.chosen`; far: to t; shares: their weights for the least L2
    least: about the level below which these bits cannot pass, by the duality of linear programs
    """

    rows: npt.NDArray[np.int64]
    signs: Floats
    far: Floats
    shares: Floats
    least: float

    @classmethod
    def of(cls, search: _Search, spare: int) -> _Push:
        aim, t = search.aim, search.aim.median()
        rows, signs = aim.chosen(t, spare)
        far = np.maximum(signs * (t - aim.values[rows]), 0)
        weights = aim.weights(t, margin=MARGIN, spare=spare)
        shares = np.abs(weights[rows])
        reach = float(np.abs(search.linear.picture(weights)).sum())
        least = float(shares @ far) / max(reach, 1e-12)
        return cls(rows, signs, far, shares + 1e-3 * shares.max(), least)

    def leaving(self, search: _Search, level: int) -> Floats | None:
        """A change of this level that leaves; None where no turn gave any."""
        shares = self.shares
        for _ in range(TURNS):
            pushed = np.zeros(len(search.own))
            pushed[self.rows] = self.signs * shares
            change = _rounded(level * np.sign(search.linear.picture(pushed)), search.clean)
            if search.leaves(change):
                return change
            lag = self.far - self.signs * search.linear.values(change)[self.rows]
            shares = shares * np.exp(EAGERNESS * lag / max(float(np.abs(lag).max()), 1e-12))
        return None


@dataclass(frozen=True)
class _WholeLevels:
    """The least change of whole grey levels that takes chosen bits past t, by its dual.

    The least of ‖δ‖² with signs·M δ ≥ wanted has, for multipliers λ ≥ 0 and g = Mᵀ(signs·λ), a sum
    λ·wanted + Σ min over whole δᵢ of (δᵢ² − gᵢ δᵢ) below it, at which each δᵢ is gᵢ/2, rounded. At
    the λ of its maximum that δ takes nearly all of the bits past t, and is as near as its sum says.

    rows, signs: of `Aim.chosen`; far: (N,) to t
    """

    search: _Search
    rows: npt.NDArray[np.int64]
    signs: Floats
    far: Floats
    start: Floats

    @classmethod
    def of(cls, search: _Search, spare: int) -> _WholeLevels:
        aim, t = search.aim, search.aim.median()
        rows, signs = aim.chosen(t, spare)
        far = np.maximum(signs * (t - aim.values[rows]), 0)
        start = 2 * np.abs(aim.weights(t, margin=MARGIN, spare=spare)[rows])
        return cls(search, rows, signs, far, start)

    def change(self, margin: float) -> Floats:
        """(H,W,3) before it is rounded; takes the bits past t by a share of their mean distance."""
        least = 1e-7 * float(np.std(self.search.aim.values))
        wanted = self.far + max(margin * float(self.far.mean()), least)
        scale = float(self.start.max())

        def negative(shares: Floats) -> tuple[float, Floats]:
            steep = self._steep(scale * shares)
            change = _rounded(steep / 2, self.search.clean)
            total = scale * float(shares @ wanted) + float(np.vdot(change, change - steep))
            got = self.signs * self.search.linear.values(change)[self.rows]
            return -total, scale * (got - wanted)

        result = scipy.optimize.minimize(
            negative,
            self.start / scale,
            jac=True,
            method="L-BFGS-B",
            bounds=[(0, None)] * len(self.rows),
            options={"maxfun": EVALUATIONS, "ftol": 1e-6},
        )
        return self._steep(scale * result.x) / 2

    def _steep(self, multipliers: Floats) -> Floats:
        weights = np.zeros(len(self.search.own))
        weights[self.rows] = self.signs * multipliers
        return self.search.linear.picture(weights)


def _rounded(change: Floats, clean: Floats) -> Floats:
    """The change of whole grey levels that keeps the picture within 0 … 255."""
    moved = np.rint(change)
    moved += clean
    np.clip(moved, 0, 255, out=moved)
    moved -= clean
    return moved


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
