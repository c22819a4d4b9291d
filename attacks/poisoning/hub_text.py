"""Texts that lie near many queries at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from advhash.attacks.gradient.objectives import soft_code
from advhash.attacks.poisoning.base import Inputs, Kind, Planted, Seen, expect_gradients
from advhash.attacks.poisoning.hubs import Clustered, Clusters
from advhash.attacks.poisoning.inputs import Pull
from advhash.attacks.words.hotflip import AT_ONCE
from advhash.attacks.words.texts import TokenChoice, core
from advhash.budget import Budget
from advhash.data.dataset import Modality
from advhash.data.text.characters import as_characters, as_strings
from advhash.errors import UsageError
from advhash.registry import POISONINGS
from advhash.victims.base import HashVictim
from advhash.victims.encoders.encoded import Encoded
from advhash.victims.encoders.tokens import ReadsTokens

LETTERS = 24  # of the longest word, and the space behind it


@POISONINGS.register("hub-text", source="Zhong et al., EMNLP 2023 (corpus poisoning)")
@dataclass(kw_only=True)
class HubText(Clustered):
    """One text of ε tokens for each cluster of queries, whose words gradients choose.

    A beam of texts begins with words of the queries nearest to the centre, each from another query
    on. At each step the gradient at the vectors of a text's tokens ranks exchanges of one word, at
    any place, for another; the best of them are embedded, and the texts that are nearest to all
    queries of the cluster, old and new ones, are the next beam. It ends where no new text enters.

    knows, surface, rounds, sample: see `Clustered`, whose vectors stand for texts where a surface
        is chosen
    candidates: exchanges of a text, the best to first order, that are embedded at each step
    beam:       texts that are kept
    steps:      at most

    Deviations:
    - the objective is the mean distance in the space that is clustered, where the source has inner
      products: bits for codes, cosines for floats
    - all words of a text compete for each exchange, where the source draws one, and several texts
      are kept, where it keeps the best
    - words come and go as wholes, as in `hotflip`: what is judged is the text, cut into tokens anew
    """

    plants: ClassVar[Kind] = "texts"
    knowledge: ClassVar[tuple[str, ...]] = (
        *("queries of the same kind", "the weights and gradients of the encoder", "the quantiser"),
    )
    budget: ClassVar[Budget | None] = Budget("l0", 20)
    candidates: int = 32
    beam: int = 4
    steps: int = 60

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.candidates, self.beam, self.steps) < 1:
            raise ValueError(
                "expected candidates, beam and steps above 0, got "
                f"{self.candidates}, {self.beam} and {self.steps}"
            )

    def check_inputs(self, victim: HashVictim, modality: Modality, budget: Budget) -> None:
        if modality != "text" or not isinstance(victim, Encoded):
            raise UsageError(
                "hub-text plants texts: expected an encoder of texts (--victim st:NAME or "
                f"hf:FOLDER) and --modality text, got {modality}"
            )
        expect_gradients("hub-text", victim)
        if budget.norm != "l0" or budget.eps < 1:
            raise UsageError(
                "hub-text: expected a number of tokens, such as --norm l0 --eps 20, got "
                f"{budget.norm} and {budget.eps:g}"
            )

    def plant(self, seen: Seen, count: int, seed: int) -> Planted:
        inputs = cast(Inputs, seen.inputs)
        made = self.clusters(seen, count, seed)
        pull = Pull.toward(made.points, made.places, count, made.surface)
        begun = self._begun(made, pull, inputs)
        width = LETTERS * int(inputs.budget.eps)
        encoder = pull.encoder(inputs.victim)
        parts = [
            self._swapped(encoder, as_characters(texts, width), pull, row)
            for row, texts in enumerate(begun)
        ]
        texts = as_strings(torch.cat(parts))
        length = int(inputs.budget.eps)
        kept = as_characters([_shortened(inputs.victim, text, length) for text in texts], width)
        with torch.no_grad():
            floats = cast(Encoded, inputs.victim).embedded(kept, "text")
        return Planted(seen.vectors(floats.cpu().numpy()), tuple(kept), surface=made.surface)

    def _begun(self, made: Clusters, pull: Pull, inputs: Inputs) -> list[list[str]]:
        """Texts of the words of each cluster's queries, from the nearest on, the next one on …"""
        side = inputs.known if self.knows == "queries" else inputs.corpus
        rows = made.points.codes.signs() if made.surface == "codes" else made.points.floats
        far = pull.left(torch.from_numpy(rows), torch.from_numpy(made.places)).numpy()
        length, texts = int(inputs.budget.eps), []
        for item in range(len(pull.means)):
            mine = np.flatnonzero(made.places == item)
            order = np.argsort(far[mine], kind="stable")[: length + self.beam]
            said = as_strings(side.tensor("text")[torch.from_numpy(made.rows[mine[order]])])
            texts.append(
                [
                    _of_words(inputs.victim, said[first:], length)
                    for first in range(min(self.beam, len(said)))
                ]
            )
        return texts

    def _swapped(self, encoder: HashVictim, texts: Tensor, pull: Pull, item: int) -> Tensor:
        """(1,L) the nearest text that a beam reaches from (B,L) texts."""
        edits = TokenChoice(cast(ReadsTokens, encoder), ())
        with torch.no_grad():
            scale = encoder.relax(texts[:1], "text").abs().mean().clamp_min(1e-6)
        rows = torch.tensor([item])

        def loss(values: Tensor) -> Tensor:
            soft = soft_code(values, 1.0, scale) if pull.surface == "codes" else values
            return pull.loss(soft, rows.expand(len(values))).sum()

        beam = self._nearest(encoder, texts, pull, rows)
        for _ in range(self.steps):
            gradient = encoder.loss_gradient(beam, "text", loss)[1]
            tried = edits.best(beam, beam, gradient, self.candidates).flatten(0, 1)
            following = self._nearest(encoder, torch.cat([beam, tried]), pull, rows)
            if torch.equal(following, beam):
                break
            beam = following
        return beam[:1]

    def _nearest(self, encoder: HashVictim, texts: Tensor, pull: Pull, rows: Tensor) -> Tensor:
        """(B,L) different texts, the nearest first, as many as a beam has."""
        different = torch.unique(texts, dim=0)
        with torch.no_grad():
            real = torch.cat([encoder.relax(part, "text") for part in different.split(AT_ONCE)])
        left = pull.left(real, rows.expand(len(different)))
        nearest: Tensor = different[torch.argsort(left, stable=True)[: self.beam]]
        return nearest


def _of_words(victim: HashVictim, said: Sequence[str], length: int) -> str:
    """A text of at most so many tokens, of the words of texts, without signs around them."""
    words = [core(word) for text in said for word in text.split()]
    words = [word for word in words if 0 < len(word) < LETTERS]
    return _shortened(victim, " ".join(words[:length]), length)


def _shortened(victim: HashVictim, text: str, length: int) -> str:
    """The first words of a text whose tokens are at most `length`."""
    encoder, words = cast(Encoded, victim), text.split()
    while words:
        tokens = encoder.tokeniser()([" ".join(words)])
        if int((tokens.words >= 0).sum()) <= length:
            break
        words.pop()
    return " ".join(words)
