"""The tables of `advhash evolve`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from advhash.experiments.config import BudgetConfig, DatasetConfig, Run, Table, VictimConfig
from advhash.targets import TargetRule


class SearchTable(Table):
    """How a search goes; None: the default of the domain, see `advhash.experiments.evolve.run`.

    seconds, candidates: when it ends; keyed, bits, noise: of the functional hash and the fitness
    steps, queries: of each attack; checked: share of hits that are evaluated nevertheless
    held_out: queries on which the winner is judged
    """

    algorithm: Literal["evolution", "random", "hill-climbing"] = "evolution"
    population: int | None = Field(default=None, ge=1, le=100_000)
    tournament: int | None = Field(default=None, ge=1)
    different: bool = False
    tabu_after: int = Field(default=0, ge=0)
    seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    candidates: int | None = Field(default=None, ge=1)
    repeats: int | None = Field(default=None, ge=1, le=1000)
    keyed: Literal["losses", "accuracies"] = "losses"
    bits: int | None = Field(default=None, ge=0, le=52)
    noise: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    max_num_evals: int = Field(default=1, ge=1)
    remove_probability: float = Field(default=0.0, ge=0, le=1)
    forget_every: int = Field(default=0, ge=0)
    capacity: int = Field(default=100_000, ge=1)
    checked: float = Field(default=0.05, ge=0, le=1)
    steps: int = Field(default=20, ge=1)
    queries: int = Field(default=100, ge=1)
    held_out: int | None = Field(default=None, ge=1)


class SearchConfig(Run):
    """`advhash evolve`. `table`: a file of trained cells; `other`: a victim that no search sees."""

    command: Literal["evolve"] = "evolve"
    domain: Literal["attack", "nas"]
    search: SearchTable = Field(default_factory=SearchTable)
    table: str | None = None
    victim: VictimConfig = Field(default_factory=lambda: VictimConfig(name="dpsh"))
    other: VictimConfig = Field(default_factory=lambda: VictimConfig(name="csq"))
    dataset: DatasetConfig = Field(default_factory=DatasetConfig)
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    targets: TargetRule = "disjoint"

    @model_validator(mode="before")
    @classmethod
    def _of_version_one(cls, values: Any) -> Any:
        """Until 0.1 the command was called `search`, and its executor stood in the config."""
        if isinstance(values, Mapping) and values.get("command") == "search":
            kept = {name: value for name, value in values.items() if name != "executor"}
            return {**kept, "command": "evolve"}
        return values
