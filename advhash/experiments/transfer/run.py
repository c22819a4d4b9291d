"""`advhash transfer`: attacks made on one victim, judged on all.

Every source × method × target. The target is judged as it would serve: its own codes of the moved
query, its own database hashed by itself (scoring against the source's database is a known error of
published code). Queries and targets are the same in every cell, and cells on the diagonal are what
`advhash attack` gives for the same seed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from advhash.attacks.base import AttackData
from advhash.budget import Budget
from advhash.codes.packed import HashCodes
from advhash.data.dataset import Progress, silent
from advhash.errors import RunError
from advhash.experiments.attack.columns import Columns, retrieval_columns, retrieval_metrics
from advhash.experiments.attack.perturb import attack_queries, noise_precision
from advhash.experiments.attack.record import (
    Outcome,
    attack_info,
    budget_info,
    dataset_info,
    run_info,
    victim_info,
)
from advhash.experiments.attack.run import resolve
from advhash.experiments.config import AttackConfig, MethodConfig
from advhash.experiments.prepare.ceiling import target_ceilings
from advhash.experiments.prepare.code_key import code_version
from advhash.experiments.prepare.fit_attack import FittedAttack, fit_attack
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import cache_identity
from advhash.experiments.transfer.config import TransferConfig
from advhash.experiments.transfer.members import Member, labels_of, planned, prepared
from advhash.measures.intervals import (
    CONFIDENCE,
    RESAMPLES,
    Metric,
    mean_metric,
    paired_difference,
)
from advhash.measures.sanity import Flag, check_indicators
from advhash.reports.page.render import render
from advhash.reports.record import Protocol, main_metric
from advhash.reports.transfer import Cell, Method, TransferRecord, Victim
from advhash.storage.cache import content_key
from advhash.storage.files import storage_errors, write_json
from advhash.storage.run_folder import RunFolder, environment, new_run_id

__all__ = ["Column", "transfer"]


@dataclass(frozen=True)
class Column:
    """A target and the average precisions of a cell.

    codes: (N,) of the moved queries, by the target; wanted: (N,C) labels of targets or queries
    """

    method: str
    source: str
    target: str
    goal: str
    codes: HashCodes
    wanted: npt.NDArray[np.uint8]
    columns: Columns
    noise: npt.NDArray[np.float64] | None  # of the same figure, under noise


Extend = Callable[[TransferRecord, Sequence[Member], Sequence[Column]], TransferRecord]


def transfer(
    config: TransferConfig,
    out: Path | None = None,
    progress: Progress = silent,
    extend: Extend | None = None,
) -> TransferRecord:
    """Attack on each victim, judge on all, and write the run folder (`out`, or `runs/<id>`).

    An interrupted run goes on when it is started again with the same `out`.

    extend: makes the record that is written from the one of the matrix

    Raises AdvhashError: victims of other data, without the query modality, a budget that a method
    cannot take.
    """
    labels, methods = labels_of(config.victims), labels_of(config.attacks)
    config, foreseen = planned(config, labels)
    seconds: dict[str, float] = {}
    began = time.perf_counter()
    members = prepared(config, labels, foreseen, progress)
    seconds["victims"] = time.perf_counter() - began
    folder = RunFolder.start_or_continue(out or Path("runs") / new_run_id("transfer"))
    folder.identify(
        content_key(
            {
                "victims": [cache_identity(member.trained) for member in members],
                "config": config.to_toml(),
                "code": code_version("experiments.attack", "experiments.transfer"),
            }
        )
    )
    try:
        folder.write_text("config.toml", config.to_toml())
        write_json(folder.path / "env.json", environment())
        record, columns = _into(folder, config, members, methods, seconds, progress)
        if extend is not None:
            record = extend(record, members, columns)
        folder.write_text("metrics.json", record.dumps())
        render([folder.path], folder.path / "report.html")
        folder.finish()
    except BaseException as error:
        if folder.abandon() and not isinstance(error, RunError):
            error.add_note(f"finished batches are kept: the same command with --out {folder.final}")
        raise
    return record


def _into(
    folder: RunFolder,
    config: TransferConfig,
    members: Sequence[Member],
    methods: Sequence[str],
    seconds: dict[str, float],
    progress: Progress,
) -> tuple[TransferRecord, list[Column]]:
    columns: list[Column] = []
    infos: list[Method] = []
    budgets: dict[str, Budget] = {}
    rows = torch.empty(0)
    began = time.perf_counter()
    for table, method in zip(config.attacks, methods, strict=True):
        noises: dict[str, npt.NDArray[np.float64] | None] = {}
        for place, source in enumerate(members):
            fitted, outcome = _moved(folder, config, table, source, method, place, progress)
            infos.append(
                Method(
                    label=method,
                    source=source.label,
                    info=attack_info(table.name, fitted, outcome),
                )
            )
            budgets[method], rows = fitted.budget, outcome.rows
            for target in members:
                if target.label not in noises:
                    noises[target.label] = noise_precision(
                        _alone(config, target, table),
                        target.trained,
                        fitted,
                        outcome,
                        target.codes,
                    )
                noise = noises[target.label]
                columns.append(
                    _judged(config, method, source, target, fitted, outcome, noise, progress)
                )
    seconds["attacks"] = time.perf_counter() - began
    _write_queries(folder.path / "queries.parquet", columns, rows.numpy())
    boot = derive_seed(config.seed, "bootstrap")
    cells = [_cell(column, boot) for column in columns]
    aimed = any(column.goal == "targeted" for column in columns)
    first = members[0].trained
    record = TransferRecord(
        schema_="advhash/transfer/1",
        command="transfer",
        run=run_info(folder.final, config.seed, str(first.victim.device), seconds),
        victims=[
            Victim(label=one.label, database=one.database, info=victim_info(one.trained))
            for one in members
        ],
        methods=infos,
        dataset=dataset_info(first.data),
        budgets={
            method: budget_info(budget, eight_bit=config.budget.eight_bit)
            for method, budget in budgets.items()
        },
        protocol=Protocol(
            targets=config.protocol.targets if aimed else None,
            query_modality=config.protocol.query_modality,
            database=config.protocol.database or "each victim's own",
            queries=len(rows),
            batch_size=config.protocol.batch_size,
            top_k=config.protocol.top_k,
            ties=config.protocol.ties,
            empty=config.protocol.empty,
            empty_queries=int((np.nan_to_num(columns[0].columns["map_chance"]) == 0).sum()),
            confidence=CONFIDENCE,
            resamples=RESAMPLES,
        ),
        flags=_flags(members, cells, infos),
        metrics=_headline(methods, columns, boot),
        cells=cells,
    )
    return record, columns


def _alone(config: TransferConfig, member: Member, table: MethodConfig) -> AttackConfig:
    """What `advhash attack` with this victim and method would run."""
    protocol = config.protocol.model_copy(update={"database": member.database})
    alone = AttackConfig(
        seed=config.seed,
        device=config.device,
        victim=member.trained.replay,
        attack=table,
        dataset=config.dataset,
        budget=config.budget,
        protocol=protocol,
    )
    return resolve(alone, member.trained)


def _moved(
    folder: RunFolder,
    config: TransferConfig,
    table: MethodConfig,
    source: Member,
    method: str,
    place: int,
    progress: Progress,
) -> tuple[FittedAttack, Outcome]:
    """The queries as the method moves them on one source, exactly as `advhash attack` does."""
    trained, modality = source.trained, config.protocol.query_modality
    alone = _alone(config, source, table)
    seen = AttackData(trained.data, source.codes, source.database, modality)
    fitted = fit_attack(alone, trained, seen, progress)
    prefix = f"{method}-{place}-".replace("/", "_")
    return fitted, attack_queries(folder.part, alone, trained, fitted, progress, prefix=prefix)


def _judged(
    config: TransferConfig,
    method: str,
    source: Member,
    target: Member,
    fitted: FittedAttack,
    outcome: Outcome,
    noise: npt.NDArray[np.float64] | None,
    progress: Progress,
) -> Column:
    protocol, trained = config.protocol, target.trained
    modality, data = protocol.query_modality, trained.data
    ceiling = None
    if outcome.targets is not None:
        ceiling = target_ceilings(
            trained.victim,
            AttackData(data, target.codes, target.database, modality),
            outcome.targets,
            ties=protocol.ties,
            top_k=protocol.top_k,
            identity=cache_identity(trained),
            progress=progress,
        )

    clean, codes = (
        HashCodes.concatenate(
            [trained.victim.encode(part, modality) for part in inputs.split(protocol.batch_size)]
        )
        for inputs in (outcome.clean, outcome.moved)
    )
    found = retrieval_columns(
        clean,
        codes,
        target.codes,
        labels=outcome.labels,
        database_labels=data.database.labels.numpy(),
        targets=outcome.targets,
        ceiling=ceiling,
        ties=protocol.ties,
        top_k=protocol.top_k,
        empty=protocol.empty,
    )
    wanted = outcome.labels if outcome.targets is None else outcome.targets
    goal = fitted.attack.goal
    return Column(method, source.label, target.label, goal, codes, wanted, found, noise)


def _cell(column: Column, seed: int) -> Cell:
    found, main = column.columns, main_metric(column.goal)
    targeted = column.goal == "targeted"

    def over(base: npt.NDArray[np.float64]) -> Any:
        ahead, behind = (found[main], base) if targeted else (base, found[main])
        return paired_difference(ahead, behind, seed)

    return Cell(
        method=column.method,
        source=column.source,
        target=column.target,
        metrics=retrieval_metrics(found, seed),
        gain=over(found["tmap_clean" if targeted else "map"]),
        over_noise=None if column.noise is None else over(column.noise),
    )


def _headline(
    methods: Sequence[str], columns: Sequence[Column], seed: int
) -> dict[str, Metric | None]:
    """Of each method: on its own victims, and transferred, over queries."""
    metrics: dict[str, Metric | None] = {}
    for method in methods:
        mine = [column for column in columns if column.method == method]
        main = main_metric(mine[0].goal)
        for name, same in (("own", True), ("transferred", False)):
            kept = [
                column.columns[main] for column in mine if (column.source == column.target) is same
            ]
            metrics[f"{main}_{name}:{method}"] = mean_metric(np.mean(kept, axis=0), seed)
    return metrics


def _flags(
    members: Sequence[Member], cells: Sequence[Cell], methods: Sequence[Method]
) -> list[Flag]:
    flags = [
        Flag(flag["name"], flag["level"], f"{member.label}: {flag['message']}")
        for member in members
        for flag in member.trained.card.get("flags", [])
    ]
    for made in methods:
        for flag in check_indicators(made.info.indicators):
            told = f"{made.label} on {made.source}: {flag.message}"
            flags.append(Flag(flag.name, flag.level, told))
    for cell in cells:
        if cell.source == cell.target and (cell.gain.low is None or cell.gain.low <= 0):
            flags.append(
                Flag(
                    "no_effect",
                    "warning",
                    f"{cell.method} does not move {cell.source} itself: that it moves no other "
                    "victim says nothing about transfer.",
                )
            )
    return flags


def _write_queries(file: Path, columns: Sequence[Column], rows: npt.NDArray[np.int64]) -> None:
    """One row for each query of each cell: enough to compute every figure again."""
    tables = []
    names = sorted({name for column in columns for name in column.columns})
    for column in columns:
        table: dict[str, Any] = {
            **{
                name: [getattr(column, name)] * len(rows) for name in ("method", "source", "target")
            },
            "query": rows,
        }
        absent = np.full(len(rows), np.nan)
        table |= {name: column.columns.get(name, absent) for name in names}
        table["noise"] = absent if column.noise is None else column.noise
        tables.append(pa.table(table))
    with storage_errors(file):
        pq.write_table(pa.concat_tables(tables), file)
