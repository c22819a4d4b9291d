"""`advhash benchmark`: the cells of a suite through an executor, then one record and one page.

What is finished lies in the cache, cell by cell: the same command goes on after a kill of anything.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advhash.compute.executor import check_executor, run_tasks
from advhash.data.dataset import Progress, silent
from advhash.errors import RunError
from advhash.experiments.benchmark.cell import (
    Done,
    TrainingTask,
    Work,
    cell_is_done,
    lost_cell,
    lost_training,
    read_cell,
    run_cells,
    run_training,
    surroundings,
)
from advhash.experiments.benchmark.config import SuiteConfig
from advhash.experiments.benchmark.costs import Costs
from advhash.experiments.benchmark.leaderboard import Sample
from advhash.experiments.benchmark.record import Found, suite_record
from advhash.experiments.benchmark.suite import Cell, plan_suite
from advhash.experiments.prepare.victim import is_trained
from advhash.reports.benchmark import BenchmarkRecord
from advhash.reports.page.render import render
from advhash.storage.cache import content_key
from advhash.storage.files import write_json
from advhash.storage.run_folder import RunFolder, environment, new_run_id

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
        ended = {cell.key: Done(cell.key, "done") for cell in suite.cells}
        missing = [cell for cell in suite.cells if not cell_is_done(cell.key)]
        ended |= _computed(missing, executor, until, progress)
        found, damaged = _read(suite.cells, ended, progress)
        if damaged:  # once more: what is still damaged then has failed
            ended |= _computed(damaged, executor, until, progress)
            again, damaged = _read(damaged, ended, progress)
            found |= again
        folder.write_text("config.toml", suite.config.to_toml())
        write_json(folder.path / "env.json", environment())
        record = suite_record(
            suite, ended, found, folder.final, executor, time.time() - began, progress
        )
        folder.write_text("metrics.json", record.dumps())
        render([folder.path], folder.path / "report.html")
        folder.finish()
    except BaseException as error:
        folder.abandon(keep=False)
        error.add_note("finished cells are in the cache: the same command goes on from there")
        raise
    return record


def _computed(
    cells: Sequence[Cell], executor: str, until: float | None, progress: Progress
) -> dict[str, Done]:
    """Train their victims, attack, and say how every cell ended."""
    ended: dict[str, Done] = {}
    wanted = {cell.training: cell for cell in cells}
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
        same=surroundings,
    )
    without = {one.key: one for one in trained if one.status != "done"}
    works: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        if cell.training in without:
            why = without[cell.training]
            ended[cell.key] = Done(cell.key, why.status, why.message, why.trace)
        else:
            shared = (cell.training, cell.method, cell.attack_seed)
            works.setdefault(shared, []).append(cell)
    alone: list[Cell] = []  # no cell costs those that would have come after it

    def lost(work: Work) -> list[Done]:
        if len(work.cells) == 1:
            return [lost_cell(work.cells[0])]
        alone.extend(work.cells)
        return []

    def run(together: Sequence[Sequence[Cell]]) -> None:
        for dones in run_tasks(
            executor,
            run_cells,
            [Work(tuple(some), until, THREADS) for some in together],
            stage="attacks",
            progress=progress,
            lost=lost,
            same=surroundings,
        ):
            ended.update({one.key: one for one in dones})

    run(list(works.values()))
    if alone:
        run([[cell] for cell in alone])
    return ended


def _read(
    cells: Sequence[Cell], ended: dict[str, Done], progress: Progress
) -> tuple[dict[str, Found], list[Cell]]:
    """The finished cells, and those that cannot be read: `ended` then says so."""
    found, damaged = {}, []
    for place, cell in enumerate(cells):
        if ended[cell.key].status == "done":
            try:
                record, queries = read_cell(cell.key)
            except RunError as error:
                ended[cell.key] = Done(cell.key, "failed", str(error))
                damaged.append(cell)
            else:
                sample = Sample(cell.victim_seed, cell.attack_seed, queries)
                found[cell.key] = Found(cell, record, sample)
        progress("reading cells", place + 1, len(cells))
    return found, damaged


def _is_trained(cell: Cell) -> bool:
    """Whether the cache has its victim; of a hardened one that is not known beforehand."""
    return cell.config.defense is None and is_trained(cell.config)


def benchmark_plan(config: SuiteConfig, executor: str = "inline") -> dict[str, Any]:
    """What `--dry-run` prints: everything checked, nothing trained, and a guess at the time."""
    check_executor(executor)
    suite, costs = plan_suite(config), Costs.read()
    missing = [cell for cell in suite.cells if not cell_is_done(cell.key)]
    victims = {cell.training: cell for cell in missing}.values()
    wanted = [cell for cell in victims if not _is_trained(cell)]
    tasks: list[tuple[str, tuple[str, ...], int]] = [
        *(("cell", cell.names, cell.queries) for cell in missing),
        *(("training", (cell.victim, cell.data), 1) for cell in wanted),
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
