"""Packages that bring their own methods, found by their entry points."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest

from advhash.errors import UsageError
from advhash.registry import ATTACKS, DATASETS, VICTIMS, Entry, Registry

MODULE = '''
import torch
from advhash.attacks.black_box.baselines import Noise
from advhash.data.load import load_dataset
from advhash.registry import ATTACKS, DATASETS, VICTIMS
from advhash.victims.base import HashVictim

LEVEL = 0.3


@VICTIMS.register("corner", source="a test")
class Corner(HashVictim):
    """Pixels of the middle against a level."""

    default_dataset = "few"

    def __init__(self, *, bits: int = 8) -> None:
        super().__init__()
        self.bits = bits
        self.bounds = {"image": (0.0, 1.0)}
        self.history = []
        self.level = torch.nn.Parameter(torch.tensor(0.5))

    def relax(self, inputs, modality):
        start = inputs[0].numel() // 2
        return inputs.flatten(1)[:, start : start + self.bits] - LEVEL

    def fit(self, data, *, seed, progress=None):
        return self


@ATTACKS.register("shake", source="a test")
class Shake(Noise):
    """Noise by another name."""


@DATASETS.register("few", source="a test")
def few(*, seed: int = 0):
    """Digits of 16 pixels."""
    return load_dataset("digits", {"size": 16, "seed": seed})
'''
POINTS = """
[advhash.victims]
corner = plugin_module

[advhash.attacks]
shake = plugin_module

[advhash.datasets]
few = plugin_module
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder as pip leaves it: a module and the metadata of its distribution."""
    (tmp_path / "plugin_module.py").write_text(MODULE)
    metadata = tmp_path / "advhash_plugin-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: advhash-plugin\nVersion: 1.0\n"
    )
    (metadata / "entry_points.txt").write_text(POINTS)
    return tmp_path


def advhash(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "ADVHASH_CACHE": str(site / "cache"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", "advhash", *arguments],
        env=environment, cwd=site, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_package_brings_victims_attacks_and_data_sets(site: Path) -> None:
    run = advhash(
        site, "attack", "--victim", "corner", "--method", "shake", "--queries", "10", "-q",
        "--json", "--out", "run",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    record = json.loads(run.stdout)
    assert [record[part]["name"] for part in ("victim", "attack")] == ["corner", "shake"]
    assert record["victim"]["source"] == "a test"

    (site / "plugin_module.py").write_text(MODULE.replace("LEVEL = 0.3", "LEVEL = 0.6"))
    changed = json.loads(advhash(site, "train", "--victim", "corner", "--json", "-q").stdout)
    assert not changed["cached"]  # the name, settings and weights of before, but other code
    before = record["victim"]["notes"]["metrics"]["map_image_image"]["value"]
    assert changed["metrics"]["map_image_image"]["value"] != before


def test_what_a_package_brings_is_listed_completed_and_refused_without_its_import(
    site: Path,
) -> None:
    (site / "plugin_module.py").write_text("raise RuntimeError('imported')")
    listed = advhash(site, "list", "attacks")
    assert listed.returncode == 0, listed.stderr
    row = next(line for line in listed.stdout.splitlines() if "shake" in line)
    assert row.split()[-1] == "advhash-plugin"
    for arguments, told in (
        (("--victim", "cornr", "--method", "shake"), "did you mean 'corner'?"),
        (("--victim", "dpsh", "--method", "shaek"), "did you mean 'shake'?"),
        (("--victim", "dpsh", "--method", "dhta", "--dataset", "fwe"), "did you mean 'few'?"),
        (("--victim", "dpsh", "--method", "shake"), "RuntimeError: imported"),
    ):
        refused = advhash(site, "attack", *arguments)
        assert refused.returncode == 2
        assert told in refused.stderr
        assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("point", "told"),
    [
        ("dpsh", "brings a victim 'dpsh', which is registered already"),
        (
            "centre",
            "brings a victim 'centre' in 'plugin_module', which registers none of that name",
        ),
    ],
)
def test_an_entry_point_has_the_name_of_its_own_method(site: Path, point: str, told: str) -> None:
    points = site / "advhash_plugin-1.0.dist-info/entry_points.txt"
    points.write_text(POINTS.replace("corner", point))
    refused = advhash(site, "attack", "--victim", point, "--method", "dhta")
    assert refused.returncode == 2
    assert f"advhash-plugin {told}" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (
            "start = inputs[0].numel() // 2",
            "inputs.mul_(0.5); start = inputs[0].numel() // 2",
            "Corner.relax writes into its inputs: expected them left as they are",
        ),
        (
            '"""Noise by another name."""',
            "def fit(self, victim, data, budget, **more):\n"
            "        data.dataset.database.labels.fill_(1)\n"
            "        return self",
            "Shake.fit writes into the data or the codes that it is given",
        ),
    ],
    ids=["victim", "attack"],
)
def test_a_package_that_writes_into_what_is_not_its_own_is_refused(
    site: Path, before: str, after: str, told: str
) -> None:
    assert before in MODULE
    (site / "plugin_module.py").write_text(MODULE.replace(before, after))
    run = advhash(
        site, "attack", "--victim", "corner", "--method", "shake", "--queries", "10", "-q",
        "--out", "run",
    )  # fmt: skip
    assert run.returncode == 2
    assert told in run.stderr
    assert len(run.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("raise RuntimeError('broken')", "RuntimeError: broken"),
        (
            "from advhash.registry import VICTIMS\n"
            "VICTIMS.register('dpsh', source='x')(lambda: None)",
            "ValueError: victim 'dpsh' is registered already",
        ),
        (None, "ModuleNotFoundError"),
    ],
    ids=["raises", "takes-a-name", "absent"],
)
def test_a_broken_package_is_named_in_one_line(
    site: Path, module: str | None, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if module is None:
        (site / "plugin_module.py").unlink()
    else:
        (site / "plugin_module.py").write_text(module)
    assert VICTIMS["dpsh"].digest == ""  # all victims of advhash are there
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "plugin_module", raising=False)
    monkeypatch.setattr(
        "advhash.registry.entry_points",
        lambda group: [
            point
            for distribution in distributions(path=[str(site)])
            for point in distribution.entry_points
            if point.group == group
        ],
    )
    with pytest.raises(UsageError, match=reason) as got:
        list(Registry[Any]("victim", ()))
    text = str(got.value)
    assert text.startswith("advhash-plugin registers a victim in 'plugin_module', which raised ")
    assert text.endswith("; repair or uninstall advhash-plugin")
    assert "\n" not in text


KIND = '''
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from advhash.experiments.config import OneVictim
from advhash.experiments.experiment import Experiment, Plan, Result
from advhash.experiments.attack.record import run_info
from advhash.reports.elements.chapters import Chapter, Statement, source_of
from advhash.reports.page.kinds import KINDS
from advhash.reports.record import Document, RunInfo
from advhash.registry import EXPERIMENTS


class TossConfig(OneVictim):
    command: Literal["toss"] = "toss"
    tosses: int = 3


class TossRecord(Document):
    schema_: Literal["plugin/toss/1"]
    run: RunInfo
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Toss:
    number: int

    @property
    def key(self):
        return f"toss-{self.number}"


@EXPERIMENTS.register("toss", source="a test")
class Tossing(Experiment):
    """Tosses that are counted."""

    name, config, record, code = "toss", TossConfig, TossRecord, ()
    METHOD

    def compute(self, cell, place):
        return Result({"heads": cell.number % 2})

    def judge(self, plan, results, place):
        heads = sum(one.document["heads"] for one in results)
        return TossRecord(
            schema_="plugin/toss/1",
            run=run_info(place.final, plan.config.seed, plan.config.device, place.seconds),
            metrics={"heads": {"value": heads, "low": None, "high": None, "n": len(results)}},
        )


def chapter(path):
    record = TossRecord.read(path)
    return Chapter(
        name="Tosses",
        title="Tosses",
        heading="What was tossed",
        template=str(Path(__file__).with_name("toss.html")),
        values={"record": record},
        statements=[Statement("tosses", "Heads were counted.")],
        sources=[source_of(path, "tosses", record.run, [], {})],
        datasets=[],
    )


KINDS["plugin/toss/1"] = lambda paths, pictures: [chapter(path) for path in paths]
'''
PLAN = """def plan(self, config):
        return Plan(config=config, cells=[Toss(number) for number in range(config.tosses)])
