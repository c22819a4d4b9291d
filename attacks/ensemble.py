"""autohash: the worst case per query over a fixed ensemble, with nothing to tune.

What AutoAttack (Croce & Hein, ICML 2020) is to classifiers: members with different objectives, and
of each query the result that hurts most. Judged is what retrieval is judged by, the expected
average precision of the code against the database, which the attacker can compute.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from advhash.attacks.base import Attack, AttackData, DatabaseAttack, Goal, Knowledge
from advhash.attacks.black_box.baselines import Blend, Noise
from advhash.attacks.black_box.nes import NES, NESUntargeted
from advhash.attacks.gradient.anchors import centre_codes, expect_reachable, relevant_codes
from advhash.attacks.gradient.channels import Channelled, channels
from advhash.attacks.gradient.descent import Aim, GradientAttack
from advhash.attacks.gradient.hiding import (
    KNOWS_LABELS,
    SDHA,
    Mainstay,
    MainstayUntargeted,
    SDHAUntargeted,
)
from advhash.attacks.gradient.objectives import ranking_precision
from advhash.budget import Budget, round_toward
from advhash.codes.metrics import retrieval_average_precision
from advhash.codes.packed import HashCodes
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Batch, Modality
from advhash.registry import ATTACKS
from advhash.victims.base import HashVictim

STEPS = 100  # of every member that descends
SENT = 200  # images that nes may send for each query
SHARP = (0.7, 1.0, 1.5, 2.5)  # α of the members that descend average precision itself


@dataclass(kw_only=True, eq=False, repr=False)
class Ranking(GradientAttack):
    """Descend the ranking itself: up with the relaxed average precision of the target.

    levels: how many steps of distance it tells apart, at most and by default K; few of them reach
        farther from codes that no row of the target is near

    The objective is `ranking_precision` against the distinct codes of the database. A member of
    autohash and the adaptive attack that it is compared with.
    """

    alphas: tuple[float, ...] = SHARP
    levels: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.levels is not None and self.levels < 1:
            raise ValueError(f"expected levels >= 1, got {self.levels}")

    def aim(self, clean: Tensor, own: Tensor, labels: Tensor) -> Aim:
        up = 1 if self.goal == "targeted" else -1
        codes, relevant, counts = (
            part.to(own.device) for part in relevant_codes(self.served, labels)
        )
        levels = min(self.levels or own.shape[1], own.shape[1])

        def objective(soft: Tensor, images: Tensor, rows: Tensor) -> Tensor:
            return -up * ranking_precision(soft, codes, relevant[rows], counts, levels=levels)

        centre = centre_codes(self.served, labels, graded=True).to(own.device)
        return Aim(up * centre, objective)


class RankingUntargeted(Ranking):
    """Down with the relaxed average precision of the query's own labels."""

    goal: ClassVar[Goal] = "untargeted"
    knowledge: ClassVar[Knowledge] = KNOWS_LABELS


