"""The tables of `advhash defend`."""

from __future__ import annotations

from typing import Literal

from advhash.experiments.config import BudgetConfig, Hardened
from advhash.experiments.transfer.config import (
    LabelledMethod,
    LabelledVictim,
    MatrixConfig,
    TransferConfig,
)

TARGETED, UNTARGETED = "autohash", "autohash-untargeted"


class DefendConfig(MatrixConfig, Hardened):
    """`advhash defend`: a victim, its defence, and the budget that both are attacked under.

    defense_budget: what the defence is trained against; by default the budget of the attacks
    """

    command: Literal["defend"] = "defend"
    victim: LabelledVictim
    defense: LabelledMethod

    def matrix(self) -> TransferConfig:
        """The matrix of the victim with and without the defence. Raises ConfigError."""
        from advhash.experiments.transfer.members import labels_of

        victim = self.victim.model_dump(exclude_unset=True)
        plain, defense = labels_of([self.victim]), labels_of([self.defense])
        hardened = {
            **victim,
            "label": "+".join([*plain, *defense]),
            "defense": self.defense.model_dump(exclude={"label"}),
            "defense_budget": self.defense_budget.model_dump(),
        }
        return self.turned_into(
            TransferConfig,
            victims=[{**victim, "label": plain[0]}, hardened],
            attacks=[{"name": TARGETED}, {"name": UNTARGETED}],
        )

    def written(self, matrix: TransferConfig) -> DefendConfig:
        """The same with every default, from the matrix that has them."""
        from advhash.experiments.prepare.hardened import DEFAULT
        from advhash.experiments.transfer.members import labels_of

        plain, hardened = matrix.victims
        label = labels_of([self.defense])[0]
        defense = {**hardened.settings["defense"], "label": label}
        trained_at = hardened.settings.get("defense_budget", self.defense_budget.model_dump())
        return self.model_copy(
            update={
                **{name: getattr(matrix, name) for name in ("device", "dataset", "protocol")},
                "victim": plain,
                "defense": LabelledMethod.build(defense),
                "defense_budget": BudgetConfig.build(trained_at),
                "budget": self.budget.written(DEFAULT),
            }
        )
