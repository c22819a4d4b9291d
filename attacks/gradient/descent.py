"""The descent that all gradient attacks share: an anchor code, an objective and a step rule.

P2P, DHTA, THA, HAG, SDHA, CgAT and the mainstay attack differ in the code that an image is to reach
(`anchors.py`), in what is descended on the way (`objectives.py`) and in published step rules
(`steps.py`). An untargeted attack reaches for the opposite of what it wants to leave.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
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
from advhash.budget import Budget, clipped, round_toward
from advhash.chance import Chance
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
    nesterov: take the gradient where momentum alone would lead, at x − η·μ·g (NI-FGSM, Lin et al.,
        ICLR 2020); it costs a second forward pass
    scales: m, the gradient is the mean over x, x/2, …, x/2^(m−1) (SI-FGSM, Lin et al., ICLR 2020);
        m forward and backward passes a step
    neighbours: N of variance tuning (VMI-FGSM, Wang & He, CVPR 2021): to the gradient is added the
        mean gradient at N random points around the image of the step before, less the gradient
        there; 0: none; N + 1 forward and backward passes a step
    reach: β, how far those points lie: uniform in ±β times the budget's radius
    rest: whether an image is left alone once its code is the anchor; False spends all steps on it,
        so that its bits move away from their thresholds: for victims other than this one
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
    equals the anchor, unless `rest` is False; the iterate with the fewest wrong bits is returned,
    then the lowest −⟨tanh(u/s), b⟩/K to the anchor b, whatever the objective.

    `indicators` are shares in [0,1] over the images that did not rest at the start:

    zero_gradient: the gradient of the first step is zero
    saturated:     of their bits at that step, |h| is above 0.999
    stalled:       no iterate was better than the clean image

    Deviations:
    - real codes are divided by their mean size on the clean image before tanh, so that α means the
      same for unbounded codes
    - the gradient is taken at the 8-bit image, an image rests once its code is the anchor, and the
      best iterate is returned, not the last one
    - the points of `nesterov` and `neighbours` are drawn into [0,1]
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
    nesterov: bool = False
    scales: int = 1
    neighbours: int = 0
    reach: float = 1.5
    rest: bool = True
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
        if self.nesterov and (not self.momentum or self.rule == "adam"):
            raise ValueError(
                "nesterov looks ahead along the momentum: expected momentum > 0 and a rule other "
                f"than adam, got momentum={self.momentum}, rule={self.rule}"
            )
        if self.scales < 1 or self.neighbours < 0 or not 0 < self.reach < math.inf:
            raise ValueError(
                "expected scales >= 1, neighbours >= 0 and reach > 0, got "
                f"scales={self.scales}, neighbours={self.neighbours}, reach={self.reach}"
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
        wanted = best.left > 0 if self.rest else torch.ones_like(best.left, dtype=torch.bool)
        active, chance = wanted.nonzero().flatten(), self.chance(len(clean))
        origin, moved, goal, size = (part[active] for part in (clean, moved, aim.anchors, scale))
        awake = torch.ones_like(active, dtype=torch.bool)  # others fill up the batch
        variance = torch.zeros_like(clean) if self.neighbours else None
        radius = self.reach * step_length(1.0, "sign", budget, clean[0].numel())
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
            if self.rest:
                awake = awake & (left > 0)
            if iteration == self.steps or not bool(awake.any()):
                break
            slope = partial(self._slope, seen, aim, alpha, size, active, chance[active])
            if self.nesterov:
                image = clipped(stepper.ahead(moved, active), bounds).requires_grad_()
            gradient, codes = slope(image, None if self.nesterov else relaxed)
            if first and iteration == 0:
                largest = gradient.flatten(1).abs().amax(dim=1)
                self.note("zero_gradient", (largest < TINY)[left > 0])
                self.note("saturated", (codes.abs() > SATURATED)[left > 0])
            if variance is not None:
                around = torch.zeros_like(gradient)
                for _ in range(self.neighbours):
                    near = chance[active].uniform(*clean.shape[1:], low=-radius, high=radius)
                    point = clipped(image.detach() + near, bounds).requires_grad_()
                    around += slope(point)[0] / self.neighbours
                plain, gradient = gradient, gradient + variance[active]
                variance[active] = around - plain
            moved = budget.project(origin, stepper.move(moved, gradient, active), bounds)
            kept = staying(awake)
            if kept is not None:
                active, origin, moved, goal, size, awake = (
                    part[kept] for part in (active, origin, moved, goal, size, awake)
                )

    def _slope(
        self,
        seen: HashVictim,
        aim: Aim,
        alpha: float,
        scale: Tensor,
        rows: Tensor,
        chance: Chance,
        image: Tensor,
        relaxed: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """(b,3,H,W) gradient of the objective at images `rows`, a leaf; (b,K) soft codes there.

        relaxed: (b,K) the real codes of `image`, where they are known with their graph
        """
        total, first = torch.zeros_like(image), torch.empty(0)
        for scaled in range(self.scales):
            if scaled or self.diversity or relaxed is None:
                copies = image / 2**scaled
                if self.diversity:
                    copies = diversified(copies, self.diversity, chance)
                relaxed = seen.relax(copies, "image")
            codes = soft_code(relaxed, alpha, scale)
            (gradient,) = torch.autograd.grad(aim.objective(codes, image, rows).sum(), image)
            total += gradient / self.scales
            first = first if scaled else codes.detach()
        return total, first
