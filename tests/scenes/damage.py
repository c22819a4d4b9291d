"""Files as a broken disk, another program or a hostile stranger leaves them, drawn by a seed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import sqlite3
import struct
import tomllib
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import tomli_w

DEEP, LONG, BIG = "@deep@", "@long@", "@big@"
SPELLED = {  # what no library writes → how it stands in a file
    f'"{DEEP}"': "[" * 20_000 + "]" * 20_000,
    f'"{LONG}"': "9" * 6000,
    f'"{BIG}"': "1e999",
}
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 2**31, 2**53, 2**63, 10**30, 0.5, -0.0, 1e308, math.nan, math.inf),
    *(DEEP, LONG, BIG, "", "nan", "x" * 300, "../../etc", "/dev/zero", "~nouser", "a\0b"),
    *("\x1b[2J\u202e", "שלום", [], {}, [[]], [None], [1, "a"], {"": None}, {"name": "x"}),
)
WORDS = (
    *("", "-1", "nan", "inf", "1e999", "9" * 6000, "\0"),
    *("../x", "/dev/zero", "\x1b[2J", ",,", '"'),
)


def damaged(file: Path, chance: Random) -> None:
    """Change one file in place: by what it holds, or as mere bytes."""
    by_kind = {
        ".json": _json, ".toml": _toml, ".txt": _words, ".csv": _words, ".sqlite": _rows,
    }.get(file.suffix)  # fmt: skip
    if by_kind is not None and chance.random() < 0.7:
        by_kind(file, chance)
        return
    content = file.read_bytes()
    file.write_bytes(chance.choice(BYTES)(content, chance))


def _cut(content: bytes, chance: Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def _bits(content: bytes, chance: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 8)) if changed else 0):
        changed[_place(changed, chance)] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _splice(content: bytes, chance: Random) -> bytes:
    first, second, third = sorted(chance.randrange(len(content) + 1) for _ in range(3))
    return content[:first] + content[second:third] + content[first:second] + content[third:]


def _filled(content: bytes, chance: Random) -> bytes:
    place, size = _place(content, chance), chance.choice((1, 4, 8, 64))
    return content[:place] + chance.choice((b"\0", b"\xff")) * size + content[place + size :]


def _inserted(content: bytes, chance: Random) -> bytes:
    place = _place(content, chance)
    return content[:place] + chance.randbytes(chance.choice((1, 3, 100))) + content[place:]


def _place(content: bytes | bytearray, chance: Random) -> int:
    """Somewhere, half of the time near the beginning, where headers are."""
    near = chance.random() < 0.5
    return chance.randrange(max(1, min(len(content), 200) if near else len(content)))


BYTES: tuple[Callable[[bytes, Random], bytes], ...] = (
    *(_cut, _bits, _bits, _splice, _filled, _inserted),
    lambda content, chance: b"",
)


def _json(file: Path, chance: Random) -> None:
    document = _changed(json.loads(file.read_text("utf-8")), chance)
    file.write_text(_spelled(json.dumps(document)), "utf-8")


def _toml(file: Path, chance: Random) -> None:
    document = _changed(tomllib.loads(file.read_text("utf-8")), chance)
    text = tomli_w.dumps(_without_none(document if isinstance(document, dict) else {}))
    file.write_bytes(chance.choice((b"", b"", b"\xef\xbb\xbf")) + _spelled(text).encode("utf-8"))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(one) for key, one in value.items() if one is not None}
    if isinstance(value, list):
        return [_without_none(one) for one in value if one is not None]
    return value


def _spelled(text: str) -> str:
    for mark, spelling in SPELLED.items():
        text = text.replace(mark, spelling)
    return text


def _changed(document: Any, chance: Random) -> Any:
    """One to three values deleted, renamed, replaced by an odd one or swapped with a sibling's."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        places = _places(document)
        if not places:
            return chance.choice(ODD)
        parent, key = chance.choice(places)
        if key not in (parent if isinstance(parent, dict) else range(len(parent))):
            continue
        draw = chance.random()
        if draw < 0.15:
            del parent[key]
        elif draw < 0.25 and isinstance(parent, dict):
            parent[str(chance.choice(ODD))] = parent.pop(key)
        elif draw < 0.45:
            other = chance.choice(list(parent) if isinstance(parent, dict) else range(len(parent)))
            parent[key], parent[other] = parent[other], parent[key]
        else:
            parent[key] = chance.choice(ODD)
    return document


