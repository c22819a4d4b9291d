"""`advhash attack`: a victim, an attack, one budget or several, and the record of each.

Cells are blocks of queries, as many as a batch holds, and the ceilings of t-MAP: what a query
becomes is decided by seed and query, so that an executor divides one attack. Figures are taken of
all of them together, in `judge`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol as Contract

import torch
from torch import Tensor

from advhash.attacks.base import Attack, AttackData
from advhash.attacks.gradient.precision import expect_precision
from advhash.budget import Budget, expect_room
from advhash.codes.packed import HashCodes
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset
from advhash.data.images.mixed import COLOURS
from advhash.errors import UsageError
from advhash.experiments.attack.identities import asks_identities, by_identity
from advhash.experiments.attack.measure import examples, flags, measure
from advhash.experiments.attack.operating import check_threshold, started
from advhash.experiments.attack.perturb import Aimed, attack_batches, joined_outcome
from advhash.experiments.attack.planted import (
    check_poison,
    planted as planted_pictures,
    poison_metrics,
)
from advhash.experiments.attack.radii import split_eps
from advhash.experiments.attack.record import (
    Attacked,
    Outcome,
    Scores,
    make_record,
    run_info,
    write_queries,
)
from advhash.experiments.attack.served import check_search, written_search
from advhash.experiments.config import (
    AttackConfig,
    AttackProtocol,
    BudgetConfig,
    DatasetConfig,
    VictimConfig,
)
from advhash.experiments.config_text import method_label
from advhash.experiments.costs import Work, note_cost, passes
from advhash.experiments.experiment import Experiment, Part, Place, Plan, run
from advhash.experiments.prepare.ceiling import target_ceilings
from advhash.experiments.prepare.code_key import code_version
from advhash.experiments.prepare.fit_attack import FittedAttack, fit_attack
from advhash.experiments.prepare.planned import PlannedVictim
from advhash.experiments.prepare.served import served_codes
from advhash.experiments.prepare.trained import Trained, cache_identity
from advhash.registry import ATTACKS, EXPERIMENTS
from advhash.reports.record import SIBLINGS, Record, Siblings
from advhash.storage.cache import content_key
from advhash.storage.cells import Result
from advhash.storage.files import write_json, write_text
from advhash.storage.run_folder import environment
from advhash.victims.base import HashVictim

CODE = ("stores", "experiments.attack")


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
        return served_codes(place.part(self.victim))


@dataclass(frozen=True)
class PlannedAttack:
    """An attack that is fitted to the victim, or found fitted in the cache.

    config: with every default written out
    work:   by which the cost of fitting is learnt; it counts although the cache may have the fit
    """

    config: AttackConfig
    victim: str = "victim"
    codes: str = "codes"
    work: Work | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.victim, self.codes)

    def build(self, place: Place) -> FittedAttack:
        trained: Trained = place.part(self.victim)
        database = str(self.config.protocol.database)
        codes = place.part(self.codes)[database]
        seen = AttackData(trained.data, codes, database, self.config.protocol.query_modality)
        fitted = fit_attack(self.config, trained, seen, place.progress)
        if self.work is not None and not fitted.cached:
            note_cost(self.work, fitted.seconds)
        return fitted


@dataclass(frozen=True)
class AttackCell:
    """One attack under one budget.

    config: with every default written out
    victim, codes, fit: names of the parts that are the victim, its database, the fitted attack
    names:   by which the cost is learnt, from the most telling name to the least
    queries: how many are attacked
    effort:  what the seconds of fitting grow with
    """

    config: AttackConfig
    key: str
    victim: str = "victim"
    codes: str = "codes"
    fit: str = "fit"
    names: tuple[str, ...] = ()
    queries: int = 1
    effort: float = 1.0

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.victim, self.codes, self.fit)

    @property
    def passes(self) -> float:
        """Passes through the victim for each query, which the seconds grow with."""
        return passes(self.config.attack.settings)

    @property
    def fitting(self) -> Work:
        return Work("fit", self.names, self.effort)


@dataclass(frozen=True)
class Block:
    """Some queries of an attack, or some pictures to be planted; its result is what they become.

    first, stop: their places among those attacked
    """

    attack: AttackCell
    first: int
    stop: int
    planted: bool = False

    @property
    def key(self) -> str:
        return content_key([self.attack.key, self.planted, self.first, self.stop])

    @property
    def parts(self) -> tuple[str, ...]:
        return self.attack.parts

    @property
    def names(self) -> tuple[str, ...]:
        return self.attack.names

    @property
    def amount(self) -> float:
        return (self.stop - self.first) * self.attack.passes


@dataclass(frozen=True)
class Ceiling:
    """The ceilings of t-MAP for one direction, which `measure` finds in the cache then."""

    attack: AttackCell
    database: str

    @property
    def key(self) -> str:
        return content_key([self.attack.key, "ceiling", self.database])

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.attack.victim, self.attack.codes)

    @property
    def names(self) -> tuple[str, ...]:
        return ("ceiling of t-MAP", *self.attack.names[1:])

    @property
    def amount(self) -> int:
        return self.attack.queries


@dataclass(frozen=True, kw_only=True)
class AttackPlan(Plan[AttackConfig, Block | Ceiling]):
    """The cells of one attack or of several, in ascending order of ε.

    radii: as the user wrote them, where there are several
    """

    attacks: Sequence[AttackCell]
    radii: Sequence[str] = ()


@EXPERIMENTS.register("attack", source="the registered attack")
class AttackExperiment(
    Experiment[AttackConfig, AttackCell | Block | Ceiling, AttackPlan, Record | Siblings]
):
    """Attack the queries of a data set and measure what they retrieve then."""

    name, config, record, code = "attack", AttackConfig, Record, CODE
    lasts, stage = False, "blocks"

    def plan(self, config: AttackConfig) -> AttackPlan:
        eps = config.budget.eps
        radii = split_eps(eps) if isinstance(eps, str) else []
        if asks_identities(config, config.protocol.threshold):
            config = config.model_copy(update={"dataset": by_identity(config.dataset)})
        known = PlannedVictim.of(config)
        if len(radii) < 2:
            cell = planned_cell(config, known)
            return AttackPlan(
                config=cell.config,
                cells=_divided([cell], known),
                attacks=[cell],
                parts=_parts(known, [cell]),
                whole=_whole(cell),
                label=_label(known, config),
                shown=_shown(known, [cell]),
            )
        attacks = [
            replace(planned_cell(sibling, known), fit=f"fit {radius}")
            for radius, sibling in zip(radii, _siblings(config, radii), strict=True)
        ]
        budget = config.budget.model_copy(update={"eps": ",".join(radii)})
        return AttackPlan(
            config=attacks[0].config.model_copy(update={"budget": budget}),
            cells=_divided(attacks, known),
            attacks=attacks,
            parts=_parts(known, attacks),
            whole=_whole(attacks[0]),
            label=f"{_label(known, config)}-budgets",
            shown=_shown(known, attacks),
            radii=radii,
        )

    def compute(self, cell: AttackCell | Block | Ceiling, place: Place) -> Result:
        """A block, the ceilings of a direction, or a whole attack, as a suite has it."""
        if isinstance(cell, Block):
            return Result(
                {}, _attack_block(cell.attack, cell.first, cell.stop, cell.planted, place)
            )
        if isinstance(cell, Ceiling):
            _find_ceilings(cell, place)
            return Result({})
        queries = _attack_block(cell, 0, None, False, place)
        poison = cell.config.protocol.poison
        items = [_attack_block(cell, 0, None, True, place)] if poison else None
        outcome, record, scores = _measured(cell, [queries], items, place)
        return Result(record.document(), {**outcome.tensors(), **scores.tensors()})

    def judge(self, plan: AttackPlan, results: Sequence[Result], place: Place) -> Record | Siblings:
        blocks = [(cell, done.tensors) for cell, done in zip(plan.cells, results, strict=True)]
        if not plan.radii:
            return _finished(plan.attacks[0], blocks, place, place.folder, place.final)
        from advhash.reports.page.render import render

        records = []
        for radius, cell in zip(plan.radii, plan.attacks, strict=True):
            name = f"eps-{radius.replace('/', '_')}"
            folder = place.folder / name
            write_text(folder / "config.toml", cell.config.to_toml())
            write_json(folder / "env.json", environment())
            record = _finished(cell, blocks, place, folder, place.final / name)
            write_text(folder / "metrics.json", record.dumps())
            render([folder], folder / "report.html", foreign=False)
            records.append(record)
        return Siblings(
            schema_=SIBLINGS,
            command="attack",
            report=str(place.final / "report.html"),
            runs=[record.document() for record in records],
        )


def _method(attack: AttackCell) -> Attack:
    method: Attack = ATTACKS.create(attack.config.attack.name, attack.config.attack.settings)
    return method


def _whole(attack: AttackCell) -> str:
    """Why the queries are one cell; "" where blocks of them are."""
    if not _method(attack).couples_queries:
        return ""
    return (
        f"{attack.config.attack.name} lets the queries of a block depend on each other, so that "
        "one worker attacks all of them"
    )


def _divided(attacks: Sequence[AttackCell], known: PlannedVictim) -> list[Block | Ceiling]:
    """The cells of attacks on one victim: the ceilings, then the blocks."""
    cells: list[Block | Ceiling] = []
    for attack in attacks:
        config, method = attack.config, _method(attack)
        if method.goal == "targeted" and attack is attacks[0]:
            cells += [Ceiling(attack, database) for database in known.victim.directions]
        for count, planted in ((attack.queries, False), (config.protocol.poison or 0, True)):
            size = max(count, 1) if method.couples_queries else config.protocol.batch_size
            cells += [
                Block(attack, first, min(first + size, count), planted)
                for first in range(0, count, size)
            ]
    return cells


def seen_by(cell: AttackCell, planted: bool, place: Place) -> tuple[AttackConfig, Trained]:
    """Config and victim with the queries, or with the pictures that are planted as such."""
    trained: Trained = place.part(cell.victim)
    if planted:
        return planted_pictures(cell.config, trained)
    return cell.config, replace(trained, data=started(cell.config.protocol, trained.data))


def _attack_block(
    cell: AttackCell, first: int, stop: int | None, planted: bool, place: Place
) -> dict[str, Tensor]:
    """What the attack makes of queries, or of pictures to be planted. stop: None: the last."""
    config, trained = seen_by(cell, planted, place)
    fitted = place.part(cell.fit)
    aimed = Aimed.of(config, trained.data, fitted.attack)
    prefix = "poison-" if planted else ""
    return attack_batches(
        config,
        trained,
        fitted,
        aimed,
        (first, len(aimed.rows) if stop is None else stop),
        piece=lambda name, make: place.piece(f"{prefix}{name}", make),
        progress=place.progress,
    )


def _find_ceilings(cell: Ceiling, place: Place) -> None:
    """Into the cache, for any target."""
    config, trained = cell.attack.config, place.part(cell.attack.victim)
    codes = place.part(cell.attack.codes)[cell.database]
    modality = config.protocol.query_modality
    target_ceilings(
        trained.victim,
        AttackData(trained.data, codes, cell.database, modality),
        trained.data.database.labels[:0].numpy(),
        scoring=config.protocol.scoring,
        identity=cache_identity(trained),
        progress=place.progress,
    )


def _measured(
    cell: AttackCell,
    queries: Sequence[Mapping[str, Tensor]],
    items: Sequence[Mapping[str, Tensor]] | None,
    place: Place,
) -> tuple[Outcome, Record, Scores]:
    """All figures of an attack, of which these blocks were made.

    queries: those of the queries; items: those of the pictures that are planted
    """
    config, trained = seen_by(cell, False, place)
    codes, fitted = place.part(cell.codes), place.part(cell.fit)
    database = codes[str(config.protocol.database)]

    def outcome_of(blocks: Sequence[Mapping[str, Tensor]], planted: bool) -> Outcome:
        config, trained = seen_by(cell, planted, place)
        aimed = Aimed.of(config, trained.data, fitted.attack)
        return joined_outcome(config, trained, fitted, aimed, blocks)

    began = time.perf_counter()
    outcome = outcome_of(queries, False)
    attacked = Attacked(config, trained, fitted, outcome)
    measured = measure(attacked, codes, cache_identity(trained), place.progress)
    if items is not None:
        planted = outcome_of(items, True)
        measured.metrics.update(poison_metrics(config, trained, planted, database))
    spent = {"attack": outcome.seconds, "metrics": time.perf_counter() - began}
    record = make_record(
        attacked,
        measured.scores,
        metrics=measured.metrics,
        flags=flags(attacked, measured, database),
        examples=[],
        folder=Path(),
        seconds={**place.seconds, **spent},
    )
    return outcome, record, measured.scores


def attack(config: AttackConfig, out: Path | None = None, progress: Progress = silent) -> Record:
    """Run one attack under one budget; see `run`. Raises AdvhashError."""
    record = run(AttackExperiment(), config, out, progress)
    assert isinstance(record, Record)
    return record


def planned_cell(config: AttackConfig, known: PlannedVictim) -> AttackCell:
    """The cell of one budget. Raises AdvhashError for whatever can be refused before training."""
    resolved = resolve(config, known)
    victim, data = known.names
    count = len(started(resolved.protocol, known.data).query)
    attack: Attack = ATTACKS.create(resolved.attack.name, resolved.attack.settings)
    Aimed.of(resolved, known.data, attack)  # refuses queries for which no target is left
    effort = attack.effort(known.data)
    return AttackCell(
        resolved,
        content_key(cell_identity(resolved, known.identity, torch.get_num_threads())),
        names=(config.attack.name, method_label(config.attack), data, victim),
        queries=min(resolved.protocol.queries or count, count),
        effort=effort,
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
    fits: dict[str, Part] = {}
    for cell in cells:
        again = bool(fits) and not _method(cell).fit_depends_on_budget  # is in the cache by then
        fits[cell.fit] = PlannedAttack(cell.config, work=None if again else cell.fitting)
    return {"victim": known, "codes": Served(), **fits}


def _siblings(config: AttackConfig, radii: Sequence[str]) -> list[AttackConfig]:
    """The config of each radius. Raises ConfigError."""
    of_all = config.budget.model_dump()
    budgets = [BudgetConfig.build({**of_all, "eps": radius}) for radius in radii]
    return [config.model_copy(update={"budget": budget}) for budget in budgets]


def _label(known: PlannedVictim, config: AttackConfig) -> str:
    return f"{known.called}-{config.attack.name}".replace(":", ".")


def _shown(known: PlannedVictim, cells: Sequence[AttackCell]) -> dict[str, Any]:
    config = cells[0].config
    budgets = [str(cell.config.budget.resolve(Budget("none", math.inf))) for cell in cells]
    queries = len(started(config.protocol, known.data).query)
    return {
        "victim": known.shown,
        "defense": None if config.defense is None else config.defense.model_dump(),
        "attack": {"name": config.attack.name, "settings": config.attack.settings},
        "dataset": {**known.data.named, "database": len(known.data.database)},
        "budget": budgets if len(cells) > 1 else budgets[0],
        "protocol": config.protocol.model_dump(mode="json"),
        "queries": min(config.protocol.queries or queries, queries),
    }


def _finished(
    cell: AttackCell,
    blocks: Sequence[tuple[Block | Ceiling, Mapping[str, Tensor]]],
    place: Place,
    folder: Path,
    final: Path,
) -> Record:
    """The record of one budget, with its pictures and `queries.parquet` in `folder`."""

    def made(planted: bool) -> list[Mapping[str, Tensor]]:
        return [
            tensors
            for block, tensors in blocks
            if isinstance(block, Block) and block.attack is cell and block.planted == planted
        ]

    began = time.perf_counter()
    config, trained = seen_by(cell, False, place)
    items = made(True) if config.protocol.poison else None
    outcome, record, scores = _measured(cell, made(False), items, place)
    database = place.part(cell.codes)[str(config.protocol.database)]
    folder.mkdir(parents=True, exist_ok=True)
    attacked = Attacked(config, trained, place.part(cell.fit), outcome)
    shown = examples(attacked, scores.columns, database, folder)
    write_queries(folder / "queries.parquet", outcome, scores.columns)
    spent = place.seconds["all"] + time.perf_counter() - began
    run = run_info(final, config.seed, config.device, {**record.run.seconds, "all": spent})
    return record.model_copy(update={"run": run, "examples": shown})


def _check_threat(
    config: AttackConfig, victim: HashVictim, method: Attack, data: Dataset
) -> AttackProtocol:
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
            f"{', '.join(sorted(method.modalities))}, got {modality!r}; `advhash list attacks` "
            "says what others move"
        )
    method.check_gradients(victim)
    method.check_data(data)
    if victim.is_image(modality):
        stored = data.database.inputs[modality]
        values = (
            stored[0].numel()
            if isinstance(stored, Tensor)
            else COLOURS * int(stored.sizes.prod(axis=1).min())
        )
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
    check_search(protocol, victim, database, len(data.database))
    start = check_threshold(protocol, victim, data)
    return protocol.model_copy(update={**written_search(protocol), **start})


def resolve(config: AttackConfig, known: Known) -> AttackConfig:
    """The config with every default written out, so that its file replays the run.

    Raises UsageError, before any training, for whatever can be seen from the config: a budget that
    the attack cannot take, a direction or a modality that victim or attack lack.
    """
    victim, data = known.victim, known.data
    attack = config.attack.written(ATTACKS)
    method: Attack = ATTACKS.create(attack.name, attack.settings)
    method.check_budget(config.budget.resolve(method.default_budget))
    expect_precision(attack.settings.get("precision", "no"), torch.device(known.device))
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
