"""The zoo: recipes become checkpoints of a package, which `zoo:NAME` looks up once installed."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from source_tree import ROOT
from typer.testing import CliRunner

import advhash as ah
from advhash.cli.app import app
from advhash.errors import UsageError
from advhash.registry import VICTIMS, ZOO as REGISTRY, is_external
from advhash.storage.checkpoint import load_victim

ZOO = ROOT / "zoo"
SMALL = {
    "dpsh-digits-8": {
        "victim": {"name": "dpsh", "bits": 8, "epochs": 1, "backbone": "test_efficientnet"},
        "dataset": {"name": "digits", "size": 16},
        "attacks": [{"method": "hag", "eps": "8/255", "steps": 2}],
    },
    "dhash-near-duplicates-64": {
        "victim": {"name": "dhash"},
        "dataset": {"name": "near_duplicates", "pictures": 40},
        "attacks": [],
    },
}


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ZOO / "make.py"))


@pytest.fixture(scope="module")
def site(script: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as pip leaves it: the package with two small victims, and its metadata."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "advhash_zoo").mkdir()
    shutil.copy(ZOO / "advhash_zoo" / "__init__.py", folder / "advhash_zoo")
    for name, recipe in SMALL.items():
        script["make"](name, recipe, folder / "advhash_zoo")
    metadata = folder / "advhash_zoo-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: advhash-zoo\nVersion: 1.0\n")
    points = "".join(f"{name} = advhash_zoo\n" for name in SMALL)
    (metadata / "entry_points.txt").write_text(f"[advhash.zoos]\n{points}")
    return folder


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The zoo as this process would find it where it is installed."""
    monkeypatch.syspath_prepend(site)
    forget()
    yield site
    forget()


def forget() -> None:
    REGISTRY.__dict__.pop("_points", None)
    REGISTRY._entries.clear()
    sys.modules.pop("advhash_zoo", None)


