"""The adaptive attacker: one party that wants a wrong prediction and knows the detector."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from advhash.attacks.base import Attack, Goal, Knowledge
from advhash.budget import Budget, round_toward
from advhash.data import Batch, Modality
from advhash.defenses.detectors import CodeDistance
from advhash.victims.base import HashVictim
from advhash.victims.hashvfl import HashVFL

__all__ = ["AdaptiveSlice"]


class AdaptiveSlice(Attack):
    """Moves party 0's input until the joint prediction is wrong and the detector accepts.

    It knows all models, the detector with its threshold, and what the other parties send: the worst
    case. For each of the `classes` wrong classes c that fit the other parties' codes best, Adam
    descends CE(top(h), c) + w·relu(D − t)/K through the straight-through estimator, D being the
    detector's distance with o_c as class code and t its threshold. The first image that succeeds on
    the 8-bit grid is kept, else the one with the lowest loss.

    Not published: what a fair test of the detector needs. Without a budget by default, as nobody
    but the party sees its input.
    """

    goal: ClassVar[Goal] = "untargeted"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"party0"})
    knowledge: ClassVar[Knowledge] = frozenset({"weights", "gradients", "query codes", "labels"})
    default_budget: ClassVar[Budget] = Budget("none", math.inf)

    def __init__(
        self,
        *,
        detector: CodeDistance,
        threshold: float,
        classes: int = 3,
        steps: int = 100,
        learning_rate: float = 0.03,
        weight: float = 4.0,
    ) -> None:
        if classes < 1 or steps < 1 or not learning_rate > 0 or weight < 0:
            raise ValueError(
                f"expected classes, steps >= 1, learning_rate > 0, weight >= 0, got {classes}, "
                f"{steps}, {learning_rate}, {weight}"
            )
        self.detector, self.threshold = detector, threshold
        self.classes, self.steps = classes, steps
        self.learning_rate, self.weight = learning_rate, weight
        self.history = []

    def run(
        self, victim: HashVictim, batch: Batch, targets: Tensor | None, budget: Budget
    ) -> Tensor:
        """(B, …) of party 0."""
        own = self.detector.of(victim)
        clean = batch.inputs["party0"]
        labels = batch.labels.long().argmax(dim=1)
        sent = own.sent(batch.inputs).detach()
        aims = self._aims(own, sent, labels)
        best = clean.clone()
        lowest = torch.full((len(clean),), math.inf, device=clean.device)
        lowest[self._succeeds(own, sent, labels)] = -1.0  # nothing to do
        for column in range(aims.shape[1]):
            open_rows = (lowest >= 0).nonzero().flatten()
            if not len(open_rows):
                break
            self._toward(own, clean, sent, labels, aims[:, column], open_rows, best, lowest, budget)
        return best

    def _aims(self, victim: HashVFL, sent: Tensor, labels: Tensor) -> Tensor:
        """(B,c) wrong classes, the ones nearest to the other parties' codes first."""
        if victim.parties == 1:
            near = victim.decide(sent)
        else:
            near = (sent[:, 1:] @ victim.class_codes.T).amin(dim=1)
        near = near.scatter(1, labels[:, None], -math.inf)
        return near.topk(min(self.classes, victim.classes - 1), dim=1).indices

    def _succeeds(self, victim: HashVFL, sent: Tensor, labels: Tensor) -> Tensor:
        predicted = victim.decide(sent).argmax(dim=1)
        score = self.detector.judge(sent, victim.class_codes[predicted])
        return (predicted != labels) & (score <= self.threshold)

    def _toward(
        self,
        victim: HashVFL,
        clean: Tensor,
        sent: Tensor,
        labels: Tensor,
        aims: Tensor,
        rows: Tensor,
        best: Tensor,
        lowest: Tensor,
        budget: Budget,
    ) -> None:
        """Descend from the clean inputs of `rows` toward class `aims`; writes best and lowest."""
        origin, goal = clean[rows], aims[rows]
        bounds = victim.bounds["party0"]
        moved = origin.clone().requires_grad_()
        optimiser = torch.optim.Adam([moved], self.learning_rate)
        for step in range(self.steps + 1):
            image = self._rounded(victim, origin, moved)
            code = victim.send(image, "party0")
            codes = torch.cat([code[:, None], sent[rows, 1:]], dim=1)
            excess = self.detector.judge(codes, victim.class_codes[goal]) - self.threshold
            loss = F.cross_entropy(victim.decide(codes), goal, reduction="none")
            loss = loss + self.weight * excess.clamp_min(0) / victim.bits
            with torch.no_grad():
                judged = torch.where(self._succeeds(victim, codes, labels[rows]), -1.0, loss)
                better = judged < lowest[rows]
                best[rows[better]], lowest[rows[better]] = image[better], judged[better]
            if step == self.steps or bool((lowest[rows] < 0).all()):
                return
            optimiser.zero_grad()
            loss.sum().backward()
            optimiser.step()
            with torch.no_grad():
                moved.copy_(budget.project(origin, moved, bounds))

    @staticmethod
    def _rounded(victim: HashVFL, origin: Tensor, moved: Tensor) -> Tensor:
        """On the 8-bit grid going forward, unrounded going backward; tables as they are."""
        if not victim.is_image("party0"):
            return moved
        return moved + (round_toward(origin, moved.detach()) - moved).detach()
