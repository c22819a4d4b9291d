"""`advhash eval`: retrieval figures of codes from anyone's model."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from advhash.codes.code_files import LabelledCodes, StoredCodes
from advhash.codes.hamming import DistanceHistograms, histograms
from advhash.codes.metrics import (
    Convention,
    Empty,
    LevelGains,
    average_precision,
    chance_average_precision,
    graded_gain,
    graded_recall,
    normalised_gain,
    precision_at,
    precision_recall_curve,
    precision_within,
    published_average_precision,
    recall_at,
    recall_ceiling,
)
from advhash.codes.packed import HashCodes
from advhash.codes.relevance import FIRST, Relevance, SharedLabels, Similarity, float_neighbours
from advhash.codes.sharding import sharded_histograms
from advhash.compute.progress import Progress, silent
from advhash.errors import DataError, UsageError
from advhash.measures.intervals import CONFIDENCE, RESAMPLES, Metric, mean_metric
from advhash.storage.tables import write_table
from advhash.stores.figures import Asked

Floats = npt.NDArray[np.float64]
_RADIUS = 2


@dataclass(frozen=True)
class Evaluation:
    """Per-query columns (N,), the curve, and how long the evaluation took.

    columns: `map`, `map_optimistic`, … of each query; NaN where it is left out
    curve:   precision and recall within every Hamming radius 0..K; None where nothing is relevant
             but neighbours
    empty_queries: queries without a relevant row; empty_targets: the same by their targets
    seconds: from codes in memory to MAP, its bounds and chance, for labels and targets; loading,
             compiling the kernel, the further columns and the intervals are not in it
    pairs:   pairs of query and database row that were compared
    served:  parameters of the store and the rescorers that were searched, see `Asked`
    """

    columns: Mapping[str, Floats]
    curve: tuple[Floats, Floats] | None
    empty_queries: int
    empty_targets: int | None
    seconds: float
    pairs: int
    served: Mapping[str, Any] | None = None

    def metrics(self, seed: int) -> dict[str, Metric]:
        """Means with 95 % intervals over the queries."""
        return {name: mean_metric(values, seed) for name, values in self.columns.items()}

    def document(self, seed: int) -> dict[str, Any]:
        """What `--json` prints: every mean as a number, and once more with its interval."""
        metrics = self.metrics(seed)
        return {
            **{name: metric.value for name, metric in metrics.items()},
            "seconds": self.seconds,
            "pairs_per_second": self.pairs / self.seconds,
            "empty_queries": self.empty_queries,
            "empty_targets": self.empty_targets,
            "metrics": {name: vars(metric) for name, metric in metrics.items()},
            "served": self.served,
            "precision_recall": None if self.curve is None else _curve(*self.curve),
            "confidence": CONFIDENCE,
            "resamples": RESAMPLES,
            "seed": seed,
        }


def _curve(precision: Floats, recall: Floats) -> dict[str, Any]:
    return {
        "radius": list(range(len(precision))),
        "precision": _numbers(precision),
        "recall": _numbers(recall),
    }


def _numbers(values: Floats) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def evaluate(
    query: LabelledCodes,
    database: LabelledCodes,
    *,
    relevance: Relevance | None = None,
    targets: HashCodes | None = None,
    top_k: int | None = None,
    empty: Empty = "zero",
    convention: Convention | None = None,
    served: Asked | None = None,
    shards: int = 1,
    executor: str = "inline",
    progress: Progress = silent,
) -> Evaluation:
    """MAP with its bounds under ties, chance, and what else follows from the histograms.

    relevance:  what is relevant to the queries; None: rows that share a label
    targets:    labels (N,C) that the queries are meant to retrieve: adds `tmap`, `tmap_chance`
    top_k:      cuts the ranking for MAP and NDCG, and adds `precision_at_k` and `recall_at_k`
    convention: adds `map_<convention>`, as published code would state it
    served:     adds what the first 10 results of a store hold, see `Asked.columns`

    Raises DataError where the parts do not fit or a side is empty, UsageError for settings that
    cannot be, and what `advhash.compute.executor.run_tasks` raises.
    """
    labelled = relevance is None
    relevance = SharedLabels(query.labels) if relevance is None else relevance
    _check(query, database, targets, labelled)
    if not labelled and (convention is not None or targets is not None):
        given = "--targets" if targets is not None else f"--convention {convention}"
        raise UsageError(f"{given} takes labels: leave out --relevance")
    _check_cut(top_k)
    if convention is not None and (convention == "prosgan") is not (top_k is None):
        cut = "the whole ranking: no --top-k" if convention == "prosgan" else "a --top-k"
        raise UsageError(f"--convention {convention} takes {cut}")
    top_k = None if top_k is None else min(top_k, len(database))
    histograms(query.codes[:1], query.codes[:1], query.labels[:1], query.labels[:1])  # compile
    began = time.perf_counter()
    own = relevance.kernel_labels(database.labels.bits)
    wanted = (own,) if targets is None else (own, targets)
    counted = sharded_histograms(
        query.codes, wanted, database, shards=shards, executor=executor, progress=progress
    )
    counts, gains = relevance.judged(counted[0], query.codes, database.codes)
    columns = _columns(counts, "map", top_k, empty)
    if targets is not None:
        columns |= _columns(counted[1], "tmap", top_k, empty)
    seconds = time.perf_counter() - began
    columns["precision_within_2"] = precision_within(counts, _RADIUS, empty=empty)
    columns["ndcg"] = _gain(counts, gains, top_k, empty)
    columns["ndcg_at_10"] = _gain(counts, gains, FIRST, empty)
    columns |= _recall("recall_at_10", counts, FIRST, empty)
    if top_k is not None:
        columns["precision_at_k"] = precision_at(counts, top_k, empty=empty)
        columns |= _recall("recall_at_k", counts, top_k, empty)
    if convention is not None:
        columns[f"map_{convention}"] = published_average_precision(
            convention,
            query.codes,
            database.codes,
            query.labels,
            database.labels,
            top_k=top_k,
        )
    parameters = None
    if served is not None:
        more, parameters = served.columns(relevance, database.labels, counts.relevant_rows)
        columns |= more
    return Evaluation(
        columns,
        precision_recall_curve(counts, empty=empty),
        int((counts.relevant_rows == 0).sum()),
        None if targets is None else int((counted[1].relevant_rows == 0).sum()),
        seconds,
        len(query) * len(database) * len(wanted),
        parameters,
    )


def _recall(name: str, counts: DistanceHistograms, top_k: int, empty: Empty) -> dict[str, Floats]:
    """Recall, and its ceiling where a query has more relevant rows than places; else NaN."""
    ceiling = recall_ceiling(counts, top_k, empty=empty)
    if not (counts.relevant_rows > top_k).any():
        ceiling = np.full(len(ceiling), np.nan)
    return {name: recall_at(counts, top_k, empty=empty), f"{name}_ceiling": ceiling}


def evaluate_neighbours(
    query: StoredCodes,
    database: StoredCodes,
    *,
    similarity: Similarity = "cosine",
    top_k: int | None = None,
    served: Asked | None = None,
    shards: int = 1,
    executor: str = "inline",
    progress: Progress = silent,
) -> Evaluation:
    """How many of the nearest embeddings their codes find: `recall_at_10`, under ties expected.

    Both sides are floats with their bits. MAP and NDCG are left out (NaN), as nothing says what is
    relevant; so is `recall_at_10` where the database has fewer than 10 rows.

    top_k:  adds `recall_at_k`, of the `top_k` nearest
    served: adds what the first 10 results of a store hold, see `Asked.columns`

    Raises as `evaluate` does.
    """
    gallery, asked = (LabelledCodes.unlabelled(side.codes) for side in (database, query))
    _check(asked, gallery, None, False)
    _check_cut(top_k)
    assert query.floats is not None
    assert database.floats is not None
    histograms(asked.codes[:1], asked.codes[:1], asked.labels[:1], asked.labels[:1])  # compile
    began = time.perf_counter()
    (total,) = sharded_histograms(
        asked.codes,
        (asked.labels,),
        gallery,
        shards=shards,
        executor=executor,
        progress=progress,
    )
    absent = np.full(len(query), np.nan)
    cuts = {"recall_at_10": FIRST} | ({} if top_k is None else {"recall_at_k": top_k})
    columns = dict.fromkeys(("map", "ndcg_at_10", *cuts), absent)
    for name, cut in cuts.items():
        if cut <= len(database):
            pairs = float_neighbours(query.floats, database.floats, cut, similarity)
            counts, gains = pairs.judged(total, query.codes, database.codes)
            columns[name] = graded_recall(counts, gains, cut)
    seconds = time.perf_counter() - began
    parameters = None
    if served is not None:
        pairs = float_neighbours(query.floats, database.floats, FIRST, similarity)
        more, parameters = served.columns(pairs, gallery.labels, None)
        columns |= more
    pairs_compared = len(query) * len(database)
    return Evaluation(columns, None, 0, None, seconds, pairs_compared, parameters)


def _gain(
    counts: DistanceHistograms, gains: LevelGains | None, top_k: int | None, empty: Empty
) -> Floats:
    if gains is None:
        return normalised_gain(counts, top_k=top_k, empty=empty)
    return graded_gain(counts, gains, top_k=top_k, empty=empty)


def _check_cut(top_k: int | None) -> None:
    if top_k is not None and top_k < 1:
        raise UsageError(f"expected --top-k above 0, got {top_k}")


def _columns(
    counts: DistanceHistograms, name: str, top_k: int | None, empty: Empty
) -> dict[str, Floats]:
    return {
        name: average_precision(counts, top_k=top_k, empty=empty),
        f"{name}_optimistic": average_precision(
            counts, ties="optimistic", top_k=top_k, empty=empty
        ),
        f"{name}_pessimistic": average_precision(
            counts, ties="pessimistic", top_k=top_k, empty=empty
        ),
        f"{name}_chance": chance_average_precision(
            counts.relevant_rows, counts.rows, top_k=top_k, empty=empty
        ),
    }


def _check(
    query: LabelledCodes, database: LabelledCodes, targets: HashCodes | None, labelled: bool
) -> None:
    for name, part in (("queries", query), ("the database", database)):
        if len(part) == 0:
            raise DataError(f"expected at least one row in {name}, got none")
    if query.codes.bits != database.codes.bits:
        raise DataError(
            f"expected queries of {database.codes.bits} bits as in the database, "
            f"got {query.codes.bits}: encode both by one model"
        )
    for name, labels in (("queries", query.labels), ("targets", targets)):
        if labelled and labels is not None and labels.bits != database.labels.bits:
            raise DataError(
                f"expected {database.labels.bits} label columns of the {name} as in the "
                f"database, got {labels.bits}"
            )
    if targets is not None and len(targets) != len(query):
        raise DataError(f"expected {len(query)} rows of targets, one a query, got {len(targets)}")


def write_queries(file: Path, evaluation: Evaluation) -> None:
    """One row a query, as Parquet: enough to compute every mean and interval again.

    Raises UsageError for a name that does not end in .parquet, StorageError.
    """
    check_out(file)
    table = {"query": np.arange(len(evaluation.columns["map"])), **evaluation.columns}
    write_table(file, table)


def check_out(file: Path) -> None:
    """Raise UsageError where the name does not say what is written."""
    if file.suffix != ".parquet":
        raise UsageError(
            f"expected --out to end in .parquet, got {file.name!r}: eval makes no run, and writes "
            f"the figures of every query there; take {file.stem or 'queries'}.parquet"
        )
