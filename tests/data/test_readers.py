"""Data sets that a user brings: read as they are written, and refused in one line."""

from __future__ import annotations

import csv
import json
import os
import pickle  # noqa: TID251  (written here as CIFAR-10 is published; read by torchvision)
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from hashlib import md5
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import pytest
import scipy.io
import scipy.sparse
import torch
from PIL import Image
from source_tree import SHARED
from typer.testing import CliRunner

from advhash.cli.app import app
from advhash.data import Dataset
from advhash.data.images import rows as image_rows
from advhash.data.images.decode import decode
from advhash.data.images.rows import BLOCK, decode_blocks, image_file, map_images, write_images
from advhash.data.load import load_dataset
from advhash.data.parties import party_view
from advhash.data.readers import hashnet_lists
from advhash.data.text import counts as text
from advhash.errors import ConfigError, DataError
from advhash.storage import documents
from advhash.victims.federated.hashvfl import HashVFL

SIZE = 16


def shared(name: str) -> Any:
    """Real data, which users have not."""
    return pytest.mark.skipif(
        not (SHARED / name).is_dir(), reason=f"{SHARED / name} is not there: real data"
    )


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ADVHASH_DATA", raising=False)
    return tmp_path / "cache"


def noise(count: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    """(N,H,W,3) pictures."""
    return np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def multi_hot(count: int, classes: int, seed: int = 1) -> npt.NDArray[np.uint8]:
    labels = np.random.default_rng(seed).integers(0, 2, (count, classes), np.uint8)
    labels[np.arange(count), np.arange(count) % classes] = 1
    return labels


def stored(data: Dataset) -> dict[str, bytes]:
    """The pixels of every item by its name."""
    return {
        name: image.numpy().tobytes()
        for split in (data.database, data.validation, data.query)
        for name, image in zip(split.names, split.inputs["image"], strict=True)
    }


def pixels(image: npt.NDArray[np.uint8]) -> bytes:
    return np.ascontiguousarray(image.transpose(2, 0, 1)).tobytes()


def labels_of(data: Dataset) -> dict[str, list[int]]:
    return {
        name: row
        for split in (data.database, data.validation, data.query)
        for name, row in zip(split.names, split.labels.tolist(), strict=True)
    }


# ---- lists

DATABASE, TRAIN, TEST = range(60), range(0, 60, 3), range(60, 72)


@pytest.fixture
def lists(tmp_path: Path) -> Path:
    """60 database images, 20 of them trained on, 12 queries, 3 labels."""
    root = tmp_path / "lists"
    (root / "photos").mkdir(parents=True)
    images, labels = noise(72), multi_hot(72, 3)
    for row, image in enumerate(images):
        Image.fromarray(image).save(root / "photos" / f"im {row}.png")
    for part, rows in (("database", DATABASE), ("train", TRAIN), ("test", TEST)):
        write_list(root, part, [f"photos/im {row}.png" for row in rows], labels[list(rows)])
    return root


def write_list(
    root: Path, part: str, names: list[str], labels: npt.NDArray[np.uint8] | list[str]
) -> None:
    rows = [line if isinstance(line, str) else " ".join(map(str, line)) for line in labels]
    (root / f"{part}_img.txt").write_text("".join(f"{name}\n" for name in names))
    (root / f"{part}_label.txt").write_text("".join(f"{row}\n" for row in rows))


def read_lists(root: Path, **settings: object) -> Dataset:
    return load_dataset(
        "image_lists",
        {"root": str(root), "size": SIZE, "fit": "stretch", "validation": 10, **settings},
    )


def test_lists_are_read_as_they_are_written(lists: Path) -> None:
    data = read_lists(lists)
    assert [len(data.query), len(data.validation), len(data.database)] == [12, 10, 50]
    names = [name for name in data.database.names if name not in set(data.validation.names)]
    assert data.database.names == tuple(names), "in the order of the list"
    assert data.train.names == tuple(f"photos/im {row}.png" for row in TRAIN)
    assert data.query.names == tuple(f"photos/im {row}.png" for row in TEST)
    images, labels = noise(72), multi_hot(72, 3)
    for row in range(72):
        assert stored(data)[f"photos/im {row}.png"] == pixels(images[row])
        assert labels_of(data)[f"photos/im {row}.png"] == labels[row].tolist()
    assert data.classes == ("label 0", "label 1", "label 2")
    assert data.card["items"] == {"query": 12, "validation": 10, "database": 50, "train": 20}
    assert data.card["queries_repeated_in_database"] == 0


def test_the_form_of_hashnet_gives_the_same_data(lists: Path, tmp_path: Path) -> None:
    whole = read_lists(lists).fingerprint()
    for file in lists.glob("photos/*"):
        file.rename(file.with_name(file.name.replace(" ", "_")))
    for part in ("database", "train", "test"):
        names = (lists / f"{part}_img.txt").read_text().replace("im ", "im_").splitlines()
        labels = (lists / f"{part}_label.txt").read_text().splitlines()
        lines = [f"{name} {row}" for name, row in zip(names, labels, strict=True)]
        (lists / f"{part}.txt").write_text("\r\n".join(lines))
        (lists / f"{part}_img.txt").unlink()
    other = read_lists(lists, seed=0)
    assert {len(other.query), len(other.database)} == {12, 50}
    assert other.train_rows.tolist() != []
    assert whole != other.fingerprint(), "other names draw other validation rows"
    images = noise(72)
    assert stored(other)["photos/im_5.png"] == pixels(images[5])


def test_the_named_sets_are_found_below_advhash_data(
    lists: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVHASH_DATA", str(lists.parent))
    (lists / "classes.txt").write_text("dog\ncat\nsea\n")
    for name, folder in (("flickr25k", "FLICKR-25K"), ("nuswide", "nuswide"), ("coco", "MS-COCO")):
        lists = lists.rename(lists.with_name(folder))
        data = load_dataset(name, {"size": SIZE, "validation": 10})
        assert data.name == name
        assert data.classes == ("dog", "cat", "sea")
        assert data.card["licence"]


def test_the_command_line_reads_them(lists: Path) -> None:
    settings = [f"root={lists}", f"size={SIZE}", "validation=10"]
    options = [part for setting in settings for part in ("--set", f"dataset.{setting}")]
    shown = CliRunner().invoke(app, ["data", "show", "flickr25k", *options, "--json"])
    assert shown.exit_code == 0, shown.output
    assert json.loads(shown.stdout)["card"]["items"]["query"] == 12


def test_the_middle_of_a_picture_is_what_papers_crop(tmp_path: Path) -> None:
    wide = np.zeros((256, 512, 3), np.uint8)
    wide[16:240, 144:368] = 255  # the middle 224 × 224
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (decode(tmp_path / "wide.png", 224, "centre") == 255).all()
    assert not (decode(tmp_path / "wide.png", 224) == 255).all()
    assert (decode((tmp_path / "wide.png").read_bytes(), 224, "centre") == 255).all()


def test_unlabelled_rows_are_searched_but_never_asked_for_nor_trained_on(lists: Path) -> None:
    for part, rows in (("database", [0, 1]), ("train", [0]), ("test", [2])):
        file = lists / f"{part}_label.txt"
        lines = file.read_text().splitlines()
        for row in rows:
            lines[row] = "0 0 0"
        file.write_text("\n".join(lines))
    data = read_lists(lists)
    assert len(data.query) == 11
    assert data.card["queries_left_out"] == 1
    assert "photos/im 0.png" in data.database.names
    assert "photos/im 0.png" not in data.train.names
    assert "photos/im 1.png" not in data.validation.names
    assert data.card["database_without_label"] == 2


def test_paths_that_stand_twice_are_counted_and_never_leak(lists: Path) -> None:
    for part, again in (("database", [0, 5, 7]), ("train", [0])):
        names = (lists / f"{part}_img.txt").read_text().splitlines()
        labels = (lists / f"{part}_label.txt").read_text().splitlines()
        names += [names[row] for row in again]
        labels += [labels[row] for row in again]
        write_list(lists, part, names, labels)
    data = read_lists(lists, validation=40)  # all that are not trained on
    assert data.card["database_paths_repeated"] == 3
    assert data.card["training_paths_repeated"] == 1
    assert len(data.train) == 20
    assert not set(data.validation.names) & set(data.database.names)
    assert len(data.database) == 21


def test_a_query_in_the_database_is_refused_or_dropped(lists: Path) -> None:
    names = [f"photos/im {row}.png" for row in (60, 61, *DATABASE[2:])]
    write_list(lists, "database", names, multi_hot(72, 3)[[60, 61, *DATABASE[2:]]])
    rows = [row for row in TRAIN if row > 1]
    write_list(lists, "train", [f"photos/im {row}.png" for row in rows], multi_hot(72, 3)[rows])
    with pytest.raises(DataError, match=r"got 2 of 12 in both .*dataset.overlap=drop"):
        read_lists(lists)
    data = read_lists(lists, overlap="drop")
    assert not set(data.query.names) & set(data.database.names)
    assert data.card["database_rows_dropped_as_queries"] == 2
    assert len(data.database) == 48


def test_a_copy_of_a_query_under_another_name_is_reported(lists: Path) -> None:
    (lists / "photos/im 0.png").write_bytes((lists / "photos/im 60.png").read_bytes())
    data = read_lists(lists)
    assert data.card["queries_repeated_in_database"] == 1
    assert any("find themselves" in warning for warning in data.card["warnings"])


def edit(name: str, change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        file = root / name
        file.write_text("\n".join(change(file.read_text().splitlines())))

    return apply


def damage(root: Path) -> None:
    Image.new("RGB", (64, 64)).save(root / "whole.jpg")
    whole = (root / "whole.jpg").read_bytes()
    (root / "photos/im 3.png").write_bytes(whole[: len(whole) - 40])


def link_out(root: Path) -> None:
    (root.parent / "secret.png").write_bytes((root / "photos/im 3.png").read_bytes())
    (root / "photos/im 3.png").unlink()
    (root / "photos/im 3.png").symlink_to(root.parent / "secret.png")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "test_img.txt").unlink(), r"got no test_img.txt \(and no test.txt\)"),
        (edit("database_img.txt", lambda lines: lines[:-1]), "got 59 and 60: line N of one"),
        (edit("train_label.txt", lambda rows: rows[:4] + ["0 2 1"] + rows[5:]), "line 5: .*got 2$"),
        (edit("train_label.txt", lambda lines: lines[:4] + ["0 1"] + lines[5:]), "line 5: .*got 2"),
        (edit("test_label.txt", lambda lines: [f"{x} 1" for x in lines]), r"got \[3, 3, 4\]"),
        (edit("test_label.txt", lambda _: ["0 0 0"] * 12), "got 0, 20 and 10"),
        (edit("database_img.txt", lambda lines: ["../../etc/passwd", *lines[1:]]), "line 1: .*o"),
        (edit("database_img.txt", lambda lines: ["/etc/passwd", *lines[1:]]), "line 1: .*out"),
        (edit("database_img.txt", lambda rows: [rows[0], "", *rows[2:]]), "line 2: .*blank line: "),
        (edit("test_label.txt", lambda lines: [lines[0], "", *lines[2:]]), "line 2: .*got none"),
        (edit("test_label.txt", lambda rows: [rows[0], "0 -1 1", *rows[2:]]), "line 2: .*one .*-1"),
        (link_out, "leads out of it; .*copy the files"),
        (edit("train_img.txt", lambda lines: ["photos/im 60.png", *lines[1:]]), "1 of 20 that are"),
        (edit("train_img.txt", lambda rows: [f"photos/im {row}.png" for row in range(41, 61)]),
         "all training images of .* or none of them, got 1 of 20 that are not .*take the others"),
        (edit("train_label.txt", lambda lines: ["0 0 1", *lines[1:]]), "1 training images with"),
        (lambda root: (root / "photos/im 3.png").unlink(), "got 1 missing: photos/im 3.png; put"),
        (damage, r"got 1 of \d+ broken: photos/im 3.png \(.*cut off"),
        (lambda root: (root / "classes.txt").write_text("one\ntwo\n"), "3 different names .*got 2"),
        (lambda root: (root / "test_img.txt").write_bytes(b"\xff\xfe"), "expected UTF-8"),
    ],
)  # fmt: skip
def test_lists_that_cannot_be_used_are_told_in_one_line(
    spoil: Callable[[Path], object], message: str, lists: Path
) -> None:
    spoil(lists)
    with pytest.raises(DataError, match=message) as refused:
        read_lists(lists)
    assert "\n" not in str(refused.value)


