"""The adaptive attacker: one party that wants a wrong prediction and knows the detector."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from advhash.attacks.base import Attack, Goal, Knowledge
from advhash.budget import Budget, round_toward
from advhash.data.dataset import Batch, Modality
from advhash.data.parties import party_names
from advhash.defenses.detectors.federated import CodeDistance
from advhash.victims.base import HashVictim
from advhash.victims.federated.hashvfl import HashVFL, straight_through
from advhash.victims.objectives import sign

DRAWS = 16  # messages that an image is judged by where noise is added


class AdaptiveSlice(Attack):
    """Moves party 0's input until the joint prediction is wrong and the detector accepts.

    It knows all models, the detector with its threshold, the codes of the other parties and the
    query's class: the worst case. For each of the `classes` wrong classes c that fit the other
    parties' codes best (None: all), Adam descends CE(top(h), c) + w·relu(D − t)/K through the
    straight-through estimator, D being the detector's distance with o_c as class code and t its
    threshold. The first
    image that succeeds on the 8-bit grid is kept, else the one with the lowest loss. Where parties
    add noise, each step draws it anew, and kept is the image that succeeds in most of `DRAWS`
    messages: the noise that will be sent is not known.

    Not published: what a fair test of the detector needs. Without a budget by default, as nobody
    but the party sees its input.
    """

    goal: ClassVar[Goal] = "untargeted"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"party0"})
    knowledge: ClassVar[Knowledge] = frozenset(
        {"weights", "gradients", "query codes", "query labels"}
    )
    default_budget: ClassVar[Budget] = Budget("none", math.inf)

    def __init__(
        self,
        *,
        detector: CodeDistance,
        threshold: float,
        classes: int | None = None,
        steps: int = 200,
        learning_rate: float = 0.03,
        weight: float = 16.0,
    ) -> None:
        if (
            (classes is not None and classes < 1)
            or steps < 1
            or not learning_rate > 0
            or weight < 0
        ):
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
        parts = [own.relax(batch.inputs[name], name) for name in party_names(own.parties)]
        codes = sign(torch.stack(parts, dim=1)).detach()
        aims = self._aims(own, codes, labels)
        best = clean.clone()
        share = self._share(own, codes, labels)  # −1: nothing to do
        lowest = torch.where(share > 0, -share, math.inf)
        for column in range(aims.shape[1]):
            open_rows = (lowest > -1).nonzero().flatten()
            if not len(open_rows):
                break
            self._toward(
                own, clean, codes, labels, aims[:, column], open_rows, best, lowest, budget
            )
        return best

    def _aims(self, victim: HashVFL, codes: Tensor, labels: Tensor) -> Tensor:
        """(B,c) wrong classes, the ones nearest to the other parties' codes first."""
        if victim.parties == 1:
            near = victim.decide(codes)
        else:
            near = (codes[:, 1:] @ victim.class_codes.T).amin(dim=1)
        near = near.scatter(1, labels[:, None], -math.inf)
        wrong = victim.classes - 1
        count = wrong if self.classes is None else min(self.classes, wrong)
        return near.topk(count, dim=1).indices

    def _share(self, victim: HashVFL, codes: Tensor, labels: Tensor) -> Tensor:
        """(B,) of messages with these codes, how many succeed: 0 or 1 where no noise is added."""
        draws = DRAWS if victim.protection == "laplace" else 1
        total = torch.zeros(len(codes), device=codes.device)
        for _ in range(draws):
            score, predicted = self.detector.inspect(victim, victim.noisy(codes))
            total += (predicted != labels) & (score <= self.threshold)
        return total / draws

    def _toward(
        self,
        victim: HashVFL,
        clean: Tensor,
        codes: Tensor,
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
            code = straight_through(victim.relax(image, "party0"))
            moving = torch.cat([code[:, None], codes[rows, 1:]], dim=1)
            sent = victim.noisy(moving)
            excess = self.detector.judge(sent, victim.class_codes[goal]) - self.threshold
            loss = F.cross_entropy(victim.decide(sent), goal, reduction="none")
            loss = loss + self.weight * excess.clamp_min(0) / victim.bits
            with torch.no_grad():
                share = self._share(victim, moving, labels[rows])
                judged = torch.where(share > 0, -share, loss)
                better = judged < lowest[rows]
                best[rows[better]], lowest[rows[better]] = image[better], judged[better]
            if step == self.steps or bool((lowest[rows] <= -1).all()):
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
