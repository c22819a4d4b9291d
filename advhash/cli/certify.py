"""`advhash certify`: how many bits no attack in an L2 ball can flip, from the command line."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from advhash.cli.console import FIGURE, defended, figure, print_flags, print_rows

if TYPE_CHECKING:
    pass

from pathlib import Path
from typing import Annotated

import typer

from advhash.cli.options import (
    Bits,
    Config,
    Database,
    DatasetName,
    Defense,
    Device,
    Json,
    Quiet,
    Seed,
    Settings,
    TrustCode,
    Victim,
    gather,
    method_table,
    new_file,
    working,
)
from advhash.errors import UsageError

__all__ = ["certify"]


def certify(
    victim: Victim = None,
    defense: Defense = None,
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
    seed: Seed = None,
    device: Device = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Also write the JSON document to this file.")
    ] = None,
    trust_code: TrustCode = False,
    settings: Settings = None,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Certify codes by randomised smoothing: bits and recall that no attack in an L2 ball takes.

    The certificate holds for the smoothed hash, whose retrieval stands beside it.
    """
    from advhash.cli.console import print_json
    from advhash.experiments.certify import CertifyConfig, certify_queries
    from advhash.storage.files import write_json

    values = gather(
        config,
        settings,
        seed=seed,
        device=device,
        victim=method_table(victim, bits=bits),
        defense=method_table(defense),
        dataset=method_table(dataset),
        database=database,
        queries=queries,
        sigma=sigma,
        votes=votes,
        samples=samples,
        alpha=alpha,
        radii=None if radii is None else radii.split(","),
        within=within,
    )
    if "name" not in values.get("victim", {}):
        raise UsageError("expected --victim (see `advhash list victims`)")
    new_file(out)
    with working(quiet) as progress:
        document = certify_queries(CertifyConfig.build(values).trusting(trust_code), progress)
    if out is not None:
        write_json(out, document)
    if as_json:
        print_json(document)
    else:
        print_certificates(document)


def print_certificates(document: Mapping[str, Any]) -> None:
    """What is certified at each radius, below what the smoothed hash is worth."""
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
