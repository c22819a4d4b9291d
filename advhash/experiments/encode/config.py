"""The tables of `advhash encode`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from advhash.experiments.config import BudgetConfig, Hardened, MethodConfig


class EncodeConfig(Hardened):
    """`advhash encode`: what codes encode. Without an attack: DHTA, where the victim has gradients.

    queries: how many test pictures; None: the whole query split
    most_bits: of the network inside an image hash, drawn where more vary
    """

    command: Literal["encode"] = "encode"
    attack: MethodConfig | None = None
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    queries: int | None = Field(default=None, ge=2)
    most_bits: int = Field(default=8192, ge=1)
