"""`advhash transfer`: attacks made on one victim, judged on others, from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from advhash.cli.console import print_end, print_lead, print_rows
from advhash.cli.execute import experiment
from advhash.cli.options import (
    AllowSuperuser,
    Database,
    DatasetName,
    Norm,
    QueryCount,
    QueryModality,
    Rescore,
    Sets,
    StoreName,
    Targets,
    search_tables,
)
from advhash.cli.terminal import tell
from advhash.errors import counted

if TYPE_CHECKING:
    from advhash.reports.transfer import TransferRecord


def print_transfer(record: TransferRecord, every: bool) -> None:
    """The verdict, the matrix of each method and where the report is."""
    from advhash.reports.elements.numbers import written
    from advhash.reports.transfer import verdicts
    from advhash.reports.vocabulary import label_of

    tell(f"{record.dataset.label}, {counted(record.protocol.queries, 'query')}")
    print_lead(verdicts(record), every=every)
    for method, budget in record.budgets.items():
        main = record.headline(method).main
        tell(f"{method} ({budget.text}): {label_of(main)}; rows: made for, columns: judged on")
        rows = []
        for source in record.sources:
            row = {"": source}
            for target in record.labels:
                row[target] = written(main, record.at(method, source, target).metrics[main])
            rows.append(row)
        print_rows(("", *record.labels), rows)
    print_end(record)


@experiment(
    "transfer",
    show=print_transfer,
    required=("victims", "attacks"),
    hint="write it behind its victim, e.g. --victims dpsh,dpsh+defense=saat",
)
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
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--source",
            help="An ensemble of victims to attack as well: dpsh,csq; once for each.",
        ),
    ] = None,
    dataset: DatasetName = None,
    norm: Norm = None,
    eps: Annotated[
        str | None, typer.Option("--eps", help="e.g. 8/255. (default: theirs)"), Sets("budget.eps")
    ] = None,
    targets: Targets = None,
    query_modality: QueryModality = None,
    database: Database = None,
    queries: QueryCount = None,
    store: StoreName = None,
    rescore: Rescore = None,
    allow_superuser: AllowSuperuser = False,
) -> dict[str, Any]:
    """Attack each victim, judge the same pictures on all: the source × target matrix.

    Every target answers from its own database, hashed by itself. Ensembles of victims are further
    sources.
    """
    from advhash.experiments.config_text import parse_method

    def named(text: str | None) -> list[dict[str, Any]] | None:
        return None if text is None else [parse_method(part) for part in text.split(",")]

    sources = [text.split(",") for text in source] if source else None
    return {
        "victims": named(victims),
        "attacks": named(methods),
        "sources": sources,
        "protocol": search_tables(store, rescore, allow_superuser),
    }
