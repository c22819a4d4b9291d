"""From a config to a fitted attack: registry, budget, cache."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advhash.attacks.base import Attack, AttackData, frozen
from advhash.budget import Budget
from advhash.compute.progress import Progress, silent
from advhash.errors import UsageError
from advhash.experiments.config import AttackConfig
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained, cache_identity
from advhash.registry import ATTACKS
from advhash.storage.cache import cached, content_key
from advhash.storage.checkpoint import read_tensors, write_tensors
from advhash.storage.documents import read_json
from advhash.storage.files import sha256, write_json
from advhash.victims.base import HashVictim


@dataclass(frozen=True)
class FittedAttack:
    """An attack that is ready to run, its cache state and the seconds that fitting took."""

    attack: Attack
    settings: dict[str, Any]
    budget: Budget
    fingerprint: str = ""
    cached: bool = False
    seconds: float = 0.0
    history: list[dict[str, float | str]] = field(default_factory=list)


def fit_attack(
    config: AttackConfig, trained: Trained, data: AttackData, progress: Progress = silent
) -> FittedAttack:
    """Fit the attack, or take its fitted state from the cache (only costly ones are kept)."""
    name = config.attack.name
    settings = ATTACKS.settings(name, config.attack.settings)
    attack: Attack = ATTACKS.create(name, settings)
    budget = config.budget.resolve(attack.default_budget)
    seed = derive_seed(config.seed, "attack")
    victim, seen = attack.outlook(trained.victim, data)
    if not attack.trains:
        seconds = _fit(name, attack, victim, seen, budget, seed, progress)
        return FittedAttack(attack, settings, budget, seconds=seconds)
    identity = {
        **cache_identity(trained),
        "attack": name,
        "method": ATTACKS[name].digest,
        "settings": {
            key: value for key, value in settings.items() if key not in attack.settings_of_run
        },
        "seed": config.seed,
        "database": data.database,
        "modality": data.modality,
        "budget": repr(budget) if attack.fit_depends_on_budget else None,
    }
    ran = False

    def build(folder: Path) -> None:
        nonlocal ran
        ran = True
        seconds = _fit(name, attack, victim, seen, budget, seed, progress)
        write_tensors(folder / "state.safetensors", attack.state())
        write_json(folder / "fit.json", {"seconds": seconds, "history": attack.history})

    def read(folder: Path) -> FittedAttack:
        fit = read_json(folder / "fit.json")
        fitted: Attack = ATTACKS.create(name, settings)
        fitted.restore(victim, seen, read_tensors(folder / "state.safetensors"))
        fingerprint = sha256(folder / "state.safetensors")
        return FittedAttack(
            fitted, settings, budget, fingerprint, not ran, fit["seconds"], fit["history"]
        )

    return cached("attacks", content_key(identity), build, read)


def _fit(
    name: str,
    attack: Attack,
    victim: HashVictim,
    data: AttackData,
    budget: Budget,
    seed: int,
    progress: Progress,
) -> float:
    """The seconds that it took. The victim is left in the mode that it had.

    Raises UsageError where an attack of a package writes into the data or the codes.
    """
    foreign = bool(ATTACKS[name].digest)
    before = _contents(data) if foreign else ""
    start = time.perf_counter()
    with frozen(victim):
        attack.fit(victim, data, budget, seed=seed, progress=progress)
    seconds = time.perf_counter() - start
    if foreign and _contents(data) != before:
        raise UsageError(
            f"{type(attack).__name__}.fit writes into the data or the codes that it is given: "
            "expected them left as they are; copy what it changes"
        )
    return seconds


def _contents(data: AttackData) -> str:
    codes = hashlib.sha256(data.codes.words.tobytes())
    return f"{data.dataset.fingerprint()} {codes.hexdigest()}"
