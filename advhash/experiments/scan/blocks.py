"""A block of pictures: each is decoded once, hashed, and some are edited and hashed again."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool  # an interrupt does not wait for a read that hangs
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError

from advhash.compute.cores import usable_cores
from advhash.data.images.decode import MAX_PIXELS, Read, quietly, read_picture
from advhash.data.images.edits import EDITS
from advhash.experiments.experiment import Place
from advhash.experiments.scan.hashes import NamedHash, ReadyHash
from advhash.storage.cells import CellStore, Result
from advhash.victims.perceptual.hashes import PDQ
from advhash.victims.perceptual.resampling import Picture

# of a block: pictures that are hashed, each edit of one counted, and bytes of files
LOOKS, OCTETS = 500, 64 << 20
DIGEST = 16  # bytes that tell pictures apart


@dataclass(frozen=True)
class BlockCell:
    """Pictures by their names in a folder.

    edited: which of them are edited, by their places
    seed:   of the noise
    """

    root: Path
    names: tuple[str, ...]
    edited: frozenset[int]
    hashes: tuple[NamedHash, ...]
    upright: bool
    seed: int
    key: str
    parts: tuple[str, ...] = ()

    @property
    def amount(self) -> int:
        return len(self.names) + len(EDITS) * len(self.edited)

    @property
    def part_name(self) -> str:
        return f"pictures {self.key}"

    def build(self, place: Place) -> Result:
        store = CellStore("scan", self.key)
        return store.result(lambda: self.compute(place.at(store)))

    def compute(self, place: Place) -> Result:
        """Tensors by row of the block; the document has what was odd, or why there is nothing.

        read: (N,) bool; sizes (N,2); quality (N,); digests (N,16); "code LABEL" (N,octets);
        edited (M,) rows; "edits LABEL" (M,E,octets)
        """
        ready = {named.label: named.build() for named in self.hashes}
        rows = range(len(self.names))
        with quietly(), ThreadPool(usable_cores()) as pool:
            entries = []
            for row, entry in enumerate(pool.imap(lambda row: self._picture(row, ready), rows)):
                entries.append(entry)
                place.progress("pictures", row + 1, len(self.names))
        read = [isinstance(entry, _Hashed) for entry in entries]
        pictures = [entry for entry in entries if isinstance(entry, _Hashed)]
        edited = [
            row for row, entry in enumerate(entries) if isinstance(entry, _Hashed) and entry.edits
        ]
        tensors = {
            "read": torch.tensor(read),
            "sizes": _stacked([entry.size for entry in pictures], (2,), np.int32),
            "quality": _stacked([entry.quality for entry in pictures], (), np.uint8),
            "digests": _stacked([entry.digest for entry in pictures], (DIGEST,), np.uint8),
            "edited": torch.tensor(edited, dtype=torch.int64),
        }
        for label, hashing in ready.items():
            octets = -(-hashing.bits // 8)
            codes = [entry.codes[label] for entry in pictures]
            tensors[f"code {label}"] = _stacked(codes, (octets,), np.uint8)
            edits = [entry.edits[label] for entry in pictures if entry.edits]
            tensors[f"edits {label}"] = _stacked(edits, (len(EDITS), octets), np.uint8)
        document = {
            "skipped": {str(row): entry for row, entry in enumerate(entries) if not read[row]},
            "remarks": {
                str(row): list(entry.remarks)
                for row, entry in enumerate(entries)
                if isinstance(entry, _Hashed) and entry.remarks
            },
            "bits": {label: hashing.bits for label, hashing in ready.items()},
            "seconds": {
                name: sum(entry.seconds[name] for entry in pictures)
                for name in ("decode", "hash", "edit")
            },
        }
        return Result(document, tensors)

    def _picture(self, row: int, ready: dict[str, ReadyHash]) -> _Hashed | str:
        """One picture, or why it cannot be read."""
        clock = _Clock()
        try:
            seen = read_picture(self.root / self.names[row], upright=self.upright)
        except MemoryError:
            raise
        except Exception as error:  # a decoder that is fed broken bytes can raise anything
            return why_unread(error)
        clock.lap("decode")
        picture = Picture(seen.image, seen.hidden)
        codes = {label: hashing.code(picture) for label, hashing in ready.items()}
        quality = PDQ().quality(picture)
        clock.lap("hash")
        edits = self._edits(row, seen, ready) if row in self.edited else {}
        clock.lap("edit")
        digest = hashlib.blake2b(repr(picture.image.size).encode(), digest_size=DIGEST)
        digest.update(picture.pixels.tobytes())
        return _Hashed(
            size=picture.image.size,
            quality=quality,
            digest=np.frombuffer(digest.digest(), np.uint8),
            codes=codes,
            edits=edits,
            remarks=seen.remarks,
            seconds=clock.seconds,
        )

    def _edits(self, row: int, seen: Read, ready: dict[str, ReadyHash]) -> dict[str, Any]:
        """(E,octets) codes of the edited pictures by label."""
        name = hashlib.sha256(os.fsencode(self.names[row])).digest()
        seed = (self.seed + int.from_bytes(name[:8])) % 2**63
        codes: dict[str, list[Any]] = {label: [] for label in ready}
        for edit in EDITS.values():
            changed = Picture(edit.change(seen.image, seed))
            for label, hashing in ready.items():
                codes[label].append(hashing.code(changed))
        return {label: np.stack(entries) for label, entries in codes.items()}


@dataclass(frozen=True)
class _Hashed:
    size: tuple[int, int]
    quality: int
    digest: Any
    codes: dict[str, Any]
    edits: dict[str, Any]
    remarks: tuple[str, ...]
    seconds: dict[str, float]


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._since = now - self._since, now


def _stacked(rows: Sequence[Any], shape: tuple[int, ...], kind: type) -> torch.Tensor:
    """(N,*shape), also of no row at all."""
    return torch.from_numpy(np.array(rows, kind).reshape(len(rows), *shape))


def why_unread(error: Exception) -> str:
    """The kind of reason why a picture cannot be read, by which such pictures are counted."""
    if isinstance(error, UnidentifiedImageError):
        return "no picture inside"
    if isinstance(error, Image.DecompressionBombWarning | Image.DecompressionBombError):
        return f"over {MAX_PIXELS:,} pixels"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, FileNotFoundError):
        return "gone since the folder was listed"
    if isinstance(error, ValueError) and "over" in str(error):
        return f"over {MAX_PIXELS:,} pixels"
    if isinstance(error, ValueError) and "bits" in str(error):
        return str(error)
    return "broken"
