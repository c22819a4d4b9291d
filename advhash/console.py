"""What the command line shows: progress on stderr, results on stdout."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from advhash.budgets import Siblings
    from advhash.comparing import Comparison
    from advhash.data import Progress
    from advhash.reports.benchmark import BenchmarkRecord
    from advhash.reports.encoding import EncodingRecord
    from advhash.reports.inversion import InversionRecord
    from advhash.reports.lifelong import LifelongRecord
    from advhash.reports.phase import PhaseRecord
    from advhash.reports.record import Record
    from advhash.reports.search import SearchRecord
    from advhash.reports.transfer import TransferRecord

__all__ = [
    "print_card",
    "print_certificates",
    "print_comparison",
    "print_detection",
    "print_encoding",
    "print_evaluation",
    "print_inversion",
    "print_json",
    "print_lifelong",
    "print_phase",
    "print_rows",
    "print_run",
    "print_search",
    "print_siblings",
    "print_training",
    "print_transfer",
    "progress_display",
]

_PLAIN_SECONDS = 5.0
FIGURE = "value  [95 % interval]"
UNBROKEN = 100_000  # columns of a line that is not written to a terminal


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document."""
    sys.stdout.write(json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def print_rows(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """A table; cells are plain text, whatever they contain, and none is cut.

    In a pipe or a file, a row is a line.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(row[column])) for column in columns))
    Console(width=None if sys.stdout.isatty() else UNBROKEN).print(table)


def print_card(name: str, card: Mapping[str, Any]) -> None:
    """A data card, one line an entry, nested entries indented."""
    lines = [name]

    def add(value: Mapping[str, Any], indent: str) -> None:
        for key, item in value.items():
            if isinstance(item, Mapping):
                lines.append(f"{indent}{key}:")
                add(item, indent + "  ")
            elif isinstance(item, list | tuple):
                lines.append(f"{indent}{key}: {', '.join(str(part) for part in item)}")
            else:
                shown = f"{item:.4f}" if isinstance(item, float) else item
                lines.append(f"{indent}{key}: {shown}")

    add(card, "  ")
    sys.stdout.write("\n".join(lines) + "\n")


def _figure(metric: Mapping[str, Any] | None, digits: int = 3) -> str:
    if metric is None or metric["value"] is None:
        return "–"
    text = f"{metric['value']:.{digits}f}"
    if metric["low"] is not None and metric["n"] > 1:
        text += f"  [{metric['low']:.{digits}f}, {metric['high']:.{digits}f}]"
    return text


def print_evaluation(document: Mapping[str, Any]) -> None:
    """Figures of codes from outside."""
    sys.stdout.write(
        f"{document['queries']} queries against {document['database']} codes of "
        f"{document['bits']} bits, {document['classes']} classes; "
        f"{document['empty_queries']} queries without a relevant row\n"
    )
    rows = [
        {"metric": name, "value  [95 % interval]": _figure(metric)}
        for name, metric in document["metrics"].items()
    ]
    print_rows(("metric", "value  [95 % interval]"), rows)
    sys.stdout.write(
        f"{document['seconds']:.4f} s, {document['pairs_per_second'] / 1e9:.2f} billion pairs/s\n"
    )


def print_training(document: Mapping[str, Any]) -> None:
    """Figures of a trained victim."""
    rows = [
        {"metric": name, "value  [95 % interval]": _figure(metric)}
        for name, metric in document["metrics"].items()
    ]
    print_rows(("metric", "value  [95 % interval]"), rows)
    _print_flags(document)
    if document["checkpoint"] is not None:
        sys.stdout.write(f"checkpoint: {document['checkpoint']}\n")


def print_run(record: Record) -> None:
    """Headline of an attack run and where its report is."""
    document = record.document()
    sys.stdout.write(
        f"{record.attack.name} ({record.budget.text}) on {record.victim.label}, "
        f"{record.dataset.name}, {record.protocol.queries} queries, "
        f"{record.protocol.query_modality} against {record.protocol.database}\n"
    )
    rows = [
        {"metric": name, "value  [95 % interval]": _figure(metric, 4 if "seconds" in name else 3)}
        for name, metric in document["metrics"].items()
    ]
    print_rows(("metric", "value  [95 % interval]"), rows)
    for flag in record.flags:
        sys.stdout.write(f"{flag.level}: {flag.message}\n")
    sys.stdout.write(f"report: {record.run.folder}/report.html\n")


def print_siblings(siblings: Siblings) -> None:
    """Headline of each budget, and where the report is."""
    first = siblings.records[0]
    sys.stdout.write(
        f"{first.attack.name} on {first.victim.label}, {first.dataset.name}, "
        f"{first.protocol.queries} queries\n"
    )
    names = ("tmap", "tmap_normalised", "map_adversarial")
    shown = [name for name in names if first.metrics.get(name) is not None]
    rows = [
        {
            "budget": record.budget.text,
            **{name: _figure(record.document()["metrics"][name]) for name in shown},
        }
        for record in siblings.records
    ]
    print_rows(("budget", *shown), rows)
    sys.stdout.write(f"report: {siblings.folder}/report.html\n")


def print_lifelong(record: LifelongRecord) -> None:
    """Headline of a lifelong run and where its report is."""
    protocol = record.protocol
    sys.stdout.write(
        f"{record.victim.name} on {record.dataset.name}, {len(protocol.orders)} orders × "
        f"{len(protocol.seeds)} seeds, {record.last} increments\n"
    )
    rows = [
        {"metric": name, "value  [95 % interval]": _figure(metric)}
        for name, metric in record.document()["metrics"].items()
    ]
    print_rows(("metric", "value  [95 % interval]"), rows)
    for flag in record.flags:
        sys.stdout.write(f"{flag.level}: {flag.message}\n")
    sys.stdout.write(f"report: {record.run.folder}/report.html\n")


def print_transfer(record: TransferRecord) -> None:
    """The matrix of each method and where the report is."""
    from advhash.reports.measures import main_metric

    sys.stdout.write(f"{record.dataset.name}, {record.protocol.queries} queries\n")
    for method, budget in record.budgets.items():
        main = main_metric(record.goal(method))
        sys.stdout.write(f"{method} ({budget.text}): {main}; rows: made for, columns: judged on\n")
        rows = []
        for source in record.labels:
            row = {"": source}
            for target in record.labels:
                metric = record.at(method, source, target).metrics[main]
                row[target] = _figure(None if metric is None else vars(metric))
            rows.append(row)
        print_rows(("", *record.labels), rows)
    for flag in record.flags:
        sys.stdout.write(f"{flag.level}: {flag.message}\n")
    sys.stdout.write(f"report: {record.run.folder}/report.html\n")


def print_benchmark(record: BenchmarkRecord) -> None:
    """Both leaderboards, what failed, and where the report is."""
    from advhash.reports.benchmark import verdicts
    from advhash.reports.measures import main_metric

    done = len(record.cells) - len(record.failed) - len(record.left)
    sys.stdout.write(f"{record.name}: {done} of {len(record.cells)} cells\n")
    rows = [
        {
            "data": one.dataset,
            "budget": one.budget,
            "rank": one.rank,
            "victim": one.victim,
            "attack": one.method,
            "metric": main_metric(one.goal),
            FIGURE: _figure(vars(one.metrics[main_metric(one.goal)])),
        }
        for one in record.victims
    ]
    print_rows(("data", "budget", "rank", "victim", "attack", "metric", FIGURE), rows)
    for line in verdicts(record):
        sys.stdout.write(f"{line}\n")
    for flag in record.flags:
        sys.stdout.write(f"{flag.level}: {flag.message}\n")
    sys.stdout.write(f"report: {record.report}\n")


def print_comparison(found: Comparison) -> None:
    """The paired differences of two runs."""
    sys.stdout.write(f"{found.title}\n")
    rows = [
        {"metric": name, FIGURE: _figure(vars(one)), "p": "" if one.p is None else f"{one.p:.4f}"}
        for name, one in found.differences.items()
    ]
    print_rows(("metric", FIGURE, "p"), rows)
    for note in found.notes:
        sys.stdout.write(f"note: {note}\n")


def print_search(record: SearchRecord) -> None:
    """Headline of a search, its verdicts, and where winner and report are."""
    from advhash.reports.search import verdicts

    repeats = len(record.of("cached"))
    sys.stdout.write(f"search over {record.domain}, {repeats} repeats\n")
    rows = [
        {"metric": name, FIGURE: _figure(None if metric is None else vars(metric))}
        for name, metric in [*record.metrics.items(), *record.differences.items()]
    ]
    print_rows(("metric", FIGURE), rows)
    for line in verdicts(record):
        sys.stdout.write(f"{line}\n")
    for flag in record.flags:
        sys.stdout.write(f"{flag.level}: {flag.message}\n")
    if record.held_out:
        sys.stdout.write(f"winner: {record.run.folder}/winner.toml\n")
    sys.stdout.write(f"report: {record.run.folder}/report.html\n")


def print_defense(record: TransferRecord) -> None:
    """Headline of a defence, its checks, and where checkpoint and report are."""
    assert record.defense is not None
    budget = next(iter(record.budgets.values()))
    sys.stdout.write(
        f"{record.defense.defended} ({budget.text}), {record.dataset.name}, "
        f"{record.protocol.queries} queries\n"
    )
    rows = [
        {"metric": name, FIGURE: _figure(None if metric is None else vars(metric))}
        for name, metric in record.metrics.items()
    ]
    print_rows(("metric", FIGURE), rows)
    for check in record.defense.checks:
        found = ", ".join(f"{name} {metric.value:.3f}" for name, metric in check.points.items())
        sys.stdout.write(f"{'sound' if check.passed else 'MASKED?'}: {check.name}: {found}\n")
    for flag in record.flags:
        sys.stdout.write(f"{flag.level}: {flag.message}\n")
    sys.stdout.write(f"checkpoint: {record.defense.checkpoint}\n")
    sys.stdout.write(f"report: {record.run.folder}/report.html\n")


def print_encoding(record: EncodingRecord) -> None:
    """Headline of each code and where the report is."""
    sys.stdout.write(
        f"{record.victim.label} on {record.dataset.name}: {record.train} training and "
        f"{record.test} test pictures\n"
    )
    names = ("redundancy_train", "redundancy_test", "kmeans_purity", "knn_accuracy")
    rows = [
        {
            "code": coder.label,
            "bits": "–" if coder.bits is None else coder.bits,
            **{
                name: _figure(None if one is None else vars(one))
                for name, one in ((name, coder.metrics.get(name)) for name in names)
            },
        }
        for coder in record.coders
    ]
    print_rows(("code", "bits", *names), rows)
    for flag in record.flags:
        sys.stdout.write(f"{flag.level}: {flag.message}\n")
    sys.stdout.write(f"report: {record.run.folder}/report.html\n")


def print_phase(record: PhaseRecord) -> None:
    """Headline of a phase chart and where the report is."""
    from advhash.reports.phase import verdicts

    for line in verdicts(record):
        sys.stdout.write(f"{line}\n")
    for flag in record.flags:
        sys.stdout.write(f"{flag.level}: {flag.message}\n")
    sys.stdout.write(f"report: {record.run.folder}/report.html\n")


def print_inversion(record: InversionRecord) -> None:
    """Headline of a reconstruction run and where its report is."""
    document = record.document()
    sys.stdout.write(
        f"{record.attack.name} on {record.victim.label}, {record.dataset.name}, "
        f"{record.protocol.samples} samples of {record.protocol.party}\n"
    )
    found = {**document["metrics"], **document["differences"]}
    rows = [{"metric": name, FIGURE: _figure(metric)} for name, metric in found.items()]
    print_rows(("metric", FIGURE), rows)
    for flag in record.flags:
        sys.stdout.write(f"{flag.level}: {flag.message}\n")
    sys.stdout.write(f"report: {record.run.folder}/report.html\n")


def print_detection(document: Mapping[str, Any]) -> None:
    """Figures of a detector."""
    tables: Mapping[str, Any] = document.get("detectors") or {
        document["detector"]["name"]: document
    }
    for detector, found in tables.items():
        sys.stdout.write(
            f"{detector} on {document['inputs']} inputs of {_defended(document)}, "
            f"{document['dataset']['name']}: {document['abnormal']} abnormal, {document['clean']} "
            f"clean; flagged above {found['threshold']:g}\n"
        )
        rows = [
            {"metric": name, FIGURE: _figure(metric)} for name, metric in found["metrics"].items()
        ]
        print_rows(("metric", FIGURE), rows)
    _print_flags(document)


def _print_flags(document: Mapping[str, Any]) -> None:
    for flag in document["flags"]:
        sys.stdout.write(f"{flag['level']}: {flag['message']}\n")


def _defended(document: Mapping[str, Any]) -> str:
    """The victim with its defences: "dpsh + jpeg"."""
    return " + ".join(one["name"] for one in (document["victim"], *document["defenses"]))


def print_certificates(document: Mapping[str, Any]) -> None:
    """What is certified at each radius, below what the smoothed hash is worth."""
    smoothing = document["smoothing"]
    sys.stdout.write(
        f"{_defended(document)} under noise of sigma {smoothing['sigma']:g}, "
        f"{document['dataset']['name']}: {document['queries']} queries; no radius above "
        f"{document['largest_radius']:.3g} can be certified\n"
    )
    rows = [
        {"metric": name, FIGURE: _figure(metric)} for name, metric in document["metrics"].items()
    ]
    print_rows(("metric", FIGURE), rows)
    for one in document["radii"]:
        sys.stdout.write(f"L2 radius {one['radius']:g}\n")
        rows = [
            {"metric": name, FIGURE: _figure(metric)} for name, metric in one["metrics"].items()
        ]
        print_rows(("metric", FIGURE), rows)
    _print_flags(document)


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
