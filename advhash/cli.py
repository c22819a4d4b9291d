"""The command line: parse, call the pipeline, print. Results on stdout, all else on stderr.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advhash._version import __version__
from advhash.cli_codes import codes_app, evaluate_codes
from advhash.errors import AdvhashError, ConfigError, UnknownName, UsageError
from advhash.processes import is_main_process, process_count

if TYPE_CHECKING:
    from advhash.data import Progress

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

TABLES = ("victim", "attack", "dataset", "budget", "protocol")
KINDS = ("victims", "attacks", "datasets", "defenses", "detectors")


_told: list[int] = []  # that an interrupt was reported


def main() -> None:
    """Entry point. Exit codes: see `advhash.errors`; a bug keeps its traceback and exits with 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without ∞ or × shows ? instead
            stream.reconfigure(errors="replace")
    try:
        app()
    except AdvhashError as error:
        _fail(str(error), *getattr(error, "__notes__", ()))
        sys.exit(error.exit_code)
    except SystemExit as stop:
        if stop.code == 130 and not _told:  # Typer swallows an interrupt without a word
            _fail("interrupted")
        raise


def _fail(*lines: str) -> None:
    for number, line in enumerate(lines):
        sys.stderr.write(f"advhash: {'error: ' if number == 0 else ''}{line}\n")
    sys.stderr.flush()


def _complete(kind: str, incomplete: str) -> list[str]:
    from advhash import registry

    table = getattr(registry, kind.upper())
    return [entry.name for entry in table if entry.name.startswith(incomplete)]


def _victims(incomplete: str) -> list[str]:
    return _complete("victims", incomplete)


def _attacks(incomplete: str) -> list[str]:
    return _complete("attacks", incomplete)


def _datasets(incomplete: str) -> list[str]:
    return _complete("datasets", incomplete)


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Decides over all chance. (default: 0)")]
Device = Annotated[
    str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N. (default: auto)")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Any setting, e.g. victim.epochs=5."),
]
Config = Annotated[
    Path | None, typer.Option("--config", help="A config.toml; options lie over it.")
]
Victim = Annotated[
    str | None,
    typer.Option(
        "--victim",
        help="A name, a checkpoint folder or module:function.",
        autocompletion=_victims,
    ),
]
DatasetName = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="A name or an image folder. (default: the victim's)",
        autocompletion=_datasets,
    ),
]
Bits = Annotated[int | None, typer.Option("--bits", help="Bits of a code. (default: 32)")]
TrustCode = Annotated[
    bool,
    typer.Option("--trust-code", help="Import and run the code of --victim module:function."),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]


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
    name: Annotated[str, typer.Argument(autocompletion=_datasets)],
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

    tables = _tables(settings)
    if set(tables) - {"dataset"}:
        raise ConfigError(f"--set: expected dataset.key=value, got {' '.join(settings or [])}")
    data = load_dataset(name, tables.get("dataset", {}))
    if image_grid is not None:
        save_image_grid(data, image_grid)
    if as_json:
        print_json({"schema": "advhash/dataset/1", "name": data.name, "card": dict(data.card)})
    else:
        print_card(data.name, data.card)


