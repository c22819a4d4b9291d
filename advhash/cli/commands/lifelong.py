"""`advhash lifelong`: the lifelong protocol from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from advhash.cli.console import print_end, print_lead, print_metrics
from advhash.cli.execute import UNHARDENED, experiment
from advhash.cli.options import Bits, DatasetName, Sets, Victim
from advhash.cli.terminal import tell
from advhash.errors import counted

if TYPE_CHECKING:
    from advhash.reports.lifelong.record import LifelongRecord


READ_FIRST = (
    *("increment_seconds_ratio", "map_new_gain", "map_all_gap", "forgetting_old"),
    "old_codes_changed",
)


def print_lifelong(record: LifelongRecord, every: bool) -> None:
    """The verdict on a lifelong run and where its report is."""
    from advhash.reports.lifelong.chapter import verdict

    protocol = record.protocol
    tell(
        f"{record.victim.name} on {record.dataset.label}, "
        f"{counted(len(protocol.orders), 'order')} × {counted(len(protocol.seeds), 'seed')}, "
        f"{counted(record.last, 'increment')}"
    )
    print_lead(verdict(record), every=every)
    print_metrics(record.metrics, first=READ_FIRST, every=every)
    print_end(record)


@experiment("lifelong", show=print_lifelong, required=("victim",), hint=UNHARDENED)
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
