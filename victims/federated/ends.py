"""The two ends of the wire: a party with its own columns, and the server with labels and top model.

All know the public schedule (which rows make up the batch of a round) and the settings. A party
never sees labels, class codes or the top model; the server never sees inputs or bottom models.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advhash.data.images.mixed import to_unit
from advhash.errors import MessageError
from advhash.victims.federated.wire import Kind, Message, check_message, pack, unpack
from advhash.victims.objectives import sign
from advhash.victims.training.descent import Descent, random_batches


def derived(seed: int, number: int) -> int:
    """A seed of its own for party `number`, for its noise, or for the server."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> 1)


def schedule(rows: int, batch_size: int, epochs: int, seed: int) -> list[Tensor]:
    """The training rows of every round, public and the same for all parties.

    Each epoch is a new random order, cut into batches; a last lone row is left out.
    """
    generator = torch.Generator().manual_seed(seed)
    return [batch for _ in range(epochs) for batch in random_batches(rows, batch_size, generator)]


def laplace(shape: Sequence[int], scale: float, generator: torch.Generator | None) -> Tensor:
    """Laplace(0, scale) noise of a shape; without a generator, torch's own draws it."""
    uniform = torch.rand(*shape, generator=generator) - 0.5
    # 1 − 2|u| is 0 only where u is −1/2 exactly
    return -scale * uniform.sign() * (1 - 2 * uniform.abs()).clamp_min(1e-7).log()


def consistency(codes: Sequence[Tensor], own: Tensor) -> Tensor:
    """1 − (1/P) Σ_p mean ⟨h_p, o_y⟩/K = mean (1 − cos) in [0,2]: HashVFL (Qiu et al., TIFS 2024).

    codes: of each party (B,K) of ±1; own (B,K) of ±1: the class code of each row's class
    """
    return 1 - torch.stack([(code * own).mean() for code in codes]).mean()


@dataclass(frozen=True)
class Recipe:
    """What parties and server agree on beforehand.

    kind:    CODES, or REALS where embeddings or noisy codes are sent
    binary:  whether a party hashes; without, it sends its real output
    epsilon: of the Laplace noise on each bit, None for none
    penalty: weight of the GreedyHash penalty mean |ṽ − h|³, which a party adds by itself
    """

    bits: int
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    kind: Kind
    binary: bool
    epsilon: float | None
    penalty: float

    def descent(self, model: nn.Module, rounds: int) -> Descent:
        return Descent(
            model.parameters(),
            epochs=self.epochs,
            steps=rounds,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            optimiser="adam",
        )


