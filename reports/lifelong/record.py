"""The record of a lifelong run, of all that `advhash lifelong` measured."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator

from advhash.measures.intervals import Metric
from advhash.measures.sanity import Flag
from advhash.reports.record import DatasetInfo, Document, RunInfo

LIFELONG: Literal["advhash/lifelong/1"] = "advhash/lifelong/1"
NAMES = {
    "frozen": "frozen networks of phase 1",
    "codes_only": "new codes from labels, networks frozen",
    "finetune": "naive fine-tuning, all hashed anew",
    "dlcmh": "DLCMH increment",
    "dlcmh_binary": "DLCMH increment, binary similarity",
    "retrain": "retraining on everything",
    "retrain_same_time": "retraining in the increment’s time",
    "dcmh": "DCMH on everything",
    "chance": "chance",
}
VERDICT = (  # the figures that the verdict tells
    *("increment_seconds_ratio", "increment_cpu_seconds_ratio", "map_new_gain"),
    *("map_new_gain_same_time", "map_new_gain_untrained", "map_new_gain_same_time_untrained"),
    *("map_new_gain_hashed", "map_all_gap", "forgetting_old", "forgetting_old_finetune"),
    "old_codes_changed",
)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LifelongProtocol(_Part):
    """orders: of each, the new categories of each increment; rows: of each, those there then."""

    orders: list[list[list[str]]]
    seeds: list[int]
    rows: list[list[int]]
    queries: list[list[int]]  # of each order, queries that each stage brings
    ties: Literal["expected"] = "expected"
    confidence: float
    resamples: int
    threads: int


class Victim(_Part):
    name: str
    settings: dict[str, Any]
    source: str
    deviations: list[str]


class MapRow(_Part):
    """MAP of a method after increment `stage` (0: phase 1), of a group of queries."""

    method: str
    stage: int
    group: Group
    direction: str
    view: View
    metric: Metric


class TimeRow(_Part):
    """What training cost; `changed`: the largest share of old codes that it changed."""

    method: str
    stage: int
    seconds: Metric
    cpu_seconds: Metric
    epochs: float | None
    changed: float


class AttackRow(_Part):
    """t-MAP of ProS-GAN, fitted to the victim of phase 1 (stale) or to the present one (fresh)."""

    attack: Literal["stale", "fresh"]
    stage: int
    tmap: Metric
    tmap_clean: Metric
    tmap_chance: Metric
    l2: Metric


class LifelongRecord(Document):
    """Everything that `advhash lifelong` found. `metrics` are those of `--json`."""

    schema_: Literal["advhash/lifelong/1"]
    command: Literal["lifelong"]
    run: RunInfo
    victim: Victim
    rival: Victim
    attack: dict[str, Any] | None
    dataset: DatasetInfo
    protocol: LifelongProtocol
    flags: list[Flag]
    metrics: dict[str, Metric | None]
    table: list[MapRow]
    times: list[TimeRow]
    robustness: list[AttackRow]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        """What the page relies on."""
        lengths = {len(rows) for rows in self.protocol.rows}
        if len(lengths) != 1 or min(lengths) < 2:
            raise ValueError("expected as many stages, above 1, in every order")
        methods = {row.method for row in self.table} | {row.method for row in self.times}
        unknown = sorted(methods - set(NAMES))
        if unknown:
            raise ValueError(f"expected known methods, got {unknown[0]!r}")
        absent = sorted(set(VERDICT) - set(self.metrics))
        if absent:
            raise ValueError(f"expected the metric {absent[0]!r}, got none")
        return self

    def at(
        self,
        method: str,
        stage: int,
        group: Group,
        direction: str = "mean",
        view: View = "served",
    ) -> Metric | None:
        """One cell of the table."""
        for row in self.table:
            if row.view != view:
                continue
            if (row.method, row.stage, row.group, row.direction) == (
                method,
                stage,
                group,
                direction,
            ):
                return row.metric
        return None

    @property
    def last(self) -> int:
        return len(self.protocol.rows[0]) - 1

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(row.method for row in self.table))


GROUPS: dict[Group, str] = {
    "all": "all queries that can be answered",
    "old": "those known before the increment",
    "new": "those with a category of the increment",
    "first": "those known in phase 1, among the rows of phase 1 alone",
}
VIEWS: dict[View, str] = {
    "served": "the codes that a method serves",
    "untrained": "these, of rows never trained on",
    "hashed": "all rows hashed by the networks",
}
Group = Literal["all", "old", "new", "first"]
View = Literal["served", "untrained", "hashed"]
