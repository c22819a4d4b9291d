"""`advhash detect`: detectors of abnormal inputs from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from advhash.cli.console import print_end, print_lead, print_metrics, print_rows
from advhash.cli.execute import experiment
from advhash.cli.options import (
    Bits,
    DatasetName,
    OutFile,
    Sets,
    Victim,
    complete_attacks,
    complete_datasets,
    complete_detectors,
)
from advhash.cli.terminal import tell

if TYPE_CHECKING:
    from advhash.reports.detection import DetectionRecord


READ_FIRST = ("detected", "false_alarms", "auroc", "accepted_adaptive")


def print_detection(record: DetectionRecord, every: bool) -> None:
    """Figures of each detector."""
    from advhash.reports.detection import verdicts
    from advhash.reports.elements.numbers import written

    print_lead(verdicts(record), every=every)
    document = record.document()
    tables = document["detectors"] or {document["detector"]["name"]: document}
    if len(tables) > 1:
        shown = [name for name in READ_FIRST if name in record.shown]
        rows = [
            {"detector": name, **{key: written(key, table["metrics"].get(key)) for key in shown}}
            for name, table in tables.items()
        ]
        print_rows(("detector", *shown), rows)
        if not every:
            tell("thresholds and further figures of each: --all, or the report")
    for detector, table in tables.items() if every or len(tables) == 1 else ():
        tell(
            f"{detector} on {document['inputs']} inputs of {record.defended}, "
            f"{record.dataset.label}: {document['abnormal']} abnormal, {document['clean']} "
            f"clean; flagged above {table['threshold']:g}, the lowest threshold that at most "
            f"{100 * document['allowed_false_alarms']:g} % of {document['validation']} other clean "
            "rows exceed"
        )
        print_metrics(table["metrics"], first=READ_FIRST, every=every)
    print_end(record)


@experiment("detect", show=print_detection, required=("victim",))
def detect(
    victim: Victim = None,
    inputs: Annotated[
        str | None,
        typer.Option(
            "--inputs",
            help="Abnormal are mixed, noise or ood inputs. (default: mixed of a federation)",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="Abnormal are inputs moved by this attack. (default: prosgan of a hash of images)",
            autocompletion=complete_attacks,
        ),
        Sets("attack.name"),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(
            "--detector",
            help="See `advhash list detectors`; all: every one that judges codes of images. "
            "(default: code-max of a federation, flips of a hash of images)",
            autocompletion=complete_detectors,
        ),
        Sets("detector.name"),
    ] = None,
    other: Annotated[
        str | None,
        typer.Option(
            "--other",
            help="Data set of --inputs ood. (default: openmoji, or digits)",
            autocompletion=complete_datasets,
        ),
    ] = None,
    dataset: DatasetName = None,
    bits: Bits = None,
    norm: Annotated[
        str | None,
        typer.Option("--norm", help="Norm of --method and the adaptive attacker."),
        Sets("budget.norm"),
    ] = None,
    eps: Annotated[
        str | None, typer.Option("--eps", help="e.g. 8/255. (default: theirs)"), Sets("budget.eps")
    ] = None,
    adaptive: Annotated[
        str | None,
        typer.Option(
            "--adaptive",
            metavar="KEY=VALUE+…",
            help="For the adaptive attacker: steps; in a federation classes, weight …",
        ),
    ] = None,
    queries: Annotated[
        int | None, typer.Option("--queries", help="At most so many clean queries. (default: all)")
    ] = None,
    out: OutFile = None,
) -> dict[str, Any]:
    """Tell abnormal inputs from clean ones, and measure who gets past.

    The inputs are the slices of a party in a federation, else the queries. The threshold is the
    lowest that at most 5 % of clean validation rows exceed; `false_alarms` is what it reaches
    on the clean queries. Beside it stands what an attacker reaches who knows the detector, and
    the defence where one is named.
    """
    from advhash.experiments.config_text import parse_settings

    return {"adaptive": None if adaptive is None else parse_settings(adaptive)}
