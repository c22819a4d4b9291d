"""What the figures of a run say, in plain words: every number comes from the record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from advhash.reports.record import Record
from advhash.stats import Metric

__all__ = [
    "NO_VALUE",
    "STRENGTHS",
    "Verdict",
    "findings",
    "interval",
    "length",
    "percent",
    "run_labels",
    "verdict",
]

NO_VALUE = "–"
NBSP = "\N{NO-BREAK SPACE}"
STRENGTHS = ((0.9, "Nearly complete"), (0.5, "Strong"), (0.2, "Partial"), (0.0, "Weak"))
SAME_L2 = 0.05  # relative difference up to which two L2 distances count as the same


@dataclass(frozen=True)
class Verdict:
    """How strong the attack is in a word, the figure behind it, and what surrounds it."""

    word: str
    lead: str
    details: tuple[str, ...] = ()


def percent(value: float | None) -> str:
    """A share as a percentage with one digit.

    >>> percent(0.8125), percent(None)
    ('81.2\\xa0%', '–')
    """
    return NO_VALUE if value is None else f"{100 * value:z.1f}{NBSP}%"


def interval(metric: Metric) -> str:
    """The 95 % interval in words.

    >>> interval(Metric(0.5, 0.45, 0.55, 9))
    '95\\xa0% interval 45.0 to 55.0\\xa0%'
    """
    if metric.low is None or metric.high is None:
        return "no interval"
    return f"95{NBSP}% interval {100 * metric.low:z.1f} to {percent(metric.high)}"


def length(value: float | None, modality: str) -> str:
    """A distance in input units: for pixels in 255ths.

    >>> length(8 / 255, "image"), length(3.0, "text")
    ('8.0/255', '3')
    """
    if value is None:
        return NO_VALUE
    return f"{255 * value:.1f}/255" if modality == "image" else f"{value:.3g}"


def _metric(record: Record, name: str) -> Metric:
    return record.metrics.get(name) or Metric()


def _with_interval(metric: Metric) -> str:
    return f"{percent(metric.value)} ({interval(metric)})"


def _apart(one: Metric, other: Metric) -> bool | None:
    """Whether two intervals lie apart; None where one of them does not exist."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return None
    return one.high < other.low or other.high < one.low


def _compared(one: Metric, other: Metric) -> str:
    return {
        True: "The two intervals lie apart.",
        False: "The two intervals overlap, so the order of the two is not settled.",
        None: "There is no interval for at least one of them.",
    }[_apart(one, other)]


def verdict(record: Record) -> Verdict:
    """How far the attack got: the share of the way to the ceiling, or the fall of MAP."""
    return _targeted(record) if record.attack.goal == "targeted" else _untargeted(record)


def _strength(share: float) -> str:
    return next((word for least, word in STRENGTHS if share >= least), "No effect")


def _targeted(record: Record) -> Verdict:
    tmap, clean, ceiling, share = (
        _metric(record, name) for name in ("tmap", "tmap_clean", "tmap_ceiling", "tmap_normalised")
    )
    chance, own, moved = (
        _metric(record, name) for name in ("tmap_chance", "map", "map_adversarial")
    )
    details = (
        f"Attacked queries retrieve the target with t-MAP {_with_interval(tmap)}; "
        f"a random order would score {percent(chance.value)}.",
        f"MAP for the query's own labels goes from {percent(own.value)} to {percent(moved.value)}.",
    )
    if share.value is None:
        return Verdict(
            "No verdict",
            f"Clean queries get t-MAP {percent(clean.value)} and the best anchor code gets "
            f"{percent(ceiling.value)}: there is no way between them that an attack could cover.",
            details,
        )
    lead = (
        f"Of the distance between what clean queries get (t-MAP {percent(clean.value)}) and the "
        f"best that any anchor code gets ({percent(ceiling.value)}), the attack covers "
        f"{_with_interval(share)}."
    )
    if share.value > 1:
        lead += " More than the whole: its codes are better than every known anchor."
    if share.low is None:
        return Verdict(_strength(share.value), lead + " Too few queries to generalise.", details)
    if share.low <= 0:
        lead += " The interval does not lie above zero, so no effect is shown."
        return Verdict("No effect shown", lead, details)
    return Verdict(_strength(share.value), lead, details)


def _untargeted(record: Record) -> Verdict:
    own, moved, chance = (
        _metric(record, name) for name in ("map", "map_adversarial", "map_chance")
    )
    if own.value is None or moved.value is None:
        return Verdict("No verdict", "MAP before or after the attack does not exist.")
    direction = "falls" if moved.value < own.value else "does not fall: it goes"
    lead = f"MAP {direction} from {_with_interval(own)} to {_with_interval(moved)}."
    details: tuple[str, ...] = (
        f"A random order would score {percent(chance.value)}.",
        "The attack has no target: it only has to push the right items down.",
    )
    if moved.value >= own.value:
        return Verdict("No effect shown", lead, details)
    apart = _apart(own, moved)
    if apart is False:
        lead += " The two intervals overlap, so no clear effect is shown."
        return Verdict("No clear effect", lead, details)
    if chance.value is None or own.value <= chance.value:
        lead += " Clean queries do no better than chance, so there was nothing to lose."
        return Verdict("No verdict", lead, details)
    lost = (own.value - moved.value) / (own.value - chance.value)
    lead += f" That is {percent(lost)} of what the victim had above chance."
    if apart is None:
        lead += " Too few queries to generalise."
    return Verdict(_strength(lost), lead, details)


