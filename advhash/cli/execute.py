"""A kind of run becomes a command: its own options, and those that all kinds share.

    @experiment("phase-chart", show=print_phase, names={"victim": "neural-code"})
    def phase_chart(victim: Victim = None, widths: … = None) -> dict[str, Any]:
        \"\"\"Help.\"\"\"
        return {"phase": {"widths": _numbers(widths)}}    # tables of the config

An option is the setting of its name, or the one that `Sets` names; the function gives what needs
more than that, or nothing. What all commands share is done here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Container, Iterable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.models import OptionInfo, ParameterInfo

from advhash.cli.help import Command
from advhash.cli.options import (
    Config,
    Defense,
    Device,
    DryRun,
    Every,
    ExecutorName,
    Json,
    NoDefense,
    OutFolder,
    Quiet,
    Resume,
    Seed,
    Sets,
    Settings,
    TrustCode,
    checked,
    gather,
    new_file,
    placed,
    working,
)
from advhash.cli.terminal import tell
from advhash.errors import ConfigError, MissingSetting, SettingError, UsageError

if TYPE_CHECKING:
    from advhash.experiments.config import Run

OPTIONS = {  # of tables, and of lists of them
    "victim": "--victim",
    "attack": "--method",
    "defense": "--defense",
    "victims": "--victims a,b",
    "attacks": "--methods a,b",
}
Show = Callable[[Any, bool], None]  # of a record; whether all its figures are asked for
Document = Callable[[Any], Mapping[str, Any]]
Tables = dict[str, Any]
UNHARDENED = "it hardens no victim"


def _shared(
    *,
    defense: Defense = None,
    seed: Seed = None,
    device: Device = None,
    executor: ExecutorName = "inline",
    out: OutFolder = None,
    resume: Resume = None,
    trust_code: TrustCode = False,
    settings: Settings = None,
    config: Config = None,
    dry_run: DryRun = False,
    every: Every = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The options that all kinds share."""


SHARED = inspect.signature(_shared, eval_str=True).parameters
AT_RESUME = {  # settings of no figure
    *("executor", "resume", "trust_code", "every", "as_json", "quiet"),
}


def experiment(
    kind: str,
    *,
    show: Show,
    document: Document = lambda record: record.document(),
    required: tuple[str, ...] = (),
    names: Mapping[str, str] | None = None,
    hint: str = "",
    alias: Callable[[Tables], str | None] = lambda values: None,
    after: Callable[[Any], None] = lambda record: None,
    limit: str = "",
    instead: Callable[[Mapping[str, Any], Mapping[str, Any]], bool] = lambda given, defaults: False,
) -> Callable[[Callable[..., Tables | None]], Callable[..., None]]:
    """Decorator: a function from options to the tables of a config becomes a command.

    show, document: what is printed of the record, plainly and with `--json`
    required: tables that must name something, and lists of tables that must be given
    names:    of tables that are given settings alone
    hint:     where the defence goes, or why none does, of a kind whose config has none: its command
              shows no --defense
    after:    what is done once the record is printed, e.g. another exit code
    limit:    the option that is a limit in minutes
    instead:  does what an option asks for in place of a run, of all options and their defaults;
              whether it did
    alias:    the kind that the tables mean where it is another one, which shows itself by `show`
    """

    def decorate(options: Callable[..., Tables | None]) -> Callable[..., None]:
        own = inspect.signature(options, eval_str=True).parameters

        def command(**given: Any) -> None:
            if instead(given, {each.name: each.default for each in parameters}):
                return
            mine = {name: given[name] for name in own if name != limit}
            shared = {name: given[name] for name in SHARED}
            how = {**_how(shared), "max_minutes": given.get(limit)}
            if shared["resume"] is not None:
                expect_no_settings({name: own[name] for name in mine} | dict(SHARED), given)
                execute(kind, None, show=show, document=document, after=after, **how)
                return
            fields = _fields(kind)
            if given["defense"] is not None and "defense" not in fields:
                raise UsageError(f"`advhash {kind}` takes no --defense: {hint or UNHARDENED}")
            tables = _settings(parameters, given, fields)
            values = gather(shared["config"], shared["settings"], tables, options(**mine) or {})
            for table, name in (names or {}).items():
                if values.get(table) and not values[table].get("name"):
                    values[table] = {"name": name, **values[table]}
            for table in required:
                settings = values.get(table) or {}
                if not (isinstance(settings, list) or "name" in settings):
                    registry = config_of(kind).registries.get(table)
                    listed = table.removesuffix("s") if registry is None else registry.kind
                    see = f"see `advhash list {listed}s`"
                    raise UsageError(f"expected {OPTIONS[table]}, got none; {see}")
            meant = alias(values) or kind
            try:
                execute(meant, values, show=show, document=document, after=after, **how)
            except SettingError as error:
                option = _typed(parameters, given, _fields(meant)).get(_whole(error.setting))
                if option is None:
                    raise
                raise ConfigError(f"{option}: {error.said}") from None
            except MissingSetting as error:
                paths = [_path(parameter, _fields(meant)) for parameter in parameters]
                if error.setting not in paths:
                    raise
                asked = _asked(parameters[paths.index(error.setting)])
                raise ConfigError(f"expected {asked}; see `advhash {kind} --help`") from None

        hidden = {"defense": NoDefense} if hint else {}
        parameters = [
            *own.values(),
            *(
                shared.replace(annotation=hidden.get(shared.name, shared.annotation))
                for shared in SHARED.values()
                if shared.name not in own
            ),
        ]
        keyword = inspect.Parameter.KEYWORD_ONLY
        signature = inspect.Signature([parameter.replace(kind=keyword) for parameter in parameters])
        command.__signature__ = signature  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        command.__name__ = options.__name__
        command.__doc__ = options.__doc__
        return command

    return decorate


