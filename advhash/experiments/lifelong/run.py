"""`advhash lifelong`: every order of categories with every seed, then one run folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from advhash.data.dataset import Dataset
from advhash.errors import UsageError
from advhash.experiments.attack.record import dataset_info, run_info
from advhash.experiments.config import DatasetConfig, VictimConfig
from advhash.experiments.experiment import Experiment, Place, Plan
from advhash.experiments.lifelong.attack import attack_stages
from advhash.experiments.lifelong.cell import Lifetime, run_cell
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
from advhash.experiments.prepare.code_key import code_version
from advhash.experiments.prepare.data_cell import DataCell
from advhash.experiments.prepare.seeds import derive_seed, resolve_device
from advhash.experiments.prepare.victim import data_settings, load_data
from advhash.measures.intervals import CONFIDENCE, RESAMPLES
from advhash.measures.sanity import Flag
from advhash.registry import ATTACKS, EXPERIMENTS, VICTIMS
from advhash.reports.lifelong.record import (
    LIFELONG,
    AttackRow,
    LifelongProtocol,
    LifelongRecord,
    MapRow,
    TimeRow,
    Victim,
)
from advhash.storage.cache import content_key
from advhash.storage.cells import Result
from advhash.storage.tables import write_table
from advhash.victims.cross_modal.dcmh import DCMH
from advhash.victims.cross_modal.dlcmh import DLCMH, SOURCE
from advhash.victims.networks.pretrained import without_weights

LEAST_ROWS = 2
ENOUGH = 10  # new queries of an increment: below, its figures say little
CODE = ("experiments.attack", "experiments.lifelong")


@dataclass(frozen=True, kw_only=True)
class OrderCell(DataCell):
    """One order of categories with one seed, with all that determines its figures."""

    order: Order
    order_number: int
    seed: int
    seed_number: int
    victim: dict[str, Any]
    rival: dict[str, Any]
    attack: dict[str, Any] | None
    queries: int

    @property
    def key(self) -> str:
        names = ["order_number", "seed_number"]
        if self.attack is None:
            names.append("queries")
        return content_key({**self.content(*names), "code": code_version(*CODE)})


@dataclass(frozen=True, kw_only=True)
class LifelongPlan(Plan[LifelongConfig, OrderCell]):
    """Data, orders and cells of the protocol."""

    data: Dataset
    orders: list[Order]


@EXPERIMENTS.register("lifelong", source=SOURCE)
class Lifelong(Experiment[LifelongConfig, OrderCell, LifelongPlan, LifelongRecord]):
    """Categories that arrive one after another: DLCMH against fine-tuning and retraining."""

    name, config, record, code = "lifelong", LifelongConfig, LifelongRecord, CODE

    def plan(self, config: LifelongConfig) -> LifelongPlan:
        return _plan(config)

    def compute(self, cell: OrderCell, place: Place) -> Result:
        data, device = cell.data(), torch.device(cell.device)
        figures = run_cell(
            data,
            cell.order,
            cell.seed,
            settings=cell.victim,
            rival=cell.rival,
            device=device,
            progress=place.progress,
        )
        attacked = []
        if cell.attack is not None:
            attacked = attack_stages(
                data,
                figures,
                cell.order,
                cell.seed,
                settings=cell.attack,
                queries=cell.queries,
                progress=place.progress,
            )
        return _kept(figures, attacked)

    def judge(self, plan: LifelongPlan, results: Sequence[Result], place: Place) -> LifelongRecord:
        cells = [_figures(cell, done) for cell, done in zip(plan.cells, results, strict=True)]
        write_table(place.folder / "queries.parquet", *_queries(cells))
        return _record(plan, cells, place)


def _plan(config: LifelongConfig) -> LifelongPlan:
    """Refuse, before any training, what can be seen from the config. Raises AdvhashError."""
    for table, expected in (("victim", "dlcmh"), ("rival", "dcmh"), ("attack", "prosgan")):
        name = getattr(config, table).name
        if name != expected:
            raise UsageError(f"the lifelong protocol takes {table} {expected}, got {name!r}")
    data = load_data(config.dataset, DLCMH)
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
    attack = config.attack.written(ATTACKS)
    for name, settings in (("dlcmh", victim), ("dcmh", rival)):
        with without_weights():
            VICTIMS.create(name, settings)  # a wrong value must not cost a training
    ATTACKS.create(attack.name, attack.settings)
    device = str(resolve_device(config.device))
    cells = [
        OrderCell.of(
            data,
            device,
            order=order,
            order_number=number,
            seed=derive_seed(config.seed, f"lifelong {seed}"),
            seed_number=seed,
            victim=victim,
            rival=rival,
            attack=attack.settings if seed < wanted.attacked_seeds else None,
            queries=wanted.queries,
        )
        for number, order in enumerate(orders)
        for seed in range(wanted.seeds)
    ]
    kept = {name: value for name, value in victim.items() if name not in _of_the_data(data)}
    resolved = config.model_copy(
        update={
            "device": device,
            "victim": VictimConfig.build({"name": "dlcmh", **kept}),
            "attack": attack,
            "dataset": DatasetConfig.of(data),
            "lifelong": wanted.model_copy(
                update={
                    "categories": [[list(names) for names in order] for order in orders],
                    "orders": len(orders),
                }
            ),
        }
    )
    return LifelongPlan(
        config=resolved,
        cells=cells,
        label="dlcmh-lifelong",
        shown={
            "dataset": {**data.named, "database": len(data.database)},
            "orders": [
                {
                    "increments": [list(names) for names in order],
                    "queries": _queries_by_stage(data, order),
                }
                for order in orders
            ],
        },
        data=data,
        orders=orders,
    )


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
        rows_of = data.rows_trained_on("advhash lifelong")
        stages = stage_of(data.database.labels[rows_of], data.classes, order)
        rows = torch.bincount(stages, minlength=len(order) + 1).tolist()
        if min(rows) < LEAST_ROWS:
            raise UsageError(
                f"order {number}: expected at least {LEAST_ROWS} training rows for phase 1 and "
                f"each increment, got {rows}"
            )


def _kept(cell: Lifetime, attacked: list[Robustness]) -> Result:
    tensors = {
        "query_stage": torch.from_numpy(cell.query_stage),
        "chance": torch.from_numpy(cell.chance),
    }
    for stage in cell.stages:
        for way, values in stage.columns.items():
            tensors[f"map/{stage.method}/{stage.stage}/{way}"] = torch.from_numpy(values.copy())
    for row in attacked:
        for name, values in row.values.items():
            tensors[f"attack/{row.attack}/{row.stage}/{name}"] = torch.from_numpy(values.copy())
    stages = [
        {name: value for name, value in vars(stage).items() if name != "columns"}
        for stage in cell.stages
    ]
    return Result({"rows": cell.rows, "stages": stages}, tensors)


def _figures(cell: OrderCell, done: Result) -> CellFigures:
    tensors = {name: values.numpy() for name, values in done.tensors.items()}
    stored = done.document
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
        key = row["method"], row["stage"]
        rest = {name: value for name, value in row.items() if name not in ("method", "stage")}
        timing[key] = Timing(**{**rest, "trace": [tuple(point) for point in row["trace"]]})
        order[key] = place
    return CellFigures(
        cell.order_number,
        cell.seed_number,
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


def _record(plan: LifelongPlan, cells: list[CellFigures], place: Place) -> LifelongRecord:
    config, data = plan.config, plan.data
    seed = derive_seed(config.seed, "bootstrap")
    first = plan.cells[0]
    return LifelongRecord(
        schema_=LIFELONG,
        command="lifelong",
        run=run_info(place.final, config.seed, config.device, {"all": place.seconds["all"]}),
        victim=_described("dlcmh", first.victim),
        rival=_described("dcmh", first.rival),
        attack=plan.config.attack.settings if any(cell.robustness for cell in cells) else None,
        dataset=dataset_info(data),
        protocol=LifelongProtocol(
            orders=[[list(names) for names in order] for order in plan.orders],
            seeds=sorted({cell.seed_number for cell in plan.cells}),
            rows=[next(c.rows for c in cells if c.order == n) for n in range(len(plan.orders))],
            queries=[_queries_by_stage(data, order) for order in plan.orders],
            confidence=CONFIDENCE,
            resamples=RESAMPLES,
            threads=first.threads,
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
            "info" if len(plan.cells) >= 9 else "warning",
            f"Orders: {len(plan.orders)}, seeds: {len(plan.cells) // len(plan.orders)}. Intervals "
            "from so few are too narrow where orders and seeds are what varies.",
        )
    )
    return flags


def _queries(cells: list[CellFigures]) -> Iterator[dict[str, Any]]:
    """One row for each order, seed, method, stage and query: enough for every mean again."""
    for cell in cells:
        count = len(cell.query_stage)
        for (method, stage), columns in cell.columns.items():
            yield {
                "order": np.full(count, cell.order),
                "seed": np.full(count, cell.seed),
                "method": [method] * count,
                "stage": np.full(count, stage),
                "query": np.arange(count),
                "query_stage": cell.query_stage,
                "chance": cell.chance[stage],
                **columns,
            }
