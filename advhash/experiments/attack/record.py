"""From finished work to the record of a run: `metrics.json` and `queries.parquet`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advhash import __version__
from advhash.budget import Budget
from advhash.codes.packed import HashCodes
from advhash.data.dataset import Dataset, Split
from advhash.data.images.mixed import MixedPictures
from advhash.experiments.attack.columns import Columns
from advhash.experiments.config import AttackConfig, ProtocolConfig, Run
from advhash.experiments.experiment import Place
from advhash.experiments.prepare.fit_attack import FittedAttack
from advhash.experiments.prepare.trained import Trained
from advhash.measures.intervals import CONFIDENCE, RESAMPLES, Metric
from advhash.measures.sanity import Flag
from advhash.registry import ATTACKS
from advhash.reports.headline import headline_of
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
from advhash.shared_labels import Labels, label_numbers
from advhash.storage.tables import write_table

Metrics = dict[str, Metric | None]


SIZES = "sizes"  # of moved pictures that have several


def moved_inputs(kept: Mapping[str, Tensor]) -> Tensor | MixedPictures:
    """The moved inputs among the tensors of an attack, whether they have one size or several."""
    if SIZES not in kept:
        return kept["moved"]
    return MixedPictures.behind(kept["moved"], kept[SIZES].numpy())


def clean_inputs(split: Split, rows: Tensor, modality: str) -> Tensor | MixedPictures:
    """The same rows before they were moved; pictures of several sizes as they are stored."""
    stored = split.inputs[modality]
    if isinstance(stored, MixedPictures):
        return stored[rows]
    return split.rows(rows).inputs[modality]


@dataclass(frozen=True)
class Outcome:
    """All attacked queries in order: rows of the query split, inputs, codes, distances.

    labels, targets: (N,C); targets None when untargeted
    columns: `linf`, `l2`, `rmse`, `psnr`, `ssim`, `overrun`, each (N,)
    notes: of the attack on these queries, whatever process attacked them
    """

    rows: Tensor
    labels: Labels
    targets: Labels | None
    clean: Tensor | MixedPictures
    moved: Tensor | MixedPictures
    clean_codes: HashCodes
    codes: HashCodes
    columns: Columns
    seconds: float
    notes: Mapping[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """All that the query split does not hold, to be kept; see `from_tensors`."""
        kept = {
            "rows": self.rows,
            **self._moved(),
            "clean_words": torch.from_numpy(self.clean_codes.words.view(np.int64)),
            "words": torch.from_numpy(self.codes.words.view(np.int64)),
            "bits": torch.tensor(self.codes.bits),
            "seconds": torch.tensor(self.seconds, dtype=torch.float64),
            **{f"column {name}": torch.from_numpy(column) for name, column in self.columns.items()},
            **{f"note {name}": note for name, note in self.notes.items()},
        }
        if self.targets is not None:
            kept["targets"] = torch.from_numpy(self.targets)
        return kept

    def _moved(self) -> dict[str, Tensor]:
        if not isinstance(self.moved, MixedPictures):
            return {"moved": self.moved}
        return {"moved": self.moved.flat, SIZES: torch.from_numpy(self.moved.sizes)}

    @classmethod
    def from_tensors(cls, kept: Mapping[str, Tensor], split: Split, modality: str) -> Outcome:
        """The outcome of which `tensors` were kept.

        split: the queries; modality: the one that was moved
        """

        def codes(name: str) -> HashCodes:
            return HashCodes(kept[name].numpy().view(np.uint64), int(kept["bits"]))

        rows = kept["rows"]
        return cls(
            rows=rows,
            labels=split.labels[rows].numpy(),
            targets=kept["targets"].numpy() if "targets" in kept else None,
            clean=clean_inputs(split, rows, modality),
            moved=moved_inputs(kept),
            clean_codes=codes("clean_words"),
            codes=codes("words"),
            columns={name: column.numpy() for name, column in _named(kept, "column").items()},
            seconds=float(kept["seconds"]),
            notes=_named(kept, "note"),
        )


@dataclass(frozen=True)
class Attacked:
    """A fitted attack on a victim, and what it made of the queries.

    config: with every default written out
    """

    config: AttackConfig
    trained: Trained
    fitted: FittedAttack
    outcome: Outcome


def _named(kept: Mapping[str, Tensor], kind: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a kind, without it."""
    start = f"{kind} "
    return {name[len(start) :]: tensor for name, tensor in kept.items() if name.startswith(start)}


