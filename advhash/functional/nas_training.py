"""What a row of the table of `nas` costs and gives: networks of a cell, trained on scans of digits.

Every random choice comes from the seed, and weights are drawn in the order of the normal form:
cells that compute the same function begin with the same weights.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advhash.functional.nas import OPERATIONS, normal_form, parents

Rows = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class TrainingProtocol:
    """How cells are trained; part of the table.

    rows:        of training, validation and test, drawn by `split_seed`
    epochs:      of a full training; the rate falls as a cosine
    short_steps: of the short training, whose figures are taken half-way and at its end
    probes:      rows of training, and of validation, of these figures
    """

    channels: int = 12
    cells: int = 2  # in a row, a pool of 2 between them
    rows: tuple[int, int, int] = (500, 600, 697)
    split_seed: int = 0
    batch_size: int = 50
    epochs: int = 15
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-3
    short_steps: int = 4
    probes: int = 50
    seeds: int = 3


@functools.cache
def digits(protocol: TrainingProtocol) -> tuple[Rows, Rows, Rows]:
    """(N,1,8,8) scans in [0,1] and (N,) classes for training, validation and test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images / 16).float()[:, None]
    classes = torch.from_numpy(bunch.target).long()
    order = torch.from_numpy(np.random.default_rng(protocol.split_seed).permutation(len(images)))
    train, validation, test = (
        (images[rows], classes[rows]) for rows in order[: sum(protocol.rows)].split(protocol.rows)
    )
    return train, validation, test


class _Convolution(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, before: int, after: int, side: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(before, after, side, padding=side // 2, bias=False)
        self.norm = nn.BatchNorm2d(after)

    def forward(self, inputs: Tensor) -> Tensor:
        return F.relu(self.norm(self.convolution(inputs)))


class _Cell(nn.Module):
    """The graph of a canonical name; every vertex takes the maximum of its predecessors."""

    def __init__(self, name: str, channels: int) -> None:
        super().__init__()
        operations, self._before = parents(name)
        made: dict[int, nn.Module] = {}
        ranks = normal_form(name).ranks
        for vertex in sorted(ranks, key=ranks.__getitem__):  # equal functions draw equal weights
            side = 3 if OPERATIONS[operations[vertex - 1]] == "conv3x3" else 1
            made[vertex] = _Convolution(channels, channels, side)
        pool = nn.MaxPool2d(3, stride=1, padding=1)
        vertices = [made.get(place, pool) for place in range(1, len(operations) + 1)]
        self.vertices = nn.ModuleList([*vertices, nn.Identity()])

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = [inputs]
        for vertex, before in zip(self.vertices, self._before[1:], strict=True):
            merged = outputs[before[0]]
            for addend in before[1:]:
                merged = torch.maximum(merged, outputs[addend])
            outputs.append(vertex(merged))
        return outputs[-1]


class CellNetwork(nn.Module):
    """(N,1,8,8) → (N,10) logits: a convolution, cells with pools between, a mean, a linear map.

    name: the canonical name of the cell
    """

    def __init__(self, name: str, protocol: TrainingProtocol) -> None:
        super().__init__()
        width = protocol.channels
        layers: list[nn.Module] = [_Convolution(1, width, 3)]
        for place in range(protocol.cells):
            if place:
                layers.append(nn.MaxPool2d(2))
            layers.append(_Cell(name, width))
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(width, 10)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(images).mean(dim=(2, 3)))
        return logits


def trained_cell(name: str, protocol: TrainingProtocol) -> dict[str, Any]:
    """The row of a canonical cell: the short training of seed 0, and one full one a seed.

    Seconds are processor time.
    """
    _warm(protocol)
    return {
        "short": _short(name, protocol),
        "full": [_full(name, protocol, seed) for seed in range(protocol.seeds)],
    }


@functools.cache
def _warm(protocol: TrainingProtocol) -> None:
    """Load data and kernels, so that the first cell of a process does not pay for them."""
    _short("0|101", protocol)


def _short(name: str, protocol: TrainingProtocol) -> Mapping[str, Any]:
    """Losses and accuracies of training and validation probes, half-way and at the end."""
    began = time.process_time()
    figures: dict[str, list[float]] = {"losses": [], "accuracies": []}
    training = _Training(name, protocol, 0, protocol.short_steps)
    train, validation, _ = digits(protocol)
    for step in range(protocol.short_steps):
        training.step()
        if step + 1 in (protocol.short_steps // 2, protocol.short_steps):
            for images, classes in (train, validation):
                loss, accuracy = training.judge(
                    images[: protocol.probes], classes[: protocol.probes]
                )
                figures["losses"].append(loss)
                figures["accuracies"].append(accuracy)
    return {**figures, "seconds": round(time.process_time() - began, 4)}


def _full(name: str, protocol: TrainingProtocol, seed: int) -> Mapping[str, float]:
    began = time.process_time()
    steps = protocol.epochs * (protocol.rows[0] // protocol.batch_size)
    training = _Training(name, protocol, seed, steps)
    for _ in range(steps):
        training.step()
    _, validation, test = digits(protocol)
    valid = training.judge(*validation)[1]
    seconds = time.process_time() - began
    figures = {"valid": valid, "test": training.judge(*test)[1]}
    return {name: round(value, 5) for name, value in figures.items()} | {
        "seconds": round(seconds, 4)
    }


class _Training:
    """A network, its optimiser and its batches."""

    def __init__(self, name: str, protocol: TrainingProtocol, seed: int, steps: int) -> None:
        self._protocol, self._chance = protocol, torch.Generator().manual_seed(seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._network = CellNetwork(name, protocol)
        self._optimiser = torch.optim.SGD(
            self._network.parameters(),
            protocol.learning_rate,
            momentum=protocol.momentum,
            weight_decay=protocol.weight_decay,
        )
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimiser, steps)
        self._rows: list[Tensor] = []

    def step(self) -> None:
        (images, classes), size = digits(self._protocol)[0], self._protocol.batch_size
        if not self._rows:
            self._rows = list(torch.randperm(len(images), generator=self._chance).split(size))
        rows = self._rows.pop()
        self._network.train()
        loss = F.cross_entropy(self._network(images[rows]), classes[rows])
        self._optimiser.zero_grad()
        loss.backward()
        self._optimiser.step()
        self._schedule.step()

    @torch.no_grad()
    def judge(self, images: Tensor, classes: Tensor) -> tuple[float, float]:
        """Mean loss, as a float32 in 9 digits, and accuracy."""
        self._network.eval()
        logits = self._network(images)
        loss = float(F.cross_entropy(logits, classes))
        return float(f"{loss:.9g}"), float((logits.argmax(dim=1) == classes).double().mean())
