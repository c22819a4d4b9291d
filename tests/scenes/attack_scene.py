"""A scene of attacks without training: pictures of three classes, codes that project them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advhash.attacks.base import AttackData
from advhash.data import Batch, Dataset, Modality, Split
from advhash.victims.base import HashVictim

SIZE = 8


class Projection(HashVictim):
    """u = W·(x − 1/2) with a random W: real codes far from ±1, a gradient everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.bits, self.bounds, self.history = 16, {"image": (0.0, 1.0)}, []
        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(self.bits, 3 * SIZE * SIZE, generator=generator)
        self.weights = nn.Parameter(weights / weights.norm(dim=1, keepdim=True))
        self.dropout = nn.Dropout(0.5)
        self.normalised = nn.BatchNorm1d(self.bits)

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        codes: Tensor = self.normalised((self.dropout(inputs).flatten(1) - 0.5) @ self.weights.T)
        return codes

    def fit(self, data: Dataset, *, seed: int, progress: object = None) -> Projection:  # type: ignore[override]
        return self


@dataclass(frozen=True)
class Scene:
    """An untrained victim of pictures in three classes, 90 in its database, 12 queries."""

    victim: HashVictim
    data: AttackData
    queries: Batch
    targets: Tensor

    def seen_by(self, victim: HashVictim) -> Scene:
        """The same pictures and targets before another victim."""
        codes = victim.database_codes(self.data.dataset, "image")
        data = AttackData(self.data.dataset, codes, "image", "image")
        return Scene(victim, data, self.queries, self.targets)


def pictures(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """uint8 pictures around the pattern of their class, and one-hot labels."""
    classes = torch.arange(count) % 3
    patterns = 60 * torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    noise = 25 * torch.randn(count, 3, SIZE, SIZE, generator=generator)
    images = (128 + patterns[classes] + noise).clamp(0, 255).to(torch.uint8)
    return images, nn.functional.one_hot(classes, 3).to(torch.uint8)


def make_scene() -> Scene:
    """A new victim with its data."""
    generator = torch.Generator().manual_seed(2)
    images, labels = pictures(90, generator)
    asked, asked_labels = pictures(12, generator)
    database, query = Split({"image": images}, labels), Split({"image": asked}, asked_labels)
    data = Dataset("patterns", {}, database, torch.arange(90), query, query, ("a", "b", "c"))
    victim = Projection().eval()
    codes = victim.database_codes(data, "image")
    served = AttackData(data, codes, "image", "image")
    batch = query.rows(torch.arange(12))
    return Scene(victim, served, batch, asked_labels.roll(1, dims=1))
