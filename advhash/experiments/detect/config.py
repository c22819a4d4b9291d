"""The tables of `advhash detect`."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
)

from advhash.experiments.config import BudgetConfig, Hardened, MethodConfig, Table


class AdaptiveConfig(Table):
    """The attacker who knows the detector; what is not set is as `AdaptiveSlice` has it.

    For a hash of images `AdaptiveTargeted` takes `steps` alone.
    """

    classes: int | None = None
    steps: int | None = None
    learning_rate: float | None = None
    weight: float | None = None


class DetectConfig(Hardened):
    """`advhash detect`: how well abnormal inputs are told from clean ones.

    detector: None: `code-max` of a federation, `flips` of a hash of images
    attack:   what makes the abnormal inputs; None: `inputs` does
    inputs:   None without an attack: mixed of a federation, unbounded `prosgan` of a hash of images
    other:    data set of the out-of-distribution inputs
    budget:   of the attack and the adaptive one
    """

    command: Literal["detect"] = "detect"
    detector: MethodConfig | None = None
    attack: MethodConfig | None = None
    inputs: Literal["mixed", "noise", "ood"] | None = None
    other: str | None = None
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    adaptive: AdaptiveConfig = Field(default_factory=AdaptiveConfig)
    queries: int | None = Field(default=None, ge=1)
