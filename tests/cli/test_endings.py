"""However a command ends: one line, the documented exit code, nothing half written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from advhash.cli.endings import run_to_its_end
from advhash.errors import RefusedError, Terminated, exhausted

COMMAND = f"{sys.executable} -m advhash"
RUN = [
    *("attack", "--victim", "phash", "--method", "noise", "--dataset", "digits"),
    *("--set", "dataset.size=16", "--queries", "5", "-q"),
]


def shell(line: str) -> tuple[int, str]:
    """Exit code of a line of bash, and what it said on stderr."""
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {line}"], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("--version > /dev/full", 3, "advhash: error: cannot write to stdout: the disk is full"),
        ("--help > /dev/full", 3, "advhash: error: cannot write to stdout: the disk is full"),
        ("--version >&-", 0, ""),
        ("--version <&- >&- 2>&-", 0, ""),
        ("attack --victim nope 2> /dev/full", 2, ""),
        ("attack --victim nope 2>&-", 2, ""),
        ("list attacks | true", 141, ""),
    ],
)
def test_streams_that_take_nothing(line: str, code: int, said: str) -> None:
    got, err = shell(f"{COMMAND} {line}")
    assert got == code, err
    assert err.startswith(said)
    assert err.count("\n") == bool(said)


@pytest.mark.parametrize(
    ("limit", "what"), [("ulimit -v 400000", "memory"), ("ulimit -n 6", "open files")]
)
def test_tiny_limits(limit: str, what: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    code, err = shell(f"{limit}; {COMMAND} {' '.join(RUN)} --out {out}")
    assert code == 3, err
    assert err.startswith(f"advhash: error: the {what} that this process may use")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def ended(command: Callable[[], object], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    try:
        run_to_its_end(command)
    except SystemExit as stop:
        return int(stop.code or 0), capsys.readouterr().err
    return 0, capsys.readouterr().err


def raising(error: BaseException) -> Callable[[], object]:
    def command() -> object:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (MemoryError(), 3, "the memory that"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 3, "the memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), 3, "the memory that"),
        (ImportError("lib.so: failed to map segment from shared object"), 3, "the memory that"),
        (OSError(24, "Too many open files"), 3, "the open files that"),
        (RuntimeError("can't start new thread"), 3, "the threads that"),
        (RefusedError("no"), 3, "no"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (Terminated(signal.SIGTERM), 143, "ended by SIGTERM"),
    ],
)
def test_an_error_becomes_one_line(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    error.add_note("how to go on")
    got, err = ended(raising(error), capsys)
    assert got == code
    first, *notes = err.splitlines()
    assert first.startswith(f"advhash: error: {said}")
    assert notes == ["advhash: how to go on"]


def test_a_lack_is_told_whatever_a_reader_made_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        try:
            raise OSError(24, "Too many open files")
        except OSError:
            raise RefusedError("expected a picture") from None

    assert ended(command, capsys) == (
        3,
        "advhash: error: the open files that this process may use are used up: allow more "
        "(ulimit -n)\n",
    )


def test_a_bug_keeps_its_traceback() -> None:
    for bug in (RuntimeError("shapes do not fit"), KeyError("a"), OSError(22, "odd")):
        assert exhausted(bug) is None
        with pytest.raises(type(bug)):
            run_to_its_end(raising(bug))


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_is_an_interrupt_once(
    name: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second one while the first is cleaned up after is ignored."""
    number = getattr(signal, name)
    cleaned = []

    def command() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            os.kill(os.getpid(), number)
            cleaned.append(True)

    before = signal.signal(number, signal.SIG_DFL)  # under nohup SIGHUP is ignored
    try:
        got, err = ended(command, capsys)
        assert (got, cleaned) == (code, [True])
        assert err == f"advhash: error: ended by {name}\n"
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        run_to_its_end(lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("executor", ["inline", "local"])
def test_sigterm_names_what_is_kept_and_leaves_nothing_half_written(
    executor: str, tmp_path: Path
) -> None:
    out, cache = tmp_path / "run", tmp_path / "cache"
    arguments = [
        *("attack", "--victim", "phash", "--method", "nes", "--dataset", "digits", "-q"),
        *("--set", "dataset.size=16", "--set", "attack.queries=2000", "--set"),
        *("protocol.batch_size=2", "--queries", "40", "--executor", executor, "--out", str(out)),
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "advhash", *arguments],
        env={**os.environ, "ADVHASH_CACHE": str(cache)},
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 120
    while not any(cache.glob("unfinished/attack/*/*.safetensors")) and time.monotonic() < until:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - began < 20
    assert process.returncode == 143, err
    first, second = err.splitlines()
    assert first == "advhash: error: ended by SIGTERM"
    assert f"advhash attack --resume {out}" in second
    assert Path(f"{out}.partial/config.toml").is_file()
    left = [path.name for path in tmp_path.rglob(".*")]
    assert left == []


HANGS = """
import os
from pathlib import Path
from advhash.cli import app
from advhash.experiments.scan import blocks

def read(*_, **__):
    Path("reading").touch()
    os.read(os.pipe()[0], 1)  # which nobody writes to

blocks.read_picture = read
app.main()
"""


def test_a_read_that_hangs_does_not_keep_a_scan(tmp_path: Path) -> None:
    """A network share that went away. It takes 4 s: the imports of a process of its own."""
    (tmp_path / "photos").mkdir()
    for number in range(4):
        Image.new("RGB", (40, 40), (50 * number, 9, 9)).save(tmp_path / f"photos/{number}.png")
    process = subprocess.Popen(
        [sys.executable, "-c", HANGS, "scan", "photos", "--edited", "0"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 60
    while not (tmp_path / "reading").exists() and time.monotonic() < until:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    try:
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 143, err
    assert "ended by SIGTERM" in err