def test_a_picture_of_too_many_pixels_is_broken(
    lists: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("advhash.data.images.decode.MAX_PIXELS", 100)
    with pytest.raises(DataError, match=r"broken: .*over 100 pixels"):
        read_lists(lists)


def test_too_few_rows_for_validation_are_told(lists: Path) -> None:
    with pytest.raises(DataError, match=r"and 41 further .*got 12, 20 and 40: set dataset.valid"):
        read_lists(lists, validation=41)
    with pytest.raises(ConfigError, match="at least 1 validation row"):
        read_lists(lists, validation=0)


def test_where_nothing_is_said_the_error_says_what_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("flickr25k", "cifar10", "mnist_t10k", "flickr8k", "captioned", "mirflickr_tags"):
        with pytest.raises(DataError, match=r"dataset.root=FOLDER.*ADVHASH_DATA"):
            load_dataset(name)
        monkeypatch.setenv("ADVHASH_DATA", str(tmp_path))
        with pytest.raises(DataError, match=f"got no folder .* in {tmp_path}: put them"):
            load_dataset(name)
        with pytest.raises(DataError, match=r"got no folder .*absent"):
            load_dataset(name, {"root": str(tmp_path / "absent")})
        with pytest.raises(DataError, match=f"in {tmp_path}, got ") as refused:
            load_dataset(name, {"root": str(tmp_path)})
        assert "\n" not in str(refused.value)
        monkeypatch.delenv("ADVHASH_DATA")


# ---- training images may be in the database, or apart from it


@pytest.fixture
def apart(lists: Path) -> Path:
    """As some lists of DeepHash-pytorch: 40 in the database, 20 others to train on, 12 queries."""
    labels = multi_hot(72, 3)
    for part, rows in (("database", range(40)), ("train", range(40, 60))):
        write_list(lists, part, [f"photos/im {row}.png" for row in rows], labels[list(rows)])
    return lists


def test_lists_whose_training_images_are_apart_are_read(apart: Path) -> None:
    data = read_lists(apart)
    assert data.card["training"] == "apart"
    assert data.card["items"] == {"query": 12, "validation": 10, "database": 30, "train": 20}
    assert data.train.names == tuple(f"photos/im {row}.png" for row in range(40, 60))
    assert data.train_rows.tolist() == []
    assert data.training is not None
    images, labels = noise(72), multi_hot(72, 3)
    for place, row in enumerate(range(40, 60)):
        assert data.train.inputs["image"][place].numpy().tobytes() == pixels(images[row])
        assert data.train_labels[place].tolist() == labels[row].tolist()
    assert len(set(data.train.names) & {*data.database.names, *data.validation.names}) == 0
    again = read_lists(apart)
    assert again.fingerprint() == data.fingerprint()
    assert replace(data, training=None).fingerprint() != data.fingerprint()


def test_lists_of_the_other_convention_say_so(lists: Path) -> None:
    data = read_lists(lists)
    assert (data.card["training"], data.training) == ("in the database", None)


def test_queries_among_training_images_apart_are_refused_or_dropped(apart: Path) -> None:
    """The model would know them; repeated paths train once, those without a label not at all."""
    labels = multi_hot(72, 3)
    rows = [*range(42, 62), 43, 44]
    lines = [" ".join(map(str, labels[row])) for row in rows]
    lines[0] = "0 0 0"
    write_list(apart, "train", [f"photos/im {row}.png" for row in rows], lines)
    with pytest.raises(DataError, match=r"not in the training list, got 2 of 12 .*overlap=drop"):
        read_lists(apart)
    data = read_lists(apart, overlap="drop")
    assert data.card["training_rows_dropped_as_queries"] == 2
    assert data.card["training_paths_repeated"] == 2
    assert data.train.names == tuple(f"photos/im {row}.png" for row in range(43, 60))


def test_victims_learn_from_training_images_apart(
    apart: Path, tmp_path: Path, advhash: Callable[..., tuple[int, str, str]]
) -> None:
    """Trained, hardened, attacked by a prototype network; what stores the database says no."""
    common = [str(apart), "--set", f"dataset.size={SIZE}", "--set", "dataset.validation=10"]
    words = ["--victim", "dpsh", "--set", "victim.epochs=1", "--bits", "8", "--dataset", *common]
    code, _, err = advhash(
        "attack", *words, "--method", "p2p", "--set", "attack.steps=2", "--queries", "4",
        "--eps", "8/255", "--out", str(tmp_path / "run"),
    )  # fmt: skip
    assert code == 0, err
    assert f"{apart}: lists of images, read by 'image_lists'" in err
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["dataset"]["train"] == 20
    assert metrics["dataset"]["database"] == 30
    code, _, err = advhash("train", *words, "--defense", "saat", "--set", "defense.epochs=1")
    assert code == 0, err
    phase = ["phase-chart", "--dataset", *common, "--samples", "10", "--out", str(tmp_path / "x")]
    code, _, err = advhash(*phase)
    assert code == 3, err
    assert "advhash phase-chart needs training rows that are in the database" in err


def test_a_federation_learns_from_training_images_apart(apart: Path) -> None:
    data = read_lists(apart)
    victim = HashVFL(bits=4, epochs=1, batch_size=10, **HashVFL.data_arguments(data))  # type: ignore[arg-type]
    victim.fit(data, seed=0)
    view = party_view(data, 2)
    assert view.training is not None
    assert set(view.training.inputs) == {"party0", "party1"}
    assert len(victim.history) == 1


# ---- labels of lists are class numbers or multi-hot, and paths may be what they are


@pytest.mark.parametrize("classes", [2, 3])
def test_lists_of_class_numbers_are_those_of_their_columns(lists: Path, classes: int) -> None:
    """A column of 0 and 1 was read as one class that some rows have."""
    numbers = np.arange(72) % classes
    for part, rows in (("database", DATABASE), ("train", TRAIN), ("test", TEST)):
        hot = np.eye(classes, dtype=np.uint8)[numbers[list(rows)]]
        write_list(lists, part, [f"photos/im {row}.png" for row in rows], hot)
    expected = read_lists(lists)
    assert expected.card["label_form"] == "multi-hot"
    forms = (
        str,
        lambda number: f"{number}.0",
        lambda number: f"{number:.18e}",
    )
    for form in forms:
        for part, rows in (("database", DATABASE), ("train", TRAIN), ("test", TEST)):
            names = [f"photos/im {row}.png" for row in rows]
            write_list(lists, part, names, [form(numbers[row]) for row in rows])
        found = read_lists(lists)
        assert found.fingerprint() == expected.fingerprint()
        assert found.card["label_form"] == "class numbers"
    (lists / "classes.txt").write_text("sea\nsky\nland\nair\n")
    assert len(read_lists(lists).classes) == 4, "a class without a row has a name"
    if classes == 2:
        (lists / "classes.txt").unlink()
        one = read_lists(lists, label_form="multi-hot")
        assert (one.classes, one.card["label_form"]) == (("label 0",), "multi-hot")


def test_lists_of_two_forms_are_told(lists: Path) -> None:
    edit("test_label.txt", lambda rows: [row.split()[0] for row in rows])(lists)
    with pytest.raises(DataError, match=r"got multi-hot in database, .*class numbers in test"):
        read_lists(lists)


def test_labels_are_numbers_in_any_form(lists: Path) -> None:
    expected = read_lists(lists).fingerprint()
    for part in ("database", "train", "test"):
        values = np.loadtxt(lists / f"{part}_label.txt")
        np.savetxt(lists / f"{part}_label.txt", values)
    assert read_lists(lists).fingerprint() == expected


def test_blanks_in_file_names_and_absolute_paths_are_read(lists: Path) -> None:
    expected = read_lists(lists).fingerprint()
    for part in ("database", "train", "test"):
        names = (lists / f"{part}_img.txt").read_text().splitlines()
        labels = (lists / f"{part}_label.txt").read_text().splitlines()
        lines = [f"{name} {row}" for name, row in zip(names, labels, strict=True)]
        (lists / f"{part}.txt").write_text("\n".join(lines))
        (lists / f"{part}_img.txt").rename(lists / f"{part}_img.old")
    assert read_lists(lists).fingerprint() == expected
    for part in ("database", "train", "test"):
        names = (lists / f"{part}_img.old").read_text().splitlines()
        (lists / f"{part}_img.txt").write_text("\n".join(f"{lists}/{name}" for name in names))
    assert read_lists(lists).fingerprint() == expected
    edit("test_img.txt", lambda rows: ["photos/../photos/im 60.png", *rows[1:]])(lists)
    assert read_lists(lists).fingerprint() == expected
    edit("test_img.txt", lambda rows: ["/elsewhere/im 60.png", *rows[1:]])(lists)
    with pytest.raises(DataError, match=r"line 1: .*'/elsewhere/im 60.png', .*write it as it is"):
        read_lists(lists)


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("im1.jpg 0 1", ("im1.jpg", "0 1")),
        ("my photos/im 1.JPEG\t0\t1", ("my photos/im 1.JPEG", "0\t1")),
        ("im 1 0.png 1 0", ("im 1 0.png", "1 0")),
        ("a.jpg b.jpg,1,0", ("a.jpg b.jpg", "1,0")),
        ('"my photo.tif" 1', ("my photo.tif", "1")),
        ("n015/2810_10 1 0", ("n015/2810_10", "1 0")),
        ("im1.jpg", ("im1.jpg", "")),
        ("", ("", "")),
    ],
)
def test_a_line_is_a_path_and_labels(line: str, parts: tuple[str, str]) -> None:
    assert hashnet_lists._name_and_labels(line) == parts


