"""The tables of `advhash benchmark`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self

from pydantic import (
    Field,
    field_validator,
    model_validator,
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
from advhash.experiments.poison.config import Share
from advhash.registry import POISONINGS, QUANTISERS, RESCORERS, Registry


def _tables(items: Any) -> Any:
    """Lines as tables; what is neither is left to be refused."""
    if not isinstance(items, list):
        return items
    return [parse_method(item) if isinstance(item, str) else item for item in items]


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
        return _tables(items)

    @field_validator("budgets", mode="before")
    @classmethod
    def _radii(cls, items: Any) -> Any:
        if not isinstance(items, list):
            return items
        return [{"eps": item} if isinstance(item, str | float | int) else item for item in items]


class SearchGridConfig(Table):
    """Every data set × quantiser × poisoning × store × rescorer of its lists.

    An item is a table, or a line: `faiss-ivf+probes=8`.

    datasets:   with embeddings of their texts
    poisonings: that plant vectors, each with as many seeds as attacks have; those of one item once
    rescorers:  "none" leaves the order to the store's distances
    shares:     planted items by documents
    known, unseen: queries, see `PoisonConfig`
    """

    datasets: list[DatasetConfig] = Field(min_length=1)
    quantisers: list[MethodConfig] = Field(min_length=1)
    poisonings: list[MethodConfig] = Field(min_length=1)
    stores: list[MethodConfig] = Field(min_length=1)
    rescorers: list[MethodConfig] = Field(
        default_factory=lambda: [MethodConfig(name="none")], min_length=1
    )
    shares: list[Share] | None = Field(default=None, min_length=1)
    known: int | None = Field(default=None, ge=1)
    unseen: int | None = Field(default=None, ge=1)

    @field_validator("datasets", "quantisers", "poisonings", "stores", "rescorers", mode="before")
    @classmethod
    def _named(cls, items: Any) -> Any:
        return _tables(items)


class SuiteConfig(Run):
    """`advhash benchmark`: grids, each victim trained and each attack made with several seeds.

    seed: the first of the seeds
    name: becomes part of the run folder's name
    searches: grids of stores that items are planted in
    """

    registries: ClassVar[Mapping[str, Registry[Any]]] = {
        **Run.registries,
        "poisoning": POISONINGS,
        "quantiser": QUANTISERS,
        "rescorer": RESCORERS,
    }
    command: Literal["benchmark"] = "benchmark"
    name: str = Field(default="suite", pattern=r"^[\w .+-]+$")
    seed: int = Field(default=0, ge=0, lt=2**62)
    victim_seeds: int = Field(default=3, ge=1, le=100, strict=True)
    attack_seeds: int = Field(default=3, ge=1, le=100, strict=True)
    grids: list[GridConfig] = Field(default=[])
    searches: list[SearchGridConfig] = Field(default=[])

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.grids and not self.searches:
            raise ValueError("expected grids of attacks or searches of stores, got neither")
        return self
