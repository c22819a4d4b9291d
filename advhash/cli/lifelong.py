"""`advhash lifelong`: the lifelong protocol from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from advhash.cli.console import print_end, print_metrics
from advhash.cli.execute import experiment
from advhash.cli.options import Bits, DatasetName, Sets, Victim
from advhash.cli.terminal import tell

if TYPE_CHECKING:
    from advhash.reports.lifelong.record import LifelongRecord


def print_lifelong(record: LifelongRecord) -> None:
    """Headline of a lifelong run and where its report is."""
    protocol = record.protocol
    tell(
        f"{record.victim.name} on {record.dataset.name}, {len(protocol.orders)} orders × "
        f"{len(protocol.seeds)} seeds, {record.last} increments"
    )
    print_metrics(record.metrics)
    print_end(record)


@experiment("lifelong", show=print_lifelong, required=("victim",))
def lifelong(
    victim: Victim = None,
    dataset: DatasetName = None,
    bits: Bits = None,
    orders: Annotated[
        int | None,
        typer.Option("--orders", help="Drawn orders of categories. (default: 3)"),
        Sets("lifelong.orders"),
    ] = None,
    increments: Annotated[
        int | None,
        typer.Option("--increments", help="Increments of an order. (default: 2)"),
        Sets("lifelong.increments"),
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option("--seeds", help="Seeds of each order. (default: 3)"),
        Sets("lifelong.seeds"),
    ] = None,
) -> dict[str, Any]:
    """Let categories arrive one after another: DLCMH against fine-tuning and retraining.

    Finished cells (an order with a seed) are kept: the same command goes on where it was stopped.
    """
    return {"rival": {"name": "dcmh"}, "attack": {"name": "prosgan"}}
