"""What several runs say beside each other, in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from advhash.measures.intervals import Difference, Metric, apart, share_lost
from advhash.measures.paired_runs import Pair, between, same_size
from advhash.reports.attack.queries import task
from advhash.reports.elements.verdict import (
    length,
    metric_of,
    percent,
    points,
    with_interval,
)
from advhash.reports.record import Record


def findings(
    records: Sequence[Record], labels: Sequence[str], pairs: Sequence[Pair] = ()
) -> list[str]:
    """What the runs say beside each other; pairs: the paired differences that exist."""
    return [
        *_differences(records),
        *_projection(records, labels, pairs),
        *_blend(records, labels, pairs),
    ]


def _compared(one: Metric, other: Metric, difference: Difference | None) -> str:
    """The paired difference where there is one, otherwise whether the intervals overlap."""
    if difference is not None and difference.low is not None:
        text = f"On the same {difference.n} queries the difference is {points(difference)}"
        if difference.low > 0:
            return f"{text}."
        return f"{text}: the interval does not lie above zero, so their order is not settled."
    return {
        True: "The two intervals lie apart.",
        False: "The two intervals overlap, so the order of the two is not settled.",
        None: "There is no interval for at least one of them.",
    }[apart(one, other)]


def _differences(records: Sequence[Record]) -> list[str]:
    aspects: dict[str, set[object]] = {
        "the data set": {record.dataset.fingerprint for record in records},
        "the victim": {record.victim.fingerprint for record in records},
        "the protocol": {
            record.protocol.model_copy(update={"targets": None}).model_dump_json()
            for record in records
        },
        "the target rule": {
            record.protocol.targets for record in records if record.attack.goal == "targeted"
        },
        "the seed": {record.run.seed for record in records},
    }
    differing = [aspect for aspect, kinds in aspects.items() if len(kinds) > 1]
    if not differing:
        return []
    return [
        f"The runs on this page differ in {', '.join(differing)}: compare two of them only where "
        "these agree."
    ]


def _projection(
    records: Sequence[Record], labels: Sequence[str], pairs: Sequence[Pair]
) -> list[str]:
    """What ProS-GAN, which has no bound as published, loses under a hard one."""
    runs = [
        (place, record) for place, record in enumerate(records) if record.attack.name == "prosgan"
    ]
    sentences = []
    for place, bounded in runs:
        unbounded = next(
            (run for run in runs if run[1].budget.norm == "none" and task(run[1]) == task(bounded)),
            None,
        )
        if bounded.budget.norm == "none" or unbounded is None:
            continue
        free = unbounded[1]
        before, after = metric_of(free, "tmap"), metric_of(bounded, "tmap")
        clean, over = metric_of(free, "tmap_clean").value, metric_of(bounded, "overrun").value
        if before.value is None or after.value is None:
            continue
        same = free.attack.fingerprint and free.attack.fingerprint == bounded.attack.fingerprint
        text = (
            f"Trained without a bound, the ProS-GAN generator reaches t-MAP "
            f"{with_interval(before)}. "
            + (
                f"Projected onto {bounded.budget.text}, the same generator reaches "
                if same
                else f"A generator fitted for the run “{labels[place]}” reaches "
            )
            + f"{with_interval(after)}"
        )
        lost = None if clean is None else share_lost(before.value, after.value, clean)
        if lost is not None and lost > 0:
            text += (
                f": it loses {percent(lost)} of its effect over clean queries "
                f"({percent(before.value)} → {percent(after.value)}, clean {percent(clean)})"
            )
        text += "."
        if over:
            far = length(
                over, bounded.protocol.query_modality if bounded.budget.norm == "linf" else ""
            )
            text += f" Before the projection it left the budget by {far} on average."
        difference = between(pairs, unbounded[0], place)
        sentences.append(f"{text} {_compared(before, after, difference)}")
    return sentences


def _blend(records: Sequence[Record], labels: Sequence[str], pairs: Sequence[Pair]) -> list[str]:
    """Whether a method does better than blending in a picture of the target, at the same L2."""
    named = [
        (record, label, metric_of(record, "tmap"), metric_of(record, "l2").value, place)
        for place, (record, label) in enumerate(zip(records, labels, strict=True))
        if metric_of(record, "tmap").value is not None and metric_of(record, "l2").value
    ]
    sentences = []
    for first, other in combinations(named, 2):
        plain, method = (first, other) if first[0].attack.name == "blend" else (other, first)
        if plain[0].attack.name != "blend" or method[0].attack.name == "blend":
            continue
        alike = same_size(plain[3] or 0.0, method[3] or 0.0)
        if task(plain[0]) != task(method[0]) or not alike:
            continue
        paired = between(pairs, plain[4], method[4])
        better = (method[2].value or 0.0) - (plain[2].value or 0.0)
        sentences.append(
            f"At the same L2 ({method[3]:.2f} and {plain[3]:.2f}), moving the query toward a "
            f"picture of the target (“{plain[1]}”) reaches t-MAP {with_interval(plain[2])} and "
            f"“{method[1]}” reaches {with_interval(method[2])}: {abs(100 * better):.1f} points "
            f"{'more' if better >= 0 else 'less'}. {_compared(plain[2], method[2], paired)}"
        )
    if not sentences and any(item[0].attack.name == "blend" for item in named) and len(named) > 1:
        sentences.append(
            "The blend run has another L2 than every other run (see the table), so it is no "
            "like-for-like rival here."
        )
    return sentences
