"""Texts as counts of words, in every script.

A word is a run of letters, digits and their marks. Scripts that write no spaces (Chinese, Japanese,
Thai, Lao, Khmer, Burmese) have no such words: their characters and pairs of neighbours stand for
them.
"""

from __future__ import annotations

import functools
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

MIN_ITEMS = 2  # a word of one text finds no other
UNSPACED = (
    *("CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "BOPOMOFO"),
    *("THAI", "LAO", "KHMER", "MYANMAR"),
)  # first words of the Unicode names of letters
JOINERS = {"\u200c", "\u200d"}  # of no width, inside words
SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")  # say how a character is drawn


def words(text: str) -> list[str]:
    """Lower-case words; Latin ones without accents. Characters and pairs where none are spaced.

    >>> words("Côte d'Ivoire_flag-ci")
    ['cote', 'divoire', 'flag', 'ci']
    >>> words("Собака бежит, 黑狗")
    ['собака', 'бежит', '黑', '黑狗', '狗']
    """
    lower = re.sub(r"['’ʻʼ]", "", _plain(text).lower())
    if lower.isascii():
        return re.findall(r"[a-z0-9]+", lower)
    words: list[str] = []
    for (is_word, spaced), run in itertools.groupby(
        _characters(lower), lambda character: character[:2]
    ):
        characters = [character for _, _, character in run]
        if is_word and spaced:
            words.append("".join(characters))
        elif is_word:
            pairs = [first + second for first, second in itertools.pairwise(characters)]
            alternating = itertools.zip_longest(characters, pairs)
            words += [part for both in alternating for part in both if part is not None]
    return words


def _plain(text: str) -> str:
    """Compatible forms made one, and no marks but on letters of scripts other than Latin."""
    if text.isascii():
        return text
    kept, marked = [], False
    for char in unicodedata.normalize("NFKD", SELECTORS.sub("", text)):
        if char in JOINERS:
            continue
        if unicodedata.category(char).startswith("M"):
            if marked:
                kept.append(char)
            continue
        kept.append(char)
        marked = _kind(char) == "L" and _script(char) != "LATIN"
    return unicodedata.normalize("NFC", "".join(kept))


def _characters(text: str) -> list[tuple[bool, bool, str]]:
    """Each character with its marks: whether it is of a word, whether its script writes spaces."""
    characters: list[tuple[bool, bool, str]] = []
    for char in text:
        kind = _kind(char)
        if kind == "M" and characters and characters[-1][0]:
            is_word, spaced, before = characters[-1]
            characters[-1] = (is_word, spaced, before + char)
        else:
            is_word = kind in ("L", "N")
            characters.append((is_word, not (is_word and _script(char) in UNSPACED), char))
    return characters


@functools.lru_cache(maxsize=1 << 14)
def _kind(char: str) -> str:
    """L of a letter, N of a number, M of a mark, else nothing."""
    kind = unicodedata.category(char)[0]
    return kind if kind in "LNM" else ""


@functools.lru_cache(maxsize=1 << 14)
def _script(char: str) -> str:
    """The first word of a character's name: "LATIN", "CJK", "THAI" …"""
    return re.split("[ -]", unicodedata.name(char, ""), maxsplit=1)[0]


def frequent_words(texts: Iterable[Iterable[str]], size: int) -> tuple[str, ...]:
    """The `size` words that most texts have, sorted, as "word:dog": at least 2, no stop words.

    >>> frequent_words([["a", "dog"], ["the", "dog", "runs"], ["cat"]], 10)
    ('word:dog',)
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    items = Counter(word for text in texts for word in set(text))
    known = [
        (-count, word)
        for word, count in items.items()
        if count >= MIN_ITEMS and word not in ENGLISH_STOP_WORDS
    ]
    return tuple(sorted(f"word:{word}" for _, word in sorted(known)[:size]))


def count_words(texts: Sequence[Iterable[str]], known: Sequence[str]) -> npt.NDArray[np.uint8]:
    """(N,V) how often each of the V known words is in each of N texts, at most 255.

    >>> count_words([["dog", "dog", "cat"]], ["word:dog"]).tolist()
    [[2]]
    """
    column = {word.removeprefix("word:"): place for place, word in enumerate(known)}
    counts = np.zeros((len(texts), len(known)), np.uint8)
    for row, text in enumerate(texts):
        for word, count in Counter(text).items():
            if word in column:
                counts[row, column[word]] = min(count, 255)
    return counts
