"""The one idea of a run: settings → plan → cells → record → page.

A kind of run is a class with three methods and one decorator:

    @EXPERIMENTS.register("phase-chart", source="…")
    class PhaseChart(Experiment[PhaseConfig, Training, PhasePlan, PhaseRecord]):
        name, config, record = "phase-chart", PhaseConfig, PhaseRecord
        def plan(self, config): ...             # refuse; write out defaults; train nothing
        def compute(self, cell, place): ...     # in any process
        def judge(self, plan, results, place): ...

`run` alone owns the folder, its lock and its identity, the cells with their cache and executor, the
page, and what an interrupted command is told. `resume` goes on with a folder of any kind.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from advhash.compute.executor import check_executor, run_tasks
from advhash.compute.progress import Progress, silent
from advhash.errors import RunError
from advhash.experiments.config import Run
from advhash.experiments.config_text import read_toml
from advhash.experiments.prepare.code_key import code_version, same_code
from advhash.registry import EXPERIMENTS
from advhash.reports.page.render import render
from advhash.reports.record import Document
from advhash.storage.cells import CellStore, Result
from advhash.storage.files import write_json
from advhash.storage.run_folder import RunFolder, environment, new_run_id

__all__ = [
    "Cell",
    "Experiment",
    "Part",
    "Place",
    "Plan",
    "Result",
    "describe",
    "resume",
    "run",
]


class Cell(Protocol):
    """One piece of work that any process can do: frozen, and small enough to be sent."""

    @property
    def key(self) -> str:
        """Names everything that decides over the result; see `content_key`."""


class Part(Protocol):
    """What cells share, e.g. a trained victim: built once, read from the cache elsewhere."""

    def build(self, place: Place) -> Any: ...


Config = TypeVar("Config", bound=Run)
CellType = TypeVar("CellType", bound=Cell)
Record = TypeVar("Record", bound=Document)


@dataclass(frozen=True, kw_only=True)
class Plan(Generic[Config, CellType]):
    """A run as far as it is known before any training; a kind may add what it found out.

    config: with every default written out; `config.toml` of the folder
    cells:  in the order of their results
    parts:  what they share, by name, in the order in which they are built
    label:  of the folder, where the command names none
    shown:  what `--dry-run` prints beside kind, seed, device and cells
    """

    config: Config
    cells: Sequence[CellType]
    parts: Mapping[str, Part] = field(default_factory=dict)
    label: str = ""
    shown: Mapping[str, Any] = field(default_factory=dict)


class Place:
    """Where a cell is computed, or where a run is judged.

    folder: of the run, to write pictures and rows into; its name may still change, see `final`
    """

    def __init__(
        self,
        parts: Mapping[str, Part],
        progress: Progress = silent,
        *,
        folder: Path | None = None,
        final: Path | None = None,
        store: CellStore | None = None,
    ) -> None:
        self.progress = progress
        self.seconds: dict[str, float] = {}
        self._parts, self._built = parts, dict[str, Any]()
        self._folder, self._final, self._store = folder, final, store

    @property
    def folder(self) -> Path:
        assert self._folder is not None
        return self._folder

    @property
    def final(self) -> Path:
        """The folder as it is called once the run is finished."""
        assert self._final is not None
        return self._final

    def part(self, name: str) -> Any:
        """A shared part, built at its first use."""
        if name not in self._built:
            with self.timed(name):
                self._built[name] = self._parts[name].build(self)
        return self._built[name]

    def at(self, store: CellStore) -> Place:
        """The same parts for the pieces of a cell."""
        place = Place(self._parts, self.progress, store=store)
        place._built = self._built
        return place

    def piece(self, name: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """A piece of the cell that survives an interrupt: read where it is done, else made."""
        assert self._store is not None
        return self._store.piece(name, make)

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note the wall seconds of a stage for the record."""
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


PlanType = TypeVar("PlanType", bound=Plan[Any, Any])


class Experiment(ABC, Generic[Config, CellType, PlanType, Record]):
    """A kind of run. Its registered name is the command, and the folder of its cells in the cache.

    config: its tables; record: what `metrics.json` holds, whose schema finds its chapter
    code:   packages of advhash that decide over its cells beside what decides over victims
    lasts:  whether finished cells stay in the cache for other runs
    stage:  what progress calls its cells
    """

    name: ClassVar[str]
    config: ClassVar[type[Run]]
    record: ClassVar[type[Document]]
    code: ClassVar[tuple[str, ...]]
    lasts: ClassVar[bool] = True
    stage: ClassVar[str] = "cells"

    @abstractmethod
    def plan(self, config: Config) -> PlanType:
        """Refuse what can be seen from the config, write out its defaults, list the cells.

        Trains nothing. Raises AdvhashError.
        """

    @abstractmethod
    def compute(self, cell: CellType, place: Place) -> Result:
        """One cell, in whatever process the executor chose."""

    @abstractmethod
    def judge(self, plan: PlanType, results: Sequence[Result], place: Place) -> Record:
        """Figures, flags and pictures: the record. Further files go into `place.folder`."""

    def code_version(self) -> str:
        """Digest of the sources that decide over its cells, for their keys."""
        return code_version(*self.code)


