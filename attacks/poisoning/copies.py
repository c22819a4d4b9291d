"""Copies: near-duplicates that make a deduplication drop the original."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from advhash.attacks.poisoning.base import Planted, Poisoning, Seen
from advhash.codes.hamming import neighbours
from advhash.codes.vectors import unit_rows
from advhash.registry import POISONINGS


@POISONINGS.register("copies", source="ours: poisoned deduplication")
@dataclass(kw_only=True)
class Copies(Poisoning):
    """Near-duplicates of the documents that known queries find most often.

    Where a store keeps one of several near-duplicates, and that is the last one that came, the
    original is gone. Without deduplication a copy stands beside its original.

    likeness: cosine of a copy to its original
    """

    knowledge: ClassVar[tuple[str, ...]] = ("queries of the same kind", "the corpus", "the encoder")
    likeness: float = 0.995

    def __post_init__(self) -> None:
        if not 0 < self.likeness <= 1:
            raise ValueError(f"expected a likeness above 0 and up to 1, got {self.likeness}")

    def plant(self, seen: Seen, count: int, seed: int) -> Planted:
        nearest, _ = neighbours(seen.known.codes, seen.corpus.codes, 10)
        often = np.bincount(nearest.reshape(-1), minlength=len(seen.corpus))
        rows = np.argsort(-often, kind="stable")[:count]
        originals = unit_rows(seen.corpus.floats[rows])
        noise = np.random.default_rng(seed).standard_normal(originals.shape).astype(np.float32)
        noise -= (noise * originals).sum(axis=1, keepdims=True) * originals
        away = np.sqrt(1 - self.likeness**2)
        copies = self.likeness * originals + away * unit_rows(noise)
        return Planted(seen.vectors(np.asarray(seen.length * copies, np.float32)))
