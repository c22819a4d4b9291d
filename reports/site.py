"""A static leaderboard: an index over victims, and a page for each with its card and its runs.

Every page is one file without scripts that loads nothing. Pages lead to each other by relative
links, so that the folder works from a disk as from a server.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

from advhash.errors import RunError, counted
from advhash.measures.intervals import Metric
from advhash.reports.attack.chapter import COMPARED, attack_chapters
from advhash.reports.benchmark import BENCHMARK, BenchmarkRecord, Row, benchmark_chapter_of
from advhash.reports.elements.chapters import Chapter, Source, Statement, source_of
from advhash.reports.elements.pictures import Pictures
from advhash.reports.elements.plots import Drawing, Effect, interval_figure
from advhash.reports.elements.tables import (
    Table,
    TableCell,
    columns,
    of_figures,
    points,
    row,
)
from advhash.reports.elements.verdict import with_interval
from advhash.reports.headline import AT_THRESHOLD, HEADLINES, Headline, headline_of, is_control
from advhash.reports.page.render import compose
from advhash.reports.record import SCHEMA, SIBLINGS, Record, Siblings, VictimInfo, schema_of
from advhash.reports.vocabulary import figure, label_of
from advhash.storage.files import partial_folder, storage_errors, write_bytes

INDEX = "index.html"
HEADINGS = {led.main: led for led in (*HEADLINES.values(), *AT_THRESHOLD.values())}
TAKEN = (SCHEMA, SIBLINGS, BENCHMARK)
TRAINED = ("trained", "cache", None)  # origins of victims that learnt on the data; None: 0.1
CLEAN = "map"
WEAK = "weak_victim"  # the flag of one that retrieves hardly anything without an attack


@dataclass(frozen=True)
class Line:
    """What one attack did to a victim, from a run or over the seeds of a benchmark.

    data:     the fingerprint of the data set
    norm:     of the budget, and its eps; infinite without a bound
    protocol: in words, equal where figures compare
    weak:     whether the victim is at chance without an attack
    """

    main: str
    dataset: str
    data: str
    norm: str
    eps: float
    budget: str
    protocol: str
    method: str
    weak: bool
    metrics: Mapping[str, Metric | None]

    @property
    def task(self) -> tuple[str, str, str, str, float, str, str]:
        """What lines of one board have in common, in the order of the boards."""
        return (self.dataset, self.data, self.main, self.norm, self.eps,
                self.budget, self.protocol)  # fmt: skip

    @property
    def led(self) -> Headline:
        return HEADINGS[self.main]

    @property
    def value(self) -> float:
        metric = self.metrics.get(self.main)
        return float("nan") if metric is None or metric.value is None else metric.value


@dataclass
class Entrant:
    """A victim of the leaderboard: its runs, its rows in benchmarks, and its page.

    runs:    folders of attack runs, with their records
    rows:    of benchmarks, by the folder of each
    """

    label: str
    dataset: str
    lines: list[Line] = field(default_factory=list)
    runs: list[tuple[Path, Record]] = field(default_factory=list)
    rows: dict[Path, list[Row]] = field(default_factory=dict)

    @property
    def page(self) -> str:
        """The name of its file: letters, digits and dashes, and what tells it from others."""
        word = re.sub(r"[^A-Za-z0-9]+", "-", f"{self.label}-{self.dataset}").strip("-")[:60]
        digest = hashlib.sha256(f"{self.label}\n{self.dataset}".encode()).hexdigest()[:8]
        return f"{word or 'victim'}-{digest}.html"


def run_folders(given: Sequence[Path]) -> list[Path]:
    """The folders of attack runs and benchmarks among these and right below them.

    Raises RunError: none, or a run of another kind that was named itself.
    """
    folders = []
    for place in given:
        if (place / "metrics.json").is_file():
            if schema_of(place) not in TAKEN:
                raise RunError(
                    f"expected runs of attack or benchmark for a leaderboard, got {place} of "
                    f"schema {schema_of(place)!r}: `advhash report` shows it"
                )
            folders.append(place)
        else:
            below = sorted(file.parent for file in place.glob("*/metrics.json"))
            folders += [folder for folder in below if schema_of(folder) in TAKEN]
    if not folders:
        named = ", ".join(map(str, given)) or "nothing"
        raise RunError(f"expected finished runs of attack or benchmark, got none in {named}")
    alone = []
    for folder in folders:
        several = schema_of(folder) == SIBLINGS
        alone += Siblings.read(folder).folders(folder) if several else [folder]
    return list(dict.fromkeys(alone))


def left_out(given: Sequence[Path]) -> str:
    """Which runs below these folders no leaderboard shows, and why, in a sentence; "" for none."""
    kinds: Counter[str] = Counter()
    named = [place for place in given if (place / "metrics.json").is_file()]
    below = [file.parent for place in given if place not in named
             for file in place.glob("*/metrics.json")]  # fmt: skip
    for folder in [*named, *below]:
        schema = schema_of(folder)
        if schema not in TAKEN:
            kinds[schema.split("/")[1] if schema.count("/") == 2 else "no readable kind"] += 1
        elif schema == BENCHMARK and not BenchmarkRecord.read(folder).rows:
            kinds["benchmark without attacks"] += 1
    if not kinds:
        return ""
    counts = ", ".join(f"{count} of {kind}" for kind, count in sorted(kinds.items()))
    return (
        f"Runs left out: {counts}. A leaderboard ranks victims by attack and benchmark runs alone; "
        "`advhash report` shows the others."
    )


def entrants(folders: Sequence[Path]) -> list[Entrant]:
    """The victims of these runs. Equal names with other weights stand apart. Raises RunError."""
    attacks = [(path, Record.read(path)) for path in folders if schema_of(path) == SCHEMA]
    benchmarks = [path for path in folders if schema_of(path) == BENCHMARK]
    weights: dict[tuple[str, str], set[str]] = {}
    for _, record in attacks:
        name = record.victim.label, record.dataset.label
        weights.setdefault(name, set()).add(record.victim.fingerprint)
    known: dict[tuple[str, str], Entrant] = {}

    def entrant(label: str, dataset: str) -> Entrant:
        return known.setdefault((label, dataset), Entrant(label, dataset))

    for path, record in attacks:
        label, dataset = record.victim.label, record.dataset.label
        if len(weights[label, dataset]) > 1:
            label = f"{label} ({record.victim.fingerprint[:8]})"
        led, victim = record.headline(), entrant(label, dataset)
        victim.runs.append((path, record))
        budget = record.budget
        victim.lines.append(
            Line(
                main=led.main,
                dataset=dataset,
                data=record.dataset.fingerprint,
                norm=budget.norm,
                eps=inf if budget.eps is None else budget.eps,
                budget=budget.text + ("" if budget.eight_bit else " unrounded"),
                protocol=record.protocol.text,
                method=record.attack.name,
                weak=any(flag.name == WEAK for flag in record.flags),
                metrics=record.metrics,
            )
        )
    for path in benchmarks:
        suite = BenchmarkRecord.read(path)
        for entry in suite.rows:
            victim, protocol = entrant(entry.victim, entry.dataset), entry.protocol
            victim.rows.setdefault(path, []).append(entry)
            at_threshold = protocol is not None and protocol.at_threshold
            victim.lines.append(
                Line(
                    main=headline_of(entry.goal, at_threshold=at_threshold).main,
                    dataset=entry.dataset.partition(", ")[0],  # the rest is its protocol
                    data=suite.data.get(entry.dataset, ""),
                    norm=entry.norm,
                    eps=inf if entry.eps is None else entry.eps,
                    budget=entry.budget,
                    protocol=f"as suite {suite.name} has it" if protocol is None else protocol.text,
                    method=entry.method,
                    weak=WEAK in entry.flags,
                    metrics=entry.metrics,
                )
            )
    if not known:
        raise RunError(
            f"expected attacks on victims for a leaderboard, got none in "
            f"{', '.join(map(str, folders))}: `advhash report` shows searches of stores"
        )
    return sorted(known.values(), key=lambda victim: (victim.dataset, victim.label))


@dataclass(frozen=True)
class Board:
    """Victims under one task, the one that holds best first, each with its strongest attack.

    Victims that are at chance without an attack come last: nothing ranks them.
    """

    main: str
    title: str
    places: Sequence[tuple[Entrant, Line]]

    @property
    def is_control(self) -> bool:
        """Whether nothing but noise was tried, which is no attack."""
        return all(is_control(line.method) for _, line in self.places)


def boards(victims: Sequence[Entrant]) -> list[Board]:
    """A board for each data set, leading figure, budget and protocol, small budgets first.

    Those of noise alone come last.
    """
    tasks: dict[tuple[str, str, str, str, float, str, str], dict[str, tuple[Entrant, Line]]] = {}
    for victim in victims:
        for line in victim.lines:
            if line.value != line.value:
                continue
            there = tasks.setdefault(line.task, {})
            before = there.get(victim.label)
            if before is None or line.led.sign * (line.value - before[1].value) > 0:
                there[victim.label] = victim, line
    versions = {
        name: {task[1] for task in tasks if task[0] == name} for name in {task[0] for task in tasks}
    }
    ranked = []
    for task, there in sorted(tasks.items()):
        dataset, data, main, _, _, budget, protocol = task
        name = f"{dataset} ({data[:8]})" if len(versions[dataset]) > 1 and data else dataset
        places = sorted(
            there.values(),
            key=lambda place: (place[1].weak, place[1].led.sign * place[1].value),
        )
        ranked.append(Board(main, f"{name}, {budget}, {protocol}: {label_of(main)}", places))
    return sorted(ranked, key=lambda board: board.is_control)


def board_table(board: Board) -> Table:
    """One row a victim, which leads to its page."""
    led = HEADINGS[board.main]
    names = [
        name
        for name in dict.fromkeys((led.main, *led.against, *([CLEAN] if led.shows(CLEAN) else [])))
        if figure(name).unit == "share" and any(line.metrics.get(name) for _, line in board.places)
    ]
    return Table(
        board.title,
        f"{board.title}. The victim that holds best comes first, each under the strongest attack "
        "that was run on it, in percent with 95 % intervals in small print. Where intervals "
        "overlap, the order is open."
        + (
            " A victim at chance retrieves hardly anything without an attack either: it comes "
            "last, and has no place among the others."
            if any(line.weak for _, line in board.places)
            else ""
        ),
        [*columns("Victim", "Strongest attack"), *of_figures(*names)],
        [
            row(
                TableCell(
                    victim.label,
                    link=f"victims/{victim.page}",
                    note="at chance without an attack" if line.weak else "",
                ),
                TableCell(line.method),
                (points(line.metrics.get(name)) for name in names),
            )
            for victim, line in board.places
        ],
    )


def board_figure(board: Board) -> Drawing | None:
    """The same as dots with intervals."""
    names = COMPARED[board.main].references
    effects = []
    for victim, line in board.places:
        metrics = {name: line.metrics.get(key) for name, key in names.items()}
        marks = {
            name: metric.value
            for name, metric in metrics.items()
            if metric is not None and metric.value is not None
        }
        metric = line.metrics.get(board.main)
        assert metric is not None  # a line without it stands on no board
        effects.append(Effect(victim.label, metric, marks))
    drawn = interval_figure(effects, f"{label_of(board.main)} (%)")
    if drawn is None:
        return None
    return Drawing(drawn, f"{board.title} of each victim; the numbers stand in the table.", "")


def index_chapter(
    victims: Sequence[Entrant], sources: Sequence[Source], name: str, missing: str = ""
) -> Chapter:
    """The leaderboard; missing: what it leaves out, in a sentence."""
    ranked = boards(victims)
    attacks = sum(len(victim.lines) for victim in victims)
    lead = (
        f"{counted(len(victims), 'victim')}, {counted(attacks, 'attack')} on "
        f"{'it' if len(victims) == 1 else 'them'}."
    )
    more = [
        f"{board.title}: {board.places[0][0].label} holds best, with "
        f"{with_interval(board.places[0][1].metrics[board.main] or Metric())} under "
        f"{board.places[0][1].method}."
        for board in ranked
        if not board.is_control and sum(not line.weak for _, line in board.places) > 1
    ]
    controls = sum(board.is_control for board in ranked)
    if controls:
        more.append(
            f"In {controls} of {len(ranked)} tables nothing but noise was tried: no attack."
        )
    more += [missing] if missing else []
    runs = [(victim.label, record) for victim in victims for _, record in victim.runs]
    suites = dict.fromkeys(path for victim in victims for path in victim.rows)
    flags = [
        (f"{record.attack.name} on {label}", flag)
        for label, record in runs
        for flag in record.flags
    ]
    deviations = [
        (label, text)
        for victim, record in runs
        for label, info in ((victim, record.victim), (record.attack.name, record.attack))
        for text in info.deviations
    ]
    attributions = [record.dataset.attribution for _, record in runs]
    for path in suites:
        suite = BenchmarkRecord.read(path)
        flags += [(f"suite {suite.name}", flag) for flag in suite.flags]
        deviations += [(key, text) for key, texts in suite.deviations.items() for text in texts]
        attributions += suite.attributions
    return Chapter(
        name=name,
        title=name,
        heading=name,
        template="site.html",
        values={
            "boards": [(board, board_figure(board), board_table(board)) for board in ranked],
            "victim": None,
        },
        statements=[Statement(name, lead, more)],
        sources=sources,
        datasets=list(dict.fromkeys(victim.dataset for victim in victims)),
        flags=flags,
        deviations=deviations,
        attributions=attributions,
    )


def card_chapter(victim: Entrant, info: VictimInfo) -> Chapter:
    """What is known of a victim: where it comes from, its settings, its weights, its deviations."""
    title = f"{victim.label} on {victim.dataset}"
    _, record = victim.runs[0]
    return Chapter(
        name=title,
        title=title,
        heading=title,
        template="site.html",
        values={
            "boards": [],
            "victim": info,
            "data": record.dataset,
            "trained": info.origin in TRAINED,
        },
        statements=[],
        sources=[],
        datasets=[],
    )


def victim_pages(victim: Entrant, pictures: Pictures) -> Iterator[Chapter]:
    """The chapters of a victim's page. Raises RunError."""
    if victim.runs:
        yield from attack_chapters([path for path, _ in victim.runs], pictures)
        yield card_chapter(victim, victim.runs[0][1].victim)
    for path, rows in victim.rows.items():
        yield benchmark_chapter_of(path, rows)


