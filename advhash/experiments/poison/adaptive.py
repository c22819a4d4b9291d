"""An attacker who knows that a gate stands before the store, and its rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from advhash.attacks.poisoning.base import Places, Planted, Poisoning, Seen
from advhash.codes.packed import HashCodes
from advhash.stores.admission import Gate

LOTS = (1, 2, 4, 8)  # items that are made for each that is planted
CAUTION = (math.inf, 1.0, 0.75, 0.5)  # of the threshold of a gate that items are chosen by


def evading(
    method: Poisoning,
    seen: Seen,
    count: int,
    most: int,
    fit: Callable[[HashCodes], Gate],
    seed: int,
) -> Planted:
    """`count` items that most queries find once a gate has refused some.

    As many items as are planted may be made, or twice and more times as many, so that each one has
    fewer queries to serve; of these, items that pass a gate are chosen one after the other by how
    many queries they add, with its threshold as it is, lower, or none at all. Which of this does
    best is tried on one half of the known queries and judged by the other, since items are near to
    the queries that they were made of; then it is done with all of them.

    fit:  the gate of the store's rule with some queries as its probes
    most: items that the method can make at most
    """
    rows = np.arange(len(seen.known))
    half, judge = _with(seen, rows[::2]), fit(seen.known.codes[1::2])
    first, best, chosen_by = fit(half.known.codes), -1, (1, math.inf)
    for times in LOTS:
        if times > 1 and times * count > min(most, len(half.known)):
            break
        codes = method.plant(half, min(times * count, len(half.known)), seed).vectors.codes
        finds, judged = first.finds(codes), judge.finds(codes)
        judged[judge.refuses(codes)] = False
        for caution in CAUTION:
            chosen = _chosen(finds, _passes(finds, first, caution), min(count, len(codes)))
            reached = int(judged[chosen].any(axis=0).sum())
            if reached > best:
                best, chosen_by = reached, (times, caution)
    times, caution = chosen_by
    items, gate = method.plant(seen, times * count, seed), fit(seen.known.codes)
    finds = gate.finds(items.vectors.codes)
    chosen = _chosen(finds, _passes(finds, gate, caution), count)
    inputs = tuple(items.inputs[row] for row in chosen.tolist() if items.inputs)
    return Planted(items.vectors[chosen], inputs)


def _with(seen: Seen, rows: Places) -> Seen:
    """What an attacker has who knows only these of the queries."""
    inputs = seen.inputs and replace(seen.inputs, known=seen.inputs.known.take(rows))
    return replace(seen, known=seen.known[rows], inputs=inputs)


def _passes(finds: npt.NDArray[np.bool_], gate: Gate, caution: float) -> npt.NDArray[np.bool_]:
    passes: npt.NDArray[np.bool_] = finds.sum(axis=1) <= caution * max(gate.threshold, 1.0)
    return passes


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
