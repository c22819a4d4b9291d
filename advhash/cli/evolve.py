"""`advhash search`, from the command line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from advhash.cli.console import FIGURE, figure, print_rows

if TYPE_CHECKING:
    from advhash.reports.evolve import SearchRecord

from pathlib import Path
from typing import Annotated

import typer

from advhash.cli.options import (
    Config,
    DatasetName,
    Device,
    Json,
    Norm,
    OutFolder,
    Quiet,
    Seed,
    Settings,
    Targets,
    TrustCode,
    Victim,
    gather,
    method_table,
    working,
)
from advhash.errors import UsageError

__all__ = ["search"]


def search(
    domain: Annotated[
        str | None, typer.Option("--domain", help="attack or nas: what is searched.")
    ] = None,
    algorithm: Annotated[
        str | None, typer.Option("--algorithm", help="evolution, random or hill-climbing.")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", help="Of each search. (default: 120; nas: 600 simulated)"),
    ] = None,
    candidates: Annotated[
        int | None, typer.Option("--candidates", help="Most candidates of each search.")
    ] = None,
    repeats: Annotated[
        int | None, typer.Option("--repeats", help="Each with a cold cache. (default: 3; nas: 10)")
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--table", help="nas: a file of benchmarks/nas_table.py.")
    ] = None,
    victim: Victim = None,
    other: Annotated[
        str | None, typer.Option("--other", help="A victim that no search uses. (default: csq)")
    ] = None,
    dataset: DatasetName = None,
    norm: Norm = None,
    eps: Annotated[str | None, typer.Option("--eps", help="e.g. 8/255. (default: 8/255)")] = None,
    targets: Targets = None,
    executor: Annotated[
        str | None, typer.Option("--executor", help="inline, local or dask:tcp://HOST:PORT.")
    ] = None,
    seed: Seed = None,
    device: Device = None,
    out: OutFolder = None,
    trust_code: TrustCode = False,
    settings: Settings = None,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Search for the strongest attack, or the best cell, and evaluate equals once.

    Compared at equal cost with the same search without a cache.
    """
    from advhash.cli.console import print_json
    from advhash.experiments.evolve.config import SearchConfig
    from advhash.experiments.evolve.run import search as run_search

    values = gather(
        config,
        settings,
        domain=domain,
        executor=executor,
        seed=seed,
        device=device,
        table=None if table is None else str(table),
        search={
            "algorithm": algorithm,
            "seconds": seconds,
            "candidates": candidates,
            "repeats": repeats,
        },
        victim=method_table(victim),
        other=method_table(other),
        dataset=method_table(dataset),
        budget={"norm": norm, "eps": eps},
        targets=targets,
    )
    if not values.get("domain"):
        raise UsageError("expected --domain attack or --domain nas")
    for name, default in (("victim", "dpsh"), ("other", "csq")):
        if values.get(name) and not values[name].get("name"):  # --set victim.bits=16 alone
            values[name] = {"name": default, **values[name]}
    parsed = SearchConfig.build({**values, "command": "search"}).trusting(trust_code)
    if out is not None and out.exists():
        raise UsageError(f"expected a new folder for --out, got {out}, which exists")
    with working(quiet) as progress:
        record = run_search(parsed, out, progress)
    if as_json:
        print_json(record.document())
    else:
        print_search(record)


def print_search(record: SearchRecord) -> None:
    """Headline of a search, its verdicts, and where winner and report are."""
    from advhash.reports.evolve import verdicts

    repeats = len(record.of("cached"))
    sys.stdout.write(f"search over {record.domain}, {repeats} repeats\n")
    rows = [
        {"metric": name, FIGURE: figure(None if metric is None else vars(metric))}
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
