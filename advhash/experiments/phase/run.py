"""`advhash phase-chart`: trainings over a grid of five factors, then one run folder."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advhash.attacks.base import Attack
from advhash.budget import Budget
from advhash.compute.executor import check_executor, run_tasks
from advhash.data.dataset import Dataset, Progress, silent
from advhash.data.load import load_dataset
from advhash.errors import DataError, UsageError
from advhash.experiments.attack.record import dataset_info, run_info
from advhash.experiments.config import DatasetConfig, MethodConfig
from advhash.experiments.phase.cell import OUTCOMES, Attacker, train_and_measure
from advhash.experiments.phase.config import PhaseConfig
from advhash.experiments.prepare.code_key import code_version, same_code
from advhash.experiments.prepare.seeds import derive_seed, resolve_device
from advhash.experiments.prepare.victim import data_settings, load_data
from advhash.measures.intervals import Metric, single_metric
from advhash.measures.regimes import REGIMES, eta_squared, regimes, unexplained
from advhash.measures.sanity import Flag
from advhash.registry import ATTACKS, VICTIMS
from advhash.reports.page.render import render
from advhash.reports.phase import FACTORS, PHASE, Cell, Effect, PhaseRecord, Point
from advhash.storage.cache import cache_root, cached, content_key
from advhash.storage.files import write_json
from advhash.storage.run_folder import RunFolder, environment, new_run_id
from advhash.victims.neural.neural_code import NeuralCode
from advhash.victims.training.acceleration import precision

__all__ = ["PhasePlan", "phase_chart", "phase_plan", "plan_document", "run_task"]

GRID = ("width", "epochs", "weight_decay")  # settings of the victim that the grid decides

CODE = ("experiments.attack", "experiments.phase")  # decide over cells


@dataclass(frozen=True)
class Task:
    """One training with all that decides over its figures; `times` are measured on the way."""

    dataset: str
    dataset_settings: dict[str, Any]
    fingerprint: str
    victim: dict[str, Any]
    attack: str
    attack_settings: dict[str, Any]
    norm: str
    eps: float
    queries: int
    times: tuple[int, ...]
    sample: int
    noise: float
    repeat: int
    seed: int
    device: str
    threads: int

    @property
    def key(self) -> str:
        parts = dataclasses.asdict(self)
        del parts["repeat"]  # a name: the seed decides
        precise = precision(torch.device(self.device))
        return content_key({**parts, "precision": precise, "code": code_version(*CODE)})


@dataclass(frozen=True)
class PhasePlan:
    """Data and trainings of a config, checked; `config` has every default written out."""

    config: PhaseConfig
    data: Dataset
    tasks: list[Task]
    budget: Budget


def phase_plan(config: PhaseConfig) -> PhasePlan:
    """Refuse, before any training, what can be seen from the config. Raises AdvhashError."""
    if config.victim.name != "neural-code":
        raise UsageError(f"a phase chart takes victim neural-code, got {config.victim.name!r}")
    grid = config.phase
    for name in GRID:
        if name in config.victim.settings:
            raise UsageError(f"victim.{name} is an axis: set it in the table phase")
    if grid.sufficient > grid.under:
        raise UsageError(
            f"expected phase.sufficient <= phase.under, got {grid.sufficient} and {grid.under}"
        )
    data = load_data(config.dataset, NeuralCode.default_dataset)
    arguments = NeuralCode.data_arguments(data)
    if max(grid.samples) > len(data.train_rows) or min(grid.samples) < 2:
        raise UsageError(
            f"expected phase.samples from 2 to {len(data.train_rows)}, the training rows of "
            f"{data.name!r}, got {grid.samples}"
        )
    settings = ATTACKS.settings(config.attack.name, config.attack.settings)
    attack: Attack = ATTACKS.create(config.attack.name, settings)
    if attack.goal != "targeted" or "image" not in attack.modalities:
        raise UsageError(f"expected a targeted attack on images, got {config.attack.name}")
    budget = config.budget.resolve(attack.default_budget)
    if budget.norm not in attack.norms:
        raise UsageError(
            f"{config.attack.name}: expected a budget in {', '.join(sorted(attack.norms))}, got "
            f"{budget.norm}"
        )
    device = str(resolve_device(config.device))
    base = data_settings(data, arguments, config.victim.settings)
    tasks = []
    for width, sample, decay, noise, repeat in product(
        grid.widths, grid.samples, grid.weight_decays, grid.noises, range(grid.repeats)
    ):
        victim = VICTIMS.settings(
            "neural-code",
            {**base, "width": width, "epochs": max(grid.epochs), "weight_decay": decay},
        )
        VICTIMS.create("neural-code", victim)  # a wrong value must not cost a training
        tasks.append(
            Task(
                data.name,
                dict(data.settings),
                data.fingerprint(),
                victim,
                config.attack.name,
                settings,
                budget.norm,
                budget.eps,
                grid.queries,
                tuple(grid.epochs),
                sample,
                noise,
                repeat,
                derive_seed(config.seed, f"phase {repeat}"),
                device,
                torch.get_num_threads(),
            )
        )
    resolved = config.model_copy(
        update={
            "device": device,
            "attack": MethodConfig.build({"name": config.attack.name, **settings}),
            "dataset": DatasetConfig.build({"name": data.name, **data.settings}),
        }
    )
    return PhasePlan(resolved, data, tasks, budget)


def run_task(task: Task) -> dict[int, dict[str, float]]:
    """The figures of one training at each time: read where it was done before, else measured."""

    def build(folder: Path) -> None:
        torch.set_num_threads(task.threads)
        data = load_dataset(task.dataset, task.dataset_settings)
        if data.fingerprint() != task.fingerprint:
            raise DataError(
                f"expected the data of {task.dataset!r} that the run began with, got others: their "
                "files have changed, or a worker sees other ones"
            )
        found = train_and_measure(
            data,
            task.victim,
            Attacker(
                task.attack,
                task.attack_settings,
                Budget(task.norm, task.eps),  # type: ignore[arg-type]
                task.queries,
            ),
            times=task.times,
            sample=task.sample,
            noise=task.noise,
            seed=task.seed,
            device=torch.device(task.device),
        )
        write_json(folder / "cell.json", {str(epoch): one for epoch, one in found.items()})

    def read(folder: Path) -> dict[int, dict[str, float]]:
        stored = json.loads((folder / "cell.json").read_text("utf-8"))
        found = {int(epoch): dict(figures) for epoch, figures in stored.items()}
        if set(found) != set(task.times) or any(
            not set(OUTCOMES) <= set(figures) for figures in found.values()
        ):
            raise ValueError("not what was measured")
        return found

    return cached("phase", task.key, build, read)


def phase_chart(
    config: PhaseConfig,
    out: Path | None = None,
    progress: Progress = silent,
    *,
    executor: str = "inline",
) -> PhaseRecord:
    """Train and measure every cell, or take it from the cache, and write the run folder.

    A finished training is in the cache: the same command goes on where it was interrupted.

    Raises AdvhashError.
    """
    check_executor(executor)
    began = time.perf_counter()
    plan = phase_plan(config)
    folder = RunFolder.start(out or Path("runs") / new_run_id("phase-chart"))
    try:
        found = run_tasks(
            executor, run_task, plan.tasks, stage="trainings", progress=progress, same=same_code
        )
        folder.write_text("config.toml", plan.config.to_toml())
        write_json(folder.path / "env.json", environment())
        record = _record(plan, found, folder.final, time.perf_counter() - began)
        folder.write_text("metrics.json", record.dumps())
        render([folder.path], folder.path / "report.html")
        folder.finish()
    except BaseException as error:
        folder.abandon()
        error.add_note("finished trainings are in the cache: the same command goes on from there")
        raise
    return record


def _record(
    plan: PhasePlan, found: list[dict[int, dict[str, float]]], folder: Path, seconds: float
) -> PhaseRecord:
    config, grid = plan.config, plan.config.phase
    cells = [
        Cell(
            point=Point(
                width=task.victim["width"],
                epochs=epoch,
                sample=task.sample,
                weight_decay=task.victim["weight_decay"],
                noise=task.noise,
            ),
            repeat=task.repeat,
            figures=figures,
        )
        for task, times in zip(plan.tasks, found, strict=True)
        for epoch, figures in times.items()
    ]
    judged = _regimes(plan, cells)
    effects = [
        Effect(
            outcome=outcome,
            eta_squared={
                name: eta_squared(
                    [cell.figures[outcome] for cell in cells],
                    [getattr(cell.point, name) for cell in cells],
                )
                for name in FACTORS
            },
            repeats=unexplained(
                [cell.figures[outcome] for cell in cells],
                [cell.point for cell in cells],
            ),
        )
        for outcome in OUTCOMES
    ]
    metrics: dict[str, Metric | None] = {
        f"share_{name}": Metric(
            value=sum(one == name for _, one in judged) / len(judged), n=len(judged)
        )
        for name in REGIMES
    }
    for regime in REGIMES:
        points = {point for point, one in judged if one == regime}
        for outcome in ("tmap", "auroc"):
            values = [cell.figures[outcome] for cell in cells if cell.point in points]
            metrics[f"{outcome}_{regime}"] = (
                Metric(value=float(np.mean(values)), n=len(values)) if values else None
            )
    for name in FACTORS:
        first = next(effect for effect in effects if effect.outcome == "redundancy_train")
        metrics[f"eta_squared_{name}"] = single_metric(first.eta_squared[name])
    task = plan.tasks[0]
    return PhaseRecord(
        schema_=PHASE,
        command="phase-chart",
        run=run_info(folder, config.seed, config.device, {"all": seconds}),
        victim={name: value for name, value in task.victim.items() if name not in GRID},
        source=VICTIMS["neural-code"].source,
        deviations=VICTIMS["neural-code"].deviations,
        attack={"name": task.attack, **task.attack_settings},
        budget=str(plan.budget),
        dataset=dataset_info(plan.data),
        axes={
            "width": [float(one) for one in grid.widths],
            "epochs": [float(one) for one in grid.epochs],
            "sample": [float(one) for one in grid.samples],
            "weight_decay": list(grid.weight_decays),
            "noise": list(grid.noises),
        },
        repeats=grid.repeats,
        queries=min(grid.queries, len(plan.data.query)),
        thresholds={
            "under": grid.under, "sufficient": grid.sufficient, "saturation": grid.saturation,
        },
        threads=task.threads,
        flags=_flags(plan),
        metrics=metrics,
        effects=effects,
        regimes=[(point, one) for point, one in judged],
        cells=cells,
    )  # fmt: skip


def _regimes(plan: PhasePlan, cells: list[Cell]) -> list[tuple[Point, Any]]:
    """Of each point, by the mean over repeats of redundancy (training) and K-NN accuracy."""
    grid = plan.config.phase
    groups: dict[Point, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.point, []).append(cell)

    def mean(point: Point, outcome: str) -> float:
        return float(np.mean([cell.figures[outcome] for cell in groups[point]]))

    judged = []
    for epochs, sample, decay, noise in product(
        grid.epochs, grid.samples, grid.weight_decays, grid.noises
    ):
        line = [
            Point(width=width, epochs=epochs, sample=sample, weight_decay=decay, noise=noise)
            for width in sorted(grid.widths)
        ]
        named = regimes(
            [mean(point, "redundancy_train") for point in line],
            [mean(point, "knn_accuracy") for point in line],
            under=grid.under,
            sufficient=grid.sufficient,
            saturation=grid.saturation,
        )
        judged += list(zip(line, named, strict=True))
    return judged


def _flags(plan: PhasePlan) -> list[Flag]:
    grid, flags = plan.config.phase, []
    single = [
        name
        for name, values in (
            *(("width", grid.widths), ("epochs", grid.epochs), ("sample", grid.samples)),
            *(("weight_decay", grid.weight_decays), ("noise", grid.noises)),
        )
        if len(values) < 2
    ]
    if single:
        flags.append(
            Flag("single_level", "info", f"One level only: {', '.join(single)}; no effect size.")
        )
    if grid.repeats < 2:
        flags.append(
            Flag(
                "no_repeats",
                "warning",
                "Each point was trained once: chance cannot be told from an effect.",
            )
        )
    return flags


def plan_document(plan: PhasePlan) -> dict[str, Any]:
    """What `--dry-run` prints: everything checked, nothing trained."""
    root, grid = cache_root() / "phase", plan.config.phase
    return {
        "schema": "advhash/plan/1",
        "command": "phase-chart",
        "seed": plan.config.seed,
        "device": plan.config.device,
        "dataset": {"name": plan.data.name, "train": len(plan.data.train_rows)},
        "phase": grid.model_dump(),
        "trainings": len(plan.tasks),
        "trainings_done": sum((root / task.key).is_dir() for task in plan.tasks),
        "cells": len(plan.tasks) * len(grid.epochs),
    }
