"""`advhash encode`, from the command to the page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import exit_code
from killed import killed_when

from advhash.attacks.gradient.targeted import DHTA
from advhash.chance import Chance
from advhash.errors import UsageError
from advhash.experiments.config import TrainConfig
from advhash.experiments.config_text import read_toml
from advhash.experiments.detect.inputs import mixed_images
from advhash.experiments.encode.config import EncodeConfig
from advhash.experiments.encode.run import Encode
from advhash.experiments.experiment import describe
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.victim import train
from advhash.measures.encoding import knn_classes, redundancy_ratio
from advhash.reports.encoding import METRICS, EncodingRecord
from advhash.shared_labels import first_labels

SMALL = ["--set", "dataset.size=16", "--set", "most_bits=600", "--queries", "30", "-q"]
HASH = ["--victim", "dph", "--bits", "12", "--set", "victim.epochs=2"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encode") / "run"
    more = ("--method", "dhta", "--set", "attack.steps=5", "--eps", "16/255")
    assert exit_code("encode", *HASH, *SMALL, *more, "--out", str(folder)) == 0
    return folder


def document(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return loaded


def figures(found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in ("metrics", "coders", "detection", "sites", "budget")}


def test_every_code_stands_beside_its_controls(finished: Path) -> None:
    coders = {coder["label"]: coder for coder in document(finished)["coders"]}
    assert [coder["kind"] for coder in coders.values()] == [
        *("code", "network", "initial", "initial", "simhash", "simhash", "pixels"),
    ]
    assert coders["dph"]["bits"] == coders["SimHash, bits of dph"]["bits"] == 12
    assert coders["dph network"]["bits"] == coders["SimHash, bits of dph network"]["bits"] == 600
    assert coders["pixels"]["metrics"]["kmeans_purity"] is None
    for coder in coders.values():
        assert set(coder["metrics"]) == set(METRICS)
        for name in METRICS if coder["kind"] != "pixels" else ():
            assert 0 <= coder["metrics"][name]["value"] <= 1
    for name in ("dph", "dph network"):
        metrics, figures = coders[name]["metrics"], coders[name]["figures"]
        assert metrics["kmeans_purity"]["value"] >= metrics["kmeans_one_to_one"]["value"]
        assert metrics["redundancy_test"]["n"] == metrics["redundancy_train_equal"]["n"] == 30
        assert figures["within"] < figures["between"]
    small, large = (coders[name]["metrics"] for name in ("dph", "dph network"))
    assert small["redundancy_train"]["value"] > 0.2 > large["redundancy_train"]["value"]


def test_figures_are_those_of_the_codes(finished: Path) -> None:
    found = document(finished)
    trained = train(
        TrainConfig.build(
            {
                "victim": {"name": "dph", "bits": 12, "epochs": 2},
                "dataset": {"name": "digits", "size": 16},
            }
        )
    )
    victim, data = trained.victim, trained.data
    known = victim.encode_split(data.train, "image")
    classes = first_labels(data.train.labels.numpy())
    assert found["metrics"]["redundancy_train"]["value"] == redundancy_ratio(known)
    rows = np.sort(
        np.random.default_rng(derive_seed(0, "queries")).choice(300, size=30, replace=False)
    )
    test = data.query.rows(rows)
    right = knn_classes(victim.encode(test.inputs["image"], "image"), known, classes) == (
        first_labels(test.labels.numpy())
    )
    assert found["metrics"]["knn_accuracy"]["value"] == pytest.approx(right.mean())
    assert found["metrics"] == found["coders"][0]["metrics"]


def test_detectors_by_code_by_network_and_by_layer(finished: Path) -> None:
    record = EncodingRecord.read(finished)
    assert record.detectors[:2] == ["novelty of the code", "novelty of the network"]
    assert len(record.detectors) > 4  # layers
    for name in record.detectors:
        for kind in ("adversarial", "mixed", "noise", "ood"):
            assert record.auroc(name, kind) is not None
    noise = record.auroc("novelty of the network", "noise")
    assert noise is not None
    assert (noise.value or 0) > 0.9


def test_page_and_replay(finished: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert exit_code("report", str(finished), "--out", str(page)) == 0
    assert page.read_bytes() == (finished / "report.html").read_bytes()
    assert "dph network at initialisation" in page.read_text()
    again = tmp_path / "again"
    config = str(finished / "config.toml")
    assert exit_code("encode", "--config", config, "-q", "--out", str(again)) == 0
    assert document(again)["coders"] == document(finished)["coders"]


def test_a_hash_without_gradients_or_training(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bright_pixels.py").write_text(
        "def code(images):\n    return (images.mean(dim=1).flatten(1) > 0.5).numpy()\n"
    )
    monkeypatch.chdir(tmp_path)
    given = ("--victim", "bright_pixels:code", "--trust-code", *SMALL)
    assert exit_code("encode", *given, "--method", "dhta") == 2
    assert "needs gradients" in capsys.readouterr().err
    assert exit_code("encode", *given, "--json", "--out", str(tmp_path / "run")) == 0
    found = json.loads(capsys.readouterr().out)
    flags = {flag["name"] for flag in found["flags"]}
    assert {"not_attacked", "no_initial_network", "no_neural_code"} <= flags
    assert found["metrics"]["redundancy_adversarial"] is None
    assert [coder["kind"] for coder in found["coders"]] == ["code", "simhash", "pixels"]


def test_a_killed_run_goes_on(finished: Path, tmp_path: Path, session_cache: Path) -> None:
    out = tmp_path / "run"
    advhash, cells = [sys.executable, "-m", "advhash", "encode"], session_cache / "encode"
    killed_when(
        [*advhash, "--config", str(finished / "config.toml"), "--out", str(out), "-q"],
        lambda: len(list(cells.glob("[!.]*/result.json"))) > 1,  # moved pictures, and a code
        dict(os.environ),
    )
    assert [path.name for path in tmp_path.iterdir()] == ["run.partial"]
    config = EncodeConfig.build(read_toml(tmp_path / "run.partial/config.toml"))
    planned = describe(Encode(), config)
    assert (planned["cells"], planned["cells_done"] > 1) == (9, True)
    resumed = subprocess.run(
        [*advhash, "--resume", str(out), "--json", "-q"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert figures(json.loads(resumed.stdout)) == figures(document(finished))
    assert not list(cells.glob("[!.]*"))  # the folder has taken them over


def test_an_interrupted_attack_keeps_its_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real, calls = DHTA.run, 0

    def stops(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(DHTA, "run", stops)
    given = [*SMALL, "--queries", "110", "--set", "attack.steps=2", "--eps", "16/255"]
    out = tmp_path / "run"
    assert exit_code("encode", *HASH, *given, "--out", str(out)) == 130
    assert f"continue with `advhash encode --resume {out}`" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run.partial"]
    assert exit_code("encode", "--resume", str(out), "-q") == 0
    assert calls == 3  # the first batch was kept
    assert document(out)["test"] == 110


def test_in_other_processes_the_figures_are_the_same(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = ("--config", str(finished / "config.toml"), "--out", str(out))
    assert exit_code("encode", *config, "--executor", "local", "-q") == 0
    assert figures(document(out)) == figures(document(finished))


def test_a_defence_stands_before_the_victim(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = (*HASH, *SMALL, "--defense", "bit-depth", "--set", "attack.steps=2")
    assert exit_code("encode", *given, "--dry-run", "--json") == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["defense"]["name"] == "bit-depth"
    assert (plan["attack"]["name"], plan["cells"], plan["test"]) == ("dhta", 9, 30)
    assert exit_code("encode", *given, "--out", str(tmp_path / "run")) == 0
    found = document(tmp_path / "run")
    assert [one["name"] for one in found["victim"]["defenses"]] == ["bit-depth"]
    assert 'name = "bit-depth"' in (tmp_path / "run/config.toml").read_text()


def test_mixed_pictures_are_of_two_classes() -> None:
    images = torch.tensor([0.0, 0.2, 1.0]).view(3, 1, 1, 1)
    chance = Chance(0, np.arange(3))
    mixed = mixed_images(images, np.array([0, 0, 1]), chance)
    found = (mixed * 255).flatten().round().tolist()
    assert found[:2] == [128, 153]
    assert found[2] in found[:2]
    with pytest.raises(UsageError, match="two classes"):
        mixed_images(images, np.zeros(3, np.int64), chance)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ([], "--victim"),
        (["--victim", "nope"], "nope"),
        (["--victim", "hashvfl"], "modality"),
        ([*HASH, "--method", "hotflip"], "hotflip"),
        ([*HASH, "--set", "queries=1"], "queries"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], word: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    more = [part for part in SMALL if part not in ("--queries", "30")]
    out = tmp_path / "run"
    assert exit_code("encode", *arguments, *more, "--out", str(out)) in (2, 3)
    err = capsys.readouterr().err
    assert word in err
    assert len(err.strip().splitlines()) == 1, err
    assert not any(tmp_path.iterdir())