def _places(value: Any) -> list[tuple[Any, Any]]:
    """All (container, key) below a value."""
    found, level = [], [value]
    while level:
        one = level.pop()
        if isinstance(one, dict | list):
            keys = list(one) if isinstance(one, dict) else range(len(one))
            found += [(one, key) for key in keys]
            level += [one[key] for key in keys]
    return found


def _words(file: Path, chance: Random) -> None:
    lines = file.read_text("utf-8").split("\n")
    for _ in range(chance.choice((1, 2))):
        place = chance.randrange(len(lines))
        words = lines[place].split(" ")
        action = chance.randrange(4)
        if action == 0:
            words[chance.randrange(len(words))] = chance.choice(WORDS)
            lines[place] = " ".join(words)
        elif action == 1:
            lines[place] = chance.choice(WORDS)
        elif action == 2:
            lines.insert(place, lines[chance.randrange(len(lines))])
        else:
            lines[place] = lines[place] + chance.choice((" ", ",", ";")) + chance.choice(WORDS)
    file.write_text("\n".join(lines), "utf-8")


def _rows(file: Path, chance: Random) -> None:
    """SQLite keeps any value in any column of a table that does not say its types."""
    with contextlib.closing(sqlite3.connect(file)) as table, table:
        names = [
            row[0] for row in table.execute("SELECT name FROM sqlite_master WHERE type='table'")
        ]
        for name in names:
            rows = table.execute(f"SELECT * FROM {name}").fetchall()
            columns = [row[1] for row in table.execute(f"PRAGMA table_info({name})")]
            table.execute(f"DROP TABLE {name}")
            table.execute(f"CREATE TABLE {name} ({', '.join(columns)}, UNIQUE ({columns[0]}))")
            for row in rows:
                values: list[Any] = list(row)
                if chance.random() < 0.5:
                    values[chance.randrange(len(values))] = chance.choice(
                        (None, "", "x", -1, 2**62, 1e308, b"\xff", "[1]", '{"a": "b"}', "NaN")
                    )
                table.execute(f"INSERT INTO {name} VALUES ({', '.join('?' * len(values))})", values)


def signed_anew(folder: Path) -> None:
    """The digests of a checkpoint's card, as a stranger would write them."""
    card = json.loads((folder / "card.json").read_text("utf-8"))
    weights = folder / "model.safetensors"
    card["files"] = {weights.name: hashlib.sha256(weights.read_bytes()).hexdigest()}
    (folder / "card.json").write_text(json.dumps(card), "utf-8")


def codes_signed_anew(file: Path) -> None:
    """The checksum of a `.codes` file, likewise."""
    content = file.read_bytes()
    if len(content) >= 64:
        digest = hashlib.sha256(content[64:]).digest()
        file.write_bytes(content[:32] + digest + content[64:])


def resealed(file: Path) -> None:
    """The checksums of a zip archive whose entries are stored, as a stranger would write them."""
    content = bytearray(file.read_bytes())
    try:
        with zipfile.ZipFile(file) as archive:
            members, place = archive.infolist(), archive.start_dir
        for member in members:
            start = member.header_offset
            name, extra = struct.unpack("<2H", content[start + 26 : start + 30])
            data = start + 30 + name + extra
            checksum = struct.pack("<I", zlib.crc32(content[data : data + member.file_size]))
            content[start + 14 : start + 18] = checksum
            content[place + 16 : place + 20] = checksum
            place += 46 + sum(struct.unpack("<3H", content[place + 28 : place + 34]))
    except (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError):
        return  # it was damaged beyond its kind
    file.write_bytes(content)
