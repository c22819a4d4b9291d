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

import logging
import time
import traceback
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from advhash.compute.executor import check_executor, run_tasks
from advhash.compute.progress import Progress, Steps, silent
from advhash.errors import AdvhashError, ConfigError, RunError
from advhash.experiments.config import Run
from advhash.experiments.config_text import read_toml
from advhash.experiments.costs import Work, foretold, note_cost
from advhash.experiments.prepare.code_key import code_version, same_code
from advhash.registry import EXPERIMENTS
from advhash.reports.record import Document
from advhash.storage.cache import cache_name
from advhash.storage.cells import CellStore, Result
from advhash.storage.files import write_json
from advhash.storage.run_folder import RunFolder, environment, new_run_id

logger = logging.getLogger(__name__)


class Cell(Protocol):
    """One piece of work that any process can do: frozen, and small enough to be sent.

    It may say which `parts` it needs, where a plan has too many to keep all of them, and by which
    `names` and `amount` (e.g. queries) its cost is learnt, see `costs.Work`; and of which other
    `kind` of run it is, so far as its cost goes.
    """

    @property
    def key(self) -> str:
        """Names everything that determines the result; see `content_key`."""


class Part(Protocol):
    """What cells share, e.g. a trained victim: built once, read from the cache elsewhere.

    It may say which other `parts` it needs, which `planned` victim it wraps, and what `work` it
    is, None where there is nothing to do.
    """

    def build(self, place: Place) -> Any: ...


Config = TypeVar("Config", bound=Run)
CellType = TypeVar("CellType", bound=Cell)
Record = TypeVar("Record", bound=Document)


@dataclass(frozen=True)
class Missing:
    """A part or a cell that gave nothing: it failed, or the time was up before it began.

    trace: of what is no error of the user
    """

    status: Literal["failed", "left"]
    message: str = ""
    trace: str = ""

    @classmethod
    def of(cls, error: Exception) -> Missing:
        message = str(error) or type(error).__name__
        if isinstance(error, AdvhashError):
            return cls("failed", message)
        trace = "".join(traceback.format_exception(error))
        return cls("failed", f"{type(error).__name__}: {message}", trace)


LOST = Missing("failed", "its worker process died again and again: look for a lack of memory")


@dataclass(frozen=True, kw_only=True)
class Plan(Generic[Config, CellType]):
    """A run as far as it is known before any training; a kind may add what it found out.

    config: with every default written out; `config.toml` of the folder
    cells:  in the order of their results
    parts:  what they share, by name, in the order in which they are built
    stages: names of parts that are built before the cells, stage by stage, a stage of several by
            the executor; parts in no stage are built where a cell first needs them. By default all
            parts, one after another
    threads: of every process; None: as many as this one has
    whole:  why its work stays one cell, where no executor can divide it; the user is told
    label:  of the folder, where the command names none
    shown:  what `--dry-run` prints beside kind, seed, device and cells
    """

    config: Config
    cells: Sequence[CellType]
    parts: Mapping[str, Part] = field(default_factory=dict)
    stages: Sequence[Sequence[str]] = ()
    threads: int | None = None
    whole: str = ""
    label: str = ""
    shown: Mapping[str, Any] = field(default_factory=dict)


