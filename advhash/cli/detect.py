"""`advhash detect`: detectors of abnormal inputs from the command line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advhash.cli.console import FIGURE, defended, figure, print_flags, print_rows
from advhash.cli.execute import experiment
from advhash.cli.options import (
    Bits,
    DatasetName,
    OutFile,
    Victim,
    complete_attacks,
    complete_datasets,
    complete_detectors,
    method_table,
)

if TYPE_CHECKING:
    from advhash.reports.detection import DetectionRecord


def print_detection(record: DetectionRecord) -> None:
    """Figures of each detector."""
    document = record.document()
    tables = document["detectors"] or {document["detector"]["name"]: document}
    for detector, found in tables.items():
        sys.stdout.write(
            f"{detector} on {document['inputs']} inputs of {defended(document)}, "
            f"{document['dataset']['name']}: {document['abnormal']} abnormal, {document['clean']} "
            f"clean; flagged above {found['threshold']:g}, the lowest threshold that at most "
            f"{100 * document['allowed_false_alarms']:g} % of {document['validation']} other clean "
            "rows exceed\n"
        )
        rows = [
            {"metric": name, FIGURE: figure(metric)}
            for name, metric in found["metrics"].items()
            if metric is not None
        ]
        print_rows(("metric", FIGURE), rows)
    print_flags(document)
    if record.run is not None:
        sys.stdout.write(f"report: {record.run.folder}/report.html\n")


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
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(
            "--detector",
            help="See `advhash list detectors`; all: every one that judges codes of images. "
            "(default: code-max of a federation, flips of a hash of images)",
            autocompletion=complete_detectors,
        ),
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
        str | None, typer.Option("--norm", help="Of --method and the adaptive attacker.")
    ] = None,
    eps: Annotated[str | None, typer.Option("--eps", help="e.g. 8/255. (default: theirs)")] = None,
    adaptive: Annotated[
        str | None,
        typer.Option(
            "--adaptive",
            metavar="KEY=VALUE+…",
            help="Of the adaptive attacker: steps; classes, learning_rate, weight of a federation.",
        ),
    ] = None,
    queries: Annotated[
        int | None, typer.Option("--queries", help="How many clean queries. (default: all)")
    ] = None,
    out: OutFile = None,
) -> dict[str, Any]:
    """Tell abnormal inputs from clean ones, and measure who gets past.

    Of a federation the slices of a party, of any other victim its queries. The threshold is the
    lowest that at most 5 % of clean validation rows exceed; `false_alarms` is what it reaches
    on the clean queries. Beside it stands what an attacker reaches who knows the detector, and
    the defence where one is named.
    """
    from advhash.experiments.config_text import parse_settings

    return {
        "victim": method_table(victim, bits=bits),
        "detector": method_table(detector),
        "attack": method_table(method),
        "dataset": method_table(dataset),
        "budget": {"norm": norm, "eps": eps},
        "adaptive": None if adaptive is None else parse_settings(adaptive),
        "inputs": inputs,
        "other": other,
        "queries": queries,
    }
