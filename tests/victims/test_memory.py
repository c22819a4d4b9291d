"""Batches by memory: what a victim keeps for a gradient decides how many rows go together."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advhash.attacks.base import Attack
from advhash.data.dataset import Batch, Dataset, Modality
from advhash.experiments.attack.run import attack
from advhash.experiments.config import AttackConfig
from advhash.storage.cache import cache_root
from advhash.victims import memory
from advhash.victims.base import HashVictim
from advhash.victims.memory import kept_bytes, rows_at_once


class Squares(HashVictim):
    """Keeps its input once for its square, and its output once for the hyperbolic tangent."""

    def __init__(self) -> None:
        super().__init__()
        self.bits, self.bounds, self.history = 12, {"image": (0.0, 1.0)}, []
        self.weight = nn.Parameter(torch.ones(12))

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        return (inputs.flatten(1).square() * self.weight).tanh()

    def fit(self, data: Dataset, **_: Any) -> Any:
        return self


def test_what_is_kept_is_counted_once_and_without_weights() -> None:
    """The square keeps its input, the product its factor, the tangent its result: 48 bytes each."""
    victim = Squares()
    one = torch.rand(1, 3, 2, 2)
    victim.weight.requires_grad_(False)
    assert kept_bytes(victim, one, "image") == 2 * 48  # a product with what is fixed keeps nothing
    victim.weight.requires_grad_(True)
    assert kept_bytes(victim, one, "image") == 3 * 48


def test_rows_at_once_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    victim, rows = Squares().requires_grad_(False), torch.rand(9, 3, 2, 2)
    for bytes_, count in ((10**6, 9), (96 * 4 + 5, 4), (1, 1)):
        monkeypatch.setattr(memory, "MEMORY", bytes_)
        assert rows_at_once(victim, rows, "image") == count
    victim.differentiable = False
    assert rows_at_once(victim, rows, "image") == 9
    assert rows_at_once(victim, rows[:0], "image") == 1


def test_an_attack_is_the_same_row_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As figures depend on no size of blocks."""
    tables = {
        "victim": {"name": "dpsh", "epochs": 1, "bits": 16},
        "attack": {"name": "dhta", "steps": 5},
        "dataset": {"name": "digits"},
        "budget": {"norm": "linf", "eps": "16/255"},
        "protocol": {"queries": 5},
    }
    together = attack(AttackConfig.build(tables), tmp_path / "together").metrics
    sizes: list[int] = []
    plain = Attack.perturb

    def counted(self: Attack, victim: HashVictim, batch: Batch, *given: Any, **more: Any) -> Any:
        sizes.append(len(batch))
        return plain(self, victim, batch, *given, **more)

    monkeypatch.setattr(memory, "MEMORY", 1)
    monkeypatch.setattr(Attack, "perturb", counted)
    shutil.rmtree(cache_root() / "attack")  # the finished cells
    alone = attack(AttackConfig.build(tables), tmp_path / "alone").metrics
    assert sizes[:5] == [1, 1, 1, 1, 1]
    for name in ("tmap", "map_adversarial", "linf"):
        assert alone[name] == together[name]
