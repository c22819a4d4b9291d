"""An attacker who knows that a gate stands before the store, and its rule."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from advhash.attacks.poisoning.base import Places, Planted, Poisoning, Seen
from advhash.stores.admission import Gate

MOST_TRIED = 8  # items for each that is planted
CAUTION = (math.inf, 1.0, 0.75, 0.5)  # of the threshold of a gate that items are chosen by


def evading(
    method: Poisoning, seen: Seen, count: int, most: int, gates: tuple[Gate, Gate], seed: int
) -> Planted:
    """`count` items that most queries find once a gate has refused some.

    As many items as are planted are made, then twice and more times as many, so that each one has
    fewer queries to serve. From each lot, items that pass the first gate are chosen one after the
    other by how many queries they add, with a threshold as it is, lower, or none at all. The choice
    that most queries of the second gate find, behind that gate, is planted.

    gates: of the store's rule, each fitted with one half of the known queries as its probes
    most:  items that the method can make at most
    """
    best: tuple[int, Planted] | None = None
    tried = count
    while best is None or tried <= min(most, MOST_TRIED * count):
        items = method.plant(seen, tried, seed)
        codes = items.vectors.codes
        finds, judged = (gate.finds(codes) for gate in gates)
        judged[gates[1].refuses(codes)] = False
        for caution in CAUTION:
            passes = finds.sum(axis=1) <= caution * max(gates[0].threshold, 1.0)
            chosen = _chosen(finds, passes, count)
            reached = int(judged[chosen].any(axis=0).sum())
            if best is None or reached > best[0]:
                inputs = tuple(items.inputs[row] for row in chosen.tolist() if items.inputs)
                best = reached, Planted(items.vectors[chosen], inputs)
        tried *= 2
    return best[1]


def _chosen(finds: npt.NDArray[np.bool_], passes: npt.NDArray[np.bool_], count: int) -> Places:
    """Rows of `count` items: those that pass by the queries (P,Q) that each adds, then others."""
    left = np.ones(finds.shape[1], bool)
    gone = np.zeros(len(finds), bool)
    for _ in range(count):
        gains = np.where(passes, (finds & left).sum(axis=1), -1)
        row = int(np.where(gone, -2, gains).argmax())
        gone[row] = True
        left &= ~finds[row]
    return np.flatnonzero(gone)