@dataclass(frozen=True)
class _Work(Generic[CellType]):
    """A cell as it is sent to another process."""

    kind: str
    cell: CellType
    parts: Mapping[str, Part]
    threads: int


def _elsewhere(work: _Work[Any]) -> Result:
    """A cell in a process of its own."""
    torch.set_num_threads(work.threads)
    return _computed(EXPERIMENTS.create(work.kind), work.cell, Place(work.parts))


def _computed(kind: Experiment[Any, Any, Any, Any], cell: Cell, place: Place) -> Result:
    store = CellStore(kind.name, cell.key)
    return store.result(lambda: kind.compute(cell, place.at(store)))


def run(
    kind: Experiment[Config, CellType, PlanType, Record],
    config: Config,
    out: Path | None = None,
    progress: Progress = silent,
    *,
    executor: str = "inline",
) -> Record:
    """Compute what the cache does not have, judge it, and write the run folder.

    out: the folder, by default `runs/<id>`; where it was interrupted, the run goes on

    Raises AdvhashError. On a failure the folder keeps its `.partial` name where anything was
    finished, and is removed otherwise.
    """
    check_executor(executor)
    began = time.perf_counter()
    plan = kind.plan(config)
    stores = [CellStore(kind.name, cell.key) for cell in plan.cells]
    folder = RunFolder.start_or_continue(out or Path("runs") / new_run_id(plan.label or kind.name))
    try:
        folder.claim(kind.name, plan.config.to_toml(), kind.code_version())
        write_json(folder.path / "env.json", environment())
        place = Place(plan.parts, progress, folder=folder.path, final=folder.final)
        for name in plan.parts:
            place.part(name)
        results = _all_cells(kind, plan, place, executor)
        place.seconds["all"] = time.perf_counter() - began
        record = kind.judge(plan, results, place)
        folder.write_text("metrics.json", record.dumps())
        render([folder.path], folder.path / "report.html")
        folder.finish()
    except BaseException as error:
        begun = any(store.is_begun() for store in stores)
        if folder.abandon(keep=begun) and not isinstance(error, RunError):
            error.add_note(
                "what is finished is kept: continue with "
                f"`advhash {kind.name} --resume {folder.final}`"
            )
        raise
    if not kind.lasts:
        for store in stores:
            store.forget()
    return record


def _all_cells(
    kind: Experiment[Config, CellType, PlanType, Record],
    plan: Plan[Config, CellType],
    place: Place,
    executor: str,
) -> list[Result]:
    if executor == "inline":
        found = []
        for done, cell in enumerate(plan.cells):
            place.progress(kind.stage, done, len(plan.cells))
            found.append(_computed(kind, cell, place))
        place.progress(kind.stage, len(plan.cells), len(plan.cells))
        return found
    threads = torch.get_num_threads()
    works = [_Work(kind.name, cell, plan.parts, threads) for cell in plan.cells]
    return run_tasks(
        executor, _elsewhere, works, stage=kind.stage, progress=place.progress, same=same_code
    )


def resume(
    given: Path,
    progress: Progress = silent,
    *,
    kind: str | None = None,
    executor: str = "inline",
    trust_code: bool = False,
) -> Document:
    """Continue an interrupted run of any kind from its own config.

    kind:       what it must be; None: whatever it is
    trust_code: whether a function that the config names as victim may be imported

    Raises RunError, ConfigError and what `run` raises.
    """
    final, found = RunFolder.interrupted(given)
    if kind is not None and found != kind:
        raise RunError(f"expected an interrupted run of {kind}, got one of {found}: {given}")
    experiment: Experiment[Any, Any, Any, Any] = EXPERIMENTS.create(found)
    path = RunFolder(final).path
    config = experiment.config.build(read_toml(path / "config.toml")).trusting(trust_code)
    record: Document = run(experiment, config, final, progress, executor=executor)
    return record


def describe(
    kind: Experiment[Config, CellType, PlanType, Record], config: Config
) -> dict[str, Any]:
    """What `--dry-run` prints: everything checked, nothing trained, no run written."""
    plan = kind.plan(config)
    stores = [CellStore(kind.name, cell.key) for cell in plan.cells]
    return {
        "schema": "advhash/plan/1",
        "command": kind.name,
        **{name: getattr(plan.config, name) for name in ("seed", "device")},
        **plan.shown,
        "cells": len(stores),
        "cells_done": sum(store.is_done() for store in stores),
    }
