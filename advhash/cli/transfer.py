"""`advhash transfer`: attacks made on one victim, judged on others, from the command line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from advhash.cli.console import figure, print_rows

if TYPE_CHECKING:
    from advhash.reports.transfer import TransferRecord

from typing import Annotated

import typer

from advhash.cli.options import (
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
    from advhash.cli.console import print_json
    from advhash.experiments.config_text import parse_method
    from advhash.experiments.transfer.config import TransferConfig
    from advhash.experiments.transfer.run import transfer as run_transfer

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


def print_transfer(record: TransferRecord) -> None:
    """The matrix of each method and where the report is."""
    from advhash.reports.record import main_metric

    sys.stdout.write(f"{record.dataset.name}, {record.protocol.queries} queries\n")
    for method, budget in record.budgets.items():
        main = main_metric(record.goal(method))
        sys.stdout.write(f"{method} ({budget.text}): {main}; rows: made for, columns: judged on\n")
        rows = []
        for source in record.labels:
            row = {"": source}
            for target in record.labels:
                metric = record.at(method, source, target).metrics[main]
                row[target] = figure(None if metric is None else vars(metric))
            rows.append(row)
        print_rows(("", *record.labels), rows)
    for flag in record.flags:
        sys.stdout.write(f"{flag.level}: {flag.message}\n")
    sys.stdout.write(f"report: {record.run.folder}/report.html\n")
