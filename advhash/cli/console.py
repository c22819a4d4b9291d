"""What the command line shows: progress on stderr, results on stdout."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress as Bars,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from advhash.budget import Budget, parse_eps
from advhash.cli.following import config_of_run, replayed
from advhash.cli.terminal import remark, tell, tell_json
from advhash.errors import counted
from advhash.storage.foreign_text import visible

if TYPE_CHECKING:
    from advhash.compute.progress import Progress

_PLAIN_SECONDS = 5.0
FIGURE = "value  [95 % interval]"
COSTS = ("seconds", "seconds_known", "unknown_costs", "uncertain_costs", "by_reference")
FEW = 6  # parts or facts that a line of a plan names
CALLED = {  # kinds of run whose command has another name
    "search": "evolve",
    "inversion": "invert",
    "encoding": "encode",
    "phase": "phase-chart",
    "least-change": "certify",
}
LEVELS = {"info": "dim", "warning": "yellow", "error": "bold red"}
UNBROKEN = 100_000  # columns of a line that is not written to a terminal


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document."""
    tell_json(document)


def print_rows(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """A table; cells are plain text, whatever they contain, and none is cut.

    Figures are called as pages call them, those of a column "metric" by their names at the end too.
    In a pipe or a file, a row is a line.
    """
    from advhash.reports.vocabulary import figure as figure_of

    table = Table(box=None, pad_edge=False, header_style="bold")
    named = ["metric"] if "metric" in columns else []
    for column in columns:
        heading = "figure" if column in named else figure_of(column).heading
        table.add_column(Text(visible(heading)), overflow="fold")
    for _ in named:
        table.add_column("name", overflow="fold")
    for row in rows:
        cells = {**row, **{column: figure_of(row[column]).heading for column in named}}
        texts = [*(cells[column] for column in columns), *(row[column] for column in named)]
        table.add_row(*(Text(visible(str(cell))) for cell in texts))
    Console(width=None if sys.stdout.isatty() else UNBROKEN).print(table)


def print_entries(groups: Mapping[str, Sequence[tuple[str, str, str]]]) -> None:
    """Names with their summary and source below the heading of their group, folded to the width.

    In a pipe or a file, an entry is a line.
    """
    width = max((len(name) for group in groups.values() for name, _, _ in group), default=0)
    console = Console(width=None if sys.stdout.isatty() else UNBROKEN)
    for number, (heading, group) in enumerate(groups.items()):
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(style="cyan", no_wrap=True, min_width=width)
        table.add_column(overflow="fold")
        for name, summary, source in group:
            text = Text(visible(summary))
            text.append(f"  {visible(source)}", style="dim")
            table.add_row(Text(visible(name)), text)
        console.print("\n" * (number > 0) + visible(heading), style="bold", markup=False)
        console.print(table)


def print_metrics(
    metrics: Mapping[str, Any],
    *,
    first: Sequence[str] = (),
    every: bool = True,
    pictures: bool = True,
) -> None:
    """Figures with their intervals, one a line; one that does not exist has no line.

    first:    names of those to read first, in this order
    every:    whether the others follow
    pictures: whether pixels are 255ths
    """
    from advhash.reports.elements.numbers import exists, written

    names = [name for name in first if name in metrics]
    rest = [name for name in metrics if name not in names and exists(metrics[name])]
    shown = [*names, *rest] if every or not first else names
    rows = [
        {"metric": name, FIGURE: written(name, metrics[name], pictures=pictures)}
        for name in shown
        if exists(metrics[name])
    ]
    print_rows(("metric", FIGURE), rows)
    if len(shown) < len(names) + len(rest):
        tell(f"{counted(len(rest), 'further figure')}: --all, or the report")


def print_retrieval(metrics: Mapping[str, Any]) -> None:
    """What codes are worth in a sentence: MAP of each direction beside that of a random order."""
    from advhash.reports.elements.numbers import exists
    from advhash.reports.elements.verdict import percent
    from advhash.reports.vocabulary import label_of

    chance = metrics.get("map_chance")
    worth = [
        f"MAP {percent(metrics[name]['value'])}"
        + ("" if name == "map" else f" ({label_of(name).removeprefix('MAP, ')})")
        for name in metrics
        if name == "map" or (name.startswith("map_") and name.count("_") == 2)
        if name != "map_chance" and exists(metrics[name])
    ]
    if worth and exists(chance):
        assert chance is not None
        order = f"; a random order has {percent(chance['value'])}."
        print_lead(["Queries retrieve with " + ", ".join(worth) + order], every=False)


def print_lead(sentences: Sequence[str], *, every: bool) -> None:
    """The verdict, bold on a terminal; what follows it, where all is asked for."""
    lead, *more = sentences
    _console().print(Text(visible(lead), style="bold"))
    for line in more if every else ():
        tell(line)


def _console() -> Console:
    """As wide as the terminal; a line stays a line elsewhere."""
    return Console(width=None if sys.stdout.isatty() else UNBROKEN, soft_wrap=True)


def print_pictures(document: Mapping[str, Any]) -> None:
    """What size of pictures the model was fed, where there are any."""
    from advhash.measures.sanity import picture_text

    pictures = (document.get("dataset") or {}).get("pictures")
    if pictures:
        tell(f"pictures: {picture_text(pictures)}")


def print_plan(plan: Mapping[str, Any], out: Path | None) -> None:
    """What a run would do, a line each: what it is of, its parts and cells, seconds, its folder."""
    known = {"schema", "command", "parts", "cells", "cells_done", "trainings", *COSTS}
    lines = {name: _in_a_line(value) for name, value in plan.items() if name not in known}
    cells = f"{plan['cells']:,}"
    if plan["cells_done"]:
        cells += f", {plan['cells_done']:,} of them are in the cache"
    made = plan["parts"]
    named = ", ".join(made) if len(made) <= FEW else f"{len(made)}"
    if plan["trainings"]:
        named += f", {counted(plan['trainings'], 'training')} among them"
    lines |= {
        "parts to make": named or "none",
        "cells": cells,
        "time": _time(plan),
        "writes": str(out or "runs/<id>"),
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, line in lines.items():
        if line:
            table.add_row(Text(visible(name.replace("_", " "))), Text(visible(line)))
    tell(f"plan of {plan['command']}: all is checked, nothing was run; --json has every setting")
    Console(width=None if sys.stdout.isatty() else UNBROKEN).print(table)


def _time(plan: Mapping[str, Any]) -> str:
    """The seconds that a plan foretells, in words."""
    if not plan["seconds_known"] and plan["unknown_costs"]:
        return "not known: this machine has done nothing alike"
    seconds = plan["seconds_known"]
    text = f"about {seconds:.0f} s" if seconds < 120 else f"about {seconds / 60:.0f} min"
    if plan["unknown_costs"]:
        unknown = counted(plan["unknown_costs"], "piece")
        text += f", and {unknown} of work of which nothing is known"
    if plan["by_reference"]:
        text += " (as measured on another machine)"
    return text


def _in_a_line(value: Any) -> str:
    """What a plan says of one thing: names and facts; settings have their place in the JSON."""
    if value is None or value in ({}, []):
        return ""
    if isinstance(value, Mapping):
        if {"norm", "eps"} <= value.keys():
            return str(Budget(value["norm"], parse_eps(value["eps"])))
        if all(isinstance(part, Mapping) for part in value.values()):
            return ", ".join(value)
        facts = {name: part for name, part in value.items() if name not in ("name", "settings")}
        listed = [
            f"{name.replace('_', ' ')}: {_in_a_line(part)}"
            for name, part in facts.items()
            if not isinstance(part, Mapping) and _in_a_line(part)
        ]
        if "name" not in value:
            return "; ".join([*listed[:FEW], *["…"] * (len(listed) > FEW)])
        named = str(value["name"])  # what else is many are its settings
        return f"{named} ({'; '.join(listed)})" if listed and len(facts) <= 2 else named
    if isinstance(value, list):
        if any(isinstance(part, Mapping) and "name" not in part for part in value):
            return f"{len(value)}"
        return ", ".join(_in_a_line(part) for part in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def print_flags(flags: Iterable[Mapping[str, Any]]) -> None:
    """What a reader must know before believing a figure, in colour on a terminal."""
    for flag in flags:
        text = Text(visible(f"{flag['level']}: {flag['message']}"), style=LEVELS[flag["level"]])
        _console().print(text)


def print_end(
    record: Any,
    *places: str,
    then: Sequence[tuple[str, str]] = (),
    again_differs: bool = True,
) -> None:
    """What was written where, two commands to go on with, and the flags of a record.

    then: commands that suit this kind better than those of all kinds, and what each is for
    again_differs: whether another seed can say something new
    """
    for place in places:
        tell(place)
    if record.run is not None:
        tell(f"report: {record.run.folder}/report.html")
        again = replayed(command_of(record), record, config_of_run(record))
        general = [(f"{again} --seed 1", "another seed")] * again_differs
        print_next([*then, *general, (_for_a_paper(record), "for a paper")][:2])
    print_flags(vars(flag) for flag in record.flags)


def _for_a_paper(record: Any) -> str:
    """Tables and figures of a run, in folders that no other run is told to write."""
    name = record.run.id
    words = ("report", record.run.folder, "--tables", f"{name}-tables", "--figures")
    return shlex.join([*words, f"{name}-figures"])


def print_next(commands: Sequence[tuple[str, str]]) -> None:
    """Commands that a user may want now, and what each is for."""
    for command, why in commands:
        text = Text("next: ", style="dim")
        text.append(visible(f"advhash {command}"), style="cyan")
        text.append(f"  # {why}", style="dim")
        _console().print(text)


def command_of(record: Any) -> str:
    """The command that makes runs like this one."""
    if getattr(record, "defense", None) is not None:
        return "defend"
    kind: str = record.schema_.split("/")[1]
    return CALLED.get(kind, kind)


@contextmanager
def progress_display() -> Iterator[Progress]:
    """Bars with time left on a terminal, plain lines elsewhere, always on stderr.

    Each passage through a stage has its own clock. The whole command has a line as well: of its
    steps where it knows them, else how many stages it went through and how long they took.
    """
    from advhash.compute.progress import OVERALL, Clocks

    console = Console(stderr=True)
    if not console.is_terminal:
        with _plain_progress() as plain:
            yield plain
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
    )
    with Bars(*columns, console=console) as bars:
        clocks = Clocks()
        tasks: dict[str, tuple[TaskID, int]] = {}
        whole = bars.add_task(OVERALL, total=None, figures="")

        def show(stage: str, done: int, total: int, **figures: float) -> None:
            if stage == OVERALL:
                bars.update(whole, completed=done, total=total)
                return
            number = clocks.tell(stage, done, total, time.monotonic()).number
            if stage not in tasks:
                tasks[stage] = bars.add_task(visible(stage), total=total, figures=""), number
            task, shown = tasks[stage]
            if number != shown:  # again: the bar begins anew, with its clock
                bars.reset(task, total=total, description=visible(_named(stage, number)))
                tasks[stage] = task, number
            bars.update(task, completed=done, total=total, figures=_figures(figures))

        yield show


@contextmanager
def _plain_progress() -> Iterator[Progress]:
    """A line when a stage begins and ends, and every five seconds in between."""
    from advhash.compute.progress import OVERALL, Clocks

    clocks = Clocks()
    last: dict[tuple[str, int], float] = {}
    begun = time.monotonic()
    planned = False

    def show(stage: str, done: int, total: int, **figures: float) -> None:
        nonlocal planned
        now = time.monotonic()
        planned |= stage == OVERALL
        span = clocks.tell(stage, done, total, now)
        key = (stage, span.number)
        if key in last and done < total and now - last[key] < _PLAIN_SECONDS:
            return
        last[key] = now
        left = span.left(now) if now - span.since > 1 else None
        ends = "" if left is None else f", about {left:.0f} s left"
        shown = f" ({_figures(figures)})" if figures else ""
        name = stage if stage == OVERALL else _named(stage, span.number)
        remark(f"{name}: {done}/{total}{shown}{ends}")

    yield show
    if last and not planned:
        spent = time.monotonic() - begun
        remark(f"{OVERALL}: {counted(len(last), 'stage')} in {spent:.0f} s")


def _named(stage: str, number: int) -> str:
    return stage if number == 1 else f"{stage} (no. {number})"


def _figures(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
