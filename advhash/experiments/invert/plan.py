"""What a reconstruction run is, before anything is trained: what is refused, and the plan."""

from __future__ import annotations

from typing import Any

import numpy as np

from advhash.attacks.inversion.code_inversion import TABLES
from advhash.data.dataset import Dataset, Split
from advhash.errors import ConfigError, UsageError
from advhash.experiments.config import AttackConfig, DatasetConfig, MethodConfig
from advhash.experiments.invert.parts import sweep_pairs
from advhash.experiments.prepare.trained import Trained
from advhash.experiments.prepare.victim import plan_victim, train
from advhash.registry import INVERSIONS, VICTIMS
from advhash.storage.cache import cache_root
from advhash.victims.base import HashVictim
from advhash.victims.federated.hashvfl import HashVFL

__all__ = [
    "SAMPLES",
    "auxiliary_rows",
    "check_before_training",
    "inversion_plan",
    "is_inversion_method",
    "resolve_inversion",
]

SAMPLES = 400  # attacked inputs at most, unless --queries says otherwise


def is_inversion_method(name: str | None) -> bool:
    """Whether `--method` names a reconstruction."""
    return name in {entry.name for entry in INVERSIONS}


def check_inversion(
    config: AttackConfig, name: str, victim: HashVictim, data: Dataset, own: dict[str, Any]
) -> str:
    """The attacked party of a victim, trained or not, whose settings are `own`.

    Raises UsageError: not a federation, the undefended one, no such party, a budget, no auxiliary
    rows, no attacker of tables, a sweep over victims that cannot be.
    """
    method = config.attack.name
    if not isinstance(victim, HashVFL):
        raise UsageError(
            f"{method} reconstructs what parties of a federation hold: expected --victim hashvfl, "
            f"got {name}"
        )
    if not victim.binary:
        raise UsageError(
            f"{method} needs a victim that hashes: expected victim.protection hash or laplace, got "
            "none (its undefended twin is trained along)"
        )
    if config.budget.norm is not None or config.budget.eps is not None:
        raise UsageError(f"{method} moves no input: expected no --norm and no --eps")
    party = victim.query_modality(config.protocol.query_modality)
    victim.check_modality(party)
    settings = INVERSIONS.settings(method, config.attack.settings)
    auxiliary_rows(data, settings["auxiliary"])
    if not victim.is_image(party) and set(settings["attackers"]) == {"decoder-ssim"}:
        raise UsageError(TABLES)
    for bits, parties in sweep_pairs(own, settings):
        try:
            VICTIMS.create("hashvfl", {**own, "bits": bits, "parties": parties})
        except ConfigError as error:
            raise UsageError(
                f"attack.sweep_bits or attack.sweep_parties, bits={bits}, parties={parties}: "
                f"{error}"
            ) from None
    return party


def check_before_training(config: AttackConfig) -> None:
    """Refuse whatever can be seen from the config. Raises UsageError."""
    INVERSIONS.create(config.attack.name, config.attack.settings)
    planned = plan_victim(config)
    if planned is not None:
        data, own, _ = planned
        check_inversion(
            config, config.victim.name, VICTIMS.create(config.victim.name, own), data, own
        )


def resolve_inversion(config: AttackConfig, trained: Trained) -> tuple[AttackConfig, str]:
    """The config with all defaults, and the attacked party. Raises UsageError."""
    card, victim = trained.card, trained.victim
    party = check_inversion(config, card["name"], victim, trained.data, card["settings"])
    settings = INVERSIONS.settings(config.attack.name, config.attack.settings)
    return (
        config.model_copy(
            update={
                "device": str(victim.device),
                "victim": trained.replay,
                "attack": MethodConfig.build({"name": config.attack.name, **settings}),
                "dataset": DatasetConfig.build(
                    {"name": trained.data.name, **trained.data.settings}
                ),
                "protocol": config.protocol.model_copy(
                    update={"query_modality": party, "database": party}
                ),
            }
        ),
        party,
    )


def inversion_plan(config: AttackConfig) -> dict[str, Any]:
    """What `--dry-run` prints: everything validated, nothing trained, no run written."""
    settings = INVERSIONS.settings(config.attack.name, config.attack.settings)
    check_before_training(config)
    planned = plan_victim(config)
    if planned is None:
        trained = train(config)
        resolve_inversion(config, trained)
        data, victim = trained.data, {"checkpoint": str(trained.folder), "trained": True}
    else:
        data, victim_settings, key = planned
        trained_already = (cache_root() / "victims" / key).is_dir()
        victim = {
            "name": config.victim.name,
            "settings": victim_settings,
            "trained": trained_already,
        }
    return {
        "schema": "advhash/plan/1",
        "command": "attack",
        "seed": config.seed,
        "victim": victim,
        "attack": {"kind": "inversion", "name": config.attack.name, "settings": settings},
        "dataset": {"name": data.name, "database": len(data.database)},
        "budget": None,
        "samples": min(config.protocol.queries or SAMPLES, len(data.query)),
    }


def auxiliary_rows(data: Dataset, which: str) -> Split:
    """Inputs that the attacker of the query split has. Raises UsageError: none."""
    if which == "database":
        return data.database
    rows = np.setdiff1d(np.arange(len(data.database)), data.train_rows.numpy())
    if not len(rows):
        raise UsageError(
            f"attack.auxiliary: all rows of {data.name!r} are trained on: expected database"
        )
    return data.database.take(rows)
