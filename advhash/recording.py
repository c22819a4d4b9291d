"""From finished work to the record of a run: `metrics.json` and `queries.parquet`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from advhash import __version__
from advhash.codes import HashCodes
from advhash.config import AttackConfig
from advhash.files import storage_errors
from advhash.fitting import FittedAttack
from advhash.registry import ATTACKS
from advhash.reports.measures import Columns
from advhash.reports.record import (
    SCHEMA,
    AttackInfo,
    BudgetInfo,
    DatasetInfo,
    Example,
    Protocol,
    Record,
    RunInfo,
    VictimInfo,
)
from advhash.sanity import Flag
from advhash.stats import CONFIDENCE, RESAMPLES, Metric
from advhash.training import Trained

__all__ = ["Outcome", "Scores", "make_record", "write_queries"]

Labels = npt.NDArray[np.uint8]
Metrics = dict[str, Metric | None]


@dataclass(frozen=True)
class Outcome:
    """All attacked queries in order: rows of the query split, inputs, codes, distances.

    labels, targets: (N,C); targets None when untargeted
    columns: `linf`, `l2`, `rmse`, `psnr`, `ssim`, `overrun`, each (N,)
    """

    rows: Tensor
    labels: Labels
    targets: Labels | None
    clean: Tensor
    moved: Tensor
    clean_codes: HashCodes
    codes: HashCodes
    columns: Columns
    seconds: float


@dataclass(frozen=True)
class Scores:
    """Retrieval figures: columns and metrics by direction, e.g. "image-text"."""

    columns: dict[str, Columns]
    metrics: dict[str, Metrics]
    empty_queries: int


def make_record(
    config: AttackConfig,
    trained: Trained,
    fitted: FittedAttack,
    scores: Scores,
    *,
    metrics: Metrics,
    flags: Sequence[Flag],
    examples: Sequence[Example],
    folder: Path,
    seconds: dict[str, float],
) -> Record:
    """The record of a finished run. `config` has every default written out."""
    data, protocol, attack = trained.data, config.protocol, fitted.attack
    entry, card = ATTACKS[config.attack.name], trained.card
    queries = next(iter(scores.columns.values()))["map"]
    return Record(
        schema_=SCHEMA,
        command="attack",
        run=RunInfo(
            id=folder.name,
            folder=str(folder),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            seed=config.seed,
            device=config.device,
            version=__version__,
            seconds={name: round(value, 3) for name, value in seconds.items()},
        ),
        victim=VictimInfo(
            name=card["name"],
            settings=card["settings"],
            source=str(card.get("source", "")),
            summary=(type(trained.victim).__doc__ or "").partition("\n")[0],
            cached=trained.cached,
            fingerprint=trained.fingerprint,
            history=trained.victim.history,
            deviations=trained.deviations,
            modalities=list(trained.victim.bounds),
            notes={key: card.get(key) for key in ("metrics", "seconds", "seed")},
        ),
        attack=AttackInfo(
            name=config.attack.name,
            settings=fitted.settings,
            source=entry.source,
            summary=entry.summary,
            cached=fitted.cached,
            fingerprint=fitted.fingerprint,
            history=fitted.history,
            deviations=entry.deviations,
            goal=attack.goal,
            knowledge=sorted(attack.knowledge),
        ),
        dataset=DatasetInfo(
            name=data.name,
            settings=dict(data.settings),
            fingerprint=data.fingerprint(),
            classes=list(data.classes),
            database=len(data.database),
            train=len(data.train_rows),
            queries=len(data.query),
            attribution=data.attribution,
        ),
        budget=BudgetInfo(
            norm=fitted.budget.norm,
            eps=None if math.isinf(fitted.budget.eps) else fitted.budget.eps,
            text=str(fitted.budget),
            eight_bit=config.budget.eight_bit,
        ),
        protocol=Protocol(
            targets=protocol.targets if attack.goal == "targeted" else None,
            query_modality=protocol.query_modality,
            database=str(protocol.database),
            queries=len(queries),
            batch_size=protocol.batch_size,
            top_k=protocol.top_k,
            ties=protocol.ties,
            empty=protocol.empty,
            empty_queries=scores.empty_queries,
            confidence=CONFIDENCE,
            resamples=RESAMPLES,
        ),
        flags=list(flags),
        metrics=metrics,
        metrics_by_direction=scores.metrics,
        examples=list(examples),
    )


def write_queries(file: Path, outcome: Outcome, scores: Scores) -> None:
    """`queries.parquet`: one row per query, enough to compute every metric again.

    Codes are in hexadecimal, one word of 64 bits after the other; labels are class numbers.
    """

    def classes(labels: Labels) -> list[list[int]]:
        return [np.flatnonzero(row).tolist() for row in labels]

    def hexadecimal(codes: HashCodes) -> list[str]:
        return ["".join(f"{word:016x}" for word in row) for row in codes.words.tolist()]

    table: dict[str, Any] = {"query": outcome.rows.numpy(), "labels": classes(outcome.labels)}
    if outcome.targets is not None:
        table["target"] = classes(outcome.targets)
    table["code_clean"] = hexadecimal(outcome.clean_codes)
    table["code_adversarial"] = hexadecimal(outcome.codes)
    for direction, columns in scores.columns.items():
        table |= {f"{name}:{direction}": column for name, column in columns.items()}
    table |= outcome.columns
    with storage_errors(file):
        pq.write_table(pa.table(table), file)
