"""Collision and evasion at an operating point: a threshold on the Hamming distance.

Deduplication and moderation take two pictures for one where their codes are at most T bits apart. T
is set on clean data, as the largest with at most a stated share of false positives: of pairs of a
validation picture and a database picture that show different things. What it reaches is counted on
clean queries, which it was not set on. PDQ's practice stands beside it: 31 of 256 bits, for codes
of other lengths the same share.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from torch import Tensor

from advhash.attacks.base import AttackData
from advhash.codes.hamming import DistanceHistograms, histograms
from advhash.codes.packed import HashCodes
from advhash.data.codec import through_codec
from advhash.data.images.mixed import MixedPictures
from advhash.experiments.attack.columns import Columns
from advhash.measures.intervals import Metric, mean_metric, rate_metric, single_metric
from advhash.shared_labels import Labels, are_groups
from advhash.victims.base import HashVictim

Floats = npt.NDArray[np.float64]
CODECS: Mapping[str, int | None] = {"png": None, "jpeg90": 90, "jpeg75": 75}
BITS = "bits_"  # prefix of the columns of distances


def names_pictures(labels: Tensor) -> bool:
    """Whether each of (M,C) labels is that of one row only, as in a set of near-duplicates."""
    if are_groups(labels):
        return bool((labels[labels >= 0].unique(return_counts=True)[1] <= 1).all())
    return bool((labels.sum(dim=0) <= 1).all())


def pdq_threshold(bits: int) -> int:
    """31 of 256 bits, or as many of K.

    >>> pdq_threshold(256), pdq_threshold(64)
    (31, 7)
    """
    return 31 * bits // 256


def unrelated_within(
    counts: DistanceHistograms,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(N,K+1) unrelated rows within 0 … K bits of each of N clean pictures, and (N,) all of them.

    counts: of N clean pictures and the database; its relevant rows show the same thing
    """
    unrelated = counts.total - counts.relevant
    return unrelated.cumsum(axis=1), unrelated.sum(axis=1)


def operating_threshold(counts: DistanceHistograms, rate: float) -> int | None:
    """The largest T with at most `rate` of the unrelated pairs within it.

    None where more pairs than that have equal codes, or none is unrelated.
    """
    within, total = unrelated_within(counts)
    allowed = np.flatnonzero(within.sum(axis=0) <= rate * total.sum())
    return int(allowed[-1]) if len(allowed) and total.sum() else None


def false_positives(counts: DistanceHistograms, threshold: int | None) -> Floats:
    """(N,) share of its unrelated rows within T of each; NaN where there are none, or no T is."""
    within, total = unrelated_within(counts)
    share = np.full(len(within), np.nan)
    if threshold is not None:
        np.divide(within[:, threshold], total, out=share, where=total > 0)
    return share


def operating_columns(
    victim: HashVictim,
    moved: Tensor | MixedPictures,
    clean_codes: HashCodes,
    codes: HashCodes,
    data: AttackData,
    wanted: Labels,
) -> Columns:
    """(N,) bits between each query and the nearest database row with its `wanted` labels.

    bits_clean, bits_adversarial: before and after the attack; bits_png, bits_jpeg90, bits_jpeg75:
    of the attacked picture that was saved and read again. wanted: (N,C) the query's own labels, or
    those of its target.
    """
    seen = {"clean": clean_codes, "adversarial": codes}
    for name, quality in CODECS.items():
        way = functools.partial(through_codec, quality=quality)
        seen[name] = victim.encode_pictures(moved, "image", way)
    columns = {}
    for name, hits in seen.items():
        related = histograms(hits, data.codes, wanted, data.labels.numpy()).relevant > 0
        nearest = related.argmax(axis=1).astype(np.float64)
        columns[BITS + name] = np.where(related.any(axis=1), nearest, np.nan)
    return columns


def operating_metrics(
    columns: Columns,
    data: AttackData,
    victim: HashVictim,
    rate: float,
    *,
    targeted: bool,
    seed: int,
) -> dict[str, Metric | None]:
    """Shares of queries that evade (untargeted) or collide (targeted), with exact intervals.

    threshold_bits, false_positives: T, and its share of false positives among pairs of a clean
        query and a database row; `_held_out` of the validation pictures that T was set on
    evasion_rate, collision_rate: more than T bits from the own picture, at most T from the target;
        `_clean` before the attack, `_png` and `_jpeg…` of the file, `_pdq` at PDQ's threshold
    bits_clean, bits_adversarial: the mean distances themselves
    """
    held_out, other = data.dataset.validation, data.dataset.query
    clean = [
        histograms(
            victim.encode_split(split, "image"),
            data.codes,
            split.labels.numpy(),
            data.labels.numpy(),
        )
        for split in (held_out, other)
    ]
    threshold = operating_threshold(clean[0], rate)
    held_share, share = (false_positives(counts, threshold) for counts in clean)
    name = "collision_rate" if targeted else "evasion_rate"

    def rate_of(seen: str, bits: int | None) -> Metric | None:
        if bits is None:
            return None
        far = columns[BITS + seen]
        hit = np.where(np.isnan(far), np.nan, (far <= bits) == targeted)
        return rate_metric(hit.astype(np.float64), seed)

    pdq = pdq_threshold(victim.bits)
    return {
        "threshold_bits": single_metric(threshold),
        "false_positives": mean_metric(share, seed),
        "false_positives_held_out": mean_metric(held_share, seed),
        f"{name}_clean": rate_of("clean", threshold),
        name: rate_of("adversarial", threshold),
        **{f"{name}_{codec}": rate_of(codec, threshold) for codec in CODECS},
        f"{name}_clean_pdq": rate_of("clean", pdq),
        f"{name}_pdq": rate_of("adversarial", pdq),
        "bits_clean": mean_metric(columns[BITS + "clean"], seed),
        "bits_adversarial": mean_metric(columns[BITS + "adversarial"], seed),
    }
