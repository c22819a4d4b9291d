"""Certificates: sound under attack, tight where the radii are known, wrong where they must be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from measuring_scripts import load_script
from scipy.stats import binom, norm
from torch import Tensor, nn

from advhash.codes import HashCodes
from advhash.codes.hamming import distances
from advhash.data import Dataset, Modality
from advhash.defenses.wrappers.smoothing import (
    Certificate,
    Smoothed,
    certified_recall,
    certify,
    noise_set,
)
from advhash.errors import UsageError
from advhash.registry import DEFENSES
from advhash.victims.base import HashVictim

ROOT = Path(__file__).resolve().parents[2]
BITS, SHAPE = 16, (3, 2, 2)


class Linear(HashVictim):
    """u = W·x + b on 12 pixels without bounds: radii, and smoothed bits, are known exactly."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.bits, self.bounds, self.history = BITS, {"image": (-np.inf, np.inf)}, []
        self.weights = nn.Parameter(torch.randn(BITS, 12, generator=generator))
        self.shift = nn.Parameter(torch.randn(BITS, generator=generator))

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        return inputs.flatten(1) @ self.weights.T + self.shift

    def fit(self, data: Dataset, *, seed: int, progress: object = None) -> Linear:  # type: ignore[override]
        return self

    def distances(self, images: Tensor) -> Tensor:
        """(N,K) |w·x + b|/‖w‖: the exact radius of each bit, smoothed or not."""
        real = self.relax(images, "image").detach()
        return real.abs() / self.weights.detach().norm(dim=1)


def smoothed(sigma: float = 0.5, votes: int = 25) -> Smoothed:
    return Smoothed(Linear(), sigma=sigma, votes=votes, seed=0)


def some_images(count: int) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def wrong(images: Tensor, attacked: Tensor, certificate: Certificate, radius: float) -> int:
    """How many attacked pictures (N,R,…) break the bound on flips or flip a held bit."""
    victim = Linear()
    codes = victim.encode(attacked.flatten(0, 1), "image").unpack()  # the smoothed code, exactly
    changed = codes.reshape(*attacked.shape[:2], BITS) != certificate.codes.unpack()[:, None]
    bound = certificate.flips(radius)[:, None]
    held = certificate.held(radius)[:, None]
    return int(((changed.sum(axis=2) > bound) | (changed & held).any(axis=2)).sum())


