"""`advhash encode` and `advhash phase-chart` from the command line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from advhash.cli.console import figure, print_rows

if TYPE_CHECKING:
    from advhash.reports.encoding import EncodingRecord

from typing import Annotated

import typer

from advhash.cli.options import (
    Bits,
    Config,
    DatasetName,
    Device,
    Json,
    Norm,
    OutFolder,
    QueryCount,
    Quiet,
    Seed,
    Settings,
    TrustCode,
    Victim,
    complete_attacks,
    gather,
    method_table,
    working,
)
from advhash.errors import UsageError

__all__ = ["encode"]


def encode(
    victim: Victim = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="What moves the pictures. (default: dhta)",
            autocompletion=complete_attacks,
        ),
    ] = None,
    dataset: DatasetName = None,
    bits: Bits = None,
    norm: Norm = None,
    eps: Annotated[str | None, typer.Option("--eps", help="e.g. 8/255. (default: its)")] = None,
    queries: QueryCount = None,
    seed: Seed = None,
    device: Device = None,
    out: OutFolder = None,
    trust_code: TrustCode = False,
    settings: Settings = None,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Do codes tell pictures apart, and do those of a class lie together? With controls."""
    from advhash.cli.console import print_json
    from advhash.experiments.encode.config import EncodeConfig
    from advhash.experiments.encode.run import encode as run_encode

    values = gather(
        config,
        settings,
        seed=seed,
        device=device,
        victim=method_table(victim, bits=bits),
        attack=method_table(method),
        dataset=method_table(dataset),
        budget={"norm": norm, "eps": eps},
        queries=queries,
    )
    if "name" not in values.get("victim", {}):
        raise UsageError("expected --victim (see `advhash list victims`)")
    if "attack" in values and "name" not in values["attack"]:
        values["attack"]["name"] = "dhta"
    parsed = EncodeConfig.build(values).trusting(trust_code)
    if out is not None and out.exists():
        raise UsageError(f"expected a new folder for --out, got {out}, which exists")
    with working(quiet) as progress:
        record = run_encode(parsed, out, progress)
    if as_json:
        print_json(record.document())
    else:
        print_encoding(record)


def print_encoding(record: EncodingRecord) -> None:
    """Headline of each code and where the report is."""
    sys.stdout.write(
        f"{record.victim.label} on {record.dataset.name}: {record.train} training and "
        f"{record.test} test pictures\n"
    )
    names = ("redundancy_train", "redundancy_test", "kmeans_purity", "knn_accuracy")
    rows = [
        {
            "code": coder.label,
            "bits": "–" if coder.bits is None else coder.bits,
            **{
                name: figure(None if one is None else vars(one))
                for name, one in ((name, coder.metrics.get(name)) for name in names)
            },
        }
        for coder in record.coders
    ]
    print_rows(("code", "bits", *names), rows)
    for flag in record.flags:
        sys.stdout.write(f"{flag.level}: {flag.message}\n")
    sys.stdout.write(f"report: {record.run.folder}/report.html\n")
