"""What size of pictures a model is fed: told everywhere, and as the model states it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from advhash.api.calls import bring
from advhash.data.load import load_dataset
from advhash.data.readers.shared import SIZES
from advhash.errors import UsageError
from advhash.experiments.attack.run import attack
from advhash.experiments.config import AttackConfig, TrainConfig
from advhash.experiments.prepare.trained import Trained, export_checkpoint
from advhash.experiments.prepare.victim import train
from advhash.measures.sanity import check_pictures
from advhash.victims.external import stated_size

MINE = """
import torch.nn.functional as F

def plain(images):
    return F.adaptive_avg_pool2d(images.mean(dim=1, keepdim=True), 4).flatten(1) - 0.5

def stating(images):
    return plain(images)

stating.image_size = 64
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with `my_size.py` and class folders of pictures of 64 by 80 pixels."""
    (tmp_path / "my_size.py").write_text(MINE)
    generator = np.random.default_rng(0)
    for place in range(40):
        (tmp_path / f"mine/{place % 2}").mkdir(parents=True, exist_ok=True)
        noise = generator.integers(0, 256, (80, 64, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"mine/{place % 2}/{place}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("my_size", None)


def brought(name: str, **dataset: Any) -> Trained:
    tables = {"victim": {"name": f"my_size:{name}"}, "dataset": {"name": "./mine", **dataset}}
    return train(TrainConfig.build(tables).trusting(True))


def flags(trained: Trained) -> dict[str, Any]:
    return {one["name"]: one for one in trained.card["flags"] if "size" in one["message"]}


def test_pictures_that_were_made_smaller_are_flagged() -> None:
    trained = brought("plain")
    fed = {"fed": [32, 32], "stored": {
        "count": 40, "larger": 40, "smallest": [64, 80], "median": [64, 80], "largest": [64, 80],
    }}  # fmt: skip
    assert trained.data.pictures == fed == trained.card["data"]["pictures"]
    flag = flags(trained)["shrunk_pictures"]
    assert flag["level"] == "warning"
    assert "fed at 32×32 pixels, stored at 64×80, 40 of 40 larger than fed" in flag["message"]
    assert brought("plain").data.pictures == fed, "read from the cache"
    assert not flags(brought("plain", size=80))


@pytest.mark.parametrize(
    ("fed", "side", "said"),
    [
        (64, 533, "set dataset.size (e.g. 512)"),
        (64, 500, "set dataset.size (e.g. 500)"),
        (512, 533, "dataset.size goes up to 512"),
    ],
)
def test_an_advised_size_is_one_that_readers_offer(fed: int, side: int, said: str) -> None:
    stored = {"count": 9, "larger": 9, "smallest": [64, 64], "median": [40, side]}
    pictures = {"fed": [fed, fed], "stored": {**stored, "largest": [900, side]}}
    (flag,) = check_pictures(pictures, largest=SIZES[1])
    assert said in flag.message
    (flag,) = check_pictures(pictures, largest=SIZES[1], stated=640)
    assert "dataset.size goes up to 512" in flag.message


def test_a_size_that_the_model_states_is_used() -> None:
    trained = brought("stating")
    assert trained.data.settings["size"] == 64
    assert not flags(trained)
    asked = brought("stating", size=32)
    assert asked.data.settings["size"] == 32, "what the user asks for comes first"
    assert "states pictures of 64×64" in flags(asked)["stated_size"]["message"]
    digits = train(TrainConfig.build({"victim": {"name": "my_size:stating"}}).trusting(True))
    assert digits.data.query.inputs["image"].shape[-2:] == (64, 64)
    table = {"victim": {"name": "my_size:plain"}, "dataset": {"name": "digits"}}
    drawn = train(TrainConfig.build(table).trusting(True))
    assert drawn.data.pictures == {"fed": [32, 32], "stored": None}
    assert not flags(drawn)


def test_a_model_in_python_states_its_size() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())
    model.image_size = 64  # type: ignore[assignment]
    data = load_dataset("./mine", {})
    assert "stated_size" in flags(bring(model, data))
    assert not flags(bring(model, load_dataset("./mine", {"size": 64})))


@pytest.mark.parametrize(
    ("said", "side"),
    [
        ({"image_size": 48}, 48),
        ({"input_size": [3, 96, 96]}, 96),
        ({"default_cfg": {"input_size": (3, 224, 224)}}, 224),
        ({"image_size": (32, 64)}, None),
        ({"image_size": "64"}, None),
        ({"image_size": 0}, None),
        ({"default_cfg": {}}, None),
        ({}, None),
    ],
)
def test_what_counts_as_a_statement(said: dict[str, Any], side: int | None) -> None:
    model = torch.nn.Flatten()
    for name, value in said.items():
        setattr(model, name, value)
    assert stated_size(model) == side


def test_a_checkpoint_is_fed_what_it_was_trained_at(folder: Path) -> None:
    own = {"name": "dpsh", "epochs": 1, "bits": 8}
    data = {"name": "digits", "size": 16}
    export_checkpoint(train(TrainConfig.build({"victim": own, "dataset": data})), folder / "saved")
    stored = {"name": str(folder / "saved")}
    found = train(TrainConfig.build({"victim": stored, "dataset": {"name": "./mine"}}))
    assert found.data.settings["size"] == 16
    assert [flag["name"] for flag in found.card["flags"]] == ["foreign_data"]
    larger = {"name": "./mine", "size": 24}
    with pytest.raises(UsageError, match="expected image_size 16, got 24"):
        train(TrainConfig.build({"victim": stored, "dataset": larger}))


def test_a_checkpoint_of_one_own_folder_meets_another(folder: Path) -> None:
    own = {"name": "dpsh", "epochs": 1, "bits": 8}
    mine = {"name": "./mine", "size": 16}
    export_checkpoint(train(TrainConfig.build({"victim": own, "dataset": mine})), folder / "saved")
    shutil.copytree(folder / "mine", folder / "theirs")
    next((folder / "theirs").rglob("*.png")).unlink()
    stored = {"name": str(folder / "saved")}
    found = train(TrainConfig.build({"victim": stored, "dataset": {**mine, "name": "./theirs"}}))
    (flag,) = (flag for flag in found.card["flags"] if flag["name"] == "foreign_data")
    assert flag["message"].startswith("The victim was trained on mine, not on theirs: ")
    with pytest.raises(UsageError, match=r"trained on mine .* would put training rows among"):
        train(TrainConfig.build({"victim": stored, "dataset": {**mine, "seed": 1}}))


def test_record_page_and_terminal_say_what_was_fed(folder: Path, advhash: Any) -> None:
    code, out, _ = advhash(
        *("attack", "--victim", "my_size:plain", "--trust-code", "--dataset", "./mine"),
        *("--method", "noise", "--queries", "3", "--out", "run", "-q"),
    )
    assert code == 0
    text = "fed at 32×32 pixels, stored at 64×80, 40 of 40 larger than fed"
    assert f"pictures: {text}\n" in out
    assert f"warning: Pictures were {text}" in out
    record = json.loads((folder / "run/metrics.json").read_text("utf-8"))
    assert record["dataset"]["pictures"]["fed"] == [32, 32]
    assert "shrunk_pictures" in [flag["name"] for flag in record["flags"]]
    assert f"Pictures {text}." in (folder / "run/report.html").read_text("utf-8")
    code, out, _ = advhash("train", "--victim", "my_size:stating", "--trust-code", "-q")
    assert "pictures: fed at 64×64 pixels\n" in out


def test_a_run_is_replayed_at_the_stated_size(folder: Path) -> None:
    tables: dict[str, Any] = {
        "victim": {"name": "my_size:stating"}, "dataset": {"name": "./mine"},
        "attack": {"name": "noise"}, "protocol": {"queries": 3},
    }  # fmt: skip
    attack(AttackConfig.build(tables).trusting(True), folder / "run")
    assert "size = 64" in (folder / "run/config.toml").read_text("utf-8")
