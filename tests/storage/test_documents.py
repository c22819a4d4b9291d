"""Files from outside are read within bounds: what is wrong with one is a reason of one line."""

from __future__ import annotations

import gzip
import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from advhash.errors import DataError
from advhash.storage import documents
from advhash.storage.documents import (
    CUT,
    MOST_DEPTH,
    OTHER,
    NotParsed,
    Unreadable,
    check_archive,
    expect_file,
    parse_json,
    parse_toml,
    read_bytes,
    read_gzip,
    read_json,
    read_text,
    read_toml,
    reason,
)

BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "nothing in it"),
        ("{", "no JSON from character 2 on"),
        ("[" * 100_000, f"nested more than {MOST_DEPTH} deep"),
        ("[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1), f"nested more than {MOST_DEPTH} deep"),
        ("9" * 6000, "a number of too many digits"),
        ("9" * 4000, "a whole number of more than 64 bits"),
        ("[18446744073709551616]", "a whole number of more than 64 bits"),
        ("1e999", "the number inf"),
        ('{"loss": NaN}', "NaN, which is no number of JSON"),
        ("-Infinity", "-Infinity, which is no number"),
        ('{"\\ud800": 1}', "half of a Unicode character"),
        (b"\xff\xfe", "no UTF-8 text"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_json_is_bounded(text: str | bytes, message: str) -> None:
    with pytest.raises(Unreadable, match=message) as got:
        parse_json(text)
    assert "\n" not in str(got.value)


def test_json_within_the_bounds_is_read() -> None:
    deep = "[" * MOST_DEPTH + "]" * MOST_DEPTH
    assert parse_json(deep)
    assert parse_json('[18446744073709551615, -9223372036854775808, 1.5, null, true, "ε"]') == [
        2**64 - 1, -(2**63), 1.5, None, True, "ε",
    ]  # fmt: skip
    assert parse_json(BOM + b'{"a": 1}') == {"a": 1}
    assert parse_json("[Infinity]", finite=False) == [float("inf")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = " + "[" * 20_000 + "]" * 20_000, "deep"),
        ("a = " + "{b=" * 20_000 + "1" + "}" * 20_000, "deep"),
        (".".join("a" * 500) + " = 1", "deep"),
        (".".join("a" * 20_000) + " = 1", "a line with more than 1,000 dots"),
        ("[" + ".".join("a" * 20_000) + "]", "a line with more than 1,000 dots"),
        ("a = " + "9" * 6000, "a number of too many digits"),
        ("a = 0x" + "f" * 6000, "a whole number of more than 64 bits"),
        ("a = [nan]", "the number nan"),
        ("a = 1979-05-27", "a date, which no setting is"),
        ("#" * (documents.MOST_TOML + 1), "more than 1,048,576 characters"),
    ],
    ids=lambda value: value[:20],
)
def test_toml_is_bounded(text: str, message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        parse_toml(text)


def test_what_is_no_toml_is_told_from_what_is_refused() -> None:
    with pytest.raises(NotParsed):
        parse_toml("8/255")
    assert parse_toml("eps = inf") == {"eps": float("inf")}


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(BOM + b"seed = 1\n")
    assert read_toml(tmp_path / "a") == {"seed": 1}
    assert read_text(tmp_path / "a") == "seed = 1\n"


def test_lines_end_as_they_do_anywhere(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1\r\n2\r3\n")
    assert read_text(tmp_path / "a") == "1\n2\n3\n"


@pytest.fixture(params=["pipe", "zero"])
def endless(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What nobody can read to its end, under the name of a file."""
    file = tmp_path / "card.json"
    if request.param == "pipe":
        os.mkfifo(file)
    else:
        file.symlink_to("/dev/zero")
    return file


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "read",
    [read_bytes, read_text, read_json, read_toml, read_gzip, expect_file,
     lambda file: check_archive(file, 1)],
)  # fmt: skip
def test_a_pipe_or_a_device_is_not_opened(endless: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(OSError, match="a pipe or a device, no file") as got:
        read(endless)
    assert reason(got.value) == "a pipe or a device, no file"


def test_bytes_are_bounded_before_they_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "a.gz").write_bytes(gzip.compress(bytes(10**6)))
    assert read_bytes(tmp_path / "a", 5) == b"12345"
    with pytest.raises(Unreadable, match="more than 4 bytes"):
        read_bytes(tmp_path / "a", 4)
    with pytest.raises(Unreadable, match="more than 1,000 bytes unpacked"):
        read_gzip(tmp_path / "a.gz", 1000)


@pytest.mark.parametrize("damage", [lambda c: c[:9], lambda c: c[:20] + b"\xff" * 9, lambda c: b""])
def test_a_damaged_gzip_file_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    file = tmp_path / "a.gz"
    file.write_bytes(damage(gzip.compress(bytes(range(256)) * 9)))
    if not file.stat().st_size:
        assert read_gzip(file) == b""
        return
    with pytest.raises(Unreadable, match="no whole gzip file"):
        read_gzip(file)


def test_an_archive_is_weighed_before_it_is_unpacked(tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(10**6))
    assert check_archive(file, 10**6) == {"zeros"}
    with pytest.raises(Unreadable, match="1,000,000 bytes unpacked, over 999,999"):
        check_archive(file, 10**6 - 1)
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(Unreadable, match="no whole zip file"):
        check_archive(file, 10**6)


def _parquet(file: Path) -> None:
    import pyarrow.parquet as pq

    pq.read_schema(file)


def _safetensors(file: Path) -> None:
    from safetensors import safe_open

    with safe_open(file, "np"):
        pass


def _picture(file: Path) -> None:
    from PIL import Image

    Image.open(file)


@pytest.mark.parametrize(
    ("read", "content", "said"),
    [
        (np.load, b"", "an empty file"),
        (np.load, b"\x93NUMPY\x01\x00v\x00{'descr'", CUT),
        (zipfile.ZipFile, b"no zip", OTHER),
        (_parquet, b"", "an empty file"),
        (_parquet, b"PAR1 not really one", OTHER),
        (_safetensors, b"\xff" * 30, OTHER),
        (_picture, b"no picture", "no picture that Pillow reads"),
    ],
)
def test_what_libraries_say_of_a_file_is_said_in_our_words(
    read: Callable[[Path], object], content: bytes, said: str, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(Exception) as got:
        read(file)
    assert said not in str(got.value)
    assert reason(got.value) == said


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (IsADirectoryError(21, "Is a directory", "x"), "a folder, no file"),
        (PermissionError(13, "Permission denied", "x"), "no permission to read it; see `ls -l`"),
        (RuntimeError("first line\nsecond"), "first line"),
        (RuntimeError(""), "RuntimeError"),
        (Unreadable("a truncated one, as we say"), "a truncated one, as we say"),
        (DataError("a truncated one, as we say"), "a truncated one, as we say"),
    ],
    ids=str,
)
def test_a_reason_is_one_short_line(error: Exception, said: str) -> None:
    assert reason(error) == said
