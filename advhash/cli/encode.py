"""`advhash encode` and `advhash phase-chart` from the command line."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from advhash.cli.console import figure, print_rows

if TYPE_CHECKING:
    from advhash.reports.encoding import EncodingRecord
    from advhash.reports.phase import PhaseRecord

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
from advhash.errors import ConfigError, UsageError

__all__ = ["encode", "phase_chart"]


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


def phase_chart(
    victim: Victim = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="A targeted attack. (default: dhta, 20 steps)",
            autocompletion=complete_attacks,
        ),
    ] = None,
    dataset: DatasetName = None,
    widths: Annotated[
        str | None, typer.Option("--widths", help="Units. (default: 3,6,12,25,50,100,200)")
    ] = None,
    epochs: Annotated[
        str | None, typer.Option("--epochs", help="Times, 0: untrained. (default: 0,1,3,10,20,40)")
    ] = None,
    samples: Annotated[
        str | None, typer.Option("--samples", help="Training rows. (default: 100,300,1000)")
    ] = None,
    repeats: Annotated[
        int | None, typer.Option("--repeats", help="Trainings of each point. (default: 2)")
    ] = None,
    norm: Norm = None,
    eps: Annotated[str | None, typer.Option("--eps", help="e.g. 8/255. (default: its)")] = None,
    seed: Seed = None,
    device: Device = None,
    executor: Annotated[
        str, typer.Option("--executor", help="inline, local or dask:tcp://HOST:PORT.")
    ] = "inline",
    out: OutFolder = None,
    settings: Settings = None,
    config: Config = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the plan, train nothing.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Neural codes over model size, training time and sample size, and how well they are attacked.

    Finished trainings are kept: the same command goes on where it was stopped.
    """
    from advhash.cli.console import print_json
    from advhash.compute.executor import check_executor
    from advhash.experiments.phase.config import PhaseConfig
    from advhash.experiments.phase.run import (
        phase_chart as run_phase_chart,
        phase_plan,
        plan_document,
    )

    values = gather(
        config,
        settings,
        seed=seed,
        device=device,
        victim=method_table(victim),
        attack=method_table(method),
        dataset=method_table(dataset),
        budget={"norm": norm, "eps": eps},
        phase={
            "widths": _numbers("--widths", widths),
            "epochs": _numbers("--epochs", epochs),
            "samples": _numbers("--samples", samples),
            "repeats": repeats,
        },
    )
    for table, name in (("victim", "neural-code"), ("attack", "dhta"), ("dataset", "digits")):
        if table in values and "name" not in values[table]:
            values[table]["name"] = name
    parsed = PhaseConfig.build(values)
    check_executor(executor)
    if dry_run:
        print_json(plan_document(phase_plan(parsed)))
        return
    if out is not None and out.exists():
        raise UsageError(f"expected a new folder for --out, got {out}, which exists")
    with working(quiet) as progress:
        record = run_phase_chart(parsed, out, progress, executor=executor)
    if as_json:
        print_json(record.document())
    else:
        print_phase(record)


def _numbers(option: str, text: str | None) -> list[int] | None:
    """`3,10,30` as numbers. Raises ConfigError."""
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option}: expected numbers with commas between, got {text!r}") from None


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


def print_phase(record: PhaseRecord) -> None:
    """Headline of a phase chart and where the report is."""
    from advhash.reports.phase import verdicts

    for line in verdicts(record):
        sys.stdout.write(f"{line}\n")
    for flag in record.flags:
        sys.stdout.write(f"{flag.level}: {flag.message}\n")
    sys.stdout.write(f"report: {record.run.folder}/report.html\n")
