"""From a config to a trained victim: registry, data, cache, checkpoint, sanity."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch

from advhash.cache import cache_root, cached, content_key
from advhash.checkpoint import (
    CARD,
    WEIGHTS,
    load_victim,
    read_card,
    save_victim,
)
from advhash.config import AttackConfig, DatasetConfig, TrainConfig, VictimConfig
from advhash.data import Dataset, Progress, SplitName, silent
from advhash.datasets import load_dataset
from advhash.errors import RefusedError, RunError, UsageError
from advhash.files import sha256, storage_errors, write_text
from advhash.model_card import PAGE, model_card
from advhash.own_victim import bring
from advhash.own_victim import fingerprint as own_fingerprint
from advhash.processes import is_main_process, local_process, process_count
from advhash.registry import DEFENSES, VICTIMS
from advhash.reports.victim import code_figures, victim_flags, victim_metrics
from advhash.runs import environment
from advhash.sanity import Flag
from advhash.victims.acceleration import asked_precision, dismiss, lead, led, precision
from advhash.victims.base import HashVictim
from advhash.victims.external import ExternalVictim, is_external
from advhash.victims.training_state import TrainingState

__all__ = [
    "Trained",
    "cache_identity",
    "code_version",
    "data_settings",
    "derive_seed",
    "export_checkpoint",
    "fingerprint",
    "fit_data",
    "is_checkpoint",
    "is_trained",
    "load_data",
    "plan_victim",
    "resolve_device",
    "same_code",
    "store_victim",
    "train",
    "train_document",
]


def derive_seed(seed: int, purpose: str) -> int:
    """A seed of its own for each purpose, so that adding one draw changes no other."""
    words = np.random.SeedSequence([seed, crc32(purpose.encode())]).generate_state(2, np.uint32)
    return int(words[0]) << 31 | int(words[1]) >> 1


def resolve_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one; under torchrun, each process has its own.

    Raises UsageError: unknown, absent, or not enough for the processes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    index, processes = local_process()
    if processes > 1 and name.startswith("cuda"):
        if name != "cuda" or processes > torch.cuda.device_count():
            raise UsageError(
                f"--device: expected auto, cpu or cuda and a GPU for each of the {processes} "
                f"processes of torchrun, got {name!r} and {torch.cuda.device_count()} GPUs"
            )
        name = f"cuda:{index}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UsageError(f"--device: expected auto, cpu or a present GPU, got {name!r}") from None
    return device


_SPLITS: tuple[SplitName, ...] = ("train", "database", "validation", "query")
_NOTES = ("source", "licence", "attribution")  # of a data set's card, kept in the victim's
_SHOWING = {  # decides over no cached result: folder → files
    "advhash": {
        *("cli.py", "cli_codes.py", "cli_detect.py", "cli_lifelong.py", "cli_options.py"),
        *(
            "cli_transfer.py",
            "transfer_members.py",
            "transferring.py",
            "cli_defend.py",
            "defending.py",
        ),
        *("cli_compare.py", "comparing.py", "cli_benchmark.py", "benchmarking.py", "suites.py"),
        *("suite_cell.py", "suite_record.py", "costs.py", "cli_certify.py", "certifying.py"),
        *("api.py", "results.py", "__init__.py", "asking.py", "in_memory.py"),
        *("cli_encode.py", "encoding_run.py", "encoding_coders.py"),
        *("encoding_detection.py", "phase_run.py"),
        *("cli_search.py", "searching.py", "search_winner.py"),
        *("budgets.py", "console.py", "doctor.py", "lifelong_run.py", "hierarchical.py"),
    },
    "reports": {
        *("html.py", "kinds.py", "chapters.py", "formats.py", "standings.py", "attack_runs.py"),
        *("plots.py", "pictures.py", "verdict.py", "lifelong.py", "lifelong_figures.py"),
        "lifelong_curves.py",
        *("transfer.py", "encoding.py", "phase.py", "search.py", "search_figures.py"),
        *("benchmark.py", "leaderboard.py", "vfl.py", "detection.py", "certificates.py"),
    },
}


@cache
def code_version() -> str:
    """Digest of all sources that can decide over a cached result, and of torch's and timm's."""
    digest = hashlib.sha256(f"torch {torch.__version__} timm {version('timm')}".encode())
    for package in ("", ".victims", ".attacks", ".defenses", ".reports"):
        folder = Path(str(import_module(f"advhash{package}").__file__)).parent
        for file in sorted(folder.glob("*.py")):
            if file.name not in _SHOWING.get(package.removeprefix(".") or "advhash", ()):
                digest.update(file.read_bytes())
    return digest.hexdigest()


def same_code() -> dict[str, str]:
    """What the workers of a cluster must have in common with who asks them; see `run_tasks`."""
    return {"code": code_version(), "precision": asked_precision()}


def data_settings(
    data: Dataset, arguments: Mapping[str, object], given: Mapping[str, object]
) -> dict[str, object]:
    """The settings of a victim: those that follow from the data, and the given ones.

    Raises UsageError: a given one contradicts the data. `increments` is a choice.
    """
    for name, value in arguments.items():
        if name == "increments" or name not in given:
            continue
        if json.dumps(given[name]) != json.dumps(value):  # a tuple is a list in a file
            hint = "; set dataset.text" if name in ("text", "text_size") else ""
            raise UsageError(
                f"victim.{name} follows from the data {data.name!r}: expected {value!r}, got "
                f"{given[name]!r}{hint}"
            )
    return {**arguments, **given}


def load_data(config: DatasetConfig, default: str) -> Dataset:
    """The configured data set; without a name, the victim's default one."""
    return load_dataset(config.name or default, config.settings)


