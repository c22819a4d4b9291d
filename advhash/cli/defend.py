"""`advhash defend`: harden a victim and measure what that is worth, from the command line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advhash.cli.console import FIGURE, figure, print_rows
from advhash.cli.execute import experiment
from advhash.cli.options import (
    Bits,
    Database,
    DatasetName,
    Norm,
    QueryCount,
    QueryModality,
    Targets,
    Victim,
    method_table,
)

if TYPE_CHECKING:
    from advhash.reports.transfer import TransferRecord


def print_defense(record: TransferRecord) -> None:
    """Headline of a defence, its checks, and where checkpoint and report are."""
    assert record.defense is not None
    budget = next(iter(record.budgets.values()))
    sys.stdout.write(
        f"{record.defense.defended} ({budget.text}), {record.dataset.name}, "
        f"{record.protocol.queries} queries\n"
    )
    rows = [
        {"metric": name, FIGURE: figure(None if metric is None else vars(metric))}
        for name, metric in record.metrics.items()
    ]
    print_rows(("metric", FIGURE), rows)
    for check in record.defense.checks:
        found = ", ".join(f"{name} {metric.value:.3f}" for name, metric in check.points.items())
        sys.stdout.write(f"{'sound' if check.passed else 'MASKED?'}: {check.name}: {found}\n")
    for flag in record.flags:
        sys.stdout.write(f"{flag.level}: {flag.message}\n")
    sys.stdout.write(f"checkpoint: {record.defense.checkpoint}\n")
    sys.stdout.write(f"report: {record.run.folder}/report.html\n")


def defense_document(record: TransferRecord) -> dict[str, Any]:
    """What `--json` prints: the record, and the checkpoint of the hardened victim."""
    assert record.defense is not None
    return {**record.document(), "checkpoint": record.defense.checkpoint}


@experiment(
    "defend",
    show=print_defense,
    document=defense_document,
    required=("victim", "defense"),
)
def defend(
    victim: Victim = None,
    dataset: DatasetName = None,
    bits: Bits = None,
    norm: Norm = None,
    eps: Annotated[
        str | None,
        typer.Option("--eps", help="Of training and of the attacks. (default: 8/255)"),
    ] = None,
    targets: Targets = None,
    query_modality: QueryModality = None,
    database: Database = None,
    queries: QueryCount = None,
) -> dict[str, Any]:
    """Harden a victim, attack it with and without the defence, and write the run folder.

    The attacker knows the defence: autohash, targeted and not, on each of the two.
    """
    return {
        "victim": method_table(victim, bits=bits),
        "dataset": method_table(dataset),
        "budget": {"norm": norm, "eps": eps},
        "protocol": {
            "targets": targets,
            "query_modality": query_modality,
            "database": database,
            "queries": queries,
        },
    }
