"""Users who may write neither the installation nor a home, and whose locale is C."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import advhash

TREE = Path(advhash.__file__).parents[1]
RUN = [
    *("attack", "--victim", "phash", "--method", "noise", "--dataset", "digits", "-q"),
    *("--set", "dataset.size=16", "--queries", "5"),
]
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
NOBODY = 12345  # of whom no list of users knows


@pytest.fixture
def place() -> Iterator[Path]:
    """A working folder of that user."""
    with tempfile.TemporaryDirectory() as name:
        if os.geteuid() == 0:
            os.chown(name, NOBODY, NOBODY)
        yield Path(name)


def command(place: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a user who may read the installation and write the working folder alone."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become another user, by setpriv")
    as_nobody = [
        *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
        *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),  # Python lies in /root
    ]
    kept = {"PATH": os.environ["PATH"], "PYTHONPATH": str(TREE), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*as_nobody, sys.executable, "-m", "advhash", *arguments],
        env={**kept, **ASCII, **environment},
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_run_without_a_home(place: Path) -> None:
    """Nothing goes anywhere but where it was asked for, pickles of numba's least of all."""
    done = command(place, *RUN, "--out", "run", ADVHASH_CACHE=str(place / "cache"))
    assert done.returncode == 0, done.stderr
    assert "advhash: error" not in done.stderr
    assert "PSNR" in done.stdout
    assert sorted(path.name for path in place.iterdir()) == ["cache", "run"]
    assert not [*place.rglob("*.nbi"), *place.rglob("*.nbc")]


@pytest.mark.parametrize("given", ["", "~/cache"])
def test_without_a_home_the_cache_must_be_named(given: str, place: Path) -> None:
    done = command(place, *RUN, "--out", "run", ADVHASH_CACHE=given)
    assert done.returncode == 3, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("advhash")]
    assert len(errors) == 1
    assert errors[0].startswith("advhash: error: expected a home folder for the cache")
    assert "Traceback" not in done.stderr
    assert list(place.iterdir()) == []


@pytest.mark.slow
def test_a_home_that_cannot_be_written(place: Path) -> None:
    done = command(place, *RUN, "--out", "run", HOME="/nonexistent")
    assert done.returncode == 3, done.stderr
    assert "no permission to write" in done.stderr
    assert "set ADVHASH_CACHE" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_cache_of_another_user_is_refused(place: Path) -> None:
    """A user gets in one line that the cache is another's, who could have put any figure there."""
    cache = place / "cache"
    shared = {"ADVHASH_CACHE": str(cache)}
    first = command(place, *RUN, "--out", "run", **shared)
    assert first.returncode == 0, first.stderr
    for path in (cache, *cache.rglob("*")):
        os.chown(path, NOBODY + 1, NOBODY + 1)
        path.chmod(0o777)
    place.chmod(0o777)
    second = command(place, *RUN, "--out", "again", **shared)
    assert second.returncode == 3, second.stderr
    assert f"of user {NOBODY + 1}, who may have written any figure" in second.stderr
    assert not (place / "again").exists()
