"""A victim of a plan: what is known of it before any training, and what trains it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol, TypeVar

from advhash.compute.progress import Progress
from advhash.data.dataset import Dataset
from advhash.defenses.base import Wrapping
from advhash.experiments.config import (
    AttackConfig,
    DatasetConfig,
    OneVictim,
    TrainConfig,
    VictimConfig,
)
from advhash.experiments.config_text import method_label
from advhash.experiments.costs import Work, note_cost
from advhash.experiments.prepare.code_key import code_version
from advhash.experiments.prepare.hardened import DEFAULT, Foreseen, foresee, prepare
from advhash.experiments.prepare.seeds import resolve_device
from advhash.experiments.prepare.trained import Trained, cache_identity, deciding
from advhash.experiments.prepare.victim import is_trained
from advhash.registry import DEFENSES, VICTIMS, called, is_own
from advhash.victims.base import HashVictim
from advhash.victims.training.acceleration import precision

Given = TypeVar("Given", bound=OneVictim)


class _Place(Protocol):
    """Where a part is built; see `advhash.experiments.experiment.Place`."""

    progress: Progress


@dataclass(frozen=True, eq=False)
class PlannedVictim:
    """A victim with its defence, foreseen; `build` trains it or finds it in the cache.

    foreseen: None in another process, which foresees it again
    """

    config: TrainConfig | AttackConfig
    foreseen: Foreseen | None = None
    parts: ClassVar[tuple[str, ...]] = ()  # that it needs

    @classmethod
    def of(cls, config: TrainConfig | AttackConfig) -> PlannedVictim:
        """Raises AdvhashError for whatever can be refused before training."""
        return cls(config, foresee(config))

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "foreseen": None}

    @cached_property
    def _known(self) -> Foreseen:
        return self.foreseen or foresee(self.config)

    @property
    def victim(self) -> HashVictim:
        """As it is before training, or as it comes; behind a defence that trains nothing."""
        return self._known.victim

    @property
    def ready(self) -> Trained | None:
        """The victim that comes trained, before its defence."""
        return self._known.ready

    @property
    def name(self) -> str:
        """The registered name, or what the card of one that comes trained calls it."""
        ready = self.ready
        return self.config.victim.name if ready is None else str(ready.card["name"])

    @property
    def called(self) -> str:
        """What people call it, see `advhash.registry.called`."""
        ready = self.ready
        settings = self.settings if ready is None else ready.card["settings"]
        return called(self.name, settings or {})

    @property
    def names(self) -> tuple[str, str]:
        """What tables call the victim, and the data set with its settings."""
        defense = self.config.defense
        hardened = "" if defense is None else f" + {method_label(defense)}"
        given = dict(self.config.dataset.settings)
        if is_own(self.data.name, given):
            given.pop("root", None)  # which the name says
        return (
            method_label(self.config.victim.model_copy(update={"seed": None})) + hardened,
            method_label(DatasetConfig.build({**given, "name": self.data.called})),
        )

    @property
    def settings(self) -> dict[str, Any] | None:
        """All settings of a registered victim."""
        return self._known.settings

    @property
    def device(self) -> str:
        return str(resolve_device(self.config.device))

    @property
    def data(self) -> Dataset:
        return self._known.data

    @property
    def dataset(self) -> DatasetConfig:
        """The `[dataset]` table with every setting."""
        return DatasetConfig.of(self.data)

    @property
    def replay(self) -> VictimConfig:
        """The `[victim]` table that gets this victim again, as `Trained.replay`."""
        known = self._known
        if known.ready is not None:
            return known.ready.replay
        assert known.settings is not None
        plain = VICTIMS[self.config.victim.name].build
        given = self.config.victim.settings
        fixed = {"name", *plain.data_arguments(known.data)} - set(given)  # type: ignore[attr-defined]
        fixed |= plain.from_files  # type: ignore[attr-defined]
        kept = {key: value for key, value in known.settings.items() if key not in fixed}
        table = {"name": self.config.victim.name, "seed": self.config.victim.seed, **kept}
        return VictimConfig.build(table)

    @property
    def shown(self) -> dict[str, Any]:
        """What `--dry-run` says of it: where it comes from, or its settings."""
        if self.ready is None:
            trained = is_trained(self.config)
            return {"name": self.name, "settings": self.settings, "trained": trained}
        folder = self.ready.folder
        place = {"checkpoint": str(folder)} if folder else {"name": self.ready.name}
        return {**place, "trained": True}

    def written(self, config: Given) -> Given:
        """The config of a run with this victim: its device, victim and data are written out."""
        return config.model_copy(
            update={"device": self.device, "victim": self.replay, "dataset": self.dataset}
        )

    @property
    def learns(self) -> bool:
        """Whether a seed determines it; a defence that only wraps the victim learns nothing."""
        defense = self.config.defense
        if defense is not None and not isinstance(
            DEFENSES.create(defense.name, defense.settings), Wrapping
        ):
            return True
        return self._known.ready is None and self.victim.learns

    def seeded(self, seed: int) -> PlannedVictim:
        """The same victim, trained with another seed."""
        victim = self.config.victim.model_copy(update={"seed": seed})
        return replace(self, config=self.config.model_copy(update={"victim": victim}))

    @property
    def identity(self) -> dict[str, Any]:
        """Names everything that determines it, as far as it is known before training."""
        known, config, device = self._known, self.config, resolve_device(self.config.device)
        defense = config.defense
        if known.ready is not None:  # a checkpoint, or a function of the user
            identity: dict[str, Any] = dict(cache_identity(known.ready))
            if defense is not None:
                identity["precision"] = precision(device)
        else:
            identity = {
                "victim": config.victim.name,
                "method": VICTIMS[config.victim.name].digest,
                **deciding(config.victim.name, known.settings or {}),
                "data": known.data.fingerprint(),
                "code": code_version(),
                "device": device.type,
                "precision": precision(device),
            }
        identity["seed"] = config.victim_seed if self.learns else None
        identity["defense"] = None
        if defense is not None:
            takes_budget = DEFENSES.create(defense.name, defense.settings).takes_budget
            identity["defense"] = [
                defense.name,
                DEFENSES.settings(defense.name, defense.settings),
                DEFENSES[defense.name].digest,
                repr(config.defense_budget.resolve(DEFAULT)) if takes_budget else None,
            ]
        return identity

    @property
    def is_built(self) -> bool:
        """Whether it comes trained or the cache has it; of a hardened one that is not known."""
        return self.config.defense is None and is_trained(self.config)

    def build(self, place: _Place) -> Trained:
        """The trained victim."""
        began = time.perf_counter()
        trained = prepare(self.config, place.progress, self.foreseen)
        if trained.origin == "trained" and self.ready is None:
            note_cost(self._training, time.perf_counter() - began)
        return trained

    @property
    def work(self) -> Work | None:
        """Its training; None where it is there."""
        return None if self.is_built else self._training

    @property
    def _training(self) -> Work:
        defense = self.config.defense
        name = self.name if defense is None else f"{self.name} + {defense.name}"
        epochs = (self.settings or {}).get("epochs") or 1
        return Work("training", (name, *self.names), epochs * len(self.data.train_labels))
