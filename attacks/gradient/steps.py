"""How a gradient becomes a step: rule, momentum, input diversity, random start.

A step is a fraction of the budget's radius, so that one setting serves every budget.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from advhash.budget import Budget
from advhash.chance import Chance

Rule = Literal["auto", "sign", "l2", "plain", "adam"]
Resolved = Literal["sign", "l2", "plain", "adam"]
UNBOUNDED_RADIUS = 32 / 255  # what a step is a fraction of where the budget has no radius
TINY = 1e-12  # below it a gradient counts as zero
SMALLEST_SIDE = 0.9  # of the picture that input diversity shrinks, as published


def resolve_rule(rule: Rule, budget: Budget) -> Resolved:
    """The step rule for a budget: "auto" is "l2" in an L2 ball and "sign" elsewhere."""
    if rule == "auto":
        return "l2" if budget.norm == "l2" else "sign"
    return rule


def step_length(fraction: float, rule: Resolved, budget: Budget, size: int) -> float:
    """Length of a step in the norm of the rule: a fraction of the radius of the ball.

    The norm is L2 for "l2" and L∞ for the others ("plain": the factor before the gradient). A
    radius is carried over from L∞ to L2, or back, by the factor √`size`, the number of values of
    an image. Without a bound the radius counts as 32/255 in L∞.

    >>> step_length(0.5, "sign", Budget("linf", 0.25), 100)
    0.125
    >>> step_length(0.5, "l2", Budget("linf", 0.25), 100)
    1.25
    """
    radius = UNBOUNDED_RADIUS if math.isinf(budget.eps) else budget.eps
    if (budget.norm == "l2") == (rule == "l2"):
        return fraction * radius
    return fraction * (radius * math.sqrt(size) if rule == "l2" else radius / math.sqrt(size))


def _each(values: Tensor, like: Tensor) -> Tensor:
    """(B,) as (B,1,…) of the dimensions of `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))


def stepped(
    moved: Tensor, gradient: Tensor, rule: Literal["sign", "l2", "plain"], length: float
) -> Tensor:
    """One descent step of each image by itself.

    sign: −length·sign(g); l2: −length·g/‖g‖₂; plain: −length·g
    """
    if rule == "sign":
        return moved - length * gradient.sign()
    if rule == "plain":
        return moved - length * gradient
    norm: Tensor = gradient.flatten(1).norm(dim=1).clamp_min(TINY)
    return moved - length * gradient / _each(norm, gradient)


class Stepper:
    """A rule with what it remembers of each of B images.

    momentum: μ of g ← μ·g + ∇/mean|∇| (MI-FGSM, Dong et al., CVPR 2018); 0 takes ∇ itself

    "adam" is Kingma & Ba (ICLR 2015) with the published decays .9 and .999.
    """

    def __init__(self, rule: Resolved, length: float, momentum: float, like: Tensor) -> None:
        self.rule = rule
        self.length = length
        self.momentum = momentum
        self._average = torch.zeros_like(like) if momentum else None
        self._moments = torch.zeros(2, *like.shape).to(like) if rule == "adam" else None
        self._taken = 0

    def ahead(self, moved: Tensor, rows: Tensor) -> Tensor:
        """`moved` (b, …) where the momentum alone would lead, μ·length·g away: NI-FGSM.

        Lin et al., ICLR 2020. Along "l2" the step has the length μ·length, since g, which is not a
        sign, has no size of its own there. "adam" has no such point.
        """
        assert self._average is not None
        rule: Literal["l2", "plain"] = "l2" if self.rule == "l2" else "plain"
        return stepped(moved, self._average[rows], rule, self.momentum * self.length)

    def move(self, moved: Tensor, gradient: Tensor, rows: Tensor) -> Tensor:
        """`moved` (b, …), images `rows` of the batch, a step on along −`gradient`.

        Each image must take part from its first step to its last without a gap.
        """
        self._taken += 1
        if self._average is not None:
            size = gradient.flatten(1).abs().mean(dim=1).clamp_min(TINY)
            gradient = self.momentum * self._average[rows] + gradient / _each(size, gradient)
            self._average[rows] = gradient
        if self.rule != "adam":
            return stepped(moved, gradient, self.rule, self.length)
        assert self._moments is not None
        mean = 0.9 * self._moments[0, rows] + 0.1 * gradient
        square = 0.999 * self._moments[1, rows] + 0.001 * gradient**2
        self._moments[:, rows] = torch.stack([mean, square])
        mean, square = mean / (1 - 0.9**self._taken), square / (1 - 0.999**self._taken)
        return moved - self.length * mean / (square.sqrt() + 1e-8)


def random_point(
    clean: Tensor, budget: Budget, bounds: tuple[float, float], chance: Chance
) -> Tensor:
    """A point of the ball around each image: uniform for L∞, within 32/255 without a bound.

    For L2 in a random direction, its length drawn so that the point is uniform in the ball.
    """
    if budget.norm == "l2":
        noise = chance.normal(*clean.shape[1:])
        share = chance.uniform() ** (1 / clean[0].numel())
        noise *= _each(budget.eps * share / noise.flatten(1).norm(dim=1), clean)
    else:
        radius = UNBOUNDED_RADIUS if math.isinf(budget.eps) else budget.eps
        noise = chance.uniform(*clean.shape[1:], low=-radius, high=radius)
    return budget.project(clean, clean + noise, bounds)


def diversified(images: Tensor, probability: float, chance: Chance) -> Tensor:
    """Some of (B,3,H,W) images shrunk and padded with zeros at random (DI, Xie et al., CVPR 2019).

    Size and place are drawn once a call, from torch's generator: of the n-th call of a descent they
    are the same for all images. Whether it is done is drawn for each image by itself. The gradient
    goes through.
    """
    height, width = images.shape[2:]
    share = SMALLEST_SIDE + (1 - SMALLEST_SIDE) * float(torch.rand(()))
    small = max(1, int(height * share)), max(1, int(width * share))
    top = int(torch.randint(height - small[0] + 1, ()))
    left = int(torch.randint(width - small[1] + 1, ()))
    shrunk = F.interpolate(images, size=small, mode="bilinear", align_corners=False)
    padded = F.pad(shrunk, (left, width - small[1] - left, top, height - small[0] - top))
    chosen = chance.uniform() < probability
    return torch.where(_each(chosen, images), padded, images)
