"""The victims of a transfer matrix: planned before any training, then trained or loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from advhash.attacks.base import AttackData
from advhash.codes.packed import HashCodes
from advhash.errors import UsageError
from advhash.experiments.config import DatasetConfig, TrainConfig
from advhash.experiments.config_text import method_label
from advhash.experiments.experiment import Place
from advhash.experiments.prepare.hardened import DEFAULT
from advhash.experiments.prepare.planned import PlannedVictim
from advhash.experiments.prepare.trained import Trained
from advhash.experiments.prepare.victim import check_place
from advhash.experiments.transfer.config import LabelledMethod, LabelledVictim, TransferConfig
from advhash.registry import DEFENSES


@dataclass(frozen=True)
class Member:
    """A victim of the matrix, as the command named it, and the codes of its database."""

    label: str
    trained: Trained
    codes: HashCodes
    database: str

    def seen(self, modality: str) -> AttackData:
        """What an attacker of this victim sees."""
        return AttackData(self.trained.data, self.codes, self.database, modality)


@dataclass(frozen=True)
class PlannedMember:
    """A victim of the matrix before it is trained; `build` trains it and hashes its database."""

    label: str
    planned: PlannedVictim
    database: str

    def build(self, place: Place) -> Member:
        trained = self.planned.build(place)
        codes = trained.victim.database_codes(trained.data, self.database)
        return Member(self.label, trained, codes, self.database)

    @property
    def table(self) -> LabelledVictim:
        """The table that gets this victim again, with every setting and its label."""
        config = self.planned.config
        table = {**self.planned.replay.model_dump(), "label": self.label}
        if config.defense is not None:
            defense = config.defense.written(DEFENSES)
            table["defense"] = defense.model_dump()
            if DEFENSES.create(defense.name, defense.settings).takes_budget:
                budget = config.defense_budget.resolve(DEFAULT)
                table["defense_budget"] = {"norm": budget.norm, "eps": budget.eps}
        return LabelledVictim.build(table)


def labels_of(tables: Sequence[LabelledVictim] | Sequence[LabelledMethod]) -> list[str]:
    """The names as the command gave them. Raises UsageError for two equal ones."""
    labels = [table.label or method_label(table) for table in tables]
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(f"expected different victims and methods, got {label} twice")
    return labels


def planned_members(config: TransferConfig) -> list[PlannedMember]:
    """The victims as they are known before training; all see the data set of the first.

    Raises AdvhashError, before any training: equal labels, victims of other data or of another
    query modality, a database that none of them has.
    """
    members: list[PlannedMember] = []
    first: tuple[str, str] | None = None
    dataset, directions = config.dataset, dict[str, None]()
    for table, label in zip(config.victims, labels_of(config.victims), strict=True):
        planned = PlannedVictim.of(_wanted(config, table, dataset))
        victim = planned.victim
        check_place(config.dataset, victim)
        mine = (
            planned.data.fingerprint(),
            victim.query_modality(config.protocol.query_modality),
        )
        if first is None:
            first, dataset = mine, planned.dataset
        elif mine != first:
            raise UsageError(
                f"expected victims of the same data: {label} sees other data than "
                f"{members[0].label}"
            )
        directions |= dict.fromkeys(victim.directions)
        asked = config.protocol.database
        database = asked if asked in victim.directions else None
        members.append(PlannedMember(label, planned, database or victim.default_database))
    asked = config.protocol.database
    if asked is not None and asked not in directions:
        raise UsageError(f"--database: expected one of {', '.join(directions)}, got {asked!r}")
    return members


def _wanted(config: TransferConfig, table: LabelledVictim, dataset: DatasetConfig) -> TrainConfig:
    """What trains a victim of the matrix."""
    victim = table.model_dump(exclude={"label"})
    defense = victim.pop("defense", None)
    wanted = config.turned_into(
        TrainConfig,
        defense={"name": defense} if isinstance(defense, str) else defense,
        defense_budget=victim.pop("defense_budget", {}),
        victim=victim,
        dataset=dataset.model_dump(),
    )
    if wanted.defense is not None and wanted.defense_budget.eps is None:
        wanted.defense_budget = config.budget
    return wanted
