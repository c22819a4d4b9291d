"""Universal targeted perturbations: one for each target label set, the same for every query."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from advhash.attacks.base import AttackData, DatabaseAttack, Goal, Knowledge, frozen
from advhash.attacks.gradient.anchors import majority
from advhash.attacks.gradient.objectives import similarity, soft_code, typical_size
from advhash.attacks.gradient.steps import step_length, stepped
from advhash.budget import Budget, clipped
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Batch, Modality
from advhash.errors import UsageError
from advhash.registry import ATTACKS
from advhash.victims.base import HashVictim


@ATTACKS.register(
    "universal", source="after Moosavi-Dezfooli et al., CVPR 2017, and TUAA, ICASSP 2024"
)
@dataclass(kw_only=True, eq=False, repr=False)
class Universal(DatabaseAttack):
    """One perturbation per target label set, found on training images, added to any query.

    steps:      descent steps for each target set
    batch_size: training images a step
    step:       length of the first step as a fraction of the budget's radius (see `step_length`);
                it falls linearly to 0
    momentum:   of the gradient, divided by its mean size at each step (MI: Dong et al., CVPR 2018)
    alpha:      h = tanh(α·u/s), s the mean |u| of the training images

    Minimises −⟨h(x + δ), b⟩/K over minibatches of training images x, whatever their labels, where
    b is the majority code of the target set in the attacked database: sign steps in an L∞ ball,
    L2-normalised ones in an L2 ball. δ is inside the budget; x + δ is clipped to [0,1], which is
    all that differs between queries.

    Training happens in `run`, once per budget and target set, when a set is first asked for: data
    sets can have thousands of sets, of which a run asks for few. It costs steps · batch_size
    forward and backward passes a set; afterwards a query costs one addition. δ depends on the
    seed of `fit`, the set and the budget, not on the queries or on other sets.

    Deviations:
    - a prescribed number of steps along minibatch gradients, where Moosavi-Dezfooli et al. add up
      smallest per-image steps until a share of the images is fooled, untargeted
    - no masked bits and no term on convolution features, which TUAA has
    - real codes are divided by their mean size before tanh, since the victims' are unbounded
    """

    goal: ClassVar[Goal] = "targeted"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"image"})
    knowledge: ClassVar[Knowledge] = frozenset(
        {"weights", "gradients", "database codes", "labels", "auxiliary data"}
    )

    takes_one_size: ClassVar[bool] = True
    couples_queries: ClassVar[bool] = True  # one change serves all queries of a target

    steps: int = 150
    batch_size: int = 32
    step: float = 0.1
    momentum: float = 0.9
    alpha: float = 1.0

    def __post_init__(self) -> None:
        above = self.step > 0 and self.alpha > 0 and 0 <= self.momentum < 1
        if min(self.steps, self.batch_size) < 1 or not above:
            raise ValueError(
                "expected steps and batch_size >= 1, step and alpha > 0 and momentum in [0,1), got "
                f"{self.steps}, {self.batch_size}, {self.step}, {self.alpha} and {self.momentum}"
            )
        self.history = []
        self._seed = 0
        self._scale: Tensor | None = None
        self._found: dict[tuple[bytes, Budget], Tensor] = {}

    def fit(
        self,
        victim: HashVictim,
        data: AttackData,
        budget: Budget,
        *,
        seed: int = 0,
        progress: Progress = silent,
    ) -> Self:
        """Keep training images, database codes and labels, and forget what was found."""
        self._seed = seed
        with frozen(victim):
            self._scale = typical_size(victim, data.dataset.train)
        self._found, self.history = {}, []
        return super().fit(victim, data, budget, seed=seed)

    def run(
        self, victim: HashVictim, batch: Batch, targets: Tensor | None, budget: Budget
    ) -> Tensor:
        """(B,3,H,W) in [0,1]. Raises UsageError before `fit` and for L0."""
        assert targets is not None
        if budget.norm == "l0":
            raise UsageError("Universal: expected linf, l2 or none, got l0")
        changes = [self.perturbation(victim, target, budget) for target in targets]
        return (batch.inputs["image"] + torch.stack(changes)).clamp(*victim.bounds["image"])

    def perturbation(self, victim: HashVictim, target: Tensor, budget: Budget) -> Tensor:
        """(3,H,W) the change that serves every query for one (C,) target set."""
        key = (target.cpu().numpy().tobytes(), budget)
        if key not in self._found:
            self._found[key] = self._search(victim, target, budget)
        return self._found[key]

    def _search(self, victim: HashVictim, target: Tensor, budget: Budget) -> Tensor:
        train = self.served.dataset.train
        assert self._scale is not None
        anchor = majority(self.served, target[None], victim.device).to(victim.device)
        low, high = victim.bounds["image"]
        own = self._seed ^ zlib.crc32(target.cpu().numpy().tobytes())
        chance = torch.Generator().manual_seed(own)
        origin = torch.zeros((1, *train.tensor("image").shape[1:]), device=victim.device)
        change, velocity = origin.clone(), origin.clone()
        rule: Literal["l2", "sign"] = "l2" if budget.norm == "l2" else "sign"
        length = step_length(self.step, rule, budget, origin.numel())
        loss = math.nan
        for step in range(self.steps):
            rows = torch.randint(len(train), (self.batch_size,), generator=chance)
            images = train.rows(rows).inputs["image"].to(victim.device)
            change.requires_grad_()
            relaxed = victim.relax(clipped(images + change, (low, high)), "image")
            objective = similarity(soft_code(relaxed, self.alpha, self._scale), anchor).mean()
            (gradient,) = torch.autograd.grad(objective, change)
            velocity = self.momentum * velocity + gradient / gradient.abs().mean().clamp_min(1e-12)
            moved = stepped(change.detach(), velocity, rule, length * (1 - step / self.steps))
            change = budget.project(origin, moved, (low - high, high - low))
            loss = objective.item()
        self.history.append({"phase": "universal", "step": float(len(self._found)), "loss": loss})
        return change[0]