# ---- bounded memory


def test_a_changed_image_is_read_again_and_an_unchanged_one_is_not(
    lists: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = read_lists(lists)
    with monkeypatch.context() as patch:
        patch.setattr(hashnet_lists, "decode", None)
        assert read_lists(lists).fingerprint() == first.fingerprint()
        assert read_lists(lists).card == first.card
    Image.new("RGB", (9, 9)).save(lists / "photos/im 3.png")
    assert read_lists(lists).fingerprint() != first.fingerprint()


def test_images_are_mapped_and_writing_reaches_no_file(lists: Path, cache_folder: Path) -> None:
    data = read_lists(lists)
    (folder,) = (cache_folder / "data").iterdir()
    file = image_file(folder, "database")
    assert str(file) in Path("/proc/self/maps").read_text()
    before = file.read_bytes()
    images = data.database.inputs["image"]
    assert bytes(images.numpy().tobytes()) == before
    images[0] = 0
    assert file.read_bytes() == before
    assert read_lists(lists).fingerprint() == data.fingerprint()


def test_the_fingerprint_sees_pixels_texts_and_words(lists: Path) -> None:
    data = read_lists(lists)
    taken = data.query.take(torch.arange(12))
    assert taken.digests == {}, "a copy is no longer the file"
    moved = taken.take(torch.tensor([1, 0, *range(2, 12)]))
    said = replace(taken, texts=("a dog",) * 12)
    others = [
        Dataset("x", {}, database, torch.arange(3), taken, taken, ("a", "b", "c"), vocabulary=words)
        for database, words in ((taken, ()), (moved, ()), (said, ()), (taken, ("word:dog",)))
    ]
    assert len({other.fingerprint() for other in others}) == 4
    assert others[0].fingerprint() == replace(others[0]).fingerprint()


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_a_damaged_image_file_in_the_cache_is_made_again(
    damage: str, lists: Path, cache_folder: Path
) -> None:
    whole = read_lists(lists)
    pictures = stored(whole)
    del whole
    (folder,) = (cache_folder / "data").iterdir()
    file = image_file(folder, "query")
    if damage == "truncate":
        os.truncate(file, 100)
    else:
        file.unlink()
    assert stored(read_lists(lists)) == pictures


def test_images_are_decoded_a_block_at_a_time() -> None:
    loaded = []

    def load(row: int) -> npt.NDArray[np.uint8]:
        loaded.append(row)
        return np.full((3, 1, 1), row % 256, np.uint8)

    blocks = decode_blocks([str(row) for row in range(3 * BLOCK)], load, "memory")
    assert next(blocks)[:, 0, 0, 0].tolist() == list(range(BLOCK))
    assert len(loaded) == BLOCK
    blocks.close()


def test_a_full_disk_is_an_error_and_not_a_crash() -> None:
    with pytest.raises(OSError, match="No space left"):
        write_images(Path("/dev/full"), [np.zeros((9, 3, 64, 64), np.uint8)], 64)


def test_a_file_of_another_size_is_not_mapped(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"12345")
    with pytest.raises(ValueError, match="expected 12 bytes"):
        map_images(tmp_path / "x", (1, 3, 2, 2))
    (tmp_path / "x").write_bytes(b"")
    assert map_images(tmp_path / "x", (0, 3, 2, 2)).shape == (0, 3, 2, 2)


MEMORY = """
import resource, sys
from advhash.data.load import load_dataset
from advhash.data.parties import party_view
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
data = load_dataset("image_lists", {"root": sys.argv[1], "size": 256, "validation": 10})
for start in range(0, 100, 10):
    data.database.rows(range(start, start + 10))
images = data.database.inputs["image"]
print(peak() - before, images.numel(), data.fingerprint())
"""


def test_a_set_larger_than_the_memory_it_may_take_is_read(tmp_path: Path) -> None:
    """1,290 images at 256 pixels are 254 MB; reading and using them takes less than half."""
    root = tmp_path / "big"
    root.mkdir()
    count = 1400
    for row, image in enumerate(noise(100)):
        Image.fromarray(image).save(root / f"{row}.png")
    for row in range(100, count):
        os.link(root / f"{row % 100}.png", root / f"{row}.png")
    labels = multi_hot(count, 3)
    for part, rows in (
        ("database", range(1300)), ("train", range(100)), ("test", range(1390, count)),
    ):  # fmt: skip
        write_list(root, part, [f"{row}.png" for row in rows], labels[list(rows)])
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, str(root)], capture_output=True, text=True, check=True
    )
    grown, size, fingerprint = run.stdout.split()
    assert int(size) == 1290 * 3 * 256 * 256
    assert int(grown) < int(size) / 2
    settings = {"root": str(root), "size": 256, "validation": 10}
    assert load_dataset("image_lists", settings).fingerprint() == fingerprint


