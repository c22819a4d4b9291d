"""What detection has in common wherever it is measured: queries, targets, what is kept."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advhash.budget import Budget
from advhash.data.dataset import Batch, Dataset, Modality
from advhash.experiments.attack.perturb import choose_queries
from advhash.experiments.config import MethodConfig
from advhash.experiments.detect.config import DetectConfig
from advhash.experiments.prepare.seeds import derive_seed
from advhash.registry import Registry
from advhash.shared_labels import Labels
from advhash.targets import choose_targets

UNBOUNDED = Budget("none", math.inf)


@dataclass(frozen=True)
class Planned:
    """A detection as it is known before any training.

    config:    with every default of detectors, inputs, attack and budget written out
    detectors: with every setting
    moved:     the modality that is abnormal; database: the direction that an attack is fitted to
    other:     fingerprint of the data set that the inputs are of, where they are of another one
    """

    config: DetectConfig
    detectors: Sequence[MethodConfig]
    moved: Modality
    database: str
    other: str | None


def written(registry: Registry[Any], table: MethodConfig) -> MethodConfig:
    """A detector or an attack with every setting."""
    settings = registry.settings(table.name, table.settings)
    return MethodConfig.build({"name": table.name, **settings})


def clean_queries(config: DetectConfig, data: Dataset) -> Batch:
    """The clean queries, one for each abnormal input."""
    return data.query.rows(_query_rows(config, data))


def query_labels(config: DetectConfig, data: Dataset) -> Labels:
    """(B,C) labels of the clean queries."""
    return data.query.labels[_query_rows(config, data)].numpy()


def _query_rows(config: DetectConfig, data: Dataset) -> Tensor:
    return choose_queries(data.query, config.queries, derive_seed(config.seed, "queries"))


def disjoint_targets(config: DetectConfig, data: Dataset) -> Tensor:
    """(B,C) target labels of the clean queries, without a label of the query.

    Raises DataError: every label set of the database shares one with a query.
    """
    rows, labels = _query_rows(config, data), query_labels(config, data)
    known = data.database.labels.numpy()
    seed = derive_seed(config.seed, "targets")
    return torch.from_numpy(choose_targets("disjoint", labels, known, seed, rows=rows.numpy()))


def kept_batch(batch: Batch) -> dict[str, Tensor]:
    """What is moved, for the cache: (B, …) inputs by modality."""
    return {f"input {name}": values for name, values in batch.inputs.items()}


def kept_batch_again(kept: Mapping[str, Tensor], clean: Batch) -> Batch:
    """`kept_batch` read back; all else is that of the clean queries."""
    inputs: dict[Modality, Tensor] = {
        name.removeprefix("input "): values
        for name, values in kept.items()
        if name.startswith("input ")
    }
    return Batch(inputs, clean.labels, clean.index)
