"""`advhash certify`, from the command line: what no attack in an L2 ball can do to a hash."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from advhash.cli.commands.least_change import Threshold, print_least_change
from advhash.cli.console import print_end, print_lead, print_metrics
from advhash.cli.execute import experiment
from advhash.cli.following import is_perceptual
from advhash.cli.options import Bits, Database, DatasetName, OutFile, Victim
from advhash.cli.terminal import tell
from advhash.errors import UsageError, counted

if TYPE_CHECKING:
    from advhash.reports.certificates import CertificateRecord
    from advhash.reports.least_change import LeastChangeRecord

HOLDS = ("recall_certified", "irrelevant_certified", "bits_certified")  # to read first
SMOOTHING = ("sigma", "votes", "defense")  # settings that ask for the smoothed twin


def show(record: CertificateRecord | LeastChangeRecord, every: bool) -> None:
    """What is certified of a smoothed hash, or how little can suffice for one that is not."""
    from advhash.reports.certificates import CertificateRecord

    if isinstance(record, CertificateRecord):
        print_certificates(record, every)
    else:
        print_least_change(record, every)


def print_certificates(record: CertificateRecord, every: bool) -> None:
    """What is certified at each radius, below what the smoothed hash is worth."""
    from advhash.reports.certificates import verdicts

    tell(
        f"{record.defended} under noise of sigma {record.smoothing.sigma:g}, "
        f"{record.dataset.label}: {counted(record.queries, 'query')}; no radius above "
        f"{record.largest_radius:.3g} can be certified"
    )
    worth, *certified = verdicts(record)
    print_lead([*certified[:1], worth, *certified[1:]], every=every)
    print_metrics(record.metrics, first=("map_clean", "map_clean_unsmoothed"), every=every)
    for ball in record.radii:
        tell(f"L2 radius {ball.radius:g}")
        print_metrics(ball.metrics, first=HOLDS, every=every)
    print_end(record)


def _exact(values: dict[str, Any]) -> str | None:
    """`least-change` for a perceptual hash as it is. Raises UsageError: a threshold elsewhere."""
    if is_perceptual(values) and not values.keys() & set(SMOOTHING):
        return "least-change"
    if "threshold" in values:
        raise UsageError(
            "--threshold: expected --victim pdq or phash without --sigma, --votes and --defense, "
            "which have the exact answer; the radius of a smoothed hash is --within"
        )
    return None


@experiment("certify", show=show, required=("victim",), alias=_exact)
def certify(
    victim: Victim = None,
    dataset: DatasetName = None,
    bits: Bits = None,
    sigma: Annotated[
        float | None,
        typer.Option("--sigma", help="Noise in [0,1] pixels. (default: the victim's, else 0.25)"),
    ] = None,
    votes: Annotated[
        int | None,
        typer.Option("--votes", help="Votes of a served code. (default: the victim's or 25)"),
    ] = None,
    samples: Annotated[
        int | None, typer.Option("--samples", help="Draws for each query. (default: 1000)")
    ] = None,
    alpha: Annotated[
        float | None,
        typer.Option("--alpha", help="Chance of a wrong bound, per query. (default: 0.001)"),
    ] = None,
    radii: Annotated[
        str | None, typer.Option("--radii", help="L2, in pixels. (default: 0.25,0.5,1)")
    ] = None,
    threshold: Threshold = None,
    within: Annotated[
        int | None, typer.Option("--within", help="Hamming radius searched. (default: bits/4)")
    ] = None,
    database: Database = None,
    queries: Annotated[
        int | None, typer.Option("--queries", help="At most so many queries. (default: 100)")
    ] = None,
    out: OutFile = None,
) -> dict[str, Any]:
    """Certify what no attack in an L2 ball can do to a hash.

    Randomised smoothing bounds bits and recall of the smoothed hash, whose retrieval stands beside
    it. For pdq and phash without --sigma: the L2 below which no change leaves the threshold, and
    how near attacks come to it. Finished blocks of queries are kept: the same command goes on where
    it was stopped.
    """
    return {"radii": None if radii is None else radii.split(","), "threshold": threshold}
