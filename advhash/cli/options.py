"""What the commands share: options, how settings come together, progress."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from advhash.cli.terminal import remark
from advhash.errors import ConfigError, UsageError
from advhash.storage.places import user_path

if TYPE_CHECKING:
    from advhash.compute.progress import Progress
    from advhash.experiments.config import Run

Kind = TypeVar("Kind", bound="Run")
TABLES = (
    *("victim", "rival", "defense", "defense_budget", "attack", "detector", "adaptive"),
    *("dataset", "clean", "budget", "protocol", "lifelong", "phase", "search", "other"),
    *("rows", "quantise", "store", "collapse"),
)


class Sets(str):
    """Beside an option: the setting that it is, e.g. `budget.norm`, where that has another name.

    Of several with a blank between, the first whose table, or field, the config of the kind has.
    """

    __slots__ = ()


def fail(*lines: str) -> None:
    for number, line in enumerate(lines):
        remark(f"advhash: {'error: ' if number == 0 else ''}{line}")


def placed(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose paths are looked at before it does anything, see `storage.places`."""

    def at_place(value: Any) -> Any:
        if isinstance(value, list):
            return [at_place(item) for item in value]
        return user_path(value) if isinstance(value, Path) else value

    @functools.wraps(command)
    def call(**given: Any) -> None:
        command(**{name: at_place(value) for name, value in given.items()})

    return call


def complete(kind: str, incomplete: str) -> list[str]:
    from advhash import registry

    return [name for name in getattr(registry, kind.upper()).names() if name.startswith(incomplete)]


def complete_victims(incomplete: str) -> list[str]:
    from advhash.registry import ZOO, ZOO_PREFIX

    zoo = [f"{ZOO_PREFIX}{name}" for name in ZOO.names()]
    return complete("victims", incomplete) + [name for name in zoo if name.startswith(incomplete)]


def complete_attacks(incomplete: str) -> list[str]:
    return complete("attacks", incomplete) + complete("inversions", incomplete)


def complete_inversions(incomplete: str) -> list[str]:
    return complete("inversions", incomplete)


def complete_detectors(incomplete: str) -> list[str]:
    return complete("detectors", incomplete)


def complete_defenses(incomplete: str) -> list[str]:
    return complete("defenses", incomplete)


def complete_datasets(incomplete: str) -> list[str]:
    return complete("datasets", incomplete)


def complete_poisonings(incomplete: str) -> list[str]:
    return [*complete("poisonings", incomplete), "targeted"]


def complete_stores(incomplete: str) -> list[str]:
    return complete("stores", incomplete)


def complete_rescorers(incomplete: str) -> list[str]:
    return complete("rescorers", incomplete)


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Seed = Annotated[
    int | None, typer.Option("--seed", help="Determines every random draw. (default: 0)")
]
Device = Annotated[
    str | None, typer.Option("--device", help="auto, cpu, cuda or cuda:N. (default: auto)")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="TABLE.KEY=VALUE", help="Any setting, e.g. victim.epochs=5."),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="A config.toml. Options on the command line take precedence."),
]
Victim = Annotated[
    str | None,
    typer.Option(
        "--victim",
        help="A name, a checkpoint folder, zoo:NAME, timm:, hf:, st: or onnx:MODEL, "
        "module:function.",
        autocompletion=complete_victims,
    ),
    Sets("victim.name"),
]
DatasetName = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="A name, or a folder or file of what the victim reads. (default: the victim's)",
        autocompletion=complete_datasets,
    ),
    Sets("dataset.name"),
]
Defense = Annotated[
    str | None,
    typer.Option(
        "--defense",
        help="Harden the victim with it first, e.g. saat.",
        autocompletion=complete_defenses,
    ),
    Sets("defense.name"),
]
NoDefense = Annotated[str | None, typer.Option("--defense", hidden=True)]  # is refused with a hint
Bits = Annotated[
    int | None,
    typer.Option("--bits", help="Bits of a code. (default: 32)"),
    Sets("victim.bits"),
]
TrustCode = Annotated[
    bool,
    typer.Option("--trust-code", help="Import and run the code of --victim module:function."),
]
Norm = Annotated[
    str | None, typer.Option("--norm", help="linf, l2, l0 or none."), Sets("budget.norm")
]
Targets = Annotated[
    str | None,
    typer.Option("--targets", help="How targets are drawn: disjoint, uniform or weighted."),
    Sets("protocol.targets targets"),
]
QueryModality = Annotated[
    str | None,
    typer.Option("--query-modality", help="image or text. (default: image)"),
    Sets("protocol.query_modality"),
]
Database = Annotated[
    str | None,
    typer.Option("--database", help="image, text or fused. (default: victim's)"),
    Sets("protocol.database database"),
]
QueryCount = Annotated[
    int | None,
    typer.Option("--queries", help="At most so many queries, drawn by the seed. (default: all)"),
    Sets("protocol.queries queries"),
]
StoreName = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Search it as it is served, e.g. pgvector-hnsw,m=16,ef_search=40; see `advhash list "
        "stores`. (default: exact)",
        autocompletion=complete_stores,
    ),
    Sets(""),  # `search_tables` does
]
Rescore = Annotated[
    list[str] | None,
    typer.Option(
        "--rescore",
        help="Order its candidates anew, e.g. float,multiplier=10; int8 and asymmetric likewise, "
        "one after the other.",
        autocompletion=complete_rescorers,
    ),
    Sets(""),
]
AllowSuperuser = Annotated[
    bool,
    typer.Option("--allow-superuser", help="The user of the store's dsn may be a superuser."),
    Sets(""),
]
OutFolder = Annotated[
    Path | None, typer.Option("--out", help="The run folder to write. (default: runs/<id>)")
]
OutFile = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="The run folder, or FILE.json for the document alone. (default: runs/<id>)",
    ),
]
Resume = Annotated[Path | None, typer.Option("--resume", help="Continue this interrupted run.")]
ExecutorName = Annotated[
    str, typer.Option("--executor", help="inline, local or dask:tcp://HOST:PORT.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Check everything, print the plan, train nothing.")
]
MatchThreshold = Annotated[
    int | None,
    typer.Option(
        "--threshold",
        help="Bits at which two pictures still count as one. (default: by false positives)",
    ),
    Sets("protocol.threshold"),
]
FloatPixels = Annotated[
    bool, typer.Option("--float", help="Do not round pixels to 8 bits (marked in the report).")
]
Every = Annotated[
    bool, typer.Option("--all", help="Print every figure, not only those to read first.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")]


