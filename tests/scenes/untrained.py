"""Victims as they were drawn: codes that depend on the image, and honest gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self, TypeVar

import torch
from torch import Tensor, nn

from advhash.data import Dataset, Modality
from advhash.victims.base import HashVictim

Drawn = TypeVar("Drawn", bound=HashVictim)


class Untrained(HashVictim):
    """The network on pixels less 0.5; it learns nothing."""

    def __init__(self, network: nn.Module, bits: int, modality: Modality = "image") -> None:
        super().__init__()
        self.bits, self.bounds, self.history = bits, {modality: (0.0, 1.0)}, []
        self.network = network

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        codes: Tensor = self.network(inputs - 0.5)
        return codes

    def fit(self, data: Dataset, *, seed: int, progress: object = None) -> Self:  # type: ignore[override]
        return self


def drawn(make: Callable[[], Drawn]) -> Drawn:
    """The same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make()
