"""`advhash encode`, from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from advhash.cli.console import print_end, print_lead, print_rows
from advhash.cli.execute import experiment
from advhash.cli.options import (
    Bits,
    DatasetName,
    Norm,
    QueryCount,
    Sets,
    Victim,
    complete_attacks,
)
from advhash.cli.terminal import tell
from advhash.errors import counted

if TYPE_CHECKING:
    from advhash.reports.encoding import EncodingRecord


def print_encoding(record: EncodingRecord, every: bool) -> None:
    """The verdict, the headline of each code and where the report is."""
    from advhash.reports.elements.numbers import written
    from advhash.reports.encoding import verdicts

    tell(
        f"{record.victim.label} on {record.dataset.label}: {record.train} training and "
        f"{counted(record.test, 'test picture')}"
    )
    print_lead(verdicts(record), every=every)
    names = ("redundancy_train", "redundancy_test", "kmeans_purity", "knn_accuracy")
    rows = [
        {
            "code": coder.label,
            "bits": "–" if coder.bits is None else coder.bits,
            **{name: written(name, coder.metrics.get(name)) for name in names},
        }
        for coder in record.coders
    ]
    print_rows(("code", "bits", *names), rows)
    print_end(record)


@experiment("encode", show=print_encoding, required=("victim",), names={"attack": "dhta"})
def encode(
    victim: Victim = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="What moves the pictures. (default: dhta)",
            autocompletion=complete_attacks,
        ),
        Sets("attack.name"),
    ] = None,
    dataset: DatasetName = None,
    bits: Bits = None,
    norm: Norm = None,
    eps: Annotated[
        str | None, typer.Option("--eps", help="e.g. 8/255. (default: its)"), Sets("budget.eps")
    ] = None,
    queries: QueryCount = None,
) -> None:
    """Do codes tell pictures apart, and do those of a class lie together? With controls."""