class Party:
    """One party: its columns (N, …) as stored, its bottom model, the public schedule."""

    def __init__(
        self,
        number: int,
        bottom: nn.Module,
        inputs: Tensor,
        rounds: Sequence[Tensor],
        recipe: Recipe,
        noise_seed: int,
    ) -> None:
        self.number, self.bottom, self.inputs = number, bottom, inputs
        self.rounds, self.recipe = rounds, recipe
        self.descent = recipe.descent(bottom, len(rounds) // max(recipe.epochs, 1))
        self._noise = torch.Generator().manual_seed(noise_seed)
        self._real: Tensor | None = None

    def skip(self, rounds: int) -> None:
        """Go on after so many rounds: their noise is drawn and dropped."""
        for rows in self.rounds[:rounds] if self.recipe.epsilon is not None else ():
            laplace((len(rows), self.recipe.bits), 1.0, self._noise)

    def send(self, round_: int) -> bytes:
        """The codes of the batch of this round, as a message."""
        rows = self.rounds[round_]
        self.bottom.train()
        device = next(self.bottom.parameters()).device
        real: Tensor = self.bottom(to_unit(self.inputs[rows]).to(device))
        self._real = real
        sent = sign(real) if self.recipe.binary else real.detach()
        if self.recipe.epsilon is not None:
            scale = 2 / self.recipe.epsilon
            sent = sent + laplace(sent.shape, scale, self._noise).to(sent)
        return pack(Message(self.recipe.kind, self.number, round_, sent))

    def receive(self, round_: int, payload: bytes) -> None:
        """One step down the gradients of the codes. Raises MessageError, and nothing has changed.

        ∂L/∂ṽ = ∂L/∂h: the straight-through estimator is the identity, unclipped.
        """
        if self._real is None:
            raise MessageError(f"party {self.number}: expected to have sent codes first")
        shape = (len(self._real), self.recipe.bits)
        message = unpack(payload)
        gradient = check_message(
            message, party=self.number, round_=round_, shape=shape, kind=Kind.GRADIENTS
        )
        loss = (self._real * gradient.to(self._real)).sum()
        if self.recipe.penalty:
            gap = (self._real - sign(self._real)).abs() ** 3
            loss = loss + self.recipe.penalty * gap.mean()
        self.descent.step(loss)
        self._real = None


class Server:
    """Top model, class codes and labels. Knows of the parties only what they send.

    labels (N,) int64 class numbers; class_weights (C,) or None: of the cross-entropy
    """

    def __init__(
        self,
        top: nn.Module,
        class_codes: Tensor,
        labels: Tensor,
        rounds: Sequence[Tensor],
        recipe: Recipe,
        *,
        parties: int,
        consistency_weight: float,
        class_weights: Tensor | None = None,
    ) -> None:
        self.top, self.class_codes, self.labels = top, class_codes, labels
        self.rounds, self.recipe, self.parties = rounds, recipe, parties
        self.consistency_weight, self.class_weights = consistency_weight, class_weights
        self.round = 0
        self._codes: dict[int, Tensor] = {}
        self.descent = recipe.descent(top, len(rounds) // max(recipe.epochs, 1))

    def receive(self, party: int, payload: bytes) -> None:
        """Take what a party sent for this round. Raises MessageError, and nothing has changed."""
        if self.round == len(self.rounds):
            raise MessageError(
                f"party {party}: expected no message after the last of {len(self.rounds)} rounds"
            )
        message = unpack(payload)
        codes = check_message(
            message,
            party=party,
            round_=self.round,
            shape=(len(self.rounds[self.round]), self.recipe.bits),
            kind=self.recipe.kind,
        )
        if party in self._codes:
            raise MessageError(
                f"party {party}, round {self.round}: expected one message a round, got a second"
            )
        self._codes[party] = codes

    @property
    def missing(self) -> list[int]:
        """The parties whose codes of this round are still to come."""
        return [party for party in range(self.parties) if party not in self._codes]

    def answer(self) -> tuple[list[bytes], float]:
        """A step of the top model; the gradient for each party, and the loss.

        Raises MessageError: codes of a party are missing.
        """
        if self.missing:
            raise MessageError(
                f"round {self.round}: expected codes of parties {self.missing} first"
            )
        rows = self.rounds[self.round]
        device = self.class_codes.device
        codes = [self._codes[party].to(device).requires_grad_() for party in range(self.parties)]
        labels = self.labels[rows].to(device)
        self.top.train()
        scores = self.top(torch.cat(codes, dim=1))
        loss = F.cross_entropy(scores, labels, weight=self.class_weights)
        if self.consistency_weight:
            own = self.class_codes[labels]
            loss = loss + self.consistency_weight * consistency(codes, own)
        value = self.descent.step(loss)
        answers = []
        for party, code in enumerate(codes):
            assert code.grad is not None
            answers.append(pack(Message(Kind.GRADIENTS, party, self.round, code.grad)))
        self.round += 1
        self._codes = {}
        return answers, value


def play(
    parties: Sequence[Party], server: Server, record: Callable[[bytes], None] | None = None
) -> float:
    """The server's next round in one process, and its loss.

    Every message is packed, recorded and unpacked as it would be between processes.
    """
    round_ = server.round
    keep = record or (lambda payload: None)
    for party in parties:
        payload = party.send(round_)
        server.receive(party.number, payload)
        keep(payload)
    answers, loss = server.answer()
    for party, payload in zip(parties, answers, strict=True):
        keep(payload)
        party.receive(round_, payload)
    return loss
