"""A killed run of any kind continues with the command that is printed, to the same record."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from killed import killed_when
from typer.testing import CliRunner

from advhash.cli.app import app

DATA = ["--dataset", "digits", "--set", "dataset.size=16"]
DPSH = ["--victim", "dpsh", "--bits", "16", "--set", "victim.epochs=1", *DATA]
DHTA = ["--method", "dhta", "--set", "attack.steps=60"]
EMOJI = [
    *("--victim", "dlcmh", "--bits", "8", "--set", "victim.epochs=1"),
    *("--set", "victim.increment_epochs=1", "--set", "victim.width=8", "--set", "dataset.size=16"),
    *("--set", "victim.samples=64", "--set", "rival.epochs=1", "--set", "rival.width=8"),
]
SUITE = """
victim_seeds = 1
attack_seeds = 3
[[grids]]
datasets = ["digits+size=16"]
victims = ["dpsh+epochs=1+bits=16"]
attacks = ["dhta+steps=60"]
budgets = ["8/255"]
[grids.protocol]
queries = 24
"""
KINDS = {
    "attack": [*DPSH, *DHTA, "--queries", "24", "--set", "protocol.batch_size=4"],
    "benchmark": ["--suite", "suite.toml", "--executor", "inline"],
    "certify": [*DPSH, "--sigma", "0.1", "--samples", "1000", "--queries", "30"],
    "detect": [
        *(*DPSH, *DHTA, "--eps", "8/255", "--queries", "12"),
        *("--detector", "all", "--adaptive", "steps=20"),
    ],
    "evolve": [
        *("--domain", "attack", "--candidates", "6", "--repeats", "2"),
        *("--victim", "dpsh", "--set", "victim.bits=16", "--set", "victim.epochs=1"),
        *("--other", "dpsh", "--set", "other.bits=12", "--set", "other.epochs=1", *DATA),
        *("--set", "search.population=3", "--set", "search.tournament=2"),
        *("--set", "search.steps=2", "--set", "search.queries=10", "--set", "search.held_out=10"),
    ],
    "lifelong": [
        *("--orders", "1", "--increments", "1", "--seeds", "2"),
        *("--set", "lifelong.attacked_seeds=0", *EMOJI),
    ],
    "phase-chart": [
        *("--widths", "3,12", "--epochs", "0,4", "--samples", "60,100", "--repeats", "1"),
        *("--set", "phase.queries=12", "--set", "attack.steps=3", "--eps", "32/255"),
    ],
}
TIMES = ("seconds", "cpu_seconds", "created", "trace", "id", "folder", "report", "times")
FROM_TIMES = (  # of searches over attacks, whose clock is the one on the wall
    *("speedup", "time_to_uncached", "hash_overhead"),
    *("evaluation_seconds", "hash_seconds", "saved_seconds"),
)
POINTS = ("curve", "improvements")  # seconds first


def run(*arguments: str | Path) -> None:
    result = CliRunner().invoke(app, [*map(str, arguments), "-q"])
    assert result.exit_code == 0, result.exception


def timeless(value: Any) -> Any:
    """A document without what the clock decides, the paths, and what was read from a cache."""
    if isinstance(value, dict):
        return {
            name: [point[1:] for point in one] if name in POINTS else timeless(one)
            for name, one in value.items()
            if name not in (*TIMES, *FROM_TIMES, "cached", "origin")
            and not name.startswith(("seconds", "increment_seconds", "increment_cpu"))
        }
    if isinstance(value, list):
        return [timeless(one) for one in value if not _flags_a_time(one)]
    return value


def _flags_a_time(value: Any) -> bool:
    return isinstance(value, dict) and str(value.get("message")).startswith("A hash costs")


@pytest.mark.parametrize(
    "kind",
    [
        "attack",
        pytest.param("benchmark", marks=pytest.mark.slow),
        "certify",
        "detect",
        "evolve",
        pytest.param("lifelong", marks=pytest.mark.slow),
        "phase-chart",
    ],
)
def test_a_killed_run_continues_to_the_same_record(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "suite.toml").write_text(SUITE)
    options = [tmp_path / one if one == "suite.toml" else one for one in KINDS[kind]]
    folders = {name: tmp_path / name / "run" for name in ("whole", "killed")}
    caches = {name: tmp_path / name / "cache" for name in folders}

    monkeypatch.setenv("ADVHASH_CACHE", str(caches["whole"]))
    run(kind, *options, "--out", folders["whole"])

    def ready() -> bool:
        """One result, or one piece of it, is there."""
        pieces = caches["killed"].glob(f"unfinished/{kind}/*/*.safetensors")
        return any(pieces) or any(caches["killed"].glob(f"{kind}/[0-9a-f]*"))

    monkeypatch.setenv("ADVHASH_CACHE", str(caches["killed"]))
    arguments = [kind, *options, "-q", "--out", folders["killed"]]
    killed_when([sys.executable, "-m", "advhash", *map(str, arguments)], ready, os.environ)
    assert not folders["killed"].exists()
    assert Path(f"{folders['killed']}.partial/identity.json").is_file()
    run(kind, "--resume", folders["killed"], "--executor", "inline")
    assert not Path(f"{folders['killed']}.partial").exists()

    whole, killed = (
        timeless(json.loads((folder / "metrics.json").read_text())) for folder in folders.values()
    )
    assert killed == whole
