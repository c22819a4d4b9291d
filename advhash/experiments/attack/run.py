"""`advhash attack`: a victim, an attack, one budget or several, and the record of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol as Contract

import torch

from advhash.attacks.base import Attack, AttackData
from advhash.budget import Budget, expect_room
from advhash.codes.packed import HashCodes
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset
from advhash.errors import UsageError
from advhash.experiments.attack.measure import examples, flags, measure
from advhash.experiments.attack.perturb import attack_queries
from advhash.experiments.attack.planted import check_poison, poison_metrics
from advhash.experiments.attack.radii import split_eps
from advhash.experiments.attack.record import (
    Attacked,
    Outcome,
    make_record,
    run_info,
    score_columns,
    write_queries,
)
from advhash.experiments.config import (
    AttackConfig,
    BudgetConfig,
    DatasetConfig,
    ProtocolConfig,
    VictimConfig,
)
from advhash.experiments.config_text import method_label
from advhash.experiments.experiment import Experiment, Part, Place, Plan, run
from advhash.experiments.prepare.code_key import code_version
from advhash.experiments.prepare.fit_attack import FittedAttack, fit_attack
from advhash.experiments.prepare.planned import PlannedVictim
from advhash.experiments.prepare.trained import Trained, cache_identity
from advhash.registry import ATTACKS, EXPERIMENTS
from advhash.reports.record import SIBLINGS, Record, Siblings
from advhash.storage.cache import content_key
from advhash.storage.cells import Result
from advhash.storage.files import write_json, write_text
from advhash.storage.run_folder import environment
from advhash.victims.base import HashVictim

CODE = ("experiments.attack",)


class Known(Contract):
    """What a config is resolved with: a victim before its training or after it, and its data."""

    @property
    def victim(self) -> HashVictim: ...
    @property
    def data(self) -> Dataset: ...
    @property
    def replay(self) -> VictimConfig: ...
    @property
    def device(self) -> str: ...


@dataclass(frozen=True)
class Served:
    """The codes of a victim's databases, by direction."""

    victim: str = "victim"

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.victim,)

    def build(self, place: Place) -> dict[str, HashCodes]:
        trained: Trained = place.part(self.victim)
        return trained.victim.served_codes(trained.data)


@dataclass(frozen=True)
class PlannedAttack:
    """An attack that is fitted to the victim, or found fitted in the cache.

    config: with every default written out
    """

    config: AttackConfig
    victim: str = "victim"
    codes: str = "codes"

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.victim, self.codes)

    def build(self, place: Place) -> FittedAttack:
        trained: Trained = place.part(self.victim)
        database = str(self.config.protocol.database)
        codes = place.part(self.codes)[database]
        seen = AttackData(trained.data, codes, database, self.config.protocol.query_modality)
        return fit_attack(self.config, trained, seen, place.progress)


@dataclass(frozen=True)
class AttackCell:
    """One attack under one budget.

    config: with every default written out
    victim, codes, fit: names of the parts that are the victim, its database, the fitted attack
    names, amount: by which the cost is learnt, from the most telling name to the least
    """

    config: AttackConfig
    key: str
    victim: str = "victim"
    codes: str = "codes"
    fit: str = "fit"
    names: tuple[str, ...] = ()
    amount: int = 1

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.victim, self.codes, self.fit)


@dataclass(frozen=True, kw_only=True)
class AttackPlan(Plan[AttackConfig, AttackCell]):
    """Cells in ascending order of ε; `radii`: as the user wrote them, where there are several."""

    radii: Sequence[str] = ()