@dataclass(frozen=True, repr=False)
class Trained:
    """A victim, its data, and where its checkpoint lies: None for a function of the user."""

    victim: HashVictim
    data: Dataset
    name: str
    settings: dict[str, Any]
    card: dict[str, Any]
    folder: Path | None
    fingerprint: str
    cached: bool
    seconds: float
    seed: int | None = None  # where the victim has one of its own

    def __repr__(self) -> str:
        defenses = "".join(f" + {one['name']}" for one in self.defenses)
        return f"<{self.card['name']}{defenses}, {self.victim.bits} bits, on {self.data.name}>"

    @property
    def replay(self) -> VictimConfig:
        """The `[victim]` table that gets this victim again."""
        return VictimConfig.build({"name": self.name, "seed": self.seed, **self.settings})

    @property
    def deviations(self) -> list[str]:
        """Where the victim and its defences differ from their sources."""
        applied = [DEFENSES[one["name"]] for one in self.defenses]
        entries = [VICTIMS[self.card["name"]], *applied] if self.folder else applied
        return [text for entry in entries for text in entry.deviations]

    @property
    def defenses(self) -> list[dict[str, Any]]:
        """What it was hardened with: names, settings, budgets."""
        return list(self.card.get("defenses", []))

    @property
    def method_digest(self) -> str:
        """Of the file that a package brings the victim in, see `Entry.digest`."""
        return VICTIMS[self.card["name"]].digest if self.folder else ""


def is_checkpoint(name: str) -> bool:
    """Whether `--victim` names a folder or file rather than a registered victim."""
    known = {entry.name for entry in VICTIMS}
    return name not in known and ("/" in name or "\\" in name or Path(name).exists())


def plan_victim(config: TrainConfig | AttackConfig) -> tuple[Dataset, dict[str, Any], str] | None:
    """Data, full settings and cache key of a registered victim; None for one that comes trained.

    Raises UsageError: a function of the user without `--trust-code`.
    """
    name = config.victim.name
    if is_external(name):
        _check_trust(config)
        return None
    if is_checkpoint(name):
        return None
    build = VICTIMS[name].build
    VICTIMS[name].check_names("victim", config.victim.settings)
    data = load_data(config.dataset, build.default_dataset)  # type: ignore[attr-defined]
    arguments = build.data_arguments(data)  # type: ignore[attr-defined]
    settings = VICTIMS.settings(name, data_settings(data, arguments, config.victim.settings))
    data = build.view(data, settings)  # type: ignore[attr-defined]
    key = content_key(
        {
            "victim": name,
            "method": VICTIMS[name].digest,
            "settings": settings,
            "data": data.fingerprint(),
            "seed": config.victim_seed,
            "device": resolve_device(config.device).type,
            "precision": precision(resolve_device(config.device)),
            "code": code_version(),
        }
    )
    return data, settings, key


def is_trained(config: TrainConfig | AttackConfig) -> bool:
    """Whether the victim, before any defence, comes trained or lies in the cache."""
    planned = plan_victim(config)
    return planned is None or (cache_root() / "victims" / planned[2]).is_dir()