def run_labels(records: Sequence[Record]) -> list[str]:
    """A short name for each run: method and budget, and whatever else tells two runs apart."""
    parts = [
        (
            f"{record.attack.name}, {record.budget.text}",
            f"on {record.victim.name}",
            f"{record.protocol.query_modality} against {record.protocol.database}",
            f"run {record.run.id}",
        )
        for record in records
    ]
    labels = [part[0] for part in parts]
    for level in (1, 2, 3):
        for name in {label for label in labels if labels.count(label) > 1}:
            same = [place for place, label in enumerate(labels) if label == name]
            if level == 3 or len({parts[place][level] for place in same}) > 1:
                for place in same:
                    labels[place] = f"{labels[place]}, {parts[place][level]}"
    return labels


def findings(records: Sequence[Record], labels: Sequence[str]) -> list[str]:
    """What the runs say beside each other."""
    return [*_differences(records), *_projection(records, labels), *_blend(records, labels)]


def _same_task(one: Record, other: Record) -> bool:
    return (
        one.dataset.fingerprint == other.dataset.fingerprint
        and one.victim.fingerprint == other.victim.fingerprint
        and one.protocol == other.protocol
    )


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
    differing = [aspect for aspect, found in aspects.items() if len(found) > 1]
    if not differing:
        return []
    return [
        f"The runs on this page differ in {', '.join(differing)}: compare two of them only where "
        "these agree."
    ]


def _projection(records: Sequence[Record], labels: Sequence[str]) -> list[str]:
    """What ProS-GAN, which has no bound as published, loses under a hard one."""
    runs = [
        (record, label)
        for record, label in zip(records, labels, strict=True)
        if record.attack.name == "prosgan"
    ]
    sentences = []
    for bounded, label in runs:
        free = next(
            (
                record
                for record, _ in runs
                if record.budget.norm == "none" and _same_task(record, bounded)
            ),
            None,
        )
        if bounded.budget.norm == "none" or free is None:
            continue
        before, after = _metric(free, "tmap"), _metric(bounded, "tmap")
        clean, over = _metric(free, "tmap_clean").value, _metric(bounded, "overrun").value
        if before.value is None or after.value is None:
            continue
        same = free.attack.fingerprint and free.attack.fingerprint == bounded.attack.fingerprint
        text = (
            f"Trained without a bound, the ProS-GAN generator reaches t-MAP "
            f"{_with_interval(before)}. "
            + (
                f"Projected onto {bounded.budget.text}, the same generator reaches "
                if same
                else f"A generator fitted for the run “{label}” reaches "
            )
            + f"{_with_interval(after)}"
        )
        if clean is not None and before.value > clean and after.value < before.value:
            lost = (before.value - after.value) / (before.value - clean)
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
        sentences.append(f"{text} {_compared(before, after)}")
    return sentences


def _blend(records: Sequence[Record], labels: Sequence[str]) -> list[str]:
    """Whether a method does better than blending in a picture of the target, at the same L2."""
    named = [
        (record, label, _metric(record, "tmap"), _metric(record, "l2").value)
        for record, label in zip(records, labels, strict=True)
        if _metric(record, "tmap").value is not None and _metric(record, "l2").value
    ]
    sentences = []
    for one, other in combinations(named, 2):
        plain, method = (one, other) if one[0].attack.name == "blend" else (other, one)
        if plain[0].attack.name != "blend" or method[0].attack.name == "blend":
            continue
        near, far = sorted((plain[3] or 0.0, method[3] or 0.0))
        if not _same_task(plain[0], method[0]) or far - near > SAME_L2 * far:
            continue
        better = (method[2].value or 0.0) - (plain[2].value or 0.0)
        sentences.append(
            f"At the same L2 ({method[3]:.2f} and {plain[3]:.2f}), moving the query toward a "
            f"picture of the target (“{plain[1]}”) reaches t-MAP {_with_interval(plain[2])} and "
            f"“{method[1]}” reaches {_with_interval(method[2])}: {abs(100 * better):.1f} points "
            f"{'more' if better >= 0 else 'less'}. {_compared(plain[2], method[2])}"
        )
    if not sentences and any(item[0].attack.name == "blend" for item in named) and len(named) > 1:
        sentences.append(
            "The blend run has another L2 than every other run (see the table), so it is no "
            "like-for-like rival here."
        )
    return sentences