@shared("hash_label_splits")
def test_the_published_lists_of_flickr25k_are_read_in_full(tmp_path: Path) -> None:
    """With their real labels and paths, and one tiny picture in the place of all photographs."""
    published = np.load(SHARED / "hash_label_splits" / "prosgan_label_splits.npz")
    for part in ("database", "train", "test"):
        names = [str(name) for name in published[f"flickr25k_{part}_images"]]
        write_list(tmp_path, part, names, published[f"flickr25k_{part}_labels"])
    (tmp_path / "mirflickr").mkdir()
    Image.fromarray(noise(1)[0]).save(tmp_path / "one.png")
    for number in range(1, 25001):
        os.link(tmp_path / "one.png", tmp_path / f"mirflickr/im{number}.jpg")
    data = load_dataset("flickr25k", {"root": str(tmp_path), "size": SIZE})
    assert data.card["items"]["query"] == 1700 - 38
    assert data.card["queries_left_out"] == 38
    assert data.card["items"]["validation"] == 500
    assert data.card["items"]["database"] == 23_300 - 500
    assert data.card["training_paths_repeated"] == 504
    assert data.card["database_without_label"] == 381
    assert data.card["queries_repeated_in_database"] == 1662, "all pictures are one"
    query, database = (
        published[f"flickr25k_{part}_labels"].astype(np.float32) for part in ("test", "database")
    )
    fraction = (query[query.any(1)] @ database.T > 0).mean()
    assert data.card["relevant_fraction"] == pytest.approx(fraction, abs=0.005)


# ---- MATLAB files

ITEMS, CLASSES, WORDS = 60, 4, 7
SMALL = {"size": SIZE, "queries": 10, "trained": 20, "validation": 5}


def tags(count: int = ITEMS) -> npt.NDArray[np.uint8]:
    found = np.random.default_rng(2).integers(0, 3, (count, WORDS), np.uint8)
    found[:, 0] = 1
    return found


def matlab5(root: Path, **other: object) -> None:
    """As MATLAB counts axes: (H,W,3,N), with numbers as doubles."""
    variables = {
        "IAll": noise(ITEMS).transpose(1, 2, 3, 0),
        "LAll": multi_hot(ITEMS, CLASSES).astype(float),
        "YAll": tags().astype(float),
        **other,
    }
    scipy.io.savemat(root / "FLICKR-25K.mat", {k: v for k, v in variables.items() if v is not None})


