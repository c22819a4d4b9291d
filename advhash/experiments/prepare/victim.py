"""From a config to a trained victim: registry, data, cache, checkpoint, sanity."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from advhash.codes.packed import HashCodes
from advhash.compute.processes import is_main_process
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset, TextKind
from advhash.data.load import is_path, load_dataset
from advhash.data.paths import reader_of
from advhash.errors import CheckpointError, UsageError, nearest
from advhash.experiments.config import AttackConfig, DatasetConfig, TrainConfig
from advhash.experiments.prepare.brought import bring, fingerprint as own_fingerprint
from advhash.experiments.prepare.code_key import code_version
from advhash.experiments.prepare.seeds import derive_seed, resolve_device
from advhash.experiments.prepare.served import keep_codes
from advhash.experiments.prepare.store import check_converged, fit_data, store_victim
from advhash.experiments.prepare.trained import Trained, deciding, fingerprint
from advhash.registry import DATASETS, ENCODER_PREFIXES, VICTIMS, is_external, is_zoo
from advhash.storage.cache import cache_root, cached, check, content_key
from advhash.storage.checkpoint import load_victim
from advhash.storage.model_card import Origin
from advhash.storage.places import checkpoint_folder, user_path
from advhash.victims.base import HashVictim
from advhash.victims.external import (
    ExternalVictim,
    import_function,
    reads_of,
    stated_modality,
    stated_size,
)
from advhash.victims.training.acceleration import dismiss, lead, led, precision
from advhash.victims.training.state import TrainingState

_HUB = re.compile(r"\w[\w.-]*/[\w.-]+")  # what an id of the hub looks like
SET_BY = {"text": "text", "text_size": "text", "parties": "parties"}  # of a victim → of its data


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
            hint = f"; set dataset.{SET_BY[name]}" if name in SET_BY else ""
            raise UsageError(
                f"victim.{name} follows from the data {data.name!r}: expected {value!r}, got "
                f"{given[name]!r}{hint}"
            )
    return {**arguments, **given}


def load_data(config: DatasetConfig, victim: type[HashVictim] | HashVictim) -> Dataset:
    """The configured data set, at a path what the victim reads; without a name, its default one."""
    return load_dataset(config.name or victim.default_dataset, config.settings, reads=victim.reads)


def expect_sizes(victim: type[HashVictim] | HashVictim, data: Dataset, name: str) -> None:
    """Raise DataError: pictures of several sizes for a victim that takes one."""
    if not victim.any_size:
        data.expect_one_size(name)


def check_place(config: DatasetConfig, victim: HashVictim) -> None:
    """Raise DataError where a victim does not read what lies at the path of a data set.

    For a victim that sees the data of another one, whose reader may take what it cannot learn from.
    """
    if config.name and is_path(config.name):
        reader_of(user_path(config.name).resolve(), victim.reads)


def sized(
    config: DatasetConfig, victim: type[HashVictim] | HashVictim, side: object
) -> DatasetConfig:
    """The data set at the size that a victim states, where the config asks for none."""
    name = config.name or victim.default_dataset
    if not isinstance(side, int) or "size" in config.settings:
        return config
    if is_path(name):
        name = reader_of(user_path(name).resolve(), victim.reads).reader
    if name in DATASETS and "size" in DATASETS[name].model.model_fields:
        return DatasetConfig.build({"name": config.name, **config.settings, "size": side})
    return config


def worded(
    config: DatasetConfig, victim: type[HashVictim] | HashVictim, kind: TextKind | None
) -> DatasetConfig:
    """The data set with its texts as a victim reads them, where the config asks for none.

    A victim that reads texts as they are and has no data set gets one with texts.
    """
    if kind is None or "text" in config.settings:
        return config
    name = config.name or victim.default_texts
    reader = reader_of(user_path(name).resolve(), victim.reads).reader if is_path(name) else name
    takes = reader in DATASETS and "text" in DATASETS[reader].model.model_fields
    more = {"text": kind} if takes else {}
    return DatasetConfig.build({"name": name, **config.settings, **more})


def is_checkpoint(name: str) -> bool:
    """Whether `--victim` names a folder, a file or one in the zoo, not a registered victim."""
    return VICTIMS.is_place(name)


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
    asked = config.dataset
    if asked.name and is_path(asked.name):
        side = build.picture_side(config.victim.settings)  # type: ignore[attr-defined]
        asked = sized(asked, build, side)  # type: ignore[arg-type]
    kind = build.text_kind(config.victim.settings)  # type: ignore[attr-defined]
    asked = worded(asked, build, kind)  # type: ignore[arg-type]
    data = load_data(asked, build)  # type: ignore[arg-type]
    expect_sizes(build, data, name)  # type: ignore[arg-type]
    arguments = build.data_arguments(data)  # type: ignore[attr-defined]
    settings = VICTIMS.settings(name, data_settings(data, arguments, config.victim.settings))
    settings = {**settings, **build.source_arguments(settings)}  # type: ignore[attr-defined]
    data = build.view(data, settings)  # type: ignore[attr-defined]
    key = content_key(
        {
            "victim": name,
            "method": VICTIMS[name].digest,
            **deciding(name, settings),
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
    made: dict[str, HashCodes] = {}

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
        codes = store_victim(
            folder,
            victim,
            data,
            name=name,
            settings=settings,
            seed=config.victim_seed,
            state=state,
            seconds=state.spent + time.perf_counter() - start,
        )
        made.update(codes)

    def read(folder: Path) -> tuple[Path, HashVictim, dict[str, Any]]:
        return folder, *load_victim(folder, foreign=False)

    if is_main_process():
        folder, victim, card = cached("victims", key, build, read)
        dismiss(device)
        state.discard()
    else:
        while led(device):
            fitted()
        check(cache_root() / "victims" / key)
        folder, victim, card = read(cache_root() / "victims" / key)
    given = config.victim.settings
    fixed = {"name", *victim.data_arguments(data)} - set(given) | victim.from_files
    kept = {key: value for key, value in settings.items() if key not in fixed}
    trained = Trained(
        victim.to(device),
        data,
        name,
        kept,
        card,
        folder,
        fingerprint(folder, victim, card),
        _origin(victim, ran=ran),
        time.perf_counter() - start,
        config.victim.seed,
    )
    keep_codes(trained, made)
    return trained


def _origin(victim: HashVictim, *, ran: bool) -> Origin:
    """Where a registered victim comes from; a perceptual hash has nothing to learn."""
    if not victim.learns:
        return "computed"
    return "trained" if ran else "cache"


def _check_trust(config: TrainConfig | AttackConfig) -> None:
    """Raise UsageError before code of the user is imported without their word."""
    name = config.victim.name
    if not config.trust_code:
        module = name.partition(":")[0]
        raise UsageError(
            f"--victim {name} runs the code of {module!r}: "
            f"{nearest(module.lower(), ENCODER_PREFIXES)}"
            "expected --trust-code as well, if you trust it"
        )
    if config.victim.settings:
        raise UsageError(
            f"--victim {name} brings its settings: expected none, got "
            f"{', '.join(config.victim.settings)}"
        )


def _brought(config: TrainConfig | AttackConfig, device: torch.device, start: float) -> Trained:
    name = config.victim.name
    function = import_function(name)
    asked = sized(config.dataset, ExternalVictim, stated_size(function))
    kind: TextKind | None = "characters" if stated_modality(function) == "text" else None
    asked = worded(asked, ExternalVictim, kind)
    place = asked.name or ExternalVictim.default_dataset
    data = load_dataset(place, asked.settings, reads=reads_of(function))
    expect_sizes(ExternalVictim, data, name)
    bootstrap = derive_seed(config.seed, "bootstrap")
    victim, card, served = bring(name, data, device, seed=config.seed, bootstrap_seed=bootstrap)
    seconds = time.perf_counter() - start
    mark = own_fingerprint(name, served)
    trained = Trained(victim, data, name, {}, card, None, mark, "brought", seconds)
    keep_codes(trained, served)
    return trained


def _from_checkpoint(
    config: TrainConfig | AttackConfig, device: torch.device, start: float
) -> Trained:
    folder = checkpoint_folder(config.victim.name)
    if not folder.exists() and _HUB.fullmatch(config.victim.name):
        raise CheckpointError(
            f"expected a checkpoint folder, got {folder}: no such folder; a model of transformers "
            f"is --victim hf:{folder}"
        )
    victim, card = load_victim(folder)
    if config.victim.settings:
        raise UsageError(
            f"a checkpoint brings its settings: expected none, got "
            f"{', '.join(config.victim.settings)}; train a new victim to change them"
        )
    stored = card.get("data")
    if config.dataset.name is not None or not isinstance(stored, dict):
        known = stored.get("settings") if isinstance(stored, dict) else None
        side = (known or {}).get("size") or card["settings"].get("image_size")
        kind = victim.text_kind(card["settings"])
        data = load_data(worded(sized(config.dataset, victim, side), victim, kind), victim)
    else:
        settings = {**(stored.get("settings") or {}), **config.dataset.settings}
        data = load_dataset(str(stored.get("name")), settings)
    expect_sizes(victim, data, str(card["name"]))
    data = fit_data(folder, victim, card, data)
    return Trained(
        victim.to(device),
        data,
        config.victim.name if is_zoo(config.victim.name) else str(folder.resolve()),
        {},
        card,
        folder,
        fingerprint(folder, victim, card),
        "checkpoint",
        time.perf_counter() - start,
    )
