"""Files from outside: opened, read and parsed within bounds, whoever wrote them.

A pipe or a device is never opened, and no text is larger, deeper or has larger numbers than what
advhash can work with. Whatever is wrong raises Unreadable or OSError, each with a reason of one
line (`reason`); the reader adds what was expected of which file.
"""

from __future__ import annotations

import errno
import gzip
import json
import math
import os
import re
import stat
import struct
import tokenize
import tomllib
import zipfile
import zlib
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

from advhash.errors import AdvhashError

MOST_BYTES = 2**28
CHUNK = 2**24  # bytes read at a time
MOST_TOML = 2**20  # bytes: a configuration has some thousands
MOST_UNPACKED = 8 * 2**30  # bytes that a file may unpack to
MOST_DEPTH = 64  # tables and lists inside each other
MOST_DOTS = 1000  # of a line of TOML: a key of more parts takes minutes to parse
WHOLE = range(-(2**63), 2**64)
LONGEST = 200  # characters of a reason
SYSTEM = {  # what the operating system refuses to read, and the next step where there is one
    errno.ENOENT: "no such file or folder",
    errno.EISDIR: "a folder, no file",
    errno.ENOTDIR: "a file where the path has a folder",
    errno.EACCES: "no permission to read it; see `ls -l`",
    errno.EPERM: "no permission to read it; see `ls -l`",
    errno.ELOOP: "a link that leads back to itself; repair it",
    errno.ENAMETOOLONG: "a name that is too long; shorten it",
    errno.EIO: "the disk fails to read it; copy it from elsewhere",
}
CUT, OTHER = "a file that is cut off, copy it anew", "another kind of file, or one that is cut off"
LIBRARIES = (  # what libraries say of a file, and what it means for its user
    ("No data left in file|size is 0 bytes|Empty input file|file is empty", "an empty file"),
    ("mmap length is greater|EOF: reading array|cannot reshape array of size", CUT),
    ("[Tt]runcated|[Uu]nexpected end|broken data stream|broken PNG", CUT),
    ("not a zip file|[Mm]agic (bytes|string|number)|Not a gzipped file", OTHER),
    ("deserializing header|HeaderTooLarge|InvalidHeader", OTHER),
    ("Error parsing message|INVALID_PROTOBUF|Protobuf parsing failed", OTHER),
    ("could not open .*No such file", "no such file or folder"),
    (r"Index type .* not recognized|could not open|read error in", OTHER),
    ("field larger than field limit", "a cell of over 131,072 characters: check its quotes"),
    ("line contains NUL", "a zero byte in a line: save it as text"),
    ("not a valid JSON file", "no JSON in one of its files"),
    ("cannot identify image file", "no picture that Pillow reads"),
)
SERVERS = (  # what the library of a server says
    ("[Cc]onnection refused", "no server answers there"),
    ("could not translate host name|Name or service not known", "no machine has that name"),
    ("[Cc]onnection timed? ?out|timeout expired", "no answer in time"),
    ("password authentication failed", "the server refuses this user or this password"),
)
# what NumPy and zipfile were seen to raise on damaged files; a missing file is told apart before
BROKEN_ARRAYS = (
    *(ValueError, TypeError, AttributeError, EOFError, RuntimeError, SyntaxError),
    *(OverflowError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


class Unreadable(ValueError):
    """What a file or a text holds is not what it is said to be."""


class NotParsed(Unreadable):
    """It is not written in the language that it is said to be in."""


def open_file(path: Path) -> BufferedReader:
    """A file to read from, never a pipe or a device, which may have no end. Raises OSError."""
    if not stat.S_ISREG(mode := os.stat(path).st_mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, "a pipe or a device, no file", str(path))
    return path.open("rb")


def expect_file(path: Path) -> None:
    """Raise OSError where `path` cannot be opened or is no file."""
    open_file(path).close()


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """All of a file. Raises OSError, Unreadable: more than `most` bytes."""
    with open_file(path) as stream:
        content = _bounded(stream, most)
    if content is None:
        raise Unreadable(f"more than {most:,} bytes")
    return content


def _bounded(stream: BufferedReader | gzip.GzipFile, most: int) -> bytes | None:
    """The rest of a stream; None where that is more than `most` bytes."""
    parts, size = [], 0
    while part := stream.read(CHUNK):
        parts.append(part)
        size += len(part)
        if size > most:
            return None
    return b"".join(parts)


def read_gzip(path: Path, most: int = MOST_BYTES) -> bytes:
    """What a gzipped file holds. Raises OSError, Unreadable: damaged, or more than `most` bytes."""
    try:
        with open_file(path) as stream, gzip.open(stream) as unpacked:
            content = _bounded(unpacked, most)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise Unreadable(f"no whole gzip file ({reason(error)})") from None
    if content is None:
        raise Unreadable(f"more than {most:,} bytes unpacked")
    return content


def check_unpacked(size: int, most: int | None = None) -> None:
    """Raise Unreadable where a file states that it unpacks to more than `most` bytes, or 8 GiB."""
    most = MOST_UNPACKED if most is None else most
    if size > most:
        raise Unreadable(f"{size:,} bytes unpacked, over {most:,}")


def check_archive(path: Path, most: int | None = None) -> set[str]:
    """The names in a zip file. Raises OSError, Unreadable: none, or over `most` bytes unpacked."""
    try:
        with open_file(path) as stream, zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError) as error:
        raise Unreadable(f"no whole zip file ({reason(error)})") from None
    check_unpacked(sum(member.file_size for member in members), most)
    return {member.filename for member in members}


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """A file of UTF-8, without a byte order mark, its lines ended by line feeds alone.

    Raises OSError, Unreadable.
    """
    return decoded(read_bytes(path, most)).replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, most: int = MOST_BYTES, *, finite: bool = True) -> Any:
    """The value in a JSON file, see `parse_json`. Raises OSError, Unreadable."""
    return parse_json(read_bytes(path, most), finite=finite)


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file, see `parse_toml`. Raises OSError, Unreadable."""
    return parse_toml(read_text(path, MOST_TOML))


def decoded(content: bytes) -> str:
    """UTF-8 as text, without a byte order mark. Raises Unreadable."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Unreadable(f"no UTF-8 text from byte {error.start} on: save it as UTF-8") from None


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """The value of a JSON text.

    finite: refuse NaN and infinity, which JSON does not have and Python reads

    Raises Unreadable.
    """
    given = text if isinstance(text, str) else decoded(text)
    try:
        value = json.loads(given, parse_constant=_refuse_constant if finite else None)
    except RecursionError:
        raise _too_deep() from None
    except ValueError as error:
        raise Unreadable(_parser_reason(error)) from None
    _check(value, math.isfinite if finite else None)
    return value


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a TOML text; numbers may be infinite, not NaN. Raises NotParsed, Unreadable."""
    if len(text) > MOST_TOML:
        raise Unreadable(f"more than {MOST_TOML:,} characters")
    if any(line.count(".") > MOST_DOTS for line in text.split("\n")):
        raise Unreadable(f"a line with more than {MOST_DOTS:,} dots")
    try:
        value = tomllib.loads(text)
    except RecursionError:
        raise _too_deep() from None
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"at (line \d+, column \d+|end of document)", str(error))
        raise NotParsed(f"no TOML at {place[1] if place else 'its start'}") from None
    except ValueError as error:
        raise Unreadable(_parser_reason(error)) from None
    _check(value, lambda number: not math.isnan(number))
    return value


def reason(error: BaseException) -> str:
    """Why something could not be read: the first line of an error, shortened; what the operating
    system or a library refuses in words of ours.

    >>> reason(FileNotFoundError(2, "No such file or directory", "x"))
    'no such file or folder'
    """
    if isinstance(error, OSError) and error.strerror:
        return SYSTEM.get(error.errno or 0, error.strerror)
    if isinstance(error, json.JSONDecodeError):
        return _no_json(error)
    text = str(error).strip()
    served = type(error).__module__.partition(".")[0] == "psycopg"
    for theirs, ours in SERVERS if served else LIBRARIES:
        if not isinstance(error, Unreadable | AdvhashError) and re.search(theirs, text):
            return ours
    line = text.partition("\n")[0] or type(error).__name__
    return line if len(line) <= LONGEST else line[:LONGEST] + " …"


def _no_json(error: json.JSONDecodeError) -> str:
    if not error.doc.strip():
        return "nothing in it"
    if "\n" in error.doc.strip():
        return f"no JSON from line {error.lineno}, column {error.colno} on"
    return f"no JSON from character {error.pos + 1} on"


def _parser_reason(error: ValueError) -> str:
    """What is wrong with a text; of Python's limit of digits, what it means for the file."""
    return "a number of too many digits" if "digits)" in str(error) else reason(error)


def _too_deep() -> Unreadable:
    return Unreadable(f"nested more than {MOST_DEPTH} deep")


def _refuse_constant(name: str) -> NoReturn:
    raise Unreadable(f"{name}, which is no number of JSON")


def _check(document: Any, allowed: Callable[[float], bool] | None) -> None:
    """Raise Unreadable for what no reader of ours could store, compare or print."""
    level = [document]
    for _ in range(MOST_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += value
                below += value.values()
            elif isinstance(value, list):
                below += value
            else:
                _check_value(value, allowed)
        if not below:
            return
        level = below
    raise _too_deep()


def _check_value(value: Any, allowed: Callable[[float], bool] | None) -> None:
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= sign <= "\udfff" for sign in value):
            raise Unreadable("text with half of a Unicode character")
    elif isinstance(value, int):
        if value not in WHOLE:
            raise Unreadable("a whole number of more than 64 bits")
    elif isinstance(value, float):
        if allowed is not None and not allowed(value):
            raise Unreadable(f"the number {value}")
    elif value is not None:
        raise Unreadable(f"a {type(value).__name__}, which no setting is")
