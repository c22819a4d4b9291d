"""`advhash attack` and `transfer` through a store: the first results beside the exact ranking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import command

from advhash.storage.documents import read_toml

SMALL = [
    *("--set", "dataset.size=16", "--queries", "20", "--eps", "32/255", "-q", "--json"),
]
ATTACK = [
    *("attack", "--victim", "dpsh", "--method", "dhta", "--set", "victim.epochs=2", *SMALL),
    *("--set", "attack.steps=20"),
]


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code, out, err = command(capsys, *arguments)
    assert code == 0, err
    body: dict[str, Any] = json.loads(out)
    return body


def test_an_attack_is_judged_by_what_a_store_serves(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plain = document(capsys, *ATTACK, "--out", str(tmp_path / "plain"))
    served = document(
        capsys, *ATTACK, "--store", "faiss-ivf,probes=2", "--rescore", "float,multiplier=5",
        "--out", str(tmp_path / "served"),
    )  # fmt: skip
    names = {name for name in served["metrics"] if name not in plain["metrics"]}
    assert names == {
        *("served_precision_at_10", "served_precision_at_10_adversarial"),
        *("served_tprecision_at_10", "served_tprecision_at_10_clean"),
        *("store_recall_at_10", "store_recall_at_10_adversarial"),
    }
    for name, metric in plain["metrics"].items():
        if metric is not None and not name.startswith("seconds"):
            assert metric == served["metrics"][name], name
    values = {name: served["metrics"][name]["value"] for name in names}
    assert 0.5 < values["store_recall_at_10"] <= 1
    assert values["served_tprecision_at_10"] > values["served_tprecision_at_10_clean"] + 0.3
    assert values["served_precision_at_10_adversarial"] < values["served_precision_at_10"] - 0.3
    assert served["protocol"]["store"] == {"name": "faiss-ivf", "lists": None, "probes": 2}
    assert served["protocol"]["rescore"] == [{"name": "float", "multiplier": 5}]
    config = read_toml(tmp_path / "served" / "config.toml")
    assert config["protocol"]["store"] == {"name": "faiss-ivf", "probes": 2}
    page = (tmp_path / "served" / "report.html").read_text("utf-8")
    assert "faiss-ivf" in page
    assert "As it is served" in page
    assert "As it is served" not in (tmp_path / "plain" / "report.html").read_text("utf-8")
    again = document(
        capsys, "attack", "--config", str(tmp_path / "served/config.toml"), "--dry-run", "--json"
    )
    for table in ("store", "rescore"):
        assert again["protocol"][table] == served["protocol"][table]


def test_a_matrix_is_judged_by_what_a_store_serves(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    body = document(
        capsys, "transfer", "--victims", "dpsh+epochs=2,csq+epochs=2", "--methods", "dhta+steps=10",
        *SMALL, "--store", "sqlite-vec", "--out", str(tmp_path / "run"),
    )  # fmt: skip
    own = next(cell for cell in body["cells"] if cell["source"] == cell["target"])
    gain = own["metrics"]["served_tprecision_at_10"]["value"]
    assert gain > own["metrics"]["served_tprecision_at_10_clean"]["value"]
    assert all(
        np.isclose(cell["metrics"]["store_recall_at_10"]["value"], 1) for cell in body["cells"]
    )
    assert body["protocol"]["store"]["name"] == "sqlite-vec"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--store", "faiss-ivv"], "did you mean 'faiss-ivf'"),
        (["--store", "float", "--rescore", "float"], "holds floats"),
        (["--set", "protocol.store.name=exact", "--set", "protocol.store.m=3"], "no setting 'm'"),
        (["--allow-superuser"], "goes with --store"),
    ],
)
def test_what_cannot_be_served_is_refused_before_any_training(
    more: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = command(capsys, *ATTACK, *more, "--out", str(tmp_path / "run"))
    assert (code, message in err, len(err.strip().splitlines())) == (2, True, 1)
    assert not any(tmp_path.iterdir())
