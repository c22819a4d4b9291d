"""Files are written whole or not at all, and a full disk is one line."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from advhash.errors import StorageError
from advhash.storage import files
from advhash.storage.files import (
    partial_folder,
    sha256,
    storage_errors,
    write_bytes,
    write_json,
    write_text,
)

CLOSED = [
    (errno.ENOSPC, "the disk is full"),
    (errno.EDQUOT, "the disk quota is used up"),
    (errno.EACCES, "no permission to write"),
    (errno.EPERM, "no permission to write"),
    (errno.EROFS, "the file system is read-only"),
]


def fail_halfway(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def fail(path: Path, content: bytes) -> int:
        with path.open("wb") as stream:
            stream.write(content[: len(content) // 2])
        raise OSError(number, "text of the system")

    monkeypatch.setattr(Path, "write_bytes", fail)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"\x00\xff")
    write_text(tmp_path / "b", "ε = 8/255\n")
    write_json(tmp_path / "c", {"name": "L∞", "value": None})
    assert (tmp_path / "a").read_bytes() == b"\x00\xff"
    assert (tmp_path / "b").read_bytes() == "ε = 8/255\n".encode()
    assert json.loads((tmp_path / "c").read_text("utf-8")) == {"name": "L∞", "value": None}
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b", "c"}


def test_missing_folders_are_made(tmp_path: Path) -> None:
    write_text(tmp_path / "x" / "y" / "z", "1")
    assert (tmp_path / "x" / "y" / "z").read_text() == "1"


def test_an_existing_file_is_replaced_whole(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "a long first text")
    write_text(tmp_path / "a", "short")
    assert (tmp_path / "a").read_text() == "short"


@pytest.mark.parametrize(("number", "reason"), CLOSED)
def test_a_closed_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reason: str
) -> None:
    fail_halfway(monkeypatch, number)
    with pytest.raises(StorageError) as got:
        write_text(tmp_path / "a", "content")
    space = "free some space or " if number in (errno.ENOSPC, errno.EDQUOT) else ""
    advice = f"{space}choose another folder"
    assert str(got.value) == f"cannot write {tmp_path / 'a'}: {reason}; {advice}"
    assert got.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_file_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_text(tmp_path / "a", "before")
    fail_halfway(monkeypatch, errno.ENOSPC)
    with pytest.raises(StorageError):
        write_text(tmp_path / "a", "after")
    assert (tmp_path / "a").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path, target: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "a", "content")
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_path_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="a part of the path is a file"):
        write_text(tmp_path / "file" / "a", "content")


def test_an_error_that_is_no_fault_of_the_disk_passes() -> None:
    with pytest.raises(OSError, match="odd") as got, storage_errors(Path("a")):
        raise OSError(errno.EINVAL, "odd")
    assert not isinstance(got.value, StorageError)


def test_a_full_disk_is_known_by_its_text_where_a_library_drops_the_number() -> None:
    text = "I/O error: No space left on device (os error 28)"
    with (
        pytest.raises(StorageError, match="the disk is full; buy one"),
        storage_errors(Path("a"), "buy one"),
    ):
        raise OSError(text)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_has_no_nan(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a", {"value": value})
    assert list(tmp_path.iterdir()) == []


def test_sha256_is_the_digest_of_the_content(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


HOLDER = """
import sys, time
from pathlib import Path
from advhash.storage.files import partial_file, partial_folder

with partial_file(Path("a")) as file, partial_folder(Path("b")) as folder:
    file.write_bytes(b"half")
    (folder / "c").write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_leaves_goes_with_the_next_write(tmp_path: Path) -> None:
    """Not before its process is dead, and not a day later."""
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            left = sorted(path.name for path in tmp_path.iterdir())
            assert [path.rpartition(".")[2] for path in left] == ["partial", "tmp"]
            write_text(tmp_path / "a", "mine")
            with partial_folder(tmp_path / "b"):
                pass
            assert sorted(path.name for path in tmp_path.iterdir()) == [*left, "a"]
        finally:
            process.kill()
    write_text(tmp_path / "a", "mine")
    with partial_folder(tmp_path / "b"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_pipe_or_a_link_in_the_way_stops_nobody(tmp_path: Path) -> None:
    """Other users may put them where they can write."""
    os.mkfifo(tmp_path / f".a.{0:012x}.partial")
    (tmp_path / f".a.{1:012x}.partial").symlink_to(tmp_path / "precious")
    write_text(tmp_path / "precious", "mine")
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_file_of_the_user_is_not_swept(tmp_path: Path) -> None:
    own = tmp_path / ".a.mine.partial"
    own.write_text("kept")
    write_bytes(tmp_path / "a", b"x")
    assert own.read_text() == "kept"


def test_a_pipe_or_a_device_is_never_replaced(tmp_path: Path) -> None:
    """`--out /dev/null` of root would put a file in its place, for the whole machine."""
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path in (pipe, link):
        with pytest.raises(StorageError, match="a pipe or a device is there"):
            write_bytes(path, b"x")
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


def test_without_locks_age_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "lock", lambda handle, wait=False: None)
    old, new = tmp_path / f".a.{1:012x}.partial", tmp_path / f".a.{2:012x}.partial"
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (0, 0))
    write_text(tmp_path / "a", "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == [new.name, "a"]


def test_a_swept_place_is_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the making of a folder and its lock, another process takes it for a leftover."""
    locked = files.lock

    def late(handle: int, *, wait: bool = False) -> bool | None:
        monkeypatch.setattr(files, "lock", locked)
        files.sweep(tmp_path.iterdir())
        return locked(handle, wait=wait)

    monkeypatch.setattr(files, "lock", late)
    with partial_folder(tmp_path / "a") as folder:
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_place_swept_before_it_was_opened_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, swept = os.open, []

    def late(path: Any, flags: int, *others: Any, **named: Any) -> int:
        if len(swept) < 2 and Path(path).name.startswith("."):
            swept.append(Path(path))
            monkeypatch.setattr(os, "open", opened)
            files.sweep([Path(path)])
            monkeypatch.setattr(os, "open", late)
        return opened(path, flags, *others, **named)

    monkeypatch.setattr(os, "open", late)
    with partial_folder(tmp_path / "a") as folder:
        assert folder.is_dir()
    write_text(tmp_path / "b", "whole")
    assert len(swept) == 2
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"b": "whole"}