@ATTACKS.register("autohash", source="advhash")
class AutoHash(DatabaseAttack):
    """The worst case per query over a fixed ensemble of attacks. Nothing to tune.

    Members, in this order: blend (no gradients), mainstay, sdha, and twice the descent of a relaxed
    average precision from a random start, with K and with 8 levels; 100 steps each. Every iterate
    of every member is judged by the expected average precision of its code for the target's labels,
    and the best is kept. A query that reaches 1 is not attacked further. At the end `nes` tries the
    others with queries alone: that it does better is a sign of masked gradients.

    survive: what happens to pictures before they are hashed, e.g. "jpeg75", by one name or several:
        all members face what comes back, `nes` too (see `gradient/channels.py`)

    Deviations:
    - its own method: AutoAttack's idea with members and a criterion for retrieval
    """

    goal: ClassVar[Goal] = "targeted"
    modalities: ClassVar[frozenset[Modality]] = frozenset({"image"})
    knowledge: ClassVar[Knowledge] = GradientAttack.knowledge | Blend.knowledge

    def __init__(self, *, survive: str | tuple[str, ...] = ()) -> None:
        self.survive = survive
        channels(survive)
        self.history = []
        self._fitted: dict[str, Attack] = {}

    def members(self) -> Mapping[str, Attack]:
        """The ensemble by name, new and not fitted; those without gradients come first."""
        return {
            "blend": Blend(),
            "mainstay": Mainstay(steps=STEPS),
            "sdha": SDHA(steps=STEPS),
            "ranking": Ranking(steps=STEPS, random_start=True),
            "ranking-8": Ranking(steps=STEPS, levels=8, random_start=True),
        }

    def control(self) -> Attack:
        """A search with queries alone, which gradients should outdo."""
        return NES(queries=SENT)

    def fit(
        self,
        victim: HashVictim,
        data: AttackData,
        budget: Budget,
        *,
        seed: int = 0,
        progress: Progress = silent,
    ) -> Self:
        """Fit every member."""
        self._control = self.control().fit(victim, data, budget, seed=seed)
        self._fitted = {
            name: member.fit(victim, data, budget, seed=seed, progress=progress)
            for name, member in self.members().items()
        }
        return super().fit(victim, data, budget, seed=seed)

    def run(
        self, victim: HashVictim, batch: Batch, targets: Tensor | None, budget: Budget
    ) -> Tensor:
        """(B,3,H,W) images on the 8-bit grid. Raises UsageError before `fit` and for L0."""
        served, labels = self.served, batch.labels if targets is None else targets
        victim = Channelled.behind(self.survive, victim)
        if targets is not None:
            expect_reachable(served.labels, targets)
        clean = batch.inputs["image"]
        best, left = clean.clone(), self.left(victim.relax(clean, "image"), labels)
        keeper = torch.full((len(clean),), -1)
        lowest = {True: left.clone(), False: left.clone()}  # by whether a member has gradients
        for number, member in enumerate(self._fitted.values()):
            rows = (left > 0).nonzero().flatten()
            if not len(rows):
                break
            moved = self._attack(member, victim, batch, labels, rows, budget, number)
            reached = self.left(victim.relax(moved, "image"), labels[rows])
            descends = isinstance(member, GradientAttack)
            lowest[descends][rows] = torch.minimum(lowest[descends][rows], reached)
            better = reached < left[rows]
            kept = rows[better]
            best[kept], left[kept], keeper[kept.cpu()] = moved[better], reached[better], number
        self.note("black_box_lead", (lowest[True] - lowest[False])[left > 0])
        some = (left > 0).nonzero().flatten()
        if len(some) and budget.norm in self.control().norms:
            moved = self._attack(self._control, victim, batch, labels, some, budget)
            reached = self.left(victim.relax(moved, "image"), labels[some])
            self.note("query_lead", lowest[True][some] - reached)
            better = reached < left[some]
            best[some[better]], keeper[some[better].cpu()] = moved[better], len(self._fitted)
        for number, name in enumerate([*self._fitted, "nes"]):
            self.note(f"kept_{name}", keeper == number)
        return best

    @torch.no_grad()
    def left(self, relaxed: Tensor, labels: Tensor) -> Tensor:
        """(B,) what is left to gain of real codes (B,K): 1 less the average precision.

        Of an untargeted attack the average precision itself, of the query's labels.
        """
        codes, wanted = HashCodes.from_relaxed(relaxed), labels.cpu().numpy()
        precision = retrieval_average_precision(
            codes, self.served.codes, wanted, self.served.labels.numpy()
        )
        left = np.round(1 - precision if self.goal == "targeted" else precision, 9)
        return torch.from_numpy(left).float().to(relaxed.device)

    def _attack(
        self,
        member: Attack,
        victim: HashVictim,
        batch: Batch,
        labels: Tensor,
        rows: Tensor,
        budget: Budget,
        salt: int = 0,
    ) -> Tensor:
        """What a member makes of some rows, inside the budget and on the 8-bit grid."""
        clean, wanted = batch.inputs["image"][rows], labels[rows]
        part = Batch({"image": clean}, batch.labels[rows], batch.index[rows])
        if isinstance(member, GradientAttack):
            with member.drawing(part, salt):
                return member.descend(
                    victim,
                    clean,
                    wanted,
                    budget,
                    lambda codes, some: self.left(codes, wanted[some]),
                )
        moved = member.run(victim, part, wanted if self.goal == "targeted" else None, budget)
        return round_toward(clean, budget.project(clean, moved, victim.bounds["image"]))

    def notes(self) -> dict[str, Tensor]:
        """Its own, and those of the members as "MEMBER/NAME"."""
        notes = super().notes()
        for name, member in self._fitted.items():
            notes |= {f"{name}/{fact}": kept for fact, kept in member.notes().items()}
        return notes

    def forget(self) -> None:
        super().forget()
        for member in self._fitted.values():
            member.forget()

    def summarise(self, notes: Mapping[str, Tensor]) -> dict[str, float]:
        """Those of the members, each at its best member, and of the ensemble:

        black_box_lead: mean average precision by which the members without gradients beat those
                        with, over the queries that are not solved; above 0: gradients are masked
        query_lead:     the same of `nes` with 200 queries
        kept_NAME:      share of the queries whose result is that of a member
        """
        summary: dict[str, float] = {}
        for name, value in super().summarise(notes).items():
            fact = name.rpartition("/")[2]  # a member that fails is what the others are for
            summary[fact] = min(value, summary.get(fact, value))
        return summary


@ATTACKS.register("autohash-untargeted", source="advhash")
class AutoHashUntargeted(AutoHash):
    """The worst case per query over a fixed ensemble, away from its own labels. Nothing to tune.

    Members, in this order: noise (no gradients), mainstay-untargeted, sdha-untargeted, and twice
    the descent of a relaxed average precision with 8 levels, from the image and from a random
    start; 100 steps each.
    """

    goal: ClassVar[Goal] = "untargeted"
    knowledge: ClassVar[Knowledge] = KNOWS_LABELS

    def control(self) -> Attack:
        return NESUntargeted(queries=SENT)

    def members(self) -> Mapping[str, Attack]:
        return {
            "noise": Noise(),
            "mainstay-untargeted": MainstayUntargeted(steps=STEPS),
            "sdha-untargeted": SDHAUntargeted(steps=STEPS),
            "ranking-8": RankingUntargeted(steps=STEPS, levels=8, alphas=(0.5, 0.7, 1.0, 1.5)),
            "ranking-8-random": RankingUntargeted(steps=STEPS, levels=8, random_start=True),
        }
