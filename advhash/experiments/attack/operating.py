"""Collision and evasion at an operating point: a threshold on the Hamming distance.

Deduplication and moderation take two pictures for one where their codes are at most T bits apart. T
is the user's, or it is set on clean data, as the largest with at most a stated share of false
positives: of pairs of a validation picture and a database picture that show different things. What
it reaches is counted on clean queries, which it was not set on. PDQ's practice stands beside it: 31
of 256 bits, for codes of other lengths the same share.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.attacks.base import AttackData
from advhash.codes.hamming import DistanceHistograms, histograms
from advhash.codes.packed import HashCodes
from advhash.data.codec import through_codec
from advhash.data.dataset import Dataset
from advhash.data.images.mixed import MixedPictures
from advhash.errors import UsageError
from advhash.experiments.attack.columns import Columns
from advhash.experiments.config import AttackProtocol
from advhash.measures.intervals import Metric, mean_metric, rate_metric, single_metric
from advhash.shared_labels import Labels, are_groups, label_numbers
from advhash.victims.base import HashVictim

Floats = npt.NDArray[np.float64]
CODECS: Mapping[str, int | None] = {"png": None, "jpeg90": 90, "jpeg75": 75}
BITS = "bits_"  # prefix of the columns of distances


def names_pictures(labels: Tensor) -> bool:
    """Whether each of (M,C) labels is that of one row only, as in a set of near-duplicates."""
    if are_groups(labels):
        return bool((labels[labels >= 0].unique(return_counts=True)[1] <= 1).all())
    return bool((labels.sum(dim=0) <= 1).all())


def originals(data: Dataset) -> list[int] | None:
    """The database rows that the queries were made from, each once, in the order of the queries.

    None where they were made from none: the data do not say that they are altered copies, labels
    do not name one picture each, or not every query has a row with its label.
    """
    labels = data.database.labels
    if "variants" not in data.card or not names_pictures(labels):
        return None
    places = {label: row for row, own in enumerate(labels.numpy()) for label in label_numbers(own)}
    rows: list[int] = []
    for own in data.query.labels.numpy():
        same = {places.get(label, -1) for label in label_numbers(own)}
        if len(same) != 1 or -1 in same:
            return None
        rows += same
    return list(dict.fromkeys(rows))


def started(protocol: AttackProtocol, data: Dataset) -> Dataset:
    """The data whose queries are what the attack starts from: each original once, or the copies."""
    rows = originals(data) if protocol.start == "originals" else None
    return data if rows is None else replace(data, query=data.database.take(torch.tensor(rows)))


def check_threshold(protocol: AttackProtocol, victim: HashVictim, data: Dataset) -> dict[str, str]:
    """What `protocol.start` becomes. Raises UsageError for a threshold or a start that cannot be.

    A threshold needs labels that name one picture each, a start also queries that are altered
    copies; other queries, such as a second photograph of a thing, are attacked as they are.
    """
    judged = protocol.query_modality == "image" and names_pictures(data.database.labels)
    asked = {"--threshold": protocol.threshold, "protocol.start": protocol.start}
    given = [name for name, value in asked.items() if value is not None]
    if given and not judged:
        raise UsageError(
            f"{given[0]}: expected pictures whose labels name one picture each, got "
            f"{protocol.query_modality} queries of {data.name}; take --dataset near_duplicates, "
            "for pictures of your own with --set dataset.root=FOLDER"
        )
    if protocol.threshold is not None and protocol.threshold > victim.bits:
        raise UsageError(
            f"--threshold: expected at most {victim.bits} bits, as many as the codes have, got "
            f"{protocol.threshold}"
        )
    if not judged:
        return {}
    if originals(data) is not None:
        return {"start": protocol.start or "originals"}
    if protocol.start is not None:
        raise UsageError(
            f"protocol.start: expected queries that are altered copies of pictures, got "
            f"{data.name}; leave it out, then they are attacked as they are"
        )
    return {}


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
    own: Labels,
    targets: Labels | None,
) -> Columns:
    """(N,) bits between each query and the nearest database row with the labels that count.

    bits_clean, bits_adversarial: before and after the attack; bits_png, bits_jpeg90, bits_jpeg75:
    of the attacked picture that was saved and read again. The labels that count are those of its
    target or, without `targets`, its `own`. bits_own: with targets, from the attacked query to the
    nearest row with its own labels.
    """
    seen = {"clean": clean_codes, "adversarial": codes}
    for name, quality in CODECS.items():
        way = functools.partial(through_codec, quality=quality)
        seen[name] = victim.encode_pictures(moved, "image", way)
    wanted = own if targets is None else targets

    columns = {BITS + name: nearest(seen_codes, data, wanted) for name, seen_codes in seen.items()}
    return columns if targets is None else {**columns, BITS + "own": nearest(codes, data, own)}


def nearest(codes: HashCodes, data: AttackData, labels: Labels) -> Floats:
    """(N,) bits to the nearest database row with these labels (N,…); NaN where there is none."""
    related = histograms(codes, data.codes, labels, data.labels.numpy()).relevant > 0
    place = related.argmax(axis=1).astype(np.float64)
    return np.where(related.any(axis=1), place, np.nan)


def hits(far: Floats, threshold: float | None, *, targeted: bool) -> Floats:
    """(N,) 1 where a distance in bits is a success at a threshold, else 0; NaN where none is known.

    A targeted attack wants its target within the threshold, an untargeted one its own picture
    beyond it.
    """
    unknown = np.isnan(far) | (threshold is None)
    return np.where(unknown, np.nan, (far <= (threshold or 0)) == targeted)


def operating_metrics(
    columns: Columns,
    data: AttackData,
    victim: HashVictim,
    protocol: AttackProtocol,
    *,
    targeted: bool,
    seed: int,
) -> tuple[dict[str, Metric | None], Columns]:
    """Shares of queries that evade (untargeted) or collide (targeted), with exact intervals.

    threshold_bits, false_positives: T, which the protocol gives or its rate sets, and its share of
        false positives among pairs of a clean query and a database row; `_held_out` of the
        validation pictures, on which T is set. Where no query has one, the interval is that of
        queries that have any, which is more than their share of pairs
    evasion_rate, collision_rate: more than T bits from the own picture, at most T from the target;
        `_clean` before the attack, `_png` and `_jpeg…` of the file, `_pdq` at PDQ's threshold
    bits_clean, bits_adversarial, bits_own: the mean distances themselves

    The second result is the column of the main share: 1 for each query that does, 0 for the others.
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
    threshold = protocol.threshold
    if threshold is None:
        threshold = operating_threshold(clean[0], protocol.false_positive_rate)
    held_share, share = (false_positives(counts, threshold) for counts in clean)
    name = "collision_rate" if targeted else "evasion_rate"

    def succeeded(seen: str, bits: int | None) -> Floats:
        return hits(columns[BITS + seen], bits, targeted=targeted)

    def rate_of(seen: str, bits: int | None) -> Metric | None:
        return None if bits is None else rate_metric(succeeded(seen, bits), seed)

    pdq = pdq_threshold(victim.bits)
    distances = [BITS + seen for seen in ("clean", "adversarial", "own") if BITS + seen in columns]
    metrics = {
        name: rate_of("adversarial", threshold),
        f"{name}_clean": rate_of("clean", threshold),
        "threshold_bits": single_metric(threshold),
        **{distance: mean_metric(columns[distance], seed) for distance in distances},
        "false_positives": rate_metric(share, seed),
        "false_positives_held_out": rate_metric(held_share, seed),
        **{f"{name}_{codec}": rate_of(codec, threshold) for codec in CODECS},
        f"{name}_clean_pdq": rate_of("clean", pdq),
        f"{name}_pdq": rate_of("adversarial", pdq),
    }
    return metrics, {} if threshold is None else {name: succeeded("adversarial", threshold)}
