"""`advhash lifelong`: every order of categories with every seed, then one run folder."""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from advhash.compute.executor import check_executor, run_tasks
from advhash.data.dataset import Dataset, Progress, silent
from advhash.data.load import load_dataset
from advhash.errors import DataError, UsageError
from advhash.experiments.attack.record import dataset_info, run_info
from advhash.experiments.config import DatasetConfig, MethodConfig
from advhash.experiments.lifelong.attack import attack_stages
from advhash.experiments.lifelong.cell import Cell, run_cell
from advhash.experiments.lifelong.config import LifelongConfig
from advhash.experiments.lifelong.figures import (
    CellFigures,
    Robustness,
    Timing,
    headline,
    robustness_rows,
    table_rows,
    timing_rows,
)
from advhash.experiments.lifelong.orders import Order, draw_orders, stage_of
from advhash.experiments.prepare.code_key import code_version, same_code
from advhash.experiments.prepare.seeds import derive_seed, resolve_device
from advhash.experiments.prepare.victim import data_settings, load_data
from advhash.measures.intervals import CONFIDENCE, RESAMPLES
from advhash.measures.sanity import Flag
from advhash.registry import ATTACKS, VICTIMS
from advhash.reports.lifelong.record import (
    LIFELONG,
    AttackRow,
    LifelongRecord,
    MapRow,
    Protocol,
    TimeRow,
    Victim,
)
from advhash.reports.page.render import render
from advhash.storage.cache import cache_root, cached, content_key
from advhash.storage.checkpoint import read_tensors, write_tensors
from advhash.storage.files import write_bytes, write_json
from advhash.storage.run_folder import RunFolder, environment, new_run_id
from advhash.victims.cross_modal.dcmh import DCMH
from advhash.victims.cross_modal.dlcmh import DLCMH
from advhash.victims.training.acceleration import precision

__all__ = ["LifelongPlan", "lifelong", "lifelong_plan", "plan_document"]

LEAST_ROWS = 2
ENOUGH = 10  # new queries of an increment: below, its figures say little

CODE = ("experiments.attack", "experiments.lifelong")  # decide over cells


@dataclass(frozen=True)
class Task:
    """One cell, with all that decides over it."""

    dataset: str
    dataset_settings: dict[str, Any]
    fingerprint: str
    order: Order
    order_number: int
    seed: int
    seed_number: int
    victim: dict[str, Any]
    rival: dict[str, Any]
    attack: dict[str, Any] | None
    queries: int
    device: str
    threads: int

    @property
    def key(self) -> str:
        parts = dataclasses.asdict(self)
        del parts["order_number"], parts["seed_number"]  # names, which decide over nothing
        if self.attack is None:
            del parts["queries"]
        precise = precision(torch.device(self.device))
        return content_key({**parts, "precision": precise, "code": code_version(*CODE)})


@dataclass(frozen=True)
class LifelongPlan:
    """Data, orders and tasks of a config, checked; `config` has every default written out."""

    config: LifelongConfig
    data: Dataset
    orders: list[Order]
    tasks: list[Task]