def test_every_recipe_has_its_entry_point_and_a_method() -> None:
    recipes = tomllib.loads((ZOO / "victims.toml").read_text("utf-8"))
    project = tomllib.loads((ZOO / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["entry-points"]["advhash.zoos"] == dict.fromkeys(sorted(recipes), "advhash_zoo")
    assert len(recipes) == 10
    for name, recipe in recipes.items():
        assert recipe["victim"]["name"] in VICTIMS, name
        assert name.startswith(recipe["victim"]["name"])
        assert bool(recipe.get("attacks")) != bool(recipe.get("detect")), name


def test_a_card_states_data_weights_commit_and_robustness(site: Path) -> None:
    folder = site / "advhash_zoo" / "dpsh-digits-8"
    victim, card = load_victim(folder)
    assert victim.bits == 8
    assert (card["data"]["licence"], card["seed"]) == ("CC BY 4.0", 0)
    assert card["commit"]
    (measured,) = card["robustness"]
    assert (measured["attack"], measured["budget"]) == ("hag", "L∞ 8/255")
    assert set(measured["metrics"]) == {"map_adversarial", "map", "map_chance"}
    figure = measured["metrics"]["map_adversarial"]
    assert figure["low"] <= figure["value"] <= figure["high"]
    assert "| `hag` | L∞ 8/255 | `map_adversarial` |" in (folder / "README.md").read_text("utf-8")


@pytest.mark.parametrize("name", SMALL)
def test_the_command_on_a_card_is_taken(name: str, installed: Path) -> None:
    page = (installed / "advhash_zoo" / name / "README.md").read_text("utf-8")
    assert f'ah.load("zoo:{name}")' in page
    command = page.rstrip().rpartition("\n")[2].strip("`").split()
    assert command[:4] == ["advhash", "attack", "--victim", f"zoo:{name}"]
    planned = CliRunner().invoke(app, [*command[1:], "--dry-run"])
    assert planned.exit_code == 0, planned.output


def test_a_card_of_a_hash_that_learns_nothing_says_so(site: Path) -> None:
    page = (site / "advhash_zoo" / "dhash-near-duplicates-64" / "README.md").read_text("utf-8")
    assert "Learns nothing" in page
    assert not [word for word in ("Training", "trained on", "untrained") if word in page]


def test_what_is_there_is_kept_and_what_is_made_again_is_the_same(
    site: Path, script: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "dpsh-digits-8"
    before = (site / "advhash_zoo" / name / "card.json").stat().st_mtime_ns
    script["make"](name, SMALL[name], site / "advhash_zoo")
    assert (site / "advhash_zoo" / name / "card.json").stat().st_mtime_ns == before
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "cache"))
    again = script["make"](name, {**SMALL[name], "attacks": []}, tmp_path)
    weights = [place / name / "model.safetensors" for place in (site / "advhash_zoo", again.parent)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert json.loads((again / "card.json").read_text("utf-8"))["robustness"] == []
    script["make"](name, SMALL[name], tmp_path)  # the recipe is another one
    assert len(json.loads((again / "card.json").read_text("utf-8"))["robustness"]) == 1


def test_a_victim_of_the_zoo_is_attacked_loaded_and_replayed(
    installed: Path, tmp_path: Path
) -> None:
    asked = ["--method", "hag", "--queries", "5", "--set", "attack.steps=2", "-q", "--json"]
    out = ["--out", str(tmp_path / "run")]
    run = CliRunner().invoke(app, ["attack", "--victim", "zoo:dpsh-digits-8", *asked, *out])
    assert run.exit_code == 0, run.output
    record = json.loads(run.stdout)
    assert (record["victim"]["name"], record["victim"]["origin"]) == ("dpsh", "checkpoint")
    table = tomllib.loads((tmp_path / "run" / "config.toml").read_text("utf-8"))["victim"]
    assert table == {"name": "zoo:dpsh-digits-8"}
    assert repr(ah.load("zoo:dhash-near-duplicates-64")) == "<dhash, 64 bits, on near_duplicates>"
    (tmp_path / "photos").mkdir()
    for number in range(20):
        Image.new("RGB", (24, 24), (number * 9, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    scan = ["scan", str(tmp_path / "photos"), "--hash", "zoo:dhash-near-duplicates-64", "-q"]
    done = CliRunner().invoke(app, [*scan, "--out", str(tmp_path / "scan"), "--edited", "2"])
    assert "dhash (zoo:dhash-near-duplicates-64)" in done.output, done.exception


def test_the_zoo_is_listed_and_completed_without_torch(site: Path) -> None:
    program = (
        "import sys, runpy; sys.argv = ['advhash', 'list', 'zoo'];\n"
        "from advhash.cli.options import complete_victims\n"
        "from advhash.cli.commands.list import list_entries\n"
        "print(complete_victims('zoo:dh')); list_entries('zoo', True)\n"
        "print('torch' in sys.modules)"
    )
    paths = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "dpsh, 8 bits, trained on digits (CC BY 4.0)." in done.stdout, done.stderr
    assert "['zoo:dhash-near-duplicates-64']" in done.stdout
    assert done.stdout.endswith("False\n")


def test_what_the_zoo_lacks_is_refused_in_a_line(installed: Path) -> None:
    run = CliRunner().invoke(app, ["attack", "--method", "hag", "--victim", "zoo:dpsh-digit-8"])
    assert isinstance(run.exception, UsageError)
    expected = "unknown victim of the zoo 'dpsh-digit-8': did you mean 'dpsh-digits-8'?"
    assert str(run.exception).startswith(expected)


def test_without_a_zoo_a_line_says_how_to_get_one() -> None:
    forget()
    run = CliRunner().invoke(app, ["attack", "--method", "hag", "--victim", "zoo:dpsh-digits-8"])
    assert "expected an installed zoo for zoo:dpsh-digits-8, got none" in str(run.exception)
    assert "pip install" in str(run.exception)
    assert "pip install" in CliRunner().invoke(app, ["list", "zoo"]).output


def test_a_name_of_the_zoo_is_no_function_of_the_user() -> None:
    assert not is_external("zoo:dpsh")
    assert VICTIMS.is_place("zoo:dpsh")
