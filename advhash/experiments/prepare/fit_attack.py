"""From a config to a fitted attack: registry, budget, cache."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advhash.attacks.base import Attack, AttackData
from advhash.budget import Budget
from advhash.compute.progress import Progress, silent
from advhash.experiments.config import AttackConfig
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained, cache_identity
from advhash.registry import ATTACKS
from advhash.storage.cache import cached, content_key
from advhash.storage.checkpoint import read_tensors, write_tensors
from advhash.storage.files import sha256, write_json


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
        start = time.perf_counter()
        attack.fit(victim, seen, budget, seed=seed, progress=progress)
        seconds = time.perf_counter() - start
        return FittedAttack(attack, settings, budget, seconds=seconds)
    identity = {
        **cache_identity(trained),
        "attack": name,
        "method": ATTACKS[name].digest,
        "settings": settings,
        "seed": config.seed,
        "database": data.database,
        "modality": data.modality,
        "budget": repr(budget) if attack.fit_depends_on_budget else None,
    }
    ran = False

    def build(folder: Path) -> None:
        nonlocal ran
        ran = True
        start = time.perf_counter()
        attack.fit(victim, seen, budget, seed=seed, progress=progress)
        seconds = time.perf_counter() - start
        write_tensors(folder / "state.safetensors", attack.state())
        write_json(folder / "fit.json", {"seconds": seconds, "history": attack.history})

    def read(folder: Path) -> FittedAttack:
        fit = json.loads((folder / "fit.json").read_text("utf-8"))
        fitted: Attack = ATTACKS.create(name, settings)
        fitted.restore(victim, seen, read_tensors(folder / "state.safetensors"))
        fingerprint = sha256(folder / "state.safetensors")
        return FittedAttack(
            fitted, settings, budget, fingerprint, not ran, fit["seconds"], fit["history"]
        )

    return cached("attacks", content_key(identity), build, read)