def lifelong_plan(config: LifelongConfig) -> LifelongPlan:
    """Refuse, before any training, what can be seen from the config. Raises AdvhashError."""
    for table, expected in (("victim", "dlcmh"), ("rival", "dcmh"), ("attack", "prosgan")):
        name = getattr(config, table).name
        if name != expected:
            raise UsageError(f"the lifelong protocol takes {table} {expected}, got {name!r}")
    data = load_data(config.dataset, DLCMH.default_dataset)
    wanted = config.lifelong
    if wanted.attacked_seeds > wanted.seeds:
        raise UsageError(
            f"expected lifelong.attacked_seeds of at most {wanted.seeds}, got "
            f"{wanted.attacked_seeds}"
        )
    if wanted.categories is None:
        seed = derive_seed(config.seed, "orders")
        orders = draw_orders(data, wanted.orders, wanted.increments, wanted.share, seed)
    else:
        orders = [tuple(tuple(names) for names in order) for order in wanted.categories]
        _check_orders(data, orders)
    _check_rows(data, orders)
    given = {**config.victim.settings}
    if "increments" in given:
        raise UsageError("the order of categories is set by lifelong.categories, not by the victim")
    victim = VICTIMS.settings("dlcmh", data_settings(data, DLCMH.data_arguments(data), given))
    shared = {
        name: victim[name]
        for name in ("bits", "backbone", "pretrained", "freeze_backbone", "augmentation")
    }
    other = {
        name: value
        for name, value in config.rival.settings.items()
        if name in shared and value != shared[name]
    }
    if other:
        raise UsageError(
            f"the rival is built like the victim: expected no rival.{next(iter(other))}; set "
            f"victim.{next(iter(other))}"
        )
    arguments = data_settings(data, DCMH.data_arguments(data), config.rival.settings)
    rival = VICTIMS.settings("dcmh", {**arguments, **shared})
    attack = ATTACKS.settings("prosgan", config.attack.settings)
    for name, settings in (("dlcmh", victim), ("dcmh", rival)):
        VICTIMS.create(name, settings)  # a wrong value must not cost a training
    ATTACKS.create("prosgan", attack)
    device = str(resolve_device(config.device))
    fingerprint = data.fingerprint()
    tasks = [
        Task(
            data.name,
            dict(data.settings),
            fingerprint,
            order,
            number,
            derive_seed(config.seed, f"lifelong {seed}"),
            seed,
            victim,
            rival,
            attack if seed < wanted.attacked_seeds else None,
            wanted.queries,
            device,
            torch.get_num_threads(),
        )
        for number, order in enumerate(orders)
        for seed in range(wanted.seeds)
    ]
    kept = {name: value for name, value in victim.items() if name not in _of_the_data(data)}
    resolved = config.model_copy(
        update={
            "device": device,
            "victim": MethodConfig.build({"name": "dlcmh", **kept}),
            "rival": MethodConfig.build({"name": "dcmh", **config.rival.settings}),
            "attack": MethodConfig.build({"name": "prosgan", **attack}),
            "dataset": DatasetConfig.build({"name": data.name, **data.settings}),
            "lifelong": wanted.model_copy(
                update={
                    "categories": [[list(names) for names in order] for order in orders],
                    "orders": len(orders),
                }
            ),
        }
    )
    return LifelongPlan(resolved, data, orders, tasks)


def _of_the_data(data: Dataset) -> set[str]:
    return set(DLCMH.data_arguments(data))


def _check_orders(data: Dataset, orders: list[Order]) -> None:
    """Raise UsageError for unknown or repeated categories, or orders of different lengths."""
    if not orders or len({len(order) for order in orders}) != 1 or not orders[0]:
        raise UsageError("lifelong.categories: expected orders of as many increments each, above 0")
    for order in orders:
        names = [name for increment in order for name in increment]
        unknown = [name for name in names if name not in data.classes]
        if unknown or len(set(names)) < len(names) or not all(order):
            raise UsageError(
                f"lifelong.categories: expected categories of {data.name!r}, each once, got "
                f"{order}; `advhash data show {data.name}` lists them"
            )


def _check_rows(data: Dataset, orders: list[Order]) -> None:
    """Raise UsageError where a phase would have nothing to learn from, or orders are the same."""
    if len(set(orders)) < len(orders):
        raise UsageError("lifelong.categories: expected orders that differ")
    for number, order in enumerate(orders):
        stages = stage_of(data.database.labels[data.train_rows], data.classes, order)
        rows = torch.bincount(stages, minlength=len(order) + 1).tolist()
        if min(rows) < LEAST_ROWS:
            raise UsageError(
                f"order {number}: expected at least {LEAST_ROWS} training rows for phase 1 and "
                f"each increment, got {rows}"
            )


