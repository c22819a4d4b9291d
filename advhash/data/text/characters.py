"""Texts as they are written: rows of Unicode code points, their words, and what a changed word is.

A text is a row of int32 code points with 0 behind its end, so that models with a tokeniser of their
own read the text itself. Its words are its runs of anything but white space. How many words changed
is the least number of words put in, taken out or exchanged that makes one text the other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

END = 0  # behind the last character
LAST = 0x10FFFF  # the largest code point
ROOM = 64  # free characters behind the longest text, for words that are longer than those before
_REPLACEMENT = 0xFFFD  # what stands for a code point that is no character
_WORD = re.compile(r"\S+")


def are_characters(text: Tensor) -> bool:
    """Whether a batch of texts is one of code points; tokens are int64, counts are floats."""
    return text.dtype == torch.int32


def as_characters(texts: Sequence[str], length: int | None = None) -> Tensor:
    """(N,L) int32 code points, longer texts cut. length: L; None: of the longest text.

    >>> as_characters(["ox", "a"]).tolist()
    [[111, 120], [97, 0]]
    """
    rows = [
        np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.dtype("<i4")) for text in texts
    ]
    width = max((len(row) for row in rows), default=0) if length is None else length
    points = np.full((len(texts), width), END, np.int32)
    for row, values in enumerate(rows):
        kept = values[:width]
        points[row, : len(kept)] = np.where(_characters(kept), kept, _REPLACEMENT)
    return torch.from_numpy(points)


def as_strings(rows: Tensor) -> list[str]:
    """The texts of (N,L) code points; what is no character becomes U+FFFD.

    >>> as_strings(torch.tensor([[111, 120], [97, 0]], dtype=torch.int32))
    ['ox', 'a']
    """
    texts = []
    for row in rows.cpu().numpy():
        ends = np.flatnonzero(row == END)
        kept = row[: ends[0]] if len(ends) else row
        points = np.where(_characters(kept), kept, _REPLACEMENT).astype("<i4")
        texts.append(points.tobytes().decode("utf-32-le"))
    return texts


def _characters(points: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Which code points are characters: neither the end, nor halves of pairs, nor beyond."""
    half = (points >= 0xD800) & (points <= 0xDFFF)
    real: npt.NDArray[np.bool_] = (points > END) & (points <= LAST) & ~half
    return real


def word_spans(text: str) -> list[tuple[int, int]]:
    """Where each word begins and ends.

    >>> word_spans("A dog runs.")
    [(0, 1), (2, 5), (6, 11)]
    """
    return [match.span() for match in _WORD.finditer(text)]


def exchanged(text: str, place: int, word: str) -> str:
    """The text with another word at a place; all white space stays.

    >>> exchanged("A dog runs.", 1, "cat")
    'A cat runs.'
    """
    first, last = word_spans(text)[place]
    return text[:first] + word + text[last:]


def changed_words(clean: str, moved: str) -> int:
    """How many words are put in, taken out or exchanged at least (Levenshtein, of words).

    >>> changed_words("a dog runs", "a cat runs fast"), changed_words("a dog", "a  dog")
    (2, 0)
    """
    before, after = clean.split(), moved.split()
    if len(before) == len(after):
        differing = sum(one != other for one, other in zip(before, after, strict=True))
        if differing < 2:
            return differing
    costs = list(range(len(after) + 1))
    for row, one in enumerate(before, 1):
        diagonal, costs[0] = costs[0], row
        for column, other in enumerate(after, 1):
            kept = diagonal + (one != other)
            diagonal = costs[column]
            costs[column] = min(kept, diagonal + 1, costs[column - 1] + 1)
    return costs[-1]


def within(clean: str, moved: str, most: int) -> str:
    """The moved text, or, where more words changed than allowed, the first of its changes.

    With another number of words there is no first change: then it is the clean text.
    """
    if changed_words(clean, moved) <= most:
        return moved
    words = moved.split()
    if len(words) != len(clean.split()):
        return clean
    text, left = clean, most
    for place, (before, after) in enumerate(zip(clean.split(), words, strict=True)):
        if before != after and left:
            text, left = exchanged(text, place, after), left - 1
    return text
