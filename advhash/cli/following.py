"""Commands to go on with: with the victim, the data and the threshold of a run, where they can."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from advhash.errors import AdvhashError

CERTIFIED = ("pdq", "phash")  # linear hashes, of which `certify` has the exact answer
FEDERATED = "hashvfl"  # a victim whose parties are attacked by `invert`, and watched by `detect`
PERCEPTUAL = "advhash.victims.perceptual."  # the room of hashes that are computed, not learnt
VICTIMS_OF = ("victim", "rival", "other", "victims")  # tables of a config, and lists of them


def config_of_run(record: Any) -> dict[str, Any]:
    """The tables of the run of a record, with every setting; none where they cannot be read."""
    from advhash.experiments.config_text import read_toml

    if record.run is None:
        return {}
    try:
        return read_toml(Path(record.run.folder, "config.toml"))
    except AdvhashError:
        return {}


def replayed(command: str, record: Any, config: Mapping[str, Any]) -> str:
    """A command with the config of a run; code of the user has to be trusted anew."""
    from advhash.registry import is_external

    tables = [config.get(name) or [] for name in VICTIMS_OF]
    victims = [each for table in tables for each in ([table] if isinstance(table, dict) else table)]
    own = any(is_external(str(victim.get("name", ""))) for victim in victims)
    place = shlex.quote(f"{record.run.folder}/config.toml")
    return f"{command} --config {place}" + " --trust-code" * own


def of_config(config: Mapping[str, Any]) -> str | None:
    """`--victim … --dataset …` with all settings that are no defaults.

    None for a victim that a command line cannot name so: code of the user, or one with a defence.
    """
    from advhash.registry import DATASETS, VICTIMS, is_external

    victim, data = dict(config.get("victim") or {}), dict(config.get("dataset") or {})
    if "name" not in victim or is_external(str(victim["name"])) or config.get("defense"):
        return None
    words = []
    for option, table, registry in (("victim", victim, VICTIMS), ("dataset", data, DATASETS)):
        name = table.pop("name", None)
        if name is None:
            continue
        words += [f"--{option}", str(name)]
        fields = registry[name].model.model_fields if name in registry else {}
        for key, value in table.items():
            if key in fields and fields[key].default == value:
                continue
            text = value if isinstance(value, str) else json.dumps(value)
            words += ["--set", f"{option}.{key}={text}"]
    return shlex.join(words)


def is_trainable(config: Mapping[str, Any]) -> bool:
    """Whether the victim of a config learns from classes, as a defence that trains it needs."""
    from advhash.experiments.attack.identities import victim_kind
    from advhash.experiments.config import VictimConfig

    victim = VictimConfig.build(config["victim"])
    return victim_kind(victim).reads.classes and victim.name != FEDERATED


def is_perceptual(config: Mapping[str, Any]) -> bool:
    """Whether the victim of a config is a hash that is computed, not learnt.

    The index of methods tells, so that a name costs no import. Raises CheckpointError.
    """
    from advhash.registry import VICTIMS, is_external

    name = str(config["victim"]["name"])
    if VICTIMS.is_place(name) and not is_external(name):
        from advhash.storage.checkpoint import read_card
        from advhash.storage.places import checkpoint_folder

        name = str(read_card(checkpoint_folder(name))["name"])
    return name in VICTIMS and VICTIMS.describe(name).module.startswith(PERCEPTUAL)


def threshold_of(config: Mapping[str, Any]) -> str:
    """` --threshold T`, where the run was given one."""
    threshold = (config.get("protocol") or {}).get("threshold")
    return "" if threshold is None else f" --threshold {threshold}"
