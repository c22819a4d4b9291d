"""Tables of numbers from text, in whatever form NumPy, pandas, R or a person writes them."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from advhash.errors import DataError

SEPARATORS = (",", ";")  # else blanks and tabs
COMMENT = "#"
INDEX_NAMES = ("", "index", "id", "row", "unnamed: 0")  # of a column that numbers the rows
LEAST_HEADER = 3  # columns that are told from a row of bits by their numbers 0, 1, 2 …


@dataclass(frozen=True)
class TextTable:
    """N rows of K numbers.

    values: (N,K) float32
    lines:  (N,) where each row stands in the text, from 1
    digits: whether each row was one word of 0 and 1 with nothing between
    """

    values: npt.NDArray[np.float32]
    lines: npt.NDArray[np.int64]
    digits: bool = False


@functools.lru_cache(maxsize=1 << 16)
def number(word: str) -> float | None:
    """A word as a number, whatever its form; None where it is none.

    >>> number("1.000000e+00"), number('"1.0"'), number("one")
    (1.0, 1.0, None)
    """
    try:
        return float(word.strip("\"'"))
    except ValueError:
        return None


def split_line(line: str) -> list[str]:
    """The words of a line, between commas, semicolons or blanks.

    >>> split_line("0; 1"), split_line("0 1"), split_line("\\tb0\\tb1")
    (['0', '1'], ['0', '1'], ['', 'b0', 'b1'])
    """
    for separator in SEPARATORS:
        if separator in line:
            return [word.strip() for word in line.split(separator)]
    words = line.split()
    return ["", *words] if line.startswith("\t") else words


def read_table(
    text: Iterable[str], where: object, *, digits: bool | None = True, expected: str = "numbers"
) -> TextTable:
    """The rows of a text: lines of as many numbers each. Raises DataError, naming the line.

    Blank lines and those that begin with # are left out, and so are a header and, under a header,
    a first column without a name or called index.

    digits: whether a row of one word of 0 and 1 is a number a digit; None: where all rows are such
            words of one length, and one begins with 0, as no number does
    expected: what a word is meant to be, for messages
    """
    numbered_lines = numbered_words(text)
    first, second = next(numbered_lines, None), next(numbered_lines, None)
    index = False
    if first is not None and second is not None and _is_header(first[1], second[1]):
        longer, name = len(second[1]) > len(first[1]), first[1][0].lower()
        index = len(second[1]) > 1 and (longer or name in INDEX_NAMES)
        first = None
    alone: list[str] = []  # rows of one word, which may be bits with nothing between
    rows: list[npt.NDArray[np.float32]] = []
    lines: list[int] = []
    width = 0
    for place, words in itertools.chain((line for line in (first, second) if line), numbered_lines):
        at = f"{where}, line {place}"
        width = width or len(words)
        if width == len(words) == 1:
            alone.append(words[0])
        else:
            rows.append(_parsed(words[index:], at, expected))
        if len(words) != width:
            raise DataError(f"{at}: expected {width} values as before, got {len(words)}")
        lines.append(place)
    numbered = np.array(lines, np.int64)
    if alone and (_are_digits(alone, "0") if digits is None else digits and _are_bits(alone)):
        for place, word in zip(lines, alone, strict=True):
            if len(word) != len(alone[0]):
                raise DataError(
                    f"{where}, line {place}: expected {len(alone[0])} values as before, got "
                    f"{len(word)}"
                )
        return TextTable(np.array([[*word] for word in alone], np.float32), numbered, True)
    rows += [
        _parsed([word], f"{where}, line {place}", expected)
        for place, word in zip(lines if alone else (), alone, strict=True)
    ]
    if not rows:
        return TextTable(np.zeros((0, 0), np.float32), numbered)
    return TextTable(np.array(rows, np.float32).reshape(len(rows), -1), numbered)


def numbered_words(text: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """The lines that say something, split up, with their numbers."""
    for place, line in enumerate(text, start=1):
        if line.strip() and not line.lstrip().startswith(COMMENT):
            yield place, split_line(line.rstrip("\r\n"))


def _parsed(words: Sequence[str], where: str, expected: str) -> npt.NDArray[np.float32]:
    values = [number(word) for word in words]
    if None in values:
        wrong = words[values.index(None)]
        raise DataError(f"{where}: expected {expected}, got {wrong[:20]!r}")
    return np.array(values, np.float32)


def _is_header(first: Sequence[str], second: Sequence[str]) -> bool:
    """Whether the first line names the columns of the second: by words, or by 0, 1, 2 …"""
    if number(second[-1]) is None or not 0 <= len(second) - len(first) <= 1:
        return False
    named = first[1:] if number(first[0]) is None else first
    if all(number(word) is None for word in named):
        return named is not first or bool(named)
    running = [number(word) for word in named] == list(range(len(named)))
    return running and (named is not first or len(named) >= LEAST_HEADER)


def _are_bits(words: Sequence[str]) -> bool:
    return all(set(word) <= {"0", "1"} for word in words)


def _are_digits(words: Sequence[str], beginning: str) -> bool:
    """Whether all words are 0 and 1 of one length above 1, and one begins so."""
    lengths = {len(word) for word in words}
    return (
        _are_bits(words)
        and len(lengths) == 1
        and min(lengths) > 1
        and any(word.startswith(beginning) for word in words)
    )


def is_ambiguous(table: TextTable) -> bool:
    """Whether one column of numbers may as well be bits with nothing between: 10, 11, 11 …"""
    if table.values.shape[1] != 1 or not len(table.values):
        return False
    return _are_digits([f"{value:.0f}" for value in table.values[:, 0]], "")
