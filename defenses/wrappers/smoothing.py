"""Randomised smoothing of each bit, and what it certifies about Hamming distances.

Cohen et al. (ICML 2019) smooth a classifier; here each bit is a classifier of two classes. The
theorem, its proof and what is certified of whom: docs/defenses/smoothing.md.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import beta, binom, norm
from torch import Tensor

from advhash.budget import clipped
from advhash.codes.packed import HashCodes
from advhash.compute.progress import Progress, silent
from advhash.defenses.base import Wrapping
from advhash.defenses.wrappers.wrapped import Voted
from advhash.errors import UsageError
from advhash.registry import DEFENSES
from advhash.victims.base import HashVictim, expect_positive

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]


@functools.lru_cache(maxsize=4)
def noise_set(votes: int, shape: tuple[int, ...], seed: int) -> Tensor:
    """(votes, *shape) standard normal, the same for every picture."""
    return torch.randn(votes, *shape, generator=torch.Generator().manual_seed(seed))


class Smoothed(Voted):
    """`victim` on a picture under `votes` draws of Gaussian noise; the majority decides each bit.

    sigma: standard deviation of the noise, in [0,1] pixels; noisy pixels are clipped to the bounds
    """

    def __init__(self, victim: HashVictim, *, sigma: float, votes: int, seed: int) -> None:
        super().__init__(victim)
        self.sigma, self.votes, self.seed = sigma, votes, seed

    def views(self, images: Tensor) -> Iterator[Tensor]:
        for noise in noise_set(self.votes, tuple(images.shape[1:]), self.seed):
            yield clipped(images + self.sigma * noise.to(images), self.bounds["image"])


@DEFENSES.register("smoothing", source="Cohen et al., ICML 2019, bit by bit")
class Smoothing(Wrapping):
    """Each bit is the majority of that bit over codes of the picture under Gaussian noise.

    sigma: standard deviation of the noise, in [0,1] pixels
    votes: number of noisy copies; odd, so that no bit can tie
    seed:  draws the noise, once: it is the same for every picture, and the attacker knows it

    `certify` bounds how many bits any attack in an L2 ball can flip.

    Deviations:
    - K bits instead of one class: level α/K each, and what is certified is a Hamming distance
    - the served code votes over noise that stays, so that a picture has one code; the certificate
      holds for the ideal smoothed hash, and for a server that draws its noise anew
    - the victim was not trained under noise, unless it was hardened so before
    - noisy pixels are clipped to [0,1], as victims expect
    """

    def __init__(self, *, sigma: float = 0.25, votes: int = 25, seed: int = 0) -> None:
        expect_positive(sigma=sigma, votes=votes)
        self.sigma, self.votes, self.seed = sigma, votes, seed

    def wrap(self, victim: HashVictim) -> HashVictim:
        """Raises UsageError: a victim that is smoothed already."""
        if any(isinstance(part, Smoothed) for part in victim.modules()):
            raise UsageError("the victim is smoothed already: expected one that is not")
        return Smoothed(victim, sigma=self.sigma, votes=self.votes, seed=self.seed)


@dataclass(frozen=True, eq=False)
class Certificate:
    """What is known of the ideal smoothed codes of N pictures, with probability ≥ 1 − α each.

    codes: (N,) the likelier value of each bit, from the samples of the selection
    lower: (N,K) p̲, a lower bound of the probability of that value under noise, at level α/K
    sigma: standard deviation of the noise, in [0,1] pixels
    alpha: for each picture, the chance that any of its K bounds is wrong
    """

    codes: HashCodes
    lower: Floats
    sigma: float
    alpha: float

    @property
    def radii(self) -> Floats:
        """(N,K) L2 radius inside which the bit cannot flip: σ·Φ⁻¹(p̲); 0 where p̲ ≤ 1/2."""
        return np.asarray(self.sigma * np.maximum(norm.ppf(self.lower), 0.0))

    def held(self, radius: float) -> Bools:
        """(N,K) whether no δ of ‖δ‖₂ ≤ radius flips the bit of the ideal smoothed hash.

        Raises ValueError: a negative radius.
        """
        if radius < 0:
            raise ValueError(f"expected a radius >= 0, got {radius:g}")
        return np.asarray(self.radii > radius)

    def held_when_served(self, radius: float, *, votes: int, level: float) -> Bools:
        """(N,K) the bits that a server with fresh noise gives as in `codes`, all at once.

        votes: draws of noise per request, independent of the picture that is sent
        level: the chance, for a picture in the ball, that any of the kept bits is served wrongly

        A bit of the moved picture keeps its value with probability q ≥ Φ(Φ⁻¹(p̲) − radius/σ) in each
        draw, so the vote errs with at most P[Bin(votes, q) ≤ votes/2]. Bits are kept from the
        safest on, as long as these chances add up to at most `level`.

        Raises ValueError: a negative radius, no votes, a level outside (0,1).
        """
        if votes < 1 or not 0 < level < 1:
            raise ValueError(f"expected votes >= 1 and level in (0,1), got {votes} and {level:g}")
        margin = norm.ppf(self.lower) - radius / self.sigma
        errors = np.where(self.held(radius), binom.cdf(votes // 2, votes, norm.cdf(margin)), 1.0)
        order = np.argsort(errors, axis=1)
        total = np.cumsum(np.take_along_axis(errors, order, axis=1), axis=1)
        kept = np.zeros(errors.shape, dtype=np.bool_)
        np.put_along_axis(kept, order, total <= level, axis=1)
        return kept

    def flips(self, radius: float) -> Rows:
        """(N,) bound on the Hamming distance to `codes` after any attack within `radius`.

        For the ideal smoothed hash. Bits on which the certificate abstains count as flipped.
        """
        return np.asarray((~self.held(radius)).sum(axis=1))


def certify(
    victim: HashVictim,
    images: Tensor,
    *,
    samples: int = 1000,
    selection: int = 100,
    alpha: float = 0.001,
    seed: int = 0,
    batch_size: int = 256,
    first: int = 0,
    progress: Progress = silent,
) -> Certificate:
    """A certificate of the ideal smoothed code of each of (N,3,H,W) images in [0,1].

    samples:    fresh draws of noise per image that estimate p̲ (Clopper–Pearson, 1934)
    selection:  draws before these, which choose the value of each bit
    alpha:      for each image, the chance that any of its bounds is wrong
    batch_size: noisy copies that are hashed at a time
    first:      row of the first image, where these are a part of more

    The result of an image depends on the seed, its row and itself, on no other image. No radius
    above `largest_radius` can come out.

    Raises UsageError: the outermost defence of the victim is not `smoothing`; ValueError: samples,
    selection or batch_size below 1, alpha outside (0,1).
    """
    if not isinstance(victim, Smoothed):
        raise UsageError(
            f"only randomised smoothing certifies: expected a victim whose last defence is "
            f"'smoothing', got {type(victim).__name__}; wrap it with --defense smoothing"
        )
    if min(samples, selection, batch_size) < 1 or not 0 < alpha < 1:
        raise ValueError(
            "expected samples, selection, batch_size >= 1 and alpha in (0,1), "
            f"got {samples}, {selection}, {batch_size} and {alpha:g}"
        )
    chosen = np.zeros((len(images), victim.bits), dtype=np.bool_)
    agreeing = np.zeros((len(images), victim.bits), dtype=np.int64)
    for row, image in enumerate(images):
        draws = np.random.SeedSequence([seed, first + row]).generate_state(1, np.uint64)
        generator = torch.Generator().manual_seed(int(draws[0] >> np.uint64(1)))
        ones = _ones(victim, image, selection, generator, batch_size)
        chosen[row] = 2 * ones > selection
        ones = _ones(victim, image, samples, generator, batch_size)
        agreeing[row] = np.where(chosen[row], ones, samples - ones)
        progress("certify", row + 1, len(images))
    # Clopper–Pearson: the α/K quantile of Beta(k, n − k + 1); 0 where nothing agreed
    bound = beta.ppf(alpha / victim.bits, np.maximum(agreeing, 1), samples - agreeing + 1)
    lower = np.where(agreeing > 0, bound, 0.0)
    return Certificate(HashCodes.pack(chosen), lower, victim.sigma, alpha)


def largest_radius(sigma: float, samples: int, alpha: float, bits: int) -> float:
    """σ·Φ⁻¹((α/K)^(1/samples)), where all samples agree: no greater radius can come out.

    >>> round(largest_radius(0.25, 1000, 0.001, 32), 2)
    0.58
    """
    return max(0.0, float(sigma * norm.ppf((alpha / bits) ** (1 / samples))))


def _ones(
    victim: Smoothed, image: Tensor, count: int, generator: torch.Generator, batch_size: int
) -> Rows:
    """(K,) in how many of `count` noisy copies of one image each bit is 1."""
    low, high = victim.bounds["image"]
    total = np.zeros(victim.bits, dtype=np.int64)
    for start in range(0, count, batch_size):
        size = min(batch_size, count - start)
        noise = torch.randn(size, *image.shape, generator=generator).to(image)
        noisy = (image + victim.sigma * noise).clamp(low, high)
        total += victim.victim.encode(noisy, "image").unpack().sum(axis=0)
    return total


def certified_recall(
    held: Bools, codes: HashCodes, database: HashCodes, relevant: Bools, within: int
) -> Floats:
    """(N,) share of the relevant rows that stay within a Hamming radius whatever the attack does.

    held:     (N,K) bits of the queries that no attack flips: `Certificate.held` and the like
    codes:    (N,) the queries' certified codes
    database: (M,) the codes that are stored; they are not under attack
    relevant: (N,M)
    within:   T, the Hamming radius that is searched

    A row stays if even the worst code is near enough: the held bits in which it differs and all
    bits that are not held come to at most T. NaN for a query without a relevant row.

    >>> held = np.array([[True, True, False]])
    >>> query, rows = HashCodes.pack([[1, 1, 1]]), HashCodes.pack([[1, 1, 0], [1, 0, 1]])
    >>> certified_recall(held, query, rows, np.array([[True, True]]), within=1).tolist()
    [0.5]

    Raises ValueError: shapes or bits that do not fit.
    """
    shape = (len(codes), len(database))
    if held.shape != (len(codes), codes.bits) or relevant.shape != shape:
        raise ValueError(
            f"expected held {(len(codes), codes.bits)} and relevant {shape}, "
            f"got {held.shape} and {relevant.shape}"
        )
    if codes.bits != database.bits:
        raise ValueError(f"expected codes of {database.bits} bits, got {codes.bits}")
    agreement = (codes.signs() * held) @ database.signs().T  # held bits: equal − different
    different = (held.sum(axis=1, keepdims=True) - agreement) / 2
    worst = different + (~held).sum(axis=1, keepdims=True)
    kept = ((worst <= within) & relevant).sum(axis=1)
    count = relevant.sum(axis=1)
    return np.where(count > 0, kept / np.maximum(count, 1), np.nan)
