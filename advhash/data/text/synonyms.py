"""Words that mean nearly the same, by the sentence embeddings of single words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from advhash.data.text.counts import MIN_ITEMS, words
from advhash.data.text.kinds import sentence_embeddings

AT_ONCE = 1024  # words that are compared with all others together


def frequent_words(texts: Sequence[str]) -> list[str]:
    """The words of letters that are in 2 texts or more, the most frequent first.

    >>> frequent_words(["a dog", "A dog runs", "2 dogs"])
    ['a', 'dog']
    """
    items = Counter(word for text in texts for word in set(words(text)) if word.isalpha())
    ranked = sorted((-count, word) for word, count in items.items() if count >= MIN_ITEMS)
    return [word for _, word in ranked]


def near_words(known: Sequence[str], most: int, similarity: float) -> dict[str, list[str]]:
    """The words nearest to each word, at most `most`, the nearest first.

    similarity: the least cosine of their embeddings by all-MiniLM-L6-v2

    Raises ConfigError: the package of the network is missing.
    """
    vectors = sentence_embeddings(tuple(known))
    near_by: dict[str, list[str]] = {}
    for start in range(0, len(known), AT_ONCE):
        some = known[start : start + AT_ONCE]
        near = vectors[start : start + AT_ONCE] @ vectors.T
        near[torch.arange(len(some)), torch.arange(start, start + len(some))] = -1  # itself
        values, places = near.topk(min(most, len(known)), dim=1)
        for word, row, at in zip(some, values.tolist(), places.tolist(), strict=True):
            near_by[word] = [
                known[place] for value, place in zip(row, at, strict=True) if value >= similarity
            ]
    return near_by