def tables(settings: list[str] | None) -> dict[str, Any]:
    """`--set` assignments as nested tables."""
    from advhash.experiments.config_text import parse_assignment

    result: dict[str, Any] = {}
    for text in settings or []:
        keys, value = parse_assignment(text)
        if len(keys) < 2 and keys[0] in TABLES:
            raise ConfigError(f"--set: expected {keys[0]}.key=value, got {text!r}")
        table = result
        for key in keys[:-1]:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise ConfigError(f"--set {text}: {key!r} was set to a value before")
        table[keys[-1]] = value
    return result


def search_tables(
    store: str | None, rescore: list[str] | None, allow_superuser: bool
) -> dict[str, Any]:
    """The tables `store` and `rescore` of a config; empty where nothing was asked for.

    Raises ConfigError, UsageError.
    """
    from advhash.experiments.config_text import parse_listed

    if store is None and not rescore:
        if allow_superuser:
            raise UsageError("--allow-superuser goes with --store pgvector,dsn=postgresql://…")
        return {}
    table = parse_listed(store or "exact")
    if allow_superuser:
        table["allow_superuser"] = True
    return {"store": table, "rescore": [parse_listed(text) for text in rescore or []]}


def gather(
    config: Path | None, settings: list[str] | None, *options: dict[str, Any]
) -> dict[str, Any]:
    """Defaults < config file < options < --set; empty tables vanish."""
    from advhash.experiments.config_text import merge, read_toml

    given: dict[str, Any] = {}
    for part in options:
        given = merge(given, part)
    values = merge(read_toml(config) if config else {}, given)
    values = merge(values, tables(settings))
    return {key: value for key, value in values.items() if value != {}}


def checked(kind: type[Kind], values: dict[str, Any], *, trust_code: bool = False) -> Kind:
    """The config of these tables, refused for what can be seen without importing a method.

    Raises ConfigError, UnknownName, UsageError.
    """
    from advhash.experiments.methods import check_methods

    config = kind.build(values).trusting(trust_code)
    check_methods(config)
    return config


def new_file(out: Path | None) -> None:
    """Refuse, before any work, a file for `--out` that cannot be written. Raises UsageError."""
    if out is None:
        return
    if out.exists():
        raise UsageError(f"expected a new file for --out, got {out}, which exists")
    above = next(parent for parent in out.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UsageError(f"expected a file that can be written for --out, got {out}: see {above}")


@contextmanager
def _telling(quiet: bool) -> Iterator[None]:
    """What the package logs, as which reader takes a path, in lines on stderr, each once."""
    logger, known = logging.getLogger("advhash"), set[str]()

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            line = record.getMessage()
            if not quiet and line not in known:
                known.add(line)
                remark(line)

    lines, level = Lines(logging.INFO), logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(lines)
        logger.setLevel(level)


@contextmanager
def working(quiet: bool) -> Iterator[Progress]:
    """Progress on stderr."""
    from advhash.cli.console import progress_display
    from advhash.compute.progress import silent

    with _telling(quiet), nullcontext(silent) if quiet else progress_display() as progress:
        yield progress
