"""The tables of `advhash lifelong`."""

from __future__ import annotations

from typing import Literal

from pydantic import (
    Field,
)

from advhash.experiments.config import DatasetConfig, MethodConfig, Run, Table, VictimConfig


class OrdersConfig(Table):
    """In which order categories arrive, and how much is repeated.

    categories: the new categories of each increment of each order, instead of drawn ones
    attacked_seeds: how many of the seeds of each order are attacked; 0: none
    """

    orders: int = Field(default=3, ge=1, le=100, strict=True)
    increments: int = Field(default=2, ge=1, le=20, strict=True)
    share: float = Field(default=0.08, gt=0, lt=1)  # of the database, of one increment
    seeds: int = Field(default=3, ge=1, le=100, strict=True)
    categories: list[list[list[str]]] | None = None
    attacked_seeds: int = Field(default=1, ge=0, strict=True)
    queries: int = Field(default=100, ge=1, strict=True)  # that are attacked


class LifelongConfig(Run):
    """`advhash lifelong`. `rival` is dcmh; `attack` prosgan."""

    command: Literal["lifelong"] = "lifelong"
    victim: VictimConfig
    rival: MethodConfig = Field(default_factory=lambda: MethodConfig(name="dcmh"))
    attack: MethodConfig = Field(default_factory=lambda: MethodConfig(name="prosgan"))
    dataset: DatasetConfig = Field(default_factory=DatasetConfig)
    lifelong: OrdersConfig = Field(default_factory=OrdersConfig)
