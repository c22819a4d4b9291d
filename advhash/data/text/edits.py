"""What a changed word is: in counts of words, where features follow their word, in tokens, in text.

A text of tokens (B,L) changes where an id does, one of characters as `characters` has it. In counts
(B,V) one changed word is a word less, a word more, or one for another; the grams that some
vocabularies count beside words are features: they come and go with their words, so that what is
counted is always a text.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from advhash.budget import Budget
from advhash.data.text.characters import (
    are_characters,
    as_characters,
    as_strings,
    changed_words,
    within,
)
from advhash.data.text.kinds import PADDING

GRAM = "gram:"


@dataclass(frozen=True)
class Lexicon:
    """The W words of a vocabulary of V columns.

    words:   without their "word:"
    columns: (W+1,P) the columns that a word adds to, its own first; V where there is none
    amounts: (W+1,P) how much it adds to each

    The word number W is no word: it adds nothing.
    """

    size: int
    words: tuple[str, ...]
    columns: Tensor
    amounts: Tensor

    def counts(self, texts: Tensor) -> Tensor:
        """(B,W) how often each word is in (B,V) texts."""
        return texts[:, self.columns[:-1, 0].to(texts.device)]

    def scores(self, gradient: Tensor) -> Tensor:
        """(B,W) the change of a loss, to first order, by one more of each word."""
        columns = self.columns[:-1].to(gradient.device)
        gains = F.pad(gradient, (0, 1))[:, columns] * self.amounts[:-1].to(gradient)
        return gains.sum(dim=2)

    def changed(self, texts: Tensor, words: Tensor, times: Tensor) -> Tensor:
        """(B,V) texts with words (B,n) put in, as often as (B,n) `times` say; negative: out."""
        columns = self.columns.to(texts.device)[words].flatten(1)
        amounts = (self.amounts.to(texts)[words] * times.to(texts).unsqueeze(2)).flatten(1)
        return F.pad(texts, (0, 1)).scatter_add(1, columns, amounts)[:, : self.size]


def lexicon(vocabulary: Sequence[str], size: int) -> Lexicon:
    """The words of a vocabulary; where it is not known, each of the `size` columns is a word.

    >>> known = lexicon(("gram:<ox", "word:fox", "word:ox"), 3)
    >>> known.words, known.changed(torch.zeros(1, 3), torch.tensor([[1]]), torch.ones(1, 1))
    (('fox', 'ox'), tensor([[1., 0., 1.]]))
    """
    return _lexicon(tuple(vocabulary) or tuple(str(column) for column in range(size)))


@functools.lru_cache(maxsize=4)
def _lexicon(vocabulary: tuple[str, ...]) -> Lexicon:
    size = len(vocabulary)
    own = [column for column, name in enumerate(vocabulary) if not name.startswith(GRAM)]
    words = tuple(vocabulary[column].removeprefix("word:") for column in own)
    added: list[dict[int, int]] = [{column: 1} for column in own]
    if len(own) < size:
        from advhash.data.readers.openmoji import features

        place = {name: column for column, name in enumerate(vocabulary)}
        for word, counts in zip(words, added, strict=True):
            for feature, times in features([word]).items():
                if feature.startswith(GRAM) and feature in place:
                    counts[place[feature]] = times
    added.append({})
    most = max(1, *(len(counts) for counts in added))
    columns = torch.full((len(added), most), size)
    amounts = torch.zeros(len(added), most)
    for row, counts in enumerate(added):
        columns[row, : len(counts)] = torch.tensor(list(counts), dtype=torch.int64)
        amounts[row, : len(counts)] = torch.tensor(list(counts.values()), dtype=torch.float32)
    return Lexicon(size, words, columns, amounts)


def spelled(text: Tensor, vocabulary: Sequence[str]) -> list[str]:
    """The words of one text: in their order, or, of (V,) counts, in that of the columns.

    >>> spelled(torch.tensor([0.0, 2.0]), ("word:dog", "word:ox"))
    ['ox', 'ox']
    """
    if are_characters(text):
        return as_strings(text.unsqueeze(0))[0].split()
    if not text.is_floating_point():
        return [vocabulary[token].removeprefix("word:") for token in text.tolist() if token]
    known = lexicon(vocabulary, len(text))
    counts = known.counts(text.unsqueeze(0))[0].int().tolist()
    return [word for word, count in zip(known.words, counts, strict=True) for _ in range(count)]


@dataclass(frozen=True)
class WordBudget:
    """An l0 budget on the words of a text, with the methods of `Budget`.

    vocabulary: what the columns of counts are; () where that is not known
    """

    budget: Budget
    vocabulary: tuple[str, ...] = ()

    def distance(self, clean: Tensor, moved: Tensor) -> Tensor:
        """(B,) changed words: ids that differ, or the larger of words put in and taken out.

        Of characters, see `changed_words`.
        """
        if are_characters(clean):
            pairs = zip(as_strings(clean), as_strings(moved), strict=True)
            changes = [changed_words(*pair) for pair in pairs]
            return torch.tensor(changes, dtype=torch.float32, device=clean.device)
        if not clean.is_floating_point():
            return (clean != moved).sum(dim=1).float()
        more, less = self._edits(clean, moved)
        return torch.maximum(more.sum(dim=1), less.sum(dim=1)).float()

    def project(self, clean: Tensor, moved: Tensor, bounds: tuple[float, float]) -> Tensor:
        """A text inside budget and bounds, as long as the clean one where it is of tokens.

        Of more changed words than allowed, the first places are kept, of counts the columns with
        the largest change.
        """
        most = int(self.budget.eps)
        if are_characters(clean):
            pairs = zip(as_strings(clean), as_strings(moved), strict=True)
            kept = [within(*pair, most) for pair in pairs]
            return as_characters(kept, clean.shape[1]).to(clean.device)
        if not clean.is_floating_point():
            moved = moved.clamp(int(bounds[0]), int(bounds[1]))
            words = (clean != moved) & (clean != PADDING) & (moved != PADDING)
            return torch.where(words & (words.cumsum(dim=1) <= most), moved, clean)
        known = lexicon(self.vocabulary, clean.shape[1])
        more, less = (_largest(edits, most) for edits in self._edits(clean, moved))
        every = torch.arange(len(known.words), device=clean.device).expand(len(clean), -1)
        return known.changed(clean, every, more - less).clamp(*bounds)

    def _edits(self, clean: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
        """(B,W) how often each word is put in and taken out: whole numbers."""
        known = lexicon(self.vocabulary, clean.shape[1])
        before = known.counts(clean)
        change = (known.counts(moved) - before).round()
        return change.clamp_min(0), torch.minimum((-change).clamp_min(0), before)


def _largest(edits: Tensor, most: int) -> Tensor:
    """(B,W) edits, at most `most` of each row in all, the largest first."""
    ordered = edits.sort(dim=1, descending=True, stable=True)
    before = ordered.values.cumsum(dim=1) - ordered.values
    kept = torch.minimum(ordered.values, (most - before).clamp_min(0))
    return torch.zeros_like(edits).scatter(1, ordered.indices, kept)
