"""`advhash invert`, from the command line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advhash.cli.console import FIGURE, figure, print_rows
from advhash.cli.execute import experiment
from advhash.cli.options import (
    Bits,
    DatasetName,
    Victim,
    complete_inversions,
    method_table,
)

if TYPE_CHECKING:
    from advhash.reports.inversion.record import InversionRecord


def print_inversion(record: InversionRecord) -> None:
    """Headline of a reconstruction run and where its report is."""
    document = record.document()
    sys.stdout.write(
        f"{record.attack.name} on {record.victim.label}, {record.dataset.name}, "
        f"{record.protocol.samples} samples of {record.protocol.party}\n"
    )
    found = {**document["metrics"], **document["differences"]}
    rows = [{"metric": name, FIGURE: figure(metric)} for name, metric in found.items()]
    print_rows(("metric", FIGURE), rows)
    for flag in record.flags:
        sys.stdout.write(f"{flag.level}: {flag.message}\n")
    sys.stdout.write(f"report: {record.run.folder}/report.html\n")


@experiment(
    "invert", show=print_inversion, required=("victim",), names={"attack": "code-inversion"}
)
def invert(
    victim: Victim = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="A reconstruction. (default: code-inversion)",
            autocompletion=complete_inversions,
        ),
    ] = None,
    dataset: DatasetName = None,
    bits: Bits = None,
    query_modality: Annotated[
        str | None,
        typer.Option("--query-modality", help="The party that is attacked. (default: party0)"),
    ] = None,
    queries: Annotated[
        int | None,
        typer.Option("--queries", help="How many inputs are reconstructed. (default: 400)"),
    ] = None,
) -> dict[str, Any]:
    """Reconstruct what a party of a federation holds from the codes that it sends.

    `advhash attack --method code-inversion` is the same.
    """
    return {
        "victim": method_table(victim, bits=bits),
        "attack": method_table(method),
        "dataset": method_table(dataset),
        "protocol": {"query_modality": query_modality, "queries": queries},
    }
