"""Gradient attacks = anchor code × objective × step rule.

P2P and DHTA (Bai et al., ECCV 2020) reach for a code of the database; what differs is the anchor.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from advhash.attacks.anchors import voted
from advhash.attacks.base import Attack, AttackData, Goal, Knowledge
from advhash.attacks.objectives import similarity, soft_code
from advhash.budget import Budget, round_toward
from advhash.data import Batch, Modality, Progress, silent
from advhash.errors import UsageError
from advhash.registry import ATTACKS
from advhash.victims.base import HashVictim

__all__ = ["DHTA", "P2P", "GradientAttack", "step_length", "stepped"]

Rule = Literal["auto", "sign", "l2"]
UNBOUNDED_RADIUS = 32 / 255  # what a step is a fraction of where the budget has no radius

# α of the published 2,000 iterations: .1 for 1,000 of them, then .2, .3, .5, .7 and 1 for 200 each
PAPER = {
    "steps": 2000,
    "rule": "l2",
    # the published step is 1 in L2 for ε = 0.032 on 3·224² values, as a fraction of the ball
    "step": 1 / (0.032 * math.sqrt(3 * 224 * 224)),
    "alphas": (0.1, 0.1, 0.1, 0.1, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0),
}


def resolve(rule: Rule, budget: Budget) -> Literal["sign", "l2"]:
    """The step rule for a budget: "auto" is "l2" in an L2 ball and "sign" elsewhere."""
    if rule == "auto":
        return "l2" if budget.norm == "l2" else "sign"
    return rule


def step_length(fraction: float, rule: Literal["sign", "l2"], budget: Budget, size: int) -> float:
    """Length of a step in the norm of the rule: a fraction of the radius of the ball.

    A radius is carried over from L∞ to L2, or back, by the factor √`size`, the number of values
    of an image. Without a bound the radius counts as 32/255 in L∞.

    >>> step_length(0.5, "sign", Budget("linf", 0.25), 100)
    0.125
    >>> step_length(0.5, "l2", Budget("linf", 0.25), 100)
    1.25
    """
    radius = UNBOUNDED_RADIUS if math.isinf(budget.eps) else budget.eps
    ball = "l2" if budget.norm == "l2" else "sign"
    if ball == rule:
        return fraction * radius
    return fraction * (radius * math.sqrt(size) if rule == "l2" else radius / math.sqrt(size))


def stepped(moved: Tensor, gradient: Tensor, rule: Literal["sign", "l2"], length: float) -> Tensor:
    """One descent step: −length·sign(g), or −length·g/‖g‖₂ for each image by itself."""
    if rule == "sign":
        return moved - length * gradient.sign()
    norm: Tensor = gradient.flatten(1).norm(dim=1).clamp_min(1e-12)
    return moved - length * gradient / norm.view(-1, *[1] * (gradient.dim() - 1))


class GradientAttack(Attack):
    """Descend −⟨tanh(α·u/s), b⟩/K inside the budget; s is the mean |u| of the clean image.

    votes: how many database codes the anchor is the majority of
    steps: iterations, each one forward and one backward pass
    rule:  "sign", "l2" (normalised gradient), or "auto": "l2" in an L2 ball, else "sign"
    step:  length of a step as a fraction of the budget's radius (see `step_length`)
    alphas: α, in equal shares of the steps

    The gradient is taken at the rounded image (the float iterate runs beside it), so that the code
    seen at each step is the code of the image that would be returned. An image rests when its code
    equals the anchor; the iterate with the fewest wrong bits is returned, then the lowest loss.

    Deviations of every preset:
    - ε is a radius in [0,1] pixels, not in ImageNet-normalised space, where the published 0.032 is
      about 1.8/255
    - real codes are divided by their mean size on the clean image before tanh, so that α means the
      same for unbounded codes
    - the gradient is taken at the 8-bit image, and an image rests once its code is the anchor
    - where no database row carries exactly the target's labels, the nearest label sets serve
    Deviations of the defaults only:
    - 100 sign steps of a tenth of the radius, α from 0.5 to 1.5, where 2,000 steps along the
      L2-normalised gradient with α from 0.1 to 1 are published
    """

    goal: ClassVar[Goal] = "targeted"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"image"})
    knowledge: ClassVar[Knowledge] = frozenset({"weights", "gradients", "database codes", "labels"})

    def __init__(
        self, *, votes: int, steps: int, rule: Rule, step: float, alphas: tuple[float, ...]
    ) -> None:
        if votes < 1 or steps < 1 or not step > 0 or not alphas or min(alphas) <= 0:
            raise ValueError(
                "expected votes >= 1, steps >= 1, step > 0 and alphas > 0, got "
                f"votes={votes}, steps={steps}, step={step}, alphas={alphas}"
            )
        self.votes = votes
        self.steps = steps
        self.rule = rule
        self.step = step
        self.alphas = alphas
        self.history = []
        self._data: AttackData | None = None

    def fit(
        self,
        victim: HashVictim,
        data: AttackData,
        budget: Budget,
        *,
        seed: int = 0,
        progress: Progress = silent,
    ) -> Self:
        """Keep the database codes and labels, from which the anchors are drawn."""
        self._data = data
        return self

    def run(
        self, victim: HashVictim, batch: Batch, targets: Tensor | None, budget: Budget
    ) -> Tensor:
        """(B,3,H,W) images on the 8-bit grid. Raises UsageError before `fit` and for L0."""
        if self._data is None or targets is None:
            raise UsageError(f"{type(self).__name__}: call fit with the database before run")
        if budget.norm == "l0":
            raise UsageError(f"{type(self).__name__}: expected linf, l2 or none, got l0")
        clean = batch.inputs["image"]
        return self.descend(victim, clean, self.anchors(targets).to(clean.device), budget)

    def anchors(self, targets: Tensor) -> Tensor:
        """(B,K) ±1, drawn anew for each query."""
        assert self._data is not None
        return voted(self._data, targets, self.votes)

    def descend(self, victim: HashVictim, clean: Tensor, anchors: Tensor, budget: Budget) -> Tensor:
        """The best iterate of each image toward its (B,K) anchor."""
        bounds = victim.bounds["image"]
        rule = resolve(self.rule, budget)
        length = step_length(self.step, rule, budget, clean[0].numel())
        with torch.no_grad():
            scale = victim.relax(clean, "image").abs().mean(dim=1, keepdim=True).clamp_min(1e-6)
        best, moved = clean.clone(), clean.clone()
        fewest = torch.full((len(clean),), victim.bits + 1, device=clean.device)
        lowest = torch.full((len(clean),), math.inf, device=clean.device)
        active = torch.arange(len(clean), device=clean.device)
        for iteration in range(self.steps + 1):
            alpha = self.alphas[min(iteration, self.steps - 1) * len(self.alphas) // self.steps]
            origin, goal = clean[active], anchors[active]
            image = round_toward(origin, moved[active]).requires_grad_()
            relaxed = victim.relax(image, "image")
            with torch.no_grad():  # judge this very image, not the one a step ahead
                wrong = ((relaxed > 0) != (goal > 0)).sum(dim=1)
                judged = similarity(soft_code(relaxed, 1.0, scale[active]), goal)
                better = (wrong < fewest[active]) | (
                    (wrong == fewest[active]) & (judged < lowest[active])
                )
                rows = active[better]
                best[rows] = image[better]
                fewest[rows], lowest[rows] = wrong[better], judged[better]
            if iteration == self.steps or bool((wrong == 0).all()):
                break
            loss = similarity(soft_code(relaxed, alpha, scale[active]), goal).sum()
            (gradient,) = torch.autograd.grad(loss, image)
            moved[active] = budget.project(
                origin, stepped(moved[active], gradient, rule, length), bounds
            )
            active = active[wrong > 0]
        return best


@ATTACKS.register("dhta", source="Bai et al., ECCV 2020", presets={"paper": PAPER})
class DHTA(GradientAttack):
    """Deep hashing targeted attack: toward the majority of 9 codes of the target."""

    def __init__(
        self,
        *,
        votes: int = 9,
        steps: int = 100,
        rule: Rule = "auto",
        step: float = 0.1,
        alphas: tuple[float, ...] = (0.5, 0.7, 1.0, 1.5),
    ) -> None:
        super().__init__(votes=votes, steps=steps, rule=rule, step=step, alphas=alphas)


@ATTACKS.register("p2p", source="Bai et al., ECCV 2020", presets={"paper": PAPER})
class P2P(GradientAttack):
    """Point to point: toward the code of one database item of the target."""

    def __init__(
        self,
        *,
        steps: int = 100,
        rule: Rule = "auto",
        step: float = 0.1,
        alphas: tuple[float, ...] = (0.5, 0.7, 1.0, 1.5),
    ) -> None:
        super().__init__(votes=1, steps=steps, rule=rule, step=step, alphas=alphas)
