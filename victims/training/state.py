"""Training that goes on after a kill: what it needs lies in one file, replaced after an epoch.

The file is the SHA-256 of what follows (32 bytes), then safetensors: the tensors of the training
and, as one more, JSON: its numbers, and the key that it belongs to. What they are is the business
of `Phase` in `victims/training/phase.py`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from advhash.compute.processes import is_main_process
from advhash.errors import StorageError, exhausted
from advhash.storage.cache import DAMAGE, expect_own
from advhash.storage.documents import parse_json, read_bytes
from advhash.storage.files import sweep, write_bytes

SAVE_SECONDS = 30.0  # at least, between two writes
SHARE = 0.05  # of the time, at most, goes into writing


class TrainingState:
    """Where a training is kept so that it can go on; nowhere by default.

    folder: holds the state, and its name is the key of the training: a state with another one is
            not used
    problem: why a state that is there was not used, or none could be written; empty where all went
             well. The training then starts again, or goes on without one: its result is the same.
    spent: seconds of training before this process began
    saved: the phase and epoch of the last write
    tensors, numbers: what was read, until `forget`; empty where there is nothing to go on from
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._file = folder / "state" if folder else None
        self.tensors: dict[str, Tensor] = {}
        self.numbers: dict[str, Any] = {}
        self.problem = ""
        self._read()
        self.spent = float(self.numbers.get("spent", 0.0))
        self.saved = ""
        self._began = time.perf_counter()
        self._due = self._began + SAVE_SECONDS

    def _read(self) -> None:
        if self._file is None:
            return
        sweep(self._file.parent.glob(f".{self._file.name}.*.partial"))
        try:
            if self._file.exists():
                expect_own(self._file)
            content = read_bytes(self._file, 2**40)
            if hashlib.sha256(content[32:]).digest() != content[:32]:
                raise ValueError("it is damaged")
            tensors = safetensors.torch.load(content[32:])
            numbers = parse_json(tensors.pop("json").numpy().tobytes(), finite=False)
            if numbers["key"] != self._file.parent.name:
                raise ValueError("it is that of another training")
        except FileNotFoundError:
            return
        except (*DAMAGE, StorageError) as error:
            if exhausted(error) is not None:  # the state is whole, and is read by the next command
                raise
            self.problem = f"The saved state {self._file} was not used: {error}."
            return
        self.tensors, self.numbers = tensors, numbers

    @property
    def due(self) -> bool:
        """Whether to write: the last time was long enough ago, and this process is the main one."""
        return self._file is not None and time.perf_counter() >= self._due and is_main_process()

    def discard(self) -> None:
        """Remove what was saved: the victim is stored."""
        if self._file is not None and is_main_process():
            shutil.rmtree(self._file.parent, ignore_errors=True)

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with "prefix/", without it."""
        start = f"{prefix}/"
        return {
            name.removeprefix(start): value
            for name, value in self.tensors.items()
            if name.startswith(start)
        }

    def forget(self) -> None:
        """Drop what was read: the training goes on from it."""
        self.tensors, self.numbers = {}, {}

    def save(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Write everything. A failure is a `problem`, after which nothing is written any more.

        numbers: JSON-able, among them "phase" and "epoch"
        """
        if self._file is None:
            return
        begun = time.perf_counter()
        own = {"key": self._file.parent.name, "spent": self.spent + begun - self._began}
        text = bytearray(json.dumps({**numbers, **own}).encode())
        content = safetensors.torch.save(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
            | {"json": torch.frombuffer(text, dtype=torch.uint8)}
        )
        try:
            write_bytes(self._file, hashlib.sha256(content).digest() + content)
            self.saved = f"{numbers['phase']}, epoch {numbers['epoch']}"
        except (StorageError, OSError) as error:
            self.problem = f"No state was saved: {error}."
            self._file = None
        ended = time.perf_counter()
        self._due = ended + max(SAVE_SECONDS, (ended - begun) / SHARE)


UNSAVED = TrainingState()
