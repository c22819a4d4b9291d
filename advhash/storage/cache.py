"""The cache: folders named by the content that they were made from, written whole or not at all.

    <cache root>/<kind>/<key>/digests.json

Beside what a folder holds lie its kind and key and the SHA-256 of each of its files, by which it is
checked whenever it is read: what is damaged, or lies under another name than it was written, is
discarded and built again, once. What another user wrote is refused: digests tell damage, not who
wrote them. The root is $ADVHASH_CACHE, or the user's cache folder. Everything in it can be deleted
at any time: it is built again when it is next needed.
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import platformdirs
from safetensors import SafetensorError

from advhash.errors import CheckpointError, StorageError, UsageError, exhausted
from advhash.storage.documents import read_json, reason
from advhash.storage.files import (
    partial_folder,
    sha256,
    storage_errors,
    sweep,
    write_json,
    write_text,
)
from advhash.storage.places import user_path

T = TypeVar("T")
logger = logging.getLogger(__name__)

ADVICE = "free space there, or set ADVHASH_CACHE to a folder that can be written"
DAMAGE = (
    CheckpointError,
    SafetensorError,
    OSError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    RecursionError,
)
BUGS = (LookupError, TypeError, AttributeError, RecursionError)  # where the bytes are as written
DIGESTS = "digests.json"
LARGE = 2**28  # bytes; larger files are read again only where their time of change is another
PRIVATE = 0o700  # of folders in the cache: nobody else reads or writes them


def cache_root() -> Path:
    """The cache folder: $ADVHASH_CACHE where set, or the user's cache folder for advhash.

    Raises StorageError for a user without a home.
    """
    given = os.environ.get("ADVHASH_CACHE")
    try:
        return user_path(given) if given else platformdirs.user_cache_path("advhash")
    except (RuntimeError, UsageError):  # neither $HOME nor the list of users tells it
        if given and not given.startswith("~"):
            raise
        raise StorageError(
            f"expected a home folder for the cache, got {given or 'none'}: set ADVHASH_CACHE to a "
            "folder that can be written, in full"
        ) from None


def cache_name() -> str:
    """A name of this cache, drawn when it was first asked for; only a copy of the folder shares it.

    Raises StorageError.
    """
    file = cache_root() / "name"
    with storage_errors(file, ADVICE):
        while True:
            if file.is_dir() and not file.is_symlink():
                shutil.rmtree(file)
            elif os.path.lexists(file) and not file.is_file():  # a pipe, or a link to nothing
                file.unlink(missing_ok=True)
            try:
                known = file.read_bytes()
            except FileNotFoundError:
                known = None
            if known is not None and re.fullmatch(rb"[0-9a-f]{32}", known):
                return known.decode()
            if known is not None:  # damaged
                file.unlink(missing_ok=True)
            with partial_folder(file, mode=PRIVATE) as drawn:
                write_text(drawn / "name", uuid.uuid4().hex)
                with suppress(FileExistsError):
                    os.link(drawn / "name", file)  # by the first of several processes alone


def content_key(content: object) -> str:
    """16 hex digits that name a JSON-able value, whatever the order of its keys."""
    return _digest(content)[:16]


def cached_folder(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """The folder `<root>/<kind>/<key>`, filled by `build(folder)` where it does not exist yet.

    `build` fills a temporary sibling that is then renamed, so the folder is complete wherever it
    exists. Where two processes build it at once, the slower one drops its copy. A failure or an
    interrupt leaves nothing behind, and what a kill left is removed when the next one is built.

    Raises StorageError: the disk is full, or the cache cannot be written.
    """
    folder = cache_root() / kind / key
    if folder.is_dir():
        return folder
    with storage_errors(folder, ADVICE):
        make_way(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        sweep(folder.parent.glob(".*.tmp"))
        try:
            with partial_folder(folder, mode=PRIVATE) as temporary:
                build(temporary)
                _sign(temporary, f"{kind}/{key}")
                temporary.rename(folder)
        except OSError as error:
            faster = error.errno in (errno.EEXIST, errno.ENOTEMPTY) and folder.is_dir()
            if not faster:  # than this process was another one
                raise
    return folder


def cached(kind: str, key: str, build: Callable[[Path], None], read: Callable[[Path], T]) -> T:
    """What `read` makes of the cached folder; a damaged one is discarded and built again, once.

    Raises StorageError: it is another user's, is damaged again at once, or cannot be written.
    """
    for last in (False, True):
        folder = cached_folder(kind, key, build)
        whole = False
        try:
            check(folder)
            whole = True
            return read(folder)
        except PermissionError as error:
            raise StorageError(f"cannot read {folder}: {reason(error)}; {ADVICE}") from None
        except DAMAGE as error:
            if exhausted(error) is not None:  # of this process, which says nothing of the folder
                raise
            if whole and isinstance(error, BUGS):
                raise
            if last:
                raise StorageError(
                    f"the cache folder {folder} came back damaged right after it was written: "
                    "check the disk, or set ADVHASH_CACHE to another one"
                ) from error
            _discard(folder)
    raise AssertionError("unreachable")


def make_way(folder: Path) -> None:
    """Remove a file that lies in the cache where a folder, or one above it, has its place."""
    root = cache_root()
    for place in (*reversed(folder.parents), folder):
        if root in place.parents and os.path.lexists(place) and not place.is_dir():
            logger.info("%s was a file in the place of a cache folder: it is built again", place)
            place.unlink(missing_ok=True)


def expect_own(path: Path) -> None:
    """Raise StorageError for a file or folder of another user, who may have written any figure."""
    if not hasattr(os, "geteuid"):  # Windows keeps caches apart by itself
        return
    owner = path.stat().st_uid
    if owner not in (os.geteuid(), 0, _owner_here(str(cache_root()))):
        raise StorageError(
            f"expected a cache that this user wrote, got {path} of user {owner}, who may have "
            "written any figure: set ADVHASH_CACHE to a folder of your own"
        )


@functools.cache
def _owner_here(root: str) -> int:
    """Whom the file system of the cache calls the owner of what this process writes there."""
    try:
        with tempfile.TemporaryFile(dir=root) as probe:
            return os.fstat(probe.fileno()).st_uid
    except OSError:
        return os.geteuid()


def _sign(folder: Path, name: str) -> None:
    """Write the name of a folder, its kind and key, and the digests of all its files into it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    digests = {
        path.relative_to(folder).as_posix(): [
            sha256(path),
            path.stat().st_size,
            path.stat().st_mtime_ns,
        ]
        for path in files
    }
    body = {"name": name, "files": digests}
    write_json(folder / DIGESTS, {**body, "sha256": _digest(body)})


