"""The code table of a lifelong victim: rows that are written once and served ever after."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from advhash.codes.packed import HashCodes
from advhash.victims.objectives import sign


class FrozenCodes(nn.Module):
    """Codes of M database rows, of K bits, one table for each name in `tables`.

    All of it is buffers, so a checkpoint carries it: `{table}_words` (M, ceil(K/64)) int64, the
    words of HashCodes; `frozen` (M,) bool, which rows are final; `fingerprint` (32,) uint8, the
    SHA-256 of the data that the rows belong to.
    """

    frozen: Tensor
    fingerprint: Tensor

    def __init__(self, rows: int, bits: int, tables: tuple[str, ...]) -> None:
        super().__init__()
        self.bits = bits
        for table in tables:
            empty = torch.zeros(rows, -(-bits // 64), dtype=torch.int64)
            self.register_buffer(f"{table}_words", empty)
        self.register_buffer("frozen", torch.zeros(rows, dtype=torch.bool))
        self.register_buffer("fingerprint", torch.zeros(32, dtype=torch.uint8))

    def belong_to(self, fingerprint: str) -> None:
        """Note whose rows these are."""
        octets = np.frombuffer(bytes.fromhex(fingerprint), np.uint8).copy()
        self.fingerprint.copy_(torch.from_numpy(octets))

    def match(self, fingerprint: str) -> bool:
        """Whether the rows are those of the data with this fingerprint."""
        return self.fingerprint.cpu().numpy().tobytes().hex() == fingerprint

    def codes(self, table: str) -> HashCodes:
        """All M rows; those not frozen are 0."""
        return HashCodes(self._words(table).cpu().numpy().copy().view(np.uint64), self.bits)

    def signs(self, table: str, rows: Tensor) -> Tensor:
        """(R,K) of ±1: the codes of the given rows."""
        words = self._words(table)[rows.to(self.frozen.device)].cpu().numpy()
        return torch.from_numpy(HashCodes(words.view(np.uint64), self.bits).signs())

    def freeze(self, rows: Tensor, signs: Mapping[str, Tensor]) -> None:
        """Write the ±1 codes (R,K) of the given rows into every table, for good.

        Raises ValueError where a row is frozen already.
        """
        rows = rows.to(self.frozen.device)
        if bool(self.frozen[rows].any()):
            raise ValueError("expected rows without a code, got frozen ones")
        for table, values in signs.items():
            words = torch.from_numpy(HashCodes.from_relaxed(values).words.view(np.int64))
            self._words(table)[rows] = words.to(self.frozen.device)
        self.frozen[rows] = True

    def _words(self, table: str) -> Tensor:
        return self.get_buffer(f"{table}_words")


def fuse(first: Tensor, second: Tensor, relaxed: Tensor) -> Tensor:
    """sign(F+G) of two (N,K) ±1 codes; where they disagree, the sign of `relaxed` decides.

    relaxed (N,K): the summed real outputs of both networks. No bit is ever 0.
    """
    both = first + second
    return sign(torch.where(both == 0, relaxed, both))


def table_codes(
    outputs: Mapping[str, Tensor], learnt: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """±1 codes (N,K) for the tables "image", "text" and "fused".

    Those learnt, or else the signs of the real `outputs` (N,K) of both networks.
    """
    signs = {modality: sign(values) for modality, values in outputs.items()} | dict(learnt or {})
    relaxed = outputs["image"] + outputs["text"]
    return signs | {"fused": fuse(signs["image"], signs["text"], relaxed)}
