"""An attacker who knows that a gate stands before the store, and its rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from advhash.attacks.poisoning.base import Places, Planted, Poisoning, Seen
from advhash.attacks.poisoning.judges import Judges, Which, halves
from advhash.codes.packed import HashCodes
from advhash.codes.vectors import Vectors
from advhash.stores.admission import Gate

LOTS = (1, 2, 4, 8)  # items that are made for each that is planted
CAUTION = (math.inf, 1.0, 0.75, 0.5)  # of the threshold of a gate that items are chosen by
UNAWARE = (1, math.inf)  # what one plants who knows nothing of a gate
Fit = Callable[[HashCodes], Gate]


def evading(method: Poisoning, seen: Seen, count: int, most: int, fit: Fit, seed: int) -> Planted:
    """`count` items that most queries find once a gate has refused some.

    As many items as are planted may be made, or twice and more times as many, so that each one has
    fewer queries to serve; of these, items that pass a gate are chosen one after the other by how
    many queries they add, with its threshold as it is, lower, or none at all. Which of this does
    best is tried on each half of the known queries and judged by the other, since items are near to
    the queries that they were made of; then it is done with all of them. Where this does not reach
    more of these queries than items that are made without knowing of a gate, by more than one
    standard error of the difference, or where a gate refuses none of these, it is these that are
    planted: a defence gains nothing by being known.

    fit:  the gate of the store's rule with some queries as its probes
    most: items that the method can make at most
    """
    method = method.settled(seen, count, seed)
    reached: dict[tuple[int, float], list[Which]] = {}
    refused = 0  # of those that are made without knowing of a gate
    for side, other in halves(len(seen.known)):
        half = _with(seen, side)
        mine, judge = Known.of(half, fit), Known.of(_with(seen, other), fit)
        for times in LOTS:
            if times > 1 and times * count > min(most, len(seen.known) // 2):
                break
            items = method.plant(half, min(times * count, len(side)), seed).vectors
            judged = judge.judges.finds(items)
            hit = judge.gate.refuses(items.codes)
            refused += int(hit.sum()) if times == 1 else 0
            judged[hit] = False
            for caution in CAUTION if times > 1 else CAUTION[:1]:
                chosen = mine.chosen(items, min(count, len(items)), caution)
                finders: Which = np.asarray(judged[chosen].any(axis=0))
                reached.setdefault((times, caution), []).append(finders)
    times, caution = UNAWARE
    if refused:
        times, caution = _strongest({way: np.concatenate(each) for way, each in reached.items()})
    items_made = method.plant(seen, times * count, seed)
    chosen = Known.of(seen, fit).chosen(items_made.vectors, count, caution)
    inputs, begun = (
        tuple(made[row] for row in chosen.tolist() if made)
        for made in (items_made.inputs, items_made.begun)
    )
    return Planted(items_made.vectors[chosen], inputs, begun, items_made.surface)


@dataclass(frozen=True)
class Known:
    """Known queries that items are tried by.

    gate: the store's rule with these as its probes
    """

    gate: Gate
    judges: Judges

    @classmethod
    def of(cls, seen: Seen, fit: Fit) -> Self:
        """The known queries among the documents of the corpus."""
        return cls(fit(seen.known.codes), Judges.of(seen.known, seen))

    def chosen(self, items: Vectors, count: int, caution: float) -> Places:
        """Rows of `count` items: those that pass by the queries that each adds, then others."""
        allowed = caution * max(self.gate.threshold, 1.0)
        passes = self.gate.finds(items.codes).sum(axis=1) <= allowed
        return _chosen(self.judges.finds(items), passes, count)


def _strongest(reached: dict[tuple[int, float], Which]) -> tuple[int, float]:
    """The way that most held-out queries find an item by, where it is clearly more than UNAWARE.

    reached: (Q,) whether each query does, of each way

    >>> few, many = np.arange(40) < 10, np.arange(40) < 16
    >>> _strongest({UNAWARE: few, (2, 1.0): many}), _strongest({UNAWARE: ~many, (2, 1.0): few})
    ((2, 1.0), (1, inf))
    """
    best = max(reached, key=lambda way: int(reached[way].sum()))
    unaware = reached[UNAWARE]
    gained, lost = (reached[best] & ~unaware).sum(), (unaware & ~reached[best]).sum()
    return best if gained - lost > math.sqrt(gained + lost) else UNAWARE


def _with(seen: Seen, rows: Places) -> Seen:
    """What an attacker has who knows only these of the queries."""
    inputs = seen.inputs and replace(seen.inputs, known=seen.inputs.known.take(rows))
    return replace(seen, known=seen.known[rows], inputs=inputs)


def _chosen(finds: Which, passes: Which, count: int) -> Places:
    """Rows of `count` items, one after the other by the queries (P,Q) that each adds."""
    left = np.ones(finds.shape[1], bool)
    gone = np.zeros(len(finds), bool)
    for _ in range(count):
        gains = np.where(passes, (finds & left).sum(axis=1), -1)
        row = int(np.where(gone, -2, gains).argmax())
        gone[row] = True
        left &= ~finds[row]
    return np.flatnonzero(gone)
