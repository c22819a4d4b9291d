"""Which new items a store takes: a gate on how many queries would find them, and near-duplicates.

Both look at codes alone, as a store of codes can.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from advhash.codes.hamming import distances, neighbours
from advhash.codes.packed import HashCodes
from advhash.codes.relevance import FIRST

Counts = npt.NDArray[np.int64]
Which = npt.NDArray[np.bool_]
Rule: TypeAlias = Literal["rate", "mad", "cap"]
ROBUST_Z = 5.0  # of the published rule
NORMAL = 1.4826  # standard deviations in a median absolute deviation of normal numbers
_AT_ONCE = 1 << 24  # distances in memory


@dataclass(frozen=True)
class Gate:
    """Refuses items that more than `threshold` probe queries would have among their first 10.

    A gate looks at new items alone; a cap is one that documents of the store go through as well.

    probes: (Q,) queries of the store's own, which nobody is judged by and no attacker knows
    tenth:  (Q,) how far their 10th documents are: nearer items are found
    reached: share of clean documents refused, of those that the threshold was not set on
    refuses_held: (N,) which documents would be refused, if they came now
    """

    probes: HashCodes
    tenth: Counts
    threshold: float
    reached: float
    refuses_held: Which

    @classmethod
    def fit(
        cls, probes: HashCodes, documents: HashCodes, rule: Rule, rate: float, seed: int
    ) -> Self:
        """Set the threshold, for counts of documents that each came to all others.

        rate: the least threshold that refuses at most this share of one half of the documents
        mad:  median + 5 robust standard deviations of their counts (Habler et al., arXiv
              2602.22427), without the weights of that scanner by rank and distance; a deviation
              below one query counts as one, since most documents are found by none
        cap:  `rate` is the share of the probe queries that may find an item

        Raises ValueError: fewer than 11 documents.
        """
        if len(documents) <= FIRST:
            raise ValueError(f"expected more than {FIRST} documents, got {len(documents)}")
        far = neighbours(probes, documents, FIRST + 1)[1].astype(np.int64)
        counts = _finders(documents, probes, far[:, FIRST])  # the 10th of all the others
        order = np.random.default_rng(seed).permutation(len(documents))
        first, second = counts[order[::2]], counts[order[1::2]]
        if rule == "rate":
            threshold = float(np.quantile(first, 1 - rate, method="inverted_cdf"))
        elif rule == "cap":
            threshold = rate * len(probes)
        else:
            middle = np.median(first)
            deviation = NORMAL * float(np.median(np.abs(first - middle)))
            threshold = float(middle) + ROBUST_Z * max(deviation, 1.0)
        reached = float((second > threshold).mean())
        return cls(probes, far[:, FIRST - 1], threshold, reached, counts > threshold)

    def finds(self, items: HashCodes) -> Which:
        """(P,Q) which probe queries would have each item among their first 10."""
        return distances(items, self.probes) < self.tenth

    def refuses(self, items: HashCodes) -> Which:
        """(P,) which items are refused."""
        return _finders(items, self.probes, self.tenth) > self.threshold


def _finders(items: HashCodes, probes: HashCodes, within: Counts) -> Counts:
    """(P,) how many probes have each item nearer than (Q,) `within`."""
    step = max(1, _AT_ONCE // max(1, len(items)))
    counts = np.zeros(len(items), np.int64)
    for start in range(0, len(probes), step):
        far = distances(probes[start : start + step], items)
        counts += (far < within[start : start + step, None]).sum(axis=0)
    return counts


def collapsed(
    documents: HashCodes, items: HashCodes, within: int, keep: Literal["first", "last"]
) -> tuple[Counts, Which]:
    """Rows of documents that are dropped for near-duplicates, and (P,) which items are not held.

    Items arrive one after the other, and each meets the documents and items that are held by then.
    Near-duplicates among the documents are left as they are.

    within: bits; keep: which one of near-duplicates
    """
    rows = len(documents)
    held = np.arange(rows + len(items)) < rows
    everything = HashCodes.concatenate([documents, items])
    for item in range(len(items)):
        near = held & (distances(items[item : item + 1], everything)[0] <= within)
        if keep == "last":
            held[near] = False
        held[rows + item] = keep == "last" or not near.any()
    return np.flatnonzero(~held[:rows]), ~held[rows:]
