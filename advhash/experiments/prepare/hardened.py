"""From a config to a victim, hardened where the config names a defence: cached like any other."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from advhash.attacks.base import AttackData
from advhash.budget import Budget
from advhash.codes.packed import HashCodes
from advhash.compute.processes import process_count
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset
from advhash.defenses.base import Hardening, Wrapping
from advhash.errors import UsageError
from advhash.experiments.config import AttackConfig, TrainConfig
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.served import keep_codes
from advhash.experiments.prepare.store import check_converged, store_victim
from advhash.experiments.prepare.trained import Trained, cache_identity, fingerprint
from advhash.experiments.prepare.victim import plan_victim, train
from advhash.registry import DEFENSES, VICTIMS, is_external
from advhash.storage.cache import cache_root, cached, content_key
from advhash.storage.checkpoint import load_victim
from advhash.victims.base import HashVictim
from advhash.victims.networks.pretrained import without_weights
from advhash.victims.training.acceleration import precision
from advhash.victims.training.phase import resume
from advhash.victims.training.state import TrainingState

DEFAULT = Budget("linf", 8 / 255)


@dataclass(frozen=True)
class Foreseen:
    """A victim as far as it is known before any training.

    victim:   behind its defence where that trains nothing
    settings: all of a registered victim, else None: it comes trained
    ready:    the victim that comes trained, loaded, before its defence
    """

    victim: HashVictim
    data: Dataset
    settings: dict[str, Any] | None
    ready: Trained | None


def prepare(
    config: TrainConfig | AttackConfig,
    progress: Progress = silent,
    foreseen: Foreseen | None = None,
) -> Trained:
    """The victim that the config names, trained, and hardened where it names a defence too.

    foreseen: where it was foreseen before

    Raises AdvhashError.
    """
    _check_defense(config)
    if foreseen is None and config.defense is not None:
        foreseen = foresee(config)  # what is refused must not cost a training
    ready = None if foreseen is None else foreseen.ready
    trained = ready or train(config, progress)
    return trained if config.defense is None else _hardened(config, trained, progress)


def foresee(config: TrainConfig | AttackConfig) -> Foreseen:
    """The victim before any training, to be checked.

    Raises AdvhashError, also for a defence that cannot harden it.
    """
    _check_defense(config)
    planned, ready = plan_victim(config), None
    if planned is None:
        ready = train(config)
        victim, data, settings = ready.victim, ready.data, None
    else:
        data, settings, _ = planned
        with without_weights():
            victim = VICTIMS.create(config.victim.name, settings)
    if config.defense is not None:
        defense: Hardening = DEFENSES.create(config.defense.name, config.defense.settings)
        defense.check(victim)
        if isinstance(defense, Wrapping):
            victim = defense.wrap(victim)
    return Foreseen(victim, data, settings, ready)


def _check_defense(config: TrainConfig | AttackConfig) -> None:
    """Refuse what can be seen from the config alone. Raises AdvhashError."""
    if config.defense is None:
        if config.defense_budget.norm is not None or config.defense_budget.eps is not None:
            raise UsageError("defense_budget is what a defence is trained against: name a defence")
        return
    defense: Hardening = DEFENSES.create(config.defense.name, config.defense.settings)
    budget = _budget(config)
    if defense.takes_budget and budget.norm not in ("linf", "l2"):
        raise UsageError(f"defense_budget: expected linf or l2 with a radius, got {budget}")
    if is_external(config.victim.name):
        raise UsageError(
            "--defense: expected a registered victim or a checkpoint, got "
            f"{config.victim.name}, whose weights are not ours to keep"
        )
    if process_count() > 1:
        raise UsageError("torchrun shares out plain training only: harden in one process")


def _budget(config: TrainConfig | AttackConfig) -> Budget:
    return config.defense_budget.resolve(DEFAULT)


def _hardened(config: TrainConfig | AttackConfig, trained: Trained, progress: Progress) -> Trained:
    assert config.defense is not None
    name = config.defense.name
    settings = DEFENSES.settings(name, config.defense.settings)
    defense: Hardening = DEFENSES.create(name, settings)
    budget = _budget(config)
    applied = {
        "name": name,
        "settings": settings,
        "source": DEFENSES[name].source,
        "budget": str(budget) if defense.takes_budget else None,
        "seed": None if isinstance(defense, Wrapping) else config.victim_seed,
    }
    key = content_key(
        {
            **cache_identity(trained),
            "precision": precision(trained.victim.device),
            "defense": applied,
            "budget": repr(budget) if defense.takes_budget else None,  # in full, not as shown
            "digest": DEFENSES[name].digest,
        }
    )
    state = TrainingState(cache_root() / "training" / key)
    start = time.perf_counter()
    ran = False
    made: dict[str, HashCodes] = {}

    def build(folder: Path) -> None:
        nonlocal ran
        ran = True
        victim = _harden(defense, trained, budget, config.victim_seed, state, progress)
        check_converged(f"{trained.card['name']} with {name}", victim)
        codes = store_victim(
            folder,
            victim,
            trained.data,
            name=trained.card["name"],
            settings=trained.card["settings"],
            seed=config.victim_seed,
            state=state,
            seconds=state.spent + time.perf_counter() - start,
            defenses=[*trained.defenses, applied],
            undefended={part: trained.card.get(part) for part in ("metrics", "codes", "seconds")},
        )
        made.update(codes)

    def read(folder: Path) -> tuple[Path, HashVictim, dict[str, Any]]:
        return folder, *load_victim(folder, foreign=False)

    folder, victim, card = cached("victims", key, build, read)
    state.discard()
    hardened = Trained(
        victim.to(trained.victim.device),
        trained.data,
        trained.name,
        trained.settings,
        card,
        folder,
        fingerprint(folder, victim, card),
        trained.origin if isinstance(defense, Wrapping) else "trained" if ran else "cache",
        time.perf_counter() - start,
        trained.seed,
    )
    keep_codes(hardened, made)
    return hardened


def _harden(
    defense: Hardening,
    trained: Trained,
    budget: Budget,
    seed: int,
    state: TrainingState,
    progress: Progress,
) -> HashVictim:
    """One modality after the other: images, or all parties of a federation."""
    victim, data = trained.victim, trained.data
    seed = derive_seed(seed, "defense")
    if isinstance(defense, Wrapping):
        return defense.wrap(victim)
    defense.check(victim)
    modalities = [modality for modality in victim.bounds if victim.is_image(modality)]
    victim = copy.deepcopy(victim)  # the state loads its weights into it
    victim.training_state = state
    first = resume(victim, [f"harden {modality}" for modality in modalities])
    for number, modality in enumerate(modalities):
        if number < first:
            continue
        database = victim.default_database
        if database.startswith("party"):
            database = modality
        seen = AttackData(data, victim.database_codes(data, database), database, modality)
        with torch.random.fork_rng(devices=[]):
            victim = defense.harden(victim, seen, budget, seed=seed + number, progress=progress)
    return victim