def train(config: TrainConfig | AttackConfig, progress: Progress = silent) -> Trained:
    """The victim that the config names: brought, from a checkpoint, from the cache, or trained."""
    device = resolve_device(config.device)
    start = time.perf_counter()
    planned = plan_victim(config)
    if planned is None and config.victim.seed is not None and config.defense is None:
        raise UsageError(
            f"victim.seed trains a victim: expected none for {config.victim.name}, which comes "
            "trained"
        )
    if planned is None:
        external = is_external(config.victim.name)
        return (_brought if external else _from_checkpoint)(config, device, start)
    data, settings, key = planned
    name = config.victim.name
    state = TrainingState(cache_root() / "training" / key)
    ran = False

    def fitted() -> HashVictim:
        nonlocal ran
        ran = True
        seed = derive_seed(config.victim_seed, "victim")
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            victim: HashVictim = VICTIMS.create(name, settings).to(device)
        victim.training_state = state
        try:
            victim.fit(data, seed=seed, progress=progress)
        except KeyboardInterrupt as error:
            if state.saved:
                error.add_note(f"the same command goes on after {state.saved}")
            raise
        victim.eval()
        check_converged(name, victim)
        return victim

    def build(folder: Path) -> None:
        lead(device)
        victim = fitted()
        store_victim(
            folder,
            victim,
            data,
            name=name,
            settings=settings,
            seed=config.victim_seed,
            state=state,
            seconds=state.spent + time.perf_counter() - start,
        )

    def read(folder: Path) -> tuple[Path, HashVictim, dict[str, Any]]:
        return folder, *load_victim(folder)

    if is_main_process():
        folder, victim, card = cached("victims", key, build, read)
        dismiss(device)
        state.discard()
    else:
        while led(device):
            fitted()
        folder, victim, card = read(cache_root() / "victims" / key)
    given = config.victim.settings
    fixed = {"name", *victim.data_arguments(data)} - set(given)
    kept = {key: value for key, value in settings.items() if key not in fixed}
    return Trained(
        victim.to(device),
        data,
        name,
        kept,
        card,
        folder,
        fingerprint(folder, victim, card),
        not ran,
        time.perf_counter() - start,
        config.victim.seed,
    )


