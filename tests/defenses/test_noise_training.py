"""Training under noise: what it is for, what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from attack_scene import Scene

from advhash.attacks.base import AttackData
from advhash.budget import Budget
from advhash.codes.metrics import retrieval_average_precision
from advhash.data import Dataset
from advhash.data.load import load_dataset
from advhash.defenses.training.noise import NoiseTraining
from advhash.errors import UsageError
from advhash.experiments.config import TrainConfig
from advhash.experiments.prepare.hardened import prepare
from advhash.registry import DEFENSES
from advhash.victims.base import HashVictim
from advhash.victims.image.pairwise import DPSH

BALL = Budget("linf", 8 / 255)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    whole = load_dataset("digits", {"size": 16})
    return replace(whole, train_rows=whole.train_rows[:400])


@pytest.fixture(scope="module")
def plain(digits: Dataset) -> HashVictim:
    return DPSH(bits=12, image_size=16, epochs=4).fit(digits, seed=0)


def served(victim: HashVictim, data: Dataset) -> AttackData:
    return AttackData(data, victim.database_codes(data, "image"), "image", "image")


def precision(victim: HashVictim, data: Dataset, sigma: float) -> float:
    """MAP of queries under noise against a database under noise."""
    generator = torch.Generator().manual_seed(5)
    codes, labels = [], []
    for split in (data.query, data.database):
        batch = split.rows(torch.arange(len(split)))
        images = batch.inputs["image"]
        noisy = images + sigma * torch.randn(images.shape, generator=generator)
        codes.append(victim.encode(noisy.clamp(0, 1), "image"))
        labels.append(batch.labels.numpy())
    return float(retrieval_average_precision(*codes, *labels).mean())


def test_retrieval_bears_noise_and_one_seed_gives_one_result(
    plain: HashVictim, digits: Dataset
) -> None:
    seen, before = served(plain, digits), precision(plain, digits, 0.12)
    defense: NoiseTraining = DEFENSES.create("noise", {"sigma": 0.12, "epochs": 6})
    first = defense.harden(plain, seen, BALL, seed=1)
    assert precision(first, digits, 0.12) > before + 0.1
    assert precision(plain, digits, 0.12) == before
    assert not first.training
    short: NoiseTraining = DEFENSES.create("noise", {"epochs": 1})
    again = [short.harden(plain, seen, one, seed=2) for one in (BALL, Budget("l2", 3.0))]
    for one, two in zip(*(model.state_dict().values() for model in again), strict=True):
        assert torch.equal(one, two)  # no budget decides
    (another,) = [short.harden(plain, seen, BALL, seed=3)]
    assert not torch.equal(*(model.network[-1].weight for model in (again[0], another)))


def test_no_budget_is_noted_nor_asked_for() -> None:
    victim = {"name": "dpsh", "bits": 8, "epochs": 1}
    config = TrainConfig.build(
        {
            "victim": victim,
            "dataset": {"size": 16},
            "defense": {"name": "noise", "epochs": 1},
            "defense_budget": {"norm": "none"},
        }
    )
    trained = prepare(config)
    (applied,) = trained.defenses
    assert (applied["name"], applied["budget"], applied["seed"]) == ("noise", None, 0)
    assert [row["phase"] for row in trained.victim.history][-1] == "harden image"


def test_refusals(scene: Scene) -> None:
    for settings in ({"sigma": 0.0}, {"epochs": 0}):
        with pytest.raises(UsageError, match="above 0"):
            DEFENSES.create("noise", settings)
    texts: Any = AttackData(scene.data.dataset, scene.data.codes, "image", "text")
    with pytest.raises(UsageError, match="moves images"):
        NoiseTraining(epochs=1).harden(scene.victim, texts, BALL)
