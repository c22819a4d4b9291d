"""Purifiers: exact values, gradients that attack them, databases hashed through them."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from attack_scene import Scene
from PIL import Image
from torch import Tensor, nn

from advhash.attacks.black_box.nes import NES
from advhash.attacks.gradient.hiding import CGAT
from advhash.budget import Budget
from advhash.codes import HashCodes
from advhash.codes.hamming import distances
from advhash.data import Dataset, Modality, Split
from advhash.data.load import load_dataset
from advhash.defenses.base import Wrapping
from advhash.defenses.wrappers.purify import crop_boxes
from advhash.defenses.wrappers.wrapped import Wrapped
from advhash.errors import ConfigError, UsageError
from advhash.experiments.config import TrainConfig
from advhash.experiments.prepare.hardened import prepare
from advhash.registry import DEFENSES, VICTIMS
from advhash.storage.checkpoint import load_victim, save_victim
from advhash.victims.base import HashVictim
from advhash.victims.cross_modal.dlcmh import DLCMH

BALL = Budget("linf", 24 / 255)
SETTINGS: dict[str, dict[str, Any]] = {
    "jpeg": {"quality": 60},
    "bit-depth": {"depth": 3},
    "smooth": {},
    "crop-vote": {"crops": 5},
    "smoothing": {"sigma": 0.1, "votes": 5},
}
NAMES = sorted(SETTINGS)
every_defense = pytest.mark.parametrize("name", NAMES)


def behind(name: str, victim: HashVictim, **settings: Any) -> Wrapped:
    defense: Wrapping = DEFENSES.create(name, {**SETTINGS[name], **settings})
    wrapped = defense.wrap(victim)
    assert isinstance(wrapped, Wrapped)
    return wrapped


class Seen(HashVictim):
    """Hands back the pixels that it is asked to hash, minus a half."""

    def __init__(self) -> None:
        super().__init__()
        self.bits, self.bounds, self.history = 3 * 8 * 8, {"image": (0.0, 1.0)}, []
        self.place = nn.Parameter(torch.zeros(()))

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        return inputs.flatten(1) - 0.5 + self.place

    def fit(self, data: Dataset, *, seed: int, progress: object = None) -> Seen:  # type: ignore[override]
        return self


def pixels(name: str, images: Tensor, **settings: Any) -> Tensor:
    """What the victim behind the purifier sees."""
    found: Tensor = behind(name, Seen(), **settings).relax(images, "image")
    return found.detach().view(images.shape) + 0.5


@pytest.fixture(scope="module")
def images(scene: Scene) -> Tensor:
    return scene.queries.inputs["image"]


# Values


@pytest.mark.parametrize("quality", [20, 75])
def test_jpeg_is_what_pillow_writes_and_reads(quality: int, images: Tensor) -> None:
    found = pixels("jpeg", images, quality=quality)
    for image, seen in zip(images, found, strict=True):
        octets = (image * 255).round().byte().permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Image.fromarray(octets).save(buffer, "JPEG", quality=quality)
        with Image.open(buffer) as picture:
            wanted = np.array(picture.convert("RGB"))
        assert np.allclose(seen.permute(1, 2, 0).numpy() * 255, wanted, atol=1e-3)
    assert not torch.allclose(found, images, atol=2 / 255)


@pytest.mark.parametrize("depth", [1, 4, 8])
def test_bit_depth_leaves_the_nearest_of_its_levels(depth: int, images: Tensor) -> None:
    levels = torch.linspace(0, 1, 2**depth)
    nearest = levels[(images.flatten()[:, None] - levels).abs().argmin(dim=1)]
    assert torch.allclose(pixels("bit-depth", images, depth=depth).flatten(), nearest, atol=1e-6)


def test_smooth_is_the_median_of_the_neighbours(images: Tensor) -> None:
    framed = np.pad(images.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(framed, (3, 3), axis=(2, 3))
    wanted = np.median(windows, axis=(4, 5))
    assert np.allclose(pixels("smooth", images).numpy(), wanted, atol=1e-6)


def test_crop_vote_is_the_majority_over_its_windows(scene: Scene, images: Tensor) -> None:
    victim, votes = scene.victim, []
    boxes = crop_boxes(4, 0.5, 7, 8, 8)
    for rows, columns in boxes:
        assert 0.3 <= (rows.stop - rows.start) * (columns.stop - columns.start) / 64 <= 1
        window = images[:, :, rows, columns]
        grown = nn.functional.interpolate(window, (8, 8), mode="bilinear", antialias=True)
        votes.append(victim.encode(grown, "image").unpack())
    assert len(set(map(str, boxes))) > 1
    share = np.mean(votes, axis=0)
    assert (share == 0.5).any()  # ties are tested too: they give 0
    wrapped = behind("crop-vote", victim, crops=4, area=0.5, seed=7)
    assert np.array_equal(wrapped.encode(images, "image").unpack(), share > 0.5)
    other = behind("crop-vote", victim, crops=4, area=0.5, seed=8)
    assert not np.array_equal(other.encode(images, "image").unpack(), share > 0.5)


# The contract of a victim


@every_defense
def test_a_code_depends_on_its_picture_alone(name: str, scene: Scene, images: Tensor) -> None:
    wrapped = behind(name, scene.victim)
    together = wrapped.encode(images, "image")
    alone = HashCodes.concatenate([wrapped.encode(image[None], "image") for image in images])
    assert np.array_equal(together.words, alone.words)
    assert np.array_equal(wrapped.encode(images, "image").words, together.words)
    assert not np.array_equal(together.words, scene.victim.encode(images, "image").words)
    plain = scene.victim
    assert (wrapped.bits, wrapped.bounds, wrapped.directions) == (
        plain.bits,
        plain.bounds,
        plain.directions,
    )
    assert len(wrapped.encode(images[:0], "image")) == 0


@every_defense
def test_the_database_is_hashed_through_the_defence(name: str, scene: Scene) -> None:
    wrapped = behind(name, scene.victim)
    stored = wrapped.database_codes(scene.data.dataset, "image")
    hashed = wrapped.encode(
        scene.data.dataset.database.rows(torch.arange(90)).inputs["image"], "image"
    )
    assert np.array_equal(stored.words, hashed.words)
    with pytest.raises(UsageError, match="direction"):
        wrapped.database_codes(scene.data.dataset, "sound")


@every_defense
def test_gradients_attack_the_defence_itself(name: str, scene: Scene) -> None:
    """Adaptive by construction: pictures made for the bare victim do no better."""
    wrapped = behind(name, scene.victim)
    seen = scene.seen_by(wrapped)
    clean = wrapped.encode(scene.queries.inputs["image"], "image")
    images = scene.queries.inputs["image"].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(wrapped.relax(images, "image").sum(), images)
    assert bool((gradient.flatten(1).abs().amax(dim=1) > 0).all())

    def flipped(victim: HashVictim, there: Scene) -> float:
        attack = CGAT(steps=20).fit(victim, there.data, BALL)
        moved = attack.perturb(victim, scene.queries, None, BALL).batch.inputs["image"]
        return float(distances(wrapped.encode(moved, "image"), clean).diagonal().mean())

    noise = (scene.queries.inputs["image"] + BALL.eps * torch.randn_like(images).sign()).clamp(0, 1)
    by_noise = distances(wrapped.encode(noise, "image"), clean).diagonal().mean()
    adaptive, transferred = flipped(wrapped, seen), flipped(scene.victim, scene)
    assert adaptive > 1.2 * by_noise
    assert adaptive > 0.9 * transferred  # on a linear victim, noise and rounding hardly matter
    if name in ("smooth", "crop-vote"):
        assert adaptive > 1.1 * transferred


@every_defense
def test_a_checkpoint_brings_the_defence_back(name: str, tmp_path: Any) -> None:
    victim = VICTIMS.create("dpsh", {"bits": 8, "image_size": 8, "backbone": "test_resnet"}).eval()
    wrapped = behind(name, victim)
    assert set(wrapped.state_dict()) == {f"victim.{key}" for key in victim.state_dict()}
    save_victim(
        tmp_path,
        wrapped,
        name="dpsh",
        settings={"bits": 8, "image_size": 8, "backbone": "test_resnet"},
        defenses=[{"name": name, "settings": SETTINGS[name]}],
    )
    loaded, _ = load_victim(tmp_path)
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert type(loaded) is type(wrapped)
    assert torch.equal(loaded.relax(images, "image"), wrapped.relax(images, "image"))


def test_a_defence_stands_before_another(scene: Scene, images: Tensor) -> None:
    stacked = behind("crop-vote", behind("jpeg", scene.victim))
    assert set(stacked.state_dict()) == {f"victim.victim.{k}" for k in scene.victim.state_dict()}
    assert stacked.encode(images, "image").bits == scene.victim.bits


# Other modalities, stored rows


class Pair(Seen):
    """Images and texts; two of the database's rows have a stored code of ones."""

    def __init__(self) -> None:
        super().__init__()
        self.bounds = {"image": (0.0, 1.0), "text": (0.0, 1.0)}

    @property
    def directions(self) -> tuple[str, ...]:
        return ("fused", *self.bounds)

    def stored_rows(self, data: Dataset) -> Tensor:
        return torch.arange(len(data.database)) < 2

    def database_codes(self, data: Dataset, database: str) -> HashCodes:
        return HashCodes.pack(np.ones((len(data.database), self.bits)))


