"""Edits of texts as they are written: by the tokens of the encoder that reads them, or by synonyms.

A word is exchanged for another one where it stands; white space, and the signs around the word,
stay. What is judged is the text, cut into tokens anew.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from advhash.chance import Chance
from advhash.data.text.characters import as_characters, as_strings, exchanged
from advhash.data.text.counts import words
from advhash.victims.encoders.tokens import ReadsTokens

NEVER = -1e30  # the gain of an edit that is not allowed
_CORE = re.compile(r"^(\W*)(.*?)(\W*)$", re.DOTALL)


def core(word: str) -> str:
    """A word without the signs around it.

    >>> core('"dog,"'), core(",")
    ('dog', '')
    """
    match = _CORE.match(word)
    return match[2] if match else ""


def put(text: str, place: int, new: str) -> str:
    """The text with another word at a place, between the signs that were around the old one.

    >>> put("A dog, it runs.", 1, "cat")
    'A cat, it runs.'
    """
    old = text.split()[place]
    match = _CORE.match(old)
    before, after = (match[1], match[3]) if match else ("", "")
    return exchanged(text, place, f"{before}{new}{after}")


class TextEdits:
    """Texts (B,L) as characters: an edit puts a word that the text does not have for another.

    fixed: words that neither come nor go
    """

    def __init__(self, fixed: Collection[str]) -> None:
        self.fixed = frozenset(fixed)

    def places(self, text: str, clean: str) -> list[int]:
        """Which words may be exchanged: unchanged ones with letters that are not fixed."""
        return [
            place
            for place, (word, before) in enumerate(zip(text.split(), clean.split(), strict=True))
            if word == before and self.is_free(core(word)) and any(map(str.isalpha, word))
        ]

    def holds_free_word(self, texts: Tensor, clean: Tensor) -> Tensor:
        """(B,) bool: whether a text holds a word that may be exchanged."""
        pairs = zip(as_strings(texts), as_strings(clean), strict=True)
        return torch.tensor([bool(self.places(*pair)) for pair in pairs], device=texts.device)

    def is_free(self, word: str) -> bool:
        return self.fixed.isdisjoint(words(word))

    def rows(self, tried: Sequence[Sequence[str]], texts: Tensor) -> Tensor:
        """(B,n,L) of n texts or fewer each; the text itself stands for those that lack."""
        most = max(map(len, tried))
        own = as_strings(texts)
        filled = [[*row, *[own[at]] * (most - len(row))] for at, row in enumerate(tried)]
        flat = as_characters([text for row in filled for text in row], texts.shape[1])
        edited: Tensor = flat.unflatten(0, (len(filled), most)).to(texts.device)
        return edited


class TokenChoice(TextEdits):
    """HotFlip on the tokens of an encoder: the words that come are whole tokens of its vocabulary.

    A word of several tokens leaves as a whole.
    """

    def __init__(self, victim: ReadsTokens, fixed: Collection[str]) -> None:
        super().__init__(fixed)
        self.vectors = victim.token_vectors.detach()
        self.victim = victim
        self.names = victim.whole_words()
        self.entering = torch.tensor([bool(name) and self.is_free(name) for name in self.names])

    def best(self, texts: Tensor, clean: Tensor, gradient: Tensor, count: int) -> Tensor:
        """gradient: (B,T,D) of the loss at the vectors of the texts' tokens."""
        tokens, tried = self.victim.tokens(texts), []
        entering = self.entering.to(gradient.device)
        spelled = zip(as_strings(texts), as_strings(clean), strict=True)
        for row, (text, before) in enumerate(spelled):
            places = self.places(text, before)
            if not places:
                tried.append([text])
                continue
            slope, vectors = gradient[row], self.vectors[tokens.ids[row]]
            leaving = (slope * vectors).sum(dim=1)
            mine = tokens.words[row] == torch.tensor(places, device=slope.device)[:, None]
            first = mine.float().argmax(dim=1)
            gains = (mine * leaving).sum(dim=1)[:, None] - slope[first] @ self.vectors.T
            seen = mine.any(dim=1)  # a word behind the last token that is read does nothing
            gains = gains.masked_fill(~(seen[:, None] & entering), NEVER)
            gain, pair = gains.flatten().topk(min(2 * count, gains.numel()))
            has = {core(word).lower() for word in text.split()}
            edited: list[str] = []
            for worth, at in zip(gain.tolist(), pair.tolist(), strict=True):
                place, name = places[at // gains.shape[1]], self.names[at % gains.shape[1]]
                new = put(text, place, name)
                if worth > NEVER / 2 and name.lower() not in has and len(new) <= texts.shape[1]:
                    edited.append(new)
            tried.append(edited[:count] or [text])
        return self.rows(tried, texts)

    def drawn(self, texts: Tensor, clean: Tensor, chance: Chance) -> Tensor:
        """(B,L) each text with a random word in the place of a random one."""
        known = [self.names[token] for token in self.entering.nonzero()[:, 0].tolist()]
        return drawn_words(self, known, texts, clean, chance)


class WordChoice(TextEdits):
    """Words of a list, for victims whose tokens nobody can see: only drawn at random."""

    def __init__(self, known: Sequence[str], fixed: Collection[str]) -> None:
        super().__init__(fixed)
        self.known = [word for word in known if self.is_free(word)]

    def best(self, texts: Tensor, clean: Tensor, gradient: Tensor, count: int) -> Tensor:
        raise NotImplementedError("no gradient of a victim without tokens reaches this")

    def drawn(self, texts: Tensor, clean: Tensor, chance: Chance) -> Tensor:
        return drawn_words(self, self.known, texts, clean, chance)


def drawn_words(
    edits: TextEdits, known: Sequence[str], texts: Tensor, clean: Tensor, chance: Chance
) -> Tensor:
    """(B,L) each text with a random known word in the place of a random one that may go."""
    moved = []
    at, which = chance.shares(), chance.shares()
    for row, (text, before) in enumerate(zip(as_strings(texts), as_strings(clean), strict=True)):
        places = edits.places(text, before)
        new = text
        if places and known:
            word = known[int(which[row] * len(known))]
            new = put(text, places[int(at[row] * len(places))], word)
        moved.append(new if len(new) <= texts.shape[1] else text)
    return as_characters(moved, texts.shape[1]).to(texts.device)


class SynonymChoice(TextEdits):
    """Every synonym of every word that may go.

    near: the synonyms of each word, the nearest first
    """

    def __init__(self, near: dict[str, list[str]], fixed: Collection[str]) -> None:
        super().__init__(fixed)
        self.near = near

    def every(self, texts: Tensor, clean: Tensor) -> Tensor:
        """(B,n,L) all edits of each text."""
        tried = []
        for text, before in zip(as_strings(texts), as_strings(clean), strict=True):
            has = {core(word).lower() for word in text.split()}
            edited = []
            for place in self.places(text, before):
                word = core(text.split()[place])
                for name in self.near.get(word.lower(), []):
                    if name not in has and self.is_free(name):
                        edited.append(put(text, place, _cased(name, word)))
            tried.append([new for new in edited if len(new) <= texts.shape[1]] or [text])
        return self.rows(tried, texts)


def _cased(new: str, old: str) -> str:
    """A word in lower case with a capital where the old one has one.

    >>> _cased("puppy", "Dog"), _cased("puppy", "dog")
    ('Puppy', 'puppy')
    """
    return new.capitalize() if old[:1].isupper() and old[1:].islower() else new
