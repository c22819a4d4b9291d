"""Detectors by the distance to the nearest clean code, and by softmax confidence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from advhash.attacks.base import AttackData
from advhash.attacks.gradient.targeted import DHTA
from advhash.budget import Budget
from advhash.codes.hamming import distances
from advhash.data import Batch, Dataset
from advhash.data.load import load_dataset
from advhash.defenses.detectors.adaptive_images import AdaptiveTargeted, Success
from advhash.defenses.detectors.image_codes import CodeDetector
from advhash.defenses.detectors.novelty import Confidence, Novelty
from advhash.errors import DataError, UsageError
from advhash.experiments.detect.images import code_detectors
from advhash.measures.roc import area_under_roc
from advhash.registry import DETECTORS
from advhash.victims.base import HashVictim
from advhash.victims.image.pairwise import DPH
from advhash.victims.neural.neural_code import NeuralCode


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


@pytest.mark.parametrize(
    ("name", "settings"),
    [("novelty", {}), ("confidence", {}), ("novelty", {"code": "network"})],
)
def test_the_attacker_descends_the_score_itself(
    name: str,
    settings: dict[str, str],
    victim: NeuralCode,
    hashed: DPH,
    digits: Dataset,
    clean: Batch,
) -> None:
    coder: HashVictim = hashed if settings else victim
    detector: CodeDetector = DETECTORS.create(name, settings)
    detector.fit(coder, detector.fitted_on(digits), "image")
    images = clean.inputs["image"].clone().requires_grad_()
    penalty = detector.penalty(coder, images, coder.relax(images, "image"), "image")
    assert torch.allclose(penalty, detector.score(coder, clean, "image"), atol=1e-5)
    (gradient,) = torch.autograd.grad(penalty.sum(), images)
    assert bool(gradient.isfinite().all())
    moved = (images.detach() - 2 / 255 * gradient.sign()).clamp(0, 1)
    lower = detector.score(coder, Batch({"image": moved}, clean.labels, clean.index), "image")
    assert lower.mean() < penalty.detach().mean()


@pytest.mark.parametrize("name", ["novelty", "confidence"])
def test_an_attacker_who_knows_the_score_gets_past(
    name: str, victim: NeuralCode, digits: Dataset
) -> None:
    """At a strict threshold, which four in five clean rows exceed: the plain attack fails."""
    detector: CodeDetector = DETECTORS.create(name)
    detector.fit(victim, detector.fitted_on(digits), "image")
    rows = digits.validation.rows(torch.arange(len(digits.validation)))
    threshold = float(detector.score(victim, rows, "image").quantile(0.2))
    seen = AttackData(digits, victim.database_codes(digits, "image"), "image", "image")
    few = digits.query.rows(torch.arange(80))
    targets = few.labels.roll(3, dims=1)
    success = Success(seen, targets, victim.encode(few.inputs["image"], "image"), goal="targeted")
    attack = AdaptiveTargeted(attack=DHTA(), detector=detector, threshold=threshold, steps=60)
    budget = Budget("linf", 96 / 255)
    both = []
    for one in (DHTA(), attack):
        one.fit(victim, seen, budget)
        moved = one.perturb(victim, few, targets, budget, seed=0)
        accepted = detector.score(victim, moved.batch, "image") <= threshold
        both.append(float((success.of(moved.codes) & accepted).float().mean()))
    assert both[1] >= both[0] + 0.1
    assert both[1] > 0.4


def test_a_table_of_a_neural_code_has_them(victim: NeuralCode, hashed: DPH) -> None:
    for coder, expected in ((victim, {"novelty", "confidence"}), (hashed, set())):
        listed = {name for name in code_detectors() if DETECTORS.create(name).listed(coder)}
        assert listed & {"novelty", "confidence"} == expected
        assert "nearest" in listed


def test_refusals(victim: NeuralCode, hashed: DPH, digits: Dataset, clean: Batch) -> None:
    with pytest.raises(UsageError, match="call fit with clean rows"):
        Novelty().score(victim, clean, "image")
    with pytest.raises(UsageError, match='use code="own"'):
        Novelty(code="network").fit(victim, digits.train, "image")
    with pytest.raises(UsageError, match="expected a modality"):
        Novelty().fit(victim, digits.train, "text")
    with pytest.raises(DataError, match="at least one, got none"):
        Novelty().fit(victim, digits.query.take(torch.arange(0)), "image")
    with pytest.raises(UsageError, match="no layer 'nope'"):
        Novelty(code="network", layers="nope").fit(hashed, digits.train, "image")
    with pytest.raises(UsageError, match="expected a victim that classifies"):
        Confidence().fit(hashed, digits.train, "image")
