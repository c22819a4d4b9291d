"""Rivals without a gradient: the straight line to an image of the target, and uniform noise."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.attacks.base import Attack, AttackData, DatabaseAttack, Goal, Knowledge
from advhash.attacks.gradient.anchors import candidate_rows
from advhash.budget import Budget
from advhash.codes.metrics import retrieval_average_precision
from advhash.codes.packed import HashCodes
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Batch, Modality
from advhash.errors import UsageError
from advhash.registry import ATTACKS
from advhash.victims.base import HashVictim


@ATTACKS.register("noise", source="control")
class Noise(Attack):
    """Uniform noise of the whole budget: the floor that every attack must beat.

    Uniform in the L∞ ball, uniform on the L2 sphere, uniform images without a bound.
    """

    goal: ClassVar[Goal] = "untargeted"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"image"})
    knowledge: ClassVar[Knowledge] = frozenset()

    def __init__(self) -> None:
        self.history = []

    def run(
        self, victim: HashVictim, batch: Batch, targets: Tensor | None, budget: Budget
    ) -> Tensor:
        """(B,3,H,W) noisy images, inside the bounds. Raises UsageError for L0."""
        clean = batch.inputs["image"]
        low, high = victim.bounds["image"]
        with self.drawing(batch) as chance:
            if budget.norm == "none":
                return chance.uniform(*clean.shape[1:], low=low, high=high)
            if budget.norm == "linf":
                noise = chance.uniform(*clean.shape[1:], low=-budget.eps, high=budget.eps)
            elif budget.norm == "l2":
                noise = chance.normal(*clean.shape[1:])
                noise *= budget.eps / noise.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            else:
                raise UsageError(f"Noise: expected linf, l2 or none, got {budget.norm}")
        return (clean + noise).clamp(low, high)


@ATTACKS.register("blend", source="control")
class Blend(DatabaseAttack):
    """Toward the best database image of the target, as far as the budget allows.

    candidates: how many images of the target are tried for each query

    Tried are half by merit (the highest average precision, for the target, of their own code) and
    half by nearness to the query in pixels. Each is projected onto the budget around the query, in
    L2 a point on the straight line between them; kept is the result whose code has the highest
    average precision for the target. Without a bound that is an image of the target itself.
    """

    goal: ClassVar[Goal] = "targeted"
    takes_one_size: ClassVar[bool] = True
    modalities: ClassVar[frozenset[Modality]] = frozenset({"image"})
    knowledge: ClassVar[Knowledge] = frozenset(
        {"query codes", "database codes", "labels", "auxiliary data"}
    )

    def __init__(self, *, candidates: int = 10) -> None:
        if candidates < 1:
            raise ValueError(f"expected candidates >= 1, got {candidates}")
        self.candidates = candidates
        self.history = []
        self._images: HashCodes | None = None
        self._merits: dict[bytes, tuple[Tensor, Tensor]] = {}

    def fit(
        self,
        victim: HashVictim,
        data: AttackData,
        budget: Budget,
        *,
        seed: int = 0,
        progress: Progress = silent,
    ) -> Self:
        """Hash the database images as if they were queries."""
        stored = bool(victim.stored_rows(data.dataset).any())
        hashed = data.database == "image" and not stored
        self._images = data.codes if hashed else victim.encode_split(data.dataset.database, "image")
        self._merits = {}
        return super().fit(victim, data, budget, seed=seed)

    def run(
        self, victim: HashVictim, batch: Batch, targets: Tensor | None, budget: Budget
    ) -> Tensor:
        """(B,3,H,W). Raises UsageError before `fit`."""
        assert targets is not None
        moved = [
            self._best(victim, clean[None], target[None], budget)
            for clean, target in zip(batch.inputs["image"], targets, strict=True)
        ]
        return torch.cat(moved)

    def _best(self, victim: HashVictim, clean: Tensor, target: Tensor, budget: Budget) -> Tensor:
        """(1,3,H,W) the best projected candidate for one query."""
        rows, merit = self.merits(target)
        images = self.served.dataset.database.rows(rows).inputs["image"].to(clean)
        far = (images - clean).flatten(1).norm(dim=1)
        nearest = far.argsort(stable=True)[: self.candidates // 2].cpu()
        fill = self.candidates - len(nearest)
        tried = torch.cat([nearest, merit.argsort(descending=True, stable=True)[:fill]]).unique()
        bounds = victim.bounds["image"]
        moved = budget.project(clean, images[tried.to(clean.device)], bounds)
        scores = self._precision(victim.encode(moved, "image"), target)
        return moved[int(np.argmax(scores))][None]

    def merits(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """(R,) the rows of a (1,C) target, and the average precision of the code of each image."""
        key, served = target.cpu().numpy().tobytes(), self.served
        if key not in self._merits:
            assert self._images is not None
            rows = candidate_rows(served.labels, target[0].cpu())
            merit = torch.from_numpy(self._precision(self._images[rows.numpy()], target))
            self._merits[key] = (rows, merit)
        return self._merits[key]

    def _precision(self, codes: HashCodes, target: Tensor) -> npt.NDArray[np.float64]:
        served, wanted = self.served, target.cpu().numpy().repeat(len(codes), axis=0)
        return retrieval_average_precision(codes, served.codes, wanted, served.labels.numpy())
