"""`advhash detect`: detectors of abnormal inputs from the command line."""

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
    DatasetName,
    Defense,
    Device,
    Json,
    Quiet,
    Seed,
    Settings,
    TrustCode,
    Victim,
    complete_attacks,
    complete_datasets,
    complete_detectors,
    gather,
    method_table,
    new_file,
    working,
)
from advhash.errors import UsageError

__all__ = ["detect"]


def detect(
    victim: Victim = None,
    defense: Defense = None,
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
    """Tell abnormal inputs from clean ones, and measure who gets past.

    Of a federation the slices of a party, of any other victim its queries. The threshold is set on
    clean validation data at 5 % false alarms. Beside it stands what an attacker reaches who knows
    the detector, and the defence where one is named.
    """
    from advhash.cli.console import print_json
    from advhash.experiments.config_text import parse_settings
    from advhash.experiments.detect.config import DetectConfig
    from advhash.experiments.detect.run import detect as run_detect
    from advhash.storage.files import write_json

    values = gather(
        config,
        settings,
        seed=seed,
        device=device,
        victim=method_table(victim, bits=bits),
        defense=method_table(defense),
        detector=method_table(detector),
        attack=method_table(method),
        dataset=method_table(dataset),
        budget={"norm": norm, "eps": eps},
        adaptive=None if adaptive is None else parse_settings(adaptive),
        inputs=inputs,
        other=other,
        queries=queries,
    )
    if "name" not in values.get("victim", {}):
        raise UsageError("expected --victim, e.g. hashvfl or dpsh")
    new_file(out)
    with working(quiet) as progress:
        document = run_detect(DetectConfig.build(values).trusting(trust_code), progress)
    if out is not None:
        write_json(out, document)
    if as_json:
        print_json(document)
    else:
        print_detection(document)


def print_detection(document: Mapping[str, Any]) -> None:
    """Figures of a detector."""
    tables: Mapping[str, Any] = document.get("detectors") or {
        document["detector"]["name"]: document
    }
    for detector, found in tables.items():
        sys.stdout.write(
            f"{detector} on {document['inputs']} inputs of {defended(document)}, "
            f"{document['dataset']['name']}: {document['abnormal']} abnormal, {document['clean']} "
            f"clean; flagged above {found['threshold']:g}\n"
        )
        rows = [
            {"metric": name, FIGURE: figure(metric)} for name, metric in found["metrics"].items()
        ]
        print_rows(("metric", FIGURE), rows)
    print_flags(document)