class Place:
    """Where a cell is computed, or where a run is judged.

    folder: of the run, to write pictures and rows into; its name may still change, see `final`
    executor: where cells were computed
    alone:  whether the record is all that is kept, in a file
    """

    def __init__(
        self,
        parts: Mapping[str, Part],
        progress: Progress = silent,
        *,
        folder: Path | None = None,
        final: Path | None = None,
        store: CellStore | None = None,
        executor: str = "inline",
        alone: bool = False,
    ) -> None:
        self.progress, self.executor, self.alone = progress, executor, alone
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

    def forget(self, but: Sequence[str]) -> None:
        """Let go of all parts that were built, but these."""
        for name in set(self._built) - set(but):
            del self._built[name]

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
    code:   packages of advhash that determine its cells beside what determines victims
    lasts:  whether finished cells stay in the cache for other runs
    keeps_going: whether a cell that fails costs no other one; `judge` gets a `Missing` in its place
    alone:  whether `--out FILE.json` keeps the record alone, in that file
    stage:  what progress calls its cells
    """

    name: ClassVar[str]
    config: ClassVar[type[Run]]
    record: ClassVar[type[Document]]
    code: ClassVar[tuple[str, ...]]
    lasts: ClassVar[bool] = True
    keeps_going: ClassVar[bool] = False
    alone: ClassVar[bool] = False
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
    def judge(self, plan: PlanType, results: Sequence[Any], place: Place) -> Record:
        """Figures, flags and pictures: the record. Further files go into `place.folder`.

        results: a `Result` a cell; or a `Missing`, of a kind that keeps going
        """

    def code_version(self) -> str:
        """Digest of the sources that determine its cells, for their keys."""
        return code_version(*self.code)


@dataclass(frozen=True)
class _Work(Generic[CellType]):
    """A cell, or a part, as it is sent to another process, which keeps the parts of one run.

    run: names the run; parts have their names in it
    """

    run: str
    kind: str
    parts: Mapping[str, Part]
    threads: int
    until: _Deadline | None
    cell: CellType | None = None
    part: str = ""

    def __call__(self) -> Result | Missing | None:
        torch.set_num_threads(self.threads)
        kind, place = EXPERIMENTS.create(self.kind), _kept_place(self.run, self.parts)
        if self.cell is not None:
            return _result(kind, self.cell, place, self.until)
        return _built(kind, self.part, place, self.until)


_PLACES: dict[str, Place] = {}  # of the run whose work this process did last


def _kept_place(run: str, parts: Mapping[str, Part]) -> Place:
    """A place for these parts of a run, with those that this process built for it before."""
    before, place = _PLACES.get(run), Place(parts)
    if before is not None:
        before.forget(but=tuple(parts))
        place._built = before._built
    _PLACES.clear()
    _PLACES[run] = place
    return place


def _elsewhere(work: _Work[Any]) -> Result | Missing | None:
    return work()


def _surroundings(kind: str) -> dict[str, str]:
    """What must be the same wherever a cell is computed: its key names the code, not the worker."""
    code = EXPERIMENTS.create(kind).code_version()
    return {**same_code(), "code": code, "cache": cache_name()}


def _undone(
    kind: Experiment[Any, Any, Any, Any], plan: Plan[Any, CellType]
) -> tuple[list[CellType], set[str]]:
    """The cells that the cache does not have, and the parts that they need."""
    undone = [cell for cell in plan.cells if not CellStore(kind.name, cell.key).is_done()]
    return undone, {name for cell in undone for name in getattr(cell, "parts", plan.parts)}


@dataclass(frozen=True)
class _Deadline:
    """When a run begins nothing more.

    shared: by machines, whose one common clock may be set back or forth; else by processes of one
            machine, whose clock only ticks
    """

    moment: float
    shared: bool

    @classmethod
    def after(cls, minutes: float, executor: str) -> _Deadline:
        shared = executor not in ("inline", "local")
        return cls((time.time() if shared else time.monotonic()) + 60 * minutes, shared)

    @property
    def over(self) -> bool:
        return (time.time() if self.shared else time.monotonic()) >= self.moment


def _over(until: _Deadline | None) -> bool:
    return until is not None and until.over


def _built(
    kind: Experiment[Any, Any, Any, Any], name: str, place: Place, until: _Deadline | None
) -> Missing | None:
    """Build a part, for all who find it in the cache then; None where it is there."""
    if _over(until):
        return Missing("left")
    try:
        place.part(name)
    except Exception as error:
        if not kind.keeps_going:
            raise
        return Missing.of(error)
    return None


def _work(kind: Experiment[Any, Any, Any, Any], cell: Cell) -> Work:
    """A cell as the table of costs has it."""
    name = getattr(cell, "kind", kind.name)
    return Work(name, getattr(cell, "names", ()), getattr(cell, "amount", 1))


def _result(
    kind: Experiment[Any, Any, Any, Any], cell: Cell, place: Place, until: _Deadline | None
) -> Result | Missing:
    store = CellStore(kind.name, cell.key)
    if _over(until) and not store.is_done():
        return Missing("left")

    def compute() -> Result:
        began = time.perf_counter()
        result = kind.compute(cell, place.at(store))
        note_cost(_work(kind, cell), time.perf_counter() - began)
        return result

    try:
        return store.result(compute)
    except Exception as error:
        if not kind.keeps_going:
            raise
        return Missing.of(error)


def run(
    kind: Experiment[Config, CellType, PlanType, Record],
    config: Config,
    out: Path | None = None,
    progress: Progress = silent,
    *,
    executor: str = "inline",
    max_minutes: float | None = None,
) -> Record:
    """Compute what the cache does not have, judge it, and write the run folder.

    out: the folder, by default `runs/<id>`, or a file, see `Experiment.alone`; where it was
         interrupted, the run goes on
    max_minutes: after which nothing is begun, of a kind that keeps going

    Raises AdvhashError. On a failure the folder keeps its `.partial` name where anything was
    finished, and is removed otherwise.
    """
    check_executor(executor)
    began, until = time.perf_counter(), None
    if max_minutes is not None:
        assert kind.keeps_going
        until = _Deadline.after(max_minutes, executor)
    plan = kind.plan(config)
    if plan.whole and executor != "inline":
        logger.info("--executor %s: %s", executor, plan.whole)
    stores = [CellStore(kind.name, cell.key) for cell in plan.cells]
    final = out or Path("runs") / new_run_id(plan.label or kind.name)

    def begun() -> bool:
        return any(store.is_begun() for store in stores)

    alone = kind.alone and final.suffix == ".json"
    kept = "metrics.json" if alone else None
    with RunFolder.writing(final, begun, kept) as folder, _threads(plan.threads):
        folder.claim(
            kind.name,
            plan.config.to_toml(),
            kind.code_version(),
            trusted=plan.config.trust_code,
        )
        write_json(folder.path / "env.json", environment())
        steps = Steps(progress)
        place = Place(
            plan.parts,
            steps,
            folder=folder.path,
            final=folder.final,
            executor=executor,
            alone=alone,
        )
        results = _Cells(kind, plan, place, steps, until).results()
        steps.begin()
        place.seconds["all"] = time.perf_counter() - began
        record = kind.judge(plan, results, place)
        folder.write_text("metrics.json", record.dumps())
        if not alone:
            from advhash.reports.page.render import render  # draws, by matplotlib

            render([folder.path], folder.path / "report.html", foreign=False)
        steps.finish()
    if not kind.lasts:
        for store in stores:
            store.forget()
    return record


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Sums of another number of threads differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True)
class _Cells(Generic[Config, CellType, PlanType, Record]):
    """The parts and cells of a run, here or where the executor puts them."""

    kind: Experiment[Config, CellType, PlanType, Record]
    plan: PlanType
    place: Place
    steps: Steps
    until: _Deadline | None
    run: str = field(default_factory=lambda: uuid.uuid4().hex)

    def results(self) -> list[Result | Missing]:
        """What each cell gave, in order."""
        missing = self._parts()
        results: dict[str, Result | Missing] = {}
        waiting = []
        for cell in self.plan.cells:
            without = [missing[name] for name in getattr(cell, "parts", ()) if name in missing]
            if CellStore(self.kind.name, cell.key).is_done():  # before, or as a part: no step
                results[cell.key] = _result(self.kind, cell, self.place, self.until)
            elif without:
                results[cell.key] = without[0]
            else:
                waiting.append(cell)
        if self.place.executor == "inline":
            for cell in waiting:
                self.steps.begin()
                if hasattr(cell, "parts"):
                    self.place.forget(but=cell.parts)
                results[cell.key] = _result(self.kind, cell, self.place, self.until)
        else:
            works = [self._work(cell=cell) for cell in waiting]
            for cell, result in zip(waiting, self._run(works, self.kind.stage), strict=True):
                assert result is not None
                results[cell.key] = result
        return [results[cell.key] for cell in self.plan.cells]

    def _parts(self) -> dict[str, Missing]:
        """Build the stages, of what a cell still needs; the parts that are missing."""
        missing: dict[str, Missing] = {}
        undone, names_wanted = _undone(self.kind, self.plan)
        wanted = names_wanted & set(self.plan.parts)
        as_parts = {getattr(self.plan.parts[name], "key", None) for name in wanted}
        cells = [cell for cell in undone if cell.key not in as_parts]
        self.steps.expect(len(wanted) + len(cells) + 1)  # judging
        for stage in self.plan.stages or [[name] for name in self.plan.parts]:
            names = [name for name in stage if name in wanted]
            if len(names) == 1 or self.place.executor == "inline":
                for name in names:
                    self.steps.begin()
                    if len(names) > 1:
                        self.place.forget(but=())
                    gone = _built(self.kind, name, self.place, self.until)
                    if gone is not None:
                        missing[name] = gone
            else:
                works = [self._work(part=name) for name in names]
                for name, part in zip(names, self._run(works, "parts"), strict=True):
                    if isinstance(part, Missing):
                        missing[name] = part
        return missing

    def _work(self, cell: CellType | None = None, part: str = "") -> _Work[CellType]:
        """A cell or a part with the parts that it needs."""
        needing = cell if cell is not None else self.plan.parts[part]
        names = {part, *getattr(needing, "parts", self.plan.parts)} - {""}
        parts = {name: self.plan.parts[name] for name in names}
        threads = torch.get_num_threads()
        return _Work(self.run, self.kind.name, parts, threads, self.until, cell, part)

    def _run(self, works: Sequence[_Work[CellType]], stage: str) -> list[Result | Missing | None]:
        def lost(work: _Work[CellType]) -> Result | Missing | None:
            if work.cell is None or not CellStore(self.kind.name, work.cell.key).is_done():
                return LOST
            return work()

        return run_tasks(
            self.place.executor,
            _elsewhere,
            works,
            stage=stage,
            progress=self.steps.beside(),
            lost=lost if self.kind.keeps_going else None,
            same=partial(_surroundings, self.kind.name),
        )


def resume(
    given: Path,
    progress: Progress = silent,
    *,
    kind: str | None = None,
    executor: str = "inline",
    max_minutes: float | None = None,
    trust_code: bool = False,
) -> Document:
    """Continue an interrupted run of any kind from its own config.

    kind:       what it must be; None: whatever it is
    trust_code: whether a function that the config names as victim may be imported

    Raises RunError and what `run` raises.
    """
    final, begun = RunFolder.interrupted(given)
    if kind is not None and begun != kind:
        raise RunError(f"expected an interrupted run of {kind}, got one of {begun}: {given}")
    experiment: Experiment[Any, Any, Any, Any] = EXPERIMENTS.create(begun)
    file = RunFolder(final).path / "config.toml"
    try:
        config = experiment.config.build(read_toml(file)).trusting(trust_code)
    except ConfigError as error:
        raise RunError(
            f"expected the config of a run in {file}, got a damaged one: {error}; delete the "
            "folder and run again"
        ) from None
    record: Document = run(
        experiment, config, final, progress, executor=executor, max_minutes=max_minutes
    )
    return record


def _shown(plan: Plan[Any, Any]) -> dict[str, Any]:
    """What a plan shows; of a victim that is computed, that it learns nothing."""
    part, shown = plan.parts.get("victim"), dict(plan.shown)
    computed = getattr(part, "ready", part) is None and not getattr(part, "learns", True)
    if computed and isinstance(shown.get("victim"), Mapping):
        facts = {name: fact for name, fact in shown["victim"].items() if name != "trained"}
        shown["victim"] = {**facts, "learns": False}
    return shown


def describe(
    kind: Experiment[Config, CellType, PlanType, Record], config: Config
) -> dict[str, Any]:
    """What `--dry-run` prints: everything checked, nothing trained, no run written."""
    plan = kind.plan(config)
    undone, wanted = _undone(kind, plan)
    parts = {name: part for name, part in plan.parts.items() if name in wanted}
    planned = [getattr(part, "planned", part) for part in parts.values()]
    works: list[Work | None] = [
        getattr(part, "work", None) for part in planned if getattr(part, "learns", True)
    ]
    return {
        "schema": "advhash/plan/1",
        "command": kind.name,
        **{name: getattr(plan.config, name) for name in ("seed", "device")},
        **_shown(plan),
        "parts": list(parts),
        "cells": len(plan.cells),
        "cells_done": len(plan.cells) - len(undone),
        "trainings": sum(work is not None and work.kind == "training" for work in works),
        **foretold(
            [
                *(_work(kind, cell) for cell in undone),
                *(work for work in works if work is not None),
            ]
        ),
    }
