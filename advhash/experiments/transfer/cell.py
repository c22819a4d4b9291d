"""One cell of a transfer matrix: the queries as one method moves them on one victim."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from advhash.attacks.base import Attack
from advhash.experiments.attack.perturb import attack_queries
from advhash.experiments.attack.record import attack_info
from advhash.experiments.config import AttackConfig
from advhash.experiments.experiment import Place
from advhash.experiments.prepare.code_key import code_version
from advhash.experiments.prepare.fit_attack import FittedAttack, fit_attack
from advhash.experiments.transfer.members import Member, joined
from advhash.registry import ATTACKS
from advhash.storage.cache import content_key
from advhash.storage.cells import Result
from advhash.victims.training.acceleration import precision

CODE = ("experiments.attack", "experiments.transfer")
MOVING = ("targets", "query_modality", "database", "queries", "batch_size")  # of the protocol


@dataclass(frozen=True, kw_only=True)
class Move:
    """A method on a victim, exactly as `advhash attack` would run it.

    method, source: their labels
    config: of that attack, with every default written out
    victim: names all that determines the victim
    members: of an ensemble, by their labels, in order; of one victim its own
    """

    method: str
    source: str
    config: AttackConfig
    victim: Mapping[str, Any]
    members: tuple[str, ...]

    @property
    def amount(self) -> int:
        """What the cost grows with: each gradient costs one of every member."""
        return len(self.members)

    def made_for(self, place: Place) -> Member:
        """The victim that the attack is made for, or the ensemble."""
        members: list[Member] = [place.part(label) for label in self.members]
        if len(members) == 1:
            return members[0]
        return joined(self.source, members, self.config.protocol.query_modality)

    @property
    def key(self) -> str:
        attack, protocol = self.config.attack, self.config.protocol
        return content_key(
            {
                "victim": self.victim,
                "attack": [attack.name, attack.settings, ATTACKS[attack.name].digest],
                "budget": self.config.budget.model_dump(),
                "protocol": {name: getattr(protocol, name) for name in MOVING},
                "seed": self.config.seed,
                "device": self.config.device,
                "precision": precision(torch.device(self.config.device)),
                "code": code_version(*CODE),
            }
        )

    def attack(self) -> FittedAttack:
        """The attack as it is before it is fitted, with its settings and its budget."""
        settings = self.config.attack.settings
        attack: Attack = ATTACKS.create(self.config.attack.name, settings)
        return FittedAttack(attack, settings, self.config.budget.resolve(attack.default_budget))


def move_queries(cell: Move, place: Place) -> Result:
    """The moved queries of a cell, batch by batch, and the attack as records tell it."""
    began = time.perf_counter()
    config, source = cell.config, cell.made_for(place)
    seen = source.seen(config.protocol.query_modality)
    fitted = fit_attack(config, source.trained, seen, place.progress)
    outcome = attack_queries(place.piece, config, source.trained, fitted, place.progress)
    info = attack_info(config.attack.name, fitted, outcome)
    return Result(
        {"info": info.model_dump(mode="json"), "seconds": time.perf_counter() - began},
        outcome.tensors(),
    )
