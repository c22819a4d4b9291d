"""`advhash judge`, from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from advhash.budget import Budget
from advhash.cli.console import print_end, print_lead, print_metrics, print_rows
from advhash.cli.execute import experiment
from advhash.cli.following import (
    config_of_run,
    is_perceptual,
    is_trainable,
    of_config,
    threshold_of,
)
from advhash.cli.options import (
    Bits,
    Database,
    DatasetName,
    FloatPixels,
    MatchThreshold,
    Norm,
    Sets,
    Victim,
)
from advhash.cli.terminal import tell

if TYPE_CHECKING:
    from advhash.reports.judge import JudgeRecord


def print_judge(record: JudgeRecord, every: bool) -> None:
    """What the set does, what it claims beside it, and where the page is."""
    from advhash.measures.intervals import Metric
    from advhash.reports.elements.numbers import written
    from advhash.reports.elements.verdict import verdict
    from advhash.reports.judge import WORDS, chosen, verdicts

    tell(
        f"{record.set.name} ({record.set.goal}, {record.budget.text}) on {record.victim.label}, "
        f"{record.dataset.label}: {chosen(record)}, all inside the budget"
    )
    attacked = record.as_attack
    judged = verdict(attacked)
    print_lead([judged.lead], every=every)
    for line in verdicts(record):
        tell(line)
    rows = [
        {
            "metric": claim.name,
            "claimed": written(claim.name, Metric(value=claim.claimed)),
            "measured": written(claim.name, claim.measured),
            "claim": WORDS[claim.standing],
        }
        for claim in record.claims
    ]
    if rows:
        print_rows(tuple(rows[0]), rows)
    led = attacked.headline()
    names = dict.fromkeys((*led.figures, *filter(led.shows, record.metrics)))
    print_metrics(record.metrics, first=tuple(names), every=every)
    print_end(record, then=_next(record), again_differs=False)


def _next(record: JudgeRecord) -> list[tuple[str, str]]:
    """What an attack of ours does to the same victim within the same budget."""
    config = config_of_run(record)
    same = of_config(config)
    if same is None or not (is_perceptual(config) or is_trainable(config)):
        return []
    method = "evasion" if is_perceptual(config) else "autohash"
    held = f"--norm {record.budget.norm}"
    if record.budget.eps is not None:
        held += f" --eps {Budget(record.budget.norm, record.budget.eps).radius}"
    text = f"attack {same} --method {method} {held}{threshold_of(config)}"
    return [(text, "what an attack of ours does within the same budget")]


@experiment("judge", show=print_judge, required=("victim",))
def judge(
    pictures: Annotated[
        str | None,
        typer.Argument(
            metavar="FOLDER",
            help="PNG or BMP named like their originals, or .npz, .npy, .parquet.",
        ),
    ] = None,
    clean: Annotated[
        str | None,
        typer.Option("--clean", help="The originals: a data set by name, or its folder."),
        Sets("clean.name"),
    ] = None,
    victim: Victim = None,
    dataset: DatasetName = None,
    bits: Bits = None,
    norm: Norm = None,
    eps: Annotated[
        str | None,
        typer.Option("--eps", help="What the changes are held to, e.g. 8/255."),
        Sets("budget.eps"),
    ] = None,
    claims: Annotated[
        str | None,
        typer.Option(
            "--claims", help="JSON or CSV of what the set claims. (default: FOLDER/claims.json)"
        ),
    ] = None,
    database: Database = None,
    threshold: MatchThreshold = None,
    float_pixels: FloatPixels = False,
) -> dict[str, Any]:
    """Score an adversarial set of any tool on our originals, beside what it claims of itself.

    Each picture is paired with its original by id, held to the budget, and hashed anew.
    """
    return {"budget": {"eight_bit": False}} if float_pixels else {}