def test_stored_rows_are_served_and_other_modalities_pass() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, 3, 8, 8), generator=generator, dtype=torch.uint8)
    texts = torch.rand(5, 192, generator=generator)
    split = Split({"image": images, "text": texts}, torch.ones(5, 1, dtype=torch.uint8))
    data = Dataset("pairs", {}, split, torch.arange(5), split, split, ("a",))
    wrapped = behind("bit-depth", Pair(), depth=1)
    assert torch.equal(wrapped.relax(texts, "text"), Pair().relax(texts, "text"))
    black = (images.float() / 255 > 0.5).flatten(1).numpy()
    white = (texts > 0.5).numpy()
    # where image and text disagree the sum of real codes decides: ±1/2 of the image wins
    for database, wanted in (("image", black), ("text", white), ("fused", black)):
        found = wrapped.database_codes(data, database).unpack()
        assert found[:2].all()
        assert np.array_equal(found[2:], wanted[2:])
        assert np.array_equal(wrapped.rehashed_codes(data, database).unpack(), wanted)


def test_rows_that_a_lifelong_victim_froze_keep_their_codes() -> None:
    whole = load_dataset("openmoji", {})
    database = whole.database.take(torch.arange(0, len(whole.database), 25))
    data = replace(whole, name="few", database=database, train_rows=torch.arange(len(database) - 9))
    settings = {**DLCMH.data_arguments(data), "increments": (), "bits": 16, "width": 32}
    victim: DLCMH = VICTIMS.create("dlcmh", {**settings, "epochs": 1})
    assert not victim.stored_rows(data).any()
    victim.fit(data, seed=0)
    assert victim.stored_rows(data).any()
    wrapped = behind("bit-depth", victim, depth=1)
    assert wrapped.default_database == "fused"
    frozen = victim.stored_rows(data).numpy()
    for database_name in victim.directions:
        served = wrapped.database_codes(data, database_name).words
        plain = victim.database_codes(data, database_name).words
        assert np.array_equal(served[frozen], plain[frozen])
        fresh = wrapped.rehashed_codes(data, database_name).words
        assert np.array_equal(served[~frozen], fresh[~frozen])
    other = replace(data, name="other")
    assert not victim.stored_rows(other).any()
    fused = wrapped.rehashed_codes(data, "fused").words
    assert not np.array_equal(fused, victim.rehashed_codes(data, "fused").words)


