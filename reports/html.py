"""One self-contained page for one or more attack runs: no script, no network, safe by mail.

Names, captions and messages come from data sets and from run folders that others may have written:
they are hostile text, and Jinja escapes them all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from advhash import __version__
from advhash.errors import RunError, StorageError
from advhash.files import write_bytes
from advhash.reports.findings import findings
from advhash.reports.lifelong import LIFELONG, NAMES, LifelongRecord
from advhash.reports.lifelong import figures as lifelong_figures
from advhash.reports.lifelong import verdict as lifelong_verdict
from advhash.reports.lifelong_figures import GROUPS, VIEWS, View
from advhash.reports.pairs import Pair, Queries, compare, headline, load_queries, map_lost
from advhash.reports.pictures import Pictures
from advhash.reports.plots import Effect, Growth, budget_figure, history_figures, interval_figure
from advhash.reports.record import Example, Flag, Record, Retrieved, load_record, schema_of
from advhash.reports.retrieval import EXAMPLE_RULE, GAIN
from advhash.reports.verdict import (
    NO_VALUE,
    STRENGTHS,
    Verdict,
    length,
    percent,
    run_labels,
    verdict,
)
from advhash.stats import Metric

__all__ = ["KNOWLEDGE", "page", "render", "templates"]

KNOWLEDGE = {  # what an attacker can have → the same in plain words
    "weights": "has the victim’s weights",
    "gradients": "has gradients through the victim",
    "query codes": "sees the code of any input sent",
    "query labels": "knows the labels of the query",
    "database codes": "sees the codes in the database",
    "labels": "has labels of the data",
    "auxiliary data": "has further data of the same kind",
}


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
        text = _json(history)
        if text in self._drawn:
            return []
        self._drawn.add(text)
        return history_figures(history)


def _flags(runs: Sequence[Run]) -> list[tuple[Flag, list[str]]]:
    """Each distinct flag with the runs that carry it, the gravest first."""
    found: dict[tuple[str, str, str], tuple[Flag, list[str]]] = {}
    for run in runs:
        for flag in run.record.flags:
            found.setdefault((flag.level, flag.name, flag.message), (flag, []))[1].append(run.label)
    levels = ("error", "warning", "info")
    return sorted(found.values(), key=lambda item: levels.index(item[0].level))


def _compared(runs: Sequence[Run], pairs: Sequence[Pair]) -> list[Compared]:
    figures = {"tmap": "t-MAP", "map_adversarial": "MAP attacked"}
    return [
        Compared(runs[pair.first].label, runs[pair.second].label, figures[pair.metric], pair)
        for pair in pairs
    ]


def _covered(names: Sequence[str], plural: str) -> str:
    """Up to three names of what a page covers, or how many there are."""
    found = list(dict.fromkeys(names))
    if len(found) > 3:
        return f"{len(found)} {plural}"
    return " and ".join(part for part in (", ".join(found[:-1]), found[-1]) if part)


def _points(metric: Metric | None) -> str:
    """100 × the value, as tables show it."""
    if metric is None or metric.value is None:
        return NO_VALUE
    return f"{100 * metric.value:z.1f}"


def _bounds(metric: Metric | None) -> str:
    """The interval under a value in a table."""
    if metric is None or metric.low is None or metric.high is None:
        return ""
    between = " to " if metric.low < 0 else "–"
    return f"{100 * metric.low:z.1f}{between}{100 * metric.high:z.1f}"


def _number(value: Metric | float | None, digits: int = 2) -> str:
    number = value.value if isinstance(value, Metric) else value
    return NO_VALUE if number is None else f"{number:.{digits}f}"


def _chance(p: float | None) -> str:
    """A p-value; the smallest that permutations can give is 0.0002."""
    return NO_VALUE if p is None else f"{p:.4f}"


def _distance(value: Metric | float | None, modality: str) -> str:
    return length(value.value if isinstance(value, Metric) else value, modality)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)


def _queries(folder: Path, record: Record) -> tuple[Queries | None, str]:
    try:
        return load_queries(folder, record), ""
    except RunError as error:
        return None, str(error)


@dataclass(frozen=True)
class Lifelong:
    """A lifelong run as its section sees it."""

    record: LifelongRecord
    verdict: list[str]
    figures: list[tuple[str, str, str]]
    groups: Sequence[str]
    views: Mapping[View, str]
    names: Mapping[str, str]


def _lifelong(folder: Path) -> Lifelong:
    record = LifelongRecord.read(folder)
    return Lifelong(
        record, lifelong_verdict(record), lifelong_figures(record), list(GROUPS), VIEWS, NAMES
    )


def templates() -> Environment:
    def source(name: str) -> str:
        return (resources.files("advhash.reports") / name).read_text("utf-8")

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(source),
    )
    environment.filters.update(
        points=_points,
        bounds=_bounds,
        number=_number,
        distance=_distance,
        json=_json,
        chance=_chance,
        percent=percent,
    )
    return environment


def page(folders: Sequence[Path]) -> str:
    """The page of these runs: attack runs, the first one being the subject, then lifelong ones.

    Raises RunError.
    """
    if not folders:
        raise RunError("expected at least one run folder, got none")
    kinds = [schema_of(folder) for folder in folders]
    lifelong = [
        _lifelong(folder) for folder, kind in zip(folders, kinds, strict=True) if kind == LIFELONG
    ]
    attacked = [folder for folder, kind in zip(folders, kinds, strict=True) if kind != LIFELONG]
    if attacked:
        return _attack_page(attacked, lifelong)
    return (
        templates()
        .get_template("sections.html")
        .render(lifelong=lifelong, pictures="", version=__version__)
    )


def _attack_page(folders: Sequence[Path], lifelong: Sequence[Lifelong]) -> str:
    records = [load_record(folder) for folder in folders]
    pictures = Pictures()
    curves = _CurvesOnce()
    runs = []
    for folder, record, label in zip(folders, records, run_labels(records), strict=True):
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
    return (
        templates()
        .get_template("template.html")
        .render(
            lifelong=lifelong,
            runs=runs,
            first=runs[0],
            figures=_figures(runs),
            grown=_grown(runs),
            aimed=any(record.attack.goal == "targeted" for record in records),
            findings=findings(records, [run.label for run in runs], pairs),
            compared=_compared(runs, pairs),
            victims=_covered([record.victim.label for record in records], "victims"),
            datasets=_covered([record.dataset.name for record in records], "data sets"),
            flags=_flags(runs),
            strengths=STRENGTHS,
            knowledge=KNOWLEDGE,
            rule=EXAMPLE_RULE,
            gain=GAIN,
            pictures=pictures.css(),
            version=__version__,
        )
    )


def render(folders: Sequence[Path], out: Path) -> None:
    """Write the page of these runs to `out`, whole or not at all.

    Raises RunError: no finished run, a damaged one, a picture outside its folder; StorageError.
    """
    if out.is_dir():
        raise StorageError(
            f"cannot write {out}: it is a folder; name a file, e.g. {out}/report.html"
        )
    write_bytes(out, page(folders).encode("utf-8", "replace"))
