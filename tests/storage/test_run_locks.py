"""A run folder that can be continued has one writer at a time."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from advhash.errors import RunError
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
