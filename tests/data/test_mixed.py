"""Pictures of several sizes: kept as they are, hashed as Pillow hashes them, attacked there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from source_tree import SHARED
from torch import Tensor

import advhash as ah
from advhash.data import Dataset
from advhash.data.images.mixed import MixedPictures, image_batches, in_order
from advhash.data.load import image_grid, load_dataset
from advhash.errors import ConfigError, DataError, UsageError
from advhash.registry import VICTIMS
from advhash.victims.encoders.encoded import Encoded

CLOTHES = SHARED / "clothing_photos"
SIZES = [(40, 24), (24, 40), (33, 33), (64, 20), (31, 47)]  # width and height, as Pillow has it


def draw(file: Path, size: tuple[int, int], seed: int) -> None:
    """A few coloured shapes, so that hashes of pictures differ."""
    generator = np.random.default_rng(seed)
    small = generator.integers(0, 256, (5, 5, 3), np.uint8)
    picture = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures of 5 sizes in two class folders."""
    root = tmp_path_factory.mktemp("photos")
    for number in range(40):
        draw(root / "ab"[number % 2] / f"{number:02}.png", SIZES[number % 5], number)
    return root


@pytest.fixture(scope="module")
def folder(photos: Path) -> Dataset:
    return load_dataset("folder", {"root": str(photos), "size": "stored"})


@pytest.fixture(scope="module")
def copies(photos: Path) -> Dataset:
    return load_dataset("near_duplicates", {"root": str(photos), "size": "stored"})


def files_of(data: Dataset, photos: Path) -> list[Path]:
    return [photos / name for name in data.database.names]


def test_pictures_stay_as_they_are(folder: Dataset, photos: Path) -> None:
    images = folder.database.inputs["image"]
    assert isinstance(images, MixedPictures)
    for stored, file in zip(images, files_of(folder, photos), strict=True):
        with Image.open(file) as picture:
            assert np.array_equal(stored.permute(1, 2, 0).numpy(), np.asarray(picture))
    assert images.count() == 5
    assert folder.pictures is not None
    assert folder.pictures["fed"] is None
    assert folder.pictures["stored"]["larger"] == 0
    assert image_grid(folder, 2, 2).size == (134, 134)


def test_it_is_read_again_as_it_was(folder: Dataset, photos: Path) -> None:
    again = load_dataset("folder", {"root": str(photos), "size": "stored"})
    assert again.fingerprint() == folder.fingerprint()
    assert load_dataset("folder", {"root": str(photos)}).fingerprint() != folder.fingerprint()


def test_batches_have_one_size_and_say_which_rows_they_are(folder: Dataset) -> None:
    split = folder.database
    seen = []
    for batch in split.batches(3):
        assert len(batch) <= 3
        seen += batch.index.tolist()
        for row, image in zip(batch.index.tolist(), batch.inputs["image"], strict=True):
            stored = split.inputs["image"]
            assert isinstance(stored, MixedPictures)
            assert torch.equal(image, stored.picture(row) / 255)
    assert sorted(seen) == list(range(len(split)))
    with pytest.raises(UsageError, match=r"expected pictures of one size, got \d+ of 5 sizes"):
        split.rows(torch.arange(len(split)))
    sample = split.sample(4)
    assert 1 < len(sample) <= 4
    assert int(sample.index[0]) == 0


def test_rows_are_chosen_without_a_copy() -> None:
    pictures = MixedPictures.of([torch.full((3, *size), float(size[0])) for size in SIZES])
    part = pictures[torch.tensor([4, 1])][::-1]
    assert part.flat.data_ptr() == pictures.flat.data_ptr()
    assert [image[0, 0, 0].item() for image in part] == [24.0, 31.0]
    rows = [rows for rows, _ in image_batches(pictures, 1)]
    assert in_order(rows)[rows[2]] == 2
    with pytest.raises(ValueError, match="expected 6 values, got 5"):
        MixedPictures.behind(torch.zeros(5), [(1, 2)])


def test_squares_of_one_size_are_a_tensor(tmp_path: Path) -> None:
    for number in range(24):
        draw(tmp_path / "ab"[number % 2] / f"{number}.png", (20, 20), number)
    data = load_dataset("folder", {"root": str(tmp_path), "size": "stored"})
    assert not data.mixed
    assert data.database.inputs["image"].shape[1:] == (3, 20, 20)


@pytest.mark.parametrize("name", ["phash", "dhash", "pdq"])
def test_codes_are_those_of_each_picture_alone(name: str, folder: Dataset) -> None:
    victim = VICTIMS.create(name)
    codes = victim.encode_split(folder.database, "image")
    images = folder.database.inputs["image"]
    for row in range(len(images)):
        alone = victim.encode(images[[row]].stacked() / 255, "image")
        assert np.array_equal(codes.words[row], alone.words[0])
    assert len(np.unique(codes.words, axis=0)) > len(images) / 2
    assert np.array_equal(victim.encode_pictures(images, "image").words, codes.words)


