"""Captions of one photograph as what is relevant: who lies on which side, what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from advhash.data.load import load_dataset
from advhash.data.text.characters import as_strings
from advhash.errors import ConfigError, DataError

PARTS = ("train", "train", "train", "dev", "test", "test", "none")


def written(folder: Path, entries: Any = None) -> Path:
    if entries is None:
        entries = [
            {
                "file": f"{row}.jpg",
                "split": part,
                "captions": [f"caption {row} {n} ." for n in range(5)],
            }
            for row, part in enumerate(PARTS)
        ]
    folder.mkdir(exist_ok=True)
    (folder / "captions.json").write_text(json.dumps(entries))
    return folder


def test_all_captions_of_a_photograph_lie_on_one_side(tmp_path: Path) -> None:
    data = load_dataset("flickr8k_captions", {"root": str(written(tmp_path)), "train": 2})
    groups = {name: part.labels[:, 0].tolist() for name, part in data.stored.items()}
    assert groups["query"] == [4, 5]
    assert groups["validation"] == [3]
    assert groups["database"] == [3] * 4 + [4] * 4 + [5] * 4
    assert len(groups["training"]) == 10
    assert set(groups["training"]) < {0, 1, 2}
    assert len(data.train_rows) == 0
    assert data.query.texts == ("caption 4 0 .", "caption 5 0 .")
    assert as_strings(data.database.inputs["text"])[4:6] == ["caption 4 1 .", "caption 4 2 ."]
    assert data.card["photographs"] == {"asked_for": 2, "trained_on": 2}


def test_the_seed_draws_the_photographs_that_are_trained_on(tmp_path: Path) -> None:
    given = {"root": str(written(tmp_path)), "train": 1}
    drawn = {
        int(load_dataset("flickr8k_captions", {**given, "seed": seed}).train.labels[0])
        for seed in range(12)
    }
    assert drawn == {0, 1, 2}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": 0}, "at least 1 photograph to train on"),
        ({"text": "words"}, "expected text=characters, tokens or sentence"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        load_dataset("flickr8k_captions", {"root": str(written(tmp_path)), **settings})


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([{"file": "a", "split": "test", "captions": ["one"]}], "at least 2 captions of each"),
        ([{"file": "a", "split": "test"}], "expected a list of file, split and captions"),
        ({"a": 1}, "expected a list of file, split and captions"),
        ([{"file": "a", "split": "test", "captions": ["a", "b"]}], "expected rows in every split"),
    ],
)
def test_files_that_are_refused(entries: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as refused:
        load_dataset("flickr8k_captions", {"root": str(written(tmp_path, entries))})
    assert "\n" not in str(refused.value)


@pytest.mark.skipif("ADVHASH_DATA" not in os.environ, reason="ADVHASH_DATA is not set")
def test_the_captions_of_flickr8k() -> None:
    data = load_dataset("flickr8k_captions", {"train": 100})
    sizes = {name: len(part) for name, part in data.stored.items()}
    assert sizes == {"database": 8000, "validation": 1000, "query": 1000, "training": 500}
    relevant = (data.database.labels == data.query.labels[7]).sum()
    assert int(relevant) == 4
    assert data.query.inputs["text"].dtype == torch.int32
