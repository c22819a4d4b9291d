"""Attacks as a domain of searches: genomes of `evolved`, judged on validation queries."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.attacks.base import Attack, AttackData
from advhash.attacks.evolved.genome import (
    Canary,
    Evolved,
    Genome,
    mutated_genome,
    random_genome,
    read_genome,
)
from advhash.budget import Budget
from advhash.codes.metrics import Scoring
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset, SplitName
from advhash.errors import DataError
from advhash.experiments.attack.columns import precisions
from advhash.experiments.attack.perturb import choose_queries
from advhash.experiments.prepare.ceiling import target_ceilings
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.served import database_codes
from advhash.experiments.prepare.trained import Trained, cache_identity
from advhash.functional.evaluation_cache import Evaluation
from advhash.targets import TargetRule, choose_targets

Floats = npt.NDArray[np.float64]
BATCH = 100  # queries that are attacked at once
CANARY = 4  # queries of the functional hash: with fewer, other anchors are often the same
SAME = 1e-4  # two fitnesses of one function differ by less: other kernels round otherwise


@dataclass(frozen=True)
class Range:
    """Where attacks are tried: queries of one split with targets, before one victim.

    rows: (N,) of the split; targets: (N,C); clean, ceiling: (N,) t-AP of the clean queries and of
    the best known anchor of each target
    """

    trained: Trained
    served: AttackData
    split: SplitName
    rows: Tensor
    targets: Tensor
    budget: Budget
    clean: Floats
    ceiling: Floats
    seed: int

    def precision(self, attack: Attack) -> Floats:
        """(N,) t-AP of the queries after the attack, which is fitted here."""
        attack.fit(self.trained.victim, self.served, self.budget, seed=self.seed)
        split, blocks = self.served.dataset.split(self.split), []
        for start in range(0, len(self.rows), BATCH):
            rows = slice(start, start + BATCH)
            moved = attack.perturb(
                self.trained.victim,
                split.rows(self.rows[rows]),
                self.targets[rows],
                self.budget,
                seed=derive_seed(self.seed, "attack queries"),
            )
            blocks.append(
                precisions(
                    moved.codes,
                    self.served.codes,
                    self.targets[rows].numpy(),
                    self.served.labels.numpy(),
                    Scoring(),
                )
            )
        return np.concatenate(blocks)

    def normalised(self, precision: Floats) -> float:
        """(t-MAP − that of clean queries) / (ceiling − that of clean queries)."""
        clean = float(self.clean.mean())
        return (float(precision.mean()) - clean) / (float(self.ceiling.mean()) - clean)


def drawn_targets(
    data: Dataset, split: SplitName, count: int | None, *, rule: TargetRule, seed: int
) -> tuple[Tensor, npt.NDArray[Any]]:
    """At most `count` rows of a split, and the (N,C) labels that each is to retrieve.

    Raises DataError: no target is left for a query.
    """
    queries = data.split(split)
    rows = choose_queries(queries, count, derive_seed(seed, "queries"))
    labels, offered = queries.labels[rows].numpy(), data.database.labels.numpy()
    drawn = derive_seed(seed, "targets")
    return rows, choose_targets(rule, labels, offered, drawn, rows=rows.numpy())


def make_range(
    trained: Trained,
    split: SplitName,
    count: int | None,
    *,
    rule: TargetRule,
    budget: Budget,
    seed: int,
    progress: Progress = silent,
) -> Range:
    """At most `count` queries of a split with targets.

    Raises UsageError: a victim without images or gradients, a budget of words; DataError: an empty
    split, targets that clean queries reach as well as any code.
    """
    victim, data = trained.victim, trained.data
    attack = Evolved()
    attack.check_gradients(victim)
    victim.check_modality("image")
    attack.check_budget(budget)
    database = victim.default_database
    served = AttackData(data, database_codes(trained, database), database, "image")
    queries = data.split(split)
    if len(queries) == 0:
        raise DataError(
            f"expected {split} queries, got none in {data.name}; choose another data set"
        )
    rows, targets = drawn_targets(data, split, count, rule=rule, seed=seed)
    offered = data.database.labels.numpy()
    ceiling = target_ceilings(
        victim,
        served,
        targets,
        scoring=Scoring(),
        identity=cache_identity(trained),
        progress=progress,
    )
    codes = victim.encode(queries.rows(rows).inputs["image"].to(victim.device), "image")
    clean = precisions(codes, served.codes, targets, offered, Scoring())
    if not ceiling.mean() > clean.mean():
        raise DataError(
            "expected targets that clean queries do not reach, got a t-MAP of "
            f"{clean.mean():.3f} where the ceiling is {ceiling.mean():.3f}"
        )
    return Range(
        trained, served, split, rows, torch.from_numpy(targets), budget, clean, ceiling, seed
    )


class AttackDomain:
    """Genomes of `evolved` as a `Domain`: fitness is the normalised t-MAP on a range.

    steps: the budget of every attack, see `Genome.steps`
    bits:  of the mantissa that count in the functional hash

    Seconds are of the wall. Evaluations are deterministic: `seed` changes nothing.
    """

    def __init__(self, place: Range, *, steps: int, bits: int) -> None:
        self.place, self.steps = place, steps
        rows = place.rows[:CANARY]
        self._canary = Canary(
            place.trained.victim,
            place.served,
            place.served.dataset.split(place.split).rows(rows),
            place.targets[: len(rows)],
            place.budget,
            {**cache_identity(place.trained), "steps of an attack": steps, "seed": place.seed},
            bits=bits,
        )

    def attack(self, genome: Genome) -> Attack:
        """The attack that a genome describes, of as many steps as the budget pays for."""
        return Evolved(steps=genome.steps(self.steps), **vars(genome))

    def random(self, chance: Random) -> Genome:
        return random_genome(chance)

    def mutate(self, candidate: Genome, chance: Random) -> Genome:
        return mutated_genome(candidate, chance)

    def key(self, candidate: Genome) -> tuple[str, float]:
        began = time.perf_counter()
        key = self._canary.key(candidate)
        return key, time.perf_counter() - began

    def evaluate(self, candidate: Genome, seed: int) -> Evaluation:
        began = time.perf_counter()
        fitness = self.place.normalised(self.place.precision(self.attack(candidate)))
        return Evaluation({"fitness": fitness}, time.perf_counter() - began)

    def agree(self, first: Mapping[str, float], second: Mapping[str, float]) -> bool:
        return abs(first["fitness"] - second["fitness"]) <= SAME

    def write(self, candidate: Genome) -> Any:
        return candidate.settings()

    def read(self, document: Any) -> Genome:
        return read_genome(document)
