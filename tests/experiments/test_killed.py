"""A killed run of any kind continues with the command that is printed, to the same record."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killed import killed_after, killed_when
from small_runs import COMMANDS, options_of, run, timeless

RANDOM = ("prosgan", "lifelong", "invert", "detect", "transfer", "benchmark")
MOMENTS = 10


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", RANDOM)
def test_ten_kills_at_random_moments_change_nothing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten runs, each killed and continued, end as the undisturbed one, also where a kill came last.

    No process that they began outlives them, and no lock bars who continues.
    """
    options, command, where = options_of(kind, tmp_path), COMMANDS.get(kind, kind), "inline"
    if kind == "benchmark":  # workers are killed with the command that began them
        where = options[options.index("inline")] = "local"
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "cache-whole"))
    whole = tmp_path / "whole"
    began = time.monotonic()
    start = [sys.executable, "-m", "advhash", command, *options, "-q", "--out"]
    subprocess.run([*start, str(whole)], check=True, stdout=subprocess.DEVNULL)
    lasts = time.monotonic() - began
    wanted = timeless(json.loads((whole / "metrics.json").read_text()))

    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "cache"))
    chance, out = random.Random(kind), tmp_path / "killed"
    for _ in range(MOMENTS):
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        killed_after(chance.uniform(0.3, 1) * lasts, [*start, str(out)], tmp_path)
        if Path(f"{out}.partial/identity.json").is_file():
            run(command, "--resume", out, "--executor", where)
        elif not out.exists():  # killed before anything was begun: the same command starts again
            run(command, *options, "--out", out)
        found = json.loads((out / "metrics.json").read_text())
        assert timeless(found) == wanted
        assert not Path(f"{out}.partial").exists()
        assert not [*out.rglob(".*"), *(tmp_path / "cache" / command).glob(".*.tmp")]
        shutil.rmtree(out)


@pytest.mark.parametrize(
    "kind",
    [
        "attack",
        pytest.param("benchmark", marks=pytest.mark.slow),
        "certify",
        "detect",
        "evolve",
        "least-change",
        pytest.param("lifelong", marks=pytest.mark.slow),
        "phase-chart",
    ],
)
def test_a_killed_run_continues_to_the_same_record(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_of(kind, tmp_path)
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