def attacks(images: Tensor, each: int, radius: float) -> Tensor:
    """(N,each,3,2,2) on the sphere: half at random, half down the gradient of random bits.

    Of the latter the first 16 go straight for one bit each.
    """
    victim = Linear()
    generator = torch.Generator().manual_seed(2)
    random = torch.randn(len(images), each // 2, 12, generator=generator)
    mixture = torch.rand(len(images), each - each // 2, BITS, generator=generator).pow(4)
    mixture[:, :BITS] = torch.eye(BITS)
    signs = torch.where(victim.relax(images, "image").detach() > 0, 1.0, -1.0)
    downhill = -(mixture * signs[:, None]) @ victim.weights.detach()
    moves = torch.cat([random, downhill], dim=1)
    moves = radius * moves / moves.norm(dim=2, keepdim=True)
    return images[:, None] + moves.view(len(images), each, *SHAPE)


@pytest.fixture(scope="module")
def certificate() -> Certificate:
    return certify(smoothed(), some_images(100), samples=2000, seed=3)


@pytest.mark.parametrize("radius", [0.05, 0.2, 0.5])
def test_the_certificate_is_sound_in_10000_attacked_trials(
    certificate: Certificate, radius: float
) -> None:
    images = some_images(100)
    attacked = attacks(images, 100, 0.999 * radius)
    assert len(attacked.flatten(0, 1)) == 10_000
    assert wrong(images, attacked, certificate, radius) == 0
    clean = Linear().encode(images, "image").unpack()
    flipped = Linear().encode(attacked.flatten(0, 1), "image").unpack().reshape(100, 100, BITS)
    most = (flipped != clean[:, None]).sum(axis=2).max(axis=1)
    assert most.mean() > 0.3 * certificate.flips(radius).mean()  # the attacks are no straw men


def test_a_certificate_with_a_wrong_sigma_is_caught(certificate: Certificate) -> None:
    """As if it had been sampled with a third of the noise that it claims."""
    images = some_images(100)
    broken = replace(certificate, sigma=3 * certificate.sigma)
    assert wrong(images, attacks(images, 100, 0.5), broken, 0.5) > 1000


def test_radii_are_tight_within_a_fifth_on_a_linear_hash() -> None:
    images = some_images(8)
    found = certify(
        smoothed(), images, samples=100_000, selection=5000, seed=3, batch_size=20_000
    ).radii
    exact = Linear().distances(images).numpy()
    measurable = (exact > 0.15 * 0.5) & (exact < 3 * 0.5)  # nearer ones drown in chance
    assert measurable.sum() > 80
    assert (found <= exact).all()
    assert (found[measurable] >= 0.8 * exact[measurable]).all()
    assert found[measurable].sum() > 0.93 * exact[measurable].sum()


def test_with_exact_probabilities_the_radii_are_exact() -> None:
    images = some_images(8)
    exact = Linear().distances(images).double().numpy()
    known = Certificate(Linear().encode(images, "image"), norm.cdf(exact / 0.5), 0.5, 0.001)
    assert np.allclose(known.radii, exact, rtol=1e-6)


def test_the_bound_is_clopper_pearson_on_samples_that_did_not_choose() -> None:
    """p̲ is the p at which as many agreements or more have probability α/K."""
    images = some_images(5)
    found = certify(smoothed(), images, samples=500, alpha=0.01, seed=3)
    inside = (found.lower > 0.2) & (found.lower < 0.98)
    assert inside.sum() > 20
    for p in found.lower[inside]:
        tails = binom.sf(np.arange(501) - 1, 500, p)  # P[agreements ≥ k], every k
        assert np.abs(tails / (0.01 / BITS) - 1).min() < 1e-6
    assert np.array_equal(
        found.codes.unpack()[found.lower > 0.5],
        (Linear().encode(images, "image").unpack()[found.lower > 0.5]),
    )
    perfect = found.lower.max()
    assert perfect <= (0.01 / BITS) ** (1 / 500) + 1e-12
    strict = certify(smoothed(), images, samples=500, alpha=1e-6, seed=3)
    assert (strict.lower <= found.lower).all()
    assert strict.lower.sum() < found.lower.sum()


def test_the_error_rate_of_the_bounds_is_at_most_alpha() -> None:
    """For α = 0.5 and one picture certified 400 times, at most half are wrong somewhere."""
    images = some_images(1).expand(400, *SHAPE)
    found = certify(smoothed(), images, samples=50, selection=20, alpha=0.5, seed=4)
    real = Linear().relax(images[:1], "image").detach() / Linear().weights.detach().norm(dim=1)
    ones = norm.cdf(real.numpy() / 0.5)
    chosen = found.codes.unpack()
    mistaken = (found.lower > np.where(chosen, ones, 1 - ones)).any(axis=1).mean()
    assert 0.05 < mistaken <= 0.5


def test_a_certificate_belongs_to_its_picture_alone() -> None:
    images = some_images(3)
    whole = certify(smoothed(), images, samples=200, seed=5)
    again = certify(smoothed(), images, samples=200, seed=5)
    first = certify(smoothed(), images[:1], samples=200, seed=5)
    pieces = certify(smoothed(), images, samples=200, seed=5, batch_size=64)
    assert np.array_equal(whole.lower, again.lower)
    assert np.array_equal(whole.lower[:1], first.lower)
    assert not np.array_equal(whole.lower, certify(smoothed(), images, samples=200, seed=6).lower)
    assert pieces.lower.shape == whole.lower.shape
    assert len(certify(smoothed(), images[:0], samples=10).codes) == 0


# The served code


def test_the_served_code_is_the_vote_over_its_noise() -> None:
    images, victim = some_images(6), smoothed(votes=6)
    noise = noise_set(6, SHAPE, 0)
    votes = [Linear().encode(images + 0.5 * one, "image").unpack() for one in noise]
    share = np.mean(votes, axis=0)
    assert (share == 0.5).any()
    assert np.array_equal(victim.encode(images, "image").unpack(), share > 0.5)
    assert np.allclose(victim.relax(images, "image").detach().numpy(), 2 * share - 1, atol=1e-6)


def test_a_server_with_fresh_noise_keeps_the_bits_that_are_said_to_be_kept() -> None:
    images, votes, radius = some_images(20), 41, 0.2
    found = certify(smoothed(), images, samples=5000, seed=7)
    kept = found.held_when_served(radius, votes=votes, level=0.05)
    assert (kept <= found.held(radius)).all()
    assert 0.2 < kept.mean() < found.held(radius).mean()
    more = found.held_when_served(radius, votes=1001, level=0.05)
    assert kept.sum() < more.sum()
    codes, broken, trials = found.codes.unpack(), 0, 0
    for row, attacked in enumerate(attacks(images, 40, radius)):
        for turn, picture in enumerate(attacked):
            served = Smoothed(Linear(), sigma=0.5, votes=votes, seed=1000 * row + turn)
            bits = served.encode(picture[None], "image").unpack()[0]
            broken += bool((bits != codes[row])[kept[row]].any())
            trials += 1
    assert broken / trials <= 0.05
    loose = Certificate(found.codes, np.maximum(found.lower, norm.cdf(1.2)), 0.5, 0.001)
    kept = loose.held_when_served(radius, votes=votes, level=0.05)  # a lie about p̲ is found out
    row = attacks(images, 40, radius)[:, 20:36].flatten(0, 1)
    bits = Smoothed(Linear(), sigma=0.5, votes=votes, seed=9).encode(row, "image").unpack()
    lies = (bits != codes.repeat(16, axis=0)) & kept.repeat(16, axis=0)
    assert lies.any(axis=1).mean() > 0.05


# Recall


def test_certified_recall_is_what_the_worst_codes_leave() -> None:
    """Against all 2^f codes that agree with the query's in the held bits."""
    rng = np.random.default_rng(0)
    bits, rows = 6, 30
    query, database = rng.random((4, bits)) > 0.5, rng.random((rows, bits)) > 0.5
    held, relevant = rng.random((4, bits)) > 0.4, rng.random((4, rows)) > 0.5
    relevant[3] = False
    every = (np.arange(2**bits)[:, None] >> np.arange(bits) & 1).astype(bool)
    for within in range(bits + 1):
        found = certified_recall(
            held, HashCodes.pack(query), HashCodes.pack(database), relevant, within
        )
        for row in range(3):
            reachable = every[(every == query[row])[:, held[row]].all(axis=1)]
            far = distances(HashCodes.pack(reachable), HashCodes.pack(database)).max(axis=0)
            assert found[row] == pytest.approx((far <= within)[relevant[row]].mean())
        assert np.isnan(found[3])


# Bound propagation, and the pages


def test_bound_propagation_of_the_comparison_is_sound_and_exact_where_nothing_bends() -> None:
    benchmark = load_script("certificates.py")
    victim = benchmark["SmallReLU"]()
    images = some_images(20)
    for radius in (0.1, 0.5):
        bits = torch.stack([benchmark["propagated"](victim, one, radius) for one in images])
        assert 0.2 < bits.double().mean() < 1
        assert not (bits.numpy() & benchmark["attacked"](victim, images, radius)).any()
    with torch.no_grad():
        victim.first_shift += 50  # every neuron stays on: the hash is linear, its radii are known
    weights = (victim.second @ victim.first).detach()
    exact = victim.relax(images, "image").detach().abs() / weights.norm(dim=1)
    victim_radius = float(exact.median())
    bits = torch.stack([benchmark["propagated"](victim, one, victim_radius) for one in images])
    assert torch.equal(bits, exact > victim_radius) or (bits != (exact > victim_radius)).sum() <= 1


@pytest.mark.parametrize("name", ["purification", "smoothing"])
def test_pages_show_what_was_measured(name: str) -> None:
    benchmark = load_script("certificates.py")
    found = json.loads((ROOT / "benchmarks/certificates.json").read_text("utf-8"))
    page = ROOT / f"docs/defenses/{name}.md"
    assert benchmark["written"](page, found) == page.read_text("utf-8")
    for row in found["certificates"]:
        for one in row["radii"].values():
            assert one.get("broken", 0) == 0


# Refusals


def test_what_cannot_be_certified_is_refused() -> None:
    images = some_images(1)
    with pytest.raises(UsageError, match="whose last defence is 'smoothing', got Linear"):
        certify(Linear(), images)
    wrongs: list[dict[str, Any]] = [
        {"samples": 0},
        {"selection": 0},
        {"alpha": 1.0},
        {"batch_size": 0},
    ]
    for given in wrongs:
        with pytest.raises(ValueError, match="expected samples, selection"):
            certify(smoothed(), images, **given)
    found = certify(smoothed(), images, samples=50)
    with pytest.raises(ValueError, match="radius >= 0, got -1"):
        found.flips(-1)
    with pytest.raises(ValueError, match="votes >= 1"):
        found.held_when_served(0.1, votes=0, level=0.1)
    with pytest.raises(ValueError, match="expected held"):
        certified_recall(found.held(0), found.codes, found.codes, np.ones((2, 1), bool), 3)
    assert (found.held(0) == (found.lower > 0.5)).all()


def test_what_is_smoothed_is_not_smoothed_again() -> None:
    smoothed = DEFENSES.create("smoothing").wrap(Linear())
    with pytest.raises(UsageError, match="smoothed already"):
        DEFENSES.create("smoothing").wrap(DEFENSES.create("jpeg").wrap(smoothed))
