"""The victims of a transfer matrix: planned before any training, then trained or loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from advhash.codes.packed import HashCodes
from advhash.data.dataset import Progress
from advhash.errors import UsageError
from advhash.experiments.attack.run import check_attack_config
from advhash.experiments.config import (
    AttackConfig,
    DatasetConfig,
    MethodConfig,
    TrainConfig,
    VictimConfig,
)
from advhash.experiments.config_text import method_label
from advhash.experiments.prepare.hardened import Foreseen, foresee, prepare
from advhash.experiments.prepare.trained import Trained
from advhash.experiments.transfer.config import TransferConfig

__all__ = ["Member", "labels_of", "planned", "prepared"]


@dataclass(frozen=True)
class Member:
    """A victim of the matrix, as the command named it."""

    label: str
    trained: Trained
    codes: HashCodes  # of its database
    database: str


def labels_of(tables: Sequence[MethodConfig]) -> list[str]:
    """The names as the command gave them. Raises UsageError for two equal ones."""
    labels = [method_label(one) for one in tables]
    for label in labels:
        if labels.count(label) > 1:
            raise UsageError(f"expected different victims and methods, got {label} twice")
    return labels


def _wanted(config: TransferConfig, table: VictimConfig, dataset: DatasetConfig) -> TrainConfig:
    """What trains a victim of the matrix."""
    settings = dict(table.settings)
    wanted = TrainConfig.build(
        {
            "seed": config.seed,
            "device": config.device,
            "defense": _defense(settings.pop("defense", None)),
            "defense_budget": settings.pop("defense_budget", {}),
            "victim": {"name": table.name, "seed": table.seed, **settings},
            "dataset": dataset.model_dump(),
        }
    )
    if wanted.defense is not None and wanted.defense_budget.eps is None:
        wanted.defense_budget = config.budget
    return wanted.trusting(config.trust_code)


def planned(config: TransferConfig, labels: Sequence[str]) -> tuple[TransferConfig, list[Foreseen]]:
    """The config with what is moved written out: "image", which is asked for by default, is the
    first party's part of a federation. And the victims as they are foreseen, for `prepared`.

    Raises AdvhashError, before any training: victims of other data, a database that none of them
    has, or what `advhash attack` would refuse of a victim and a method.
    """
    first: tuple[str, str, str] | None = None
    dataset, directions, foreseen = config.dataset, dict[str, None](), list[Foreseen]()
    for table, label in zip(config.victims, labels, strict=True):
        wanted = _wanted(config, table, dataset)
        one = foresee(wanted)
        victim, data = one.victim, one.data
        modality = victim.query_modality(config.protocol.query_modality)
        if first is None:
            first = label, data.fingerprint(), modality
            dataset = DatasetConfig.build({"name": data.name, **data.settings})
        elif (data.fingerprint(), modality) != first[1:]:
            raise UsageError(
                f"expected victims of the same data: {label} sees other data than {first[0]}"
            )
        for method in config.attacks:
            check_attack_config(_alone(config, wanted, method), victim, data)
        directions |= dict.fromkeys(victim.directions)
        foreseen.append(one)
    assert first is not None
    asked = config.protocol.database
    if asked is not None and asked not in directions:
        raise UsageError(f"--database: expected one of {', '.join(directions)}, got {asked!r}")
    protocol = config.protocol.model_copy(update={"query_modality": first[2]})
    return config.model_copy(update={"protocol": protocol}), foreseen


def _alone(config: TransferConfig, wanted: TrainConfig, method: MethodConfig) -> AttackConfig:
    """A victim and a method as `advhash attack` is asked, before the victim's own database."""
    return AttackConfig(
        device=config.device,
        victim=wanted.victim,
        defense=wanted.defense,
        defense_budget=wanted.defense_budget,
        attack=method,
        dataset=wanted.dataset,
        budget=config.budget,
        protocol=config.protocol.model_copy(update={"database": None}),
    ).trusting(config.trust_code)


def prepared(
    config: TransferConfig,
    labels: Sequence[str],
    foreseen: Sequence[Foreseen],
    progress: Progress,
) -> list[Member]:
    """Train the victims that do not come trained; all see the data set of the first."""
    members: list[Member] = []
    dataset = config.dataset
    for table, label, one in zip(config.victims, labels, foreseen, strict=True):
        trained = prepare(_wanted(config, table, dataset), progress, one)
        if not members:
            data = trained.data
            dataset = DatasetConfig.build({"name": data.name, **data.settings})
        database = _database(config, trained)
        codes = trained.victim.database_codes(trained.data, database)
        members.append(Member(label, trained, codes, database))
    return members


def _defense(given: Any) -> dict[str, Any] | None:
    """A defence as a name or as a table of a name and settings."""
    return {"name": given} if isinstance(given, str) else given


def _database(config: TransferConfig, trained: Trained) -> str:
    """What is searched: as asked for where the victim has it, else its default."""
    asked = config.protocol.database
    if asked is None or asked not in trained.victim.directions:
        return trained.victim.default_database
    return asked