def matlab73(root: Path) -> None:
    """As MATLAB writes HDF5: all axes reversed, 512 bytes of its own in front."""
    folder = root / "IAll"
    folder.mkdir()
    for name, value in (
        ("IAll", noise(ITEMS).transpose(1, 2, 3, 0)),
        ("LAll", multi_hot(ITEMS, CLASSES).astype(float)),
        ("YAll", tags().astype(float)),
    ):
        file = (folder if name == "IAll" else root) / f"mirflickr25k-{name.lower()}.mat"
        with h5py.File(file, "w", userblock_size=512) as opened:
            opened.create_dataset(name, data=value.T, compression="gzip")
            opened[name].attrs["MATLAB_class"] = np.bytes_("double")
        with file.open("r+b") as stream:
            stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(128))


def python_hdf5(root: Path) -> None:
    """As others have converted it: rows first."""
    with h5py.File(root / "FLICKR-25K.mat", "w") as opened:
        opened["images"] = noise(ITEMS).transpose(0, 3, 1, 2)
        opened["LAll"], opened["YAll"] = multi_hot(ITEMS, CLASSES), tags()


def save_photos(folder: Path) -> list[str]:
    folder.mkdir()
    for row, image in enumerate(noise(ITEMS)):
        Image.fromarray(image).save(folder / f"im{row}.png")
    return [f"im{row}.png" for row in range(ITEMS)]


def names_in_matlab5(root: Path) -> None:
    names = np.array(save_photos(root / "photos"), object)[:, None]
    matlab5(root, IAll=None, FAll=names, YAll=scipy.sparse.csc_matrix(tags().astype(float)))


def names_in_matlab73(root: Path) -> None:
    with h5py.File(root / "all.mat", "w", userblock_size=512) as opened:
        cells = opened.create_dataset("FAll", (1, ITEMS), h5py.ref_dtype)
        for row, name in enumerate(save_photos(root / "photos")):
            characters = np.array([[ord(char)] for char in name], np.uint16)
            cells[0, row] = opened.create_dataset(f"#refs#/{row}", data=characters).ref
        opened["LAll"], opened["YAll"] = multi_hot(ITEMS, CLASSES).T, tags().T


@pytest.mark.parametrize("write", [matlab5, python_hdf5])
def test_a_matlab_file_that_unpacks_to_more_than_it_should_is_refused(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    monkeypatch.setattr(documents, "MOST_UNPACKED", 100)
    with pytest.raises(DataError, match=r"bytes unpacked, over 100"):
        load_dataset("mirflickr_mat", {"root": str(tmp_path), **SMALL})


def test_an_hdf5_file_that_states_terabytes_and_holds_none_is_refused(tmp_path: Path) -> None:
    python_hdf5(tmp_path)
    with h5py.File(tmp_path / "FLICKR-25K.mat", "r+") as opened:
        del opened["LAll"]
        opened.create_dataset("LAll", (ITEMS, 10**11), "u1", chunks=(1, 1000))
    with pytest.raises(DataError, match=r"bytes unpacked, over 8,589,934,592"):
        load_dataset("mirflickr_mat", {"root": str(tmp_path), **SMALL})


@pytest.mark.parametrize(
    "write", [matlab5, matlab73, python_hdf5, names_in_matlab5, names_in_matlab73]
)
def test_matlab_files_of_every_layout_give_the_same_data(
    write: Callable[[Path], None], tmp_path: Path
) -> None:
    root = tmp_path / "mat"
    root.mkdir()
    write(root)
    settings: dict[str, object] = {"root": str(root), **SMALL}
    named = (root / "photos").is_dir()
    if named:
        settings["images"] = str(root / "photos")
    data = load_dataset("mirflickr_mat", settings)
    assert [len(data.query), len(data.validation), len(data.database)] == [10, 5, 45]
    assert len(data.train) == 20
    images, labels, counts = noise(ITEMS), multi_hot(ITEMS, CLASSES), tags()
    for split in (data.database, data.validation, data.query):
        for row, name in enumerate(split.names):
            item = int(name.removeprefix("im").removesuffix(".png") if named else name[5:])
            assert split.inputs["image"][row].numpy().tobytes() == pixels(images[item])
            assert split.labels[row].tolist() == labels[item].tolist()
            assert split.inputs["text"][row].tolist() == counts[item].tolist()
    assert data.increments == (("label 2", "label 3"),)
    assert data.vocabulary == ()


def test_threads_load_a_matlab_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matlab5(tmp_path)
    loaded: list[str] = []
    load = scipy.io.loadmat

    def slow(file: Path, variable_names: list[str]) -> object:
        loaded.extend(variable_names)
        time.sleep(0.05)
        return load(file, variable_names=variable_names)

    monkeypatch.setattr(scipy.io, "loadmat", slow)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    load_dataset("mirflickr_mat", {"root": str(tmp_path), **SMALL})
    assert sorted(loaded) == ["IAll", "LAll", "YAll"]


def test_matlab_pictures_are_resized(tmp_path: Path) -> None:
    matlab5(tmp_path)
    data = load_dataset("nuswide_mat", {"root": str(tmp_path), **SMALL, "size": 32})
    assert data.query.inputs["image"].shape == (10, 3, 32, 32)
    assert data.increments == ()


def test_class_numbers_in_a_matlab_file_are_those_of_their_columns(tmp_path: Path) -> None:
    numbers = np.arange(ITEMS) % 2
    matlab5(tmp_path, LAll=np.eye(2)[numbers])
    expected = load_dataset("nuswide_mat", {"root": str(tmp_path), **SMALL})
    for column in (numbers[:, None], numbers[None, :]):
        matlab5(tmp_path, LAll=column.astype(float))
        found = load_dataset("nuswide_mat", {"root": str(tmp_path), **SMALL})
        assert found.fingerprint() == expected.fingerprint()
        assert found.card["label_form"] == "class numbers"
    few = {**SMALL, "queries": 5, "trained": 10, "label_form": "multi-hot"}
    one = load_dataset("nuswide_mat", {"root": str(tmp_path), **few})
    assert (one.classes, one.card["label_form"]) == (("label 0",), "multi-hot")


def test_rows_without_tags_are_searched_only(tmp_path: Path) -> None:
    empty = tags()
    empty[:15] = 0
    matlab5(tmp_path, YAll=empty)
    data = load_dataset("mirflickr_mat", {"root": str(tmp_path), **SMALL})
    assert data.card["database_without_label_or_text"] == 15
    for split in (data.query, data.validation, data.train):
        assert bool((split.inputs["text"].sum(1) > 0).all())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"LAll": multi_hot(ITEMS, CLASSES) * 2.0}, "LAll: expected labels 0 and 1.* got 2.0"),
        ({"YAll": tags() * 0.5}, "YAll: expected whole counts"),
        ({"YAll": tags() - 2.0}, "YAll: expected whole counts"),
        ({"YAll": tags(59)}, r"got \(60, 4\) in .*LAll and \(59, 7\)"),
        (
            {"IAll": noise(59).transpose(1, 2, 3, 0)},
            r"pictures of 60 items .*got \(16, 16, 3, 59\)",
        ),
        (
            {"IAll": np.zeros((SIZE, SIZE, 3, ITEMS))},
            "broken: .*expected uint8 pixels, got float64",
        ),
        ({"YAll": None}, "got the variables IAll, LAll: put"),
        ({"IAll": None, "FAll": np.array(["../../x"] * ITEMS, object)}, "FAll: .*leads out"),
        ({"IAll": None, "FAll": np.array(["x.png"] * ITEMS, object)}, "got 60 missing: x.png"),
    ],
)
def test_matlab_files_that_cannot_be_used_are_told_in_one_line(
    other: dict[str, object], message: str, tmp_path: Path
) -> None:
    matlab5(tmp_path, **other)
    with pytest.raises(DataError, match=message) as refused:
        load_dataset("mirflickr_mat", {"root": str(tmp_path), **SMALL})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"no MATLAB file", b"\x89HDF\r\n\x1a\n broken"])
