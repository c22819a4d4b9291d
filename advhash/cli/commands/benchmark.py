"""`advhash benchmark`, from the command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advhash.cli.console import FIGURE, print_end, print_json, print_lead, print_rows
from advhash.cli.execute import experiment
from advhash.cli.options import Config, ExecutorName, QueryCount
from advhash.cli.terminal import tell
from advhash.errors import CellsFailed, UsageError, counted

if TYPE_CHECKING:
    from advhash.reports.benchmark import BenchmarkRecord

WITH_SITE = frozenset({"site", "runs", "as_json", "quiet"})
SPELLED = {"settings": "--set", "every": "--all"}  # options with other names than their parameters


def print_benchmark(record: BenchmarkRecord, every: bool) -> None:
    """Both leaderboards, what failed, and where the report is."""
    from advhash.reports.benchmark import verdicts
    from advhash.reports.elements.numbers import written
    from advhash.reports.headline import HEADLINES

    done = len(record.cells) - len(record.failed) - len(record.left)
    tell(f"{record.name}: {done} of {counted(len(record.cells), 'cell')}")
    print_lead(verdicts(record) or ["No cell of the suite is finished."], every=every)
    rows = [
        {
            "data": standing.dataset,
            "budget": standing.budget,
            "rank": standing.rank,
            "victim": standing.victim,
            "attack": standing.method,
            "metric": HEADLINES[standing.goal].main,
            FIGURE: written(
                HEADLINES[standing.goal].main, standing.metrics[HEADLINES[standing.goal].main]
            ),
        }
        for standing in record.victims
    ]
    if rows or not record.searches:
        print_rows(("data", "budget", "rank", "victim", "attack", "metric", FIGURE), rows)
    if record.searches:
        searched = [
            {
                "data": row.dataset,
                "quantiser": row.quantiser,
                "attack": row.method,
                "store": row.store,
                "items": str(row.items),
                FIGURE: written("planted_top10", row.metrics["planted_top10"]),
                "natural hubs": written(
                    "planted_top10_natural", row.metrics["planted_top10_natural"]
                ),
            }
            for row in record.searches
        ]
        print_rows(
            ("data", "quantiser", "attack", "store", "items", FIGURE, "natural hubs"), searched
        )
    print_end(record)


def print_site(runs: list[Path], site: Path, *, as_json: bool) -> None:
    """Write the pages of a leaderboard and say where the first one is."""
    if site.exists():
        raise UsageError(f"expected a new folder for --site, got {site}, which exists")

    from advhash.reports.site import left_out, write_site

    pages = write_site(runs, site)
    victims = len(pages) - 1
    missing = left_out(runs)
    if as_json:
        names = [str(page) for page in pages]
        document = {"schema": "advhash/site/1", "site": str(pages[0]), "pages": names}
        print_json({**document, "left_out": missing})
        return
    tell(f"leaderboard: {pages[0]}, with {counted(victims, 'victim')}")
    if missing:
        tell(missing)


def write_leaderboard(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> bool:
    """Whether `--site` asks for a leaderboard, which is written. Raises UsageError."""
    if given["site"] is None:
        return False
    others = [
        SPELLED.get(name, f"--{name.replace('_', '-')}")
        for name, value in given.items()
        if name not in WITH_SITE and value != defaults[name]
    ]
    if others:
        raise UsageError(
            f"--site shows runs that are there and runs nothing: expected no {', no '.join(others)}"
        )
    print_site(given["runs"] or [Path("runs")], given["site"], as_json=given["as_json"])
    return True


def refuse_failed(record: BenchmarkRecord) -> None:
    """Raise CellsFailed where a cell failed: the rest is there."""
    if record.failed:
        first = next(cell for cell in record.cells if cell.status == "failed")
        raise CellsFailed(
            f"{len(record.failed)} of {len(record.cells)} cells failed, the first: {first.method} "
            f"on {first.victim}, {first.dataset}: {first.message}; the rest is in {record.report}"
        )


@experiment(
    "benchmark",
    show=print_benchmark,
    after=refuse_failed,
    limit="max_time",
    instead=write_leaderboard,
    hint="name it in the defenses of a grid",
)
def benchmark(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN…",
            help="For --site: runs of attack or benchmark. (default: runs)",
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite", help="A file, or one of those that are shipped: smoke, vector-search …"
        ),
    ] = None,
    executor: ExecutorName = "local",
    max_time: Annotated[
        float | None,
        typer.Option("--max-time", help="Minutes after which nothing is begun.", min=0),
    ] = None,
    queries: QueryCount = None,
    site: Annotated[
        Path | None,
        typer.Option("--site", help="Run nothing: write a leaderboard of runs into this folder."),
    ] = None,
    config: Config = None,
) -> dict[str, Any]:
    """Attack victims × defences × methods × budgets × data sets × seeds, and rank them.

    Finished cells are kept: the same command goes on after an interrupt or a kill.
    """
    if runs:
        raise UsageError(f"expected --site FOLDER with runs, got {runs[0]} without it")

    from advhash.experiments.benchmark.config import SuiteConfig
    from advhash.experiments.benchmark.shipped import load_suite
    from advhash.experiments.config_text import read_toml

    if (suite is None) is (config is None):
        raise UsageError("expected --suite NAME-OR-FILE, or --config of an earlier run")
    tables = load_suite(suite) if suite is not None else read_toml(config) if config else {}
    SuiteConfig.build(tables)
    if queries is not None:
        for grid in tables.get("grids", []):
            grid["protocol"] = {**grid.get("protocol", {}), "queries": queries}
        for grid in tables.get("searches", []):
            grid["unseen"] = queries
    return tables
