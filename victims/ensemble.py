"""Several victims as one: what an attack is made on that is to move victims it has never seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from advhash.codes.packed import HashCodes
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset, Modality, Split
from advhash.errors import UsageError
from advhash.victims.base import HashVictim
from advhash.victims.training.descent import seeded

ROWS = 512  # of a split, by which the usual size of a member's real codes is known


class Ensemble(HashVictim):
    """Several trained victims side by side: their codes, one behind the other, are its code.

    members: two or more with a modality in common
    sizes:   usual size of each member's real codes, by which `relax` divides them, so that none is
             louder than the others

    The code of a database row is that of all members one behind the other too (`HashCodes.beside`),
    so an anchor made of database codes holds an anchor for each member, and every attack works on
    an ensemble as on a victim. A bit weighs the same whichever member it is of: one with twice the
    bits has twice the say. Each gradient costs one of every member. The idea is that of Liu et al.
    (ICLR 2017) for classifiers, whose logits or losses are averaged.

    Raises UsageError: one member alone, a member twice, no modality in common.
    """

    def __init__(self, members: Sequence[HashVictim], sizes: Sequence[float]) -> None:
        super().__init__()
        if len({id(member) for member in members}) < max(2, len(members)):
            raise UsageError("an ensemble: expected two different victims or more")
        self.members, self.sizes = nn.ModuleList(members), tuple(sizes)
        self.bounds = {
            modality: bounds
            for modality, bounds in members[0].bounds.items()
            if all(member.bounds.get(modality) == bounds for member in members)
        }
        if not self.bounds:
            raise UsageError(
                "an ensemble: expected victims of the same inputs, got "
                + " and ".join("/".join(member.bounds) for member in members)
            )
        self.bits = sum(member.bits for member in members)
        self.history = []
        self.differentiable = all(member.differentiable for member in members)
        self.no_gradient = next(
            (member.no_gradient for member in members if member.no_gradient), ""
        )

    @classmethod
    def of(cls, members: Sequence[HashVictim], split: Split, modality: Modality) -> Self:
        """Members with the mean |u| of their real codes u of the first 512 rows of a split."""
        return cls(members, [_usual_size(member, split, modality) for member in members])

    @property
    def _parts(self) -> list[HashVictim]:
        return [member for member in self.members if isinstance(member, HashVictim)]

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        """(B,K) the real codes of all members, each divided by their usual size."""
        pairs = zip(self._parts, self.sizes, strict=True)
        return torch.cat([member.relax(inputs, modality) / size for member, size in pairs], dim=1)

    def binarise(self, inputs: Tensor, modality: Modality) -> HashCodes:
        """The bits of all members, one behind the other."""
        return HashCodes.beside([member.binarise(inputs, modality) for member in self._parts])

    def database_codes(self, data: Dataset, database: str) -> HashCodes:
        """The codes that the members serve, one behind the other."""
        return HashCodes.beside([member.database_codes(data, database) for member in self._parts])

    def is_image(self, modality: Modality) -> bool:
        return all(member.is_image(modality) for member in self._parts)

    @property
    def directions(self) -> tuple[str, ...]:
        """Those that all members have."""
        first, *others = self._parts
        return tuple(
            name for name in first.directions if all(name in member.directions for member in others)
        )

    def fit(self, data: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """The members are trained already."""
        return self


def _usual_size(victim: HashVictim, split: Split, modality: Modality) -> float:
    rows = split.sample(ROWS).inputs[modality]
    with torch.no_grad(), seeded(0):  # a defence may draw
        parts = [victim.relax(part.to(victim.device), modality).abs() for part in rows.split(128)]
    return float(np.clip(torch.cat(parts).mean().item(), 1e-6, None))
