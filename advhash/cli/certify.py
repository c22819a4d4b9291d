"""`advhash certify`: how many bits no attack in an L2 ball can flip, from the command line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advhash.cli.console import print_end, print_metrics
from advhash.cli.execute import experiment
from advhash.cli.options import Bits, Database, DatasetName, OutFile, Victim

if TYPE_CHECKING:
    from advhash.reports.certificates import CertificateRecord


def print_certificates(record: CertificateRecord) -> None:
    """What is certified at each radius, below what the smoothed hash is worth."""
    sys.stdout.write(
        f"{record.defended} under noise of sigma {record.smoothing.sigma:g}, "
        f"{record.dataset.name}: {record.queries} queries; no radius above "
        f"{record.largest_radius:.3g} can be certified\n"
    )
    print_metrics(record.metrics)
    for ball in record.radii:
        sys.stdout.write(f"L2 radius {ball.radius:g}\n")
        print_metrics(ball.metrics)
    print_end(record)


@experiment("certify", show=print_certificates, required=("victim",))
def certify(
    victim: Victim = None,
    dataset: DatasetName = None,
    bits: Bits = None,
    sigma: Annotated[
        float | None,
        typer.Option("--sigma", help="Noise in [0,1] pixels. (default: the victim's, else 0.25)"),
    ] = None,
    votes: Annotated[
        int | None, typer.Option("--votes", help="Of a served code. (default: the victim's or 25)")
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
    within: Annotated[
        int | None, typer.Option("--within", help="Hamming radius searched. (default: bits/4)")
    ] = None,
    database: Database = None,
    queries: Annotated[
        int | None, typer.Option("--queries", help="How many queries. (default: 100)")
    ] = None,
    out: OutFile = None,
) -> dict[str, Any]:
    """Certify codes by randomised smoothing: bits and recall that no attack in an L2 ball takes.

    The certificate holds for the smoothed hash, whose retrieval stands beside it. Finished blocks
    of queries are kept: the same command goes on where it was stopped.
    """
    return {"radii": None if radii is None else radii.split(",")}
