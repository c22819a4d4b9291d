"""`advhash transfer`: attacks made on one victim, judged on others, from the command line."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from advhash.cli_options import (
    Config,
    Database,
    DatasetName,
    Device,
    Json,
    Norm,
    OutFolder,
    QueryCount,
    QueryModality,
    Quiet,
    Seed,
    Settings,
    Targets,
    TrustCode,
    gather,
    method_table,
    working,
)
from advhash.errors import UsageError

__all__ = ["transfer"]


def transfer(
    victims: Annotated[
        str | None,
        typer.Option(
            "--victims",
            help="Names or checkpoints; settings with +: dpsh,dpsh+bits=16,csq,dpsh+seed=1",
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option("--methods", help="Attacks, settings with +: dhta,prosgan+epochs=10"),
    ] = None,
    dataset: DatasetName = None,
    norm: Norm = None,
    eps: Annotated[str | None, typer.Option("--eps", help="e.g. 8/255. (default: theirs)")] = None,
    targets: Targets = None,
    query_modality: QueryModality = None,
    database: Database = None,
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
    """Attack each victim, judge the same pictures on all: the source × target matrix.

    Every target answers from its own database, hashed by itself.
    """
    from advhash.config import TransferConfig
    from advhash.config_text import parse_method
    from advhash.console import print_json, print_transfer
    from advhash.transferring import transfer as run_transfer

    def named(text: str | None) -> list[dict[str, Any]] | None:
        return None if text is None else [parse_method(part) for part in text.split(",")]

    values = gather(
        config,
        settings,
        seed=seed,
        device=device,
        victims=named(victims),
        attacks=named(methods),
        dataset=method_table(dataset),
        budget={"norm": norm, "eps": eps},
        protocol={
            "targets": targets,
            "query_modality": query_modality,
            "database": database,
            "queries": queries,
        },
    )
    for table, option in (("victims", "--victims a,b"), ("attacks", "--methods a,b")):
        if not values.get(table):
            raise UsageError(f"expected {option} (see `advhash list {table}`)")
    parsed = TransferConfig.build({**values, "command": "transfer"}).trusting(trust_code)
    if out is not None and out.exists():
        raise UsageError(f"expected a new folder for --out, got {out}, which exists")
    with working(quiet) as progress:
        record = run_transfer(parsed, out, progress)
    if as_json:
        print_json(record.document())
    else:
        print_transfer(record)
