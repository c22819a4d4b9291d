"""Attacks that aim at one code for each query: the target's anchor, or the opposite of its own."""

from __future__ import annotations

from typing import Self

from torch import Tensor

from advhash.attacks.base import Attack, AttackData
from advhash.attacks.gradient.anchors import voted
from advhash.budget import Budget
from advhash.compute.progress import Progress, silent
from advhash.errors import UsageError
from advhash.victims.base import HashVictim


class GoalAttack(Attack):
    """Moves an image until its code is the goal, or as near to it as the budget allows.

    Targeted: the goal is DHTA's anchor, the majority of 9 codes of the target (Bai et al., ECCV
    2020). Untargeted: the goal is the opposite of the query's own code, so no database is needed;
    what lies far from its own code lies far from the rows of its own labels.
    """

    _data: AttackData | None = None

    def fit(
        self,
        victim: HashVictim,
        data: AttackData,
        budget: Budget,
        *,
        seed: int = 0,
        progress: Progress = silent,
    ) -> Self:
        """Keep the database codes and labels, from which anchors are drawn."""
        self._data = data
        return self

    def goals(self, own: Tensor, targets: Tensor | None) -> Tensor:
        """(B,K) ±1, for (B,K) ±1 own codes and (B,C) targets (None when untargeted).

        Raises UsageError: targeted before `fit`; DataError: a target that no database row shares.
        """
        if targets is None:
            return -own
        if self._data is None:
            raise UsageError(f"{type(self).__name__}: call fit with the database before run")
        return voted(self._data, targets, 9, self.chance(len(targets))).to(own)
