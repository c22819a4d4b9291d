"""From texts to the tokens of an encoder, and back to the words that they are pieces of.

The tokeniser is a document of the library tokenizers, kept whole with the weights, so that a
checkpoint reads texts as the model that it was made of.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor

from advhash.data.text.characters import word_spans
from advhash.errors import UsageError
from advhash.storage.documents import reason

CONTEXT = "the"  # a word that another one stands behind, as words do in texts


@dataclass(frozen=True)
class Tokens:
    """B texts as T tokens each.

    ids:   (B,T) int64
    mask:  (B,T) int64, 0 where a token is padding
    words: (B,T) int64, the number of the word that a token is a piece of; −1: of none
    """

    ids: Tensor
    mask: Tensor
    words: Tensor

    def to(self, device: torch.device) -> Tokens:
        return Tokens(self.ids.to(device), self.mask.to(device), self.words.to(device))

    def __getitem__(self, chosen: slice) -> Tokens:
        """Some of the texts."""
        return Tokens(self.ids[chosen], self.mask[chosen], self.words[chosen])


@dataclass(frozen=True)
class Reading:
    """How texts are read.

    length: tokens that are read of a text; what follows is cut off
    pad:    id of padding
    prompt: what is put before every text
    pools_prompt: whether the features are pooled from the prompt's tokens as well
    lower:  whether texts are brought into lower case first
    fixed:  whether every text is padded to `length`, as SigLIP reads them
    left:   whether padding stands before the text
    octets: size of the tokeniser's document
    others: prompts that the files state beside it, for queries or for documents
    """

    length: int
    pad: int
    octets: int
    prompt: str = ""
    lower: bool = False
    fixed: bool = False
    left: bool = False
    pools_prompt: bool = True
    others: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Self:
        """The inverse of `document`. Raises KeyError, TypeError, ValueError."""
        reading = cls(**{**said, "others": tuple(said["others"])})
        if reading.length < 1 or reading.octets < 1 or not isinstance(reading.prompt, str):
            raise ValueError(f"no way to read texts: {said}")
        return reading


@runtime_checkable
class ReadsTokens(Protocol):
    """A victim of characters whose tokens an attack may look at."""

    def tokens(self, texts: Tensor) -> Tokens:
        """The tokens of (B,L) characters."""
        ...

    @property
    def token_vectors(self) -> Tensor:
        """(V,D) what the network has in the place of each token."""
        ...

    def whole_words(self) -> list[str]:
        """(V,) see `Tokeniser.whole_words`."""
        ...


class Tokeniser:
    """Cuts texts into tokens. Raises UsageError: a document that tokenizers does not read."""

    def __init__(self, reading: Reading, document: str) -> None:
        from tokenizers import Tokenizer

        self.reading = reading
        try:
            self._known = Tokenizer.from_str(document)
        except Exception as error:  # the library raises plain Exception
            raise UsageError(f"expected a tokeniser of tokenizers, got {reason(error)}") from None
        self._known.no_padding()
        self._known.enable_truncation(reading.length)

    def __call__(self, texts: Sequence[str]) -> Tokens:
        """The tokens of the texts, padded to the longest."""
        reading = self.reading
        given = [reading.prompt + (text.lower() if reading.lower else text) for text in texts]
        encodings = self._known.encode_batch(given)
        width = max((len(each.ids) for each in encodings), default=0)
        width = max(reading.length if reading.fixed else width, 1)
        ids = torch.full((len(given), width), reading.pad)
        mask = torch.zeros(len(given), width, dtype=torch.int64)
        words = torch.full((len(given), width), -1)
        before = len(word_spans(reading.prompt + "x")) - 1  # a word glued to the prompt is no word
        for row, (text, each) in enumerate(zip(given, encodings, strict=True)):
            count = len(each.ids)
            place = slice(width - count, width) if reading.left else slice(0, count)
            ids[row, place] = torch.tensor(each.ids, dtype=torch.int64)
            mask[row, place] = 1
            words[row, place] = torch.tensor(_word_numbers(text, each, before), dtype=torch.int64)
        return Tokens(ids, mask, words)

    def size(self) -> int:
        """V: one more than the largest id."""
        return int(self._known.get_vocab_size(with_added_tokens=True))

    def whole_words(self) -> list[str]:
        """(V,) what each token is as a word of its own; "" for pieces, signs and digits.

        Such a word, behind another one in a text, is read as that token alone.
        """
        ids = list(range(self.size()))
        spelled = [self._known.decode([each], skip_special_tokens=True).strip() for each in ids]
        asked = [word if word.isalpha() else CONTEXT for word in spelled]
        alone = self._known.encode(CONTEXT, add_special_tokens=False).ids
        read = self._known.encode_batch(
            [f"{CONTEXT} {word}" for word in asked], add_special_tokens=False
        )
        return [
            word if word.isalpha() and each.ids == [*alone, number] else ""
            for number, word, each in zip(ids, spelled, read, strict=True)
        ]


def _word_numbers(text: str, encoding: Any, before: int) -> list[int]:
    """The word of each token. before: how many words at the front are the prompt's: of none."""
    ends = [last for _, last in word_spans(text)]
    numbers = []
    for (first, last), special in zip(encoding.offsets, encoding.special_tokens_mask, strict=True):
        counted = not special and last > first
        number = bisect.bisect_left(ends, last) - before if counted else -1
        numbers.append(max(number, -1))
    return numbers
