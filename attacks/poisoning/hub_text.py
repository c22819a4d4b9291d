"""Texts that lie near many queries at once."""

from __future__ import annotations

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

    A text begins with words of the queries nearest to the centre. At each step the gradient at the
    vectors of its tokens ranks exchanges of one word for another; the best of them are embedded,
    and the one that brings the text nearest to all queries of the cluster is made. A sweep changes
    each word at most once, and ends where no exchange helps.

    knows, surface, rounds, sample: see `Clustered`
    candidates: exchanges, the best to first order, that are embedded at each step
    sweeps:     over the words of a text

    Deviations:
    - the objective is the mean distance in the space that ranks, where the source has inner
      products: bits for codes, cosines for floats
    - all words of a text compete for each exchange, where the source draws one
    - words come and go as wholes, as in `hotflip`: what is judged is the text, cut into tokens anew
    """

    plants: ClassVar[Kind] = "texts"
    knowledge: ClassVar[tuple[str, ...]] = (
        *("queries of the same kind", "the weights and gradients of the encoder", "the quantiser"),
    )
    budget: ClassVar[Budget | None] = Budget("l0", 20)
    candidates: int = 32
    sweeps: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 1 or self.sweeps < 1:
            raise ValueError(
                f"expected candidates and sweeps above 0, got {self.candidates} and {self.sweeps}"
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
            self._swapped(encoder, as_characters([text], width), pull, torch.tensor([row]))
            for row, text in enumerate(begun)
        ]
        texts = as_strings(torch.cat(parts))
        length = int(inputs.budget.eps)
        kept = as_characters([_shortened(inputs.victim, text, length) for text in texts], width)
        with torch.no_grad():
            floats = cast(Encoded, inputs.victim).embedded(kept, "text")
        return Planted(seen.vectors(floats.cpu().numpy()), tuple(kept))

    def _begun(self, made: Clusters, pull: Pull, inputs: Inputs) -> list[str]:
        """A text of words of each cluster's queries, the nearest first."""
        side = inputs.known if self.knows == "queries" else inputs.corpus
        rows = made.points.codes.signs() if made.surface == "codes" else made.points.floats
        far = pull.left(torch.from_numpy(rows), torch.from_numpy(made.places)).numpy()
        length, texts = int(inputs.budget.eps), []
        for item in range(len(pull.means)):
            mine = np.flatnonzero(made.places == item)
            nearest = made.rows[mine[np.argsort(far[mine], kind="stable")[:length]]]
            said = as_strings(side.tensor("text")[torch.from_numpy(nearest)])
            words = [core(word) for text in said for word in text.split()]
            words = [word for word in words if 0 < len(word) < LETTERS]
            texts.append(_shortened(inputs.victim, " ".join(words[:length]), length))
        return texts

    def _swapped(self, encoder: HashVictim, texts: Tensor, pull: Pull, rows: Tensor) -> Tensor:
        """(1,L) the text after all sweeps."""
        edits = TokenChoice(cast(ReadsTokens, encoder), ())
        with torch.no_grad():
            real = encoder.relax(texts, "text")
        scale = real.abs().mean(dim=1, keepdim=True).clamp_min(1e-6)
        lowest = float(pull.left(real, rows))

        def loss(values: Tensor) -> Tensor:
            soft = soft_code(values, 1.0, scale) if pull.surface == "codes" else values
            return pull.loss(soft, rows).sum()

        for _ in range(self.sweeps):
            clean, before = texts, lowest
            while True:
                gradient = encoder.loss_gradient(texts, "text", loss)[1]
                tried = edits.best(texts, clean, gradient, self.candidates)[0]
                with torch.no_grad():
                    tries = [encoder.relax(part, "text") for part in tried.split(AT_ONCE)]
                left = pull.left(torch.cat(tries), rows.expand(len(tried)))
                best = int(left.argmin())
                if not float(left[best]) < lowest:
                    break
                texts, lowest = tried[best : best + 1], float(left[best])
            if not lowest < before:
                break
        return texts


def _shortened(victim: HashVictim, text: str, length: int) -> str:
    """The first words of a text whose tokens are at most `length`."""
    encoder, words = cast(Encoded, victim), text.split()
    while words:
        tokens = encoder.tokeniser()([" ".join(words)])
        if int((tokens.words >= 0).sum()) <= length:
            break
        words.pop()
    return " ".join(words)
