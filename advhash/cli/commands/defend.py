"""`advhash defend`: harden a victim and measure what that is worth, from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from advhash.cli.console import print_end, print_lead, print_metrics
from advhash.cli.execute import experiment
from advhash.cli.options import (
    Bits,
    Database,
    DatasetName,
    Norm,
    QueryCount,
    QueryModality,
    Sets,
    Targets,
    Victim,
)
from advhash.cli.terminal import tell
from advhash.errors import counted

if TYPE_CHECKING:
    from advhash.reports.transfer import TransferRecord


READ_FIRST = (
    *("map_clean", "map_clean_undefended", "map_robust", "map_robust_undefended"),
    *("tmap_robust", "tmap_robust_undefended"),
)


def print_defense(record: TransferRecord, every: bool) -> None:
    """The verdict on a defence, its checks, and where checkpoint and report are."""
    from advhash.reports.elements.verdict import percent
    from advhash.reports.transfer import verdicts

    assert record.defense is not None
    budget = next(iter(record.budgets.values()))
    tell(
        f"{record.defense.defended} ({budget.text}), {record.dataset.label}, "
        f"{counted(record.protocol.queries, 'query')}"
    )
    print_lead(verdicts(record), every=every)
    print_metrics(record.metrics, first=READ_FIRST, every=every)
    for check in record.defense.checks:
        figures = ", ".join(
            f"{name} {percent(metric.value)}" for name, metric in check.points.items()
        )
        answer = "passes" if check.passed else "fails, so the gradient may be masked"
        tell(f"{check.question} This check {answer}: {figures}.")
    print_end(record, f"checkpoint: {record.defense.checkpoint}")


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
        typer.Option("--eps", help="Budget of training and attacks. (default: 8/255)"),
        Sets("budget.eps"),
    ] = None,
    targets: Targets = None,
    query_modality: QueryModality = None,
    database: Database = None,
    queries: QueryCount = None,
) -> None:
    """Harden a victim, attack it with and without the defence, and write the run folder.

    The attacker knows the defence: autohash, targeted and not, on each of the two.
    """
