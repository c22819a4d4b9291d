"""The record of a lifelong run, and its section of the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from pydantic import BaseModel, ConfigDict, ValidationError

from advhash.errors import RunError
from advhash.reports.lifelong_figures import GROUPS, Group
from advhash.reports.plots import COLOURS, MUTED, STYLE, data_uri
from advhash.reports.record import DatasetInfo, RunInfo
from advhash.sanity import Flag
from advhash.stats import Metric

__all__ = ["LIFELONG", "NAMES", "LifelongRecord", "figures", "verdict"]

LIFELONG: Literal["advhash/lifelong/1"] = "advhash/lifelong/1"
NAMES = {
    "frozen": "frozen networks of phase 1",
    "finetune": "naive fine-tuning, all hashed anew",
    "dlcmh": "DLCMH increment",
    "dlcmh_binary": "DLCMH increment, binary similarity",
    "retrain": "retraining on everything",
    "retrain_same_time": "retraining in the increment’s time",
    "dcmh": "DCMH on everything",
    "chance": "chance",
}
MARKS = dict(zip(NAMES, "sDo^vP*x", strict=True))
TINTS = dict(zip(NAMES, (*COLOURS, "#5c4033", MUTED), strict=True))
DASHED = {"dlcmh_binary", "retrain_same_time", "chance"}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Protocol(_Part):
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


class LifelongRecord(_Part):
    """Everything that `advhash lifelong` found. `metrics` are those of `--json`."""

    schema_: Literal["advhash/lifelong/1"]
    command: Literal["lifelong"]
    run: RunInfo
    victim: Victim
    rival: Victim
    attack: dict[str, Any] | None
    dataset: DatasetInfo
    protocol: Protocol
    flags: list[Flag]
    metrics: dict[str, Metric | None]
    table: list[MapRow]
    times: list[TimeRow]
    robustness: list[AttackRow]

    def document(self) -> dict[str, Any]:
        """The JSON document, `schema` first, without NaN."""
        body = self.model_dump(mode="json")
        return {"schema": body.pop("schema_"), **body}

    def dumps(self) -> str:
        return json.dumps(self.document(), indent=1, allow_nan=False, ensure_ascii=False)

    @classmethod
    def read(cls, file: Path) -> LifelongRecord:
        """Raises RunError where it is damaged."""
        try:
            body = json.loads(file.read_text("utf-8"))
            body["schema_"] = body.pop("schema")
            return cls.model_validate(body)
        except (ValueError, ValidationError, KeyError, TypeError, OSError, RecursionError) as error:
            first = str(error).splitlines()[0]
            raise RunError(
                f"expected a lifelong record in {file}, got a damaged one: {first}"
            ) from None

    def at(self, method: str, stage: int, group: Group, direction: str = "mean") -> Metric | None:
        """One cell of the table."""
        for row in self.table:
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


def verdict(record: LifelongRecord) -> list[str]:
    """What was found, in sentences, with intervals."""
    found = record.metrics

    def percent(name: str, digits: int = 0) -> str:
        metric = found.get(name)
        if metric is None or metric.value is None:
            return "not known"
        text = f"{100 * metric.value:.{digits}f} %"
        if metric.low is None or metric.high is None:
            return text
        return f"{text} [{100 * metric.low:.{digits}f}, {100 * metric.high:.{digits}f}]"

    changed = found["old_codes_changed"]
    sentences = [
        f"An increment takes {percent('increment_seconds_ratio')} of the time of retraining on "
        "everything.",
        "On queries of new categories, MAP is "
        f"{percent('map_new_gain')} above the frozen networks and "
        f"{percent('map_new_gain_same_time')} above retraining in the same time (relative).",
        f"Retraining with all its epochs is ahead by {percent('map_all_gap', 1)} of MAP on all "
        "queries (absolute).",
        f"On the queries of phase 1, {percent('forgetting_old', 1)} of MAP is lost by the last "
        f"increment, {percent('forgetting_old_finetune', 1)} by naive fine-tuning.",
        f"Share of old codes that changed: {0.0 if changed is None else changed.value}.",
    ]
    stale, fresh = (
        [row for row in record.robustness if row.attack == name and row.stage == record.last]
        for name in ("stale", "fresh")
    )
    if stale and fresh and stale[0].tmap.value is not None and fresh[0].tmap.value is not None:
        sentences.append(
            f"ProS-GAN fitted to the victim of phase 1 still has t-MAP "
            f"{100 * stale[0].tmap.value:.0f} % after the last increment; a fresh one "
            f"{100 * fresh[0].tmap.value:.0f} % (clean queries "
            f"{100 * (stale[0].tmap_clean.value or 0):.0f} %)."
        )
    return sentences


def figures(record: LifelongRecord) -> list[tuple[str, str, str]]:
    """(picture, what it shows, caption): MAP by group, seconds, robustness; over the increments."""
    drawn = []
    with matplotlib.rc_context(STYLE):
        for group, meaning in GROUPS.items():
            drawn.append(
                (
                    _map_figure(record, group),
                    f"MAP of each method after each increment, {meaning}. The same numbers stand "
                    "in the table below.",
                    f"MAP, mean of image → text and text → image: {meaning}.",
                )
            )
        drawn.append(
            (
                _time_figure(record),
                "Seconds of training of each method and increment, on a logarithmic axis. The same "
                "numbers stand in the table of costs.",
                "Seconds of training (logarithmic).",
            )
        )
        if record.robustness:
            drawn.append(
                (
                    _attack_figure(record),
                    "t-MAP of the stale and the fresh attack and of clean queries after each "
                    "increment. The same numbers stand in the table of robustness.",
                    "ProS-GAN against the fused database, queries and targets of phase 1.",
                )
            )
    return drawn


def _panel(record: LifelongRecord, label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.4, 4.0), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel("increment (0: phase 1)")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlim(-0.15, record.last + 0.15)
    axes.grid(color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _line(
    axes: Axes, place: int, name: str, label: str, points: Sequence[tuple[int, Metric]]
) -> None:
    known = [(stage, metric) for stage, metric in points if metric.value is not None]
    if not known:
        return
    colour = TINTS[name] if name in TINTS else COLOURS[place]
    across = [stage + 0.02 * (place - 3) for stage, _ in known]
    axes.plot(
        across,
        [100 * (metric.value or 0) for _, metric in known],
        "--" if name in DASHED else "-",
        marker=MARKS.get(name, "o"),
        markersize=5,
        linewidth=2.4 if name == "dlcmh" else 1.3,
        color=colour,
        label=label,
    )
    for x, (_, metric) in zip(across, known, strict=True):
        if metric.low is not None and metric.high is not None:
            axes.plot([x, x], [100 * metric.low, 100 * metric.high], color=colour, alpha=0.45)


def _finish(figure: Figure) -> str:
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return data_uri(figure)


def _map_figure(record: LifelongRecord, group: Group) -> str:
    figure, axes = _panel(record, "MAP (%)")
    for place, method in enumerate(NAMES):
        points = [
            (stage, metric)
            for stage in range(record.last + 1)
            if (metric := _start(record, method, stage, group)) is not None
        ]
        _line(axes, place, method, NAMES[method], points)
    return _finish(figure)


def _start(record: LifelongRecord, method: str, stage: int, group: Group) -> Metric | None:
    """Phase 1 has one group, so that the curves of old queries begin with all of its queries."""
    if stage == 0:
        return None if group == "new" else record.at(method, 0, "all")
    return record.at(method, stage, group)


def _time_figure(record: LifelongRecord) -> str:
    figure, axes = _panel(record, "seconds")
    for method in NAMES:
        points = [(row.stage, row.seconds) for row in record.times if row.method == method]
        known = [(stage, metric.value) for stage, metric in points if metric.value is not None]
        if known:
            axes.plot(
                *zip(*known, strict=True),
                "--" if method in DASHED else "-",
                marker=MARKS[method],
                markersize=5,
                color=TINTS[method],
                label=NAMES[method],
            )
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    return _finish(figure)


def _attack_figure(record: LifelongRecord) -> str:
    figure, axes = _panel(record, "t-MAP (%)")
    axes.set_ylim(-2, 102)
    labels = {"stale": "fitted to the victim of phase 1", "fresh": "fitted to the present victim"}
    for place, (attack, label) in enumerate(labels.items(), start=1):
        points = [(row.stage, row.tmap) for row in record.robustness if row.attack == attack]
        _line(axes, place, attack, label, points)
    clean = [(row.stage, row.tmap_clean) for row in record.robustness if row.attack == "fresh"]
    _line(axes, 0, "chance", "clean queries", clean)
    return _finish(figure)
