"""The adaptive attacker of image hashing: it wants a code and to be accepted by a detector."""

from __future__ import annotations

import math
from typing import ClassVar, Self

import torch
from torch import Tensor

from advhash.attacks.base import Attack, AttackData, Goal, Knowledge
from advhash.attacks.gradient.anchors import voted
from advhash.attacks.gradient.descent import GradientAttack
from advhash.attacks.gradient.objectives import similarity, soft_code
from advhash.attacks.gradient.steps import Stepper, resolve_rule, step_length
from advhash.budget import Budget, round_toward
from advhash.codes.metrics import retrieval_average_precision
from advhash.codes.packed import HashCodes
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Batch, Modality
from advhash.defenses.detectors.image_codes import CodeDetector
from advhash.errors import UsageError
from advhash.victims.base import HashVictim

HALF = 0.5  # of the reference
STEPS = 100  # of a descent


class Success:
    """Whether an attack on a query has reached its goal: the one definition of this package.

    Targeted: the expected average precision of the code for the target's labels is at least half
    of that of the majority code of all candidates of the target. Untargeted: the one for the
    query's own labels is at most half of that of its clean code.
    """

    def __init__(self, data: AttackData, labels: Tensor, clean: HashCodes, *, goal: Goal) -> None:
        """labels: (B,C) of the targets, or of the queries when untargeted."""
        self._data, self._labels, self._goal = data, labels.cpu().numpy(), goal
        reference = clean
        if goal == "targeted":
            reference = HashCodes.from_relaxed(voted(data, labels, None))
        self._bar = HALF * self._precision(reference, slice(None))

    def _precision(self, codes: HashCodes, rows: Tensor | slice) -> Tensor:
        labels = self._labels[rows if isinstance(rows, slice) else rows.cpu().numpy()]
        precision = retrieval_average_precision(
            codes, self._data.codes, labels, self._data.labels.numpy()
        )
        return torch.from_numpy(precision)

    def of(self, codes: HashCodes, rows: Tensor | None = None) -> Tensor:
        """(b,) bool, on the CPU, of the codes of queries `rows` (all by default).

        A query whose bar is 0 never succeeds: it has nothing to reach or to lose.
        """
        bar = self._bar if rows is None else self._bar[rows.cpu()]
        value = self._precision(codes, slice(None) if rows is None else rows)
        reached = value >= bar if self._goal == "targeted" else value <= bar
        return reached & (bar > 0)


class AdaptiveTargeted(Attack):
    """Descends a gradient attack's objective + w·relu(score − t)/spread, for each weight w.

    attack: whose anchors, objective and α; `fit` fits it
    first: the fitted attack that the detector is judged by, e.g. ProS-GAN; `attack` where None
    detector, threshold: an item is accepted iff its score is at most the threshold t
    spread: what an excess over the threshold is measured in: the standard deviation of the scores
        of clean items
    weights: w, one descent from the query for each, and one from the images of `first` where one is
        given; 0 ignores the detector
    steps, step: iterations of each descent, and their length as a fraction of the radius

    It knows all of victim, database and detector: the worst case. The score is descended as the
    detector computes it, its bits straight-through. Judged on the 8-bit grid are the images of
    `first`, so that it is never weaker than that attack with the same seed, and every iterate. Kept
    is the one that is the first to succeed (`Success`) and be accepted, and the image is left alone
    from then on; else the lowest −⟨h, b⟩/K + relu(score − t)/spread of all iterates. Without a
    bound the rule is Adam's, as sign steps hold a picture at the corners of the cube.

    Not published: after Carlini and Wagner (AISec 2017), who add the detector to the loss.
    """

    goal: ClassVar[Goal] = "targeted"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"image"})
    knowledge: ClassVar[Knowledge] = frozenset({"weights", "gradients", "database codes", "labels"})

    def __init__(
        self,
        *,
        attack: GradientAttack,
        detector: CodeDetector,
        threshold: float,
        first: Attack | None = None,
        spread: float = 1.0,
        weights: tuple[float, ...] = (0.0, 0.3, 1.0, 3.0),
        steps: int = STEPS,
        step: float = 0.1,
    ) -> None:
        if attack.goal != self.goal:
            raise ValueError(f"expected an attack that is {self.goal}, got one {attack.goal}")
        if not weights or min(weights) < 0 or steps < 1 or not step > 0 or not spread > 0:
            raise ValueError(
                "expected weights >= 0, steps >= 1, step > 0 and spread > 0, got "
                f"{weights}, {steps}, {step}, {spread}"
            )
        if not math.isfinite(threshold):
            raise ValueError(f"expected a finite threshold, got {threshold}")
        if first is not None and first.goal != self.goal:
            raise ValueError(f"expected a first attack that is {self.goal}, got {first.goal}")
        self.attack, self.first, self.detector = attack, first, detector
        self.threshold, self.spread = threshold, spread
        self.weights, self.steps, self.step = weights, steps, step
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
        """Fit the inner attack and keep the database."""
        self.attack.fit(victim, data, budget, seed=seed, progress=progress)
        self._data = data
        return self

    def run(
        self, victim: HashVictim, batch: Batch, targets: Tensor | None, budget: Budget
    ) -> Tensor:
        """(B,3,H,W) images on the 8-bit grid. Raises UsageError before `fit`."""
        if self._data is None:
            raise UsageError(f"{type(self).__name__}: call fit with the database before run")
        clean, bounds = batch.inputs["image"], victim.bounds["image"]
        moved = (self.first or self.attack).run(victim, batch, targets, budget).to(clean)
        moved = round_toward(clean, budget.project(clean, moved, bounds))
        search = _Search(self, self._data, victim, batch, targets, budget)
        search.judge(moved, torch.arange(len(clean), device=clean.device))
        for start in (clean,) if self.first is None else (clean, moved):
            for weight in self.weights:
                search.descend(start, weight)
        return search.best


