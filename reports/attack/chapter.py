"""What attack runs say: the chapter of one run or of several beside each other."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from advhash.errors import RunError
from advhash.measures.intervals import Metric
from advhash.reports.attack.examples import EXAMPLE_RULE, GAIN
from advhash.reports.attack.pairs import Pair, Queries, compare, headline, load_queries, map_lost
from advhash.reports.attack.ranks import standings
from advhash.reports.attack.several_runs import findings
from advhash.reports.elements.chapters import (
    KNOWLEDGE,
    Chapter,
    Source,
    Told,
    attack_fact,
    covered,
    data_fact,
    source_of,
    victim_fact,
)
from advhash.reports.elements.pictures import Pictures
from advhash.reports.elements.plots import (
    Effect,
    Growth,
    budget_figure,
    history_figures,
    interval_figure,
)
from advhash.reports.elements.verdict import STRENGTHS, Verdict, run_labels, verdict
from advhash.reports.record import Example, Record, Retrieved, load_record

FIGURES = {"tmap": "t-MAP", "map_adversarial": "MAP attacked"}


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
class Compared:
    """A paired difference as the template sees it."""

    first: str
    second: str
    figure: str
    pair: Pair


@dataclass(frozen=True)
class Ranked:
    """A run on the leaderboard, by a metric and what it is called."""

    run: Run
    rank: str
    metric: str
    figure: str


@dataclass(frozen=True)
class Run:
    """A run as the template sees it."""

    label: str
    record: Record
    verdict: Verdict
    examples: list[Shown]
    victim_curves: list[tuple[str, str]]
    attack_curves: list[tuple[str, str]]
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
    def items(found: Sequence[Retrieved]) -> list[Item]:
        return [Item(one, pictures.add(folder, one.picture)) for one in found]

    return [
        Shown(
            one,
            _rank(place, len(record.examples)),
            pictures.add(folder, one.clean_picture),
            pictures.add(folder, one.perturbation_picture),
            pictures.add(folder, one.adversarial_picture),
            items(one.before),
            items(one.after),
        )
        for place, one in enumerate(record.examples)
    ]


def _effects(runs: Sequence[Run], goal: str, main: str, names: Mapping[str, str]) -> list[Effect]:
    effects = []
    for run in runs:
        metric = run.record.metrics.get(main)
        if run.record.attack.goal != goal or metric is None:
            continue
        found = {name: run.record.metrics.get(key) for name, key in names.items()}
        references = {
            name: other.value for name, other in found.items() if other and other.value is not None
        }
        effects.append(Effect(run.label, metric, references))
    return effects


def _figures(runs: Sequence[Run]) -> dict[str, str | None]:
    targeted = {"chance": "tmap_chance", "clean": "tmap_clean", "ceiling": "tmap_ceiling"}
    untargeted = {"chance": "map_chance", "clean": "map"}
    return {
        "tmap": interval_figure(_effects(runs, "targeted", "tmap", targeted), "t-MAP (%)"),
        "map": interval_figure(
            _effects(runs, "untargeted", "map_adversarial", untargeted), "MAP (%)"
        ),
    }


@dataclass(frozen=True)
class Grown:
    """A figure against ε: its caption, its picture."""

    caption: str
    figure: str


def _grown(runs: Sequence[Run]) -> list[Grown]:
    """t-MAP, or MAP, against ε: for runs that differ in their budget alone."""
    found: dict[tuple[str, str], dict[str, dict[float, Metric]]] = {}
    for run in runs:
        record, main = run.record, headline(run.record)
        metric = record.metrics.get(main)
        if record.budget.eps is None or metric is None:
            continue
        protocol = record.protocol
        names = (record.attack.name, "on", record.victim.label, "/", record.dataset.name)
        label = " ".join(names) + f", {protocol.query_modality}-{protocol.database}"
        lines = found.setdefault((main, record.budget.norm), {})
        lines.setdefault(label, {})[record.budget.eps] = metric
    figures = []
    for (main, norm), lines in found.items():
        grown = [
            Growth(label, sorted(points.items()))
            for label, points in lines.items()
            if len(points) > 1
        ]
        if grown:
            axis = "t-MAP (%)" if main == "tmap" else "MAP after the attack (%)"
            figures.append(Grown(f"{axis} against ε", budget_figure(grown, norm, axis)))
    return figures


class _CurvesOnce:
    """(phase, figure) pairs of a history; none where they were drawn for an earlier run."""

    def __init__(self) -> None:
        self._drawn: set[str] = set()

    def __call__(self, history: Sequence[Mapping[str, float | str]]) -> list[tuple[str, str]]:
        text = json.dumps(history)
        if text in self._drawn:
            return []
        self._drawn.add(text)
        return history_figures(history)


def _compared(runs: Sequence[Run], pairs: Sequence[Pair]) -> list[Compared]:
    return [
        Compared(runs[pair.first].label, runs[pair.second].label, FIGURES[pair.metric], pair)
        for pair in pairs
    ]


def _queries(folder: Path, record: Record) -> tuple[Queries | None, str]:
    try:
        return load_queries(folder, record), ""
    except RunError as error:
        return None, str(error)


def _told(label: str, found: Verdict) -> Told:
    word = found.word if found.word.startswith("No ") else f"{found.word} attack"
    return Told(label, found.lead, found.details, word)


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


def attack_chapters(folders: Sequence[Path], pictures: Pictures) -> list[Chapter]:
    """One chapter over all attack runs, the first being the subject. Raises RunError."""
    records = [load_record(folder) for folder in folders]
    labels = run_labels(records)
    curves = _CurvesOnce()
    runs = []
    for folder, record, label in zip(folders, records, labels, strict=True):
        queries, damage = _queries(folder, record)
        runs.append(
            Run(
                label,
                record,
                verdict(record, map_lost(queries)),
                _shown(folder, record, pictures),
                curves(record.victim.history),
                curves(record.attack.history),
                queries,
                damage,
            )
        )
    pairs = compare(records, [run.queries for run in runs])
    first = records[0]
    victims = covered([record.victim.label for record in records], "victims")
    datasets = covered([record.dataset.name for record in records], "data sets")
    if len(runs) > 1:
        one = len({record.victim.label for record in records}) == 1
        title = f"{len(runs)} runs against {victims} on {datasets}"
        heading = f"How well {victims} withstand{'s' if one else ''} {len(runs)} attack runs"
    else:
        title = f"{first.attack.name} against {victims} on {datasets}"
        heading = f"How well {victims} withstands {first.attack.name} ({first.budget.text})"
    return [
        Chapter(
            name="Attack runs",
            title=title,
            heading=f"{heading} on {datasets}",
            template="attack.html",
            values={
                "runs": runs,
                "first": runs[0],
                "figures": _figures(runs),
                "grown": _grown(runs),
                "aimed": any(record.attack.goal == "targeted" for record in records),
                "standings": [
                    Ranked(runs[one.run], one.rank, one.metric, FIGURES[one.metric])
                    for one in standings(records, pairs)
                ],
                "findings": findings(records, labels, pairs) if len(runs) > 1 else [],
                "compared": _compared(runs, pairs),
                "strengths": STRENGTHS,
                "knowledge": KNOWLEDGE,
                "rule": EXAMPLE_RULE,
                "gain": GAIN,
            },
            told=[_told(run.label, run.verdict) for run in runs],
            sources=[_source(*one) for one in zip(folders, labels, records, strict=True)],
            datasets=[record.dataset.name for record in records],
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
