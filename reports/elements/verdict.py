"""What the figures of a run say, in plain words.

Every number comes from the record, or from the queries of the run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from advhash.errors import counted
from advhash.measures.intervals import Difference, Metric, apart, share_lost
from advhash.reports.record import Record
from advhash.reports.vocabulary import label_of

NO_VALUE = "–"
NBSP = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"
SEEN = (  # decibels of PSNR from which a change looks so
    *((40.0, "hard to see"), (30.0, "visible on a close look")),
    (-math.inf, "plainly visible"),
)
STRENGTHS = ((0.9, "Nearly complete"), (0.5, "Strong"), (0.2, "Partial"), (0.0, "Weak"))

WEAK = ("Weak", "No effect", "No effect shown", "No clear effect")  # words of a verdict


@dataclass(frozen=True)
class Verdict:
    """How strong the attack is in a word, the figure behind it, and what surrounds it.

    share: what decides the word, from 0 for no effect to 1 for a whole one; None where nothing does
    """

    word: str
    lead: str
    details: tuple[str, ...] = ()
    share: float | None = None


def signed(number: str) -> str:
    """A number in digits as people read it: with a minus, where Python writes a hyphen.

    >>> signed("-1.5"), signed("1.5")
    ('−1.5', '1.5')
    """
    return number.replace("-", MINUS, 1) if number.startswith("-") else number


def percent(value: float | None) -> str:
    """A share as a percentage with one digit.

    >>> percent(0.8125), percent(None)
    ('81.2\\xa0%', '–')
    """
    return NO_VALUE if value is None else f"{signed(f'{100 * value:z.1f}')}{NBSP}%"


def interval(metric: Metric) -> str:
    """The 95 % interval in words.

    >>> interval(Metric(0.5, 0.45, 0.55, 9))
    '95\\xa0% interval 45.0 to 55.0\\xa0%'
    """
    if metric.low is None or metric.high is None:
        return "no interval"
    return f"95{NBSP}% interval {signed(f'{100 * metric.low:z.1f}')} to {percent(metric.high)}"


def points(difference: Metric) -> str:
    """A difference of two percentages and its interval, in words.

    >>> points(Metric(0.123, 0.1, 0.15, 9)), points(Metric(0.123, None, None, 1))
    ('12.3 points (95\\xa0% interval 10.0 to 15.0)', '12.3 points (no interval)')
    """
    if difference.value is None:
        return NO_VALUE
    text = f"{signed(f'{100 * difference.value:z.1f}')} points"
    if difference.low is None or difference.high is None:
        return f"{text} (no interval)"
    low, high = (signed(f"{100 * end:z.1f}") for end in (difference.low, difference.high))
    return f"{text} (95{NBSP}% interval {low} to {high})"


def length(value: float | None, modality: str) -> str:
    """A distance in input units: for pixels in 255ths.

    >>> length(8 / 255, "image"), length(3.0, "text")
    ('8.0/255', '3')
    """
    if value is None:
        return NO_VALUE
    return f"{255 * value:.1f}/255" if modality == "image" else f"{value:.3g}"


def metric_of(record: Record, name: str) -> Metric:
    """A metric of a record; an empty one where there is none."""
    return record.metrics.get(name) or Metric()


def with_interval(metric: Metric) -> str:
    """A share and its interval in words."""
    return f"{percent(metric.value)} ({interval(metric)})"


def verdict(record: Record, lost: Difference | None = None) -> Verdict:
    """How far the attack got: the share of the way to the ceiling, or the fall of MAP.

    lost: of an untargeted run, MAP before − after on the same queries; without it the two intervals
          are held against each other, which sees less
    """
    if record.unchanged:
        return _unchanged(record)
    if record.protocol.at_threshold:
        judged = _at_threshold(record)
    elif record.attack.goal == "targeted":
        judged = _targeted(record)
    else:
        judged = _untargeted(record, lost)
    details = (*_no_proof(record, judged), *_seen(record), *_from_a_file(record), *judged.details)
    return replace(judged, details=details)


def _unchanged(record: Record) -> Verdict:
    """That every query is as it was, in the place of figures that look like a victim that holds."""
    kind = {"text": "text", "image": "picture"}.get(record.protocol.query_modality, "query")
    lead = (
        f"The attack changed 0 of {counted(record.protocol.queries, kind)}, so its figures are "
        "those of the clean queries and say nothing about the victim."
    )
    able = record.attack.indicators.get("without_edits") != 1
    return Verdict(f"No {kind} {'changed' if able else 'could be changed'}", lead)


def _no_proof(record: Record, judged: Verdict) -> list[str]:
    """That a weak attack shows no robustness, and what is stronger where this was weaker."""
    if judged.word not in WEAK:
        return []
    stronger = "autohash" if record.attack.goal == "targeted" else "autohash-untargeted"
    suits = record.protocol.query_modality == "image" and not record.protocol.at_threshold
    if not suits or record.attack.name == stronger:
        return ["A weak attack is no proof of robustness."]
    return [
        f"A weak attack is no proof of robustness: the strongest one here is --method {stronger}."
    ]


def _seen(record: Record) -> list[str]:
    """What the eye sees of the change, as far as its PSNR says so; how many words a text lost."""
    words = metric_of(record, "words_changed").value
    if words is not None:
        return [f"The attack changes {counted(words, 'word')} per query on average."]
    largest, psnr = metric_of(record, "linf").value, metric_of(record, "psnr").value
    if record.protocol.query_modality != "image" or largest is None or psnr is None:
        return []
    seen = next(words for least, words in SEEN if psnr >= least)
    return [
        f"The largest change of a pixel is {length(largest, 'image')} on average, PSNR "
        f"{psnr:.1f}{NBSP}dB: {seen}."
    ]


def _from_a_file(record: Record) -> list[str]:
    """How attacked pictures fare once saved as JPEG; at a threshold, its verdict says so."""
    if record.protocol.at_threshold:
        return []
    led = record.headline()
    kept = metric_of(record, f"{led.main}_jpeg75")
    if kept.value is None:
        return []
    way = metric_of(record, "tmap_normalised_jpeg75")
    if led.main == "tmap" and way.value is not None:
        return [f"Saved as JPEG 75, the attack covers {with_interval(way)} of the way."]
    before = percent(metric_of(record, led.unattacked).value)
    return [
        f"Saved as JPEG 75, attacked queries have {label_of(led.main)} {with_interval(kept)}; "
        f"before the attack they had {before}."
    ]


def _strength(share: float) -> str:
    return next((word for least, word in STRENGTHS if share >= least), "No effect")


def _at_threshold(record: Record) -> Verdict:
    """How many pictures pass for others, or no longer for themselves."""
    targeted, led = record.attack.goal == "targeted", record.headline()
    rate, before = metric_of(record, led.main), metric_of(record, led.unattacked)
    threshold, errors = metric_of(record, "threshold_bits"), metric_of(record, "false_positives")
    wanted, own = (bits(metric_of(record, name)) for name in ("bits_adversarial", "bits_own"))
    clean = bits(metric_of(record, "bits_clean"))
    if targeted:
        does, away = (
            "pass for the picture that was chosen",
            f"{wanted} from it and {own} from their own",
        )
        did, still = "passed for that picture", "still pass for that picture"
    else:
        does, away = "no longer match their own pictures", f"{wanted} from them"
        did, still = "did not match their own pictures", "still do not match their own"
    after = metric_of(record, f"{led.main}_jpeg75")
    matching = "none" if errors.value == 0 else share_of_pairs(errors)
    details = (
        f"Before the attack, {percent(before.value)} of these pictures {did}: on average they were "
        f"{clean} from {'it' if targeted else 'them'}.",
        f"Once they are saved as JPEG 75, {with_interval(after)} of the attacked pictures {still}.",
        f"At this threshold, {matching} of the compared pairs of different pictures match.",
    )
    lead = (
        f"At a threshold of {bits(threshold)}, {with_interval(rate)} of the attacked pictures "
        f"{does}: on average they are {away}."
    )
    if rate.value is None:
        return Verdict("No verdict", "No threshold keeps the false positives asked for.")
    gained = rate.value - (before.value or 0.0)
    if gained <= 0:
        return Verdict("No effect shown", lead, details)
    share = gained / (1 - (before.value or 0.0))
    return Verdict(_strength(share), lead, details, share)


def bits(metric: Metric) -> str:
    """A mean distance of codes in words.

    >>> bits(Metric(31.0, None, None, 1)), bits(Metric(12.34, 11.0, 14.0, 9))
    ('31\\xa0bits', '12.3\\xa0bits')
    """
    return NO_VALUE if metric.value is None else f"{metric.value:.3g}{NBSP}bits"


def share_of_pairs(metric: Metric) -> str:
    """A small share as a percentage of two digits that count.

    >>> share_of_pairs(Metric(0.000123, None, None, 1))
    '0.012\\xa0%'
    """
    return NO_VALUE if metric.value is None else f"{100 * metric.value:.2g}{NBSP}%"


def _targeted(record: Record) -> Verdict:
    tmap, clean, ceiling, share = (
        metric_of(record, name)
        for name in ("tmap", "tmap_clean", "tmap_ceiling", "tmap_normalised")
    )
    chance, own, moved = (
        metric_of(record, name) for name in ("tmap_chance", "map", "map_adversarial")
    )
    details = (
        f"Attacked queries retrieve the target with t-MAP {with_interval(tmap)}; "
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
        f"Between what clean queries get (t-MAP {percent(clean.value)}) and the "
        f"best that any anchor code gets ({percent(ceiling.value)}), the attack covers "
        f"{with_interval(share)} of the way."
    )
    if share.value > 1:
        lead += " More than the whole: its codes are better than every known anchor."
    if share.low is None:
        lead += " Too few queries to generalise."
        return Verdict(_strength(share.value), lead, details, share.value)
    if share.low <= 0:
        lead += " The interval does not lie above zero, so no effect is shown."
        return Verdict("No effect shown", lead, details)
    return Verdict(_strength(share.value), lead, details, share.value)


def _untargeted(record: Record, lost: Difference | None) -> Verdict:
    own, moved, chance = (
        metric_of(record, name) for name in ("map", "map_adversarial", "map_chance")
    )
    if own.value is None or moved.value is None:
        return Verdict("No verdict", "MAP before or after the attack does not exist.")
    direction = "falls" if moved.value < own.value else "does not fall: it goes"
    lead = f"MAP {direction} from {with_interval(own)} to {with_interval(moved)}."
    details: tuple[str, ...] = (
        f"A random order would score {percent(chance.value)}.",
        "The attack has no target: it only has to push the right items down.",
    )
    if moved.value >= own.value:
        return Verdict("No effect shown", lead, details)
    if lost is None or lost.low is None:
        clear = apart(own, moved)
        doubt = " The two intervals overlap, so no clear effect is shown."
    else:
        lead += f" Query by query, that is {points(lost)}."
        clear = lost.low > 0
        doubt = " The interval does not lie above zero, so no clear effect is shown."
    if clear is False:
        return Verdict("No clear effect", lead + doubt, details)
    share = None if chance.value is None else share_lost(own.value, moved.value, chance.value)
    if share is None:
        lead += " Clean queries do no better than chance, so there was nothing to lose."
        return Verdict("No verdict", lead, details)
    if share > 1:
        lead += " That is all that the victim had above chance, and more."
    else:
        lead += f" That is {percent(share)} of what the victim had above chance."
    if clear is None:
        lead += " Too few queries to generalise."
    return Verdict(_strength(share), lead, details, share)


def run_labels(records: Sequence[Record]) -> list[str]:
    """A short name for each run: method and budget, and whatever else tells two runs apart."""
    parts = [
        (
            f"{record.attack.name}, {record.budget.text}",
            f"on {record.victim.label}",
            record.dataset.label,
            f"{record.protocol.query_modality} against {record.protocol.database}",
            f"run {record.run.id}",
        )
        for record in records
    ]
    labels = [part[0] for part in parts]
    for level in (1, 2, 3, 4):
        for name in {label for label in labels if labels.count(label) > 1}:
            same = [place for place, label in enumerate(labels) if label == name]
            if level == 4 or len({parts[place][level] for place in same}) > 1:
                for place in same:
                    labels[place] = f"{labels[place]}, {parts[place][level]}"
    return labels
