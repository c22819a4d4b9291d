"""Texts as counts of words."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

MIN_ITEMS = 2  # a word of one text finds no other


def words(text: str) -> list[str]:
    """Lower-case words without accents.

    >>> words("Côte d'Ivoire_flag-ci")
    ['cote', 'divoire', 'flag', 'ci']
    """
    plain = "".join(
        char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char)
    )
    return re.findall(r"[a-z0-9]+", re.sub(r"['’]", "", plain.lower()))


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
