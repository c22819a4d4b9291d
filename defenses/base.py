"""The contracts of defences: hardening makes a victim, a detector scores inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Self, final

from torch import Tensor

from advhash.attacks.base import AttackData
from advhash.budget import Budget
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Batch, Modality, Split
from advhash.victims.base import HashVictim


class Hardening(ABC):
    """Makes a victim harder to fool. The result is a victim: attacks and reports apply to it.

    takes_budget: whether the budget of `harden` determines the result
    """

    takes_budget: ClassVar[bool] = True

    @abstractmethod
    def check(self, victim: HashVictim) -> None:
        """Raise UsageError for a victim, trained or not, that it cannot harden."""

    @abstractmethod
    def harden(
        self,
        victim: HashVictim,
        data: AttackData,
        budget: Budget,
        *,
        seed: int = 0,
        progress: Progress = silent,
    ) -> HashVictim:
        """A new victim; the given one is left as it was."""


class Wrapping(Hardening):
    """A hardening that trains nothing: its result is a wrapper around the victim as it is.

    The wrapper is put around the victim again when a checkpoint is loaded.
    """

    takes_budget: ClassVar[bool] = False

    @abstractmethod
    def wrap(self, victim: HashVictim) -> HashVictim:
        """The victim behind this defence. Raises UsageError where it cannot stand there."""

    @final
    def check(self, victim: HashVictim) -> None:
        self.wrap(victim)

    @final
    def harden(
        self,
        victim: HashVictim,
        data: AttackData,
        budget: Budget,
        *,
        seed: int = 0,
        progress: Progress = silent,
    ) -> HashVictim:
        return self.wrap(victim)


class Detector(ABC):
    """Scores inputs: higher = more anomalous. Fitted on clean items only."""

    @abstractmethod
    def fit(self, victim: HashVictim, clean: Split, modality: Modality) -> Self:
        """Learn what is normal from clean items of the database or the validation split."""

    @abstractmethod
    def score(self, victim: HashVictim, batch: Batch, modality: Modality) -> Tensor:
        """(B,) float32, higher = more anomalous."""

    def highest(self, victim: HashVictim) -> float | None:
        """The score that no code exceeds, once fitted; None where nothing bounds it."""
        return None
