"""`advhash benchmark`: the cells of a suite through an executor, then one record and one page.

What is finished lies in the cache, cell by cell: the same command goes on after a kill of anything.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advhash.cache import content_key
from advhash.config import SuiteConfig
from advhash.costs import Costs
from advhash.data import Progress, silent
from advhash.errors import RunError
from advhash.executor import check_executor, run_tasks
from advhash.files import write_json
from advhash.recording import run_info
from advhash.reports.benchmark import (
    BENCHMARK,
    BenchmarkRecord,
    CellInfo,
    Method,
    Row,
    Standing,
)
from advhash.reports.html import render
from advhash.reports.leaderboard import (
    Sample,
    mean_over,
    overall,
    ranks,
    summary,
)
from advhash.reports.measures import main_metric
from advhash.reports.record import Flag, Record
from advhash.runs import RunFolder, environment, new_run_id
from advhash.suite_cell import (
    Done,
    TrainingTask,
    Work,
    cell_is_done,
    lost_training,
    lost_work,
    read_cell,
    run_cells,
    run_training,
)
from advhash.suites import Cell, Suite, plan_suite

__all__ = ["benchmark", "benchmark_plan"]

THREADS = 1  # of each worker: figures are the same for any executor and number of workers


def benchmark(
    config: SuiteConfig,
    out: Path | None = None,
    progress: Progress = silent,
    *,
    executor: str = "inline",
    max_seconds: float | None = None,
) -> BenchmarkRecord:
    """Compute what the cache does not have, and write the run folder (`out`, or `runs/<id>`).

    A cell that fails costs no other one: the record names it.

    max_seconds: after which no training and no cell is begun

    Raises AdvhashError for a suite that cannot be.
    """
    check_executor(executor)
    began = time.time()
    until = None if max_seconds is None else began + max_seconds
    suite = plan_suite(config)
    folder = RunFolder.start_or_continue(
        out or Path("runs") / new_run_id(f"benchmark-{config.name}")
    )
    folder.identify(content_key(suite.config.to_toml()))
    try:
        ended = _computed(suite, executor, until, progress)
        folder.write_text("config.toml", suite.config.to_toml())
        write_json(folder.path / "env.json", environment())
        record = _record(suite, ended, folder.final, executor, time.time() - began, progress)
        folder.write_text("metrics.json", record.dumps())
        render([folder.path], folder.path / "report.html")
        folder.finish()
    except BaseException as error:
        folder.abandon(keep=False)
        error.add_note("finished cells are in the cache: the same command goes on from there")
        raise
    return record


def _computed(
    suite: Suite, executor: str, until: float | None, progress: Progress
) -> dict[str, Done]:
    """How every cell ended."""
    missing = [cell for cell in suite.cells if not cell_is_done(cell.key)]
    wanted = {cell.training: cell for cell in missing}
    trained = run_tasks(
        executor,
        run_training,
        [
            TrainingTask(key, cell.config, (cell.victim, cell.data), until, THREADS)
            for key, cell in wanted.items()
        ],
        stage="victims",
        progress=progress,
        lost=lost_training,
    )
    ended = {cell.key: Done(cell.key, "done") for cell in suite.cells}  # as far as not missing
    without = {one.key: one for one in trained if one.status != "done"}
    works: dict[tuple[object, ...], list[Cell]] = {}
    for cell in missing:
        if cell.training in without:
            why = without[cell.training]
            ended[cell.key] = Done(cell.key, why.status, why.message, why.trace)
        else:
            shared = (cell.training, cell.method, cell.attack_seed)
            works.setdefault(shared, []).append(cell)
    for dones in run_tasks(
        executor,
        run_cells,
        [Work(tuple(cells), until, THREADS) for cells in works.values()],
        stage="attacks",
        progress=progress,
        lost=lost_work,
    ):
        ended |= {one.key: one for one in dones}
    return ended


@dataclass(frozen=True)
class _Found:
    """A finished cell with what its run says."""

    cell: Cell
    record: Record
    sample: Sample


def _record(
    suite: Suite,
    ended: Mapping[str, Done],
    folder: Path,
    executor: str,
    seconds: float,
    progress: Progress,
) -> BenchmarkRecord:
    infos, found = [], []
    for place, cell in enumerate(suite.cells):
        done, figures, spent = ended[cell.key], {}, None
        if done.status == "done":
            try:
                record, queries = read_cell(cell.key)
            except RunError as error:
                done = Done(cell.key, "failed", str(error))
            else:
                found.append(
                    _Found(cell, record, Sample(cell.victim_seed, cell.attack_seed, queries))
                )
                figures = {name: metric.value for name, metric in record.metrics.items() if metric}
                spent = sum(record.run.seconds.values())
        infos.append(
            CellInfo(
                key=cell.key,
                dataset=cell.dataset,
                victim=cell.victim,
                method=cell.method,
                budget=cell.budget,
                victim_seed=cell.victim_seed,
                attack_seed=cell.attack_seed,
                status=done.status,
                seconds=None if spent is None else round(spent, 3),
                figures=figures,
                message=done.message,
                trace=done.trace,
            )
        )
        progress("reading cells", place + 1, len(suite.cells))
    config = suite.config
    groups: dict[tuple[str, str, str], dict[str, dict[str, list[_Found]]]] = {}
    for one in found:
        cell = one.cell
        place_ = groups.setdefault((cell.dataset, cell.budget, cell.goal), {})
        place_.setdefault(cell.victim, {}).setdefault(cell.method, []).append(one)
    rows: list[Row] = []
    methods: list[Method] = []
    victims: list[Standing] = []
    for done_groups, (key, table) in enumerate(groups.items()):
        here = _rows(key, table)
        rows += here
        methods += _methods(key, table)
        victims += _standings(key, table, here)
        progress("comparing", done_groups + 1, len(groups))
    flags: list[Flag] = []
    if max(config.victim_seeds, config.attack_seeds) == 1:
        flags.append(
            Flag(
                "one_seed",
                "warning",
                "One seed of victim and attack: intervals cover the choice of queries only.",
            )
        )
    flags += _unequal(groups)
    return BenchmarkRecord(
        schema_=BENCHMARK,
        command="benchmark",
        run=run_info(folder, config.seed, config.device, {"all": seconds}),
        name=config.name,
        suite=config.model_dump(mode="json"),
        executor=executor,
        report=str(folder / "report.html"),
        failed=[one.key for one in infos if one.status == "failed"],
        left=[one.key for one in infos if one.status == "left"],
        flags=flags,
        rows=rows,
        methods=methods,
        victims=victims,
        knowledge={one.cell.method: one.record.attack.knowledge for one in found},
        data={one.cell.dataset: one.record.dataset.fingerprint for one in found},
        deviations={
            info.name: info.deviations
            for one in found
            for info in (one.record.victim, one.record.attack)
            if info.deviations
        },
        attributions=sorted({one.record.dataset.attribution for one in found} - {""}),
        cells=infos,
    )


Place = tuple[str, str, Any]  # data set, budget, goal
Table = Mapping[str, Mapping[str, Sequence[_Found]]]  # victim → method → cells


def _samples(found: Sequence[_Found]) -> list[Sample]:
    return [one.sample for one in found]


def _rows(key: Place, table: Table) -> list[Row]:
    dataset, budget, goal = key
    rows = []
    for victim, by_method in table.items():
        order = ranks(
            {method: [_samples(found)] for method, found in by_method.items()},
            goal,
            strongest=True,
        )
        for method, found in by_method.items():
            spent = found[0].record.budget
            rows.append(
                Row(
                    dataset=dataset,
                    victim=victim,
                    method=method,
                    budget=budget,
                    norm=spent.norm,
                    eps=spent.eps,
                    goal=goal,
                    cells=len(found),
                    rank=order[method],
                    metrics=summary(_samples(found), goal),
                    flags=dict(Counter(flag.name for one in found for flag in one.record.flags)),
                )
            )
    return sorted(rows, key=lambda row: row.rank)


def _methods(key: Place, table: Table) -> list[Method]:
    """Each attack over the victims that all of them were made on."""
    dataset, budget, goal = key
    names = list(dict.fromkeys(method for by_method in table.values() for method in by_method))
    victims = [victim for victim, by_method in table.items() if set(by_method) == set(names)]
    if not victims or len(names) < 2:
        return []
    entries = {method: [_samples(table[victim][method]) for victim in victims] for method in names}
    order = ranks(entries, goal, strongest=True)
    found = [
        Method(
            dataset=dataset,
            budget=budget,
            goal=goal,
            method=method,
            victims=victims,
            rank=order[method],
            main=mean_over(overall(samples, main_metric(goal))),
        )
        for method, samples in entries.items()
    ]
    return sorted(found, key=lambda one: one.rank)


def _unequal(groups: Mapping[Place, Table]) -> list[Flag]:
    """Victims that faced fewer attacks than those beside which they stand."""
    places: dict[tuple[str, str, str], list[str]] = {}
    for (dataset, budget, goal), table in groups.items():
        all_methods = {method for by_method in table.values() for method in by_method}
        for victim, by_method in table.items():
            if missing := all_methods - set(by_method):
                where = f"{dataset}, {goal}"
                told = f"{len(by_method)} of {len(missing) + len(by_method)} attacks"
                places.setdefault((victim, where, told), []).append(budget)
    return [
        Flag(
            "fewer_attacks",
            "warning",
            f"{victim} faced {told} ({where}, {', '.join(budgets)}): under the others it could "
            "stand lower among the victims.",
        )
        for (victim, where, told), budgets in places.items()
    ]


def _standings(key: Place, table: Table, rows: Sequence[Row]) -> list[Standing]:
    """Each victim under the attack whose mean moves it most."""
    dataset, budget, goal = key
    main, sign = main_metric(goal), 1 if goal == "targeted" else -1
    worst: dict[str, Row] = {}
    for row in rows:
        value = row.metrics[main].value
        if value is None:
            continue
        held = worst.get(row.victim)
        if held is None or sign * value > sign * float(held.metrics[main].value or 0):
            worst[row.victim] = row
    order = ranks(
        {victim: [_samples(table[victim][row.method])] for victim, row in worst.items()},
        goal,
        strongest=False,
    )
    found = [
        Standing(
            dataset=dataset,
            budget=budget,
            goal=goal,
            victim=victim,
            method=row.method,
            rank=order[victim],
            metrics=row.metrics,
        )
        for victim, row in worst.items()
    ]
    return sorted(found, key=lambda one: one.rank)


def _queries(cell: Cell) -> int:
    return cell.config.protocol.queries or 1000


def benchmark_plan(config: SuiteConfig, executor: str = "inline") -> dict[str, Any]:
    """What `--dry-run` prints: everything checked, nothing trained, and a guess at the time."""
    check_executor(executor)
    suite, costs = plan_suite(config), Costs.read()
    missing = [cell for cell in suite.cells if not cell_is_done(cell.key)]
    wanted = {cell.training: cell for cell in missing}
    tasks: list[tuple[str, tuple[str, ...], int]] = [
        *(("cell", cell.names, _queries(cell)) for cell in missing),
        *(("training", (cell.victim, cell.data), 1) for cell in wanted.values()),
    ]
    guesses = [costs.estimate(*task) for task in tasks]
    known = [one for one in guesses if one is not None]
    return {
        "schema": "advhash/plan/1",
        "command": "benchmark",
        "name": config.name,
        "seed": config.seed,
        "device": suite.config.device,
        "executor": executor,
        "cells": len(suite.cells),
        "cells_done": len(suite.cells) - len(missing),
        "trainings": len(wanted),
        "seconds": round(sum(known), 1) if len(known) == len(guesses) else None,
        "seconds_known": round(sum(known), 1),
        "unknown_costs": len(guesses) - len(known),
        "uncertain_costs": sum(costs.shared(kind, names) == 0 for kind, names, _ in tasks),
    }
