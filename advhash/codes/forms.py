"""The forms in which codes are stored: recognised where they can be told apart, else asked for.

    bits      bool, or numbers 0 and 1, one a bit
    signs     −1 and 1, one a bit
    ubinary   uint8, eight bits a byte, the most significant first (`np.packbits`)
    binary    the same bytes minus 128, as int8 (sentence-transformers)
    floats    embeddings, which a quantiser makes bits of (`advhash.codes.quantise`)
    hex       words of four bits a digit, the most significant first (imagehash, PDQ)
    base64    words of packed bytes

A word of 0 and 1 alone may be hex or bits, and bytes may be packed bits or whole numbers that stand
for real ones: where a figure would hang on a guess, the form is asked for.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from advhash.codes.packed import HashCodes
from advhash.codes.quantise import Rule
from advhash.codes.text_rows import number
from advhash.errors import DataError

BitForm = Literal["bits", "signs", "ubinary", "binary", "hex", "base64"]
CodeForm = BitForm | Literal["floats"]
MOST_BITS = 1 << 14
BLOCK = 1 << 22  # values checked and packed at a time
_HEX = re.compile(r"[0-9a-fA-F]+")
_BASE64 = re.compile(r"[0-9a-zA-Z+/_-]+={0,2}")
_LEAST_BASE64 = 8  # signs of a word that is taken for one
_QUANTISE = "embeddings become bits by --quantise sign, mean or median"
_VALUES: dict[CodeForm, str] = {
    "bits": "0 or 1",
    "signs": "-1 or 1",
    "ubinary": "bytes, 0 to 255",
    "binary": "signed bytes, -128 to 127",
}
_RANGES: dict[CodeForm, range] = {"ubinary": range(256), "binary": range(-128, 128)}


@dataclass(frozen=True)
class Reading:
    """What the user says of a file of codes.

    form:     in which form it is; None: as recognised
    quantise: how floats become bits; None: floats are refused
    bits:     how many of the stored bits, from the first one, are the code; None: all
    column:   the column or array that holds the codes; None: by its name
    """

    form: CodeForm | None = None
    quantise: Rule | None = None
    bits: int | None = None
    column: str | None = None


AS_RECOGNISED = Reading()


@dataclass(frozen=True)
class StoredRows:
    """N rows as they stand in a file: numbers, or words.

    numbers: (N,D) of any type
    words:   N texts
    packed:  whether the file itself says that the numbers are bytes of packed bits
    lines:   (N,) where each row stands in a text, from 1
    ids:     what the rows are called, where the file says it
    source:  what kind of file it is, where its name does not say it
    """

    numbers: npt.NDArray[Any] | None = None
    words: Sequence[str] | None = None
    packed: bool = False
    lines: npt.NDArray[np.int64] | None = None
    ids: tuple[str, ...] | None = None
    source: str = ""

    def __len__(self) -> int:
        return len(self.words if self.words is not None else self.numbers)  # type: ignore[arg-type]

    def place(self, row: int) -> str:
        """How a message calls a row."""
        return f"row {row}" if self.lines is None else f"line {self.lines[row]}"


@dataclass(frozen=True)
class _Seen:
    """The values of an array: whether there are others than −1, 0 and 1, and the first of them."""

    values: frozenset[float]
    other: tuple[int, int] | None


def _expect_columns(numbers: npt.NDArray[Any], where: object) -> None:
    if numbers.ndim != 2 or numbers.shape[1] == 0:
        raise DataError(
            f"{where}: expected (N, columns), a code in each row, got shape {numbers.shape}"
        )


def recognised(rows: StoredRows, reading: Reading, where: object) -> CodeForm:
    """The form of rows, as asked for or as they look. Raises DataError where they leave it open."""
    if rows.words is not None:
        form = reading.form or _form_of_words(rows, rows.words, where)
        if form not in ("hex", "base64"):
            raise DataError(f"{where}: expected --form hex or base64 for words, got {form}")
        if reading.quantise is not None:
            raise _needless(form, where)
        return form
    numbers = rows.numbers
    assert numbers is not None
    _expect_columns(numbers, where)
    if numbers.dtype.kind not in "biuf":
        raise DataError(f"{where}: expected numbers as codes, got {numbers.dtype}")
    if reading.form is not None:
        if reading.form in ("hex", "base64"):
            raise DataError(f"{where}: expected words for --form {reading.form}, got numbers")
        if reading.quantise is not None and reading.form != "floats":
            raise _needless(reading.form, where)
        return reading.form
    if rows.packed:
        form = "ubinary"
    elif numbers.dtype == bool:
        form = "bits"
    elif numbers.dtype.kind == "f" and reading.quantise is not None:
        return "floats"
    else:
        form = _form_of_numbers(rows, numbers, reading, where)
    if reading.quantise is not None and form != "floats":
        raise _needless(form, where)
    return form


def _needless(form: CodeForm, where: object) -> DataError:
    return DataError(
        f"{where}: expected floats for --quantise, got {form}, which are bits already: leave it "
        "out, or say --form floats for whole numbers that stand for real ones"
    )


def _form_of_numbers(
    rows: StoredRows, numbers: npt.NDArray[Any], reading: Reading, where: object
) -> CodeForm:
    seen = _seen(numbers)
    if seen.other is None:
        if {-1.0, 0.0} <= seen.values:
            raise DataError(
                f"{where}: expected two values, got -1, 0 and 1: sign(0) is no bit; decide it first"
            )
        return "signs" if -1.0 in seen.values else "bits"
    if numbers.dtype in (np.uint8, np.int8):
        form: CodeForm = "ubinary" if numbers.dtype == np.uint8 else "binary"
        if reading.quantise is not None:
            raise DataError(
                f"{where}: {numbers.dtype} may be packed bits or embeddings in whole numbers: say "
                f"--form floats, or --form {form} without --quantise"
            )
        return form
    row, column = seen.other
    value = numbers[row, column]
    if not np.isfinite(value):
        raise _wrong(rows, "0 and 1 or of -1 and 1", row, column, where)
    if rows.lines is not None and numbers.shape[1] == 1:
        advice = f"words in hex are --form hex, {_QUANTISE}"
    elif numbers.dtype.kind != "f" or value == np.floor(value):
        advice = f"packed bytes are --form ubinary or binary, {_QUANTISE}"
    else:
        advice = _QUANTISE
    raise _wrong(rows, "0 and 1 or of -1 and 1", row, column, where, advice)


def _wrong(
    rows: StoredRows, expected: str, row: int, column: int, where: object, advice: str = ""
) -> DataError:
    assert rows.numbers is not None
    value = rows.numbers[row, column]
    behind = f" ({advice})" if advice else ""
    if rows.lines is not None:
        short = "0, 1 or -1" if expected.endswith("of -1 and 1") else expected
        return DataError(f"{where}, {rows.place(row)}: expected {short}, got '{value:g}'{behind}")
    return DataError(
        f"{where}: expected codes of {expected}, got {value} in row {row}, column {column}{behind}"
    )


def _seen(numbers: npt.NDArray[Any]) -> _Seen:
    values: set[float] = set()
    for start, part in _blocks(numbers):
        other = ~np.isin(part, (-1, 0, 1))
        if other.any():
            row, column = np.argwhere(other)[0].tolist()
            return _Seen(frozenset(values), (start + row, column))
        values |= {float(value) for value in np.unique(part)}
    return _Seen(frozenset(values), None)


def _blocks(numbers: npt.NDArray[Any]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    step = max(1, BLOCK // max(1, numbers.shape[1]))
    for start in range(0, len(numbers), step):
        yield start, np.asarray(numbers[start : start + step])


def _form_of_words(rows: StoredRows, words: Sequence[str], where: object) -> CodeForm:
    if all(_HEX.fullmatch(word) for word in words):
        if all(set(word) <= {"0", "1"} for word in words):
            raise DataError(
                f"{where}: {words[0][:20]!r} and the like may be hex or bits: say --form hex, or "
                "write bits as numbers"
            )
        if all(number(word) is not None for word in words):
            raise DataError(
                f"{where}: {words[0][:20]!r} and the like may be hex or numbers: say --form hex"
            )
        return "hex"
    if all(len(word) >= _LEAST_BASE64 and _BASE64.fullmatch(word) for word in words):
        return "base64"
    row = next(row for row, word in enumerate(words) if not _HEX.fullmatch(word))
    raise DataError(
        f"{where}, {rows.place(row)}: expected 0, 1 or -1, hex or base64, got {words[row][:20]!r}"
    )


def codes_of(rows: StoredRows, form: CodeForm, bits: int | None, where: object) -> HashCodes:
    """Rows in any form but floats as packed codes; `bits`: the first of them.

    Raises DataError: values that are not of this form, words of mixed lengths, or fewer bits.
    """
    if rows.words is not None:
        octets, width = _octets_of_words(rows, form, where)
        return _packed(octets, _width(bits, width, where))
    numbers = rows.numbers
    assert numbers is not None
    bytewise = form in _RANGES
    width = _width(bits, numbers.shape[1] * (8 if bytewise else 1), where)
    parts = []
    for start, part in _blocks(numbers):
        _check(rows, part, form, start, where)
        if bytewise:
            shifted = part.astype(np.int16) + (128 if form == "binary" else 0)
            parts.append(_packed(shifted.astype(np.uint8), width))
        else:
            parts.append(HashCodes.pack(part[:, :width] > 0))
    return HashCodes.concatenate(parts) if parts else HashCodes.pack(np.zeros((0, width), bool))


def _packed(octets: npt.NDArray[np.uint8], width: int) -> HashCodes:
    """The first bits of packed rows, the most significant of each byte first."""
    step = max(1, BLOCK // max(1, octets.shape[1]))
    parts = [
        HashCodes.pack(np.unpackbits(octets[start : start + step], axis=1, count=width))
        for start in range(0, len(octets), step)
    ]
    return HashCodes.concatenate(parts) if parts else HashCodes.pack(np.zeros((0, width), bool))


def _width(bits: int | None, stored: int, where: object) -> int:
    if bits is not None and bits > stored:
        raise DataError(f"{where}: expected at least the {bits} bits of --bits, got {stored}")
    width = stored if bits is None else bits
    if width > MOST_BITS:
        raise DataError(f"{where}: expected at most {MOST_BITS} bits, got {width}")
    return width


def _check(
    rows: StoredRows, part: npt.NDArray[Any], form: CodeForm, start: int, where: object
) -> None:
    """Raise DataError where values are not of the form that was asked for."""
    if form == "bits":
        wrong = ~np.isin(part, (0, 1))
    elif form == "signs":
        wrong = ~np.isin(part, (-1, 1))
    elif part.dtype == (np.uint8 if form == "ubinary" else np.int8):
        return
    else:
        with np.errstate(invalid="ignore"):
            least, most = _RANGES[form].start, _RANGES[form].stop - 1
            wrong = ~((part >= least) & (part <= most) & (np.floor(part) == part))
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        raise _wrong(rows, _VALUES[form], start + row, column, where, f"as --form {form} has it")


def _octets_of_words(
    rows: StoredRows, form: CodeForm, where: object
) -> tuple[npt.NDArray[np.uint8], int]:
    """(N,B) bytes of words, and how many bits they stand for."""
    words = rows.words
    assert words is not None
    if not words:
        return np.zeros((0, 1), np.uint8), 8
    decoded: list[bytes] = []
    for row, word in enumerate(words):
        content = _bytes_of(word, form)
        if content is None:
            raise DataError(f"{where}, {rows.place(row)}: expected {form}, got {word[:20]!r}")
        if len(word) != len(words[0]) or len(content) != len(decoded[0] if decoded else content):
            raise DataError(
                f"{where}, {rows.place(row)}: expected {len(words[0])} {form} digits as before, "
                f"got {len(word)}"
            )
        decoded.append(content)
    octets = np.frombuffer(b"".join(decoded), np.uint8).reshape(len(words), -1)
    return octets, 4 * len(words[0]) if form == "hex" else 8 * octets.shape[1]


def _bytes_of(word: str, form: CodeForm) -> bytes | None:
    """The bytes that a word stands for, an odd hex digit filled up with zeros; None: none."""
    try:
        if form == "hex":
            if not _HEX.fullmatch(word):
                return None
            return bytes.fromhex(word + "0" * (len(word) % 2))
        if not word:
            return None
        return base64.b64decode(word.translate({45: "+", 95: "/"}), validate=True)
    except (ValueError, binascii.Error):
        return None


def floats_of(rows: StoredRows, bits: int | None, where: object) -> npt.NDArray[Any]:
    """Embeddings (N,D), or their first `bits` dimensions, checked.

    Raises DataError: words, a value that is not finite, a row of zeros, or fewer dimensions.
    """
    numbers = rows.numbers
    assert numbers is not None
    _expect_columns(numbers, where)
    width = _width(bits, numbers.shape[1], where)
    for start, part in _blocks(numbers):
        wrong = ~np.isfinite(part)
        if wrong.any():
            row, column = np.argwhere(wrong)[0].tolist()
            raise DataError(
                f"{where}, {rows.place(start + row)}: expected finite embeddings, got "
                f"{part[row, column]} in column {column}: encode that row again"
            )
        empty = ~part[:, :width].any(axis=1)
        if empty.any():
            row = int(np.flatnonzero(empty)[0])
            raise DataError(
                f"{where}, {rows.place(start + row)}: expected an embedding, got zeros alone "
                f"(rows like it: {int(empty.sum())}): leave them out, or encode them again"
            )
    return numbers[:, :width]