def store_victim(
    folder: Path,
    victim: HashVictim,
    data: Dataset,
    *,
    name: str,
    settings: Mapping[str, Any],
    seed: int,
    state: TrainingState,
    seconds: float,
    **more: Any,
) -> None:
    """Weights, card and page of a finished training. Further keywords go into the card."""
    flags = victim_flags(victim, data)
    if state.problem:
        flags = [*flags, Flag("training_state", "info", state.problem)]
    served = {name: victim.database_codes(data, name) for name in victim.directions}
    metrics = victim_metrics(victim, data, served, derive_seed(seed, "bootstrap"))
    save_victim(
        folder,
        victim,
        name=name,
        settings=settings,
        source=VICTIMS[name].source,
        seed=seed,
        data={
            "name": data.name,
            "settings": dict(data.settings),
            "fingerprint": data.fingerprint(),
            "rows": {name: len(data.split(name)) for name in _SPLITS},
            **{key: data.card[key] for key in _NOTES if key in data.card},
        },
        codes={name: code_figures(codes) for name, codes in served.items()},
        metrics={name: vars(metric) for name, metric in metrics.items()},
        flags=[vars(flag) for flag in flags],
        seconds=round(seconds, 2),
        processes=process_count(),
        precision=precision(victim.device),
        environment=environment(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        **more,
    )
    write_text(folder / PAGE, model_card(read_card(folder)))


def _check_data(folder: Path, card: dict[str, Any], data: Dataset) -> None:
    """Other splits of the victim's own data would put training rows among the queries."""
    stored = card.get("data")
    known = stored if isinstance(stored, dict) else {}
    if known.get("fingerprint") == data.fingerprint():
        return
    if known.get("name") == data.name:
        raise UsageError(
            f"checkpoint {folder} was trained on {data.name} with settings "
            f"{known.get('settings')}: other ones would put training rows among the queries; "
            "train a new victim, or attack it on another data set"
        )
    flag = Flag(
        "foreign_data",
        "warning",
        f"The victim was trained on {known.get('name', 'unknown data')}, not on {data.name}: "
        "the database is hashed anew, and whether training rows are among the queries is unknown.",
    )
    card["flags"] = [vars(flag)]


def fit_data(folder: Path, victim: HashVictim, card: dict[str, Any], data: Dataset) -> Dataset:
    """The data as a stored victim sees them; foreign ones are flagged in its card.

    Raises UsageError: other splits of the victim's own data, or data of another shape.
    """
    data = victim.view(data, card["settings"])
    _check_data(folder, card, data)
    expected = victim.data_arguments(data)
    card_settings = {key: card["settings"].get(key) for key in expected}
    shapes = {
        key: value
        for key, value in expected.items()
        if isinstance(value, int | str) and key != "database_rows" and card_settings[key] != value
    }
    if shapes:
        key, value = next(iter(shapes.items()))
        raise UsageError(
            f"data set {data.name!r} does not fit checkpoint {folder}: expected {key} "
            f"{card_settings[key]}, got {value}"
        )
    return data


def check_converged(name: str, victim: HashVictim) -> None:
    """Raise RefusedError where the training left numbers that are none."""
    figures = [value for row in victim.history for value in row.values() if value != value]
    weights = all(bool(value.isfinite().all()) for value in victim.parameters())
    if figures or not weights:
        raise RefusedError(
            f"the training of {name} diverged (NaN): expected finite losses and weights; "
            "lower victim.learning_rate"
        )


def _fingerprint(folder: Path, victim: HashVictim, card: dict[str, Any]) -> str:
    """SHA-256 of the weights; where there are none, of name and settings, which then decide."""
    if victim.state_dict():
        return sha256(folder / WEIGHTS)
    settings = json.dumps(card["settings"], sort_keys=True)
    return hashlib.sha256(f"{card['name']} {settings}".encode()).hexdigest()


def fingerprint(folder: Path, victim: HashVictim, card: dict[str, Any]) -> str:
    """SHA-256 of the weights and of the defences around them."""
    found = _fingerprint(folder, victim, card)
    defenses = card.get("defenses")
    if not defenses:
        return found
    return hashlib.sha256(f"{found} {json.dumps(defenses, sort_keys=True)}".encode()).hexdigest()


def _check_trust(config: TrainConfig | AttackConfig) -> None:
    """Raise UsageError before code of the user is imported without their word."""
    name = config.victim.name
    if not config.trust_code:
        raise UsageError(
            f"--victim {name} runs the code of {name.partition(':')[0]!r}: expected --trust-code "
            "as well, if you trust it"
        )
    if config.victim.settings:
        raise UsageError(
            f"--victim {name} brings its settings: expected none, got "
            f"{', '.join(config.victim.settings)}"
        )


def _brought(config: TrainConfig | AttackConfig, device: torch.device, start: float) -> Trained:
    name = config.victim.name
    data = load_data(config.dataset, ExternalVictim.default_dataset)
    bootstrap = derive_seed(config.seed, "bootstrap")
    victim, card = bring(name, data, device, seed=config.seed, bootstrap_seed=bootstrap)
    seconds = time.perf_counter() - start
    return Trained(
        victim, data, name, {}, card, None, own_fingerprint(victim, name, data), False, seconds
    )


def _from_checkpoint(
    config: TrainConfig | AttackConfig, device: torch.device, start: float
) -> Trained:
    folder = Path(config.victim.name).expanduser()
    victim, card = load_victim(folder)
    if config.victim.settings:
        raise UsageError(
            f"a checkpoint brings its settings: expected none, got "
            f"{', '.join(config.victim.settings)}; train a new victim to change them"
        )
    stored = card.get("data")
    if config.dataset.name is not None or not isinstance(stored, dict):
        data = load_data(config.dataset, victim.default_dataset)
    else:
        settings = {**(stored.get("settings") or {}), **config.dataset.settings}
        data = load_dataset(str(stored.get("name")), settings)
    data = fit_data(folder, victim, card, data)
    return Trained(
        victim.to(device),
        data,
        str(folder.resolve()),
        {},
        card,
        folder,
        fingerprint(folder, victim, card),
        True,
        time.perf_counter() - start,
    )


def train_document(trained: Trained) -> dict[str, Any]:
    """What `advhash train --json` prints."""
    card = trained.card
    return {
        "schema": "advhash/train/1",
        "command": "train",
        "checkpoint": str(trained.folder) if trained.folder else None,
        "fingerprint": trained.fingerprint,
        "victim": {"name": card["name"], "settings": card["settings"]},
        "defenses": trained.defenses,
        "dataset": card.get("data"),
        "cached": trained.cached,
        "seconds": card.get("seconds"),
        "flags": card.get("flags", []),
        "metrics": card.get("metrics", {}),
        "codes": card.get("codes", {}),
    }


def export_checkpoint(trained: Trained, out: Path) -> Path:
    """Copy weights, card and page to a new folder, whole or not at all.

    Raises RunError, StorageError; UsageError for a function of the user, which has no weights.
    """
    if trained.folder is None:
        raise UsageError(f"--out: {trained.name} has no checkpoint to copy; name it again instead")
    if out.exists():
        raise RunError(f"expected a new folder for --out, got {out}, which exists")
    partial = out.with_name(out.name + ".partial")
    with storage_errors(out):
        try:
            partial.mkdir(parents=True)
            for name in (WEIGHTS, CARD, PAGE):
                if name != PAGE or (trained.folder / PAGE).is_file():  # older ones have no page
                    shutil.copyfile(trained.folder / name, partial / name)
            partial.rename(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return out


def cache_identity(trained: Trained) -> dict[str, object]:
    """What names victim, data and code in the keys of cached attack results."""
    return {
        "victim": trained.fingerprint,
        "method": trained.method_digest,
        "data": trained.data.fingerprint(),
        "code": code_version(),
        "device": trained.victim.device.type,
    }
