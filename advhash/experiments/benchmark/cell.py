"""A cell of a suite, computed where the executor put it.

What fails is kept as a result, so that one cell never costs the others.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from advhash.errors import AdvhashError, RunError
from advhash.experiments.attack.run import attack_briefly
from advhash.experiments.benchmark.costs import note_cost
from advhash.experiments.benchmark.suite import Cell
from advhash.experiments.config import AttackConfig
from advhash.experiments.prepare.code_key import same_code
from advhash.experiments.prepare.hardened import prepare
from advhash.reports.attack.pairs import Queries, load_queries
from advhash.reports.record import TARGETED_METRICS, Record, load_record
from advhash.storage.cache import cache_name, cache_root, cached

__all__ = [
    "Done", "TrainingTask", "Work", "cell_is_done", "lost_cell", "lost_training", "read_cell",
    "run_cells", "run_training", "surroundings",
]  # fmt: skip

KIND, RUN = "cells", "run"
Status = Literal["done", "failed", "left"]


@dataclass(frozen=True)
class Done:
    """How a cell or a training ended. `trace` is there for what is no error of the user."""

    key: str
    status: Status
    message: str = ""
    trace: str = ""


@dataclass(frozen=True)
class TrainingTask:
    """The victim of a cell. until: on the clock of `time.time`, after which nothing is begun."""

    key: str
    config: AttackConfig
    names: tuple[str, str]
    until: float | None
    threads: int


@dataclass(frozen=True)
class Work:
    """Cells with one victim and one attack, one after the other: they share what is fitted.

    Where a worker dies with it, each goes on in a work of its own.
    """

    cells: tuple[Cell, ...]
    until: float | None
    threads: int


def read_cell(key: str) -> tuple[Record, Queries]:
    """The record of a finished cell and its figures query by query. Raises RunError."""
    folder = cache_root() / KIND / key / RUN
    record = load_record(folder)
    names = ["map_chance"]
    if record.attack.goal == "targeted":
        names += ["map", "map_adversarial", *TARGETED_METRICS[1:4]]
    return record, load_queries(folder, record, names)


def cell_is_done(key: str) -> bool:
    return (cache_root() / KIND / key).is_dir()


def run_training(task: TrainingTask) -> Done:
    """Train a victim, or find it trained."""
    if _over(task.until):
        return Done(task.key, "left")
    with _threads(task.threads):
        began = time.perf_counter()
        try:
            trained = prepare(task.config)
        except Exception as error:
            return _failed(task.key, error)
        if not trained.cached:
            note_cost("training", task.names, 1, time.perf_counter() - began)
    return Done(task.key, "done")


def run_cells(work: Work) -> list[Done]:
    """Attack, or find the run in the cache."""
    with _threads(work.threads):
        return [_run(cell, work.until) for cell in work.cells]


def lost_training(task: TrainingTask) -> Done:
    return Done(task.key, "failed", LOST)


def lost_cell(cell: Cell) -> Done:
    """A cell whose worker died again and again, which is no matter where it died after it."""
    return Done(cell.key, "done") if cell_is_done(cell.key) else Done(cell.key, "failed", LOST)


def surroundings() -> dict[str, str]:
    """What must be the same wherever a cell is computed: its key names the code, not the worker."""
    return {**same_code(), "cache": cache_name()}


LOST = "its worker process died again and again: look for a lack of memory"


def _run(cell: Cell, until: float | None) -> Done:
    def build(folder: Path) -> None:
        began = time.perf_counter()
        record = attack_briefly(cell.config, folder / RUN)
        note_cost("cell", cell.names, record.protocol.queries, time.perf_counter() - began)

    def read(_: Path) -> None:
        try:
            read_cell(cell.key)
        except RunError as error:
            raise ValueError(str(error)) from None  # damaged: computed again

    if _over(until) and not cell_is_done(cell.key):
        return Done(cell.key, "left")
    try:
        cached(KIND, cell.key, build, read)
    except Exception as error:
        return _failed(cell.key, error)
    return Done(cell.key, "done")


def _failed(key: str, error: Exception) -> Done:
    message = str(error) or type(error).__name__
    if isinstance(error, AdvhashError):
        return Done(key, "failed", message)
    trace = "".join(traceback.format_exception(error))
    return Done(key, "failed", f"{type(error).__name__}: {message}", trace)


def _over(until: float | None) -> bool:
    return until is not None and time.time() >= until


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Sums of another number of threads differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
