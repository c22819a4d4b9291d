"""What attack runs say: the chapter of one run or of several beside each other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from advhash.errors import RunError
from advhash.measures.intervals import Metric
from advhash.measures.paired_runs import Queries, compare, map_lost, standings
from advhash.reports.attack import tables
from advhash.reports.attack.queries import load_queries, rival, task
from advhash.reports.attack.several_runs import findings
from advhash.reports.elements.chapters import (
    Chapter,
    Source,
    Statement,
    attack_fact,
    covered,
    data_fact,
    source_of,
    victim_fact,
)
from advhash.reports.elements.pictures import Pictures
from advhash.reports.elements.plots import (
    Drawing,
    Effect,
    Growth,
    budget_figure,
    history_figures,
    interval_figure,
)
from advhash.reports.elements.verdict import STRENGTHS, Verdict, run_labels, verdict
from advhash.reports.record import (
    EXAMPLE_RULE,
    GAIN,
    Example,
    Record,
    Retrieved,
    load_record,
)
from advhash.reports.vocabulary import figure, label_of


@dataclass(frozen=True)
class Item:
    """A retrieved row and the class of its picture."""

    data: Retrieved
    picture: str | None


@dataclass(frozen=True)
class Shown:
    """An example and the classes of its pictures."""

    data: Example
    rank: str
    clean: str | None
    perturbation: str | None
    adversarial: str | None
    before: list[Item]
    after: list[Item]


@dataclass(frozen=True)
class Run:
    """A run as the template sees it."""

    label: str
    record: Record
    verdict: Verdict
    examples: list[Shown]
    victim_curves: list[Drawing]
    attack_curves: list[Drawing]
    queries: Queries | None
    damage: str  # why there are no queries


def _rank(place: int, count: int) -> str:
    if count == 1:
        return "the best for the attacker"
    share = place / (count - 1)
    names = {0.0: "the best for the attacker", 0.5: "the median", 1.0: "the worst for the attacker"}
    return names.get(
        share, f"{100 * share:.0f}\N{NO-BREAK SPACE}% of the way from the best to the worst"
    )


def _shown(folder: Path, record: Record, pictures: Pictures) -> list[Shown]:
    def items(retrieved: Sequence[Retrieved]) -> list[Item]:
        return [Item(item, pictures.add(folder, item.picture)) for item in retrieved]

    if record.unchanged:  # six equal pairs would show nothing
        return []
    return [
        Shown(
            example,
            _rank(place, len(record.examples)) + ", unchanged" * example.unchanged,
            pictures.add(folder, example.clean_picture),
            pictures.add(folder, example.perturbation_picture),
            pictures.add(folder, example.adversarial_picture),
            items(example.before),
            items(example.after),
        )
        for place, example in enumerate(record.examples)
    ]


@dataclass(frozen=True)
class Compared:
    """How runs that are led by a figure stand beside each other in a drawing.

    references: names of the marks on its axis, and their figures
    """

    alt: str
    caption: str
    references: Mapping[str, str]


SAME = "The same numbers stand in the table below."
COMPARED = {  # by the main figure of a headline
    "tmap": Compared(
        "t-MAP of each targeted run with its 95 % interval, and its chance, clean and ceiling "
        f"references. {SAME}",
        "How well attacked queries retrieve the target. The dot is the attack, the bar its "
        "95 % interval; further right is a stronger attack.",
        {"chance": "tmap_chance", "clean": "tmap_clean", "ceiling": "tmap_ceiling"},
    ),
    "map_adversarial": Compared(
        "MAP after the attack of each untargeted run with its 95 % interval, and its chance "
        f"and clean references. {SAME}",
        "How well attacked queries still retrieve what they should. The dot is the attacked "
        "query, the bar its 95 % interval; further left is a stronger attack.",
        {"chance": "map_chance", "clean": "map"},
    ),
    "evasion_rate": Compared(
        "Share of pictures that evade in each run with its 95 % interval, and that of the "
        f"unattacked ones. {SAME}",
        "How many pictures no longer match themselves. The dot is the attack, the bar its 95 % "
        "interval; further right is a stronger attack.",
        {"clean": "evasion_rate_clean"},
    ),
    "collision_rate": Compared(
        "Share of pictures that collide in each run with its 95 % interval, and that of the "
        f"unattacked ones. {SAME}",
        "How many pictures pass for the one that was chosen. The dot is the attack, the bar its "
        "95 % interval; further right is a stronger attack.",
        {"clean": "collision_rate_clean"},
    ),
}


GRADED = {  # by the goal, and whether a threshold judges: the share that a word stands for
    ("targeted", False): f"“{label_of('tmap_normalised')}” of targeted attacks",
    ("untargeted", False): "the lost part of MAP above chance of untargeted attacks",
    ("untargeted", True): "the share that evades of the pictures that matched before",
    ("targeted", True): "the share that collides of the pictures that did not before",
}


def _effects(runs: Sequence[Run], main: str, names: Mapping[str, str]) -> list[Effect]:
    effects = []
    for run in runs:
        metric = run.record.metrics.get(main)
        if run.record.headline().main != main or metric is None:
            continue
        metrics = {name: run.record.metrics.get(key) for name, key in names.items()}
        references = {
            name: other.value
            for name, other in metrics.items()
            if other and other.value is not None
        }
        effects.append(Effect(run.label, metric, references))
    return effects


def _drawings(runs: Sequence[Run]) -> list[Drawing]:
    drawings = []
    for main, how in COMPARED.items():
        drawn = interval_figure(_effects(runs, main, how.references), f"{label_of(main)} (%)")
        if drawn is not None:
            drawings.append(Drawing(drawn, how.alt, how.caption))
    return drawings + _grown(runs)


def _grown(runs: Sequence[Run]) -> list[Drawing]:
    """t-MAP, or MAP, against ε: for runs that differ in their budget alone."""
    figures: dict[tuple[str, str], dict[str, dict[float, Metric]]] = {}
    ceilings: dict[str, float | None] = {}
    for run in runs:
        record, main = run.record, run.record.headline().main
        metric = record.metrics.get(main)
        if record.budget.eps is None or metric is None:
            continue
        protocol = record.protocol
        names = (record.attack.name, "on", record.victim.label, "/", record.dataset.label)
        name = " ".join(names) + f", {protocol.query_modality}-{protocol.database}"
        lines = figures.setdefault((main, record.budget.norm), {})
        clean = record.metrics.get(record.headline().unattacked) or Metric()
        lines.setdefault(name, {0.0: clean})[record.budget.eps] = metric
        ceilings[name] = record.value("tmap_ceiling") if main == "tmap" else None
    drawings = []
    for (main, norm), lines in figures.items():
        grown = [
            Growth(name, sorted(points.items()), ceilings[name])
            for name, points in lines.items()
            if len(points) > 2
        ]
        if grown:
            axis = f"{label_of(main)} (%)"
            alt = f"{axis} against ε of each attack, with 95 % intervals. {SAME}"
            caption = f"{axis} against ε, from no attack at 0: how much a larger budget buys."
            drawings.append(Drawing(budget_figure(grown, norm, axis), alt, caption))
    return drawings


class _CurvesOnce:
    """The curves of a history; none where they were drawn for an earlier run."""

    def __init__(self) -> None:
        self._drawn: set[str] = set()

    def __call__(self, whose: str, history: Sequence[Mapping[str, float | str]]) -> list[Drawing]:
        text = json.dumps(history)
        if text in self._drawn:
            return []
        self._drawn.add(text)
        return [
            Drawing(drawn, f"Training curves of the {whose}, phase {phase}")
            for phase, drawn in history_figures(history)
        ]


def _queries(folder: Path, record: Record) -> tuple[Queries | None, str]:
    try:
        return load_queries(folder, record), ""
    except RunError as error:
        return None, str(error)


def statement_of(label: str, outcome: Verdict, place: str = "") -> Statement:
    """A verdict as the page shows it; place: as in `Statement`."""
    word = outcome.word if outcome.word.startswith("No ") else f"{outcome.word} attack"
    return Statement(label, outcome.lead, outcome.details, word, place, outcome.share)


def strongest(records: Sequence[Record]) -> int | None:
    """Which run is the strongest that has a bound.

    None where no run has one, or where the runs are of several tasks, whose figures do not compare.
    """
    if any(task(record) != task(records[0]) for record in records):
        return None
    led = records[0].headline()
    reached = {
        place: led.sign * value
        for place, record in enumerate(records)
        if record.budget.eps is not None and (value := record.value(led.main)) is not None
    }
    return max(reached, key=reached.__getitem__, default=None)


def led_by(runs: Sequence[Run]) -> list[Run]:
    """Runs, the strongest with a bound before the others; as given where there is none."""
    leading = runs[strongest([run.record for run in runs]) or 0]
    return [leading, *(run for run in runs if run is not leading)]


def _source(folder: Path, label: str, record: Record) -> Source:
    attack, budget = record.attack, record.budget
    facts = [
        ("Victim", victim_fact(record.victim.label, record.victim)),
        ("Attack", attack_fact(attack)),
        ("Data set", data_fact(record.dataset)),
    ]
    settings = {
        "victim": record.victim.settings,
        "victim notes": record.victim.notes,
        "attack": attack.settings,
        "data set": record.dataset.settings,
        "budget": {"norm": budget.norm, "eps": budget.eps, "eight_bit": budget.eight_bit},
        "classes": record.dataset.classes,
    }
    return source_of(folder, label, record.run, facts, settings)


def read_run(folder: Path, record: Record, label: str, pictures: Pictures) -> Run:
    """A run with its verdict, its examples and its queries, without training curves."""
    queries, damage = _queries(folder, record)
    outcome = verdict(record, map_lost(queries))
    shown = _shown(folder, record, pictures)
    return Run(label, record, outcome, shown, [], [], queries, damage)


def chapter_values(runs: Sequence[Run]) -> dict[str, Any]:
    """What the macros of `attack.html` see."""
    rivals = [rival(run.record, run.queries) for run in runs]
    pairs = compare(rivals)
    records, labels = [run.record for run in runs], [run.label for run in runs]
    return {
        "runs": runs,
        "shown_first": led_by(runs),
        "first": runs[0],
        "tables": {
            "threat": tables.threat(runs),
            "leaderboard": tables.leaderboard(runs, standings(rivals, pairs)),
            "results": tables.results(runs),
            "after_files": tables.after_files(runs),
            "directions": tables.directions(runs),
            "planted": tables.planted(runs),
            "served": tables.served(runs),
            "thresholds": tables.thresholds(runs),
            "pairs": tables.pairs(runs, pairs),
        },
        "drawings": _drawings(runs),
        "aimed": tables.aimed(runs),
        "findings": findings(records, labels, pairs) if len(runs) > 1 else [],
        "glossary": [figure(name) for name in tables.shown(runs)],
        "graded": " and ".join(
            dict.fromkeys(
                GRADED[record.attack.goal, record.protocol.at_threshold] for record in records
            )
        ),
        "strengths": STRENGTHS,
        "rule": EXAMPLE_RULE,
        "gain": GAIN,
        "pictured": any(
            example.perturbation_picture for record in records for example in record.examples
        ),
    }


def attack_chapters(folders: Sequence[Path], pictures: Pictures) -> list[Chapter]:
    """One chapter over all attack runs, the first being the subject. Raises RunError."""
    records = [load_record(folder) for folder in folders]
    labels = run_labels(records)
    curves = _CurvesOnce()
    runs = [
        replace(
            read_run(folder, record, label, pictures),
            victim_curves=curves(f"victim {record.victim.label}", record.victim.history),
            attack_curves=curves(f"attack {label}", record.attack.history),
        )
        for folder, record, label in zip(folders, records, labels, strict=True)
    ]
    compared = strongest(records) is not None
    place = f"the strongest bounded attack of {len(runs)} runs" if compared else ""
    first = records[0]
    victims = covered([record.victim.label for record in records], "victims")
    datasets = covered([record.dataset.label for record in records], "data sets")
    if len(runs) > 1:
        alone = len({record.victim.label for record in records}) == 1
        title = f"{len(runs)} runs against {victims} on {datasets}"
        heading = f"How well {victims} withstand{'s' if alone else ''} {len(runs)} attack runs"
    else:
        title = f"{first.attack.name} against {victims} on {datasets}"
        heading = f"How well {victims} withstands {first.attack.name} ({first.budget.text})"
    return [
        Chapter(
            name="Attack runs",
            title=title,
            heading=f"{heading} on {datasets}",
            template="attack.html",
            values=chapter_values(runs),
            statements=[statement_of(run.label, run.verdict, place) for run in led_by(runs)],
            sources=[_source(*source) for source in zip(folders, labels, records, strict=True)],
            datasets=[record.dataset.label for record in records],
            flags=[(run.label, flag) for run in runs for flag in run.record.flags],
            deviations=[
                (name, text)
                for record in records
                for name, info in (
                    (record.victim.label, record.victim),
                    (record.attack.name, record.attack),
                )
                for text in info.deviations
            ],
            attributions=[record.dataset.attribution for record in records],
        )
    ]