@EXPERIMENTS.register("attack", source="the registered attack")
class AttackExperiment(Experiment[AttackConfig, AttackCell, AttackPlan, Record | Siblings]):
    """Attack the queries of a data set and measure what they retrieve then."""

    name, config, record, code = "attack", AttackConfig, Record, CODE
    lasts = False

    def plan(self, config: AttackConfig) -> AttackPlan:
        eps = config.budget.eps
        radii = split_eps(eps) if isinstance(eps, str) else []
        known = PlannedVictim.of(config)
        if len(radii) < 2:
            cell = planned_cell(config, known)
            return AttackPlan(
                config=cell.config,
                cells=[cell],
                parts=_parts(known, [cell]),
                label=_label(known, config),
                shown=_shown(known, [cell]),
            )
        cells = [
            replace(planned_cell(sibling, known), fit=f"fit {radius}")
            for radius, sibling in zip(radii, _siblings(config, radii), strict=True)
        ]
        budget = config.budget.model_copy(update={"eps": ",".join(radii)})
        return AttackPlan(
            config=cells[0].config.model_copy(update={"budget": budget}),
            cells=cells,
            parts=_parts(known, cells),
            label=f"{_label(known, config)}-budgets",
            shown=_shown(known, cells),
            radii=radii,
        )

    def compute(self, cell: AttackCell, place: Place) -> Result:
        config, trained = cell.config, place.part(cell.victim)
        codes, fitted = place.part(cell.codes), place.part(cell.fit)
        with place.timed("attack"):
            outcome = attack_queries(place.piece, config, trained, fitted, place.progress)
        database = codes[str(config.protocol.database)]
        with place.timed("metrics"):
            attacked = Attacked(config, trained, fitted, outcome)
            measured = measure(attacked, codes, cache_identity(trained), place.progress)
        if config.protocol.poison:
            measured.metrics.update(
                poison_metrics(place.piece, config, trained, fitted, database, place.progress)
            )
        record = make_record(
            attacked,
            measured.scores,
            metrics=measured.metrics,
            flags=flags(attacked, measured, database),
            examples=[],
            folder=Path(),
            seconds=place.seconds,
        )
        return Result(record.document(), {**outcome.tensors(), **measured.scores.tensors()})

    def judge(self, plan: AttackPlan, results: Sequence[Result], place: Place) -> Record | Siblings:
        if not plan.radii:
            (cell,), (result,) = plan.cells, results
            return _finished(cell, result, place, place.folder, place.final)
        from advhash.reports.page.render import render

        records = []
        for radius, cell, result in zip(plan.radii, plan.cells, results, strict=True):
            name = f"eps-{radius.replace('/', '_')}"
            folder = place.folder / name
            write_text(folder / "config.toml", cell.config.to_toml())
            write_json(folder / "env.json", environment())
            record = _finished(cell, result, place, folder, place.final / name)
            write_text(folder / "metrics.json", record.dumps())
            render([folder], folder / "report.html")
            records.append(record)
        return Siblings(
            schema_=SIBLINGS,
            command="attack",
            report=str(place.final / "report.html"),
            runs=[record.document() for record in records],
        )


def attack(config: AttackConfig, out: Path | None = None, progress: Progress = silent) -> Record:
    """Run one attack under one budget; see `run`. Raises AdvhashError."""
    record = run(AttackExperiment(), config, out, progress)
    assert isinstance(record, Record)
    return record


def planned_cell(config: AttackConfig, known: PlannedVictim) -> AttackCell:
    """The cell of one budget. Raises AdvhashError for whatever can be refused before training."""
    resolved = resolve(config, known)
    victim, data = known.names
    count = len(known.data.query)
    return AttackCell(
        resolved,
        content_key(cell_identity(resolved, known.identity, torch.get_num_threads())),
        names=(method_label(config.attack), data, victim),
        amount=min(resolved.protocol.queries or count, count),
    )


