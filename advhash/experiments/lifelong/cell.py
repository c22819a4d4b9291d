"""One cell of the lifelong protocol: an order of categories and a seed, all methods, all stages.

After increment s, a method answers the queries whose categories are all known, from the database
rows that are there. What is compared:

frozen             the networks of phase 1, for queries and for new rows
codes_only         the same networks; new rows get the codes that phase 2 starts from, from labels
finetune           phase 1 continued on the new items alone, the whole database hashed anew
dlcmh              phase 2: the increment
dlcmh_binary       phases 1 and 2 with binary instead of cosine similarity
retrain            phase 1 on everything that is there, with all its epochs
retrain_same_time  the same with as many epochs as take the time of the increment
dcmh               DCMH on everything that is there

Each is scored on the codes that it serves, in which rows that were trained on may have codes learnt
with their labels; on these among rows never trained on; and on codes of its networks alone.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.codes.hamming import histograms
from advhash.codes.metrics import average_precision, chance_average_precision
from advhash.codes.packed import HashCodes
from advhash.compute.progress import Progress
from advhash.data.dataset import Dataset, Split
from advhash.experiments.lifelong.figures import Timing
from advhash.experiments.lifelong.orders import Order, arrived_rows, stage_of
from advhash.victims.base import HashVictim
from advhash.victims.cross_modal.base import network_codes
from advhash.victims.cross_modal.dcmh import DCMH
from advhash.victims.cross_modal.dlcmh import DLCMH
from advhash.victims.cross_modal.phases import learn_original
from advhash.victims.networks.backbones import frozen_features
from advhash.victims.training.descent import seeded
from advhash.victims.training.phase import Phase

Floats = npt.NDArray[np.float64]
Codes = Mapping[str, HashCodes]
METHODS = (
    *("frozen", "codes_only", "finetune", "dlcmh", "dlcmh_binary"),
    *("retrain", "retrain_same_time", "dcmh"),
)
DIRECTIONS = ("image_text", "text_image", "image_fused", "text_fused")  # query, database
CHECKS = 10  # how often a retraining is scored while it trains


@dataclass(frozen=True, kw_only=True)
class Stage(Timing):
    """What one method is after one increment (stage 0: after phase 1), and what led there.

    columns: AP of each of the N queries in every direction, NaN for one that is still unknown;
             "untrained_…": among rows never trained on; "hashed_…": all rows hashed by the networks
             of this stage; "first_…": of the queries of phase 1 among the rows of phase 1 alone;
             "before_…": of the queries and rows that were known one stage before
    """

    method: str
    stage: int
    columns: dict[str, Floats]


@dataclass(frozen=True)
class Lifetime:
    """All stages of all methods for one order and one seed.

    query_stage: (N,) with which increment a query becomes answerable
    chance:  (S+1,N) AP of a random order, NaN for an unknown query
    rows:    how many database rows are there after each stage
    victims: the DLCMH victim after each stage, 0 … S
    tables:  the codes of the rows that it serves then
    """

    stages: list[Stage]
    query_stage: npt.NDArray[np.int64]
    chance: Floats
    rows: list[int]
    victims: list[DLCMH]
    tables: list[Codes]


def run_cell(
    data: Dataset,
    order: Order,
    seed: int,
    *,
    settings: Mapping[str, Any],
    rival: Mapping[str, Any],
    device: torch.device,
    progress: Progress,
) -> Lifetime:
    """Train and score every method along one order of categories.

    settings: of dlcmh, all but `increments`; rival: of dcmh. A frozen backbone runs once over all
    pictures before anything is timed: every method gets the features.
    """
    protocol = _Course(data, order, seed, settings, rival, device, progress)
    first, binary = protocol.phase_one(), protocol.phase_one(similarity="binary")
    victim, tuned = copy.deepcopy(first), copy.deepcopy(first)
    victims, tables = [first], [protocol.served(first, 0)]
    assigned = copy.deepcopy(first)
    assigned.samples = 0  # phase 2 without a training item: its networks stay
    for stage, names in enumerate(order, start=1):
        protocol.note("frozen", stage, first, protocol.served(first, stage))
        protocol.increment("codes_only", stage, assigned, names)
        tuned = protocol.finetune(stage, tuned)
        seconds = protocol.increment("dlcmh", stage, victim, names)
        protocol.increment("dlcmh_binary", stage, binary, names)
        full = protocol.retrain("retrain", stage, victim.epochs)
        protocol.retrain("retrain_same_time", stage, max(1, int(victim.epochs * seconds / full)))
        protocol.dcmh(stage)
        victims.append(copy.deepcopy(victim))
        tables.append(protocol.served(victim, stage))
    return Lifetime(
        protocol.stages,
        protocol.query_stage,
        np.stack([protocol.chance(stage) for stage in range(len(order) + 1)]),
        [len(rows) for rows in protocol.arrived],
        victims,
        tables,
    )


class _Clock:
    """Wall and processor time since it was made, less what `pause` covers."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    @property
    def wall(self) -> float:
        return time.perf_counter() - self._wall

    @property
    def spent(self) -> tuple[float, float]:
        """Wall and processor seconds so far."""
        return self.wall, time.process_time() - self._cpu

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Time inside does not count."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self._wall += time.perf_counter() - wall
        self._cpu += time.process_time() - cpu


