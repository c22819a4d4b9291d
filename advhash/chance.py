"""The random numbers of queries: each query has a stream of its own, decided by (seed, query).

So a query gets the same numbers to the last bit in any block, in any order, in any process and on
any device, whatever other queries draw.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtri
from torch import Tensor

Words = npt.NDArray[np.uint64]
GAMMA = 0x9E3779B97F4A7C15  # what the state of SplitMix64 grows by


def mixed(words: Words) -> Words:
    """The output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), in place."""
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


class Chance:
    """The streams of B queries, on the CPU; `chance[rows]` are those of some of them.

    seed:    any whole number
    queries: (B,) whole numbers that name the queries, e.g. `Batch.index`
    device:  where the numbers are put

    Each stream is SplitMix64 from a start of its own. What a part `chance[rows]` draws is gone from
    the streams of these rows and from no other.
    """

    def __init__(
        self, seed: int, queries: Tensor | npt.NDArray[Any], device: torch.device | str = "cpu"
    ) -> None:
        names = queries.cpu().numpy() if isinstance(queries, Tensor) else np.asarray(queries)
        start = mixed(np.array([(seed + GAMMA) % 2**64], np.uint64))
        self._starts = mixed(start + (names.astype(np.int64).view(np.uint64) + 1) * GAMMA)
        self._taken = np.zeros(len(names), np.uint64)
        self._rows = np.arange(len(names))
        self.device = torch.device(device)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: Tensor | slice) -> Chance:
        part = object.__new__(Chance)
        part._starts, part._taken, part.device = self._starts, self._taken, self.device
        part._rows = self._rows[rows.cpu().numpy() if isinstance(rows, Tensor) else rows]
        return part

    def words(self, count: int) -> Words:
        """(B,count) of 64 random bits."""
        steps = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(GAMMA)
        begun = self._starts[self._rows] + self._taken[self._rows] * np.uint64(GAMMA)
        self._taken[self._rows] += np.uint64(count)
        return mixed(begun[:, None] + steps)

    def _halves(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint32]:
        """(B,*shape) of 32 random bits."""
        count = int(np.prod(shape))
        halves = self.words(-(-count // 2)).astype("<u8", copy=False).view("<u4")
        return halves[:, :count].reshape(len(self), *shape)

    def _put(self, values: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values)).to(self.device)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(B,*shape) float32, uniform in [low, high)."""
        values = (self._halves(shape) >> np.uint32(8)).astype(np.float32)
        values *= np.float32(2**-24 * (high - low))
        values += np.float32(low)
        return self._put(values)

    def normal(self, *shape: int) -> Tensor:
        """(B,*shape) float32, standard normal, by the inverse of its distribution function."""
        values = self._halves(shape).astype(np.float64)
        values += 0.5
        values *= 2.0**-32
        return self._put(ndtri(values, out=values).astype(np.float32))

    def integers(self, limit: int, *shape: int) -> Tensor:
        """(B,*shape) int64 in 0 … limit − 1; even to 1 part in 2³² / limit."""
        halves = self._halves(shape).astype(np.uint64) * np.uint64(limit)
        return self._put((halves >> np.uint64(32)).astype(np.int64))

    def signs(self, *shape: int) -> Tensor:
        """(B,*shape) float32, −1 or 1."""
        bits = (self._halves(shape) >> np.uint32(31)).astype(np.float32)
        return self._put(2 * bits - 1)

    def shares(self) -> npt.NDArray[np.float64]:
        """(B,) uniform in [0,1), of 53 bits."""
        return np.asarray((self.words(1)[:, 0] >> np.uint64(11)) * 2.0**-53, np.float64)

    def sample(self, limit: int, count: int) -> Tensor:
        """(B, min(count, limit)) int64 in 0 … limit − 1, of each query without replacement."""
        count = min(count, limit)
        drawn = self.words(count) % np.arange(limit, limit - count, -1, dtype=np.uint64)
        rows = []
        for places in drawn.tolist():  # the first steps of a shuffle whose deck is never written
            moved: dict[int, int] = {}
            row = []
            for step, place in enumerate(places):
                last = limit - 1 - step
                row.append(moved.get(place, place))
                moved[place] = moved.get(last, last)
            rows.append(row)
        return torch.tensor(rows, dtype=torch.int64).view(len(self), count).to(self.device)