def cell_identity(config: AttackConfig, victim: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """What names a cell. config: with every default; victim: `PlannedVictim.identity`."""
    return {
        "victim": victim,
        "attack": config.attack.name,
        "method": ATTACKS[config.attack.name].digest,
        "settings": config.attack.settings,
        "seed": config.seed,
        "budget": repr(config.budget.resolve(Budget("none", math.inf))),
        "eight_bit": config.budget.eight_bit,
        "protocol": config.protocol.model_dump(mode="json"),
        "threads": threads,
        "code": code_version(*CODE),
    }


def _parts(known: PlannedVictim, cells: Sequence[AttackCell]) -> dict[str, Part]:
    fits: dict[str, Part] = {cell.fit: PlannedAttack(cell.config) for cell in cells}
    return {"victim": known, "codes": Served(), **fits}


def _siblings(config: AttackConfig, radii: Sequence[str]) -> list[AttackConfig]:
    """The config of each radius. Raises ConfigError."""
    parts = []
    for radius in radii:
        budget = BudgetConfig.build({**config.budget.model_dump(), "eps": radius})
        budget.resolve(Budget("none", math.inf))
        parts.append(config.model_copy(update={"budget": budget}))
    return parts


def _label(known: PlannedVictim, config: AttackConfig) -> str:
    return f"{known.name}-{config.attack.name}".replace(":", ".")


def _shown(known: PlannedVictim, cells: Sequence[AttackCell]) -> dict[str, Any]:
    config = cells[0].config
    budgets = [str(cell.config.budget.resolve(Budget("none", math.inf))) for cell in cells]
    queries = len(known.data.query)
    return {
        "victim": known.shown,
        "defense": None if config.defense is None else config.defense.model_dump(),
        "attack": {"name": config.attack.name, "settings": config.attack.settings},
        "dataset": {"name": known.data.name, "database": len(known.data.database)},
        "budget": budgets if len(cells) > 1 else budgets[0],
        "protocol": config.protocol.model_dump(mode="json"),
        "queries": min(config.protocol.queries or queries, queries),
    }


def _finished(cell: AttackCell, result: Result, place: Place, folder: Path, final: Path) -> Record:
    """The record of one budget, with its pictures and `queries.parquet` in `folder`."""
    config, trained = cell.config, place.part("victim")
    record = Record.from_document(result.document)
    modality = config.protocol.query_modality
    outcome = Outcome.from_tensors(result.tensors, trained.data.query, modality)
    scores = score_columns(result.tensors)
    database = place.part("codes")[str(config.protocol.database)]
    folder.mkdir(parents=True, exist_ok=True)
    attacked = Attacked(config, trained, place.part(cell.fit), outcome)
    shown = examples(attacked, scores, database, folder)
    write_queries(folder / "queries.parquet", outcome, scores)
    seconds = {**place.seconds, **record.run.seconds}
    run = run_info(final, config.seed, config.device, seconds)
    return record.model_copy(update={"run": run, "examples": shown})


def _check_threat(
    config: AttackConfig, victim: HashVictim, method: Attack, data: Dataset
) -> ProtocolConfig:
    """The protocol with the attacked direction and the moved modality written out.

    Raises UsageError: a direction or a modality that victim or attack lack, more planted items
    than there are; ConfigError: a radius that moves no picture, or binds none.
    """
    database = config.protocol.database or victim.default_database
    if database not in victim.directions:
        raise UsageError(
            f"--database: expected one of {', '.join(victim.directions)}, got {database!r}"
        )
    modality = victim.query_modality(config.protocol.query_modality)
    victim.check_modality(modality)
    if not method.can_move(victim, modality):
        if modality.startswith("party") and "image" in method.modalities:
            raise UsageError(
                f"{config.attack.name} changes pictures: expected a party that holds some, got "
                f"{modality!r} of a table; `advhash invert` and `advhash detect` take tables"
            )
        raise UsageError(
            f"--query-modality: {config.attack.name} attacks "
            f"{', '.join(sorted(method.modalities))}, got {modality!r}"
        )
    method.check_gradients(victim)
    if victim.is_image(modality):
        values = data.database.inputs[modality][0].numel()
        budget = config.budget.resolve(method.default_budget)
        expect_room(budget, values, eight_bit=config.budget.eight_bit)
    if "l0" in method.norms and victim.bounds[modality][0] < 0:
        raise UsageError(
            f"{config.attack.name} changes words: expected texts with words, got embeddings; "
            "use --set dataset.text=words"
        )
    protocol = config.protocol.model_copy(update={"query_modality": modality, "database": database})
    planned = config.model_copy(update={"protocol": protocol})
    check_poison(planned, method.goal, database, len(data.validation))
    return protocol


def resolve(config: AttackConfig, known: Known) -> AttackConfig:
    """The config with every default written out, so that its file replays the run.

    Raises UsageError, before any training, for whatever can be seen from the config: a budget that
    the attack cannot take, a direction or a modality that victim or attack lack.
    """
    victim, data = known.victim, known.data
    attack = config.attack.written(ATTACKS)
    method: Attack = ATTACKS.create(attack.name, attack.settings)
    method.check_budget(config.budget.resolve(method.default_budget))
    protocol = _check_threat(config, victim, method, data)
    return config.model_copy(
        update={
            "device": known.device,
            "victim": known.replay,
            "attack": attack,
            "dataset": DatasetConfig.of(data),
            "budget": config.budget.written(method.default_budget),
            "protocol": protocol,
        }
    )
