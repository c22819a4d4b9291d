"""Synonyms in the place of words: the readable rival of HotFlip, without a gradient."""

from __future__ import annotations

from typing import ClassVar, Self

from torch import Tensor

from advhash.attacks.base import AttackData, Knowledge
from advhash.attacks.words.edits import Edits
from advhash.attacks.words.hotflip import AwayFromOwn, GreedySwap, TowardTarget
from advhash.attacks.words.texts import SynonymChoice
from advhash.budget import Budget
from advhash.compute.progress import Progress, silent
from advhash.data.text.synonyms import frequent_words, near_words
from advhash.errors import ConfigError
from advhash.registry import ATTACKS
from advhash.victims.base import HashVictim

TEXTFOOLER = "after Jin et al., AAAI 2020 (TextFooler)"


class SynonymSwap(GreedySwap):
    """Hash every synonym of every word; see `GreedySwap`.

    per_word:   synonyms that are tried for each word
    similarity: the least cosine of a word and its synonym

    Synonyms are the nearest words of the database by all-MiniLM-L6-v2 of single words, whichever
    encoder is attacked.

    Deviations:
    - the loss is one of codes, where the source classifies; every word is tried at each step, where
      the source ranks words once by what leaving them out does
    - synonyms come from a network of sentences: words that mean the opposite can be near, and no
      part of speech is asked for
    - the similarity of the whole sentences is not bounded
    """

    knowledge: ClassVar[Knowledge] = frozenset({"weights", "database codes", "labels"})

    def __init__(
        self,
        *,
        per_word: int = 8,
        similarity: float = 0.75,
        forbidden: tuple[str, ...] = (),
        label_words: bool = False,
    ) -> None:
        super().__init__(forbidden=forbidden, label_words=label_words)
        if per_word < 1 or not 0 < similarity < 1:
            raise ValueError(
                "expected per_word >= 1 and a similarity between 0 and 1, got "
                f"{per_word} and {similarity}"
            )
        self.per_word = per_word
        self.similarity = similarity
        self._choice: SynonymChoice | None = None

    def fit(
        self,
        victim: HashVictim,
        data: AttackData,
        budget: Budget,
        *,
        seed: int = 0,
        progress: Progress = silent,
    ) -> Self:
        """Find the synonyms of the words of the database. Raises ConfigError: other texts."""
        dataset = data.dataset
        if dataset.text_kind != "characters":
            raise ConfigError(
                "synonyms stand in texts as they are: expected text=characters, got "
                f"{dataset.text_kind}; add --set dataset.text=characters"
            )
        super().fit(victim, data, budget, seed=seed)
        known = frequent_words(dataset.database.texts)
        near = near_words(known, self.per_word, self.similarity)
        self._choice = SynonymChoice(near, self.fixed_words(dataset))
        return self

    def tried(
        self,
        victim: HashVictim,
        edits: Edits,
        texts: Tensor,
        clean: Tensor,
        anchors: Tensor,
        scale: Tensor,
    ) -> Tensor:
        assert self._choice is not None  # since fit
        return self._choice.every(texts, clean)


@ATTACKS.register("synonyms", source=TEXTFOOLER)
class Synonyms(TowardTarget, SynonymSwap):
    """Synonyms toward the majority of 9 codes of the target: at most ε words of a text change."""


@ATTACKS.register("synonyms-untargeted", source=TEXTFOOLER)
class UntargetedSynonyms(AwayFromOwn, SynonymSwap):
    """Synonyms away from the text's own code: at most ε words of a text change."""

    knowledge: ClassVar[Knowledge] = frozenset({"weights"})