def test_a_broken_matlab_file_is_told(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.mat").write_bytes(content)
    with pytest.raises(DataError, match=r"expected a MATLAB (7.3 )?file .*x.mat, got"):
        load_dataset("mirflickr_mat", {"root": str(tmp_path), **SMALL})


def test_too_few_items_are_told(tmp_path: Path) -> None:
    matlab5(tmp_path)
    with pytest.raises(DataError, match=r"expected more than 12500 items .*got 60: set dataset.q"):
        load_dataset("mirflickr_mat", {"root": str(tmp_path), "size": SIZE})


def test_without_h5py_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python_hdf5(tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"expected h5py .*pip install 'advhash-toolkit\[mat\]'"):
        load_dataset("mirflickr_mat", {"root": str(tmp_path), **SMALL})


# ---- arrays


def test_cifar10_is_read_from_the_layout_of_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import CIFAR10

    classes = ["airplane", "automobile", "bird", "cat", "deer"]
    classes += ["dog", "frog", "horse", "ship", "truck"]
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    known = {}
    for place, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        images = np.random.default_rng(place).integers(0, 256, (1200, 3072), np.uint8)
        batch = {"data": images, "labels": [row % 10 for row in range(1200)]}
        (folder / name).write_bytes(pickle.dumps(batch))
        known[name] = md5((folder / name).read_bytes()).hexdigest()
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": classes}))
    with pytest.raises(DataError, match="not the published ones"):
        load_dataset("cifar10", {"root": str(tmp_path)})
    meta = {**CIFAR10.meta, "md5": md5((folder / "batches.meta").read_bytes()).hexdigest()}
    monkeypatch.setattr(CIFAR10, "meta", meta)
    monkeypatch.setattr(CIFAR10, "train_list", [*known.items()][:5])
    monkeypatch.setattr(CIFAR10, "test_list", [*known.items()][5:])
    data = load_dataset("cifar10", {"root": str(folder)})
    assert data.card["items"] == {"query": 1000, "validation": 500, "database": 5700, "train": 5000}
    assert data.query.labels.sum(0).tolist() == [100] * 10
    assert data.classes == tuple(classes)
    assert data.increments == (("horse", "ship", "truck"),)
    row = int(data.query.names[0].partition("no. ")[2].rstrip(")"))
    first = np.random.default_rng(row // 1200).integers(0, 256, (1200, 3072), np.uint8)[row % 1200]
    assert data.query.inputs["image"][0].numpy().tobytes() == first.tobytes()


@shared("cifar10_jpg")
def test_cifar10_is_read_from_jpegs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADVHASH_DATA", str(SHARED))
    data = load_dataset("cifar10")
    assert data.card["items"] == {
        "query": 1000, "validation": 500, "database": 18_500, "train": 5000,
    }  # fmt: skip
    assert data.train.labels.sum(0).tolist() == [500] * 10
    assert data.query.labels.argmax(1)[:20].unique().numel() > 3, "rows are shuffled"
    assert any("no figure compares" in warning for warning in data.card["warnings"])
    parts = [
        {image.numpy().tobytes() for image in split.inputs["image"]}
        for split in (data.query, data.validation, data.database)
    ]
    assert not parts[0] & parts[2]
    assert not parts[1] & (parts[0] | parts[2])


def jpegs(root: Path, **other: object) -> None:
    import io

    blobs = []
    for image in noise(20):
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "JPEG")
        blobs.append(stream.getvalue())
    offsets = np.cumsum([0, *map(len, blobs)])
    arrays: dict[str, Any] = {
        "blob": np.frombuffer(b"".join(blobs), np.uint8),
        "offsets": offsets,
        "labels": np.arange(20, dtype=np.uint8) % 10,
        "classes": np.array([f"class {label}" for label in range(10)]),
        **other,
    }
    np.savez(root / "train.npz", **arrays)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({}, r"expected more than 650 images of each of 10 classes, got \[2, 2"),
        ({"offsets": np.arange(20)}, "ascending offsets"),
        ({"offsets": np.arange(21)[::-1]}, "ascending offsets"),
        ({"offsets": np.arange(21) * 10**6}, "ascending offsets"),
        ({"offsets": np.zeros(21, int)}, "20 of 20 broken: image 0 .not an image"),
        ({"labels": np.full(20, 10)}, "expected labels below 10, got 10"),
        ({"classes": np.array([{}], object)}, "expected an npz file .*Object arrays"),
    ],
)
def test_arrays_that_cannot_be_used_are_told(
    other: dict[str, object], message: str, tmp_path: Path
) -> None:
    jpegs(tmp_path, **other)
    with pytest.raises(DataError, match=message):
        load_dataset("cifar10", {"root": str(tmp_path)})


def test_an_npz_that_is_damaged_or_a_bomb_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mnist_t10k.npz"
    file.write_bytes(b"nothing")
    with pytest.raises(DataError, match="expected an npz file"):
        load_dataset("mnist_t10k", {"root": str(tmp_path)})
    np.savez_compressed(file, images=np.zeros((100, 28, 28), np.uint8))
    with pytest.raises(DataError, match="expected the arrays images, labels"):
        load_dataset("mnist_t10k", {"root": str(tmp_path)})
    monkeypatch.setattr(documents, "MOST_UNPACKED", 1000)
    with pytest.raises(DataError, match="bytes unpacked, over 1,000"):
        load_dataset("mnist_t10k", {"root": str(tmp_path)})


@shared("mnist_t10k")
def test_mnist_is_read() -> None:
    data = load_dataset("mnist_t10k", {"root": str(SHARED / "mnist_t10k")})
    assert data.card["items"]["database"] == 8500
    assert data.query.labels.sum(0).tolist() == [100] * 10
    assert data.query.inputs["image"].shape == (1000, 3, 32, 32)


