"""A run folder that can be continued has one writer at a time."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from advhash.errors import RunError
from advhash.experiments.config import AttackConfig
from advhash.registry import EXPERIMENTS
from advhash.storage.run_folder import RunFolder

fcntl = pytest.importorskip("fcntl")


def test_a_folder_that_is_removed_is_locked_until_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = RunFolder.start_or_continue(tmp_path / "run")

    def removed(path: Path, **_: object) -> None:
        with pytest.raises(RunError, match="nobody writes"):
            RunFolder.start_or_continue(tmp_path / "run")
        os.rmdir(path)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", removed)
        assert not first.abandon(keep=False)
    second = RunFolder.start_or_continue(tmp_path / "run")
    assert second.path.is_dir()
    second.abandon(keep=False)


def test_a_folder_that_went_before_its_lock_is_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run.partial").mkdir()
    lock = fcntl.flock

    def late(place: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", lock)
        os.rmdir(tmp_path / "run.partial")  # by another process, which held the lock
        lock(place, how)

    monkeypatch.setattr(fcntl, "flock", late)
    run = RunFolder.start_or_continue(tmp_path / "run")
    assert run.path.is_dir()
    with pytest.raises(RunError, match="nobody writes"):
        RunFolder.start_or_continue(tmp_path / "run")
    run.abandon(keep=False)


def test_a_file_system_without_locks_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refused)
    run = RunFolder.start_or_continue(tmp_path / "run")
    run.write_text("config.toml", "")
    assert run.finish() == tmp_path / "run"


RACER = """
import sys
from pathlib import Path
from advhash.errors import AdvhashError
from advhash.storage.run_folder import RunFolder

print("ready", flush=True)
for line in sys.stdin:
    out = Path(line.strip())
    try:
        kept = "metrics.json" if out.suffix else None
        with RunFolder.writing(out, lambda: False, kept) as run:
            run.write_text("metrics.json", sys.argv[1])
        print("won", flush=True)
    except AdvhashError as error:
        print(type(error).__name__, flush=True)
"""


def test_of_two_that_race_for_one_name_exactly_one_wins(tmp_path: Path) -> None:
    names = ("one", "two")
    with ExitStack() as stack:
        racers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", RACER, name],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    bufsize=1,
                )
            )
            for name in names
        ]
        ends = [(racer.stdin, racer.stdout) for racer in racers]
        assert [out.readline() if out else "" for _, out in ends] == ["ready\n"] * 2
        for number in range(40):
            place = tmp_path / f"run{number}{'.json' if number % 2 else ''}"
            for given, _ in ends:
                assert given is not None
                given.write(f"{place}\n")
            told = [out.readline().strip() if out else "" for _, out in ends]
            assert sorted(told) == ["RunError", "won"], told
            file = place if place.suffix else place / "metrics.json"
            assert file.read_text() == names[told.index("won")]
            assert not Path(f"{place}.partial").exists()


def test_who_begins_after_another_has_finished_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name was free when it was looked at, and taken when the lock was had."""
    final = tmp_path / "run.json"
    locked = RunFolder._locked

    def late(run: RunFolder) -> bool:
        final.write_text("of another command")
        return locked(run)

    monkeypatch.setattr(RunFolder, "_locked", late)
    with pytest.raises(RunError, match="which exists"):
        RunFolder.start_or_continue(final)
    assert final.read_text() == "of another command"
    assert not Path(f"{final}.partial").exists()


def test_half_written_files_of_a_killed_run_go_when_it_is_continued(tmp_path: Path) -> None:
    run = RunFolder.start_or_continue(tmp_path / "run")
    run.write_text("config.toml", "")
    (run.path / ".metrics.json.1.partial").write_text("half")
    run._unlock()
    run = RunFolder.start_or_continue(tmp_path / "run")
    assert [path.name for path in run.path.iterdir()] == ["config.toml"]
    run.abandon(keep=True)


def test_a_run_that_is_running_is_not_resumed(
    tmp_path: Path, advhash: Callable[..., tuple[int, str, str]]
) -> None:
    run = RunFolder.start_or_continue(tmp_path / "run")
    code = EXPERIMENTS.create("attack").code_version()
    data = {"name": "digits", "size": 16}
    config = AttackConfig.build(
        {"victim": {"name": "phash"}, "attack": {"name": "noise"}, "dataset": data}
    )
    run.claim("attack", config.to_toml(), code)
    exit_code, out, err = advhash("attack", "--resume", tmp_path / "run")
    assert (exit_code, out) == (3, "")
    assert err.count("error:") == 1
    assert "expected a folder that nobody writes" in err
    assert run.path.is_dir()
    run.abandon(keep=False)


@pytest.mark.parametrize(
    "identity", [{"kind": ["attack"]}, {"kind": 3}, {"kind": None}, ["attack"], "x" * 2**21]
)
def test_a_folder_of_no_known_kind_is_not_continued(tmp_path: Path, identity: object) -> None:
    folder = tmp_path / "run.partial"
    folder.mkdir()
    (folder / "config.toml").write_text("")
    (folder / "identity.json").write_text(json.dumps(identity))
    with pytest.raises(RunError, match="expected a run to continue"):
        RunFolder.interrupted(folder)


def test_a_config_that_is_no_text_is_not_continued(tmp_path: Path) -> None:
    folder = tmp_path / "run.partial"
    folder.mkdir()
    (folder / "config.toml").write_bytes(b"\xff")
    (folder / "identity.json").write_text(json.dumps({"kind": "attack", "code": "ab"}))
    run = RunFolder.start_or_continue(tmp_path / "run")
    with pytest.raises(RunError, match=r"expected the config of a run in .*, got no UTF-8 text"):
        run.claim("attack", "", "ab")
    run.abandon(keep=False)