def sources_of(folders: Sequence[Path]) -> list[Source]:
    """Where the figures of the index come from."""
    sources = []
    for path in folders:
        if schema_of(path) == SCHEMA:
            record = Record.read(path)
            facts = [("Victim", record.victim.label), ("Attack", record.attack.name)]
            sources.append(source_of(path, f"run {record.run.id}", record.run, facts, {}))
        else:
            suite = BenchmarkRecord.read(path)
            sources.append(source_of(path, f"suite {suite.name}", suite.run, [], suite.suite))
    return sources


def write_site(given: Sequence[Path], out: Path, name: str = "Leaderboard") -> list[Path]:
    """Write the index and a page a victim into a new folder, whole or not at all; their paths.

    given: run folders of attack and benchmark, or folders of such

    Raises RunError: nothing to show, a damaged run; StorageError.
    """
    folders = run_folders(given)
    victims = entrants(folders)
    with storage_errors(out), partial_folder(out) as partial:
        (partial / "victims").mkdir()
        index = compose(
            [index_chapter(victims, sources_of(folders), name, left_out(given))], Pictures()
        )
        pages = {INDEX: index.html}
        for victim in victims:
            pictures = Pictures()
            made = list(victim_pages(victim, pictures))
            title = f"{victim.label} on {victim.dataset}"
            page = compose(made, pictures, title=title, home=f"../{INDEX}")
            pages[f"victims/{victim.page}"] = page.html
        for place, html in pages.items():
            write_bytes(partial / place, html.encode("utf-8", "replace"))
        partial.rename(out)
    return [out / place for place in pages]
