"""The tables of `advhash benchmark`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    Field,
    field_validator,
)

from advhash.experiments.config import (
    AttackProtocol,
    BudgetConfig,
    DatasetConfig,
    MethodConfig,
    Run,
    Table,
    VictimConfig,
)
from advhash.experiments.config_text import parse_method


class GridConfig(Table):
    """Every data set × victim × defence × attack × budget of its lists.

    An item is a table, or a line: `dpsh+bits=16`; for a budget, its ε: `8/255`.

    defenses: "none" is the victim as it was trained
    budgets:  an empty list: the default budget of each attack
    """

    datasets: list[DatasetConfig] = Field(min_length=1)
    victims: list[VictimConfig] = Field(min_length=1)
    defenses: list[MethodConfig] = Field(
        default_factory=lambda: [MethodConfig(name="none")], min_length=1
    )
    attacks: list[MethodConfig] = Field(min_length=1)
    budgets: list[BudgetConfig] = Field(default=[])
    defense_budget: BudgetConfig = Field(default_factory=BudgetConfig)
    protocol: AttackProtocol = Field(default_factory=AttackProtocol)

    @field_validator("datasets", "victims", "defenses", "attacks", mode="before")
    @classmethod
    def _named(cls, items: Any) -> Any:
        if not isinstance(items, list):
            return items
        return [parse_method(item) if isinstance(item, str) else item for item in items]

    @field_validator("budgets", mode="before")
    @classmethod
    def _radii(cls, items: Any) -> Any:
        if not isinstance(items, list):
            return items
        return [{"eps": item} if isinstance(item, str | float | int) else item for item in items]


class SuiteConfig(Run):
    """`advhash benchmark`: grids, each victim trained and each attack made with several seeds.

    seed: the first of the seeds
    name: becomes part of the run folder's name
    """

    command: Literal["benchmark"] = "benchmark"
    name: str = Field(default="suite", pattern=r"^[\w .+-]+$")
    seed: int = Field(default=0, ge=0, lt=2**62)
    victim_seeds: int = Field(default=3, ge=1, le=100, strict=True)
    attack_seeds: int = Field(default=3, ge=1, le=100, strict=True)
    grids: list[GridConfig] = Field(min_length=1)
