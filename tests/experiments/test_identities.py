"""Folders of pictures under a threshold: their classes say nothing, each picture is an identity."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advhash.experiments.attack.identities import by_identity, size_of_set
from advhash.experiments.config import DatasetConfig

Command = Callable[..., tuple[int, str, str]]
DEPTHS = ("cats", "dogs", "dogs/small")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/: 30 small pictures of many sizes, in folders of two depths; changed/: 5 of them."""
    place = tmp_path_factory.mktemp("identities")
    draw = np.random.default_rng(0)
    for number in range(30):
        name = Path(DEPTHS[number % 3], f"p{number}.png")
        coarse = Image.fromarray(draw.integers(0, 256, (6, 7, 3), np.uint8))
        picture = coarse.resize((60 + number, 50 + 2 * number), Image.Resampling.BICUBIC)
        changed = np.asarray(picture).astype(int) + draw.choice([-4, 4], np.shape(picture))
        pictures = {"photos": picture}
        if number < 5:
            pictures["changed"] = Image.fromarray(changed.clip(0, 255).astype(np.uint8))
        for folder, image in pictures.items():
            file = place / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            image.save(file)
    return place


def test_an_attack_at_a_threshold_reads_a_nested_folder_by_identity(
    advhash: Command, place: Path, tmp_path: Path
) -> None:
    code, out, err = advhash(
        *("attack", "--victim", "pdq", "--method", "evasion", "--threshold", "31"),
        *("--eps", "4/255", "--dataset", place / "photos", "--set", "dataset.size=256"),
        *("--set", "attack.steps=2", "--json", "--out", tmp_path / "run"),
    )
    assert code == 0, err
    assert f"{place / 'photos'}: pictures, each of its own identity" in err
    document = json.loads(out)
    assert document["dataset"]["name"] == "near_duplicates"
    assert document["dataset"]["database"] == 30
    assert document["protocol"]["start"] == "originals"
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "<title>evasion against pdq on photos" in page
    assert "on near_duplicates" not in page


@pytest.mark.parametrize("folder", ["photos", "photos/dogs/small"])
def test_evasion_of_a_perceptual_hash_needs_no_threshold(
    folder: str, advhash: Command, place: Path
) -> None:
    pictures = place / folder
    attack = ("attack", "--victim", "pdq", "--method", "evasion", "--dataset", pictures)
    code, out, err = advhash(*attack, "--dry-run", "--json")
    if folder == "photos":
        read = {"name": "photos", "reader": "near_duplicates", "database": 30}
        assert json.loads(out)["dataset"] == read
    else:
        assert (code, "at least 20 images" in err) == (3, True)


def test_a_set_is_judged_at_the_sizes_of_its_pictures(
    advhash: Command, place: Path, tmp_path: Path
) -> None:
    code, out, err = advhash(
        *("judge", place / "changed", "--clean", place / "photos", "--victim", "pdq"),
        *("--eps", "8/255", "--threshold", "31", "--json", "--out", tmp_path / "run"),
    )
    assert code == 0, err
    document = json.loads(out)
    assert document["set"]["pictures"] == 5
    assert document["dataset"]["settings"]["size"] == "stored"
    assert document["metrics"]["evasion_rate"]["n"] == 5


def test_a_set_of_squares_is_judged_at_their_side(place: Path, tmp_path: Path) -> None:
    assert size_of_set(place / "changed") == "stored"
    for number in range(2):
        Image.new("RGB", (96, 96)).save(tmp_path / f"{number}.png")
    assert size_of_set(tmp_path) == 96
    (tmp_path / "odd.png").write_bytes(b"no picture")
    assert size_of_set(tmp_path) is None


@pytest.mark.parametrize(
    "table",
    [
        {"name": "folder", "root": "photos"},
        {"name": "digits"},
        {"name": None},
    ],
)
def test_a_named_data_set_stays_what_it_is(table: dict[str, str | None]) -> None:
    config = DatasetConfig.build(table)
    assert by_identity(config) is config


def test_classes_count_for_other_attacks(advhash: Command, place: Path) -> None:
    attack = ("attack", "--victim", "pdq", "--method", "noise", "--dataset", place / "photos")
    code, out, err = advhash(*attack, "--dry-run", "--json")
    assert code == 0, err
    assert json.loads(out)["dataset"]["reader"] == "folder"