def brought() -> set[str]:
    """The kinds of run that installed packages bring, by their entry points, none imported."""
    return {point.name for point in entry_points(group="advhash.experiments")}


def command_of(kind: str) -> Any:
    """The command of a kind that a package brings: the shared options, all else by `--set`."""

    def options() -> Tables:
        return {}

    options.__name__ = kind
    options.__doc__ = "A kind of run that an installed package brings."
    alone = typer.Typer()
    alone.command(kind, cls=Command)(placed(experiment(kind, show=show_headline)(options)))
    return typer.main.get_command(alone)


def show_headline(record: Any, every: bool) -> None:
    """Metrics, flags and where the report is."""
    from advhash.cli.console import print_flags, print_metrics

    document = record.document()
    print_metrics(document.get("metrics", {}), every=every)
    tell(f"report: {document['run']['folder']}/report.html")
    print_flags(document.get("flags", []))


def _how(shared: Mapping[str, Any]) -> dict[str, Any]:
    """How a run is made, which determines no figure."""
    names = ("out", "resume", "executor", "trust_code", "dry_run", "every", "as_json", "quiet")
    return {name: shared[name] for name in names}


def _fields(kind: str) -> Container[str]:
    """Names of the tables and settings of the config of a kind."""
    return config_of(kind).model_fields


def config_of(kind: str) -> type[Run]:
    """The config of a kind of run, without the run. Raises UsageError for a broken package."""
    from advhash.registry import EXPERIMENTS

    module, _, name = EXPERIMENTS.describe(kind).fact("config").partition(":")
    config: type[Run] = getattr(import_module(module), name)
    return config


def _settings(
    parameters: Iterable[inspect.Parameter], given: Mapping[str, Any], fields: Container[str]
) -> Tables:
    """The tables that options set by themselves, see `Sets`."""
    tables: Tables = {}
    for parameter in parameters:
        path = _path(parameter, fields)
        if path is not None:
            *above, key = path.split(".")
            table = tables.setdefault(above[0], {}) if above else tables
            table[key] = given[parameter.name]
    return tables


def _path(parameter: inspect.Parameter, fields: Container[str]) -> str | None:
    """The setting that an option is, see `Sets`; None where the config has no such table."""
    marks = getattr(parameter.annotation, "__metadata__", ())
    paths = next((mark for mark in marks if isinstance(mark, Sets)), parameter.name).split()
    return next((path for path in paths if path.split(".")[0] in fields), None)