def lifelong(
    config: LifelongConfig,
    out: Path | None = None,
    progress: Progress = silent,
    *,
    executor: str = "inline",
) -> LifelongRecord:
    """Run every cell, or take it from the cache, and write the run folder.

    A finished cell is in the cache: the same command goes on where it was interrupted.

    Raises AdvhashError.
    """
    check_executor(executor)
    began = time.perf_counter()
    plan = lifelong_plan(config)
    folder = RunFolder.start(out or Path("runs") / new_run_id("dlcmh-lifelong"))
    try:
        shown = progress if executor == "inline" else silent  # other processes have no screen
        work = functools.partial(run_task, progress=shown)
        cells = run_tasks(
            executor, work, plan.tasks, stage="cells", progress=progress, same=same_code
        )
        folder.write_text("config.toml", plan.config.to_toml())
        write_json(folder.path / "env.json", environment())
        record = _record(plan, cells, folder.final, time.perf_counter() - began)
        write_bytes(folder.path / "queries.parquet", _queries(cells))
        folder.write_text("metrics.json", record.dumps())
        render([folder.path], folder.path / "report.html")
        folder.finish()
    except BaseException as error:
        folder.abandon()
        error.add_note("finished cells are in the cache: the same command goes on from there")
        raise
    return record


def run_task(task: Task, progress: Progress = silent) -> CellFigures:
    """One cell: read where it was finished before, else trained and stored."""

    def build(folder: Path) -> None:
        torch.set_num_threads(task.threads)
        data = load_dataset(task.dataset, task.dataset_settings)
        if data.fingerprint() != task.fingerprint:
            raise DataError(
                f"expected the data of {task.dataset!r} that the run began with, got others: their "
                "files have changed, or a worker sees other ones"
            )
        cell = run_cell(
            data,
            task.order,
            task.seed,
            settings=task.victim,
            rival=task.rival,
            device=torch.device(task.device),
            progress=progress,
        )
        attacked = []
        if task.attack is not None:
            attacked = attack_stages(
                data,
                cell,
                task.order,
                task.seed,
                settings=task.attack,
                queries=task.queries,
                progress=progress,
            )
        _write_cell(folder, cell, attacked)

    return cached("lifelong", task.key, build, lambda folder: _read_cell(folder, task))


def _write_cell(folder: Path, cell: Cell, attacked: list[Robustness]) -> None:
    tensors = {
        "query_stage": torch.from_numpy(cell.query_stage),
        "chance": torch.from_numpy(cell.chance),
    }
    for stage in cell.stages:
        for way, values in stage.columns.items():
            tensors[f"map/{stage.method}/{stage.stage}/{way}"] = torch.from_numpy(values.copy())
    for one in attacked:
        for name, values in one.values.items():
            tensors[f"attack/{one.attack}/{one.stage}/{name}"] = torch.from_numpy(values.copy())
    write_tensors(folder / "cell.safetensors", tensors)
    timing = ("method", "stage", "seconds", "cpu_seconds", "epochs", "changed", "trace")
    write_json(
        folder / "cell.json",
        {
            "rows": cell.rows,
            "stages": [{name: getattr(stage, name) for name in timing} for stage in cell.stages],
        },
    )


def _read_cell(folder: Path, task: Task) -> CellFigures:
    tensors = {
        name: values.numpy() for name, values in read_tensors(folder / "cell.safetensors").items()
    }
    stored = json.loads((folder / "cell.json").read_text("utf-8"))
    columns: dict[tuple[str, int], dict[str, Any]] = {}
    attacked: dict[tuple[str, int], dict[str, Any]] = {}
    for name, values in tensors.items():
        kind, *path = name.split("/")
        if kind in ("map", "attack"):
            method, stage, way = path
            table = columns if kind == "map" else attacked
            table.setdefault((method, int(stage)), {})[way] = values
    timing, order = {}, {}
    for place, row in enumerate(stored["stages"]):
        key = row.pop("method"), row.pop("stage")
        timing[key] = Timing(**{**row, "trace": [tuple(point) for point in row["trace"]]})
        order[key] = place
    return CellFigures(
        task.order_number,
        task.seed_number,
        tensors["query_stage"],
        tensors["chance"],
        stored["rows"],
        dict(sorted(columns.items(), key=lambda item: order[item[0]])),
        timing,
        [
            Robustness(attack, stage, values)
            for (attack, stage), values in sorted(attacked.items(), key=lambda item: item[0][1])
        ],
    )


