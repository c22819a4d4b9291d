"""Target rules: which labels a targeted attack aims at, for each query."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from advhash.errors import ConfigError, DataError
from advhash.shared_labels import label_sets, shares

TargetRule = Literal["disjoint", "uniform", "weighted"]
_QUERIES = 256  # compared with all label sets at a time


def choose_targets(
    rule: TargetRule,
    query: npt.NDArray[Any],
    database: npt.NDArray[Any],
    seed: int,
    *,
    rows: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[Any]:
    """(N,C) target label sets drawn from those of the database, of each query by (seed, query).

    Where labels are groups, (N,L), a target is a group, or the groups that a row belongs to.

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
    chosen = np.zeros(len(query), np.int64)
    stuck: list[int] = []
    for start in range(0, len(query), _QUERIES):
        part = slice(start, start + _QUERIES)
        free = ~shares(query[part], sets)
        stuck += (start + np.flatnonzero(~free.any(axis=1))).tolist()
        place = (drawn[part] * free.sum(axis=1)).astype(np.int64)
        chosen[part] = (free.cumsum(axis=1) > place[:, None]).argmax(axis=1)
    if stuck and len(sets) == 1:
        raise DataError(
            "expected two label sets or more in the database, so that a target can differ from its "
            "query, got one: take data with more labels, or an untargeted attack"
        )
    if stuck:
        raise DataError(
            f"{len(stuck)} queries (first: row {stuck[0]}) share a label with every label set of "
            "the database: expected a disjoint one; use --targets uniform (protocol.targets)"
        )
    return np.asarray(sets[chosen])
