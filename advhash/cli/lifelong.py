"""`advhash lifelong`: the lifelong protocol from the command line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advhash.cli.console import FIGURE, figure, print_rows
from advhash.cli.execute import experiment
from advhash.cli.options import Bits, DatasetName, Victim, method_table

if TYPE_CHECKING:
    from advhash.reports.lifelong.record import LifelongRecord


def print_lifelong(record: LifelongRecord) -> None:
    """Headline of a lifelong run and where its report is."""
    protocol = record.protocol
    sys.stdout.write(
        f"{record.victim.name} on {record.dataset.name}, {len(protocol.orders)} orders × "
        f"{len(protocol.seeds)} seeds, {record.last} increments\n"
    )
    rows = [
        {"metric": name, FIGURE: figure(metric)}
        for name, metric in record.document()["metrics"].items()
    ]
    print_rows(("metric", FIGURE), rows)
    for flag in record.flags:
        sys.stdout.write(f"{flag.level}: {flag.message}\n")
    sys.stdout.write(f"report: {record.run.folder}/report.html\n")


@experiment("lifelong", show=print_lifelong, required=("victim",))
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
) -> dict[str, Any]:
    """Let categories arrive one after another: DLCMH against fine-tuning and retraining.

    Finished cells (an order with a seed) are kept: the same command goes on where it was stopped.
    """
    return {
        "victim": method_table(victim, bits=bits),
        "rival": method_table("dcmh"),
        "attack": method_table("prosgan"),
        "dataset": method_table(dataset),
        "lifelong": {"orders": orders, "increments": increments, "seeds": seeds},
    }
