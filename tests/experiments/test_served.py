"""The database of a victim is hashed once, whoever asks for its codes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from advhash.experiments.attack.run import attack
from advhash.experiments.config import AttackConfig, TrainConfig
from advhash.experiments.prepare.served import database_codes, served_codes
from advhash.experiments.prepare.victim import train
from advhash.storage.cache import cache_root
from advhash.victims.encoders.encoded import Encoded

VICTIM: dict[str, Any] = {"name": "timm:test_resnet", "pretrained": False}


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """How many times each picture was hashed, by a network that is only a pooling."""
    times: Counter[bytes] = Counter()

    def pooled(victim: Encoded, images: Tensor) -> Tensor:
        if not images.requires_grad:
            times.update(row.numpy().tobytes() for row in images.detach())
        return torch.nn.functional.adaptive_avg_pool2d(images, (4, 8)).flatten(1)

    monkeypatch.setattr(Encoded, "features", pooled)
    return times


def attacked(method: str, out: Path) -> Any:
    tables = {
        "victim": {**VICTIM, "quantise": "lsh", "bits": 32},
        "attack": {"name": method},
        "dataset": {"name": "digits"},
        "budget": {"norm": "linf", "eps": "8/255"},
        "protocol": {"queries": 4},
    }
    return attack(AttackConfig.build(tables), out)


@pytest.mark.parametrize("method", ["dhta", "blend"])
def test_a_run_hashes_each_row_once(method: str, hashed: Counter[bytes], tmp_path: Path) -> None:
    """Beyond what the cut is learnt from, and the first rows, which are hashed twice on purpose."""
    first = attacked(method, tmp_path / "first")
    trained = train(TrainConfig.build({"victim": first_victim(), "dataset": {"name": "digits"}}))
    rows = trained.data.database.inputs["image"].float() / 255
    keys = [row.numpy().tobytes() for row in rows]
    learnt = set(trained.data.train_rows.tolist())
    alike = Counter(keys)
    for place, key in enumerate(keys[600:], 600):
        assert hashed[key] <= alike[key] * (2 if place in learnt else 1)
    hashed.clear()
    again = attacked(method, tmp_path / "again")
    assert not any(hashed[key] for key in keys)
    assert again.metrics["map"] == first.metrics["map"]


def first_victim() -> dict[str, Any]:
    return {**VICTIM, "quantise": "lsh", "bits": 32}


def test_what_is_kept_is_what_the_victim_gives(hashed: Counter[bytes]) -> None:
    trained = train(TrainConfig.build({"victim": first_victim(), "dataset": {"name": "digits"}}))
    kept = served_codes(trained)
    fresh = trained.victim.served_codes(trained.data)
    assert kept.keys() == fresh.keys()
    assert all(np.array_equal(kept[name].words, fresh[name].words) for name in kept)
    for file in (cache_root() / "codes").glob("*/*.safetensors"):
        file.write_bytes(file.read_bytes()[:-8])  # damaged: hashed again
    assert np.array_equal(database_codes(trained, "image").words, kept["image"].words)
