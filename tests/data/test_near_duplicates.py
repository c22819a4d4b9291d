"""Near-duplicates: altered copies that belong to one picture each, the same everywhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advhash.data import Dataset, to_unit
from advhash.data.load import load_dataset
from advhash.data.readers import openmoji
from advhash.data.readers.near_duplicates import VARIANTS, altered
from advhash.errors import ConfigError, DataError

KINDS = len(VARIANTS)


@pytest.fixture(scope="module")
def copies() -> Dataset:
    return load_dataset("near_duplicates", {"size": 32})


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """30 pictures of noise, some in sub-folders; a copy, a link and a hidden one besides."""
    root = tmp_path / "photos"
    generator = np.random.default_rng(0)
    for number in range(30):
        folder = root / "deep" / "er" if number % 3 == 0 else root
        folder.mkdir(parents=True, exist_ok=True)
        noise = generator.integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number:02}.png")
    shutil.copy(root / "01.png", root / "copy of 01.png")
    (root / ".hidden.png").write_bytes(b"no picture")
    (root / "notes.txt").write_text("no picture")
    (root / "link.png").symlink_to(root / "02.png")
    return root


def test_default_sizes(copies: Dataset) -> None:
    assert [len(copies.split(name)) for name in ("database", "query", "validation")] == [
        500, 75 * KINDS, 30 * KINDS,
    ]  # fmt: skip
    assert len(copies.classes) == len(set(copies.classes)) == 500
    assert copies.attribution == openmoji.ATTRIBUTION


def test_each_query_belongs_to_the_picture_it_was_made_from(copies: Dataset) -> None:
    database = to_unit(copies.database.inputs["image"]).flatten(1)
    for split in (copies.query, copies.validation):
        assert split.labels.shape[1] == 1
        source = split.labels[:, 0].long()
        images = to_unit(split.inputs["image"])
        nearest = torch.cdist(images[::KINDS].flatten(1), database).argmin(dim=1)  # the JPEG ones
        assert (nearest == source[::KINDS]).float().mean() > 0.95
        pictures = copies.database.inputs["image"][source]
        changed = (split.inputs["image"] != pictures).flatten(1).any(dim=1)
        assert changed.float().mean() > 0.99
        for row, name in enumerate(split.names):
            variant = VARIANTS[row % KINDS].name
            assert name.startswith(f"{copies.classes[int(source[row])]}, {variant} ")


def test_sources_of_queries_are_never_trained_on(copies: Dataset) -> None:
    parts = [
        set(copies.query.labels.flatten().tolist()),
        set(copies.validation.labels.flatten().tolist()),
        set(copies.train_rows.tolist()),
    ]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 500


def test_no_picture_is_there_twice(copies: Dataset) -> None:
    images = copies.database.inputs["image"]
    assert len({image.numpy().tobytes() for image in images}) == len(images)


def test_the_card_is_json_and_does_not_list_the_pictures(copies: Dataset) -> None:
    card = json.loads(json.dumps(copies.card, allow_nan=False))
    assert card == copies.card
    assert not {"labels", "groups"} & set(card)
    assert card["sources"] == {"query": 75, "validation": 30}
    assert set(card["variants"]) == {variant.name for variant in VARIANTS}
    assert card["queries_without_relevant"] == 0
    # one relevant row of N: the mean of 1/rank over all ranks
    assert card["chance_map"] == pytest.approx((1 / np.arange(1, 501)).mean(), abs=1e-6)


def test_made_anew_it_is_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = {"pictures": 25, "size": 16}
    first = load_dataset("near_duplicates", settings)
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path))
    assert load_dataset("near_duplicates", settings).fingerprint() == first.fingerprint()
    other = load_dataset("near_duplicates", {**settings, "seed": 1})
    assert other.fingerprint() != first.fingerprint()
    assert set(other.classes) != set(first.classes)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_strengths_fill_their_range(variant: object) -> None:
    assert isinstance(variant, type(VARIANTS[0]))
    picture = np.random.default_rng(0).integers(0, 256, (3, 20, 24), np.uint8)
    strengths = []
    for key in range(60):
        changed, strength = altered(picture, variant, str(key), seed=0)
        assert changed.shape == picture.shape
        assert changed.dtype == np.uint8
        strengths.append((strength - variant.low) / (variant.high - variant.low))
    assert 0 <= min(strengths) < 0.1
    assert 0.9 < max(strengths) <= 1


def test_what_the_variants_do() -> None:
    ramp = np.tile(np.arange(0, 240, 4, dtype=np.uint8), (3, 60, 1))  # brighter to the right
    made = {variant.name: altered(ramp, variant, "x", seed=0) for variant in VARIANTS}
    dark, factor = made["brightness"]
    assert np.allclose(dark, ramp * factor, atol=1.5)
    cropped, kept = made["crop"]
    assert np.ptp(cropped.astype(int)) == pytest.approx(kept * np.ptp(ramp.astype(int)), abs=8)
    small, _ = made["resize"]
    assert np.abs(small.astype(int) - ramp)[:, :, 6:-6].max() <= 3  # a ramp survives its middle


def test_a_folder_of_pictures(photos: Path) -> None:
    data = load_dataset("near_duplicates", {"root": str(photos), "size": 16})
    assert len(data.database) == 30  # without the copy, the link and the hidden one
    assert len([name for name in data.classes if name.startswith("deep/er/")]) == 10
    assert data.attribution == ""
    assert data.card["licence"] == "unknown"
    assert len(data.query) == round(30 * 0.15) * KINDS
    fewer = load_dataset("near_duplicates", {"root": str(photos), "size": 16, "pictures": 20})
    assert set(fewer.classes) < set(data.classes)


def test_a_changed_picture_is_read_again(photos: Path) -> None:
    settings = {"root": str(photos), "size": 16}
    first = load_dataset("near_duplicates", settings)
    Image.new("RGB", (30, 30), "red").save(photos / "05.png")
    assert load_dataset("near_duplicates", settings).fingerprint() != first.fingerprint()


def test_a_broken_picture_is_named(photos: Path) -> None:
    (photos / "05.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"got 05\.png in .*: repair or remove it"):
        load_dataset("near_duplicates", {"root": str(photos), "size": 16})


def test_too_few(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(DataError, match="got no folder"):
        load_dataset("near_duplicates", {"root": str(tmp_path / "nowhere")})
    with pytest.raises(DataError, match=r"at least 20 images in .*, got 10: add images"):
        load_dataset("near_duplicates", {"root": str(photos / "deep")})
    for file in photos.rglob("*.png"):
        Image.new("RGB", (9, 9)).save(file)
    with pytest.raises(DataError, match="20 different pictures, got 1"):
        load_dataset("near_duplicates", {"root": str(photos)})
    with pytest.raises(ConfigError, match="expected 20 pictures or more, got 19"):
        load_dataset("near_duplicates", {"pictures": 19})
    with pytest.raises(ConfigError, match="size from 16"):
        load_dataset("near_duplicates", {"size": 8})
