"""The cache: folders named by the content that they were made from, written whole or not at all.

    <cache root>/<kind>/<key>/digests.json

Beside what a folder holds lies the SHA-256 of each of its files, by which it is checked whenever it
is read: what is damaged is discarded and built again, once. The root is $ADVHASH_CACHE, or the
user's cache folder. Everything in it can be deleted at any time: it is built again when it is next
needed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import platformdirs
from safetensors import SafetensorError

from advhash.errors import CheckpointError, StorageError
from advhash.storage.files import sha256, storage_errors, write_json, write_text

try:
    import fcntl
except ImportError:  # no such locks on Windows
    fcntl = None  # type: ignore[assignment]

T = TypeVar("T")

ADVICE = "free space there, or set ADVHASH_CACHE to a folder that can be written"
DAMAGE = (
    CheckpointError,
    SafetensorError,
    OSError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
)
DIGESTS = "digests.json"
LARGE = 2**28  # bytes; larger files are read again only where their time of change is another
STALE_SECONDS = 24 * 3600  # nobody sweeps a temporary folder before


def cache_root() -> Path:
    """The cache folder: $ADVHASH_CACHE where set, or the user's cache folder for advhash."""
    given = os.environ.get("ADVHASH_CACHE")
    return Path(given).expanduser() if given else platformdirs.user_cache_path("advhash")


def cache_name() -> str:
    """A name of this cache, drawn when it was first asked for; only a copy of the folder shares it.

    Raises StorageError.
    """
    file = cache_root() / "name"
    if not file.is_file():
        drawn = file.with_name(f"name.{uuid.uuid4().hex}")
        write_text(drawn, uuid.uuid4().hex)
        with storage_errors(file, ADVICE):
            try:
                os.link(drawn, file)  # whole, and by the first of several processes alone
            except FileExistsError:
                pass
            finally:
                drawn.unlink()
    with storage_errors(file, ADVICE):
        return file.read_text("utf-8")


def content_key(content: object) -> str:
    """16 hex digits that name a JSON-able value, whatever the order of its keys."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def cached_folder(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The folder `<root>/<kind>/<key>`, filled by `build(folder)` where it does not exist yet.

    `build` fills a temporary sibling that is then renamed, so the folder is complete wherever it
    exists. Of two processes that build it at once, the slower one drops its copy. A failure or an
    interrupt leaves nothing behind.

    Raises StorageError: the disk is full, or the cache cannot be written.
    """
    folder = cache_root() / kind / key
    if folder.is_dir():
        return folder
    with storage_errors(folder, ADVICE):
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder.parent)
        temporary = Path(tempfile.mkdtemp(prefix=f".{key}.", suffix=".tmp", dir=folder.parent))
        try:
            with _held(temporary):
                build(temporary)
                _sign(temporary)
                temporary.rename(folder)
        except OSError as error:
            faster = error.errno in (errno.EEXIST, errno.ENOTEMPTY) and folder.is_dir()
            if not faster:  # than this process was another one
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def cached(kind: str, key: str, build: Callable[[Path], None], read: Callable[[Path], T]) -> T:
    """What `read` makes of the cached folder; a damaged one is discarded and built again, once."""
    for last in (False, True):
        folder = cached_folder(kind, key, build)
        try:
            check(folder)
            return read(folder)
        except PermissionError as error:
            raise StorageError(f"cannot read {folder}: {error.strerror}; {ADVICE}") from None
        except DAMAGE as error:
            if last:
                raise StorageError(
                    f"the cache folder {folder} came back damaged right after it was written: "
                    "check the disk, or set ADVHASH_CACHE to another one"
                ) from error
            _discard(folder)
    raise AssertionError("unreachable")


def _sign(folder: Path) -> None:
    """Write the digests of all files of a folder beside them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {
        path.relative_to(folder).as_posix(): [
            sha256(path),
            path.stat().st_size,
            path.stat().st_mtime_ns,
        ]
        for path in files
    }
    write_json(folder / DIGESTS, digests)


def check(folder: Path) -> None:
    """Raise one of DAMAGE where a cached folder does not hold what was written into it.

    Of a file above 256 MiB whose size and time of change are those of the day it was written, the
    bytes are not read: pictures of large sets are mapped so that nobody has to.
    """
    written = json.loads((folder / DIGESTS).read_text("utf-8"))
    if not written:
        raise ValueError(f"expected the digests of what was written, got none in {folder}")
    for name, (digest, size, changed) in written.items():
        status = (folder / name).stat()
        if status.st_size != size:
            raise ValueError(f"expected {size} bytes in {folder / name}, got {status.st_size}")
        if size > LARGE and status.st_mtime_ns == changed:
            continue
        if sha256(folder / name) != digest:
            raise ValueError(f"the stored bytes of {folder / name} are not those that were written")


def _sweep(parent: Path) -> None:
    """Remove temporary folders that killed processes left behind."""
    for left in parent.glob(".*.tmp"):
        try:
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                with _held(left) as free:
                    if free:
                        shutil.rmtree(left, ignore_errors=True)
        except OSError:  # gone meanwhile, or another user's
            continue


@contextmanager
def _held(folder: Path) -> Iterator[bool]:
    """Lock a folder until the block or the process ends. False: another process holds it."""
    handle = os.open(folder, os.O_RDONLY) if fcntl is not None else None
    free = True
    try:
        if handle is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        free = False
    except OSError:  # a file system without locks, as some that are shared
        pass
    try:
        yield free
    finally:
        if handle is not None:
            os.close(handle)


def _discard(folder: Path) -> None:
    """Remove a damaged cache folder. Raises StorageError."""
    with storage_errors(folder, ADVICE):
        gone = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
        try:
            folder.rename(gone / folder.name)
        except FileNotFoundError:
            return  # another process discarded it
        finally:
            shutil.rmtree(gone, ignore_errors=True)
