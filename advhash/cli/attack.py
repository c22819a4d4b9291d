"""`advhash attack`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advhash.cli.console import FIGURE, figure, print_rows
from advhash.cli.options import (
    Bits,
    Config,
    Database,
    DatasetName,
    Defense,
    Device,
    Json,
    Norm,
    OutFolder,
    QueryCount,
    QueryModality,
    Quiet,
    Seed,
    Settings,
    Targets,
    TrustCode,
    Victim,
    complete_attacks,
    gather,
    method_table,
    working,
)
from advhash.errors import UsageError

if TYPE_CHECKING:
    from advhash.experiments.attack.radii import Siblings
    from advhash.reports.inversion.record import InversionRecord
    from advhash.reports.record import Record


def attack(
    victim: Victim = None,
    defense: Defense = None,
    method: Annotated[
        str | None,
        typer.Option("--method", help="An attack, e.g. prosgan.", autocompletion=complete_attacks),
    ] = None,
    dataset: DatasetName = None,
    bits: Bits = None,
    norm: Norm = None,
    eps: Annotated[
        str | None,
        typer.Option(
            "--eps", help="e.g. 8/255, 0.03 or none; 2/255,8/255: a run each. (default: method's)"
        ),
    ] = None,
    match: Annotated[
        Path | None,
        typer.Option("--match", help="Budget: an L2 ball as large as this run's mean L2."),
    ] = None,
    targets: Targets = None,
    query_modality: QueryModality = None,
    database: Database = None,
    queries: QueryCount = None,
    poison: Annotated[
        int | None,
        typer.Option("--poison", help="Also plant so many adversarial items in the database."),
    ] = None,
    seed: Seed = None,
    device: Device = None,
    out: OutFolder = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Continue this interrupted run.")
    ] = None,
    trust_code: TrustCode = False,
    settings: Settings = None,
    config: Config = None,
    float_pixels: Annotated[
        bool, typer.Option("--float", help="Do not round pixels to 8 bits (marked in the report).")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, print the plan, write nothing.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Attack a victim and write the run folder with its report."""
    from advhash.cli.console import print_json
    from advhash.experiments.attack.radii import attack_budgets, budgets_plan, split_eps
    from advhash.experiments.attack.run import (
        attack as run_attack,
        attack_plan,
        resume as resume_run,
    )
    from advhash.experiments.config import AttackConfig
    from advhash.experiments.invert.run import inversion_plan, invert, is_inversion_method
    from advhash.reports.record import load_record
    from advhash.storage.run_folder import refuse_partial

    if resume is not None:
        given = (victim, defense, method, dataset, bits, norm, eps, match, targets, query_modality)
        more = (database, queries, poison, seed, device, out, settings, config)
        if any(option is not None for option in (*given, *more)) or float_pixels or dry_run:
            raise UsageError("--resume continues a run as it was: expected no other settings")
        with working(quiet) as progress:
            record = resume_run(resume, progress, trust_code=trust_code)
    else:
        radii = split_eps(eps)
        budget: dict[str, Any] = {"norm": norm, "eps": radii[0] if radii else None}
        if float_pixels:
            budget["eight_bit"] = False
        if match is not None:
            if norm is not None or eps is not None:
                raise UsageError("--match sets the budget: expected no --norm and no --eps")
            refuse_partial(match)
            distance = load_record(match).metrics.get("l2")
            if distance is None or not distance.value:
                raise UsageError(f"--match: run {match} did not move its queries")
            budget |= {"norm": "l2", "eps": distance.value}
        values = gather(
            config,
            settings,
            seed=seed,
            device=device,
            victim=method_table(victim, bits=bits),
            defense=method_table(defense),
            attack=method_table(method),
            dataset=method_table(dataset),
            budget=budget,
            protocol={
                "targets": targets,
                "query_modality": query_modality,
                "database": database,
                "queries": queries,
                "poison": poison,
            },
        )
        for table, option in (("victim", "--victim"), ("attack", "--method")):
            if "name" not in values.get(table, {}):
                raise UsageError(f"expected {option} (see `advhash list {table}s`)")
        parsed = AttackConfig.build(values).trusting(trust_code)
        inverts = is_inversion_method(parsed.attack.name)
        if inverts and len(radii) > 1:
            raise UsageError(f"{parsed.attack.name} has no budget: expected no --eps")
        if dry_run and len(radii) > 1:
            print_json(budgets_plan(parsed, radii))
            return
        if dry_run:
            print_json((inversion_plan if inverts else attack_plan)(parsed))
            return
        if out is not None and out.exists():
            raise UsageError(f"expected a new folder for --out, got {out}, which exists")
        with working(quiet) as progress:
            if inverts:
                inversion = invert(parsed, out, progress)
            elif len(radii) > 1:
                siblings = attack_budgets(parsed, radii, out, progress)
            else:
                record = run_attack(parsed, out, progress)
        if inverts:
            print_json(inversion.document()) if as_json else print_inversion(inversion)
            return
        if len(radii) > 1:
            print_json(siblings.document()) if as_json else print_siblings(siblings)
            return
    if as_json:
        print_json(record.document())
    else:
        print_run(record)


def print_run(record: Record) -> None:
    """Headline of an attack run and where its report is."""
    document = record.document()
    sys.stdout.write(
        f"{record.attack.name} ({record.budget.text}) on {record.victim.label}, "
        f"{record.dataset.name}, {record.protocol.queries} queries, "
        f"{record.protocol.query_modality} against {record.protocol.database}\n"
    )
    rows = [
        {"metric": name, "value  [95 % interval]": figure(metric, 4 if "seconds" in name else 3)}
        for name, metric in document["metrics"].items()
    ]
    print_rows(("metric", "value  [95 % interval]"), rows)
    for flag in record.flags:
        sys.stdout.write(f"{flag.level}: {flag.message}\n")
    sys.stdout.write(f"report: {record.run.folder}/report.html\n")


def print_siblings(siblings: Siblings) -> None:
    """Headline of each budget, and where the report is."""
    first = siblings.records[0]
    sys.stdout.write(
        f"{first.attack.name} on {first.victim.label}, {first.dataset.name}, "
        f"{first.protocol.queries} queries\n"
    )
    names = ("tmap", "tmap_normalised", "map_adversarial")
    shown = [name for name in names if first.metrics.get(name) is not None]
    rows = [
        {
            "budget": record.budget.text,
            **{name: figure(record.document()["metrics"][name]) for name in shown},
        }
        for record in siblings.records
    ]
    print_rows(("budget", *shown), rows)
    sys.stdout.write(f"report: {siblings.folder}/report.html\n")


def print_inversion(record: InversionRecord) -> None:
    """Headline of a reconstruction run and where its report is."""
    document = record.document()
    sys.stdout.write(
        f"{record.attack.name} on {record.victim.label}, {record.dataset.name}, "
        f"{record.protocol.samples} samples of {record.protocol.party}\n"
    )
    found = {**document["metrics"], **document["differences"]}
    rows = [{"metric": name, FIGURE: figure(metric)} for name, metric in found.items()]
    print_rows(("metric", FIGURE), rows)
    for flag in record.flags:
        sys.stdout.write(f"{flag.level}: {flag.message}\n")
    sys.stdout.write(f"report: {record.run.folder}/report.html\n")