def _whole(setting: str) -> str:
    """The setting of which one value in a list is named.

    >>> _whole("radii.0"), _whole("victim.bits")
    ('radii', 'victim.bits')
    """
    return re.sub(r"(\.\d+)+$", "", setting)


def _typed(
    parameters: Iterable[inspect.Parameter], given: Mapping[str, Any], fields: Container[str]
) -> dict[str, str]:
    """The options that were given, by the settings that they are."""
    typed: dict[str, str] = {}
    for parameter in parameters:
        path, name = _path(parameter, fields), _option(parameter)
        if path is not None and name and given[parameter.name] != parameter.default:
            typed[path] = name
    return typed


def _option(parameter: inspect.Parameter) -> str:
    """`--name` of an option, "" of an argument."""
    marks = getattr(parameter.annotation, "__metadata__", ())
    names = [
        name  # typer takes the first one of an annotation for a default until it is called
        for option in marks
        if isinstance(option, OptionInfo)
        for name in (option.default, *(option.param_decls or ()))
        if isinstance(name, str) and name.startswith("--")
    ]
    return names[0] if names else ""


def _asked(parameter: inspect.Parameter) -> str:
    """An option or an argument that must be given, and what it is."""
    marks = getattr(parameter.annotation, "__metadata__", ())
    helps = [mark.help for mark in marks if isinstance(mark, ParameterInfo)]
    about = f" ({helps[0].rstrip('.')})" if helps and helps[0] else ""
    return f"{_option(parameter) or parameter.name.upper()}{about}, got none"


def expect_no_settings(
    parameters: Mapping[str, inspect.Parameter], given: Mapping[str, Any]
) -> None:
    """Raise UsageError where `--resume` comes with anything that would be another run."""
    for name, parameter in parameters.items():
        if name not in AT_RESUME and given[name] != parameter.default:
            raise UsageError("--resume continues a run as it was: expected no other settings")


def execute(
    kind: str,
    values: Tables | None,
    *,
    show: Show,
    document: Document,
    after: Callable[[Any], None],
    out: Path | None,
    resume: Path | None,
    executor: str,
    trust_code: bool,
    dry_run: bool,
    every: bool,
    as_json: bool,
    quiet: bool,
    max_minutes: float | None,
) -> None:
    """Run, continue or describe an experiment, and print what it found.

    values: the tables of its config; None to continue the run at `resume`
    """
    from advhash.compute.executor import check_executor
    from advhash.registry import EXPERIMENTS
    from advhash.storage.run_folder import RunFolder

    check_executor(executor)
    if values is None:
        assert resume is not None
        RunFolder.interrupted(resume)
    else:
        parsed = checked(config_of(kind), values, trust_code=trust_code)
        if not dry_run:
            new_place(out, alone=EXPERIMENTS.describe(kind).fact("alone"))

    from advhash.cli.console import print_json, print_pictures, print_plan
    from advhash.experiments import experiment as experiments

    if resume is not None:
        with working(quiet) as progress:
            record = experiments.resume(
                resume,
                progress,
                kind=kind,
                executor=executor,
                max_minutes=max_minutes,
                trust_code=trust_code,
            )
    else:
        chosen = EXPERIMENTS.create(kind)
        if dry_run:
            plan = experiments.describe(chosen, parsed)
            if as_json:
                print_json(plan)
            else:
                print_plan(plan, out)
            return
        with working(quiet) as progress:
            record = experiments.run(
                chosen, parsed, out, progress, executor=executor, max_minutes=max_minutes
            )
    if as_json:
        print_json(document(record))
    else:
        print_pictures(document(record))
        show(record, every)
    after(record)


def new_place(out: Path | None, *, alone: bool) -> None:
    """Raise UsageError, before any work, for an `--out` that is there.

    alone: whether `FILE.json` is the document without a run folder
    """
    if alone and out is not None and out.suffix == ".json":
        new_file(out)
    elif out is not None and out.exists():
        raise UsageError(f"expected a new folder for --out, got {out}, which exists")
