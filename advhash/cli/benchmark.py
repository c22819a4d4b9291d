"""`advhash benchmark`, from the command line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from advhash.cli.console import FIGURE, figure, print_rows

if TYPE_CHECKING:
    from advhash.reports.benchmark import BenchmarkRecord

from typing import Annotated

import typer

from advhash.cli.options import (
    Config,
    Device,
    Json,
    OutFolder,
    QueryCount,
    Quiet,
    Seed,
    Settings,
    TrustCode,
    gather,
    working,
)
from advhash.errors import CellsFailed, UsageError

__all__ = ["benchmark"]


def benchmark(
    suite: Annotated[
        str | None,
        typer.Option("--suite", help="A file, or smoke, small, full or paper-prosgan."),
    ] = None,
    executor: Annotated[
        str, typer.Option("--executor", help="inline, local or dask:tcp://HOST:PORT.")
    ] = "local",
    max_time: Annotated[
        float | None,
        typer.Option("--max-time", help="Minutes after which nothing is begun.", min=0),
    ] = None,
    queries: QueryCount = None,
    seed: Seed = None,
    device: Device = None,
    out: OutFolder = None,
    trust_code: TrustCode = False,
    settings: Settings = None,
    config: Config = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check all cells, tell what they may cost, do nothing."),
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Attack victims × defences × methods × budgets × data sets × seeds, and rank them.

    Finished cells are kept: the same command goes on after an interrupt or a kill.
    """
    from advhash.cli.console import print_json
    from advhash.experiments.benchmark.config import SuiteConfig
    from advhash.experiments.benchmark.run import benchmark as run_benchmark, benchmark_plan
    from advhash.experiments.benchmark.suite import load_suite

    if (suite is None) is (config is None):
        raise UsageError("expected --suite NAME-OR-FILE, or --config of an earlier run")
    values = gather(config, settings, seed=seed, device=device)
    if suite is not None:
        values = {**load_suite(suite), **values}
    parsed = SuiteConfig.build(values)
    if queries is not None:
        for grid in values["grids"]:
            grid["protocol"] = {**grid.get("protocol", {}), "queries": queries}
        parsed = SuiteConfig.build(values)
    parsed = parsed.trusting(trust_code)
    if dry_run:
        print_json(benchmark_plan(parsed, executor))
        return
    if out is not None and out.exists():
        raise UsageError(f"expected a new folder for --out, got {out}, which exists")
    with working(quiet) as progress:
        record = run_benchmark(
            parsed,
            out,
            progress,
            executor=executor,
            max_seconds=None if max_time is None else 60 * max_time,
        )
    if as_json:
        print_json(record.document())
    else:
        print_benchmark(record)
    if record.failed:
        first = next(cell for cell in record.cells if cell.status == "failed")
        raise CellsFailed(
            f"{len(record.failed)} of {len(record.cells)} cells failed, the first: {first.method} "
            f"on {first.victim}, {first.dataset}: {first.message}; the rest is in {record.report}"
        )


def print_benchmark(record: BenchmarkRecord) -> None:
    """Both leaderboards, what failed, and where the report is."""
    from advhash.reports.benchmark import verdicts
    from advhash.reports.record import main_metric

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
            FIGURE: figure(vars(one.metrics[main_metric(one.goal)])),
        }
        for one in record.victims
    ]
    print_rows(("data", "budget", "rank", "victim", "attack", "metric", FIGURE), rows)
    for line in verdicts(record):
        sys.stdout.write(f"{line}\n")
    for flag in record.flags:
        sys.stdout.write(f"{flag.level}: {flag.message}\n")
    sys.stdout.write(f"report: {record.report}\n")
