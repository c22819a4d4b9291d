"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from advhash.errors import StorageError
from advhash.storage.documents import open_file

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
    errno.ENAMETOOLONG: "the name is too long",
    errno.ELOOP: "a link leads back to itself",
    errno.ENOTDIR: "a part of the path is a file",
}


@contextmanager
def storage_errors(
    path: Path, advice: str = "free some space or choose another folder"
) -> Iterator[None]:
    """Turn a full or closed disk into one StorageError line; other errors pass."""
    try:
        yield
    except OSError as error:
        reason = _DISK.get(error.errno or 0)
        if reason is None and "No space left" in str(error):  # safetensors wraps the number
            reason = _DISK[errno.ENOSPC]
        if reason is None:
            raise
        raise StorageError(f"cannot write {path}: {reason}; {advice}") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all. Raises StorageError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with storage_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


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