@shared("tags_mirflickr_nuswide")
@pytest.mark.parametrize(
    ("name", "queries", "database", "classes"),
    [("mirflickr_tags", 2000, 17_515, 24), ("nuswide_tags", 1000, 9000, 21)],
)
def test_tags_are_read(
    name: str, queries: int, database: int, classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ADVHASH_DATA", str(SHARED))
    data = load_dataset(name)
    assert [len(data.query), len(data.database), len(data.classes)] == [queries, database, classes]
    assert data.modalities == ("text",)
    counts = data.query.inputs["text"]
    assert counts.shape[1] == len(data.vocabulary)
    for row in range(50):
        present = [data.vocabulary[column] for column in counts[row].nonzero().flatten()]
        words = {f"word:{word}" for word in data.query.texts[row].split()}
        assert set(present) <= words


# ---- captions


def write_captions(root: Path, change: Callable[[list[dict[str, str]]], None]) -> None:
    root.mkdir()
    words = ("dog", "cat", "boat", "tree")
    rows = []
    for row, image in enumerate(noise(40)):
        Image.fromarray(image).save(root / f"{row}.png")
        caption = f'A {words[row % 4]}, and "the" {words[row % 3]} number {row}'
        labels = f"{words[row % 4]};{words[row % 3]}"
        rows += [
            {"image": f"{row}.png", "caption": caption, "labels": labels},
            {"image": f"{row}.png", "caption": "another", "labels": words[row % 4]},
        ]
    change(rows)
    with (root / "captions.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def read_captions(root: Path, **settings: object) -> Dataset:
    return load_dataset(
        "captioned", {"root": str(root), "size": SIZE, "fit": "stretch", **settings}
    )


def test_captions_are_counted_and_kept(tmp_path: Path) -> None:
    write_captions(tmp_path / "mine", lambda rows: None)
    data = read_captions(tmp_path / "mine")
    assert data.classes == ("boat", "cat", "dog", "tree")
    assert sum(len(part) for part in (data.query, data.validation, data.database)) == 40
    assert [len(data.query), len(data.validation)] == [6, 4]
    assert 0 < len(data.train) < len(data.database)
    assert set(data.vocabulary) == {"word:boat", "word:cat", "word:dog", "word:number", "word:tree"}
    images = noise(40)
    for split in (data.query, data.validation, data.database):
        for row, name in enumerate(split.names):
            caption = split.texts[row]
            assert caption.endswith(f"number {name.removesuffix('.png')}")
            counts = split.inputs["text"][row].tolist()
            found = text.words(caption)
            assert counts == [found.count(word[5:]) for word in data.vocabulary]
            assert split.inputs["image"][row].numpy().tobytes() == pixels(
                images[int(name.removesuffix(".png"))]
            )
    assert data.card["captions_left_out"] == 40
    assert len(read_captions(tmp_path / "mine", vocabulary=2).vocabulary) == 2


def test_a_split_column_is_followed(tmp_path: Path) -> None:
    parts = ("train", "test", "val", "database", "train")

    def add(rows: list[dict[str, str]]) -> None:
        for row in rows:
            row["split"] = parts[int(row["image"].removesuffix(".png")) % 5]

    write_captions(tmp_path / "mine", add)
    data = read_captions(tmp_path / "mine")
    numbers = [int(name.removesuffix(".png")) % 5 for name in data.query.names]
    assert numbers == [1] * 8
    assert len(data.train) == 16
    assert len(data.database) == 24


def test_identical_files_stay_in_one_split(tmp_path: Path) -> None:
    write_captions(tmp_path / "mine", lambda rows: None)
    for row in range(20):
        (tmp_path / "mine" / f"{row}.png").write_bytes((tmp_path / "mine" / "30.png").read_bytes())
    data = read_captions(tmp_path / "mine")
    assert data.card["queries_repeated_in_database"] == 0


def put(key: str, value: str) -> Callable[[list[dict[str, str]]], None]:
    def change(rows: list[dict[str, str]]) -> None:
        rows[2][key] = value

    return change


def rename(rows: list[dict[str, str]]) -> None:
    for row in rows:
        row["text"] = row.pop("caption")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("image", "../../etc/passwd"), "line 4: .*leads out"),
        (put("image", "/etc/passwd"), "line 4: .*leads out"),
        (put("image", "absent.png"), "got 1 missing: absent.png"),
        (rename, "columns image, caption and labels .*got image, labels, text"),
        (lambda rows: rows.__delitem__(slice(4, None)), "at least 20 images .*got 2"),
        (lambda rows: [row.update(labels="") for row in rows] and None, "images with labels"),
        (lambda rows: [row.update(split="south") for row in rows] and None, "line 2: .*'south'"),
        (lambda rows: [row.update(split="train") for row in rows] and None, "none in .*query"),
    ],
)
def test_captions_that_cannot_be_used_are_told_in_one_line(
    change: Callable[[list[dict[str, str]]], None], message: str, tmp_path: Path
) -> None:
    write_captions(tmp_path / "mine", change)
    with pytest.raises(DataError, match=message) as refused:
        read_captions(tmp_path / "mine")
    assert "\n" not in str(refused.value)


def test_fields_that_are_missing_are_told(tmp_path: Path) -> None:
    write_captions(tmp_path / "mine", lambda rows: None)
    with (tmp_path / "mine/captions.csv").open("a") as stream:
        stream.write("0.png,one, two, three\n")
    with pytest.raises(DataError, match="line 82: expected 3 fields: quote"):
        read_captions(tmp_path / "mine")
    with pytest.raises(DataError, match="leads out"):
        read_captions(tmp_path / "mine", table="../captions.csv")


def flickr(root: Path, **other: object) -> None:
    """40 photographs in the form of Flickr8k."""
    parts = ["train"] * 24 + ["dev"] * 6 + ["test"] * 6 + ["none"] * 4
    entries = [
        {"file": f"{row}.png", "split": part, "captions": [f"A dog at the sea {row}.", "else"]}
        for row, part in enumerate(parts)
    ]
    labels = multi_hot(40, 5)
    labels[[3, 31, 39]] = 0
    concepts = ["snow", "ski_snowboard", "bicycle", "motor_vehicle", "dog"]
    with zipfile.ZipFile(root / "images.zip", "w") as archive:
        for row, image in enumerate(noise(40)):
            Image.fromarray(image).save(root / "one.png")
            archive.write(root / "one.png", f"{row}.png")
    (root / "captions.json").write_text(json.dumps(other.get("entries", entries)))
    (root / "concepts.json").write_text(json.dumps({"concepts": dict.fromkeys(concepts, "")}))
    np.save(root / "labels.npy", other.get("labels", labels))


def test_flickr8k_keeps_its_official_split(tmp_path: Path) -> None:
    flickr(tmp_path)
    data = load_dataset("flickr8k", {"root": str(tmp_path), "size": SIZE})
    assert data.query.names == tuple(f"{row}.png" for row in (30, 32, 33, 34, 35))
    database = {f"{row}.png" for row in (*range(24), *range(36, 40))} - {"3.png", "39.png"}
    assert set(data.database.names) == database
    held_out = database - set(data.train.names)
    assert {"36.png", "37.png", "38.png"} < held_out
    assert 4 <= len(held_out) <= 5, "and a twelfth of the training part"
    assert data.card["items_without_label_left_out"] == 3
    assert data.vocabulary == ("word:dog", "word:sea")
    assert data.query.texts[0] == "A dog at the sea 30."
    assert data.card["queries_left_out"] == 1
    images = noise(40)
    for name, image in stored(data).items():
        assert image == pixels(images[int(name.removesuffix(".png"))])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"entries": [{"file": "x"}]}, "another form: KeyError"),
        ({"entries": {"file": "x"}}, "another form: TypeError"),
        ({"labels": multi_hot(39, 5)}, r"expected 40 rows of 5 labels, .*got \(39, 5\)"),
        ({"labels": multi_hot(40, 5) * 3}, "labels 0 and 1, .*got 3"),
    ],
)
def test_flickr8k_of_another_form_is_told(
    other: dict[str, object], message: str, tmp_path: Path
) -> None:
    flickr(tmp_path, **other)
    with pytest.raises(DataError, match=message):
        load_dataset("flickr8k", {"root": str(tmp_path), "size": SIZE})


