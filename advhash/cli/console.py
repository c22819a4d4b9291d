"""What the command line shows: progress on stderr, results on stdout."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

from advhash.cli.terminal import remark, tell, tell_json
from advhash.storage.foreign_text import visible

if TYPE_CHECKING:
    from advhash.compute.progress import Progress
    from advhash.measures.intervals import Difference, Metric

_PLAIN_SECONDS = 5.0
FIGURE = "value  [95 % interval]"
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


def exists(metric: Metric | Difference | Mapping[str, Any] | None) -> bool:
    """Whether a figure, of a record or of a document, has a value."""
    if metric is None:
        return False
    value = metric["value"] if isinstance(metric, Mapping) else metric.value
    return value is not None and math.isfinite(value)


def figure(metric: Metric | Difference | Mapping[str, Any] | None, digits: int = 3) -> str:
    """A figure, of a record or of a document, with its interval."""
    if metric is None or not exists(metric):
        return "–"
    parts = metric if isinstance(metric, Mapping) else vars(metric)
    text = f"{parts['value']:.{digits}f}"
    if parts["low"] is not None and parts["n"] > 1:
        text += f"  [{parts['low']:.{digits}f}, {parts['high']:.{digits}f}]"
    return text


def print_metrics(metrics: Mapping[str, Any]) -> None:
    """Figures with their intervals, one a line; seconds to a tenth of a millisecond.

    A figure that does not exist has no line.
    """
    rows = [
        {"metric": name, FIGURE: figure(metric, 4 if name.startswith("seconds_") else 3)}
        for name, metric in metrics.items()
        if exists(metric)
    ]
    print_rows(("metric", FIGURE), rows)


def print_pictures(document: Mapping[str, Any]) -> None:
    """What size of pictures the model was fed, where there are any."""
    from advhash.measures.sanity import picture_text

    pictures = (document.get("dataset") or {}).get("pictures")
    if pictures:
        tell(f"pictures: {picture_text(pictures)}")


def print_flags(flags: Iterable[Mapping[str, Any]]) -> None:
    for flag in flags:
        tell(f"{flag['level']}: {flag['message']}")


def print_end(record: Any, *places: str) -> None:
    """Flags of a record, what else was written where, and where its report is."""
    print_flags(vars(flag) for flag in record.flags)
    for place in places:
        tell(place)
    if record.run is not None:
        tell(f"report: {record.run.folder}/report.html")


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
        stages = "1 stage" if len(last) == 1 else f"{len(last)} stages"
        remark(f"{OVERALL}: {stages} in {spent:.0f} s")


def _named(stage: str, number: int) -> str:
    return stage if number == 1 else f"{stage} (no. {number})"


def _figures(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
