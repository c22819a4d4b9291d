"""Attacks on text that change words: HotFlip's substitutions, and random ones as their control.

Texts are counts of words (B,V), tokens (B,L) or the characters (B,L) that an encoder reads;
`advhash.data.text.edits` says what a changed word is.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Self

import torch
from torch import Tensor

from advhash.attacks.base import AttackData, DatabaseAttack, Goal, Knowledge
from advhash.attacks.gradient.anchors import voted
from advhash.attacks.gradient.objectives import similarity, soft_code
from advhash.attacks.words.edits import Edits, edits_of
from advhash.budget import Budget, Norm
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Batch, Dataset, Modality
from advhash.data.text.counts import words
from advhash.errors import ConfigError, UsageError
from advhash.registry import ATTACKS
from advhash.victims.base import HashVictim

AT_ONCE = 2048  # candidate texts that are hashed together


def label_words(data: Dataset) -> frozenset[str]:
    """Words that name a class of the data, and those that its card says give one away."""
    given = data.card.get("giveaway_words", {})
    listed = given.values() if isinstance(given, dict) else ()
    away = {str(entry["word"]) for entries in listed for entry in entries}
    named = () if data.grouped else data.classes  # a group is called as its pictures are
    return frozenset(away.union(*(words(name) for name in named)))


class WordAttack(DatabaseAttack):
    """Changes at most ε words of a text, each to another word of the vocabulary.

    forbidden:   words that are neither put in nor taken out
    label_words: whether words that name a class or give one away may be, too
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({"text"})
    norms: frozenset[Norm] = frozenset({"l0"})
    default_budget: ClassVar[Budget] = Budget("l0", 2)

    def __init__(self, *, forbidden: tuple[str, ...] = (), label_words: bool = False) -> None:
        self.forbidden = forbidden
        self.label_words = label_words
        self.history = []
        self._edits: Edits | None = None

    def fit(
        self,
        victim: HashVictim,
        data: AttackData,
        budget: Budget,
        *,
        seed: int = 0,
        progress: Progress = silent,
    ) -> Self:
        """Read the vocabulary. Raises ConfigError: embeddings, a forbidden word in capitals."""
        for word in self.forbidden:
            if word not in words(word):
                raise ConfigError(
                    f"forbidden: expected single words in lower case, got {word!r}; "
                    f"write {', '.join(words(word)) or 'a word'}"
                )
        self._edits = edits_of(data.dataset, self.fixed_words(data.dataset), victim)
        return super().fit(victim, data, budget, seed=seed)

    def fixed_words(self, data: Dataset) -> frozenset[str]:
        """Words that neither come nor go."""
        kept = frozenset() if self.label_words else label_words(data)
        return kept | frozenset(self.forbidden)

    def run(
        self, victim: HashVictim, batch: Batch, targets: Tensor | None, budget: Budget
    ) -> Tensor:
        """Texts like `batch.inputs["text"]`, at most ε words of each changed.

        Raises UsageError before `fit`, for another norm than L0 and for less than one word.
        """
        if self._edits is None:
            raise UsageError(f"{type(self).__name__}: call fit with the database before run")
        self.check_budget(budget)
        with self.drawing(batch):
            return self.edit(victim, self._edits, batch.inputs["text"], targets, int(budget.eps))

    @abstractmethod
    def edit(
        self, victim: HashVictim, edits: Edits, clean: Tensor, targets: Tensor | None, most: int
    ) -> Tensor:
        """The clean texts with at most `most` words changed."""


class GreedySwap(WordAttack):
    """Change a text word by word, each time by the edit whose code is best.

    Best is the code with the fewest bits unlike b, then with the lowest −⟨tanh(u/s), b⟩/K, s the
    mean |u| of the clean text. A query rests when its code equals b. Returned is the best text that
    was hashed, the clean one included.
    """

    @abstractmethod
    def anchors(self, relaxed: Tensor, targets: Tensor | None) -> Tensor:
        """(B,K) ±1 codes b to reach, given the (B,K) real codes of the clean texts."""

    @abstractmethod
    def tried(
        self,
        victim: HashVictim,
        edits: Edits,
        texts: Tensor,
        clean: Tensor,
        anchors: Tensor,
        scale: Tensor,
    ) -> Tensor:
        """(B,n,…) the texts after each edit that is to be hashed; scale: (B,1) s."""

    def edit(
        self, victim: HashVictim, edits: Edits, clean: Tensor, targets: Tensor | None, most: int
    ) -> Tensor:
        with torch.no_grad():
            relaxed = victim.relax(clean, "text")
        scale = relaxed.abs().mean(dim=1, keepdim=True).clamp_min(1e-6)
        anchors = self.anchors(relaxed, targets).to(relaxed)
        best, texts = clean.clone(), clean.clone()
        lowest = cost_of(relaxed, anchors, scale)
        active = torch.arange(len(clean), device=clean.device)
        without_edits, without_free_words = torch.zeros(2, len(clean), device=clean.device)
        for step in range(most):
            active = active[lowest[active] >= 1]  # some bit is wrong
            if len(active) == 0:
                break
            goal, size = anchors[active], scale[active]
            tried = self.tried(victim, edits, texts[active], clean[active], goal, size)
            if step == 0:
                own = texts[active].unsqueeze(1)
                none = (tried == own).flatten(1).all(dim=1)
                without_edits[active] = none.float()
                free = edits.holds_free_word(texts[active], clean[active])
                without_free_words[active] = (none & ~free).float()
            cost, place = costs(victim, tried, goal, size).min(dim=1)
            texts[active] = tried[torch.arange(len(active), device=clean.device), place]
            better = active[cost < lowest[active]]
            best[better] = texts[better]
            lowest[active] = torch.minimum(lowest[active], cost)
        self.note("without_edits", without_edits)
        self.note("without_free_words", without_free_words)
        return best


