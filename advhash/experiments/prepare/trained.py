"""A trained victim with its data and its identity."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from advhash.data.dataset import Dataset
from advhash.errors import RunError, UsageError
from advhash.experiments.config import VictimConfig
from advhash.experiments.prepare.code_key import code_version
from advhash.registry import DEFENSES, VICTIMS, called
from advhash.storage.checkpoint import CARD, WEIGHTS
from advhash.storage.files import partial_folder, sha256, storage_errors
from advhash.storage.model_card import PAGE, Origin
from advhash.victims.base import HashVictim


@dataclass(frozen=True, repr=False)
class Trained:
    """A victim, its data, and where its checkpoint lies: None for a function of the user.

    origin: where the victim comes from; only one that is "trained" cost a training in this run
    """

    victim: HashVictim
    data: Dataset
    name: str
    settings: dict[str, Any]
    card: dict[str, Any]
    folder: Path | None
    fingerprint: str
    origin: Origin
    seconds: float
    seed: int | None = None  # where the victim has one of its own

    def __repr__(self) -> str:
        defenses = "".join(f" + {defense['name']}" for defense in self.defenses)
        return f"<{self.called}{defenses}, {self.victim.bits} bits, on {self.data.called}>"

    @property
    def called(self) -> str:
        """What people call it, see `advhash.registry.called`."""
        return called(self.card["name"], self.card["settings"])

    @property
    def cached(self) -> bool:
        """Whether its weights were read, from the cache or a checkpoint."""
        return self.origin in ("cache", "checkpoint")

    @property
    def device(self) -> str:
        return str(self.victim.device)

    @property
    def replay(self) -> VictimConfig:
        """The `[victim]` table that gets this victim again."""
        return VictimConfig.build({"name": self.name, "seed": self.seed, **self.settings})

    @property
    def deviations(self) -> list[str]:
        """Where the victim and its defences differ from their sources."""
        applied = [DEFENSES[defense["name"]] for defense in self.defenses]
        entries = [VICTIMS[self.card["name"]], *applied] if self.folder else applied
        return [text for entry in entries for text in entry.deviations]

    @property
    def defenses(self) -> list[dict[str, Any]]:
        """What it was hardened with: names, settings, budgets."""
        return list(self.card.get("defenses", []))

    @property
    def method_digest(self) -> str:
        """The digest of the file that a package brings the victim in, see `Entry.digest`."""
        return VICTIMS[self.card["name"]].digest if self.folder else ""


def deciding(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a victim that determine its codes, and the versions that do, for keys."""
    build = VICTIMS[name].build
    kept = {
        key: value
        for key, value in settings.items()
        if key not in build.decide_nothing  # type: ignore[attr-defined]
    }
    libraries = build.libraries(settings)  # type: ignore[attr-defined]
    return {"settings": kept, "libraries": {library: version(library) for library in libraries}}


def _fingerprint(folder: Path, victim: HashVictim, card: dict[str, Any]) -> str:
    """SHA-256 of the weights, and of name and settings where these decide too, or alone."""
    weights = [sha256(folder / WEIGHTS)] if victim.state_dict() else []
    if weights and not VICTIMS[card["name"]].build.settings_decide:  # type: ignore[attr-defined]
        return weights[0]
    settings = json.dumps(deciding(card["name"], card["settings"]), sort_keys=True)
    return hashlib.sha256(" ".join([card["name"], settings, *weights]).encode()).hexdigest()


def fingerprint(folder: Path, victim: HashVictim, card: dict[str, Any]) -> str:
    """SHA-256 of the weights and of the defences around them."""
    digest = _fingerprint(folder, victim, card)
    defenses = card.get("defenses")
    if not defenses:
        return digest
    return hashlib.sha256(f"{digest} {json.dumps(defenses, sort_keys=True)}".encode()).hexdigest()


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
        "origin": trained.origin,
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
    with storage_errors(out), partial_folder(out) as partial:
        for name in (WEIGHTS, CARD, PAGE):
            if name != PAGE or (trained.folder / PAGE).is_file():  # older ones have no page
                shutil.copyfile(trained.folder / name, partial / name)
        partial.rename(out)
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
