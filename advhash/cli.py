"""The command line: parse, call the pipeline, print. Results on stdout, all else on stderr.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from advhash._version import __version__
from advhash.cli_benchmark import benchmark
from advhash.cli_certify import certify
from advhash.cli_codes import codes_app, evaluate_codes
from advhash.cli_compare import compare
from advhash.cli_defend import defend
from advhash.cli_detect import detect
from advhash.cli_encode import encode, phase_chart
from advhash.cli_lifelong import lifelong
from advhash.cli_options import (
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
    complete_datasets,
    fail,
    gather,
    method_table,
    tables,
    told,
    working,
)
from advhash.cli_search import search
from advhash.cli_transfer import transfer
from advhash.errors import AdvhashError, ConfigError, UnknownName, UsageError
from advhash.processes import is_main_process, process_count

app = typer.Typer(
    help="How easily can binary codes be fooled? Attack, measure and report hashing retrieval.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Look at the data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(codes_app, name="codes")
app.command("eval")(evaluate_codes)
app.command()(lifelong)
app.command()(benchmark)
app.command()(certify)
app.command()(compare)
app.command()(defend)
app.command()(detect)
app.command()(encode)
app.command("phase-chart")(phase_chart)
app.command()(transfer)
app.command()(search)

KINDS = ("victims", "attacks", "inversions", "datasets", "defenses", "detectors")


def main() -> None:
    """Entry point. Exit codes: see `advhash.errors`; a bug keeps its traceback and exits with 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without ∞ or × shows ? instead
            stream.reconfigure(errors="replace")
    try:
        app()
    except AdvhashError as error:
        fail(str(error), *getattr(error, "__notes__", ()))
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code == 130 and not told:  # Typer swallows an interrupt without a word
            fail("interrupted")
        raise


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        sys.stdout.write(f"advhash {__version__}\n")
        raise typer.Exit
    if process_count() > 1 and context.invoked_subcommand != "train":
        raise UsageError(
            f"torchrun starts {process_count()} processes, which only `advhash train` shares out: "
            "start this command alone"
        )


@app.command("list")
def list_(
    kind: Annotated[str | None, typer.Argument(help=f"One of {', '.join(KINDS)}.")] = None,
    as_json: Json = False,
) -> None:
    """Victims, attacks, data sets, defences and detectors that are registered."""
    from advhash import registry
    from advhash.console import print_json, print_rows

    if kind is not None and kind not in KINDS:
        raise UnknownName("kind", kind, KINDS)
    rows = [
        {
            "kind": table.removesuffix("s"),
            "name": entry.name,
            "source": entry.source,
            "summary": entry.summary,
            "presets": ["small", *entry.presets],
        }
        for table in ([kind] if kind else KINDS)
        for entry in getattr(registry, table.upper())
    ]
    if as_json:
        print_json({"schema": "advhash/list/1", "entries": rows})
    else:
        print_rows(("kind", "name", "summary", "source"), rows)


@data_app.command("list")
def data_list(as_json: Json = False) -> None:
    """The data sets that can be used without downloading anything."""
    list_("datasets", as_json)


@data_app.command("show")
def data_show(
    name: Annotated[str, typer.Argument(autocompletion=complete_datasets)],
    image_grid: Annotated[
        Path | None, typer.Option("--image-grid", help="Write a PNG of samples to this file.")
    ] = None,
    settings: Settings = None,
    as_json: Json = False,
) -> None:
    """The card of a data set: counts, labels, chance, licence, warnings."""
    from advhash.console import print_card, print_json
    from advhash.datasets import load_dataset
    from advhash.pipeline import save_image_grid

    given = tables(settings)
    if set(given) - {"dataset"}:
        raise ConfigError(f"--set: expected dataset.key=value, got {' '.join(settings or [])}")
    data = load_dataset(name, given.get("dataset", {}))
    if image_grid is not None:
        save_image_grid(data, image_grid)
    if as_json:
        print_json({"schema": "advhash/dataset/1", "name": data.name, "card": dict(data.card)})
    else:
        print_card(data.name, data.card)


