"""`advhash phase-chart`, from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from advhash.cli.console import print_end, print_lead, print_metrics
from advhash.cli.execute import UNHARDENED, experiment
from advhash.cli.options import DatasetName, Norm, Sets, Victim, complete_attacks
from advhash.errors import ConfigError

if TYPE_CHECKING:
    from advhash.reports.phase import PhaseRecord

NAMES = {"victim": "neural-code", "attack": "dhta", "dataset": "digits"}


def print_phase(record: PhaseRecord, every: bool) -> None:
    """The verdict on a phase chart and where the report is."""
    from advhash.reports.phase import verdicts

    print_lead(verdicts(record), every=every)
    print_metrics(record.metrics)
    print_end(record)


@experiment("phase-chart", show=print_phase, names=NAMES, hint=UNHARDENED)
def phase_chart(
    victim: Victim = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            help="A targeted attack. (default: dhta, 20 steps)",
            autocompletion=complete_attacks,
        ),
        Sets("attack.name"),
    ] = None,
    dataset: DatasetName = None,
    widths: Annotated[
        str | None,
        typer.Option("--widths", help="Units of a layer. (default: 3,6,12,25,50,100,200)"),
    ] = None,
    epochs: Annotated[
        str | None,
        typer.Option("--epochs", help="Lengths of training, 0: none. (default: 0,1,3,10,20,40)"),
    ] = None,
    samples: Annotated[
        str | None, typer.Option("--samples", help="Training rows. (default: 100,300,1000)")
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option("--repeats", help="Trainings of each point. (default: 2)"),
        Sets("phase.repeats"),
    ] = None,
    norm: Norm = None,
    eps: Annotated[
        str | None, typer.Option("--eps", help="e.g. 8/255. (default: its)"), Sets("budget.eps")
    ] = None,
) -> dict[str, Any]:
    """Neural codes over model size, training time and sample size, and how well they are attacked.

    Finished trainings are kept: the same command goes on where it was stopped.
    """
    return {
        "phase": {
            "widths": _numbers("--widths", widths),
            "epochs": _numbers("--epochs", epochs),
            "samples": _numbers("--samples", samples),
        },
    }


def _numbers(option: str, text: str | None) -> list[int] | None:
    """`3,10,30` as numbers. Raises ConfigError."""
    try:
        return None if text is None else [int(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"{option}: expected numbers with commas between, got {text!r}") from None