@app.command()
def train(
    victim: Victim = None,
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
    from advhash.training import export_checkpoint, train_document
    from advhash.training import train as train_victim
    from advhash.victims.acceleration import leave

    values = _gather(
        config,
        settings,
        seed=seed,
        device=device,
        victim=_method(victim, bits=bits),
        dataset=_method(dataset),
    )
    values["command"] = "train"
    if "name" not in values.get("victim", {}):
        raise UsageError("expected --victim (see `advhash list victims`)")
    if out is not None and out.exists():
        raise UsageError(f"expected a new folder for --out, got {out}, which exists")
    with _working(quiet or not is_main_process()) as progress:
        trained = train_victim(TrainConfig.build(values).trusting(trust_code), progress)
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
    method: Annotated[
        str | None,
        typer.Option("--method", help="An attack, e.g. prosgan.", autocompletion=_attacks),
    ] = None,
    dataset: DatasetName = None,
    bits: Bits = None,
    norm: Annotated[str | None, typer.Option("--norm", help="linf, l2, l0 or none.")] = None,
    eps: Annotated[
        str | None, typer.Option("--eps", help="e.g. 8/255, 0.03 or none. (default: the method's)")
    ] = None,
    match: Annotated[
        Path | None,
        typer.Option("--match", help="Budget: an L2 ball as large as this run's mean L2."),
    ] = None,
    targets: Annotated[
        str | None, typer.Option("--targets", help="disjoint, uniform or weighted.")
    ] = None,
    query_modality: Annotated[
        str | None, typer.Option("--query-modality", help="image or text. (default: image)")
    ] = None,
    database: Annotated[
        str | None, typer.Option("--database", help="image, text or fused. (default: victim's)")
    ] = None,
    queries: Annotated[
        int | None, typer.Option("--queries", help="How many queries. (default: all)")
    ] = None,
    seed: Seed = None,
    device: Device = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The run folder to write. (default: runs/<id>)")
    ] = None,
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
    from advhash.config import AttackConfig
    from advhash.console import print_json, print_run
    from advhash.pipeline import attack as run_attack
    from advhash.pipeline import attack_plan
    from advhash.pipeline import resume as resume_run
    from advhash.reports.record import load_record
    from advhash.runs import refuse_partial

    if resume is not None:
        given = (victim, method, dataset, bits, norm, eps, match, targets, query_modality)
        more = (database, queries, seed, device, out, settings, config)
        if any(option is not None for option in (*given, *more)) or float_pixels or dry_run:
            raise UsageError("--resume continues a run as it was: expected no other settings")
        with _working(quiet) as progress:
            record = resume_run(resume, progress, trust_code=trust_code)
    else:
        budget: dict[str, Any] = {"norm": norm, "eps": eps}
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
        values = _gather(
            config,
            settings,
            seed=seed,
            device=device,
            victim=_method(victim, bits=bits),
            attack=_method(method),
            dataset=_method(dataset),
            budget=budget,
            protocol={
                "targets": targets,
                "query_modality": query_modality,
                "database": database,
                "queries": queries,
            },
        )
        for table, option in (("victim", "--victim"), ("attack", "--method")):
            if "name" not in values.get(table, {}):
                raise UsageError(f"expected {option} (see `advhash list {table}s`)")
        parsed = AttackConfig.build(values).trusting(trust_code)
        if dry_run:
            print_json(attack_plan(parsed))
            return
        if out is not None and out.exists():
            raise UsageError(f"expected a new folder for --out, got {out}, which exists")
        with _working(quiet) as progress:
            record = run_attack(parsed, out, progress)
    if as_json:
        print_json(record.document())
    else:
        print_run(record)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Finished run folders.")],
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("report.html"),
    as_json: Json = False,
) -> None:
    """One page over one or several runs, drawn again from their records, without a model."""
    from advhash.console import print_json
    from advhash.reports.html import render
    from advhash.runs import refuse_partial

    for run in runs:
        refuse_partial(run)
    render(runs, out)
    if as_json:
        print_json(
            {"schema": "advhash/report/1", "report": str(out), "runs": [str(run) for run in runs]}
        )
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


def _method(name: str | None, *, bits: int | None = None) -> dict[str, Any]:
    return {"name": name, "bits": bits}


def _tables(settings: list[str] | None) -> dict[str, Any]:
    """`--set` assignments as nested tables."""
    from advhash.config import parse_assignment

    result: dict[str, Any] = {}
    for text in settings or []:
        keys, value = parse_assignment(text)
        if len(keys) < 2 and keys[0] in TABLES:
            raise ConfigError(f"--set {text}: expected {keys[0]}.key=value")
        table = result
        for key in keys[:-1]:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise ConfigError(f"--set {text}: {key!r} was set to a value before")
        table[keys[-1]] = value
    return result


def _gather(config: Path | None, settings: list[str] | None, **options: Any) -> dict[str, Any]:
    """Defaults < config file < options < --set; empty tables vanish."""
    from advhash.config import merge, read_toml

    values = merge(read_toml(config) if config else {}, options)
    values = merge(values, _tables(settings))
    return {key: value for key, value in values.items() if value != {}}


@contextmanager
def _working(quiet: bool) -> Iterator[Progress]:
    """Progress on stderr; an interrupt is told in one line and exits with 130."""
    from advhash.console import progress_display
    from advhash.data import silent

    try:
        with nullcontext(silent) if quiet else progress_display() as progress:
            yield progress
    except KeyboardInterrupt as error:  # caught here, since Typer would drop the notes
        _fail("interrupted", *getattr(error, "__notes__", ()))
        _told.append(130)
        raise typer.Exit(130) from None