@dataclass
class _Course:
    """What the methods of a cell share: data, order, queries; and the stages found so far.

    Times are taken before anything is scored.
    """

    data: Dataset
    order: Order
    seed: int
    settings: Mapping[str, Any]
    rival: Mapping[str, Any]
    device: torch.device
    progress: Progress
    stages: list[Stage] = field(default_factory=list)

    def __post_init__(self) -> None:
        data, order = self.data, self.order
        self.settings = {**self.settings, "increments": order}
        self.query_stage = stage_of(data.query.labels, data.classes, order).numpy()
        self.arrived = [arrived_rows(data, order, stage) for stage in range(len(order) + 1)]
        self.data = _with_features(data, self._build().image_network[0], self.device)

    def _build(self, **changes: Any) -> DLCMH:
        return DLCMH(**{**self.settings, **changes}).to(self.device)

    def phase_one(self, **changes: Any) -> DLCMH:
        victim, clock = self._build(**changes), _Clock()
        victim.fit_original(self.data, seed=self.seed, progress=self.progress)
        spent = clock.spent
        served, epochs = self.served(victim, 0), victim.epochs
        for name in ("dlcmh_binary",) if changes else ("frozen", "codes_only", "dlcmh"):
            self.note(name, 0, victim, served, spent, epochs)
        if not changes:
            self.note("finetune", 0, victim, self._hashed(victim, 0), spent, epochs)
        return victim

    def increment(self, name: str, stage: int, victim: DLCMH, names: tuple[str, ...]) -> float:
        """Phase 2; the wall seconds that it took."""
        before = self.served(victim, stage - 1)
        clock = _Clock()
        victim.increment(self.data, names, seed=self.seed + stage, progress=self.progress)
        spent = clock.spent
        after = self.served(victim, stage)
        changed = self._changed(stage, before, after)
        self.note(name, stage, victim, after, spent, victim.increment_epochs, changed)
        return spent[0]

    def finetune(self, stage: int, before: DLCMH) -> DLCMH:
        """The networks go on with phase 1, on the new items alone."""
        served = self._hashed(before, stage - 1)
        victim = self._build(
            epochs=before.increment_epochs,
            learning_rate=before.increment_learning_rate,
            optimiser=before.increment_optimiser,
            decay=before.increment_decay,
        )
        victim.load_state_dict(before.state_dict())
        rows = self.arrived[stage]
        new = torch.isin(self.data.train_rows, rows) & ~torch.isin(
            self.data.train_rows, self.arrived[stage - 1]
        )
        clock = _Clock()
        with seeded(self.seed + stage):
            learn_original(
                victim,
                self.data.database.take(self.data.train_rows[new]),
                torch.Generator().manual_seed(self.seed + stage),
                Phase("finetune", victim, self.progress),
            )
        tables = self._hashed(victim, stage)
        spent = clock.spent
        changed = self._changed(stage, served, tables)
        self.note("finetune", stage, victim, tables, spent, victim.epochs, changed)
        return victim

    def retrain(self, name: str, number: int, epochs: int) -> float:
        """Phase 1 on all that is there; the wall seconds that it took."""
        data = subset(self.data, self.arrived[number])
        victim = self._build(increments=(), epochs=epochs, database_rows=len(data.database))
        trace: list[tuple[float, float]] = []
        clock = _Clock()

        def watch(stage: str, done: int, total: int, **figures: float) -> None:
            self.progress(stage, done, total, **figures)
            if name == "retrain" and done * CHECKS // total > (done - 1) * CHECKS // total:
                seconds = clock.wall
                with clock.pause():
                    trace.append((seconds, self._mean(number, victim)))

        victim.fit(data, seed=self.seed, progress=watch)
        spent = clock.spent
        tables = victim.served_codes(data)
        self.note(name, number, victim, tables, spent, epochs, trace=trace)
        return spent[0]

    def dcmh(self, stage: int) -> None:
        data = subset(self.data, self.arrived[stage])
        victim = DCMH(**self.rival).to(self.device)
        clock = _Clock()
        victim.fit(data, seed=self.seed, progress=self.progress)
        tables = victim.served_codes(data)
        self.note("dcmh", stage, victim, tables, clock.spent, victim.epochs)

    def note(
        self,
        method: str,
        stage: int,
        victim: HashVictim,
        tables: Codes,
        spent: tuple[float | None, float | None] = (None, None),
        epochs: int | None = None,
        changed: float = 0.0,
        trace: list[tuple[float, float]] | None = None,
    ) -> None:
        """Keep the figures of a method."""
        columns = self._columns(stage, victim, tables)
        training = (*spent, epochs, changed, trace or [])
        self.stages.append(Stage(*training, method=method, stage=stage, columns=columns))

    def served(self, victim: DLCMH, stage: int) -> Codes:
        """The codes of the rows that are there, as a lifelong victim serves them."""
        rows = self.arrived[stage].numpy()
        return {way: codes[rows] for way, codes in victim.served_codes(self.data).items()}

    def _hashed(self, victim: HashVictim, stage: int) -> Codes:
        """The codes of the rows that are there, all from the networks."""
        return network_codes(victim, self.data.database.take(self.arrived[stage]))

    def _changed(self, stage: int, before: Codes, after: Codes) -> float:
        old = torch.searchsorted(self.arrived[stage], self.arrived[stage - 1]).numpy()
        different = [
            (before[way].words != after[way][old].words).any(axis=1).mean() for way in before
        ]
        return float(np.max(different))

    def _columns(self, stage: int, victim: HashVictim, tables: Codes) -> dict[str, Floats]:
        query = {name: victim.encode_split(self.data.query, name) for name in ("image", "text")}
        hashed = self._hashed(victim, stage)
        rows = self.arrived[stage]
        untrained = ~torch.isin(rows, self.data.train_rows)
        earlier = max(stage - 1, 0)
        columns = {}
        for way in DIRECTIONS:
            modality, database = way.split("_")
            for view, codes, kept, known in (
                ("", tables, rows, stage),
                ("hashed_", hashed, rows, stage),
                ("untrained_", tables, rows[untrained], stage),
                ("first_", tables, self.arrived[0], 0),
                ("before_", tables, self.arrived[earlier], earlier),
            ):
                places = torch.searchsorted(rows, kept).numpy()
                columns[view + way] = self._precision(
                    query[modality], codes[database][places], kept, known
                )
        return columns

    def _precision(self, query: HashCodes, table: HashCodes, rows: Tensor, known: int) -> Floats:
        """AP of each query among these database rows; NaN where it is not known at that stage."""
        labels = self.data.database.labels[rows].numpy()
        precision = average_precision(
            histograms(query, table, self.data.query.labels.numpy(), labels)
        )
        return np.where(self.query_stage <= known, precision, np.nan)

    def _mean(self, stage: int, victim: HashVictim) -> float:
        """MAP of all queries on hashed codes, mean of image → text and text → image."""
        hashed = self._hashed(victim, stage)
        columns = [
            self._precision(
                victim.encode_split(self.data.query, modality),
                hashed[database],
                self.arrived[stage],
                stage,
            )
            for modality, database in (("image", "text"), ("text", "image"))
        ]
        return float(np.nanmean(columns))

    def chance(self, stage: int) -> Floats:
        labels = self.data.database.labels[self.arrived[stage]].int()
        relevant = (self.data.query.labels.int() @ labels.T > 0).sum(dim=1).numpy()
        precision = chance_average_precision(relevant, len(labels))
        return np.where(self.query_stage <= stage, precision, np.nan)


def _with_features(data: Dataset, backbone: torch.nn.Module, device: torch.device) -> Dataset:
    """The data with the features of a frozen backbone for pictures, else the data as they are."""

    def computed(split: Split) -> Split:
        return frozen_features(backbone, split, device)

    return dataclasses.replace(
        data,
        database=computed(data.database),
        validation=computed(data.validation),
        query=computed(data.query),
    )


def subset(data: Dataset, rows: Tensor) -> Dataset:
    """The data with these database rows (ascending) only, and nothing that is still to come."""
    train = torch.isin(rows, data.train_rows).nonzero()[:, 0]
    return dataclasses.replace(
        data, database=data.database.take(rows), train_rows=train, increments=()
    )
