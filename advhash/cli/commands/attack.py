"""`advhash attack`."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advhash.cli.console import (
    print_end,
    print_flags,
    print_lead,
    print_metrics,
    print_next,
    print_rows,
)
from advhash.cli.execute import experiment
from advhash.cli.following import (
    CERTIFIED,
    config_of_run,
    is_trainable,
    of_config,
    replayed,
    threshold_of,
)
from advhash.cli.options import (
    AllowSuperuser,
    Bits,
    Database,
    DatasetName,
    FloatPixels,
    MatchThreshold,
    Norm,
    QueryCount,
    QueryModality,
    Rescore,
    Sets,
    StoreName,
    Targets,
    Victim,
    complete_attacks,
    search_tables,
)
from advhash.cli.terminal import tell
from advhash.errors import UsageError, counted

if TYPE_CHECKING:
    from advhash.measures.sanity import Flag
    from advhash.reports.inversion.record import InversionRecord
    from advhash.reports.record import Record, Siblings


READ_FIRST = ("served_", "planted_", "store_")  # how figures begin of what was asked for besides


def show(record: Record | Siblings | InversionRecord, every: bool) -> None:
    """What an attack, several, or a reconstruction found."""
    from advhash.cli.commands.invert import print_inversion
    from advhash.reports.inversion.record import InversionRecord
    from advhash.reports.record import Siblings

    if isinstance(record, InversionRecord):
        print_inversion(record, every)
    elif isinstance(record, Siblings):
        print_siblings(record)
    else:
        print_run(record, every)


def print_run(record: Record, every: bool) -> None:
    """The verdict on an attack run, the figures behind it, and where its report is."""
    from advhash.reports.elements.verdict import verdict

    tell(
        f"{record.attack.name} ({record.budget.text}) on {record.victim.label}, "
        f"{record.dataset.label}, {counted(record.protocol.queries, 'query')}, "
        f"{record.protocol.query_modality} against {record.protocol.database}"
    )
    led = record.headline()
    judged = verdict(record)
    print_lead([f"{judged.word}. {judged.lead}", *judged.details], every=every)
    names = dict.fromkeys((*led.figures, *filter(led.shows, record.metrics)))
    asked = [name for name in names if name.startswith(READ_FIRST)]
    size = "words_changed" if "words_changed" in record.metrics else "linf"
    cost = (size, "psnr", f"{led.main}_jpeg75", f"{led.main}_survived")
    print_metrics(
        {name: record.metrics[name] for name in names if name in record.metrics},
        first=[*led.figures, *cost, *asked],
        every=every,
        pictures=record.protocol.query_modality == "image",
    )
    print_end(record, then=_next(record))


def _next(record: Record) -> list[tuple[str, str]]:
    """How much a smaller budget buys, and what a defence is worth or what no attack can do."""
    config = config_of_run(record)
    then = []
    if record.budget.norm in ("linf", "l0") and not record.unchanged:
        sizes = "2/255,4/255,8/255,16/255" if record.budget.norm == "linf" else "1,2,4"
        then.append((f"{replayed('attack', record, config)} --eps {sizes}", "over the budget"))
    same = of_config(config)
    if same is None:
        return then
    if config["victim"]["name"] in CERTIFIED:
        then.append((f"certify {same}{threshold_of(config)}", "what no attack can do"))
    elif (
        record.budget.norm == "linf"
        and record.protocol.query_modality == "image"
        and is_trainable(config)
        and config["dataset"].get("size") != "stored"
    ):
        then.append((f"defend {same} --defense saat", "what a defence is worth"))
    return then


def print_siblings(siblings: Siblings) -> None:
    """Headline of each budget, and where the report is."""
    from advhash.reports.elements.numbers import written
    from advhash.reports.elements.verdict import verdict
    from advhash.reports.headline import HEADLINES

    records = siblings.records
    first = records[0]
    tell(
        f"{first.attack.name} on {first.victim.label}, {first.dataset.label}, "
        f"{counted(first.protocol.queries, 'query')}"
    )
    judged = verdict(records[-1])
    print_lead([f"At {records[-1].budget.text}: {judged.word}. {judged.lead}"], every=False)
    led = first.headline()
    shown = dict.fromkeys((*led.brief, *filter(led.shows, [HEADLINES["untargeted"].main])))
    rows = [
        {
            "budget": record.budget.text,
            **{name: written(name, record.metrics[name]) for name in shown},
        }
        for record in records
    ]
    print_rows(("budget", *shown), rows)
    tell(f"report: {siblings.report}")
    least, most = (shlex.quote(record.run.folder) for record in (records[0], records[-1]))
    folder = shlex.quote(str(Path(siblings.report).parent))
    print_next(
        [
            (f"compare {least} {most}", "query by query"),
            (f"report {folder} --figures {folder}-figures", "the curve over the budget, as SVG"),
        ]
    )
    raised: dict[Flag, list[str]] = {}
    for record in records:
        for flag in record.flags:
            raised.setdefault(flag, []).append(record.budget.text)
    print_flags(
        vars(replace(flag, message=f"{', '.join(budgets)}: {flag.message}"))
        for flag, budgets in raised.items()
    )


def _inversion(values: dict[str, Any]) -> str | None:
    """`invert` where the method reconstructs: `advhash attack` stays its alias."""
    from advhash.registry import INVERSIONS

    return "invert" if values["attack"]["name"] in INVERSIONS else None


def _matched(run: Path, norm: str | None, eps: str | None) -> dict[str, Any]:
    """The budget of `--match`. Raises UsageError, RunError."""
    from advhash.storage.run_folder import expect_finished

    if norm is not None or eps is not None:
        raise UsageError("--match sets the budget: expected no --norm and no --eps")
    expect_finished(run)

    from advhash.reports.record import load_record

    distance = load_record(run).metrics.get("l2")
    if distance is None or not distance.value:
        raise UsageError(f"--match: run {run} did not move its queries")
    return {"norm": "l2", "eps": distance.value}


@experiment("attack", show=show, required=("victim", "attack"), alias=_inversion)
def attack(
    victim: Victim = None,
    method: Annotated[
        str | None,
        typer.Option("--method", help="An attack, e.g. prosgan.", autocompletion=complete_attacks),
        Sets("attack.name"),
    ] = None,
    dataset: DatasetName = None,
    bits: Bits = None,
    norm: Norm = None,
    eps: Annotated[
        str | None,
        typer.Option(
            "--eps", help="e.g. 8/255, 0.03 or none; 2/255,8/255: a run each. (default: method's)"
        ),
        Sets("budget.eps"),
    ] = None,
    match: Annotated[
        Path | None,
        typer.Option("--match", help="Budget: an L2 ball as large as this run's mean L2."),
    ] = None,
    targets: Targets = None,
    query_modality: QueryModality = None,
    database: Database = None,
    queries: QueryCount = None,
    store: StoreName = None,
    rescore: Rescore = None,
    allow_superuser: AllowSuperuser = False,
    threshold: MatchThreshold = None,
    poison: Annotated[
        int | None,
        typer.Option("--poison", help="Also plant so many adversarial items in the database."),
        Sets("protocol.poison"),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            help="Gradients in bf16, where the processor has it, or no. (default: no)",
        ),
        Sets("attack.precision"),
    ] = None,
    float_pixels: FloatPixels = False,
) -> dict[str, Any]:
    """Attack a victim and write the run folder with its report."""
    budget = {} if match is None else _matched(match, norm, eps)
    return {
        "budget": budget | ({"eight_bit": False} if float_pixels else {}),
        "protocol": search_tables(store, rescore, allow_superuser),
    }
