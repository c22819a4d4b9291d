"""`advhash defend`: harden a victim and measure what that is worth, from the command line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from advhash.cli.console import FIGURE, figure, print_rows

if TYPE_CHECKING:
    from advhash.reports.transfer import TransferRecord

from typing import Annotated

import typer

from advhash.cli.options import (
    Bits,
    Config,
    Database,
    DatasetName,
    Defense,
    Device,
    Json,
    Norm,
    OutFolder,
    QueryCount,
    QueryModality,
    Quiet,
    Seed,
    Settings,
    Targets,
    Victim,
    gather,
    method_table,
    working,
)
from advhash.errors import UsageError

__all__ = ["defend"]


def defend(
    victim: Victim = None,
    defense: Defense = None,
    dataset: DatasetName = None,
    bits: Bits = None,
    norm: Norm = None,
    eps: Annotated[
        str | None,
        typer.Option("--eps", help="Of training and of the attacks. (default: 8/255)"),
    ] = None,
    targets: Targets = None,
    query_modality: QueryModality = None,
    database: Database = None,
    queries: QueryCount = None,
    seed: Seed = None,
    device: Device = None,
    out: OutFolder = None,
    settings: Settings = None,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Harden a victim, attack it with and without the defence, and write the run folder.

    The attacker knows the defence: autohash, targeted and not, on each of the two.
    """
    from advhash.cli.console import print_json
    from advhash.experiments.defend import defend as run_defend, defend_config

    values = gather(
        config,
        settings,
        seed=seed,
        device=device,
        victim=method_table(victim, bits=bits),
        defense=method_table(defense),
        dataset=method_table(dataset),
        budget={"norm": norm, "eps": eps},
        protocol={
            "targets": targets,
            "query_modality": query_modality,
            "database": database,
            "queries": queries,
        },
    )
    for table in ("victim", "defense"):
        if "name" not in values.get(table, {}):
            raise UsageError(f"expected --{table} (see `advhash list {table}s`)")
    parsed = defend_config(values)
    if out is not None and out.exists():
        raise UsageError(f"expected a new folder for --out, got {out}, which exists")
    with working(quiet) as progress:
        record = run_defend(parsed, out, progress)
    if as_json:
        assert record.defense is not None
        print_json({**record.document(), "checkpoint": record.defense.checkpoint})
    else:
        print_defense(record)


def print_defense(record: TransferRecord) -> None:
    """Headline of a defence, its checks, and where checkpoint and report are."""
    assert record.defense is not None
    budget = next(iter(record.budgets.values()))
    sys.stdout.write(
        f"{record.defense.defended} ({budget.text}), {record.dataset.name}, "
        f"{record.protocol.queries} queries\n"
    )
    rows = [
        {"metric": name, FIGURE: figure(None if metric is None else vars(metric))}
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
