"""`advhash least-change`: how little can suffice for pdq or phash, from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from advhash.cli.console import print_end, print_lead, print_metrics
from advhash.cli.execute import UNHARDENED, experiment
from advhash.cli.options import Bits, DatasetName, OutFile, Victim
from advhash.cli.terminal import tell
from advhash.errors import counted

if TYPE_CHECKING:
    from advhash.reports.least_change import LeastChangeRecord

Threshold = Annotated[
    int | None,
    typer.Option(
        "--threshold", help="Bits at which two pictures still count as one. (default: 31 of 256)"
    ),
]


def print_least_change(record: LeastChangeRecord, every: bool) -> None:
    """What is proven, what was reached, and the share of pictures at each size."""
    from advhash.reports.least_change import verdicts

    tell(
        f"{record.defended} at {record.threshold} of {record.bits} bits, {record.dataset.label}: "
        f"{counted(len(record.pictures), 'picture')}; sizes in grey levels rms, the root of the "
        "mean square"
    )
    print_lead(verdicts(record), every=every)
    print_metrics(record.metrics)
    print_end(record)


@experiment("least-change", show=print_least_change, required=("victim",), hint=UNHARDENED)
def least_change(
    victim: Victim = None,
    dataset: DatasetName = None,
    bits: Bits = None,
    threshold: Threshold = None,
    queries: Annotated[
        int | None, typer.Option("--queries", help="How many pictures. (default: 100)")
    ] = None,
    out: OutFile = None,
) -> None:
    """What `advhash certify --victim pdq` runs: how little can suffice to leave a threshold."""