@dataclass(frozen=True)
class Scores:
    """Retrieval figures: columns and metrics by direction, e.g. "image-text"."""

    columns: dict[str, Columns]
    metrics: dict[str, Metrics]
    empty_queries: int

    def tensors(self) -> dict[str, Tensor]:
        """The columns, to be kept; see `score_columns`."""
        return {
            f"score {direction} {name}": torch.from_numpy(np.array(values))
            for direction, columns in self.columns.items()
            for name, values in columns.items()
        }


def score_columns(kept: Mapping[str, Tensor]) -> dict[str, Columns]:
    """The columns by direction of which `Scores.tensors` were kept."""
    columns: dict[str, Columns] = {}
    for name, values in _named(kept, "score").items():
        direction, _, column = name.partition(" ")
        columns.setdefault(direction, {})[column] = values.numpy()
    return columns


def run_info(folder: Path, seed: int, device: str, seconds: Mapping[str, float]) -> RunInfo:
    """Where and when a run was made, and the wall seconds of its stages."""
    return RunInfo(
        id=folder.name,
        folder=str(folder),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seed=seed,
        device=device,
        version=__version__,
        seconds={name: round(value, 3) for name, value in seconds.items()},
    )


def file_document(
    schema: str, command: str, config: Run, trained: Trained, place: Place
) -> dict[str, Any]:
    """What a document on a victim and its data begins with; `run` is None of a file alone."""
    seconds, run = place.seconds["all"], None
    if not place.alone:
        run = run_info(place.final, config.seed, config.device, {"all": seconds}).model_dump()
    return {
        "schema": schema,
        "command": command,
        "run": run,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "version": __version__,
        "seed": config.seed,
        "seconds": round(seconds, 2),
        "victim": {"name": trained.card["name"], "settings": trained.card["settings"]},
        "defenses": list(trained.defenses),
        "dataset": {
            "name": trained.data.name,
            "settings": dict(trained.data.settings),
            "pictures": trained.data.pictures,
            "attribution": trained.data.attribution,
        },
    }


def victim_info(trained: Trained) -> VictimInfo:
    """A victim as records tell it."""
    card = trained.card
    return VictimInfo(
        name=card["name"],
        settings=card["settings"],
        source=str(card.get("source", "")),
        summary=(type(trained.victim).__doc__ or "").partition("\n")[0],
        cached=trained.cached,
        origin=trained.origin,
        fingerprint=trained.fingerprint,
        history=trained.victim.history,
        deviations=trained.deviations,
        modalities=list(trained.victim.bounds),
        defenses=trained.defenses,
        notes={key: card.get(key) for key in ("metrics", "seconds", "seed")},
    )


def attack_info(name: str, fitted: FittedAttack, outcome: Outcome) -> AttackInfo:
    """A fitted attack as records tell it, with what it noted of itself on these queries."""
    entry = ATTACKS[name]
    return AttackInfo(
        name=name,
        settings=fitted.settings,
        source=entry.source,
        summary=entry.summary,
        cached=fitted.cached,
        fingerprint=fitted.fingerprint,
        history=fitted.history,
        deviations=entry.deviations,
        goal=fitted.attack.goal,
        knowledge=sorted(fitted.attack.knowledge),
        indicators=fitted.attack.summarise(outcome.notes),
    )


