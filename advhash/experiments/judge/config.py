"""The tables of `advhash judge`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from advhash.experiments.config import AttackProtocol, BudgetConfig, DatasetConfig, Hardened


class JudgeConfig(Hardened):
    """`advhash judge`: a victim, pictures that another tool changed, and their originals.

    pictures: the folder or file of the set
    clean:    the originals; without a data set of its own, the victim is trained on them, too
    claims:   a JSON or CSV file; None: claims.json or claims.csv in the folder, if there is one
    budget:   what the changes are held to, which must be stated
    """

    command: Literal["judge"] = "judge"
    pictures: str
    clean: DatasetConfig = Field(default_factory=DatasetConfig)
    claims: str | None = None
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    protocol: AttackProtocol = Field(default_factory=AttackProtocol)
