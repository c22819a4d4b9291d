"""The descent that all gradient attacks share: an anchor code, an objective and a step rule.

P2P, DHTA, THA, HAG, SDHA, CgAT and the mainstay attack differ in the code that an image is to reach
(`anchors.py`), in what is descended on the way (`objectives.py`) and in published step rules
(`steps.py`). An untargeted attack reaches for the opposite of what it wants to leave.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from advhash.attacks.base import DatabaseAttack, Goal, Knowledge
from advhash.attacks.gradient.channels import Channelled, channels
from advhash.attacks.gradient.objectives import similarity, soft_code
from advhash.attacks.gradient.precision import Precision, Reduced
from advhash.attacks.gradient.steps import (
    TINY,
    Rule,
    Stepper,
    diversified,
    random_point,
    resolve_rule,
    step_length,
)
from advhash.budget import Budget, round_toward
from advhash.data.dataset import Batch, Modality
from advhash.victims.base import HashVictim

Objective = Callable[[Tensor, Tensor, Tensor], Tensor]
Merit = Callable[[Tensor, Tensor], Tensor]
SATURATED = 0.999  # |tanh| above it passes less than 0.2 % of the gradient


@dataclass(frozen=True)
class Aim:
    """What the B images of a batch go for.

    anchors:   (B,K) ±1, the codes at which they rest
    objective: soft codes (b,K), images (b,3,H,W) and their rows in the batch (b,) → (b,), to be
               minimised
    merit:     real codes (b,K) and rows → (b,) ≥ 0, what is left to gain, by which iterates are
               chosen and images rest; by default the number of bits unlike the anchor
    """

    anchors: Tensor
    objective: Objective
    merit: Merit | None = None

    def left(self, relaxed: Tensor, rows: Tensor) -> Tensor:
        """(b,) what is left to gain for images `rows` with real codes (b,K); 0 at rest."""
        if self.merit is not None:
            return self.merit(relaxed, rows)
        return ((relaxed > 0) != (self.anchors[rows] > 0)).sum(dim=1).float()


@dataclass
class Best:
    """The best iterate of each of B images: the least left to gain, then the lowest loss."""

    images: Tensor
    left: Tensor
    loss: Tensor

    @classmethod
    def of(cls, clean: Tensor) -> Best:
        """The clean images, which any iterate replaces."""
        worst = torch.full((len(clean),), math.inf, device=clean.device)
        return cls(clean.clone(), worst, worst.clone())

    def offer(
        self, rows: Tensor, images: Tensor, left: Tensor, loss: Tensor, awake: Tensor
    ) -> None:
        """Keep those of images `rows` that are better, where (b,) `awake` says so."""
        better = (left < self.left[rows]) | ((left == self.left[rows]) & (loss < self.loss[rows]))
        better &= awake
        kept = rows[better]
        self.images[kept] = images[better]
        self.left[kept], self.loss[kept] = left[better], loss[better]


def staying(awake: Tensor) -> Tensor | None:
    """Rows of a batch that go on: (b,) those awake, and some at rest; None: all of them.

    oneDNN compiles kernels for each size of a batch, some 30 a network, and keeps 1,024. Images
    come to rest one by one, so from 16 on sizes are multiples of 8: no pass waits for a compiler.
    Below, where another size changes the last bits of a code, none is filled up.
    """
    count = int(awake.sum())
    size = count if count < 16 else -(-count // 8) * 8
    if size >= len(awake):
        return None
    order = awake.to(torch.uint8).argsort(descending=True, stable=True)
    return order[:size].sort().values


@dataclass(kw_only=True, eq=False, repr=False)
class GradientAttack(DatabaseAttack):
    """Descend an objective of h = tanh(α·u/s) inside the budget; s is the mean |u| of the image.

    steps: iterations, each one forward and one backward pass
    rule:  "sign", "l2" (normalised gradient), "plain" (the gradient itself), "adam", or "auto":
           "l2" in an L2 ball, else "sign"
    step:  length of a step as a fraction of the budget's radius (see `step_length`)
    alphas: α, in equal shares of the steps
    momentum: μ of MI-FGSM (Dong et al., CVPR 2018); 0: none
    diversity: probability of a random shrink and pad (DI, Xie et al., CVPR 2019); 0: none; it costs
        a second forward pass
    random_start: whether to start at a random point of the ball instead of at the image
    restarts: how many descents, from the second on from random points; an image that rests is not
        descended again
    transforms, samples: expectation over transformation (Athalye et al., ICML 2018): descend the
        mean real code of `samples` draws of these transforms of the image, one after the other;
        see docs/attacks/transforms.md
    survive: what happens to pictures before they are hashed, e.g. "jpeg75" (see `channels.py`), by
        one name or several: gradients, the code at which an image rests and the best iterate are
        those of what comes back, of several the mean real code
    precision: "bf16" passes images through the victim in bfloat16, where the processor computes in
        it: some 1.3 times faster; the code at which an image rests is that of these passes, the
        code that counts is that of float32

    With transforms, the wrong bits of an image are those of that mean code and of its plain code
    together: fresh draws alone would choose lucky iterates. That costs a forward pass more a step.

    The gradient is taken at the rounded image (the float iterate runs beside it), so that the code
    seen at each step is the code of the image that would be returned. An image rests when its code
    equals the anchor; the iterate with the fewest wrong bits is returned, then the lowest
    −⟨tanh(u/s), b⟩/K to the anchor b, whatever the objective.

    `indicators` are shares in [0,1] over the images that did not rest at the start:

    zero_gradient: the gradient of the first step is zero
    saturated:     of their bits at that step, |h| is above 0.999
    stalled:       no iterate was better than the clean image

    Deviations:
    - real codes are divided by their mean size on the clean image before tanh, so that α means the
      same for unbounded codes
    - the gradient is taken at the 8-bit image, an image rests once its code is the anchor, and the
      best iterate is returned, not the last one
    """

    goal: ClassVar[Goal] = "targeted"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"image"})
    knowledge: ClassVar[Knowledge] = frozenset({"weights", "gradients", "database codes", "labels"})
    single = False  # training sets it: run makes one step and returns it, as FGSM does

    steps: int = 100
    rule: Rule = "auto"
    step: float = 0.1
    alphas: tuple[float, ...] = (0.5, 0.7, 1.0, 1.5)
    momentum: float = 0.0
    diversity: float = 0.0
    random_start: bool = False
    restarts: int = 1
    transforms: tuple[str, ...] = ()
    samples: int = 1
    survive: str | tuple[str, ...] = ()
    precision: Precision = "no"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.restarts < 1 or not self.step > 0:
            raise ValueError(
                "expected steps >= 1, restarts >= 1 and step > 0, got "
                f"steps={self.steps}, restarts={self.restarts}, step={self.step}"
            )
        if not self.alphas or min(self.alphas) <= 0:
            raise ValueError(f"expected alphas > 0, got {self.alphas}")
        if not self.momentum >= 0 or not 0 <= self.diversity <= 1:
            raise ValueError(
                "expected momentum >= 0 and a probability diversity in [0, 1], got "
                f"momentum={self.momentum}, diversity={self.diversity}"
            )
        if self.transforms:
            from advhash.attacks.gradient.transforms import check_transforms

            check_transforms(self.transforms, self.samples)
        elif self.samples != 1:
            raise ValueError(f"samples={self.samples} are draws of transforms: name some")
        channels(self.survive)
        self.history = []

    def run(
        self, victim: HashVictim, batch: Batch, targets: Tensor | None, budget: Budget
    ) -> Tensor:
        """(B,3,H,W) images on the 8-bit grid. Raises UsageError before `fit` and for L0."""
        self.check_budget(budget)
        labels = batch.labels if targets is None else targets
        victim = Channelled.behind(self.survive, Reduced.of(self.precision, victim))
        with self.drawing(batch):
            if self.single:
                return self._single_step(victim, batch.inputs["image"], labels, budget)
            return self.descend(victim, batch.inputs["image"], labels, budget)

    def anchors(self, labels: Tensor) -> Tensor:
        """(B,K) ±1, the code to reach for each row of (B,C) labels."""
        raise NotImplementedError

    def loss(self, codes: Tensor, anchors: Tensor) -> Tensor:
        """(b,) of soft codes (b,K) and their anchors, to be minimised: −⟨h, b⟩/K."""
        return similarity(codes, anchors)

    def aim(self, clean: Tensor, own: Tensor, labels: Tensor) -> Aim:
        """Where the (B,3,H,W) clean images go, whose soft codes are (B,K) `own`.

        labels: (B,C) of the targets, or of the queries when untargeted
        """
        anchors = self.anchors(labels).to(own.device)
        return Aim(anchors, lambda codes, images, rows: self.loss(codes, anchors[rows]))

    def descend(
        self,
        victim: HashVictim,
        clean: Tensor,
        labels: Tensor,
        budget: Budget,
        merit: Merit | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        """The best iterate of each image over all restarts, by `merit` where one is given.

        start: (B,3,H,W) images to begin at, drawn into the budget; by default the clean ones
        """
        seen = victim
        if self.transforms:
            from advhash.attacks.gradient.transforms import Transformed

            seen = Transformed(victim, self.transforms, self.samples)
        with torch.no_grad():
            relaxed = victim.relax(clean, "image")
            scale = relaxed.abs().mean(dim=1, keepdim=True).clamp_min(1e-6)
            own = soft_code(relaxed, 1.0, scale)
            aim = replace(self.aim(clean, own, labels), merit=merit)
            rows = torch.arange(len(clean), device=clean.device)
            before = aim.left(own, rows)
            judged = similarity(own, aim.anchors)
            if seen is not victim:
                drawn = seen.relax(clean, "image")
                before = before + aim.left(drawn, rows)
                judged = similarity(soft_code(drawn, 1.0, scale), aim.anchors)
        best = Best.of(clean)
        for restart in range(self.restarts):
            moved = clean.clone()
            if start is not None:
                moved = budget.project(clean, start, victim.bounds["image"])
            if self.random_start or restart:
                moved = random_point(clean, budget, victim.bounds["image"], self.chance(len(clean)))
            self._descend_once(
                victim, seen, clean, moved, scale, aim, budget, best, first=restart == 0
            )
            if not bool((best.left > 0).any()):
                break
        gained = (best.left < before) | ((best.left == before) & (best.loss < judged - 1e-6))
        self.note("stalled", ~gained[before > 0])
        return best.images

    def _single_step(
        self, victim: HashVictim, clean: Tensor, labels: Tensor, budget: Budget
    ) -> Tensor:
        """One step from the start, neither judged nor compared: one forward and one backward pass.

        s is the mean |u| of the start. FGSM (Goodfellow et al., ICLR 2015).
        """
        bounds, rows = victim.bounds["image"], torch.arange(len(clean), device=clean.device)
        moved = clean
        if self.random_start:
            moved = random_point(clean, budget, bounds, self.chance(len(clean)))
        image = round_toward(clean, moved).requires_grad_()
        relaxed = victim.relax(image, "image")
        scale = relaxed.detach().abs().mean(dim=1, keepdim=True).clamp_min(1e-6)
        aim = self.aim(clean, soft_code(relaxed.detach(), 1.0, scale), labels)
        codes = soft_code(relaxed, self.alphas[0], scale)
        (gradient,) = torch.autograd.grad(aim.objective(codes, image, rows).sum(), image)
        rule = resolve_rule(self.rule, budget)
        length = step_length(self.step, rule, budget, clean[0].numel())
        stepper = Stepper(rule, length, self.momentum, clean)
        return budget.project(clean, stepper.move(moved, gradient, rows), bounds)

    def _descend_once(
        self,
        victim: HashVictim,
        seen: HashVictim,
        clean: Tensor,
        moved: Tensor,
        scale: Tensor,
        aim: Aim,
        budget: Budget,
        best: Best,
        *,
        first: bool,
    ) -> None:
        """One descent of the images that do not rest yet, from `moved` (B,3,H,W).

        seen: the victim that gradients pass through, `victim` itself or behind transforms
        """
        bounds = victim.bounds["image"]
        rule = resolve_rule(self.rule, budget)
        length = step_length(self.step, rule, budget, clean[0].numel())
        stepper = Stepper(rule, length, self.momentum, clean)
        active, chance = (best.left > 0).nonzero().flatten(), self.chance(len(clean))
        origin, moved, goal, size = (part[active] for part in (clean, moved, aim.anchors, scale))
        awake = torch.ones_like(active, dtype=torch.bool)  # others fill up the batch
        for iteration in range(self.steps + 1):
            alpha = self.alphas[min(iteration, self.steps - 1) * len(self.alphas) // self.steps]
            image = round_toward(origin, moved).requires_grad_()
            relaxed = seen.relax(image, "image")
            with torch.no_grad():  # judge this very image, not the one a step ahead
                left = aim.left(relaxed, active)
                if seen is not victim:
                    left = left + aim.left(victim.relax(image, "image"), active)
                judged = similarity(soft_code(relaxed, 1.0, size), goal)
                best.offer(active, image.detach(), left, judged, awake)
            awake = awake & (left > 0)
            if iteration == self.steps or not bool(awake.any()):
                break
            if self.diversity:
                relaxed = seen.relax(diversified(image, self.diversity, chance[active]), "image")
            codes = soft_code(relaxed, alpha, size)
            (gradient,) = torch.autograd.grad(aim.objective(codes, image, active).sum(), image)
            if first and iteration == 0:
                largest = gradient.flatten(1).abs().amax(dim=1)
                self.note("zero_gradient", (largest < TINY)[awake])
                self.note("saturated", (codes.detach().abs() > SATURATED)[awake])
            moved = budget.project(origin, stepper.move(moved, gradient, active), bounds)
            kept = staying(awake)
            if kept is not None:
                active, origin, moved, goal, size, awake = (
                    part[kept] for part in (active, origin, moved, goal, size, awake)
                )
