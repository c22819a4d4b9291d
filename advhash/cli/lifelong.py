"""`advhash lifelong`: the lifelong protocol from the command line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from advhash.cli.console import figure, print_rows

if TYPE_CHECKING:
    from advhash.reports.lifelong.record import LifelongRecord

from typing import Annotated

import typer

from advhash.cli.options import (
    Bits,
    Config,
    DatasetName,
    Device,
    Json,
    OutFolder,
    Quiet,
    Seed,
    Settings,
    Victim,
    gather,
    method_table,
    working,
)
from advhash.errors import UsageError

__all__ = ["lifelong"]


def lifelong(
    victim: Victim = None,
    dataset: DatasetName = None,
    bits: Bits = None,
    orders: Annotated[
        int | None, typer.Option("--orders", help="Drawn orders of categories. (default: 3)")
    ] = None,
    increments: Annotated[
        int | None, typer.Option("--increments", help="Increments of an order. (default: 2)")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", help="Seeds of each order. (default: 3)")
    ] = None,
    seed: Seed = None,
    device: Device = None,
    executor: Annotated[
        str, typer.Option("--executor", help="inline, local or dask:tcp://HOST:PORT.")
    ] = "inline",
    out: OutFolder = None,
    settings: Settings = None,
    config: Config = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the plan, train nothing.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Let categories arrive one after another: DLCMH against fine-tuning and retraining.

    Finished cells (an order with a seed) are kept: the same command goes on where it was stopped.
    """
    from advhash.cli.console import print_json
    from advhash.compute.executor import check_executor
    from advhash.experiments.lifelong.config import LifelongConfig
    from advhash.experiments.lifelong.run import (
        lifelong as run_lifelong,
        lifelong_plan,
        plan_document,
    )

    values = gather(
        config,
        settings,
        seed=seed,
        device=device,
        victim=method_table(victim, bits=bits),
        rival=method_table("dcmh"),
        attack=method_table("prosgan"),
        dataset=method_table(dataset),
        lifelong={"orders": orders, "increments": increments, "seeds": seeds},
    )
    if "name" not in values.get("victim", {}):
        raise UsageError("expected --victim dlcmh")
    parsed = LifelongConfig.build(values)
    check_executor(executor)
    if dry_run:
        print_json(plan_document(lifelong_plan(parsed)))
        return
    if out is not None and out.exists():
        raise UsageError(f"expected a new folder for --out, got {out}, which exists")
    with working(quiet) as progress:
        record = run_lifelong(parsed, out, progress, executor=executor)
    if as_json:
        print_json(record.document())
    else:
        print_lifelong(record)


def print_lifelong(record: LifelongRecord) -> None:
    """Headline of a lifelong run and where its report is."""
    protocol = record.protocol
    sys.stdout.write(
        f"{record.victim.name} on {record.dataset.name}, {len(protocol.orders)} orders × "
        f"{len(protocol.seeds)} seeds, {record.last} increments\n"
    )
    rows = [
        {"metric": name, "value  [95 % interval]": figure(metric)}
        for name, metric in record.document()["metrics"].items()
    ]
    print_rows(("metric", "value  [95 % interval]"), rows)
    for flag in record.flags:
        sys.stdout.write(f"{flag.level}: {flag.message}\n")
    sys.stdout.write(f"report: {record.run.folder}/report.html\n")
