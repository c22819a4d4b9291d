"""`advhash phase-chart`: trainings over a grid of five factors, then one run folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch

from advhash.attacks.base import Attack
from advhash.budget import Budget
from advhash.data.dataset import Dataset
from advhash.errors import UsageError
from advhash.experiments.attack.record import dataset_info, run_info
from advhash.experiments.config import DatasetConfig, queries_asked
from advhash.experiments.experiment import Experiment, Place, Plan
from advhash.experiments.phase.cell import OUTCOMES, Attacker, train_and_measure
from advhash.experiments.phase.config import PhaseConfig
from advhash.experiments.prepare.code_key import code_version
from advhash.experiments.prepare.data_cell import DataCell
from advhash.experiments.prepare.seeds import derive_seed, resolve_device
from advhash.experiments.prepare.victim import data_settings, load_data
from advhash.measures.intervals import Metric, single_metric
from advhash.measures.regimes import REGIMES, eta_squared, means_by, regimes, unexplained
from advhash.measures.sanity import Flag, check_count
from advhash.registry import ATTACKS, EXPERIMENTS, VICTIMS
from advhash.reports.phase import FACTORS, PHASE, Effect, PhaseRecord, Point, Snapshot
from advhash.storage.cache import content_key
from advhash.storage.cells import Result
from advhash.victims.networks.pretrained import without_weights
from advhash.victims.neural.neural_code import NeuralCode

GRID = ("width", "epochs", "weight_decay")  # settings of the victim that the grid decides
CODE = ("experiments.attack", "experiments.phase")
Figures = Mapping[int, Mapping[str, float]]  # of a training, at each time


@dataclass(frozen=True, kw_only=True)
class Training(DataCell):
    """One training with all that determines its figures; `times` are measured on the way."""

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

    @property
    def key(self) -> str:
        return content_key({**self.content("repeat"), "code": code_version(*CODE)})


@dataclass(frozen=True, kw_only=True)
class PhasePlan(Plan[PhaseConfig, Training]):
    """Data, trainings and budget of a chart."""

    data: Dataset
    budget: Budget


@EXPERIMENTS.register("phase-chart", source="He, Lei, Ji, Tao, 2021 (arXiv 2101.05490)")
class PhaseChart(Experiment[PhaseConfig, Training, PhasePlan, PhaseRecord]):
    """Neural codes over model size, training time, sample, regularisation and label noise."""

    name, config, record, code = "phase-chart", PhaseConfig, PhaseRecord, CODE
    stage = "trainings"

    def plan(self, config: PhaseConfig) -> PhasePlan:
        return _plan(config)

    def compute(self, cell: Training, place: Place) -> Result:
        measured = train_and_measure(
            cell.data(),
            cell.victim,
            Attacker(
                cell.attack,
                cell.attack_settings,
                Budget(cell.norm, cell.eps),  # type: ignore[arg-type]
                cell.queries,
            ),
            times=cell.times,
            sample=cell.sample,
            noise=cell.noise,
            seed=cell.seed,
            device=torch.device(cell.device),
        )
        return Result({str(epoch): figures for epoch, figures in measured.items()})

    def judge(self, plan: PhasePlan, results: Sequence[Result], place: Place) -> PhaseRecord:
        trainings = [
            {int(epoch): figures for epoch, figures in done.document.items()} for done in results
        ]
        return _record(plan, trainings, place)


def _plan(config: PhaseConfig) -> PhasePlan:
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
    data = load_data(config.dataset, NeuralCode)
    grid = grid.model_copy(update={"queries": queries_asked(grid, len(data.query))})
    arguments = NeuralCode.data_arguments(data)
    most = len(data.rows_trained_on("advhash phase-chart"))
    if max(grid.samples) > most or min(grid.samples) < 2:
        raise UsageError(
            f"expected phase.samples from 2 to {most}, the training rows of "
            f"{data.name!r}, got {grid.samples}"
        )
    written = config.attack.written(ATTACKS)
    attack: Attack = ATTACKS.create(written.name, written.settings)
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
    trainings = []
    for width, sample, decay, noise, repeat in product(
        grid.widths, grid.samples, grid.weight_decays, grid.noises, range(grid.repeats)
    ):
        victim = VICTIMS.settings(
            "neural-code",
            {**base, "width": width, "epochs": max(grid.epochs), "weight_decay": decay},
        )
        with without_weights():
            VICTIMS.create("neural-code", victim)  # a wrong value must not cost a training
        trainings.append(
            Training.of(
                data,
                device,
                victim=victim,
                attack=config.attack.name,
                attack_settings=written.settings,
                norm=budget.norm,
                eps=budget.eps,
                queries=grid.queries,
                times=tuple(grid.epochs),
                sample=sample,
                noise=noise,
                repeat=repeat,
                seed=derive_seed(config.seed, f"phase {repeat}"),
            )
        )
    resolved = config.model_copy(
        update={
            "device": device,
            "attack": written,
            "phase": grid,
            "dataset": DatasetConfig.of(data),
        }
    )
    return PhasePlan(
        config=resolved,
        cells=trainings,
        shown={
            "dataset": {**data.named, "train": len(data.train_rows)},
            "phase": grid.model_dump(),
        },
        data=data,
        budget=budget,
    )


def _record(plan: PhasePlan, trainings: Sequence[Figures], place: Place) -> PhaseRecord:
    config, grid = plan.config, plan.config.phase
    cells = [
        Snapshot(
            point=Point(
                width=task.victim["width"],
                epochs=epoch,
                sample=task.sample,
                weight_decay=task.victim["weight_decay"],
                noise=task.noise,
            ),
            repeat=task.repeat,
            figures=dict(figures),
        )
        for task, times in zip(plan.cells, trainings, strict=True)
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
            value=sum(regime == name for _, regime in judged) / len(judged), n=len(judged)
        )
        for name in REGIMES
    }
    for regime in REGIMES:
        points = {point for point, judgement in judged if judgement == regime}
        for outcome in ("tmap", "auroc"):
            values = [cell.figures[outcome] for cell in cells if cell.point in points]
            metrics[f"{outcome}_{regime}"] = (
                Metric(value=float(np.mean(values)), n=len(values)) if values else None
            )
    for name in FACTORS:
        first = next(effect for effect in effects if effect.outcome == "redundancy_train")
        metrics[f"eta_squared_{name}"] = single_metric(first.eta_squared[name])
    task = plan.cells[0]
    return PhaseRecord(
        schema_=PHASE,
        command="phase-chart",
        run=run_info(place.final, config.seed, config.device, {"all": place.seconds["all"]}),
        victim={name: value for name, value in task.victim.items() if name not in GRID},
        source=VICTIMS["neural-code"].source,
        deviations=VICTIMS["neural-code"].deviations,
        attack={"name": task.attack, **task.attack_settings},
        budget=str(plan.budget),
        dataset=dataset_info(plan.data),
        axes={name: [float(level) for level in levels] for name, levels in grid.axes.items()},
        repeats=grid.repeats,
        queries=min(grid.queries, len(plan.data.query)),
        thresholds={
            "under": grid.under, "sufficient": grid.sufficient, "saturation": grid.saturation,
        },
        threads=task.threads,
        flags=_flags(plan),
        metrics=metrics,
        effects=effects,
        regimes=[(point, regime) for point, regime in judged],
        cells=cells,
    )  # fmt: skip


def _regimes(plan: PhasePlan, cells: list[Snapshot]) -> list[tuple[Point, Any]]:
    """The regime of each point, by mean redundancy (training) and K-NN accuracy over repeats."""
    grid = plan.config.phase
    points = [cell.point for cell in cells]
    redundancy, accuracy = (
        means_by([cell.figures[outcome] for cell in cells], points)
        for outcome in ("redundancy_train", "knn_accuracy")
    )
    judged = []
    for epochs, sample, decay, noise in product(
        grid.epochs, grid.samples, grid.weight_decays, grid.noises
    ):
        line = [
            Point(width=width, epochs=epochs, sample=sample, weight_decay=decay, noise=noise)
            for width in sorted(grid.widths)
        ]
        named = regimes(
            [redundancy[point] for point in line],
            [accuracy[point] for point in line],
            under=grid.under,
            sufficient=grid.sufficient,
            saturation=grid.saturation,
        )
        judged += list(zip(line, named, strict=True))
    return judged


def _flags(plan: PhasePlan) -> list[Flag]:
    grid = plan.config.phase
    flags = check_count(grid.queries, len(plan.data.query))
    single = [name for name, levels in grid.axes.items() if len(levels) < 2]
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
