"""The reconstructions of HashVFL's codes together: each is tried, validation data choose one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from advhash.attacks.base import Knowledge
from advhash.attacks.inversion.decoders import (
    Decoder,
    GradientInversion,
    Inversion,
    Material,
    Neighbours,
    Observed,
    observe,
)
from advhash.data.dataset import Modality
from advhash.errors import UsageError
from advhash.measures.reconstruction import reconstruction_columns
from advhash.registry import INVERSIONS
from advhash.victims.base import HashVictim
from advhash.victims.federated.ends import derived
from advhash.victims.federated.wire import Kind, Transcript

ATTACKERS = ("decoder", "decoder-ssim", "neighbours", "ste", "tanh")
TABLES = "attack.attackers: decoder-ssim draws images, of a table expected another attacker too"
VALIDATION = 10_000  # its noise is none that an attacker has learnt from; see `derived`


@INVERSIONS.register(
    "code-inversion", source="after Qiu et al., IEEE TIFS 2024, and He et al., ACSAC 2019"
)
@dataclass(kw_only=True, eq=False, repr=False)
class CodeInversion(Inversion):
    """Every reconstruction from codes; the best on validation data is chosen.

    attackers: of "decoder", "decoder-ssim" (trained on what it is judged by; of images only),
               "neighbours", "ste", "tanh"; see `attacks/inversion/decoders.py`
    auxiliary: what inputs the attacker has: "database", all rows but those that are attacked
               (the strongest, among them rows that the victim was trained on), or "untrained",
               only rows that it was not trained on
    steps, decoder_epochs: of the descents and of the decoder
    candidates: among how many inputs of one class the true one is to be picked
    transcript: also attack with all that crossed the wire during training
    sweep_bits, sweep_parties: also train victims of these K and P, for accuracy against both
    observed:   "codes"; "embeddings" is the control, with a descent that needs no surrogate

    The highest SSIM chooses; for tables, which have none, the lowest mean squared error.
    """

    knowledge: ClassVar[Knowledge] = frozenset(
        {"weights", "gradients", "query codes", "auxiliary data"}
    )

    attackers: tuple[str, ...] = ATTACKERS
    auxiliary: Literal["database", "untrained"] = "database"
    steps: int = 150
    decoder_epochs: int = 60
    candidates: int = 20
    transcript: bool = True
    sweep_bits: tuple[int, ...] = ()
    sweep_parties: tuple[int, ...] = ()
    observed: Observed = "codes"

    def __post_init__(self) -> None:
        known = bool(self.attackers) and set(self.attackers) <= set(ATTACKERS)
        once = len(set(self.attackers)) == len(self.attackers)
        if not known or not once or self.candidates < 2:
            raise ValueError(
                f"expected attackers of {', '.join(ATTACKERS)}, each once, and candidates >= 2, "
                f"got {list(self.attackers)} and {self.candidates}"
            )
        self.members: dict[str, Inversion] = self._members()
        self.chosen = ""
        self.merits: dict[str, float] = {}

    def _members(self) -> dict[str, Inversion]:
        made: dict[str, Inversion] = {
            "decoder": Decoder(epochs=self.decoder_epochs, observed=self.observed),
            "decoder-ssim": Decoder(
                epochs=self.decoder_epochs, loss="ssim", observed=self.observed
            ),
            "neighbours": Neighbours(observed=self.observed),
        }
        if self.observed == "embeddings":
            descent = GradientInversion(
                surrogate="identity", steps=self.steps, smoothness=1.0, observed="embeddings"
            )
            named = {name: made[name] for name in self.attackers if name in made}
            return {**named, "descent": descent} if {"ste", "tanh"} & {*self.attackers} else named
        made["ste"] = GradientInversion(surrogate="ste", steps=self.steps)
        made["tanh"] = GradientInversion(surrogate="tanh", steps=self.steps)
        return {name: made[name] for name in self.attackers}

    def learn(self, material: Material) -> None:
        """Fit every attacker, then choose by the reconstructions of the validation inputs.

        Raises UsageError: a table, and no attacker but one of images.
        """
        victim, modality, seed = material.victim, material.modality, material.seed
        true = material.inputs(material.validation)
        if true.dim() != 4:
            self.members.pop("decoder-ssim", None)
        if not self.members:
            raise UsageError(TABLES)
        noise = derived(seed, VALIDATION)
        sent = observe(victim, material.validation, modality, self.observed, seed=noise)
        self.merits = {}
        for place, (name, member) in enumerate(self.members.items()):
            member.learn(material)
            columns = reconstruction_columns(
                member.reconstruct(victim, sent, modality, seed=seed), true
            )
            merit = columns["ssim"] if true.dim() == 4 else -columns["mse"]
            self.merits[name] = float(merit.mean())
            material.progress(f"fit on {self.observed}", place + 1, len(self.members))
        self.chosen = max(self.merits, key=self.merits.__getitem__)

    def run(self, victim: HashVictim, sent: Tensor, modality: Modality) -> Tensor:
        """(N, …) by the chosen one. Raises UsageError before `fit`."""
        if not self.chosen:
            raise UsageError("CodeInversion: call fit before reconstruct")
        return self.members[self.chosen].run(victim, sent, modality)


def sample_messages(
    transcript: Transcript,
    rounds: Sequence[Tensor],
    party: int,
    rows: Tensor,
    *,
    bits: int,
    epochs: int,
) -> tuple[Tensor, Tensor]:
    """Codes and gradients (n,E,K) of n training rows in each epoch, from what crossed the wire.

    rounds: the public schedule, equally many an epoch. A row that an epoch left out has zeros.
    """
    place = {row: number for number, row in enumerate(rows.tolist())}
    tables = {kind: torch.zeros(len(rows), epochs, bits) for kind in ("up", "down")}
    inside = []
    for batch in rounds:
        pairs = [(i, place[row]) for i, row in enumerate(batch.tolist()) if row in place]
        inside.append(torch.tensor(pairs, dtype=torch.int64).view(-1, 2))
    for message in transcript:
        if message.party == party:
            index, epoch = inside[message.round], message.round * epochs // len(rounds)
            kind = "down" if message.kind is Kind.GRADIENTS else "up"
            tables[kind][index[:, 1], epoch] = message.values[index[:, 0]]
    return tables["up"], tables["down"]
