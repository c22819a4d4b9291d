"""One run of a victim over epochs: its clock, its history, and how it goes on after a kill."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from zlib import crc32

import torch
from torch import Tensor

from advhash.compute.progress import Progress, silent
from advhash.errors import StorageError
from advhash.victims.base import HashVictim
from advhash.victims.training.acceleration import agreed, equalise
from advhash.victims.training.descent import Descent


def resume(victim: HashVictim, phases: Sequence[str]) -> int:
    """The number of the phase to go on with, 0 where the victim's state has nothing saved.

    Where it is not 0, the victim gets the weights and buffers that were saved and the history
    of the phases before. `Phase.epochs` does the rest.
    """
    state = victim.training_state
    number = phases.index(state.numbers["phase"]) if state.numbers else 0
    if number > 0:
        victim.load_state_dict(state.under("victim"))
        done = phases[:number]
        victim.history = [row for row in state.numbers["history"] if row["phase"] in done]
    return number


class Loop:
    """What the epochs of a phase change, besides the victim."""

    def __init__(
        self,
        descents: Mapping[str, Descent],
        generator: torch.Generator,
        tensors: Mapping[str, Tensor],
    ) -> None:
        self.descents = descents
        self.generator = generator
        self.tensors = tensors


class Phase:
    """One run over epochs: its clock, its place in the history, its progress, its state.

    The clock starts here and, after a kill, goes on from what it showed.
    """

    def __init__(self, name: str, victim: HashVictim, progress: Progress = silent) -> None:
        self.name = name
        self.victim = victim
        self.progress = progress
        self.state = victim.training_state
        self.began = time.perf_counter()
        self.epoch = 0
        self.total = 0

    def epochs(
        self,
        total: int,
        *,
        descents: Mapping[str, Descent],
        generator: torch.Generator,
        tensors: Mapping[str, Tensor] | None = None,
    ) -> Iterator[int]:
        """The epochs left to do, 1 … total; call `note` at the end of each.

        descents: the optimisers, by a name
        generator: what determines the order of rows and the augmentation, besides torch's own
        tensors: all else that an epoch changes, to be changed in place

        Raises StorageError where processes see different states.
        """
        loop = Loop(descents, generator, tensors or {})
        accelerator = next(iter(descents.values())).accelerator
        seed = torch.initial_seed()
        done = self._restore(loop)
        place = crc32(f"{self.name} {done}".encode())
        if agreed(accelerator, place) != place:
            raise StorageError(
                "expected one cache for all processes, got one with another saved state: set "
                "ADVHASH_CACHE to a folder that all machines share"
            )
        self.total = total
        if done:
            self.progress(self.name, done, total)
        for self.epoch in range(done + 1, total + 1):
            if accelerator.process_index > 0:  # the others drop out other units than the main one
                torch.manual_seed(
                    (seed + 1_000_003 * accelerator.process_index + self.epoch) % 2**63
                )
            yield self.epoch
            equalise(accelerator, [*self.victim.buffers(), *loop.tensors.values()])
            if self.state.due:
                self._save(loop)

    def note(self, **figures: float) -> None:
        """Keep the mean losses of the epoch. seconds: since the phase began."""
        seconds = time.perf_counter() - self.began
        self.victim.history.append(
            {"phase": self.name, "epoch": self.epoch, **figures, "seconds": seconds}
        )
        self.progress(self.name, self.epoch, self.total, **figures)

    def _restore(self, loop: Loop) -> int:
        """Put everything back where the state is of this phase. Returns the epochs done."""
        state, victim = self.state, self.victim
        numbers = state.numbers
        if not numbers or numbers["phase"] != self.name:
            return 0
        victim.load_state_dict(state.under("victim"))
        victim.history = list(numbers["history"])
        for name, values in loop.tensors.items():
            values.copy_(state.tensors[f"tensor/{name}"])
        for name, descent in loop.descents.items():
            descent.restore(state.under(f"descent/{name}"), numbers["descents"][name])
        loop.generator.set_state(state.tensors["generator/own"])
        torch.set_rng_state(state.tensors["generator/torch"])
        if victim.device.type == "cuda" and "generator/cuda" in state.tensors:
            torch.cuda.set_rng_state(state.tensors["generator/cuda"], victim.device)
        self.began = time.perf_counter() - float(numbers["seconds"])
        state.forget()
        return int(numbers["epoch"])

    def _save(self, loop: Loop) -> None:
        """Hand everything to the state: victim, optimisers, generators and the loop's tensors."""
        victim = self.victim
        tensors = {f"victim/{name}": value for name, value in victim.state_dict().items()}
        tensors |= {f"tensor/{name}": value for name, value in loop.tensors.items()}
        tensors |= {
            "generator/own": loop.generator.get_state(),
            "generator/torch": torch.get_rng_state(),
        }
        if victim.device.type == "cuda":
            tensors["generator/cuda"] = torch.cuda.get_rng_state(victim.device)
        descents = {}
        for name, descent in loop.descents.items():
            own, descents[name] = descent.state()
            tensors |= {f"descent/{name}/{place}": value for place, value in own.items()}
        numbers = {
            "phase": self.name,
            "epoch": self.epoch,
            "seconds": time.perf_counter() - self.began,
            "history": victim.history,
            "descents": descents,
        }
        self.state.save(tensors, numbers)
