"""Attacks that aim at one code for each query: the target's anchor, or the opposite of its own."""

from __future__ import annotations

from torch import Tensor

from advhash.attacks.base import DatabaseAttack
from advhash.attacks.gradient.anchors import voted


class GoalAttack(DatabaseAttack):
    """Moves an image until its code is the goal, or as near to it as the budget allows.

    Targeted: the goal is DHTA's anchor, the majority of 9 codes of the target (Bai et al., ECCV
    2020). Untargeted: the goal is the opposite of the query's own code, so no database is needed;
    what lies far from its own code lies far from the rows of its own labels.
    """

    def goals(self, own: Tensor, targets: Tensor | None) -> Tensor:
        """(B,K) ±1, for (B,K) ±1 own codes and (B,C) targets (None when untargeted).

        Raises UsageError: targeted before `fit`; DataError: a target that no database row shares.
        """
        if targets is None:
            return -own
        return voted(self.served, targets, 9, self.chance(len(targets))).to(own)
