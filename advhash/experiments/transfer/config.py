"""The tables of `advhash transfer`."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
)

from advhash.experiments.config import (
    BudgetConfig,
    DatasetConfig,
    MethodConfig,
    ProtocolConfig,
    Run,
    VictimConfig,
)


class TransferConfig(Run):
    """`advhash transfer`: every method on every victim, judged on all of them.

    victims: at least two; a setting `seed` of one trains it with a seed of its own, and `defense`
        (a name, or a table of a name and settings) hardens it under `defense_budget`, or else under
        the budget of the attacks
    attacks: the methods, with their settings
    """

    command: Literal["transfer"] = "transfer"
    victims: list[VictimConfig] = Field(min_length=2)
    attacks: list[MethodConfig] = Field(min_length=1)
    dataset: DatasetConfig = Field(default_factory=DatasetConfig)
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    protocol: ProtocolConfig = Field(default_factory=ProtocolConfig)
