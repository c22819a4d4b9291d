"""`advhash certify`: how many bits no attack in an L2 ball can flip, from the command line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advhash.cli.console import FIGURE, defended, figure, print_flags, print_rows
from advhash.cli.execute import experiment
from advhash.cli.options import Bits, Database, DatasetName, OutFile, Victim, method_table

if TYPE_CHECKING:
    from advhash.reports.certificates import CertificateRecord


def print_certificates(record: CertificateRecord) -> None:
    """What is certified at each radius, below what the smoothed hash is worth."""
    document = record.document()
    smoothing = document["smoothing"]
    sys.stdout.write(
        f"{defended(document)} under noise of sigma {smoothing['sigma']:g}, "
        f"{document['dataset']['name']}: {document['queries']} queries; no radius above "
        f"{document['largest_radius']:.3g} can be certified\n"
    )
    rows = [
        {"metric": name, FIGURE: figure(metric)} for name, metric in document["metrics"].items()
    ]
    print_rows(("metric", FIGURE), rows)
    for one in document["radii"]:
        sys.stdout.write(f"L2 radius {one['radius']:g}\n")
        rows = [{"metric": name, FIGURE: figure(metric)} for name, metric in one["metrics"].items()]
        print_rows(("metric", FIGURE), rows)
    print_flags(document)
    if record.run is not None:
        sys.stdout.write(f"report: {record.run.folder}/report.html\n")


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
    return {
        "victim": method_table(victim, bits=bits),
        "dataset": method_table(dataset),
        "database": database,
        "queries": queries,
        "sigma": sigma,
        "votes": votes,
        "samples": samples,
        "alpha": alpha,
        "radii": None if radii is None else radii.split(","),
        "within": within,
    }
