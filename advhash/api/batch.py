"""What is attacked from Python: a batch of the user as the queries of a data set, checked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.attacks.base import Attack
from advhash.data.dataset import Batch, Dataset, Split
from advhash.errors import DataError, UsageError
from advhash.experiments.attack.operating import started
from advhash.experiments.attack.perturb import choose_queries
from advhash.experiments.config import AttackConfig
from advhash.experiments.prepare.seeds import derive_seed
from advhash.shared_labels import Labels, are_groups, label_numbers, label_sets, without_labels
from advhash.targets import choose_targets


@dataclass(frozen=True)
class Asked:
    """Queries that are attacked.

    data:     the data set whose query split holds them
    rows:     (N,) of that split
    index:    (N,) what the user calls them: rows of the split that the batch came from
    targets:  (N,C), None when untargeted
    labelled: whether their own labels are known
    given:    whether the user gave the targets
    replays:  whether they follow from the config alone
    """

    data: Dataset
    rows: Tensor
    index: npt.NDArray[np.int64]
    targets: Labels | None
    labelled: bool
    given: bool
    replays: bool


def ask(
    data: Dataset | None,
    batch: Batch | Tensor | None,
    config: AttackConfig,
    attack: Attack,
    targets: Tensor | npt.NDArray[Any] | None,
) -> Asked:
    """The batch as queries of `data`; without data, of a data set made of the batch.

    targets: (N,C) given ones; otherwise the rule of the config

    Raises UsageError, DataError.
    """
    modality, labelled, replays = config.protocol.query_modality, True, batch is None
    if batch is None:
        if data is None:
            raise UsageError("expected a batch, got none")
        data = started(config.protocol, data)
        seed = derive_seed(config.seed, "queries")
        rows = choose_queries(data.query, config.protocol.queries, seed)
        seen, index = data, rows.numpy()
    else:
        if config.protocol.queries is not None:
            raise UsageError("expected protocol.queries only without a batch, which is whole")
        labelled = isinstance(batch, Batch)
        known = None if data is None else data.database.labels
        batch = _batch(batch, modality, known, exact=config.budget.eight_bit)
        index, rows = batch.index.numpy(), batch.index
        if data is not None and _of_queries(data, batch, modality):
            seen = data
        else:
            stored = _stored(batch, modality, exact=config.budget.eight_bit)
            rows = torch.arange(len(batch))
            seen = _alone(stored) if data is None else replace(data, query=stored)
    if "query labels" in attack.knowledge and not labelled:
        raise UsageError(
            f"{config.attack.name} uses the labels of the queries: expected a Batch, got images "
            "without labels"
        )
    labels = seen.query.labels[rows].numpy()
    if attack.goal != "targeted":
        if targets is not None:
            raise UsageError(f"{config.attack.name} is untargeted: expected no targets")
        return Asked(seen, rows, index, None, labelled, False, replays)
    database = seen.database.labels.numpy()
    if targets is not None:
        aims = _given(targets, len(rows), database)
        return Asked(seen, rows, index, aims, labelled, True, False)
    seed = derive_seed(config.seed, "targets")
    aims = choose_targets(config.protocol.targets, labels, database, seed, rows=rows.numpy())
    return Asked(seen, rows, index, aims, labelled, False, replays)


def _batch(given: Batch | Tensor, modality: str, known: Tensor | None, *, exact: bool) -> Batch:
    """A batch of the CPU whose inputs and labels are what victims expect.

    known: labels of the database, where there is one
    """
    known = torch.zeros(1, 1, dtype=torch.uint8) if known is None else known
    if isinstance(given, Tensor):
        if modality != "image":
            raise UsageError(f"expected a Batch with {modality!r}, got a tensor of images")
        nothing = without_labels(known[:1]).repeat(len(given) if given.dim() else 0, 1)
        given = Batch({"image": given}, nothing, torch.arange(len(nothing)))
    if not isinstance(given, Batch):
        raise UsageError(
            f"expected a Batch or a tensor of images, got {type(given).__name__}; e.g. "
            "data.query.rows([0, 1])"
        )
    given = given.to("cpu")
    if modality not in given.inputs:
        raise UsageError(f"expected a batch with {modality!r}, got {', '.join(given.inputs)}")
    if len(given) == 0:
        raise UsageError("expected at least one item to attack, got none")
    if _pictured(modality):
        images = given.inputs[modality]
        description = f"{images.dtype} {tuple(images.shape)}"
        coloured = images.dim() == 4 and (images.shape[1] == 3 or modality != "image")
        if not coloured or not images.is_floating_point():
            raise UsageError(f"expected float images (N,3,H,W) in [0,1], got {description}")
        low, high = float(images.min()), float(images.max())
        if not (low >= 0 and high <= 1):  # NaN too
            raise UsageError(f"expected images in [0,1], got values from {low:g} to {high:g}")
    if are_groups(known) is not are_groups(given.labels):
        if are_groups(known):
            raise DataError(
                "expected groups as labels, int32 (N,L) as the database has, got "
                f"{given.labels.dtype} {tuple(given.labels.shape)}"
            )
        raise DataError("expected labels with one column a class, got groups (int32)")
    classes = known.shape[1]
    if not are_groups(known) and classes > 1 and given.labels.shape != (len(given), classes):
        raise DataError(
            f"expected labels of shape {(len(given), classes)}, one column a class of the "
            f"database, got {tuple(given.labels.shape)}"
        )
    return given


def _pictured(modality: str) -> bool:
    return modality == "image" or modality.startswith("party")


def _of_queries(data: Dataset, batch: Batch, modality: str) -> bool:
    """Whether the batch is rows of the query split: then a run on it is one on the data."""
    rows = batch.index
    if len(rows) > len(data.query) or bool(((rows < 0) | (rows >= len(data.query))).any()):
        return False
    if data.query.mixed is not None and not data.query.mixed[rows].is_even():
        return False
    own = data.query.rows(rows)
    return torch.equal(own.labels, batch.labels) and torch.equal(
        own.inputs[modality], batch.inputs[modality].to(own.inputs[modality].dtype)
    )


def _stored(batch: Batch, modality: str, *, exact: bool) -> Split:
    """The batch as a split; images as 8-bit numbers, as in a file, where these are asked for."""
    inputs = {
        name: (values * 255).round().to(torch.uint8)
        if exact and _pictured(name) and values.is_floating_point()
        else values
        for name, values in batch.inputs.items()
    }
    labels = batch.labels if are_groups(batch.labels) else batch.labels.to(torch.uint8)
    return Split(inputs, labels)


def _alone(stored: Split) -> Dataset:
    """A data set that is nothing but the batch, for methods that look at no database."""
    rows = torch.arange(len(stored))
    columns = 0 if are_groups(stored.labels) else stored.labels.shape[1]
    names = tuple(str(column) for column in range(columns))
    return Dataset("batch", {}, stored, rows, stored, stored, names)


def _given(targets: Any, count: int, database: Labels) -> Labels:
    """Given targets, which must be label sets that rows of the database carry."""
    wanted, grouped = (count, database.shape[1]), are_groups(database)
    kind = "groups" if grouped else "multi-hot labels"
    try:
        values = np.asarray(targets.detach().cpu() if isinstance(targets, Tensor) else targets)
        shape = str(values.shape)
    except ValueError:  # rows of different lengths
        values, shape = np.empty(0), "rows of different lengths"
    if values.shape != wanted:
        raise UsageError(
            f"targets: expected {wanted} {kind}, one row a query, or the name of a rule, "
            f"got {shape}"
        )
    if grouped and values.dtype.kind not in "iu":
        raise UsageError(f"targets: expected whole numbers of groups, got {values.dtype}")
    if not grouped and not np.isin(values, (0, 1)).all():
        raise UsageError("targets: expected 0 and 1 only, one column a class")
    aims = values.astype(np.int32) if grouped else values.astype(np.uint8)
    carried = {row.tobytes() for row in label_sets(database)[0]}
    for place, row in enumerate(aims):
        if row.tobytes() not in carried:
            numbers = ", ".join(map(str, label_numbers(row))) or "none"
            raise DataError(
                f"targets: no row of the database has the labels of target {place} "
                f"({'groups' if grouped else 'classes'} {numbers}): expected label sets that "
                "database rows carry"
            )
    return aims
