"""`advhash compare`: paired differences and thresholds of finished runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import exit_code

FAST = ("--dataset", "digits", "--set", "dataset.size=16", "--set", "victim.epochs=2", "-q")
Runs = dict[str, Path]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("compare")
    plans = {
        "weak": ("--method", "dhta", "--set", "attack.steps=1", "--queries", "20"),
        "strong": ("--method", "dhta", "--set", "attack.steps=12", "--queries", "20"),
        "hidden": ("--method", "hag", "--set", "attack.steps=2", "--queries", "20"),
        "smaller": (
            *("--method", "dhta", "--set", "attack.steps=1", "--queries", "20"),
            *("--set", "dataset.size=24"),
        ),
        "fewer": ("--method", "dhta", "--set", "attack.steps=1", "--queries", "10"),
        "other targets": (
            *("--method", "dhta", "--set", "attack.steps=1", "--queries", "20"),
            *("--targets", "uniform"),
        ),
    }  # fmt: skip
    for name, plan in plans.items():
        where = ("--victim", "dpsh", *FAST, "--out", str(folder / name))
        assert exit_code("attack", *where, *plan) == 0
    return {name: folder / name for name in plans}


def test_differences_are_second_less_first(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    weak, strong = str(runs["weak"]), str(runs["strong"])
    assert exit_code("compare", weak, strong, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    values = [pq.read_table(folder + "/queries.parquet") for folder in (weak, strong)]
    column = [np.asarray(table["tmap:image"]) for table in values]
    assert found["differences"]["tmap"]["value"] == pytest.approx(
        float(np.mean(column[1] - column[0]))
    )
    assert found["differences"]["tmap"]["low"] > 0
    assert set(found["differences"]) == {"tmap", "map_adversarial"}  # one victim: MAP is the same
    assert exit_code("compare", strong, weak, "--json") == 0
    back = json.loads(capsys.readouterr().out)
    assert back["differences"]["tmap"]["value"] == -found["differences"]["tmap"]["value"]
    assert exit_code("compare", weak, strong) == 0
    assert "paired" in capsys.readouterr().out


def test_other_victims_are_said_and_compared(
    runs: Runs,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:

    out = str(tmp_path / "bits")
    arguments = ("attack", "--victim", "dpsh", "--bits", "16", "--method", "dhta", "--set",
                 "attack.steps=1", "--queries", "20", *FAST, "--out", out)  # fmt: skip
    assert exit_code(*arguments) == 0
    capsys.readouterr()
    assert exit_code("compare", str(runs["weak"]), out, "--json") == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert any("what the victim learnt differs" in note for note in notes)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ("hidden", "differ in goal"),
        ("smaller", "differ in data set (dataset.size 16 and 24)"),
        ("fewer", "differ in queries"),
        ("other targets", "differ in targets"),
    ],
)
def test_what_cannot_be_paired_is_refused(
    runs: Runs,
    second: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:

    assert exit_code("compare", str(runs["weak"]), str(runs[second])) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--fail-under", "tmap=0"), 0, ""),
        (("--fail-over", "tmap=1"), 0, ""),
        (("--fail-under", "tmap=1"), 4, "tmap is"),
        (("--fail-over", "tmap=0.01", "--fail-under", "map=1"), 4, "; "),
        (("--fail-under", "tmapp=0.3"), 2, "did you mean 'tmap'"),
        (("--fail-under", "tmap"), 2, "expected metric=number"),
        (("--fail-under", "tmap=nan"), 2, "expected metric=number"),
    ],
)
def test_thresholds(
    runs: Runs,
    options: tuple[str, ...],
    code: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:

    assert exit_code("compare", str(runs["weak"]), str(runs["strong"]), *options) == code
    told = capsys.readouterr()
    assert message in told.err
    assert bool(told.out) == (code != 2)  # a wrong name is told before anything is shown


def test_damaged_and_absent_runs(
    runs: Runs,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:

    copy: Any = tmp_path / "copy"
    shutil.copytree(runs["weak"], copy)
    (copy / "queries.parquet").write_bytes(b"no table")
    other: Any = tmp_path / "other"
    shutil.copytree(runs["weak"], other)
    record = json.loads((other / "metrics.json").read_text())
    (other / "metrics.json").write_text(json.dumps({**record, "schema": "advhash/transfer/1"}))
    for bad, said in (
        (copy, "got a damaged one"),
        (tmp_path / "nothing", "no such folder"),
        (tmp_path / "x.partial", "expected a finished run"),
        (other, "expected a run of schema 'advhash/attack/1', got 'advhash/transfer/1'"),
        (other, "`advhash report RUN RUN` shows runs of any kind"),
        (runs["weak"].parent, "holds 6: name them"),
    ):
        assert exit_code("compare", str(runs["weak"]), str(bad)) == 3
        assert said in capsys.readouterr().err
