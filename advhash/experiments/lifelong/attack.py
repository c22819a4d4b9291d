"""Lifelong robustness: ProS-GAN against DLCMH after every increment."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from advhash.attacks.base import Attack, AttackData
from advhash.budget import Budget
from advhash.codes.hamming import histograms
from advhash.codes.metrics import average_precision, chance_average_precision
from advhash.compute.progress import Progress
from advhash.data.dataset import Batch, Dataset
from advhash.experiments.lifelong.cell import Lifetime, subset
from advhash.experiments.lifelong.figures import Robustness
from advhash.experiments.lifelong.orders import Order, arrived_rows
from advhash.registry import ATTACKS
from advhash.targets import choose_targets

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

BATCH = 100


def attack_stages(
    data: Dataset,
    cell: Lifetime,
    order: Order,
    seed: int,
    *,
    settings: Mapping[str, Any],
    queries: int,
    progress: Progress,
) -> list[Robustness]:
    """t-MAP of a stale attack and a fresh one after each stage, against the fused database.

    Queries, drawn from those of phase 1, and their targets, disjoint label sets of phase 1, are the
    same throughout: what changes is the victim, its database and what the fresh attack saw. No
    bound, as published; the stale attack's pictures are those that it made in phase 1.
    """
    known = np.flatnonzero(cell.query_stage == 0)
    drawn = np.random.default_rng(seed).permutation(len(known))[:queries]
    rows = np.sort(known[drawn])
    batch = data.query.rows(rows)
    first = data.database.labels[arrived_rows(data, order, 0)].numpy()
    targets = choose_targets("disjoint", batch.labels.numpy(), first, seed, rows=rows)
    judged = []
    stale = None
    for stage, (victim, tables) in enumerate(zip(cell.victims, cell.tables, strict=True)):
        here = subset(data, arrived_rows(data, order, stage))
        attack: Attack = ATTACKS.create("prosgan", settings)
        budget = Budget("none", math.inf)
        attack.fit(
            victim,
            AttackData(here, tables["fused"], "fused", "image"),
            budget,
            seed=seed,
            progress=progress,
        )
        parts = [
            attack.perturb(
                victim, part, torch.from_numpy(aim), budget, "image", seed=seed
            ).batch.inputs["image"]
            for part, aim in _parts(batch, targets)
        ]
        fresh = torch.cat([part.cpu() for part in parts])
        stale = fresh if stale is None else stale
        labels = here.database.labels.numpy()
        clean = victim.encode(batch.inputs["image"], "image")
        floor = average_precision(histograms(clean, tables["fused"], targets, labels))
        relevant = (targets.astype(np.int64) @ labels.T > 0).sum(axis=1)
        for name, pictures in (("stale", stale), ("fresh", fresh)):
            codes = victim.encode(pictures, "image")
            moved = (pictures - batch.inputs["image"]).flatten(1).norm(dim=1)
            values = {
                "tmap": average_precision(histograms(codes, tables["fused"], targets, labels)),
                "tmap_clean": floor,
                "tmap_chance": chance_average_precision(relevant, len(labels)),
                "l2": moved.double().numpy(),
            }
            judged.append(
                Robustness(
                    name,
                    stage,
                    {key: _spread(v, rows, len(data.query)) for key, v in values.items()},
                )
            )
    return judged


def _spread(values: Floats, rows: Rows, count: int) -> Floats:
    """(N,) with the values at their rows of the query split, NaN elsewhere."""
    whole = np.full(count, np.nan)
    whole[rows] = values
    return whole


def _parts(batch: Batch, targets: np.ndarray[Any, Any]) -> list[tuple[Batch, np.ndarray[Any, Any]]]:
    return [
        (
            Batch(
                {name: values[start : start + BATCH] for name, values in batch.inputs.items()},
                batch.labels[start : start + BATCH],
                batch.index[start : start + BATCH],
            ),
            targets[start : start + BATCH],
        )
        for start in range(0, len(batch), BATCH)
    ]
