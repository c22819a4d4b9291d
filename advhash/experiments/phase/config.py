"""The tables of `advhash phase-chart`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    field_validator,
)

from advhash.experiments.config import (
    BudgetConfig,
    DatasetConfig,
    MethodConfig,
    Run,
    Table,
    VictimConfig,
)


class PhaseGrid(Table):
    """The axes of a phase chart, and the thresholds of its regimes, which are ours.

    epochs: times at which each training is measured; 0 is the network at initialisation
    samples: training rows; noises: shares of wrong training labels
    queries: that are attacked at each point
    under, sufficient: redundancy ratios; saturation: gain of accuracy by the next width
    """

    widths: list[Annotated[int, Field(ge=1)]] = Field(default=[3, 6, 12, 25, 50, 100, 200])
    epochs: list[Annotated[int, Field(ge=0)]] = Field(default=[0, 1, 3, 10, 20, 40])
    samples: list[Annotated[int, Field(ge=2)]] = Field(default=[100, 300, 1000])
    weight_decays: list[Annotated[float, Field(ge=0)]] = Field(default=[1e-6, 1e-2])
    noises: list[Annotated[float, Field(ge=0, le=1)]] = Field(default=[0.0, 0.3])
    repeats: int = Field(default=2, ge=1, le=100, strict=True)
    queries: int = Field(default=50, ge=1, strict=True)
    under: float = Field(default=0.05, ge=0, le=1)
    sufficient: float = Field(default=0.01, ge=0, le=1)
    saturation: float = Field(default=0.01, ge=0, le=1)

    @property
    def axes(self) -> dict[str, list[int] | list[float]]:
        """The levels of each factor, as pages name it."""
        return {
            "width": self.widths,
            "epochs": self.epochs,
            "sample": self.samples,
            "weight_decay": self.weight_decays,
            "noise": self.noises,
        }

    @field_validator("widths", "epochs", "samples", "weight_decays", "noises")
    @classmethod
    def _ascending(cls, values: list[Any]) -> list[Any]:
        if not values or sorted(set(values)) != values:
            raise ValueError("expected different values in ascending order")
        return values


class PhaseConfig(Run):
    """`advhash phase-chart`: neural codes over size, time, sample, regularisation, label noise."""

    command: Literal["phase-chart"] = "phase-chart"
    victim: VictimConfig = Field(default_factory=lambda: VictimConfig(name="neural-code"))
    attack: MethodConfig = Field(
        default_factory=lambda: MethodConfig.build({"name": "dhta", "steps": 20})
    )
    dataset: DatasetConfig = Field(
        default_factory=lambda: DatasetConfig.build({"name": "digits", "size": 16})
    )
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    phase: PhaseGrid = Field(default_factory=PhaseGrid)
