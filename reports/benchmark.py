"""The record of a benchmark: a suite of attacks on victims, with its leaderboards, and its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from advhash.measures.intervals import Metric
from advhash.measures.sanity import Flag
from advhash.reports.elements.chapters import Chapter, Statement, known, source_of
from advhash.reports.elements.pictures import Pictures, change_rows
from advhash.reports.elements.plots import Drawing, Effect, Growth, budget_figure, interval_figure
from advhash.reports.elements.tables import (
    Column,
    Table,
    TableCell,
    columns,
    named,
    number,
    of_figures,
    points,
    row,
)
from advhash.reports.elements.verdict import percent, with_interval
from advhash.reports.headline import HEADLINES, is_control
from advhash.reports.record import Document, Part, Protocol, RunInfo, ShownChange
from advhash.reports.vocabulary import label_of

BENCHMARK: Literal["advhash/benchmark/1"] = "advhash/benchmark/1"
FIGURES = 24  # curves against ε on a page
LINES = 6  # in one of them
BUG = "A bug of advhash, or of a package"  # heads the trace of a cell that failed so
AIMS = {"targeted": "the target", "untargeted": "its own labels"}  # of average precision
CLEAN = "map"  # stands first, whatever the goal


class CellInfo(Part):
    """One attack run of the suite. victim_seed: None where the suite draws none."""

    key: str
    dataset: str
    victim: str
    method: str
    budget: str
    victim_seed: int | None
    attack_seed: int
    status: Literal["done", "failed", "left"]
    seconds: float | None = None
    figures: dict[str, float | None] = Field(default_factory=dict)
    message: str = ""
    trace: str = ""


class Row(Part):
    """An attack on a victim, over all seeds.

    rank:     among the attacks on this victim
    protocol: None of version 0.1, which did not keep it
    """

    dataset: str
    victim: str
    method: str
    budget: str
    norm: str
    eps: float | None
    goal: Literal["targeted", "untargeted"]
    cells: int
    rank: int
    metrics: dict[str, Metric]
    flags: dict[str, int]  # name → cells that carry it
    protocol: Protocol | None = None


class Method(Part):
    """An attack over the victims that all attacks of this goal and budget were made on."""

    dataset: str
    budget: str
    goal: Literal["targeted", "untargeted"]
    method: str
    victims: list[str]
    rank: int
    main: Metric


class Standing(Part):
    """A victim under the strongest attack of a goal, which was picked by its mean."""

    dataset: str
    budget: str
    goal: Literal["targeted", "untargeted"]
    victim: str
    method: str
    rank: int
    metrics: dict[str, Metric]


class BenchmarkShown(ShownChange):
    """The query on which the strongest attack on a victim works best, which the page shows.

    before, after: its average precision, for the target or, untargeted, for its own labels
    """

    dataset: str
    victim: str
    method: str
    budget: str
    goal: Literal["targeted", "untargeted"]
    before: float
    after: float


class SearchRow(Part):
    """What items that an attack plants in a store reach, over all seeds of the attack.

    store: with the rescorer behind it
    """

    dataset: str
    quantiser: str
    method: str
    store: str
    items: int
    documents: int
    runs: int
    metrics: dict[str, Metric]


class BenchmarkRecord(Document):
    """Cells of a suite and their summaries.

    failed, left: keys of cells without a figure
    knowledge:    of each attack, what it needs to have
    data:         fingerprints of the data sets
    """

    schema_: Literal["advhash/benchmark/1"]
    command: Literal["benchmark"]
    run: RunInfo
    name: str
    suite: dict[str, Any]
    executor: str
    report: str
    failed: list[str]
    left: list[str]
    flags: list[Flag]
    rows: list[Row]
    methods: list[Method]
    victims: list[Standing]
    searches: list[SearchRow] = Field(default_factory=list)
    knowledge: dict[str, list[str]] = Field(default_factory=dict)
    data: dict[str, str] = Field(default_factory=dict)
    deviations: dict[str, list[str]]  # of victims with their defences and of attacks, by name
    attributions: list[str]
    shown_changes: list[BenchmarkShown] = Field(default_factory=list)
    cells: list[CellInfo]


def verdicts(record: BenchmarkRecord) -> list[str]:
    """What the suite found, in plain words."""
    lines = []
    for goal, name in (("targeted", label_of("tmap")), ("untargeted", "MAP")):
        main = HEADLINES[goal].main
        standing = [entry for entry in record.victims if entry.goal == goal]
        for place in dict.fromkeys((entry.dataset, entry.budget) for entry in standing):
            there = [entry for entry in standing if (entry.dataset, entry.budget) == place]
            if len(there) > 1:
                lines.append(f"{place[0]}, {place[1]}, {goal}: {_ranking(there, main, name)}")
            elif there:
                only = there[0]
                clean = only.metrics["tmap_clean" if goal == "targeted" else "map"]
                lines.append(
                    f"{place[0]}, {place[1]}, {goal}: {only.method} moves {only.victim} from {name}"
                    f" {percent(clean.value)} to {with_interval(only.metrics[main])}."
                )
    lines += search_verdicts(record.searches)
    if record.failed or record.left:
        lines.append(
            f"{len(record.failed)} of {len(record.cells)} cells failed and {len(record.left)} were "
            "not begun: tables hold what is there."
        )
    return lines


def _ranking(there: Sequence[Standing], main: str, name: str) -> str:
    """Which of several victims hold best and least, in sentences; name: of the figure `main`."""
    if all(is_control(entry.method) for entry in there):
        return "nothing but noise was tried, which is no attack, so no victim is ranked."
    groups = [
        [entry for entry in there if entry.rank == pick(other.rank for other in there)]
        for pick in (min, max)
    ]
    if groups[0] == groups[1]:
        return f"no victim can be told to hold better than another (of {len(there)})."
    sentences = []
    for group, how in zip(groups, ("best", "least"), strict=True):
        victims = " and ".join(entry.victim for entry in group)
        shown = group[0]
        sentences.append(
            f"{victims} {'holds' if len(group) == 1 else 'hold'} {how}: {name} of {shown.victim} "
            f"is {with_interval(shown.metrics[main])} under {shown.method}."
        )
    return " ".join(sentences)


SEARCHED = (
    *("planted_top10", "planted_top10_natural", "planted_top10_over_natural"),
    *("own_recall10_before", "own_recall10_after", "store_recall_at_10"),
)


def search_verdicts(rows: Sequence[SearchRow]) -> list[str]:
    """For each data set and attack, the search that planted items reach most queries in."""
    lines = []
    for dataset, method in dict.fromkeys((entry.dataset, entry.method) for entry in rows):
        there = [entry for entry in rows if (entry.dataset, entry.method) == (dataset, method)]
        most = max(there, key=lambda entry: entry.metrics["planted_top10"].value or 0)
        natural = most.metrics["planted_top10_natural"]
        lines.append(
            f"{dataset}, {method}: {most.items} of {most.documents} items reach most queries in "
            f"{most.store} ({most.quantiser}), {with_interval(most.metrics['planted_top10'])}; as "
            f"many natural hubs reach {with_interval(natural)} there."
        )
    return lines


def _searches_table(record: BenchmarkRecord) -> Table | None:
    return _table(
        "Items planted in stores",
        [
            *columns("Data", "Quantiser", "Attack", "Store", "Items", "Runs"),
            *of_figures(*SEARCHED),
        ],
        [
            row(
                named(entry.dataset),
                named(entry.quantiser),
                named(entry.method),
                named(entry.store),
                number(entry.items),
                number(entry.runs),
                (points(entry.metrics[name]) for name in SEARCHED),
            )
            for entry in record.searches
        ],
    )


def _standing_table(record: BenchmarkRecord, goal: str) -> Table | None:
    names = dict.fromkeys((CLEAN, *HEADLINES[goal].figures))
    return _table(
        f"Victims under their strongest {goal} attack",
        [
            *columns("Data", "Budget", "Rank", "Victim", "Strongest attack"),
            *of_figures(*names),
        ],
        [
            row(
                named(entry.dataset),
                TableCell(entry.budget),
                number(entry.rank),
                named(entry.victim),
                named(entry.method),
                (points(entry.metrics[name]) for name in names),
            )
            for entry in record.victims
            if entry.goal == goal
        ],
    )


def _methods_table(record: BenchmarkRecord, goal: str) -> Table | None:
    return _table(
        f"{goal.capitalize()} attacks over victims",
        [
            *columns("Data", "Budget", "Rank", "Attack"),
            *of_figures(HEADLINES[goal].main),
            Column("Victims"),
        ],
        [
            row(
                named(entry.dataset),
                TableCell(entry.budget),
                number(entry.rank),
                named(entry.method),
                points(entry.main),
                named(", ".join(entry.victims)),
            )
            for entry in record.methods
            if entry.goal == goal
        ],
    )


def _rows_table(record: BenchmarkRecord, goal: str) -> Table | None:
    names = (CLEAN, *HEADLINES[goal].brief)
    return _table(
        f"Every victim and {goal} attack",
        [
            *columns("Data", "Victim", "Budget", "Rank", "Attack", "Runs"),
            *of_figures(*names),
            Column("Flags"),
        ],
        [
            row(
                named(entry.dataset),
                named(entry.victim),
                TableCell(entry.budget),
                number(entry.rank),
                named(entry.method),
                number(entry.cells),
                (points(entry.metrics[name]) for name in names),
                TableCell(
                    " ".join(_counted(*flag) for flag in sorted(entry.flags.items())), style="code"
                ),
            )
            for entry in record.rows
            if entry.goal == goal
        ],
    )


def _counted(flag: str, count: int) -> str:
    return f"{flag} ×{count}" if count > 1 else flag


def _failed_table(record: BenchmarkRecord) -> Table | None:
    def seeds(cell: CellInfo) -> str:
        return f"{'–' if cell.victim_seed is None else cell.victim_seed}, {cell.attack_seed}"

    return _table(
        "Cells that failed",
        columns("Data", "Victim", "Attack", "Budget", "Seeds", "Why"),
        [
            row(
                named(cell.dataset),
                named(cell.victim),
                named(cell.method),
                TableCell(cell.budget),
                number(seeds(cell)),
                TableCell(cell.message, detail=(BUG, cell.trace) if cell.trace else None),
            )
            for cell in record.cells
            if cell.status == "failed"
        ],
    )


def _table(
    label: str, heads: Sequence[Column], rows: Sequence[Sequence[TableCell]]
) -> Table | None:
    return Table(label, label, heads, rows) if rows else None


def _standing_figures(record: BenchmarkRecord, goal: str) -> list[Drawing]:
    """A leaderboard in a figure: each victim under its strongest attack, a budget a figure."""
    main = HEADLINES[goal].main
    groups: dict[tuple[str, str], list[Effect]] = {}
    for standing in record.victims:
        if standing.goal == goal:
            label = f"{standing.rank}. {standing.victim} / {standing.method}"
            effects = groups.setdefault((standing.dataset, standing.budget), [])
            effects.append(Effect(label, standing.metrics[main]))
    drawn = []
    for (dataset, budget), effects in list(groups.items())[:FIGURES]:
        svg = interval_figure(effects, f"{label_of(main)} (%)")
        caption = f"{dataset}, {budget}: each victim under the attack that moves it most"
        if svg is not None:
            drawn.append(Drawing(svg, f"{caption}; the values stand in the table.", f"{caption}."))
    return drawn


def _grown(rows: Sequence[Row]) -> tuple[list[Drawing], int]:
    """Figures against ε of the rows that have several, and how many more there would be."""
    groups: dict[tuple[str, str, str, str], dict[str, list[tuple[float, Metric]]]] = {}
    for entry in rows:
        if entry.eps is not None:
            lines = groups.setdefault((entry.dataset, entry.victim, entry.goal, entry.norm), {})
            point = (entry.eps, entry.metrics[HEADLINES[entry.goal].main])
            lines.setdefault(entry.method, []).append(point)
    drawn = []
    for (dataset, victim, goal, norm), lines in groups.items():
        grown = [Growth(name, sorted(points, key=lambda point: point[0]))
                 for name, points in lines.items() if len(points) > 1]  # fmt: skip
        axis = f"{label_of(HEADLINES[goal].main)} (%)"
        for start in range(0, len(grown), LINES):
            drawn.append((f"{victim} on {dataset}: {axis} against ε", grown[start : start + LINES],
                          norm, axis))  # fmt: skip
    figures = [
        Drawing(
            budget_figure(grown, norm, axis), f"{caption}; the values stand in the tables.", caption
        )
        for caption, grown, norm, axis in drawn[:FIGURES]
    ]
    return figures, max(0, len(drawn) - FIGURES)


def protocols(record: BenchmarkRecord) -> list[str]:
    """How the figures of each grid were taken, in words."""
    sentences = []
    for grid in record.suite.get("grids", []):
        own = grid["protocol"]
        top, rounded = own["top_k"], {budget["eight_bit"] for budget in grid["budgets"]}
        sentences.append(
            f"{own['queries'] or 'all'} {own['query_modality']} queries an attack seed against "
            f"{own['database'] or 'the codes that the victim searches by default'}; "
            f"targets of targeted attacks: {own['targets']}; "
            f"{f'the first {top} hits' if top else 'the full ranking'}, ties: {own['ties']}; "
            + ("pixels not rounded" if rounded == {False} else "pixels rounded to 8 bits")
            + (", but where a budget is unrounded" if len(rounded) == 2 else "")
        )
    return list(dict.fromkeys(sentences))


def benchmark_chapter(path: Path, pictures: Pictures) -> Chapter:
    """What a benchmark says. Raises RunError."""
    record = BenchmarkRecord.read(path)
    return _chapter(path, record, change_rows(path, pictures, _changes(record)))


def _changes(record: BenchmarkRecord) -> list[tuple[ShownChange, list[str]]]:
    """Queries under the strongest attack on each victim, and what comes of them."""
    return [
        (
            change,
            [
                f"{change.dataset}: {change.method}, {change.budget}",
                f"average precision for {AIMS[change.goal]} {percent(change.before)} before, "
                f"{percent(change.after)} after",
            ],
        )
        for change in record.shown_changes
    ]


def benchmark_chapter_of(path: Path, rows: Sequence[Row]) -> Chapter:
    """What a benchmark says of the victims and data of some of its rows. Raises RunError."""
    record = BenchmarkRecord.read(path)
    asked = {(entry.dataset, entry.victim) for entry in rows}

    def own(entries: Sequence[Any]) -> list[Any]:
        return [entry for entry in entries if (entry.dataset, entry.victim) in asked]

    victims, cells = own(record.victims), own(record.cells)
    kept = {name for _, name in asked}
    deviations = {
        name: texts
        for name, texts in record.deviations.items()
        if name in kept or name in {entry.method for entry in rows}
    }
    return _chapter(
        path,
        record.model_copy(
            update={
                "rows": list(rows),
                "methods": [],
                "victims": victims,
                "cells": cells,
                "searches": [],
                "flags": _flags_of(record, rows),
                "failed": [cell.key for cell in cells if cell.status == "failed"],
                "left": [cell.key for cell in cells if cell.status == "left"],
                "deviations": deviations,
            }
        ),
    )


def _flags_of(record: BenchmarkRecord, rows: Sequence[Row]) -> list[Flag]:
    """Flags of the suite as a whole, and those that runs of these rows raised."""
    raised = {name for entry in record.rows for name in entry.flags}
    own = {name for entry in rows for name in entry.flags}
    return [flag for flag in record.flags if flag.name in own or flag.name not in raised]


def _chapter(
    path: Path, record: BenchmarkRecord, changes: Sequence[dict[str, Any]] = ()
) -> Chapter:
    grown, undrawn = _grown(record.rows)
    lead, *more = verdicts(record) or ["No cell of the suite is finished."]
    names = list(dict.fromkeys(cell.victim for cell in record.cells))
    data = list(dict.fromkeys(cell.dataset for cell in record.cells))
    runs = "cells" if record.searches else "attack runs"
    title = f"Benchmark {record.name}: {len(record.cells)} {runs}"
    facts = [
        ("Victims", ", ".join(names)),
        ("Attacks", ", ".join(dict.fromkeys(cell.method for cell in record.cells))),
        *(
            ("Data set", f"{name}. SHA-256 {record.data[name]}" if name in record.data else name)
            for name in data
        ),
    ]
    return Chapter(
        name=title,
        title=title,
        heading=(
            f"Which victims hold, and which attacks strike hardest: suite {record.name}"
            if record.rows or not record.searches
            else f"What planted items reach in each store: suite {record.name}"
        ),
        template="benchmark.html",
        values={
            "record": record,
            "changes": changes,
            "knowledge": {name: known(had) for name, had in record.knowledge.items()},
            "protocols": protocols(record),
            "grown": grown,
            "drawn_standing": {goal: _standing_figures(record, goal) for goal in HEADLINES},
            "undrawn": undrawn,
            "tables": {
                goal: [
                    make(record, goal) for make in (_standing_table, _methods_table, _rows_table)
                ]
                for goal in ("targeted", "untargeted")
            },
            "searches": _searches_table(record),
            "failed": _failed_table(record),
        },
        statements=[Statement(f"suite {record.name}", lead, more)],
        sources=[source_of(path, f"suite {record.name}", record.run, facts, record.suite)],
        datasets=data,
        flags=[(f"suite {record.name}", flag) for flag in record.flags],
        deviations=[(name, text) for name, texts in record.deviations.items() for text in texts],
        attributions=record.attributions,
    )
