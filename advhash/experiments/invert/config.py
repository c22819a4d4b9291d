"""The tables of `advhash invert`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from advhash.experiments.config import BudgetConfig, Hardened, MethodConfig, ProtocolConfig
from advhash.registry import INVERSIONS, Registry


class InvertConfig(Hardened):
    """`advhash invert`: the tables of an attack, so that `advhash attack` can stand for it.

    budget:   expected empty, since no input is moved
    protocol: `queries` and `query_modality`, the party, decide; nothing is retrieved
    """

    registries: ClassVar[Mapping[str, Registry[Any]]] = {
        **Hardened.registries,
        "attack": INVERSIONS,
    }

    command: Literal["invert"] = "invert"
    attack: MethodConfig = Field(default_factory=lambda: MethodConfig(name="code-inversion"))
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    protocol: ProtocolConfig = Field(default_factory=ProtocolConfig)

    @field_validator("command", mode="before")
    @classmethod
    def _once_an_attack(cls, command: Any) -> Any:
        """Version 0.1 wrote reconstructions as attacks."""
        return "invert" if command == "attack" else command
