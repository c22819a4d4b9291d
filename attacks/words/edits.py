"""Single edits of a text, the best ones to first order: of counts of words, tokens, characters.

An edit changes one word that is not changed yet, so that n edits are n changed words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Protocol

import torch
from torch import Tensor

from advhash.attacks.words.texts import TokenChoice, WordChoice
from advhash.chance import Chance
from advhash.data.dataset import Dataset
from advhash.data.text.edits import Lexicon, lexicon
from advhash.data.text.kinds import PADDING, UNKNOWN
from advhash.data.text.synonyms import frequent_words
from advhash.errors import ConfigError
from advhash.victims.base import HashVictim
from advhash.victims.encoders.tokens import ReadsTokens

NEVER = -1e30  # the gain of an edit that is not allowed


class Edits(Protocol):
    """The edits of one kind of text."""

    def best(self, texts: Tensor, clean: Tensor, gradient: Tensor, count: int) -> Tensor:
        """(B,n,…) the n ≤ `count` edits of (B,…) texts that a loss falls most by, to first order.

        clean:    (B,…) what the texts were before any edit
        gradient: of the loss, as `HashVictim.loss_gradient` has it
        A text that has no allowed edit left comes back as it is.
        """
        ...

    def holds_free_word(self, texts: Tensor, clean: Tensor) -> Tensor:
        """(B,) bool: whether a text holds a word that may leave it."""
        ...

    def drawn(self, texts: Tensor, clean: Tensor, chance: Chance) -> Tensor:
        """(B,…) each text after one edit, every allowed one equally likely (of characters: every
        place, then every word)."""
        ...


class _ByGradient(ABC):
    """Edits that a gradient ranks: of a random gradient every one is the best equally often."""

    @abstractmethod
    def best(self, texts: Tensor, clean: Tensor, gradient: Tensor, count: int) -> Tensor: ...

    @abstractmethod
    def gradient_shape(self, texts: Tensor) -> tuple[int, ...]:
        """The shape of the gradient of one text."""

    def drawn(self, texts: Tensor, clean: Tensor, chance: Chance) -> Tensor:
        gradient = chance.normal(*self.gradient_shape(texts))
        return self.best(texts, clean, gradient, 1)[:, 0]


class BagEdits(_ByGradient):
    """Counts of words (B,V): an edit takes out a word, puts in one that was not there, or both.

    free: (W,) bool: which words may come and go; the last word of a text is only exchanged
    """

    def __init__(self, known: Lexicon, free: Tensor) -> None:
        self.known = known
        self.free = free

    def gradient_shape(self, texts: Tensor) -> tuple[int, ...]:
        return tuple(texts.shape[1:])

    def holds_free_word(self, texts: Tensor, clean: Tensor) -> Tensor:
        now, before = self.known.counts(texts), self.known.counts(clean)
        return (self.free.to(texts.device) & (now > 0) & (before > 0)).any(dim=1)

    def best(self, texts: Tensor, clean: Tensor, gradient: Tensor, count: int) -> Tensor:
        known, free = self.known, self.free.to(texts.device)
        scores, now, before = known.scores(gradient), known.counts(texts), known.counts(clean)
        idle = scores.new_zeros(len(scores), 1)  # word number W: none
        leave = torch.where(free & (now > 0) & (before > 0), scores, NEVER)
        enter = torch.where(free & (now == 0) & (before == 0), -scores, NEVER)
        kept = min(count, len(known.words) + 1)
        less, out = torch.cat([leave, idle], dim=1).topk(kept, dim=1)
        more, new = torch.cat([enter, idle], dim=1).topk(kept, dim=1)
        none = len(known.words)
        alone = now.sum(dim=1) < 2
        barred = (new == none)[:, None, :] & ((out == none) | alone[:, None])[:, :, None]
        gains = (less[:, :, None] + more[:, None, :]).masked_fill(barred, NEVER).flatten(1)
        gain, pair = gains.topk(min(count, gains.shape[1]), dim=1)
        swap = torch.stack([out.gather(1, pair // kept), new.gather(1, pair % kept)], dim=2)
        swap = swap.masked_fill((gain < NEVER / 2).unsqueeze(2), none).flatten(0, 1)
        times = texts.new_tensor([-1.0, 1.0]).expand(len(swap), 2)
        edited = known.changed(texts.repeat_interleave(gain.shape[1], dim=0), swap, times)
        tried: Tensor = edited.unflatten(0, gain.shape)
        return tried


class TokenEdits(_ByGradient):
    """Tokens (B,L): an edit puts a word that the text does not have in the place of another.

    leaving, entering: (V,) bool: which ids may be replaced, and which may replace them
    """

    def __init__(self, leaving: Tensor, entering: Tensor) -> None:
        self.leaving = leaving
        self.entering = entering

    def gradient_shape(self, texts: Tensor) -> tuple[int, ...]:
        return (texts.shape[1], len(self.leaving))

    def holds_free_word(self, texts: Tensor, clean: Tensor) -> Tensor:
        return (self.leaving.to(texts.device)[texts] & (texts == clean)).any(dim=1)

    def best(self, texts: Tensor, clean: Tensor, gradient: Tensor, count: int) -> Tensor:
        size = gradient.shape[2]
        gains = gradient.gather(2, texts.unsqueeze(2)) - gradient
        places = self.leaving.to(texts.device)[texts] & (texts == clean)
        present = torch.zeros_like(gradient[:, 0], dtype=torch.bool).scatter(1, texts, True)
        new = self.entering.to(texts.device) & ~present
        gains = gains.masked_fill(~(places.unsqueeze(2) & new.unsqueeze(1)), NEVER).flatten(1)
        gain, pair = gains.topk(min(count, gains.shape[1]), dim=1)
        place = pair // size
        word = torch.where(gain < NEVER / 2, texts.gather(1, place), pair % size)
        every = texts.unsqueeze(1).repeat(1, gain.shape[1], 1)
        return every.scatter(2, place.unsqueeze(2), word.unsqueeze(2))


def edits_of(data: Dataset, fixed: frozenset[str], victim: HashVictim) -> Edits:
    """The edits that the texts of a data set allow; of characters, by the victim's own tokens.

    fixed: words that neither come nor go. The unknown word can only go, padding stays.

    Raises ConfigError: texts are embeddings, which have no words.
    """
    if data.text_kind == "sentence":
        raise ConfigError(
            "an attack on words needs text=words or text=tokens: expected texts with words, got "
            "embeddings (text=sentence); add --set dataset.text=words"
        )
    if data.text_kind == "characters":
        if isinstance(victim, ReadsTokens):
            return TokenChoice(victim, fixed)
        return WordChoice(frequent_words(data.database.texts), fixed)
    if data.text_kind == "tokens":
        names = (name.removeprefix("word:") for name in data.vocabulary)
        leaving = torch.tensor([name not in fixed for name in names])
        entering = leaving.clone()
        leaving[PADDING] = entering[PADDING] = entering[UNKNOWN] = False
        return TokenEdits(leaving, entering)
    known = lexicon(data.vocabulary, data.database.tensor("text").shape[1])
    return BagEdits(known, torch.tensor([name not in fixed for name in known.words]))