def _record(
    plan: LifelongPlan, cells: list[CellFigures], folder: Path, seconds: float
) -> LifelongRecord:
    config, data = plan.config, plan.data
    seed = derive_seed(config.seed, "bootstrap")
    task = plan.tasks[0]
    return LifelongRecord(
        schema_=LIFELONG,
        command="lifelong",
        run=run_info(folder, config.seed, config.device, {"all": seconds}),
        victim=_described("dlcmh", task.victim),
        rival=_described("dcmh", task.rival),
        attack=plan.config.attack.settings if any(cell.robustness for cell in cells) else None,
        dataset=dataset_info(data),
        protocol=Protocol(
            orders=[[list(names) for names in order] for order in plan.orders],
            seeds=sorted({task.seed_number for task in plan.tasks}),
            rows=[next(c.rows for c in cells if c.order == n) for n in range(len(plan.orders))],
            queries=[_queries_by_stage(data, order) for order in plan.orders],
            confidence=CONFIDENCE,
            resamples=RESAMPLES,
            threads=task.threads,
        ),
        flags=_flags(plan),
        metrics=headline(cells, seed),
        table=[MapRow.model_validate(row) for row in table_rows(cells, seed)],
        times=[TimeRow.model_validate(row) for row in timing_rows(cells, seed)],
        robustness=[AttackRow.model_validate(row) for row in robustness_rows(cells, seed)],
    )


def _described(name: str, settings: dict[str, Any]) -> Victim:
    entry = VICTIMS[name]
    return Victim(name=name, settings=settings, source=entry.source, deviations=entry.deviations)


def _queries_by_stage(data: Dataset, order: Order) -> list[int]:
    stages = stage_of(data.query.labels, data.classes, order)
    return torch.bincount(stages, minlength=len(order) + 1).tolist()


def _flags(plan: LifelongPlan) -> list[Flag]:
    flags = []
    few = [
        f"order {number}, increment {stage}: {count}"
        for number, order in enumerate(plan.orders)
        for stage, count in enumerate(_queries_by_stage(plan.data, order))
        if count < ENOUGH
    ]
    if few:
        flags.append(
            Flag(
                "few_queries",
                "warning",
                f"Fewer than {ENOUGH} queries ({'; '.join(few)}): figures of these say little.",
            )
        )
    flags.append(
        Flag(
            "few_cells",
            "info" if len(plan.tasks) >= 9 else "warning",
            f"{len(plan.orders)} orders and {len(plan.tasks) // len(plan.orders)} seeds: intervals "
            "from so few are too narrow where orders and seeds are what varies.",
        )
    )
    return flags


def _queries(cells: list[CellFigures]) -> bytes:
    """One row for each order, seed, method, stage and query: enough for every mean again."""
    parts = []
    for cell in cells:
        for (method, stage), columns in cell.columns.items():
            count = len(cell.query_stage)
            parts.append(
                pa.table(
                    {
                        "order": np.full(count, cell.order),
                        "seed": np.full(count, cell.seed),
                        "method": [method] * count,
                        "stage": np.full(count, stage),
                        "query": np.arange(count),
                        "query_stage": cell.query_stage,
                        "chance": cell.chance[stage],
                        **columns,
                    }
                )
            )
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(parts), buffer)
    content: bytes = buffer.getvalue().to_pybytes()
    return content


def plan_document(plan: LifelongPlan) -> dict[str, Any]:
    """What `--dry-run` prints: everything checked, nothing trained."""
    root = cache_root() / "lifelong"
    return {
        "schema": "advhash/plan/1",
        "command": "lifelong",
        "seed": plan.config.seed,
        "device": plan.config.device,
        "dataset": {"name": plan.data.name, "database": len(plan.data.database)},
        "orders": [
            {
                "increments": [list(names) for names in order],
                "queries": _queries_by_stage(plan.data, order),
            }
            for order in plan.orders
        ],
        "cells": len(plan.tasks),
        "cells_done": sum((root / task.key).is_dir() for task in plan.tasks),
    }
