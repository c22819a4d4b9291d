"""Detectors by the distance to the nearest clean code, and by softmax confidence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from advhash.data import Batch, Dataset
from advhash.datasets import load_dataset
from advhash.defenses.novelty import Confidence, Novelty
from advhash.detection import area_under_roc
from advhash.errors import UsageError
from advhash.hamming import distances
from advhash.registry import DETECTORS
from advhash.victims.image import DPH
from advhash.victims.neural_code import NeuralCode


@pytest.fixture(scope="module")
def digits() -> Dataset:
    whole = load_dataset("digits", {"size": 16})
    return replace(whole, train_rows=whole.train_rows[:500])


@pytest.fixture(scope="module")
def victim(digits: Dataset) -> NeuralCode:
    return NeuralCode(classes=10, image_size=16, width=64, depth=2, epochs=5).fit(digits, seed=0)


@pytest.fixture(scope="module")
def hashed(digits: Dataset) -> DPH:
    return DPH(bits=12, image_size=16, epochs=3).fit(digits, seed=0)


@pytest.fixture(scope="module")
def clean(digits: Dataset) -> Batch:
    return digits.query.rows(torch.arange(60))


def noise(batch: Batch) -> Batch:
    images = torch.rand(batch.inputs["image"].shape, generator=torch.Generator().manual_seed(0))
    return Batch({"image": images}, batch.labels, batch.index)


def test_is_the_mean_over_layers_of_the_distance_to_the_nearest(
    victim: NeuralCode, digits: Dataset, clean: Batch
) -> None:
    detector = Novelty().fit(victim, digits.train, "image")
    known = victim.encode_split(digits.train, "image").unpack()
    found = victim.encode(clean.inputs["image"], "image").unpack()
    (_, first), (_, second) = victim.sections
    expected = np.mean(
        [
            (found[:, None, part] != known[None, :, part]).sum(axis=2).min(axis=1)
            / (part.stop - part.start)
            for part in (first, second)
        ],
        axis=0,
    )
    assert np.allclose(detector.score(victim, clean, "image").numpy(), expected, atol=1e-6)
    assert list(detector.by_layer(victim, clean, "image")) == [one.name for one in victim.sites]


def test_of_a_hash_it_is_that_of_its_code(hashed: DPH, digits: Dataset, clean: Batch) -> None:
    detector = DETECTORS.create("novelty").fit(hashed, digits.train, "image")
    far = distances(
        hashed.encode(clean.inputs["image"], "image"), hashed.encode_split(digits.train, "image")
    )
    expected = far.min(axis=1) / 12
    assert np.allclose(detector.score(hashed, clean, "image").numpy(), expected)


@pytest.mark.parametrize("code", ["own", "network"])
def test_noise_is_novel(
    code: str, victim: NeuralCode, hashed: DPH, digits: Dataset, clean: Batch
) -> None:
    coder = victim if code == "own" else hashed
    detector = Novelty(code=code).fit(coder, digits.train, "image")  # type: ignore[arg-type]
    known = digits.train.rows(torch.arange(20))
    normal, odd = (detector.score(coder, part, "image") for part in (clean, noise(clean)))
    assert float(area_under_roc(odd.numpy(), normal.numpy(), 0).value or 0) > 0.9
    assert not detector.score(coder, known, "image").any()  # it was fitted on them


def test_confidence(victim: NeuralCode, digits: Dataset, clean: Batch) -> None:
    detector = Confidence().fit(victim, digits.train, "image")
    with torch.no_grad():
        expected = 1 - victim.logits(clean.inputs["image"]).softmax(1).max(1).values
    assert torch.allclose(detector.score(victim, clean, "image"), expected)


def test_refusals(victim: NeuralCode, hashed: DPH, digits: Dataset, clean: Batch) -> None:
    with pytest.raises(UsageError, match=r"fit\(\) with clean items before"):
        Novelty().score(victim, clean, "image")
    with pytest.raises(UsageError, match='use code="own"'):
        Novelty(code="network").fit(victim, digits.train, "image")
    with pytest.raises(UsageError, match="expected a modality"):
        Novelty().fit(victim, digits.train, "text")
    with pytest.raises(UsageError, match="clean items to compare with, got none"):
        Novelty().fit(victim, digits.query.take(torch.arange(0)), "image")
    with pytest.raises(UsageError, match="no layer 'nope'"):
        Novelty(code="network", layers="nope").fit(hashed, digits.train, "image")
    with pytest.raises(UsageError, match="expected a victim that classifies"):
        Confidence().fit(hashed, digits.train, "image")