def _digest(content: object) -> str:
    """SHA-256 of a JSON-able value, whatever the order of its keys."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def check(folder: Path) -> None:
    """Raise one of DAMAGE where a cached folder does not hold what was written into it.

    The bytes of a file above 256 MiB are not read where its size and time of change are those of
    the day it was written: pictures of large sets are mapped so that nobody has to.

    Raises StorageError where another user wrote it.
    """
    for path in (folder, folder / DIGESTS):
        expect_own(path)
    written = read_json(folder / DIGESTS)
    name = f"{folder.parent.name}/{folder.name}"
    if written.pop("sha256") != _digest(written) or not written["files"]:
        raise ValueError(f"expected the digests of what was written in {folder}, got others")
    if written["name"] != name:
        raise ValueError(f"expected {name} in {folder}, got {written['name']}")
    for file, (digest, size, changed) in written["files"].items():
        expect_own(folder / file)
        state = (folder / file).stat()
        if state.st_size != size:
            raise ValueError(f"expected {size} bytes in {folder / file}, got {state.st_size}")
        if size > LARGE and state.st_mtime_ns == changed:
            continue
        if sha256(folder / file) != digest:
            raise ValueError(f"the stored bytes of {folder / file} are not those that were written")


def _discard(folder: Path) -> None:
    """Remove a damaged cache folder. Raises StorageError."""
    with storage_errors(folder, ADVICE), partial_folder(folder, mode=PRIVATE) as gone:
        try:
            folder.rename(gone / folder.name)
        except FileNotFoundError:
            return  # another process discarded it
