"""What queries retrieve before and after an attack: examples of a record, and their pictures."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from report_scene import dataset, make_run

from advhash.codes import HashCodes
from advhash.errors import StorageError
from advhash.experiments.attack.examples import choose_examples, picture, retrieved
from advhash.reports.record import Record


def record_of(folder: Path) -> Record:
    return Record.loads((folder / "metrics.json").read_text("utf-8"))


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def test_examples_are_ranks_at_equal_steps() -> None:
    score = np.array([0.2, 0.9, np.nan, 0.1, 0.5, 0.7])
    assert choose_examples(score, 3).tolist() == [1, 4, 3]
    assert choose_examples(score, 99).tolist() == [1, 5, 4, 0, 3]
    assert choose_examples([np.nan], 3).tolist() == []
    assert choose_examples([0.5, 0.5, 0.5], 1).tolist() == [0]


def test_retrieved_agrees_with_brute_force() -> None:
    generator = np.random.default_rng(3)
    database = generator.random((40, 70)) > 0.5
    query = generator.random((1, 70)) > 0.5
    labels = (generator.random((40, 5)) > 0.6).astype(np.uint8)
    own, target = labels[0], labels[1]
    found = retrieved(
        HashCodes.pack(query), HashCodes.pack(database), own, labels, target_labels=target
    )
    far = [int((row != query[0]).sum()) for row in database]
    order = sorted(range(40), key=lambda row: (far[row], row))[:10]
    assert [item.row for item in found] == order
    assert [item.distance for item in found] == [far[row] for row in order]
    assert [item.relevant for item in found] == [bool((labels[row] & own).any()) for row in order]
    assert [item.target_relevant for item in found] == [
        bool((labels[row] & target).any()) for row in order
    ]


def test_sample_pictures_are_enlarged_without_smoothing(run: Path) -> None:
    data = dataset()
    example = record_of(run).examples[0]
    assert example.query == 5  # the highest score
    with Image.open(run / str(example.clean_picture)) as shown:
        assert shown.size == (96, 96)
        pixels = np.asarray(shown)
    stored = data.query.inputs["image"][5].permute(1, 2, 0).numpy()
    assert (pixels[::12, ::12] == stored).all()
    assert (pixels[11::12, 11::12] == stored).all()
    with Image.open(run / str(example.perturbation_picture)) as shown:
        middle = np.asarray(shown)[::12, ::12][stored < 240]
    assert set(middle.tolist()) == {round(255 * (0.5 + 10 * 8 / 255))}


def test_shared_thumbnails_are_written_once(run: Path) -> None:
    used = {item.picture for one in record_of(run).examples for item in (*one.before, *one.after)}
    written = {f"samples/{file.name}" for file in (run / "samples").glob("database-*.png")}
    assert used == written


def test_large_pictures_keep_their_size_unless_thumbnails() -> None:
    image = torch.rand(3, 300, 200)
    assert picture(image).size == (200, 300)
    assert max(picture(image, longest=128).size) == 128


def test_a_full_disk_while_writing_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(StorageError, match="disk is full"):
        make_run(tmp_path / "full")
