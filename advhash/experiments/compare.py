"""`advhash compare`: two runs query by query, and thresholds that a figure must keep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from advhash.errors import ConfigError, ThresholdMissed, UsageError, counted, nearest
from advhash.measures.intervals import Difference, paired_difference
from advhash.measures.paired_runs import SEED, Queries
from advhash.reports.attack.queries import load_queries
from advhash.reports.elements.numbers import as_chance, written
from advhash.reports.headline import OWN
from advhash.reports.record import Record, load_record
from advhash.reports.vocabulary import label_of

CLEAN = "map"  # no difference of one victim


@dataclass(frozen=True)
class Threshold:
    """A figure of the second run that must not lie under, or over, a value."""

    metric: str
    value: float
    kind: Literal["under", "over"]


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two runs on the same queries; differences are second − first, paired over queries."""

    first: Record
    second: Record
    differences: dict[str, Difference]
    notes: list[str]

    @property
    def title(self) -> str:
        first, second = (
            record.run.id or record.attack.name for record in (self.first, self.second)
        )
        count = counted(self.second.protocol.queries, "query")
        return f"{second} − {first} on {self.second.dataset.label}, {count}, paired"

    def __repr__(self) -> str:
        return "\n".join(
            [
                self.title,
                *(_shown(name, difference) for name, difference in self.differences.items()),
                *(f"note: {note}" for note in self.notes),
            ]
        )

    def document(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {
            "schema": "advhash/compare/1",
            "command": "compare",
            "first": self.first.run.folder,
            "second": self.second.run.folder,
            "differences": {
                name: asdict(difference) for name, difference in self.differences.items()
            },
            "notes": self.notes,
        }


def compare_runs(first: Path, second: Path) -> Comparison:
    """Paired differences of the figures that both runs have for each query.

    Raises RunError: a run that cannot be read; UsageError: runs on other data, queries, targets or
    with another goal, whose difference would mean nothing.
    """
    return compare_records(*load_run(first), *load_run(second))


def load_run(folder: Path) -> tuple[Record, Queries]:
    """A run and what is compared of its queries. Raises RunError."""
    record = load_record(folder)
    targeted = record.attack.goal == "targeted"
    own = filter(record.headline().shows, OWN)
    known = [name for name in own if record.value(name) is not None]
    return record, load_queries(folder, record, known if targeted else ())


def compare_records(one: Record, asked: Queries, other: Record, asked_other: Queries) -> Comparison:
    """The same of records in memory, each with its queries. Raises UsageError."""
    queries = (asked, asked_other)
    for name, same in (
        (_data_sets(one, other), one.dataset.fingerprint == other.dataset.fingerprint),
        ("goal", one.attack.goal == other.attack.goal),
        ("query modality", one.protocol.query_modality == other.protocol.query_modality),
        ("ranking", _ranking(one) == _ranking(other)),
        ("queries", np.array_equal(queries[0].rows, queries[1].rows)),
        ("targets", queries[0].targets == queries[1].targets),
    ):
        if not same:
            raise UsageError(
                f"expected two runs that can be paired, got runs that differ in {name}: attack "
                "both with the same data set, seed and protocol"
            )
    notes = [
        f"{name} differs: {_named(a)} and {_named(b)}"
        for name, a, b in (
            ("the victim", one.victim.label, other.victim.label),
            ("what the victim learnt", one.victim.fingerprint[:12], other.victim.fingerprint[:12]),
            ("the attack", one.attack.name, other.attack.name),
            ("the budget", one.budget.text, other.budget.text),
            ("the database", one.protocol.database, other.protocol.database),
        )
        if a != b
    ]
    before, after = (run.columns for run in queries)
    differences = {
        name: paired_difference(after[name], before[name], SEED)
        for name in before
        if name in after and (name != CLEAN or not np.array_equal(before[name], after[name]))
    }
    return Comparison(one, other, differences, notes)


def _shown(name: str, difference: Difference) -> str:
    chance = "" if difference.p is None else f", p {as_chance(difference.p)}"
    return f"{label_of(name)}: {written(name, difference, difference=True)}{chance}"


def _data_sets(one: Record, other: Record) -> str:
    """The data sets of two runs, with what is known to differ between them."""
    sides = [
        {
            "dataset.name": data.name,
            **{f"dataset.{key}": each for key, each in data.settings.items()},
        }
        for data in (one.dataset, other.dataset)
    ]
    keys = [key for key in sides[0] | sides[1] if sides[0].get(key) != sides[1].get(key)]
    said = [f"{key} {sides[0].get(key)} and {sides[1].get(key)}" for key in keys]
    return f"data set ({', '.join(said) or 'its files are not the same'})"


def _ranking(record: Record) -> tuple[object, ...]:
    protocol = record.protocol
    return protocol.top_k, protocol.ties, protocol.empty


def _named(value: str) -> str:
    return value or "none"


def parse_threshold(text: str, kind: Literal["under", "over"]) -> Threshold:
    """`tmap_normalised=0.3` as a threshold.

    >>> parse_threshold("map_adversarial=0.5", "under")
    Threshold(metric='map_adversarial', value=0.5, kind='under')

    Raises ConfigError.
    """
    metric, equals, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not equals or not metric.strip() or not math.isfinite(number):
        raise ConfigError(f"--fail-{kind}: expected metric=number, got {text!r}")
    return Threshold(metric.strip(), number, kind)


def check_names(record: Record, thresholds: Sequence[Threshold]) -> None:
    """Raise UsageError for a figure that the run lacks."""
    for threshold in thresholds:
        if threshold.metric not in record.metrics:
            raise UsageError(
                f"--fail-{threshold.kind}: no metric {threshold.metric!r} in {record.run.folder}: "
                f"{nearest(threshold.metric, record.metrics)}Known: {', '.join(record.metrics)}"
            )


def check_thresholds(record: Record, thresholds: Sequence[Threshold]) -> None:
    """Raise ThresholdMissed naming all that the run misses."""
    missed = []
    for threshold in thresholds:
        metric = record.metrics[threshold.metric]
        if metric is None or metric.value is None:
            missed.append(f"{threshold.metric} has no value")
        elif threshold.kind == "under" and metric.value < threshold.value:
            missed.append(f"{threshold.metric} is {metric.value:.4g}, under {threshold.value:g}")
        elif threshold.kind == "over" and metric.value > threshold.value:
            missed.append(f"{threshold.metric} is {metric.value:.4g}, over {threshold.value:g}")
    if missed:
        raise ThresholdMissed(f"{record.run.folder}: " + "; ".join(missed))
