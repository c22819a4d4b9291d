"""Training that goes on after a kill: what it needs lies in one file, replaced after an epoch.

The file is the SHA-256 of what follows (32 bytes), then safetensors: the victim, its optimisers,
the generators and what else a loop changes; and, as one more tensor, JSON: the key of the training,
its phase and epoch, the history and the schedules.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from advhash.compute.processes import is_main_process
from advhash.compute.progress import Progress, silent
from advhash.errors import StorageError
from advhash.storage.files import write_bytes
from advhash.victims.training.acceleration import agreed, equalise

if TYPE_CHECKING:
    from advhash.victims.base import HashVictim
    from advhash.victims.training.descent import Descent

SAVE_SECONDS = 30.0  # at least, between two writes
SHARE = 0.05  # of the time, at most, goes into writing
STALE_SECONDS = 3600  # a half-written file this old belongs to a process that was killed


class TrainingState:
    """Where a training is kept so that it can go on; nowhere by default.

    folder: holds the state, and its name is the key of the training: a state with another one is
            not used
    problem: why a state that is there was not used, or none could be written; empty where all went
             well. The training then starts again, or goes on without one: its result is the same.
    spent: seconds of training before this process began
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = folder / "state" if folder else None
        self._tensors: dict[str, Tensor] = {}
        self._numbers: dict[str, Any] = {}
        self.problem = ""
        self._read()
        self.spent = float(self._numbers.get("spent", 0.0))
        self.saved = ""  # the phase and epoch of the last write
        self._began = time.perf_counter()
        self._due = self._began + SAVE_SECONDS

    def _read(self) -> None:
        if self._file is None:
            return
        for left in self._file.parent.glob(f".{self._file.name}.*.partial"):
            if time.time() - left.stat().st_mtime > STALE_SECONDS:
                left.unlink(missing_ok=True)
        try:
            content = self._file.read_bytes()
            if hashlib.sha256(content[32:]).digest() != content[:32]:
                raise ValueError("it is damaged")
            tensors = safetensors.torch.load(content[32:])
            numbers = json.loads(tensors.pop("json").numpy().tobytes())
            if numbers["key"] != self._file.parent.name:
                raise ValueError("it is that of another training")
        except FileNotFoundError:
            return
        except (OSError, ValueError, LookupError, TypeError, SafetensorError) as error:
            self.problem = f"The saved state {self._file} was not used: {error}."
            return
        self._tensors, self._numbers = tensors, numbers

    def resume(self, victim: HashVictim, phases: Sequence[str]) -> int:
        """The number of the phase to go on with, 0 where nothing is saved.

        Where it is not 0, the victim gets the weights and buffers that were saved and the history
        of the phases before. `Phase.epochs` does the rest.
        """
        number = phases.index(self._numbers["phase"]) if self._numbers else 0
        if number > 0:
            victim.load_state_dict(self._under("victim"))
            done = phases[:number]
            victim.history = [row for row in self._numbers["history"] if row["phase"] in done]
        return number

    def discard(self) -> None:
        """Remove what was saved: the victim is stored."""
        if self._file is not None and is_main_process():
            shutil.rmtree(self._file.parent, ignore_errors=True)

    def restore(self, phase: Phase, loop: Loop) -> int:
        """Put everything back where the state is of this phase. Returns the epochs done."""
        numbers = self._numbers
        if not numbers or numbers["phase"] != phase.name:
            return 0
        victim = phase.victim
        victim.load_state_dict(self._under("victim"))
        victim.history = list(numbers["history"])
        for name, values in loop.tensors.items():
            values.copy_(self._tensors[f"tensor/{name}"])
        for name, descent in loop.descents.items():
            descent.restore(self._under(f"descent/{name}"), numbers["descents"][name])
        loop.generator.set_state(self._tensors["generator/own"])
        torch.set_rng_state(self._tensors["generator/torch"])
        if victim.device.type == "cuda" and "generator/cuda" in self._tensors:
            torch.cuda.set_rng_state(self._tensors["generator/cuda"], victim.device)
        phase.began = time.perf_counter() - float(numbers["seconds"])
        self._tensors, self._numbers = {}, {}
        return int(numbers["epoch"])

    def save(self, phase: Phase, loop: Loop, epoch: int) -> None:
        """Write everything, where the last time was long enough ago."""
        begun = time.perf_counter()
        if self._file is None or begun < self._due or not is_main_process():
            return
        victim = phase.victim
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
            "key": self._file.parent.name,
            "phase": phase.name,
            "epoch": epoch,
            "seconds": begun - phase.began,
            "spent": self.spent + begun - self._began,
            "history": victim.history,
            "descents": descents,
        }
        text = bytearray(json.dumps(numbers).encode())
        tensors["json"] = torch.frombuffer(text, dtype=torch.uint8)
        content = safetensors.torch.save(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        )
        try:
            write_bytes(self._file, hashlib.sha256(content).digest() + content)
            self.saved = f"{phase.name}, epoch {epoch}"
        except (StorageError, OSError) as error:
            self.problem = f"No state was saved: {error}."
            self._file = None
        ended = time.perf_counter()
        self._due = ended + max(SAVE_SECONDS, (ended - begun) / SHARE)

    def _under(self, prefix: str) -> dict[str, Tensor]:
        start = f"{prefix}/"
        return {
            name.removeprefix(start): value
            for name, value in self._tensors.items()
            if name.startswith(start)
        }


UNSAVED = TrainingState()


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
        generator: what decides over the order of rows and the augmentation, besides torch's own
        tensors: all else that an epoch changes, to be changed in place

        Raises StorageError where processes see different states.
        """
        loop = Loop(descents, generator, tensors or {})
        accelerator = next(iter(descents.values())).accelerator
        seed = torch.initial_seed()
        done = self.state.restore(self, loop)
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
            self.state.save(self, loop, self.epoch)

    def note(self, **figures: float) -> None:
        """Keep the mean losses of the epoch. seconds: since the phase began."""
        seconds = time.perf_counter() - self.began
        self.victim.history.append(
            {"phase": self.name, "epoch": self.epoch, **figures, "seconds": seconds}
        )
        self.progress(self.name, self.epoch, self.total, **figures)
