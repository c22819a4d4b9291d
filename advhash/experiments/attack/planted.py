"""Poisoned database items: adversarial pictures that queries of a target find.

The attacker owns N pictures, moves each toward a target label set, and has them added to the
database. Figures are taken over the clean queries that at least one of them is aimed at: those that
share a label with its target and none with the picture itself, so that finding it is an error.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from advhash.codes.hamming import DistanceHistograms, distances, histograms
from advhash.codes.metrics import hit_at
from advhash.codes.packed import HashCodes
from advhash.codes.relevance import FIRST
from advhash.errors import UsageError
from advhash.experiments.attack.record import Metrics, Outcome
from advhash.experiments.config import AttackConfig
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained
from advhash.measures.intervals import mean_metric, rate_metric
from advhash.shared_labels import Labels, shares, without_labels

Floats = npt.NDArray[np.float64]


def check_poison(config: AttackConfig, goal: str, database: str, rows: int) -> None:
    """Raise UsageError where items cannot be planted, of which there are `rows`."""
    wanted = config.protocol.poison
    if not wanted:
        return
    if goal != "targeted":
        raise UsageError(
            f"--poison: expected a targeted attack, {config.attack.name} has no target"
        )
    if database != config.protocol.query_modality:
        raise UsageError(
            f"--poison plants {config.protocol.query_modality} items: expected --database "
            f"{config.protocol.query_modality}, got {database}"
        )
    if wanted > rows:
        raise UsageError(
            f"--poison plants pictures of the validation split: expected at most {rows}, "
            f"got {wanted}"
        )


def aimed_at(queries: Labels, own: Labels, targets: Labels) -> npt.NDArray[np.bool_]:
    """(N,P) whether a planted item is aimed at a query: shares its target, not its own labels.

    queries: (N,C); own, targets: (P,C); multi-hot, or groups

    >>> aimed_at(np.array([[1, 0], [0, 1]]), np.array([[0, 1]]), np.array([[1, 0]])).tolist()
    [[True], [False]]
    """
    return np.asarray(shares(queries, targets) & ~shares(queries, own))


def hit_rates(
    query: HashCodes,
    database: DistanceHistograms,
    planted: HashCodes,
    aimed: npt.NDArray[np.bool_],
    *,
    first: int = FIRST,
) -> Floats:
    """(N,) chance that a planted item aimed at the query is among its `first` results.

    database: distances of the rows that were there before, none of them counted as relevant
    aimed:    (N,P)
    """
    far = distances(query, planted)
    total, hits = (np.zeros_like(database.total) for _ in range(2))
    rows = np.arange(len(far))[:, None].repeat(far.shape[1], axis=1)
    np.add.at(total, (rows, far), 1)
    np.add.at(hits, (rows, far), aimed)
    counts = DistanceHistograms.add([database, DistanceHistograms(total, hits)])
    return hit_at(counts, first)


def planted(config: AttackConfig, trained: Trained) -> tuple[AttackConfig, Trained]:
    """Config and victim with which the pictures to plant are attacked as queries are.

    The pictures are rows of the validation split, which neither victim nor database have.
    """
    asked = {"queries": config.protocol.poison}
    wanted = config.model_copy(update={"protocol": config.protocol.model_copy(update=asked)})
    data = dataclasses.replace(trained.data, query=trained.data.validation)
    return wanted, dataclasses.replace(trained, data=data)


def poison_metrics(
    config: AttackConfig, trained: Trained, items: Outcome, codes: HashCodes
) -> Metrics:
    """`poison_hit10` with its controls: the same pictures unmoved, and a random order.

    items: what the attack made of the `planted` pictures; codes: of the database

    The queries are all of the split, unmoved: `--queries` says how many are attacked, not how many
    ask.
    """
    modality, data = config.protocol.query_modality, trained.data
    assert items.targets is not None
    query = trained.victim.encode_split(data.query, modality)
    labels = data.query.labels.numpy()
    before = histograms(query, codes, labels, without_labels(data.database.labels.numpy()))
    aimed = aimed_at(labels, items.labels, items.targets)
    reached = aimed.any(axis=1)
    seed = derive_seed(config.seed, "bootstrap")

    def rates(planted: HashCodes) -> Floats:
        return hit_rates(query, before, planted, aimed)[reached]

    moved, clean = rates(items.codes), rates(items.clean_codes)
    chance = hit_at(
        DistanceHistograms(
            np.full((int(reached.sum()), 1), len(codes) + len(items.rows)),
            aimed[reached].sum(axis=1)[:, None],
        ),
        FIRST,
    )
    return {
        "poison_hit10": rate_metric(moved, seed),
        "poison_hit10_clean": rate_metric(clean, seed),
        "poison_hit10_chance": mean_metric(chance, seed),
        "poison_hit10_gain": mean_metric(moved - clean, seed),  # paired over queries
    }