def dataset_info(data: Dataset) -> DatasetInfo:
    """A data set as records tell it."""
    return DatasetInfo(
        name=data.name,
        settings=dict(data.settings),
        fingerprint=data.fingerprint(),
        classes=list(data.classes),
        database=len(data.database),
        train=len(data.train_labels),
        queries=len(data.query),
        attribution=data.attribution,
        pictures=data.pictures,
    )


def budget_info(budget: Budget, *, eight_bit: bool) -> BudgetInfo:
    """A budget as records tell it."""
    return BudgetInfo(
        norm=budget.norm,
        eps=None if math.isinf(budget.eps) else budget.eps,
        text=str(budget),
        eight_bit=eight_bit,
    )


def protocol_info(
    protocol: ProtocolConfig,
    *,
    targeted: bool,
    database: str,
    queries: int,
    empty_queries: int,
    **more: Any,
) -> Protocol:
    """A protocol as records tell it, with what was searched and where; `more`: what others lack."""
    return Protocol(
        targets=protocol.targets if targeted else None,
        query_modality=protocol.query_modality,
        database=database,
        queries=queries,
        batch_size=protocol.batch_size,
        **vars(protocol.scoring),
        empty_queries=empty_queries,
        store=None if protocol.store is None else protocol.store.model_dump(),
        rescore=[stage.model_dump() for stage in protocol.rescore],
        confidence=CONFIDENCE,
        resamples=RESAMPLES,
        **more,
    )


def at_threshold(attacked: Attacked) -> bool:
    """Whether the run asks if pictures match, by a threshold in use or of altered copies."""
    protocol, goal = attacked.config.protocol, attacked.fitted.attack.goal
    asked = protocol.threshold is not None or protocol.start is not None
    return asked and headline_of(goal, at_threshold=True).main in attacked.outcome.columns


def make_record(
    attacked: Attacked,
    scores: Scores,
    *,
    metrics: Metrics,
    flags: Sequence[Flag],
    examples: Sequence[Example],
    folder: Path,
    seconds: dict[str, float],
) -> Record:
    """The record of a finished run."""
    config, trained, fitted = attacked.config, attacked.trained, attacked.fitted
    protocol = config.protocol
    return Record(
        schema_=SCHEMA,
        command="attack",
        run=run_info(folder, config.seed, config.device, seconds),
        victim=victim_info(trained),
        attack=attack_info(config.attack.name, fitted, attacked.outcome),
        dataset=dataset_info(trained.data),
        budget=budget_info(fitted.budget, eight_bit=config.budget.eight_bit),
        protocol=protocol_info(
            protocol,
            targeted=fitted.attack.goal == "targeted",
            database=str(protocol.database),
            queries=len(next(iter(scores.columns.values()))["map"]),
            empty_queries=scores.empty_queries,
            **protocol.model_dump(include={"poison", "threshold", "start"}),
            at_threshold=at_threshold(attacked),
        ),
        flags=list(flags),
        metrics=metrics,
        metrics_by_direction=scores.metrics,
        examples=list(examples),
    )


def write_queries(file: Path, outcome: Outcome, scores: Mapping[str, Columns]) -> None:
    """`queries.parquet`: one row per query, enough to compute every metric again.

    scores: columns by direction

    Codes are in hexadecimal, one word of 64 bits after the other; labels are numbers of classes or
    groups.
    """

    def classes(labels: Labels) -> list[list[int]]:
        return [label_numbers(row) for row in labels]

    def hexadecimal(codes: HashCodes) -> list[str]:
        return ["".join(f"{word:016x}" for word in row) for row in codes.words.tolist()]

    table: dict[str, Any] = {"query": outcome.rows.numpy(), "labels": classes(outcome.labels)}
    if outcome.targets is not None:
        table["target"] = classes(outcome.targets)
    table["code_clean"] = hexadecimal(outcome.clean_codes)
    table["code_adversarial"] = hexadecimal(outcome.codes)
    for direction, columns in scores.items():
        table |= {f"{name}:{direction}": column for name, column in columns.items()}
    table |= outcome.columns
    write_table(file, table)