def test_a_picture_missing_from_the_archive_is_named(tmp_path: Path) -> None:
    flickr(tmp_path)
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.write(tmp_path / "one.png", "0.png")
    with pytest.raises(DataError, match=r"broken: 1.png \(.*no item named"):
        load_dataset("flickr8k", {"root": str(tmp_path), "size": SIZE})
    (tmp_path / "images.zip").write_text("nothing")
    with pytest.raises(DataError, match="expected a zip file"):
        load_dataset("flickr8k", {"root": str(tmp_path), "size": SIZE})


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dataset]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADVHASH_CACHE", str(tmp_path_factory.mktemp("flickr8k")))
        patch.setenv("ADVHASH_DATA", str(SHARED))
        yield load_dataset("flickr8k", {"size": 32})


@shared("flickr8k_128")
def test_flickr8k_is_read_in_full(photographs: Dataset) -> None:
    data = photographs
    items = {"query": 989, "validation": 989, "database": 6024, "train": 5450}
    assert data.card["items"] == items
    assert data.card["items_without_label_left_out"] == 89
    assert data.card["queries_without_relevant"] == 0
    labels = np.load(SHARED / "flickr8k_128" / "labels.npy")
    assert data.card["labels_per_item"] == round(float(labels[labels.any(1)].sum(1).mean()), 4)
    assert len(data.classes) == 24
    for increment in data.increments:
        columns = [data.classes.index(category) for category in increment]
        assert int(data.query.labels[:, columns].any(1).sum()) > 20
    assert bool((data.database.inputs["text"].sum(1) > 0).float().mean() > 0.99)
    assert any("derived" in warning for warning in data.card["warnings"])


def say(caption: Callable[[int], str]) -> Callable[[list[dict[str, str]]], None]:
    def change(rows: list[dict[str, str]]) -> None:
        for row in rows:
            row["caption"] = caption(int(row["image"].removesuffix(".png")))

    return change


LANGUAGES = {
    "Russian": ("Собака бежит по траве", "Кошка спит в доме", "word:собака"),
    "Hindi": ("एक कुत्ता दौड़ता है", "एक बिल्ली सोती है", "word:कुत्ता"),
    "Arabic": ("كلب يركض على العشب", "قطة تنام في البيت", "word:كلب"),
    "Korean": ("개가 잔디에서 달린다", "고양이가 집에서 잔다", "word:개가"),
    "Greek": ("Ένας σκύλος τρέχει", "Μια γάτα κοιμάται", "word:σκύλος"),
    "Chinese": ("一只黑狗在草地上奔跑", "一只猫在家里睡觉", "word:黑狗"),
    "Japanese": ("黒い犬が走っている", "猫が家で寝ている", "word:犬が"),
    "Thai": ("หมาวิ่งบนหญ้า", "แมวนอนในบ้าน", "word:หม"),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_captions_of_every_script_are_text(language: str, tmp_path: Path) -> None:
    """They counted as no text: "expected items with labels and text in every split"."""
    dog, cat, word = LANGUAGES[language]
    write_captions(tmp_path / "mine", say(lambda row: dog if row % 2 else cat))
    data = read_captions(tmp_path / "mine")
    column = data.vocabulary.index(word)
    for split in (data.query, data.validation, data.database):
        assert bool((split.inputs["text"].sum(1) > 0).all())
        for caption, counts in zip(split.texts, split.inputs["text"], strict=True):
            assert bool(counts[column] > 0) == (caption == dog)
    tokens = read_captions(tmp_path / "mine", text="tokens")
    assert word in tokens.vocabulary
    assert tokens.card["tokens_unknown_share"] == 0


def test_a_vocabulary_that_drops_everything_says_so(tmp_path: Path) -> None:
    write_captions(tmp_path / "mine", say(lambda row: f"the {'x' * (row + 1)}"))
    with pytest.raises(DataError, match=r"got none: of 3. different words in 3. captions each is"):
        read_captions(tmp_path / "mine")


def test_a_split_without_known_words_says_why(tmp_path: Path) -> None:
    def change(rows: list[dict[str, str]]) -> None:
        say(lambda row: "a dog runs" if row > 5 else f"unheard{row}")(rows)
        for row in rows:
            number = int(row["image"].removesuffix(".png"))
            row["split"] = "test" if number < 6 else "val" if number < 12 else "train"

    write_captions(tmp_path / "mine", change)
    with pytest.raises(DataError, match=r"got none in query: 0 of 40 .* and 6 none of the 2 words"):
        read_captions(tmp_path / "mine")


# ---- words


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ("Straße, Łódź", ["straße", "łodz"]),
        ("naïve café—bar", ["naive", "cafe", "bar"]),
        ("Ёлка Йога", ["ёлка", "йога"]),
        ("東京タワー", ["東", "東京", "京", "京タ", "タ", "タワ", "ワ", "ワー", "ー"]),
        ("Tシャツ2枚", ["t", "シ", "シャ", "ャ", "ャツ", "ツ", "2", "枚"]),
        ("ﾃﾞｽｸ Ａｂｃ", ["デ", "デス", "ス", "スク", "ク", "abc"]),
        ("が", ["が"]),
        ("วิ่ง", ["วิ่", "วิ่ง", "ง"]),
        ("दौड़ता", ["दौड़ता"]),
        ("می‌خواهم", ["میخواهم"]),
        ("1️⃣ 👩‍🚀 x²", ["1", "x2"]),
        ("Hawaiʻi, d’Ivoire", ["hawaii", "divoire"]),
        ("…!?", []),
    ],
)
def test_words_are_those_of_unicode(said: str, found: list[str]) -> None:
    import unicodedata

    assert text.words(said) == [unicodedata.normalize("NFC", word) for word in found]
    assert text.words(unicodedata.normalize("NFD", said)) == text.words(said)


def test_texts_of_latin_letters_have_the_words_they_had() -> None:
    """Vocabularies, and with them fingerprints, of such data sets do not change."""
    import re
    import unicodedata

    plain = [
        char
        for char in map(chr, range(32, 0x250))
        if unicodedata.normalize("NFKD", char)[0].isascii()
    ]
    generator = np.random.default_rng(0)
    for _ in range(500):
        said = "".join(generator.choice(plain, 30))
        base = "".join(
            char for char in unicodedata.normalize("NFKD", said) if not unicodedata.combining(char)
        )
        assert text.words(said) == re.findall(r"[a-z0-9]+", re.sub(r"['’]", "", base.lower()))


def test_words_are_those_of_most_texts_with_ties_by_alphabet() -> None:
    texts = [["b", "dog"], ["dog", "a1"], ["b", "a1"], ["once"], ["the"], ["the"]]
    assert text.frequent_words(texts, 9) == ("word:a1", "word:b", "word:dog")
    assert text.frequent_words(texts, 2) == ("word:a1", "word:b")
    assert text.count_words([["b"] * 300], ("word:a1", "word:b")).tolist() == [[0, 255]]


def test_openmoji_knows_its_words_and_texts() -> None:
    data = load_dataset("openmoji", {"size": 16})
    assert len(data.vocabulary) == data.query.inputs["text"].shape[1]
    column = data.vocabulary.index("word:face")
    for row, line in enumerate(data.query.texts):
        assert (data.query.inputs["text"][row, column] > 0) == ("face" in line.split())


def test_threads_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Pool(ThreadPool):
        def __init__(self, workers: int) -> None:
            asked.append(workers)
            super().__init__(workers)

    monkeypatch.setattr(image_rows, "ThreadPool", Pool)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    one = np.zeros((3, 1, 1), np.uint8)
    assert len(list(decode_blocks(["a"], lambda row: one, "memory"))) == 1
    assert asked == [image_rows.MAX_THREADS]
