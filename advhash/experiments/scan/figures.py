"""The figures of one hash on the pictures of a scan."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from advhash.codes.close_pairs import ClosePairs, close_pairs, clusters
from advhash.data.images.edits import EDITS
from advhash.experiments.scan.bank import Bank, bank_figures, crowded_rows
from advhash.experiments.scan.collected import Collected
from advhash.measures.false_positives import Rates, lookup_bound, lookup_rate, rate_among
from advhash.measures.intervals import Metric, rate_metric
from advhash.reports.scan import AtThreshold, EvasionFigures, HashFigures, Pair, Recommended

NEAREST = 100  # pairs that a record lists
LEAST_PICTURES = 100  # that differ, for a threshold to be recommended
Rows = npt.NDArray[np.int64]


def hash_figures(
    label: str,
    scanned: Collected,
    names: Sequence[str],
    *,
    edges: Rows,
    marked: Rows,
    good: npt.NDArray[np.bool_],
    with_marked: Rates,
    rates: Rates,
    threshold: int | None,
    chosen: Literal["given", "interval", "estimate"],
    bank: Bank | None,
    bank_size: int | None,
    evasion: EvasionFigures | None,
    seed: int,
) -> HashFigures:
    """What one hash does at its threshold, and at others.

    names: of the distinct pictures, among which all pairs are compared; good: (N,) whether each is
    of good quality; marked: (P,2) rows of pairs that show the same
    """
    codes = scanned.codes[label][scanned.distinct]
    count = len(codes)
    listed = close_pairs(codes, edges, _listed_to(with_marked))
    same = {(int(one), int(other)) for one, other in marked}
    size = bank_size or (len(bank.codes) if bank else max(count - 1, 1))
    figures = HashFigures(
        label=label,
        bits=codes.bits,
        threshold=threshold,
        chosen=chosen,
        false_positive_rate=None,
        false_positive_rate_with_marked=None,
        false_positive_rate_good=None,
        resolved=False,
        lookup_rate=None,
        bank_size=size,
        curve=_curve(rates, threshold),
        edits={},
        kept=None,
        worst_edit=None,
        pairs_within=0,
        matched_pictures=0,
        clusters=0,
        largest_cluster=0,
        nearest=_nearest(listed, names, same),
        crowded=[],
        bank=None,
        evasion_at=evasion,
    )
    if threshold is None:
        return figures
    close = close_pairs(codes, edges, threshold)
    matches = close.counts.sum(axis=1)
    numbers = clusters(count, close)
    sizes = np.bincount(numbers, minlength=1)
    unmarked = _without(close, marked, edges)
    kept = edit_rates(scanned, label, threshold, seed)
    worst = min(kept, key=lambda name: (kept[name].value or 0, name)) if kept else None
    return figures.model_copy(
        update={
            "false_positive_rate": rates.metric(threshold),
            "false_positive_rate_with_marked": with_marked.metric(threshold),
            "false_positive_rate_good": _good_rate(
                close, good, same, edges, rates, threshold, seed
            ),
            "resolved": bool(rates.resolved[threshold]),
            "lookup_rate": _lookup_rate(unmarked, edges, size, rates, threshold),
            "edits": kept,
            "kept": _mean_over_kinds(kept),
            "worst_edit": worst,
            "pairs_within": int(matches.sum()) // 2,
            "matched_pictures": int((matches > 0).sum()),
            "clusters": int((sizes > 1).sum()),
            "largest_cluster": int(sizes.max()) if sizes.max() > 1 else 0,
            "crowded": crowded_rows(matches, list(names), max(count - 1, 1)),
            "bank": bank and bank_figures(codes, list(names), bank, threshold),
        }
    )


def _listed_to(rates: Rates) -> int:
    """The threshold to which pairs are listed: at least NEAREST of them, where there are."""
    enough = np.flatnonzero(rates.value * rates.pairs >= NEAREST)
    return int(enough[0]) if len(enough) else len(rates.value) - 1


def _curve(rates: Rates, threshold: int | None) -> list[AtThreshold]:
    """To a third of the bits, or to the threshold where that lies beyond."""
    last = max((len(rates.value) - 1) // 3, threshold or 0)
    return [
        AtThreshold(
            threshold=level,
            value=float(rates.value[level]),
            low=float(rates.low[level]),
            high=float(rates.high[level]),
            resolved=bool(rates.resolved[level]),
        )
        for level in range(last + 1)
    ]


def _nearest(listed: ClosePairs, names: Sequence[str], same: set[tuple[int, int]]) -> list[Pair]:
    return [
        Pair(
            first=names[one],
            second=names[other],
            distance=int(far),
            marked=(int(one), int(other)) in same,
        )
        for one, other, far in zip(
            listed.first[:NEAREST], listed.second[:NEAREST], listed.far[:NEAREST], strict=True
        )
    ]


def _without(close: ClosePairs, marked: Rows, edges: Rows) -> npt.NDArray[np.int32]:
    """Close pictures of each picture by group, those left out that show the same."""
    counts = close.counts.copy()
    if len(marked):
        key = close.first * (edges[-1] + 1) + close.second
        known = np.isin(marked[:, 0] * (edges[-1] + 1) + marked[:, 1], key)
        of_row = np.searchsorted(edges, marked, side="right") - 1
        for (one, other), (group, other_group) in zip(marked[known], of_row[known], strict=True):
            counts[one, other_group] -= 1
            counts[other, group] -= 1
    return counts


def _lookup_rate(
    unmarked: npt.NDArray[np.int32], edges: Rows, size: int, rates: Rates, threshold: int
) -> Metric:
    """False matches per look-up; a bound alone where the rate per comparison is one."""
    share = lookup_rate(unmarked, edges, size)
    if rates.resolved[threshold]:
        return share
    bound = lookup_bound(float(rates.high[threshold]), size)
    return Metric(share.value, None, max(bound, share.value or 0), share.n)


def _good_rate(
    close: ClosePairs,
    good: npt.NDArray[np.bool_],
    same: set[tuple[int, int]],
    edges: Rows,
    rates: Rates,
    threshold: int,
    seed: int,
) -> Metric | None:
    """The rate among pictures of good quality; None where pairs are missing in the list or nothing
    is left."""
    if not close.listed_all or int(good.sum()) < 2:
        return None
    pairs = [
        (int(one), int(other))
        for one, other in zip(close.first, close.second, strict=True)
        if (int(one), int(other)) not in same
    ]
    false = np.array(pairs, np.int64).reshape(-1, 2)
    return rate_among(good, false, edges, rates, threshold, seed)


def edit_rates(scanned: Collected, label: str, threshold: int, seed: int) -> dict[str, Metric]:
    """Share of the edited pictures that still match their own, by edit."""
    if not len(scanned.edited):
        return {}
    near = scanned.edit_distances(label) <= threshold
    return {name: rate_metric(near[:, place], seed) for place, name in enumerate(EDITS)}


def _mean_over_kinds(kept: Mapping[str, Metric]) -> float | None:
    """Every kind of edit counts once, however many edits it has."""
    kinds: dict[str, list[float]] = {}
    for name, metric in kept.items():
        kinds.setdefault(EDITS[name].kind, []).append(metric.value or 0)
    return float(np.mean([np.mean(values) for values in kinds.values()])) if kinds else None


def recommended(hashes: Sequence[HashFigures], rate: float, pictures: int) -> Recommended:
    """The hash that keeps most edited pictures at its threshold, among those that have one.

    pictures: that differ, among which all pairs were compared
    """
    usable = [
        each for each in hashes
        if each.threshold is not None
        and each.false_positive_rate is not None
        and (each.false_positive_rate.high or 0) <= rate
    ]  # fmt: skip
    if not usable:
        return Recommended(
            hash=None,
            threshold=None,
            reason=f"No hash has a threshold here whose false positives are certain to stay below "
            f"{rate:g} per comparison{_missing(hashes, rate, pictures)}",
        )
    best = max(usable, key=lambda each: (each.kept or 0, -(each.threshold or 0)))
    doubt = _unresolved(best, rate, pictures)
    if doubt is not None:
        return Recommended(hash=None, threshold=None, reason=doubt)
    high = (best.false_positive_rate or Metric()).high or 0
    threshold = "the threshold that you gave" if best.chosen == "given" else "the largest threshold"
    reason = (
        f"Recommended: {best.label} at {best.threshold} of {best.bits} bits, {threshold} "
        f"whose false positives stay below {rate:g} per comparison with the whole of their "
        f"interval (upper end {high:.2g})"
    )
    if best.kept is not None:
        others = [
            f"{each.label} {100 * (each.kept or 0):.1f} %" for each in usable if each is not best
        ]
        beside = f", more than {', '.join(others)}" if others else ""
        reason += f"; there it still finds {100 * best.kept:.1f} % of edited pictures{beside}"
    return Recommended(hash=best.label, threshold=best.threshold, reason=reason + ".")


def _unresolved(best: HashFigures, rate: float, pictures: int) -> str | None:
    """Why the pictures recommend no threshold although an interval keeps to the rate; else None.

    An interval of few pictures covers too little, and a rate that is the lowest that the pictures
    show was chosen by the pictures themselves.
    """
    few = pictures < LEAST_PICTURES
    if not few and (best.chosen == "given" or rate > _rounded_up(_least_bound(best))):
        return None
    without = max((at.threshold for at in best.curve if at.value == 0), default=None)
    largest = (
        f"No threshold of {best.label} is without a false positive among them"
        if without is None
        else f"The largest threshold with no false positive among them is {best.label} at "
        f"{without} of {best.bits} bits"
    )
    if few:
        return (
            f"{pictures} pictures are too few to recommend a threshold. {largest}; at least "
            f"{LEAST_PICTURES} pictures would be needed to recommend one."
        )
    return (
        f"These {pictures:,} pictures recommend no threshold at {rate:g} per comparison, the "
        f"lowest rate that they show at all. {largest}; {_rounded_up(2**0.5 * pictures):,.0f} "
        "pictures would be needed to recommend one."
    )


def _missing(hashes: Sequence[HashFigures], rate: float, pictures: int) -> str:
    """The lowest rate that these pictures can show, and how many pictures would show `rate`.

    The upper end of a rate falls as the number of pairs grows, if none of the new pairs matches.
    """
    shown = {each.label: _least_bound(each) for each in hashes}
    label, bound = min(shown.items(), key=lambda item: item[1])
    if bound >= 1:
        return f": {pictures} pictures are too few for any rate."
    needed = math.ceil(pictures * math.sqrt(bound / rate))
    return (
        f". The lowest rate that these {pictures} pictures show is {_rounded_up(bound):g} "
        f"({label}); {_rounded_up(needed):,.0f} pictures would show {rate:g} if no further pair "
        "matched."
    )


def _least_bound(hashing: HashFigures) -> float:
    """The lowest upper end of the rate of false positives: at its threshold where that is given."""
    rate = hashing.false_positive_rate
    if hashing.chosen == "given" and rate is not None and rate.high is not None:
        return rate.high
    return hashing.curve[0].high


def _rounded_up(value: float) -> float:
    """To two digits that count.

    >>> _rounded_up(1403.2), _rounded_up(0.00491)
    (1500.0, 0.005)
    """
    step = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.ceil(value / step - 1e-9) * step:.2g}")
