"""`advhash invert`, from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from advhash.cli.console import print_end, print_lead, print_metrics
from advhash.cli.execute import experiment
from advhash.cli.options import (
    Bits,
    DatasetName,
    Sets,
    Victim,
    complete_inversions,
)
from advhash.cli.terminal import tell
from advhash.errors import counted

if TYPE_CHECKING:
    from advhash.reports.inversion.record import InversionRecord


READ_FIRST = (
    *(
        "reidentification_transcript_codes",
        "reidentification_transcript",
        "reidentification",
        "reidentification_chance",
    ),
    *("accuracy", "accuracy_loss", "ssim_codes", "gain_codes", "gain_transcript", "mse_codes"),
)


def print_inversion(record: InversionRecord, every: bool) -> None:
    """The verdict on a reconstruction run and where its report is."""
    from advhash.reports.inversion.chapter import verdicts

    tell(
        f"{record.attack.name} on {record.victim.label}, {record.dataset.label}, "
        f"{counted(record.protocol.samples, 'sample')} of {record.protocol.party}"
    )
    sentences = verdicts(record) or ["No verdict: the figures for one do not exist."]
    print_lead(sentences, every=every)
    print_metrics({**record.metrics, **record.differences}, first=READ_FIRST, every=every)
    if not record.of_pictures:
        tell(
            "gains say how far MSE is below that of the class mean: above 0, codes give away more "
            "than the class alone; where the interval holds 0, nothing is shown"
        )
    print_end(record)


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
        Sets("attack.name"),
    ] = None,
    dataset: DatasetName = None,
    bits: Bits = None,
    query_modality: Annotated[
        str | None,
        typer.Option("--query-modality", help="The party that is attacked. (default: party0)"),
        Sets("protocol.query_modality"),
    ] = None,
    queries: Annotated[
        int | None,
        typer.Option("--queries", help="How many inputs are reconstructed. (default: 400)"),
        Sets("protocol.queries"),
    ] = None,
) -> None:
    """Reconstruct what a party of a federation holds from the codes that it sends.

    `advhash attack --method code-inversion` is the same.
    """
