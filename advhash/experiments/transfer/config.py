"""The tables of `advhash transfer`."""

from __future__ import annotations

from typing import Literal, TypeVar

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


class LabelledMethod(MethodConfig):
    """label: its name in the record; None: what the command says, e.g. `dhta+steps=20`."""

    label: str | None = None


class LabelledVictim(VictimConfig):
    """label: its name in the record; None: what the command says, e.g. `dpsh+bits=16`."""

    label: str | None = None


class MatrixConfig(Run):
    """How far queries are moved, and how every victim is judged by them."""

    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    protocol: ProtocolConfig = Field(default_factory=ProtocolConfig)


Settings = TypeVar("Settings", bound=MatrixConfig)


class TransferConfig(MatrixConfig):
    """`advhash transfer`: every method on every victim, judged on all of them.

    victims: at least two; a setting `seed` of one trains it with a seed of its own, and `defense`
        (a name, or a table of a name and settings) hardens it under `defense_budget`, or else under
        the budget of the attacks
    attacks: the methods, with their settings
    sources: ensembles that attacks are made for too, each by the labels of two victims or more
    """

    command: Literal["transfer"] = "transfer"
    victims: list[LabelledVictim] = Field(min_length=2)
    attacks: list[LabelledMethod] = Field(min_length=1)
    sources: list[list[str]] = Field(default_factory=list)
    dataset: DatasetConfig = Field(default_factory=DatasetConfig)