# Refusals


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("jpeg", {"quality": 0}),
        ("jpeg", {"quality": 96}),
        ("bit-depth", {"depth": 0}),
        ("bit-depth", {"depth": 9}),
        ("smooth", {"kernel_size": 4}),
        ("smooth", {"kernel_size": 1}),
        ("crop-vote", {"crops": 0}),
        ("crop-vote", {"area": 1.5}),
        ("smoothing", {"sigma": 0.0}),
        ("smoothing", {"votes": 0}),
    ],
)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        DEFENSES.create(name, settings)


@every_defense
def test_a_victim_without_images_is_refused(name: str) -> None:
    victim = Seen()
    victim.bounds = {"party0": (0.0, 1.0)}
    with pytest.raises(UsageError, match="expected a victim of images, got one of party0"):
        behind(name, victim)


@every_defense
def test_a_victim_without_gradients_keeps_saying_so(name: str, scene: Scene) -> None:
    victim = Seen()
    victim.differentiable = False
    wrapped = behind(name, victim)
    seen = scene.seen_by(wrapped)
    with pytest.raises(UsageError, match="needs gradients"):
        CGAT(steps=1).fit(wrapped, seen.data, BALL).perturb(wrapped, scene.queries, None, BALL)
    assert NES.knowledge.isdisjoint({"gradients"})


def test_the_pipeline_trains_a_victim_behind_a_purifier() -> None:
    config = TrainConfig.model_validate(
        {
            "dataset": {"name": "digits"},
            "victim": {"name": "dpsh", "epochs": 1, "bits": 8},
            "defense": {"name": "jpeg", "quality": 50},
        }
    )
    first = prepare(config)
    assert isinstance(first.victim, Wrapped)
    again = prepare(config)
    assert again.cached
    picture = torch.rand(1, 3, 32, 32)
    size = first.data.database.inputs["image"].shape[-1]
    picture = picture[:, :, :size, :size]
    assert torch.equal(first.victim.relax(picture, "image"), again.victim.relax(picture, "image"))
