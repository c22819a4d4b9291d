"""Binary codes, packed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from advhash.errors import counted

if TYPE_CHECKING:
    from torch import Tensor

_WORD = 64


@dataclass(frozen=True, eq=False, repr=False)
class HashCodes:
    """N binary codes of K bits, packed 64 to a word. bit = 1 iff relaxed > 0: no third value.

    words: uint64 (N, ceil(K/64)); bit k of a code is bit k%64 of word k//64, padding bits are 0
    bits:  K

    >>> codes = HashCodes.pack(np.array([[1, 0, 1]]))
    >>> codes.words.tolist(), codes.bits
    ([[5]], 3)
    >>> codes.signs().tolist()
    [[1.0, -1.0, 1.0]]
    >>> codes
    <1 code of 3 bits>
    """

    words: npt.NDArray[np.uint64]
    bits: int

    def __post_init__(self) -> None:
        width = -(-self.bits // _WORD)
        if self.bits < 1 or self.words.dtype != np.uint64 or self.words.shape[1:] != (width,):
            raise ValueError(
                f"expected uint64 words of shape (N, {width}) for {self.bits} bits, "
                f"got {self.words.dtype} {self.words.shape}"
            )

    def __repr__(self) -> str:
        return f"<{counted(len(self), 'code')} of {counted(self.bits, 'bit')}>"

    @classmethod
    def pack(cls, bits: npt.ArrayLike) -> HashCodes:
        """Pack (N,K) values, each true where the bit is 1."""
        values = np.asarray(bits)
        if values.ndim != 2 or values.shape[1] == 0:
            raise ValueError(f"expected (N, K) bits with K >= 1, got shape {values.shape}")
        count, width = values.shape
        octets = np.packbits(values.astype(bool, copy=False), axis=1, bitorder="little")
        padded = np.zeros((count, -(-width // _WORD) * _WORD // 8), dtype=np.uint8)
        padded[:, : octets.shape[1]] = octets
        return cls(padded.view("<u8").astype(np.uint64, copy=False), width)

    @classmethod
    def from_relaxed(cls, relaxed: Tensor) -> HashCodes:
        """Binarise (N,K) real codes: 1 iff > 0.

        Raises ValueError where a value is NaN: it has no bit.
        """
        if bool(relaxed.isnan().any()):
            raise ValueError("expected real codes, got NaN: the model that made them is broken")
        return cls.pack((relaxed > 0).cpu().numpy())

    @classmethod
    def concatenate(cls, parts: Sequence[HashCodes]) -> HashCodes:
        """The rows of all parts, in order. Raises ValueError where the bits differ."""
        if any(part.bits != parts[0].bits for part in parts):
            raise ValueError(f"expected codes of {parts[0].bits} bits only, got a mixture")
        return cls(np.concatenate([part.words for part in parts]), parts[0].bits)

    @classmethod
    def beside(cls, parts: Sequence[HashCodes]) -> HashCodes:
        """The bits of all parts, one behind the other in each row.

        Raises ValueError where the numbers of rows differ.

        >>> one, other = HashCodes.pack([[1, 0]]), HashCodes.pack([[1]])
        >>> HashCodes.beside([one, other]).unpack().tolist()
        [[True, False, True]]
        """
        return cls.pack(np.concatenate([part.unpack() for part in parts], axis=1))

    def unpack(self) -> npt.NDArray[np.bool_]:
        """(N,K) bits."""
        octets = np.ascontiguousarray(self.words.astype("<u8")).view(np.uint8)
        return np.unpackbits(octets, axis=1, bitorder="little")[:, : self.bits].astype(bool)

    def signs(self) -> npt.NDArray[np.float32]:
        """(N,K) float32 of ±1."""
        return np.where(self.unpack(), np.float32(1), np.float32(-1))

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, rows: slice | npt.NDArray[Any]) -> HashCodes:
        """The codes of the given rows (slice, mask or index array)."""
        return HashCodes(self.words[rows], self.bits)
