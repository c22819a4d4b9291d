"""Detectors by codes: an input is odd whose code lies far from all codes of clean items.

Beside them the usual measure of a classifier's doubt, softmax confidence.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from advhash.codes.hamming import neighbours
from advhash.codes.packed import HashCodes
from advhash.data.dataset import Batch, Dataset, Modality, Split
from advhash.defenses.detectors.image_codes import CodeDetector, nearest_distance
from advhash.errors import UsageError
from advhash.registry import DETECTORS
from advhash.victims.base import HashVictim, expect_positive
from advhash.victims.neural.neural_code import ActivationCode, NeuralCode, NeuralCodeOf


@DETECTORS.register("novelty", source="after He, Lei, Ji, Tao, 2021 (arXiv 2101.05490)")
class Novelty(CodeDetector):
    """Hamming distance to the nearest training code as a share of its bits, mean over layers.

    Fit it on training rows, score others: a row that it was fitted on has distance 0.

    code: "own" is the victim's code, of a neural code each layer by itself, else one part;
          "network" is the neural code of the network inside an image hash
    layers, most_bits: of "network", see `NeuralCode`

    The attacker's gradient is that of (k − ⟨h, r⟩)/2k in each layer of k bits, r the nearest
    training code of the layer and h straight-through.

    The paper names the codes and proposes no detector; the distance and the mean are ours.
    """

    def __init__(
        self,
        *,
        code: Literal["own", "network"] = "own",
        layers: str = "all",
        most_bits: int = 8192,
    ) -> None:
        expect_positive(most_bits=most_bits)
        self.code: Literal["own", "network"] = code
        self.layers = layers
        self.most_bits = most_bits
        self._known: dict[str, tuple[slice, HashCodes]] = {}
        self._inside: ActivationCode | None = None

    def fitted_on(self, data: Dataset) -> Split:
        return data.train

    def listed(self, victim: HashVictim) -> bool:
        """For other victims it is the distance that `nearest` is."""
        return isinstance(victim, ActivationCode)

    def highest(self, victim: HashVictim) -> float | None:
        return 1.0

    def check(self, victim: HashVictim, clean: Split) -> None:
        """Raises UsageError: no such layers, a network of none."""
        if self.code == "own":
            return
        if "image" not in victim.bounds or isinstance(victim, ActivationCode):
            raise UsageError(
                'novelty: code="network" looks inside a hash of images; for a neural code '
                'use code="own"'
            )
        self._network(victim, clean)

    def _network(self, victim: HashVictim, clean: Split) -> NeuralCodeOf:
        size = clean.tensor("image").shape[-1]
        return NeuralCodeOf(victim, image_size=size, layers=self.layers, most_bits=self.most_bits)

    def learn(self, victim: HashVictim, clean: Split, modality: Modality) -> None:
        """Keep the codes of clean items."""
        if self.code == "network":
            self._inside = self._network(victim, clean)
            self._inside.keep_bits(clean, seed=0)
        coder = self._inside or victim
        self._known = _parts(coder, coder.encode_split(clean, modality))

    def penalty(
        self, victim: HashVictim, inputs: Tensor, relaxed: Tensor, modality: Modality
    ) -> Tensor:
        if self._inside is not None:
            relaxed = self._inside.relax(inputs, modality)
        layers = [
            nearest_distance(relaxed[:, part], known) / known.bits
            for part, known in self._known.values()
        ]
        return torch.stack(layers).mean(dim=0)

    def by_layer(self, victim: HashVictim, batch: Batch, modality: Modality) -> dict[str, Tensor]:
        """(B,) float32 distances in [0,1] for each layer, or for the one code.

        Raises UsageError before `fit`.
        """
        if not self._known:
            raise UsageError("novelty: expected fit() with clean items before by_layer()")
        coder = self._inside or victim
        parts = _parts(coder, coder.encode(batch.inputs[modality], modality))
        return {
            name: torch.from_numpy(neighbours(codes, self._known[name][1], 1)[1][:, 0]).float()
            / codes.bits
            for name, (_, codes) in parts.items()
        }


def _parts(coder: HashVictim, codes: HashCodes) -> dict[str, tuple[slice, HashCodes]]:
    """Codes cut into the layers that have bits; those of other victims are one part."""
    if not isinstance(coder, ActivationCode):
        return {"code": (slice(None), codes)}
    sections = [(layer.name, part) for layer, part in coder.sections if part.stop > part.start]
    if len(sections) == 1:
        return {sections[0][0]: (slice(None), codes)}
    bits = codes.unpack()
    return {name: (part, HashCodes.pack(bits[:, part])) for name, part in sections}


@DETECTORS.register("confidence", source="Hendrycks and Gimpel, ICLR 2017 (arXiv 1610.02136)")
class Confidence(CodeDetector):
    """1 − the largest softmax probability: needs a classifier, hence --victim neural-code.

    The attacker's gradient is that of the probability.
    """

    def __init__(self) -> None:
        pass

    def listed(self, victim: HashVictim) -> bool:
        return isinstance(victim, NeuralCode)

    def check(self, victim: HashVictim, clean: Split) -> None:
        self._of(victim)

    def learn(self, victim: HashVictim, clean: Split, modality: Modality) -> None:
        """Nothing: the network classifies already."""

    @staticmethod
    def _of(victim: HashVictim) -> NeuralCode:
        if not isinstance(victim, NeuralCode):
            raise UsageError(
                "confidence: expected a victim that classifies (neural-code, undefended), "
                "got one of codes only"
            )
        return victim

    def penalty(
        self, victim: HashVictim, inputs: Tensor, relaxed: Tensor, modality: Modality
    ) -> Tensor:
        return 1 - self._of(victim).logits(inputs).softmax(dim=1).amax(dim=1)