class _Search:
    """The best images of a batch so far, and one descent after the other to better ones."""

    def __init__(
        self,
        method: AdaptiveTargeted,
        data: AttackData,
        victim: HashVictim,
        batch: Batch,
        targets: Tensor | None,
        budget: Budget,
    ) -> None:
        self.method, self.victim, self.budget = method, victim, budget
        self.clean = batch.inputs["image"]
        labels = batch.labels if targets is None else targets
        with torch.no_grad():
            relaxed = victim.relax(self.clean, "image")
        self.success = Success(data, labels, HashCodes.from_relaxed(relaxed), goal=method.goal)
        self.scale = relaxed.abs().mean(dim=1, keepdim=True).clamp_min(1e-6)
        self.aim = method.attack.aim(self.clean, soft_code(relaxed, 1.0, self.scale), labels)
        self.best = self.clean.clone()
        self.lowest = torch.full((len(self.clean),), math.inf, device=self.clean.device)

    def judge(self, image: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Keep those of images (b,…), queries `rows`, that are better; their real codes, excess."""
        relaxed = self.victim.relax(image, "image")
        score = self.method.detector.penalty(self.victim, image, relaxed, "image")
        excess = (score - self.method.threshold).clamp_min(0) / self.method.spread
        with torch.no_grad():
            codes = soft_code(relaxed, 1.0, self.scale[rows])
            judged = similarity(codes, self.aim.anchors[rows]) + excess
            won = self.success.of(HashCodes.from_relaxed(relaxed), rows).to(judged.device)
            judged[won & (score <= self.method.threshold)] = -math.inf
            better = judged < self.lowest[rows]
            self.best[rows[better]] = image[better].detach()
            self.lowest[rows[better]] = judged[better]
        return relaxed, excess

    def descend(self, start: Tensor, weight: float) -> None:
        """From (B,…) `start`, of the images that have not won yet."""
        steps, alphas, budget = self.method.steps, self.method.attack.alphas, self.budget
        rule = "adam" if budget.norm == "none" else resolve_rule("auto", budget)
        length = step_length(self.method.step, rule, budget, self.clean[0].numel())
        stepper = Stepper(rule, length, 0.0, self.clean)
        moved = start.clone()
        active = (self.lowest > -math.inf).nonzero().flatten()
        for iteration in range(steps + 1):
            if not len(active):
                return
            origin = self.clean[active]
            image = round_toward(origin, moved[active]).requires_grad_()
            relaxed, excess = self.judge(image, active)
            if iteration == steps:
                return
            codes = soft_code(relaxed, alphas[iteration * len(alphas) // steps], self.scale[active])
            loss = self.aim.objective(codes, image, active) + weight * excess
            (gradient,) = torch.autograd.grad(loss.sum(), image)
            ahead = stepper.move(moved[active], gradient, active)
            moved[active] = budget.project(origin, ahead, self.victim.bounds["image"])
            active = active[self.lowest[active] > -math.inf]


class AdaptiveHiding(AdaptiveTargeted):
    """The untargeted form: away from the query's own labels, and accepted. `attack` is e.g. hag."""

    goal: ClassVar[Goal] = "untargeted"
    knowledge: ClassVar[Knowledge] = frozenset(
        {"weights", "gradients", "query labels", "database codes", "labels"}
    )