@app.command()
def train(
    victim: Victim = None,
    defense: Defense = None,
    dataset: DatasetName = None,
    bits: Bits = None,
    seed: Seed = None,
    device: Device = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Copy the checkpoint to this new folder.")
    ] = None,
    trust_code: TrustCode = False,
    settings: Settings = None,
    config: Config = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a victim (or take it from the cache) and print its figures."""
    from advhash.config import TrainConfig
    from advhash.console import print_json, print_training
    from advhash.hardening import prepare
    from advhash.training import export_checkpoint, train_document
    from advhash.victims.acceleration import leave

    values = gather(
        config,
        settings,
        seed=seed,
        device=device,
        victim=method_table(victim, bits=bits),
        defense=method_table(defense),
        dataset=method_table(dataset),
    )
    values["command"] = "train"
    if "name" not in values.get("victim", {}):
        raise UsageError("expected --victim (see `advhash list victims`)")
    if out is not None and out.exists():
        raise UsageError(f"expected a new folder for --out, got {out}, which exists")
    with working(quiet or not is_main_process()) as progress:
        trained = prepare(TrainConfig.build(values).trusting(trust_code), progress)
    leave()
    if not is_main_process():
        return
    document = train_document(trained)
    if out is not None:
        document["checkpoint"] = str(export_checkpoint(trained, out))
    if as_json:
        print_json(document)
    else:
        print_training(document)


@app.command()
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
    from advhash.budgets import attack_budgets, budgets_plan, split_eps
    from advhash.config import AttackConfig
    from advhash.console import print_inversion, print_json, print_run, print_siblings
    from advhash.inverting import inversion_plan, invert, is_inversion_method
    from advhash.pipeline import attack as run_attack
    from advhash.pipeline import attack_plan
    from advhash.pipeline import resume as resume_run
    from advhash.reports.record import load_record
    from advhash.runs import refuse_partial

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


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Finished runs of any kind; files of `detect --out`.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("report.html"),
    tables_to: Annotated[
        Path | None,
        typer.Option("--tables", help="Also write its tables to this new folder: CSV and LaTeX."),
    ] = None,
    figures_to: Annotated[
        Path | None,
        typer.Option("--figures", help="Also write its figures to this new folder: SVG and PNG."),
    ] = None,
    as_json: Json = False,
) -> None:
    """One page over one or several runs, drawn again from their records, without a model."""
    from advhash.console import print_json
    from advhash.reports.exports import write_figures, write_tables
    from advhash.reports.html import render
    from advhash.runs import refuse_partial

    for run in runs:
        refuse_partial(run)
    for option, folder in (("--tables", tables_to), ("--figures", figures_to)):
        if folder is not None and folder.exists():
            raise UsageError(f"expected a new folder for {option}, got {folder}, which exists")
    places = [one.absolute() for one in (out, tables_to, figures_to) if one is not None]
    if len(set(places)) < len(places):
        raise UsageError("expected different places for --out, --tables and --figures")
    if len({run.absolute() for run in runs}) < len(runs):
        raise UsageError("expected every run once, got one twice")
    html = render(runs, out)
    document: dict[str, Any] = {"schema": "advhash/report/1", "report": str(out)}
    document["runs"] = [str(run) for run in runs]
    if tables_to is not None:
        document["tables"] = [str(file) for file in write_tables(html, tables_to)]
    if figures_to is not None:
        document["figures"] = [str(file) for file in write_figures(html, figures_to)]
    if as_json:
        print_json(document)
    else:
        sys.stdout.write(f"{out}\n")


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this installation: packages, name clashes, cache, devices."""
    from advhash.console import print_json, print_rows
    from advhash.doctor import examine

    findings = examine()
    if as_json:
        print_json({"schema": "advhash/doctor/1", "findings": findings})
    else:
        print_rows(("level", "subject", "message"), findings)
    if any(finding["level"] == "error" for finding in findings):
        raise typer.Exit(3)