class TowardTarget(GreedySwap):
    """b is the majority of 9 database codes of the target."""

    goal: ClassVar[Goal] = "targeted"

    def anchors(self, relaxed: Tensor, targets: Tensor | None) -> Tensor:
        assert targets is not None
        return voted(self.served, targets, 9, self.chance(len(targets)))


class AwayFromOwn(GreedySwap):
    """b is the complement of the text's own code."""

    goal: ClassVar[Goal] = "untargeted"

    def anchors(self, relaxed: Tensor, targets: Tensor | None) -> Tensor:
        return torch.where(relaxed > 0, -1.0, 1.0)


class GradientSwap(GreedySwap):
    """Hash the edits that are best to first order; see `GreedySwap`.

    candidates: how many of them, for each text and step

    The gradient of the loss at the one-hot form of the text (at its counts) ranks all edits.

    Deviations:
    - the loss is one of codes, where the source classifies; words are exchanged, not characters
    - edits are chosen by the code that they give, where the source adds up first orders along a
      beam; a beam of 3 gained nothing here
    - lists decide which words may be exchanged (`forbidden`, the words of the labels), where the
      source asks for near word vectors and the same part of speech: the text need not make sense
    - of counts an edit may also only add or only take out a word
    - of characters the words that come are those that the encoder reads as one token each, and a
      word of several tokens leaves as a whole; its gain adds up what its tokens gain by leaving
    """

    knowledge: ClassVar[Knowledge] = frozenset({"weights", "gradients", "database codes", "labels"})

    def __init__(
        self, *, candidates: int = 32, forbidden: tuple[str, ...] = (), label_words: bool = False
    ) -> None:
        super().__init__(forbidden=forbidden, label_words=label_words)
        if candidates < 1:
            raise ValueError(f"expected candidates >= 1, got {candidates}")
        self.candidates = candidates

    def tried(
        self,
        victim: HashVictim,
        edits: Edits,
        texts: Tensor,
        clean: Tensor,
        anchors: Tensor,
        scale: Tensor,
    ) -> Tensor:
        gradient = loss_gradient(victim, texts, anchors, scale)
        return edits.best(texts, clean, gradient, self.candidates)


def cost_of(relaxed: Tensor, anchors: Tensor, scale: Tensor) -> Tensor:
    """(B,) the number of wrong bits, and as its fraction the loss brought into (0,1)."""
    wrong = ((relaxed > 0) != (anchors > 0)).sum(dim=1)
    return wrong + (1 + similarity(soft_code(relaxed, 1.0, scale), anchors)) / 2.001


def loss_gradient(victim: HashVictim, texts: Tensor, anchors: Tensor, scale: Tensor) -> Tensor:
    """The gradient of the loss at (B,…) texts, shaped as `HashVictim.loss_gradient` has it."""

    def loss(relaxed: Tensor) -> Tensor:
        return similarity(soft_code(relaxed, 1.0, scale), anchors).sum()

    return victim.loss_gradient(texts, "text", loss)[1]


def costs(victim: HashVictim, tried: Tensor, anchors: Tensor, scale: Tensor) -> Tensor:
    """(B,n) `cost_of` (B,n,…) texts."""
    count = tried.shape[1]
    with torch.no_grad():
        parts = [victim.relax(part, "text") for part in tried.flatten(0, 1).split(AT_ONCE)]
    relaxed = torch.cat(parts)
    each = (value.repeat_interleave(count, dim=0) for value in (anchors, scale))
    return cost_of(relaxed, *each).view(len(tried), count)


HOTFLIP = "Ebrahimi et al., ACL 2018"


@ATTACKS.register("hotflip", source=HOTFLIP)
class HotFlip(TowardTarget, GradientSwap):
    """HotFlip toward the majority of 9 codes of the target: at most ε words of a text change."""


@ATTACKS.register("hotflip-untargeted", source=HOTFLIP)
class UntargetedHotFlip(AwayFromOwn, GradientSwap):
    """HotFlip away from the text's own code, toward its complement: at most ε words change."""

    knowledge: ClassVar[Knowledge] = frozenset({"weights", "gradients"})


@ATTACKS.register("token-noise", source="control")
class TokenNoise(WordAttack):
    """Random words in the place of random words of a text, as many as the budget allows.

    The floor for attacks on text: the same words may come and go as for them.
    """

    goal: ClassVar[Goal] = "untargeted"
    knowledge: ClassVar[Knowledge] = frozenset()

    def edit(
        self, victim: HashVictim, edits: Edits, clean: Tensor, targets: Tensor | None, most: int
    ) -> Tensor:
        moved, chance = clean, self.chance(len(clean))
        for _ in range(most):
            moved = edits.drawn(moved, clean, chance)
        return moved