def test_phash_is_that_of_imagehash_on_the_file(folder: Dataset, photos: Path) -> None:
    imagehash = pytest.importorskip("imagehash")
    codes = VICTIMS.create("phash").encode_split(folder.database, "image").unpack()
    for code, file in zip(codes, files_of(folder, photos), strict=True):
        assert np.array_equal(code, imagehash.phash(Image.open(file)).hash.flatten())


METHODS: dict[str, dict[str, int]] = {
    "dhta": {"steps": 4},
    "mainstay": {"steps": 4},
    "hag": {"steps": 4},
    "collision": {"steps": 4},
    "square": {"queries": 30},
    "nes": {"queries": 60},
    "noise": {},
}


@pytest.mark.parametrize("budget", [("linf", "8/255"), ("l2", 1.5)], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_attacks_stay_inside_the_budget_at_each_size(
    method: str, budget: tuple[str, str | float], folder: Dataset
) -> None:
    norm, eps = budget
    queries = {"queries": 6, "batch_size": 4}
    victim = ah.train("dhash", {"name": "folder", **folder.settings})
    made = ah.attack(
        victim,
        method=method,
        norm=norm,
        eps=eps,
        protocol=queries,
        **METHODS[method],  # type: ignore[arg-type]
    )
    assert isinstance(made.clean, MixedPictures)
    assert isinstance(made.adversarial, MixedPictures)
    assert made.clean.count() > 1
    assert made.adversarial.dtype == torch.uint8
    radius = 8 / 255 if norm == "linf" else 1.5
    moved = 0
    for place, (clean, image) in enumerate(zip(made.clean, made.adversarial, strict=True)):
        assert torch.equal(clean, _stored(folder, int(made.index[place])))
        assert image.shape == clean.shape
        change = (image.double() - clean.double()) / 255
        far = float(change.abs().max()) if norm == "linf" else float(change.norm())
        assert far <= radius + 1e-5
        assert made.columns[norm][place] == pytest.approx(far, abs=1e-6)
        code = victim.victim.encode(image[None] / 255, "image")
        assert np.array_equal(code.words[0], made.codes.words[place])
        moved += far > 0
    assert moved


def _stored(data: Dataset, row: int) -> Tensor:
    images = data.query.inputs["image"]
    assert isinstance(images, MixedPictures)
    return images.picture(row)


def test_figures_do_not_depend_on_the_size_of_batches(folder: Dataset) -> None:
    victim = ah.train("phash", {"name": "folder", **folder.settings})
    found = [
        ah.attack(victim, method="dhta", eps="8/255", protocol={"batch_size": size}, steps=3)
        for size in (1, 3, 100)
    ]
    for other in found[1:]:
        assert np.array_equal(found[0].codes.words, other.codes.words)
        assert torch.equal(found[0].adversarial.flat, other.adversarial.flat)  # type: ignore[union-attr]


def test_a_run_has_its_page_and_its_pictures(
    copies: Dataset, tmp_path: Path, advhash: Callable[..., tuple[int, str, str]]
) -> None:
    out = tmp_path / "run"
    options = [f"--set=dataset.{key}={value}" for key, value in copies.settings.items()]
    code, shown, _ = advhash(
        "attack", "--victim", "dhash", "--dataset", "near_duplicates", *options, "--method",
        "evasion", "--set=attack.steps=6", "--eps", "16/255", "--queries", "8", "--out", str(out),
    )  # fmt: skip
    assert code == 0
    assert "at its own size" in shown
    page = (out / "report.html").read_text("utf-8")
    assert "fed each at its own size" in page
    sizes = set()
    for file in (out / "samples").glob("query-*.png"):
        with (
            Image.open(file) as picture,
            Image.open(file.with_name(file.name.replace("query", "adversarial"))) as moved,
        ):
            assert picture.size == moved.size
            sizes.add(picture.size)
    assert len(sizes) > 1


@pytest.mark.parametrize("method", ["universal", "prosgan", "blend"])
def test_what_needs_one_size_is_refused(method: str, folder: Dataset) -> None:
    victim = ah.train("dhash", {"name": "folder", **folder.settings})
    with pytest.raises(DataError, match="takes pictures of one size: expected that, got 'folder'"):
        ah.attack(victim, method=method)


def test_victims_of_one_size_are_refused(folder: Dataset) -> None:
    with pytest.raises(DataError, match=r"dpsh takes pictures of one size: .*size=PIXELS"):
        ah.train("dpsh", {"name": "folder", **folder.settings})
    with pytest.raises(DataError, match="takes pictures of one size"):
        ah.bring(lambda images: images.flatten(1)[:, :8], folder)


@pytest.mark.parametrize("kind", ["detect", "certify", "encode"])
def test_kinds_of_run_that_need_one_size_are_refused(
    kind: str, photos: Path, advhash: Callable[..., tuple[int, str, str]]
) -> None:
    smoothed = ["--sigma", "0.25"] if kind == "certify" else []
    data = ("--dataset", str(photos), "--set", "dataset.size=stored")
    code, _, said = advhash(kind, "--victim", "dhash", *data, *smoothed)
    assert code == 3
    assert f"error: advhash {kind} takes pictures of one size" in said


def test_a_picture_above_the_cap_is_refused(photos: Path) -> None:
    settings = {"root": str(photos), "size": "stored", "longest": 48}
    for reader in ("folder", "near_duplicates"):
        with pytest.raises(
            DataError,
            match=r"at most 48 pixels a side in .*, got 8 of 40 larger: a/08\.png \(64×20\), .*; "
            r"raise dataset\.longest",
        ):
            load_dataset(reader, settings)
    with pytest.raises(ConfigError, match=r"dataset\.longest from 16 to 4096 pixels, got 5000"):
        load_dataset("folder", {**settings, "longest": 5000})
    with pytest.raises(ConfigError, match="emoji are drawn at any size"):
        load_dataset("near_duplicates", {"size": "stored"})


def test_a_broken_picture_is_refused(tmp_path: Path) -> None:
    for number in range(30):
        draw(tmp_path / "ab"[number % 2] / f"{number:02}.png", SIZES[number % 5], number)
    (tmp_path / "a" / "08.png").write_bytes(b"no picture")
    for reader in ("folder", "near_duplicates"):
        with pytest.raises(DataError, match=r"1 of 30 broken: a/08\.png \(not an image\); repair"):
            load_dataset(reader, {"root": str(tmp_path), "size": "stored"})


def test_nothing_is_left_beside_the_data_set(folder: Dataset, session_cache: Path) -> None:
    assert folder.mixed
    assert not list(session_cache.rglob("gathered*"))


# Photographs as a user brings them


def pillow_features(encoder: Encoded, file: Path) -> Tensor:
    """(1,D) by timm's own transform of the file as Pillow opens it."""
    from timm.data import create_transform

    config = encoder.network.pretrained_cfg  # type: ignore[union-attr]
    transform = create_transform(
        config["input_size"],  # type: ignore[index]
        interpolation=config["interpolation"],  # type: ignore[index]
        mean=config["mean"],  # type: ignore[index]
        std=config["std"],  # type: ignore[index]
        crop_pct=config["crop_pct"],  # type: ignore[index]
    )
    with Image.open(file) as picture:
        seen = transform(ImageOps.exif_transpose(picture).convert("RGB"))
    with torch.no_grad():
        features: Tensor = encoder.network(seen[None])
    return features


@pytest.mark.skipif(not CLOTHES.is_dir(), reason="../shared/data/clothing_photos is not here")
def test_codes_of_photographs_are_those_of_the_files(tmp_path: Path) -> None:
    """Every size among 30 photographs, by phash and by an encoder, is hashed as Pillow sees it."""
    imagehash = pytest.importorskip("imagehash")
    for kind in ("hat", "shoes"):
        (tmp_path / kind).mkdir()
        for file in sorted((CLOTHES / kind).glob("*.jpg"))[:15]:
            shutil.copy(file, tmp_path / kind)
    data = load_dataset("folder", {"root": str(tmp_path), "size": "stored"})
    assert data.query.mixed is not None
    files = [tmp_path / name for name in data.database.names]
    codes = VICTIMS.create("phash").encode_split(data.database, "image").unpack()
    for code, file in zip(codes, files, strict=True):
        with Image.open(file) as picture:
            expected = imagehash.phash(ImageOps.exif_transpose(picture)).hash.flatten()
        assert np.array_equal(code, expected)
    encoder: Encoded = VICTIMS.create("encoder", {"encoder": "timm:tf_efficientnet_lite0"})
    features = encoder.split_features(data.query, "image")
    assert len(features) > 3
    centre = features.mean(dim=0)
    for value, name in zip(features, data.query.names, strict=True):
        expected = pillow_features(encoder, tmp_path / name)[0]
        clear = (expected - centre).abs() > 1e-5 * expected.abs().max()
        assert torch.equal((value > centre)[clear], (expected > centre)[clear])
        assert clear.float().mean() > 0.8  # many features are 0 in few pictures
