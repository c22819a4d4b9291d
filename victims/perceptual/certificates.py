"""The exact answer for hashes that compare with their own median: how little can suffice at all.

A linear map M takes a picture to K values V (K even), and K/2 bits are 1: those above the median.
Let U be the bits that are 1 and L the others. A picture x + δ more than T bits away whose hash has
K/2 ones too has at least m = ⌊T/2⌋ + 1 bits of U at 0 and as many of L at 1. So one scalar t, its
median, has M(x + δ) ≤ t at m of U and ≥ t at m of L. For a diagonal E ≽ M Mᵀ every δ with M δ = y
has ‖δ‖² ≥ Σ y²/E, hence

    ‖δ‖² ≥ min over t of  Σ (m smallest (V − t)₊²/E over U) + Σ (m smallest (t − V)₊²/E over L).

The first sum falls and the second rises with t, which bounds the minimum between two points of a
scan by the first sum at the right end and the second at the left one. Where the rows of M are
orthogonal and of one norm, E = M Mᵀ and the bound is reached. Values that tie with the median give
fewer ones, and with them the statement ends: flat pictures. See docs/victims/certificates.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.optimize

from advhash.errors import UsageError
from advhash.victims.perceptual.hashes import (
    PDQ,
    DHash,
    PerceptualHash,
    PHash,
    blurred_points,
    dct_matrix,
    pdq_transform,
)
from advhash.victims.perceptual.resampling import (
    GREY,
    PRECISION,
    Filter,
    filter_weights,
    fitted_size,
)

Floats = npt.NDArray[np.float64]
SCANNED, COARSE = 4000, 400  # values of t: for a proof, and to begin an attack at
FLOAT32, WHITE = 2.0**-24, 255  # half a unit in the last place of 1; the largest grey level
NOTHING, TINY = 1e-12, 1e-200  # of the largest norm of a row, and beside it
LUMINANCE = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class LinearHash:
    """The map of a hash without its roundings, on pictures of one size: down ⊗ across ⊗ colours.

    down (R,H), across (C,W), colours (3,): value [r,c] is down · picture · acrossᵀ of the grey
    flipped:  whether bits are numbered from the last to the first
    rounding: (R·C,) how far the real hash's values can lie from these
    """

    down: Floats
    across: Floats
    colours: Floats
    flipped: bool
    rounding: Floats

    def values(self, pixels: Floats) -> Floats:
        """(K,) of (H,W,3) grey levels, in the order of the bits."""
        result = (self.down @ (pixels @ self.colours) @ self.across.T).ravel()
        return result[::-1] if self.flipped else result

    def picture(self, weights: Floats) -> Floats:
        """(H,W,3): Mᵀ of (K,)."""
        grid = (weights[::-1] if self.flipped else weights).reshape(len(self.down), -1)
        return (self.down.T @ grid @ self.across)[..., None] * self.colours

    def gram(self) -> Floats:
        """(K,K) M Mᵀ."""
        result = np.kron(self.down @ self.down.T, self.across @ self.across.T)
        result = result * (self.colours @ self.colours)
        return result[::-1, ::-1] if self.flipped else result

    def bits(self, pixels: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """(K,) those above the lower of both middle values of (H,W,3) grey levels."""
        values = self.values(np.asarray(pixels, np.float64))
        return np.asarray(values > np.sort(values)[len(values) // 2 - 1])


@dataclass(frozen=True)
class LeastChange:
    """How little can suffice for one picture, in grey levels: norms over all colour values.

    bound:  no change of a smaller L2 leaves the threshold, of the map without roundings
    real:   the same of the real hash, whose roundings may help the attacker; 0: vacuous
    attack: L2 of a change that does, of the map without roundings and without clipping; infinite
        where none was seen, as in pictures of a few pixels, whose values cannot all be moved
    change: (H,W,3) that change
    """

    bound: float
    real: float
    attack: float
    change: Floats


def linear_hash(victim: PerceptualHash, height: int, width: int) -> LinearHash:
    """The linear map of pdq or phash on pictures of this size.

    Raises UsageError: another hash.
    """
    if isinstance(victim, PDQ):
        size = (height, width)
        if victim.shrink != "none":
            size = fitted_size(height, width, victim.shrink)
        transform = pdq_transform().astype(np.float64)
        down = transform @ blurred_points(size[0], size[1]).astype(np.float64)
        across = transform @ blurred_points(size[1], size[0]).astype(np.float64)
        # of each point: sums of float32 that run along both sides twice, then the transform
        error = FLOAT32 * WHITE * (8 * max(size) + 4 * PDQ.grid)
        rounding = error * _reach(transform, transform)
        if size != (height, width):
            rows = _resampling(height, size[0], "bicubic")
            columns = _resampling(width, size[1], "bicubic")
            rounding = rounding + _rounded_twice(rows, columns) * _reach(down, across)
            down, across = down @ rows, across @ columns
        return LinearHash(down, across, LUMINANCE, True, rounding.ravel()[::-1])
    if isinstance(victim, PHash):
        side = victim.side * victim.highfreq_factor
        transform = 2 * dct_matrix(victim.side, side)
        rows, columns = (_resampling(length, side, "lanczos") for length in (height, width))
        error = _rounded_twice(rows, columns, before=0.5)  # the grey picture is rounded first
        rounding = error * _reach(transform, transform)
        down, across = transform @ rows, transform @ columns
        return LinearHash(down, across, np.array(GREY) / 2**16, False, rounding.ravel())
    raise UsageError(
        f"expected pdq or phash, whose bits are above a median of linear values, got "
        f"{type(victim).__name__}"
    )


def difference_map(victim: DHash, height: int, width: int) -> LinearHash:
    """The linear map of dhash on pictures of this size, whose bits are values above 0.

    Its `rounding` is not stated: nothing is proven by it.
    """
    rows = _resampling(height, victim.side, "lanczos")
    columns = np.diff(_resampling(width, victim.side + 1, "lanczos"), axis=0)
    unstated = np.full(victim.bits, np.inf)
    return LinearHash(rows, columns, np.array(GREY) / 2**16, False, unstated)


def least_l2(
    linear: LinearHash, bits: npt.NDArray[np.bool_], pixels: npt.NDArray[np.uint8], threshold: int
) -> LeastChange | None:
    """How little L2 can leave the threshold of one picture; None where nothing can.

    bits: (K,) of the real hash, half of them 1; pixels: (H,W,3)
    """
    values = linear.values(pixels.astype(np.float64))
    flips = threshold // 2 + 1
    upper, lower = np.flatnonzero(bits), np.flatnonzero(~bits)
    if flips > min(len(upper), len(lower)):
        return None
    gram = linear.gram()
    bound, start = _bound(values, upper, lower, gram, flips, np.zeros(len(values)))
    real, _ = _bound(values, upper, lower, gram, flips, linear.rounding)
    own = linear.bits(pixels)
    attack, change = _attack(linear, Aim(values, own, gram, flips), start)
    if int((linear.bits(pixels + change) != own).sum()) <= threshold:
        attack = np.inf
    return LeastChange(bound, real, attack, change)


@dataclass(frozen=True)
class Aim:
    """Which values must pass the median for a picture to leave a threshold, and by how much.

    values: (K,) of the picture; bits: (K,) its hash; gram: (K,K) M Mᵀ
    flips:  bits that must fall, and as many that must rise
    """

    values: Floats
    bits: npt.NDArray[np.bool_]
    gram: Floats
    flips: int

    def median(self) -> float:
        """The t of a coarse scan at which the change is least, were the rows of M orthogonal."""
        upper, lower = np.flatnonzero(self.bits), np.flatnonzero(~self.bits)
        scanned, none = _scan(self.values, upper, lower, COARSE), np.zeros(len(self.values))
        own = diagonal(self.gram)
        falling, rising = (
            _smallest(self.values[side], none[side], own[side], scanned, self.flips, sign)
            for side, sign in ((upper, 1), (lower, -1))
        )
        return float(scanned[int((falling + rising).argmin())])

    def chosen(self, t: float, spare: int) -> tuple[npt.NDArray[np.int64], Floats]:
        """(N,) the cheapest bits to take past t, `flips` and `spare` of each side; ±1, whither."""
        own, rows, signs = diagonal(self.gram), [], []
        for side, sign in ((self.bits, -1.0), (~self.bits, 1.0)):
            places = np.flatnonzero(side)
            far = np.maximum(sign * (t - self.values[places]), 0)
            rows.append(places[np.argsort(far**2 / own[places])[: self.flips + spare]])
            signs.append(np.full(len(rows[-1]), sign))
        return np.concatenate(rows), np.concatenate(signs)

    def weights(self, t: float, *, margin: float, spare: int = 0) -> Floats:
        """(K,) the least change δ = Mᵀ weights that takes the chosen bits past t.

        margin: how far past it, as a share of their mean distance to it; at least a hair's breadth
        spare:  bits of each side beside those that must flip
        """
        rows, signs = self.chosen(t, spare)
        far = np.maximum(signs * (t - self.values[rows]), 0)
        wanted = far + max(margin * float(far.mean()), 1e-7 * float(np.std(self.values)))
        signed = self.gram[np.ix_(rows, rows)] * signs[:, None] * signs[None]
        signed += NOTHING * self.gram.diagonal().max() * np.eye(len(rows))
        weights = np.zeros(len(self.values))
        weights[rows] = signs * _least_norm(signed, wanted)
        return weights


def diagonal(gram: Floats) -> Floats:
    """(K,) of M Mᵀ, above 0 also where no pixel moves a value, as in a picture of 16 pixels."""
    own = np.diag(gram)
    return np.asarray(np.maximum(own, NOTHING * own.max() + TINY))


def majorants(gram: Floats) -> list[Floats]:
    """Diagonals E ≽ M Mᵀ: by its rows, and by its scaled largest eigenvalue."""
    own = diagonal(gram)
    scale = np.sqrt(own)
    largest = scipy.linalg.eigh(
        gram / scale[:, None] / scale[None],
        eigvals_only=True,
        subset_by_index=[len(own) - 1, len(own) - 1],
    )[0]
    return [np.maximum(np.abs(gram).sum(axis=1), own), own * largest * (1 + 1e-9)]


def _bound(
    values: Floats,
    upper: npt.NDArray[np.int64],
    lower: npt.NDArray[np.int64],
    gram: Floats,
    flips: int,
    rounding: Floats,
) -> tuple[float, float]:
    """The proven bound, and the t at which the scan is lowest."""
    best, place = 0.0, 0.0
    scanned = _scan(values, upper, lower)
    for majorant in majorants(gram):
        falling = _smallest(values[upper], rounding[upper], majorant[upper], scanned, flips, 1)
        rising = _smallest(values[lower], rounding[lower], majorant[lower], scanned, flips, -1)
        between = falling[1:] + rising[:-1]
        # below the scan the falling sum is at least its first value, above it the rising its last
        lowest = min(float(between.min()), float(falling[0]), float(rising[-1]))
        if np.sqrt(lowest) >= best:
            best = float(np.sqrt(lowest))
            place = float(scanned[int((falling + rising).argmin())])
    return best, place


def _scan(
    values: Floats,
    upper: npt.NDArray[np.int64],
    lower: npt.NDArray[np.int64],
    count: int = SCANNED,
) -> Floats:
    """Values of t, ascending, denser where the median is now."""
    middle = (values[upper].min() + values[lower].max()) / 2
    reach = np.abs(values - middle).max()
    half = np.geomspace(reach * 1e-6, reach, count // 2)
    return np.concatenate([middle - half[::-1], [middle], middle + half])


def _smallest(
    values: Floats, rounding: Floats, majorant: Floats, scanned: Floats, flips: int, sign: int
) -> Floats:
    """(S,) sums of the `flips` smallest costs at each t: to come below it, or above for −1."""
    far = np.maximum(sign * (values[None] - scanned[:, None]) - rounding, 0)
    costs = far**2 / majorant
    return np.asarray(np.partition(costs, flips - 1, axis=1)[:, :flips].sum(axis=1))


def _attack(linear: LinearHash, aim: Aim, start: float) -> tuple[float, Floats]:
    """The least L2 of quadratic programs on the cheapest bits at several t, and its change."""
    spread = float(np.std(aim.values))

    def norm(t: float) -> float:
        weights = aim.weights(t, margin=0)
        return math.sqrt(max(float(weights @ aim.gram @ weights), 0))

    bracket = (start - 0.02 * spread, start + 0.02 * spread)
    result = scipy.optimize.minimize_scalar(norm, bracket=bracket, options={"maxiter": 30})
    change = linear.picture(aim.weights(min(start, float(result.x), key=norm), margin=0))
    return float(np.sqrt((change**2).sum())), change


def _least_norm(gram: Floats, wanted: Floats) -> Floats:
    """The multipliers λ ≥ 0 of the least ‖δ‖ with B δ ≥ wanted, δ = Bᵀ λ, where B Bᵀ = gram.

    The dual problem, min over λ ≥ 0 of λᵀ B Bᵀ λ / 2 − wantedᵀ λ, is one of non-negative least
    squares.
    """
    factor = np.linalg.cholesky(gram)
    target = scipy.linalg.solve_triangular(factor, wanted, lower=True)
    multipliers, _ = scipy.optimize.nnls(factor.T, target, maxiter=50 * len(gram))
    return np.asarray(multipliers)


def _reach(down: Floats, across: Floats) -> Floats:
    """(R,C) how far values move where every pixel moves by 1."""
    return np.asarray(np.outer(np.abs(down).sum(axis=1), np.abs(across).sum(axis=1)))


def _rounded_twice(down: Floats, across: Floats, before: float = 0.0) -> float:
    """How far a resized pixel can lie from that of the map: both passes round to whole levels.

    before: how far the pixels of the larger picture already do
    """
    sums = [float(np.abs(matrix).sum(axis=1).max()) for matrix in (down, across)]
    return max((before * sums[first] + 0.5) * sums[1 - first] + 0.5 for first in (0, 1))


def _resampling(size: int, new_size: int, name: Filter) -> Floats:
    """(new_size,size) the weights of Pillow's filter; the identity where nothing changes."""
    if size == new_size:
        return np.eye(size)
    weights: Floats = filter_weights(size, new_size, name) / 2**PRECISION
    return weights
