"""Collision and evasion: reach the hash of a chosen picture, or leave one's own, bit by bit.

What deduplication and moderation run decides by a threshold on the Hamming distance; see
`advhash.experiments.attack.operating` for how these attacks are judged.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from advhash.attacks.base import DatabaseAttack, Goal, Knowledge
from advhash.attacks.gradient.anchors import voted
from advhash.attacks.gradient.objectives import similarity, soft_code
from advhash.attacks.gradient.steps import step_length, stepped
from advhash.budget import Budget, round_toward
from advhash.data.dataset import Batch, Modality
from advhash.errors import UsageError
from advhash.registry import ATTACKS
from advhash.victims.base import HashVictim

SOURCE = "Struppek et al., FAccT 2022"


@dataclass(kw_only=True, eq=False, repr=False)
class HashAttack(DatabaseAttack):
    """Bring the code to b inside the budget, whatever is left of the steps into margins.

    loss:  "tanh": −⟨tanh(α·u/s), b⟩/K, s the mean |u| of the clean picture; "hinge", as
           published: the mean of max(0, −u·b/s)
    steps: iterations, each one forward and one backward pass; none is left out
    step:  length of a step as a fraction of the budget's radius, along the sign of the gradient, in
           an L2 ball along the gradient itself
    alphas: α of tanh, in equal shares of the steps: the larger, the more do bits count that are
        about to flip

    The gradient is taken at the 8-bit picture. Returned is the iterate with the fewest bits unlike
    b, then the lowest loss at α = 1: steps after the last bit has flipped move bits away from their
    thresholds, so that they survive a JPEG round trip.

    Deviations:
    - a hard budget and signed steps, where the source weighs the hinge against the similarity of
      the pictures (SSIM) and descends with Adam
    - any hash through its own resize and threshold, where the source attacks NeuralHash
    Deviations of the defaults only:
    - tanh instead of the hinge, which pulls as hard at bits that the budget cannot flip
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({"image"})

    loss: Literal["tanh", "hinge"] = "tanh"
    steps: int = 100
    step: float = 0.1
    alphas: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.step > 0 or not self.alphas or min(self.alphas) <= 0:
            raise ValueError(
                f"expected steps >= 1, step > 0 and alphas > 0, got steps={self.steps}, "
                f"step={self.step}, alphas={self.alphas}"
            )
        self.history = []

    @abstractmethod
    def anchors(self, relaxed: Tensor, targets: Tensor | None) -> Tensor:
        """(B,K) ±1 codes to reach, given the (B,K) real codes of the clean pictures."""

    def run(
        self, victim: HashVictim, batch: Batch, targets: Tensor | None, budget: Budget
    ) -> Tensor:
        """(B,3,H,W) pictures on the 8-bit grid, of any size. Raises UsageError for L0."""
        if budget.norm == "l0":
            raise UsageError(f"{type(self).__name__}: expected linf, l2 or none, got l0")
        clean = batch.inputs["image"]
        rule: Literal["l2", "sign"] = "l2" if budget.norm == "l2" else "sign"
        length = step_length(self.step, rule, budget, clean[0].numel())
        with torch.no_grad():
            relaxed = victim.relax(clean, "image")
        scale = relaxed.abs().mean(dim=1, keepdim=True).clamp_min(1e-6)
        with self.drawing(batch):
            anchors = self.anchors(relaxed, targets).to(relaxed)
        best, moved = clean.clone(), clean.clone()
        lowest = torch.full((len(clean),), math.inf, device=clean.device)
        for step in range(self.steps + 1):
            image = round_toward(clean, moved).requires_grad_()
            relaxed = victim.relax(image, "image")
            wrong = ((relaxed > 0) != (anchors > 0)).sum(dim=1)
            judged = similarity(soft_code(relaxed.detach(), 1.0, scale), anchors)
            cost = wrong + (1 + judged) / 2.001  # the loss, in (−1,1), decides between equals
            better = cost < lowest
            best[better], lowest[better] = image.detach()[better], cost[better]
            if step < self.steps:
                loss = self._loss(relaxed, scale, anchors, step)
                (gradient,) = torch.autograd.grad(loss.sum(), image)
                moved = budget.project(
                    clean, stepped(moved, gradient, rule, length), victim.bounds["image"]
                )
        return best

    def _loss(self, relaxed: Tensor, scale: Tensor, anchors: Tensor, step: int) -> Tensor:
        """(B,) of one step."""
        if self.loss == "hinge":
            return (-relaxed * anchors / scale).clamp_min(0).mean(dim=1)
        alpha = self.alphas[step * len(self.alphas) // self.steps]
        return similarity(soft_code(relaxed, alpha, scale), anchors)


@ATTACKS.register("collision", source=SOURCE)
class Collision(HashAttack):
    """Hash collision: a picture that a perceptual hash takes for another one, chosen beforehand.

    The target is a picture of the database, named by its label; where several rows carry the
    target's labels, one of them is drawn.
    """

    goal: ClassVar[Goal] = "targeted"
    knowledge: ClassVar[Knowledge] = frozenset({"weights", "gradients", "database codes", "labels"})

    def anchors(self, relaxed: Tensor, targets: Tensor | None) -> Tensor:
        assert targets is not None
        return voted(self.served, targets, 1, self.chance(len(targets)))


@ATTACKS.register("evasion", source=SOURCE)
class Evasion(HashAttack):
    """Hash evasion: a picture that its own perceptual hash no longer knows.

    The code to reach is the complement of the picture's own.
    """

    goal: ClassVar[Goal] = "untargeted"
    knowledge: ClassVar[Knowledge] = frozenset({"weights", "gradients"})

    def anchors(self, relaxed: Tensor, targets: Tensor | None) -> Tensor:
        return torch.where(relaxed > 0, -1.0, 1.0)
