"""Target rules: which labels a targeted attack aims at, for each query."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from advhash.errors import ConfigError, DataError

TargetRule = Literal["disjoint", "uniform", "weighted"]
Labels = npt.NDArray[np.uint8]


def label_sets(labels: Labels) -> tuple[Labels, npt.NDArray[np.int64]]:
    """The distinct non-empty label sets (S,C) of the rows, sorted, and how often each occurs."""
    sets, counts = np.unique(labels, axis=0, return_counts=True)
    kept = sets.any(axis=1)
    return sets[kept], counts[kept].astype(np.int64)


def choose_targets(
    rule: TargetRule,
    query: Labels,
    database: Labels,
    seed: int,
    *,
    rows: npt.NDArray[np.int64] | None = None,
) -> Labels:
    """(N,C) target label sets drawn from those of the database, of each query by (seed, query).

    rows: (N,) the numbers of the queries, e.g. in their split; by default their places

    disjoint  uniform over the sets that share no label with the query (default)
    uniform   uniform over all sets: ProS-GAN's rule, for comparison with published numbers
    weighted  by the number of database rows that carry the set

    Raises ConfigError: an unknown rule; DataError: no set is left for a query.
    """
    from advhash.chance import Chance

    if rule not in get_args(TargetRule):
        raise ConfigError(f"targets: expected {', '.join(get_args(TargetRule))}, got {rule!r}")
    sets, counts = label_sets(database)
    if len(sets) == 0:
        raise DataError("expected database rows with labels to draw targets from, got none")
    drawn = Chance(seed, np.arange(len(query)) if rows is None else rows).shares()
    if rule != "disjoint":
        weight = counts if rule == "weighted" else np.ones_like(counts)
        place = np.searchsorted(weight.cumsum(), drawn * weight.sum(), side="right")
        return np.asarray(sets[place])
    free = ~((query.astype(np.int64) @ sets.astype(np.int64).T) > 0)  # (N,S)
    stuck = np.flatnonzero(~free.any(axis=1))
    if len(stuck):
        raise DataError(
            f"{len(stuck)} queries (first: row {stuck[0]}) share a label with every label set of "
            "the database: expected a disjoint one; use targets=uniform"
        )
    place = (drawn * free.sum(axis=1)).astype(np.int64)
    return np.asarray(sets[(free.cumsum(axis=1) > place[:, None]).argmax(axis=1)])
