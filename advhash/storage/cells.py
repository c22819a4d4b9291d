"""What cells of a run leave in the cache: results, whole or not at all, and pieces on the way.

    <cache>/<kind>/<key>/              result.json, result.safetensors
    <cache>/unfinished/<kind>/<key>/   pieces of a cell that is being computed

A result that is not what was written is discarded and computed again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from advhash.errors import CheckpointError, exhausted
from advhash.storage.cache import cache_root, cached, expect_own, make_way
from advhash.storage.checkpoint import read_tensors, write_tensors
from advhash.storage.documents import read_json
from advhash.storage.files import partial_file, storage_errors, write_json

DOCUMENT, TENSORS = "result.json", "result.safetensors"


@dataclass(frozen=True)
class Result:
    """What a cell found: a JSON-able document, and what is too large for one."""

    document: Any
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class CellStore:
    """Where one cell's result and its pieces lie.

    kind: of run, e.g. `lifelong`; key: names all that determines the result
    """

    kind: str
    key: str

    @property
    def folder(self) -> Path:
        return cache_root() / self.kind / self.key

    @property
    def pieces(self) -> Path:
        return cache_root() / "unfinished" / self.kind / self.key

    def is_done(self) -> bool:
        return self.folder.is_dir()

    def is_begun(self) -> bool:
        """Whether the result or at least one piece of it is there."""
        return self.is_done() or any(self.pieces.glob("*.safetensors"))

    def result(self, compute: Callable[[], Result]) -> Result:
        """Read where it was finished before, else computed and stored. Raises StorageError."""

        def build(folder: Path) -> None:
            result = compute()
            write_tensors(folder / TENSORS, result.tensors)
            write_json(folder / DOCUMENT, {"key": self.key, "document": result.document})

        def read(folder: Path) -> Result:
            body = read_json(folder / DOCUMENT)
            if body["key"] != self.key:
                raise ValueError("it is the result of another cell")
            return Result(body["document"], read_tensors(folder / TENSORS))

        result = cached(self.kind, self.key, build, read)
        shutil.rmtree(self.pieces, ignore_errors=True)
        return result

    def piece(self, name: str, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors of one piece of the work: read where it is done already, else made."""
        file = self.pieces / f"{name}.safetensors"
        signature = f"{self.kind}/{self.key}/{name}"
        with storage_errors(file):
            make_way(self.pieces)
            if file.is_dir():
                shutil.rmtree(file)
        if file.is_file():
            expect_own(file)
            try:
                return read_tensors(file, signature=signature)
            except CheckpointError as error:  # damaged by a crash, or another's: make it again
                if exhausted(error) is not None:
                    raise
                file.unlink(missing_ok=True)
        tensors = dict(make())
        with partial_file(file) as partial:
            write_tensors(partial, tensors, signature=signature)
        return tensors

    def forget(self) -> None:
        """Remove result and pieces: those that a finished run has taken over."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.pieces, ignore_errors=True)
