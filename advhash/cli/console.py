"""What the command line shows: progress on stderr, results on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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

if TYPE_CHECKING:
    from advhash.compute.progress import Progress

_PLAIN_SECONDS = 5.0
FIGURE = "value  [95 % interval]"
UNBROKEN = 100_000  # columns of a line that is not written to a terminal


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document."""
    sys.stdout.write(json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


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
        table.add_column(heading, overflow="fold")
    for _ in named:
        table.add_column("name", overflow="fold")
    for row in rows:
        cells = {**row, **{one: figure_of(row[one]).heading for one in named}}
        told = [*(cells[column] for column in columns), *(row[one] for one in named)]
        table.add_row(*(Text(str(cell)) for cell in told))
    Console(width=None if sys.stdout.isatty() else UNBROKEN).print(table)


def figure(metric: Mapping[str, Any] | None, digits: int = 3) -> str:
    if metric is None or metric["value"] is None:
        return "–"
    text = f"{metric['value']:.{digits}f}"
    if metric["low"] is not None and metric["n"] > 1:
        text += f"  [{metric['low']:.{digits}f}, {metric['high']:.{digits}f}]"
    return text


def print_flags(document: Mapping[str, Any]) -> None:
    for flag in document["flags"]:
        sys.stdout.write(f"{flag['level']}: {flag['message']}\n")


def defended(document: Mapping[str, Any]) -> str:
    """The victim with its defences: "dpsh + jpeg"."""
    return " + ".join(one["name"] for one in (document["victim"], *document["defenses"]))


@contextmanager
def progress_display() -> Iterator[Progress]:
    """Bars with time left on a terminal, plain lines elsewhere, always on stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_progress()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Bars(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int, **figures: float) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, figures="")
            bars.update(tasks[stage], completed=done, total=total, figures=_figures(figures))

        yield show


def _plain_progress() -> Progress:
    """A line when a stage begins and ends, and every five seconds in between."""
    last: dict[str, float] = {}
    begun: dict[str, tuple[float, int]] = {}

    def show(stage: str, done: int, total: int, **figures: float) -> None:
        now = time.monotonic()
        if stage in last and done < total and now - last[stage] < _PLAIN_SECONDS:
            return
        since, first = begun.setdefault(stage, (now, done))
        last[stage] = now
        spent = now - since
        left = (
            f", about {spent / (done - first) * (total - done):.0f} s left"
            if spent > 1 and first < done < total
            else ""
        )
        shown = f" ({_figures(figures)})" if figures else ""
        sys.stderr.write(f"{stage}: {done}/{total}{shown}{left}\n")
        sys.stderr.flush()

    return show


def _figures(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
