"""The victims of a transfer matrix: planned before any training, then trained or loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from advhash.attacks.base import AttackData
from advhash.codes.packed import HashCodes
from advhash.errors import UsageError
from advhash.experiments.config import DatasetConfig, TrainConfig
from advhash.experiments.config_text import method_label, parse_method
from advhash.experiments.experiment import Place
from advhash.experiments.prepare.hardened import DEFAULT
from advhash.experiments.prepare.planned import PlannedVictim
from advhash.experiments.prepare.served import database_codes
from advhash.experiments.prepare.trained import Trained, cache_identity
from advhash.experiments.prepare.victim import check_place
from advhash.experiments.transfer.config import LabelledMethod, LabelledVictim, TransferConfig
from advhash.registry import DEFENSES
from advhash.storage.cache import content_key
from advhash.victims.ensemble import Ensemble


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
        codes = database_codes(trained, self.database)
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


def joined(label: str, members: Sequence[Member], modality: str) -> Member:
    """The ensemble of some victims, as an attacker of all of them has it."""
    first = members[0].trained
    victims = [member.trained.victim for member in members]
    victim = Ensemble.of(victims, first.data.train, modality).eval()
    parts = [[cache_identity(member.trained), member.database] for member in members]
    trained = Trained(
        victim,
        first.data,
        label,
        {},
        {"name": label},
        None,
        content_key({"ensemble": parts}),
        "computed",
        0.0,
    )
    codes = HashCodes.beside([member.codes for member in members])
    return Member(label, trained, codes, members[0].database)


def planned_ensembles(
    config: TransferConfig,
    members: Sequence[PlannedMember],
    identities: Mapping[str, dict[str, Any]],
) -> list[list[PlannedMember]]:
    """The members of each ensemble of `sources`.

    identities: of the members, by their labels

    Raises UsageError, before any training: a name that is none of the victims, one victim alone, a
    victim or an ensemble twice, victims of other inputs or that serve other databases.
    """
    modality = config.protocol.query_modality
    ensembles: list[list[PlannedMember]] = []
    for names in config.sources:
        ensemble = [_named(name.strip(), config.victims, members) for name in names]
        text = ",".join(names)
        same = [identities[member.label] for member in ensemble]
        for number, member in enumerate(ensemble):
            if same.index(same[number]) < number:
                raise UsageError(f"--source {text}: expected different victims, got {member.label} "
                                 "a second time")  # fmt: skip
        if len(ensemble) < 2:
            raise UsageError(
                f"--source {text}: expected two victims or more, a comma between them; every "
                "victim of --victims is a source by itself"
            )
        databases = dict.fromkeys(member.database for member in ensemble)
        if len(databases) > 1:
            raise UsageError(
                f"--source {text}: expected victims that serve the same database, got "
                f"{' and '.join(databases)}; add --database, e.g. --database image"
            )
        victims = [member.planned.victim for member in ensemble]
        joint = Ensemble(victims, [1.0] * len(victims))  # which refuses other inputs
        joint.check_modality(victims[0].query_modality(modality))
        if any({id(one) for one in ensemble} == {id(one) for one in other} for other in ensembles):
            raise UsageError(f"--source {text}: expected different ensembles, got it twice")
        ensembles.append(ensemble)
    return ensembles


def _named(
    name: str, tables: Sequence[LabelledVictim], members: Sequence[PlannedMember]
) -> PlannedMember:
    """A member by its label, or by name and settings in any order.

    Raises UsageError, ConfigError.
    """
    for member in members:
        if member.label == name:
            return member
    meant = LabelledVictim.build(parse_method(name)) if name else None
    for member, table in zip(members, tables, strict=True):
        if table.model_copy(update={"label": None}) == meant:
            return member
    known = ", ".join(member.label for member in members)
    raise UsageError(f"--source: expected victims that --victims names ({known}), got {name!r}")


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