"""


def brings_a_kind(site: Path, method: str) -> None:
    (site / "plugin_module.py").write_text(KIND.replace("METHOD", method))
    macro = "{% macro results() %}{{ record.metrics.heads.value }} heads{% endmacro %}"
    (site / "toss.html").write_text(macro)
    points = "[advhash.experiments]\ntoss = plugin_module\n"
    (site / "advhash_plugin-1.0.dist-info/entry_points.txt").write_text(points)


def test_a_package_brings_a_kind_of_run(site: Path) -> None:
    brings_a_kind(site, PLAN)
    assert "toss" in advhash(site, "--help").stdout
    few = ("--set", "victim.name=dpsh", "--set", "tosses=4")
    dry = advhash(site, "toss", *few, "--dry-run", "--json")
    assert dry.returncode == 0, dry.stderr
    assert json.loads(dry.stdout)["cells"] == 4
    tossed = advhash(
        site, "toss", "--set", "victim.name=dpsh", "--json", "--out", "run", "--executor", "local",
    )  # fmt: skip
    assert tossed.returncode == 0, tossed.stderr
    assert json.loads(tossed.stdout)["metrics"]["heads"]["value"] == 1
    assert (site / "run/config.toml").is_file()
    assert "1 heads" in (site / "run/report.html").read_text()
    again = advhash(site, "report", "run", "--out", "page.html")
    assert again.returncode == 0, again.stderr
    assert (site / "page.html").read_text() == (site / "run/report.html").read_text()


def test_a_kind_that_lacks_a_method_is_named_in_one_line(site: Path) -> None:
    brings_a_kind(site, "")
    refused = advhash(site, "toss", "--dry-run")
    assert refused.returncode == 2
    assert "advhash-plugin registers an experiment in 'plugin_module'" in refused.stderr
    assert "experiment 'toss' lacks plan" in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1


def method(*, size: int = 1) -> int:
    """A method of another package, as this file is."""
    return size


def test_the_file_of_a_method_is_in_its_digest() -> None:
    own: Entry[Any] = Entry("method", method, "here")
    assert own.digest == hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    registries: list[Registry[Any]] = [VICTIMS, ATTACKS, DATASETS]
    assert {entry.digest for registry in registries for entry in registry} == {""}
