"""Writing files and folders so that a reader never sees half of one.

What is being written lies beside its place, under a hidden name and locked by the process that
writes it. The lock goes with the process, however that ends: what lies there without one was left
behind by a kill, and is removed by whoever writes in that place next.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from advhash.errors import StorageError
from advhash.storage.documents import open_file

if sys.platform != "win32":
    import fcntl

STALE_SECONDS = 24 * 3600  # where a file system has no locks, nobody sweeps what is younger
_DISK = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "no permission to write",
    errno.EPERM: "no permission to write",
    errno.EISDIR: "a folder of that name is there",
    errno.ENOENT: "a folder of the path cannot be made",
    errno.EROFS: "the file system is read-only",
    errno.EFBIG: "the file size limit is reached",
    errno.EEXIST: "a part of the path is a file",
    errno.ENOTEMPTY: "a folder of that name is there",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "a link leads back to itself",
    errno.ENOTDIR: "a part of the path is a file",
}


@contextmanager
def storage_errors(path: Path, advice: str | None = None) -> Iterator[None]:
    """Turn a full or closed disk into one StorageError line; other errors pass.

    advice: the next step; None: as the reason asks for
    """
    try:
        yield
    except OSError as error:
        reason = _DISK.get(error.errno or 0)
        if reason is None and "No space left" in str(error):  # safetensors wraps the number
            reason = _DISK[errno.ENOSPC]
        if reason is None:
            raise
        if advice is None:
            full = reason in (_DISK[errno.ENOSPC], _DISK[errno.EDQUOT])
            advice = f"{'free some space or ' if full else ''}choose another folder"
        raise StorageError(f"cannot write {path}: {reason}; {advice}") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raises StorageError."""
    with partial_file(path) as partial:
        partial.write_bytes(content)


@contextmanager
def partial_file(path: Path) -> Iterator[Path]:
    """A file beside `path` to write into, which takes its place where the block succeeds.

    Raises StorageError.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.partial")
    with storage_errors(path):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise StorageError(f"cannot write {path}: a pipe or a device is there; name a new file")
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(_beside(path, ".partial"))

        def make() -> Path:
            partial.touch(exist_ok=False)  # nor where another user put a link
            return partial

        handle = owned(make)
        try:
            yield partial
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
            os.close(handle)


@contextmanager
def partial_folder(folder: Path, *, mode: int = 0o777) -> Iterator[Path]:
    """A new folder beside `folder` to fill, which is removed after the block unless it was renamed.

    mode: who may do what with it, as far as the umask allows

    Raises OSError.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep(_beside(folder, ".tmp"))
    made: list[Path] = []

    def make() -> Path:
        made.append(folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:12]}.tmp"))
        made[-1].mkdir(mode)
        return made[-1]

    handle = owned(make)
    try:
        yield made[-1]
    finally:
        shutil.rmtree(made[-1], ignore_errors=True)
        os.close(handle)


def _beside(path: Path, suffix: str) -> list[Path]:
    """What is being written, or was left half written, in the place of a path."""
    ours = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{12}}{re.escape(suffix)}")
    with os.scandir(path.parent) as entries:
        return [path.with_name(entry.name) for entry in entries if ours.fullmatch(entry.name)]


def sweep(left: Iterable[Path]) -> None:
    """Remove half-written files and folders whose processes ended before they were whole.

    What is locked is being written. Where the file system has no locks, age decides.
    """
    for path in left:
        try:
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # it may be a pipe
        except OSError:  # gone meanwhile, or another user's
            continue
        try:
            free = lock(handle)
            if free is None:
                free = time.time() - os.fstat(handle).st_mtime > STALE_SECONDS
            if free and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif free:
                path.unlink(missing_ok=True)
        except OSError:
            continue
        finally:
            os.close(handle)


def lock(handle: int, *, wait: bool = False) -> bool | None:
    """Lock an open file or folder until its handle is closed or the process ends.

    False: another process holds it. None: nothing can be locked there.
    """
    if sys.platform == "win32":  # which has no such locks
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks, as some that are shared
        return None
    return True


def owned(make: Callable[[], Path]) -> int:
    """The handle of what `make` makes, locked; made again where somebody swept it before."""
    while True:
        path = make()
        try:
            handle = os.open(path, os.O_RDONLY)
        except FileNotFoundError:  # swept between its making and its opening
            continue
        lock(handle, wait=True)
        if is_open(handle, path):
            return handle
        os.close(handle)


def is_open(handle: int, path: Path) -> bool:
    """Whether a path still names what is open under a handle."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all. Raises StorageError."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all; NaN and infinity are refused. Raises StorageError."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False))


def sha256(path: Path) -> str:
    """Hex digest of a file. Raises OSError."""
    with open_file(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
