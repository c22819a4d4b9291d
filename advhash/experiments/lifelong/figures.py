"""What the lifelong protocol measures: figures over orders of categories and seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from advhash.measures.hierarchical import crossed_mean, crossed_ratio
from advhash.measures.intervals import Metric, single_metric
from advhash.reports.lifelong.record import GROUPS, VIEWS, Group, View

Floats = npt.NDArray[np.float64]
Key = tuple[str, int]  # method and stage
WAYS = {  # "mean" is of image → text and text → image
    "mean": ("image_text", "text_image"),
    "image_text": ("image_text",),
    "text_image": ("text_image",),
    "image_fused": ("image_fused",),
    "text_fused": ("text_fused",),
}
Row = dict[str, object]


@dataclass(frozen=True)
class Timing:
    """What the training took that a method has behind it after an increment.

    seconds, cpu_seconds: wall and processor time, hashing included; None where nothing was trained
    epochs:  of this training
    changed: share of the rows that had a code before whose code is another one now
    trace:   of a retraining, (seconds, MAP of all queries on hashed codes, mean of image→text and
             text→image)
    """

    seconds: float | None
    cpu_seconds: float | None
    epochs: int | None
    changed: float
    trace: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Robustness:
    """AP with the target's labels of attacked queries of phase 1, at one stage.

    attack: "stale", fitted to the victim of phase 1, or "fresh", fitted to the present one
    values: "tmap", "tmap_clean", "tmap_chance" and "l2", each (N,), NaN for a query not attacked
    """

    attack: str
    stage: int
    values: Mapping[str, Floats]


@dataclass(frozen=True)
class CellFigures:
    """One order and seed: AP of N queries for each method and stage, and what training took."""

    order: int
    seed: int
    query_stage: npt.NDArray[np.int64]
    chance: Floats
    rows: list[int]
    columns: Mapping[Key, Mapping[str, Floats]]
    timing: Mapping[Key, Timing]
    robustness: list[Robustness] = field(default_factory=list)

    @property
    def last(self) -> int:
        """S, the number of increments."""
        return len(self.rows) - 1

    def precision(
        self,
        method: str,
        stage: int,
        group: Group = "all",
        way: str = "mean",
        view: View = "served",
    ) -> Floats:
        """(N,) AP, the mean over the directions of `way`; NaN for queries of another group."""
        prefix = "first_" if group == "first" else "" if view == "served" else f"{view}_"
        column = self.columns[method, stage]
        values = np.mean([column[prefix + name] for name in WAYS[way]], axis=0)
        return np.where(self._members(stage, group), values, np.nan)

    def kept(self, method: str, stage: int, prefix: str = "before_") -> Floats:
        """(N,) AP of what was known one stage before, with the codes and networks of `stage`."""
        column = self.columns[method, stage]
        return np.asarray(np.mean([column[prefix + name] for name in WAYS["mean"]], axis=0))

    def _members(self, stage: int, group: Group) -> npt.NDArray[np.bool_]:
        when = self.query_stage
        old = when < stage if stage else when == 0
        chosen = {"all": when <= stage, "old": old, "new": when == stage, "first": when == 0}
        return np.asarray(chosen[group])

    def chance_of(self, stage: int, group: Group) -> Floats:
        at = 0 if group == "first" else stage
        return np.where(self._members(stage, group), self.chance[at], np.nan)


Take = Callable[["CellFigures", int], Floats]  # a cell and a stage → (N,)


def stacked(cells: Sequence[CellFigures], take: Take, stages: Sequence[int]) -> Floats:
    """(O,E,T,N) of all orders, seeds and stages, for the crossed bootstrap."""
    orders = sorted({cell.order for cell in cells})
    return np.array(
        [
            [[take(cell, stage) for stage in stages] for cell in cells if cell.order == order]
            for order in orders
        ]
    )


def headline(cells: Sequence[CellFigures], seed: int) -> dict[str, Metric | None]:
    """The figures of `--json`; means over increments, orders and seeds."""
    last = cells[0].last
    every = range(1, last + 1)

    def mean(take: Take, stages: Sequence[int] = every) -> Metric:
        return crossed_mean(stacked(cells, take, stages), seed)

    def gain(rival: str, group: Group, view: View = "served", method: str = "dlcmh") -> Metric:
        def of(name: str) -> Floats:
            return stacked(
                cells, lambda cell, stage: cell.precision(name, stage, group, view=view), every
            )

        return _moved(crossed_ratio(of(method), of(rival), seed), -1.0)

    def gap(view: View) -> Metric:
        return mean(
            lambda cell, stage: (
                cell.precision("retrain", stage, view=view)
                - cell.precision("dlcmh", stage, view=view)
            )
        )

    def forgotten(method: str) -> Metric:
        return mean(
            lambda cell, stage: (
                cell.precision(method, 0, "first") - cell.precision(method, stage, "first")
            ),
            [last],
        )

    def in_service(cell: CellFigures, stage: int) -> Floats:
        lost = cell.precision("dlcmh", 0) - cell.precision("dlcmh", stage)
        return np.where(cell.query_stage == 0, lost, np.nan)

    def share(figure: str) -> Metric:
        def ratio(cell: CellFigures, stage: int) -> Floats:
            above, below = (
                getattr(cell.timing[name, stage], figure) for name in ("dlcmh", "retrain")
            )
            return np.array([above / below])

        return mean(ratio)

    reached = [_seconds_to_reach(cell, stage) for cell in cells for stage in every]
    known = [value for value in reached if value is not None]
    gains = {
        f"map_new_gain{name}{'' if view == 'served' else f'_{view}'}": gain(rival, "new", view)
        for view in VIEWS
        for name, rival in (
            *(("", "frozen"), ("_same_time", "retrain_same_time")),
            *(("_retrain", "retrain"), ("_dcmh", "dcmh")),
        )
    }
    return {
        "increment_seconds_ratio": share("seconds"),
        "increment_cpu_seconds_ratio": share("cpu_seconds"),
        **gains,
        "map_new_gain_codes_only": gain("frozen", "new", method="codes_only"),
        "map_all_gain_same_time": gain("retrain_same_time", "all"),
        "map_all_gap": gap("served"),
        "map_all_gap_untrained": gap("untrained"),
        "map_all_gap_hashed": gap("hashed"),
        "forgetting_old": forgotten("dlcmh"),
        "forgetting_each": mean(
            lambda cell, stage: cell.precision("dlcmh", stage - 1) - cell.kept("dlcmh", stage)
        ),
        "forgetting_old_in_service": mean(in_service, [last]),
        "forgetting_old_finetune": forgotten("finetune"),
        "forgetting_old_binary": forgotten("dlcmh_binary"),
        "old_codes_changed": single_metric(_most_changed(cells, "dlcmh")),
        "old_codes_changed_finetune": single_metric(_most_changed(cells, "finetune")),
        "retrain_seconds_to_reach": single_metric(float(np.mean(known)) if known else None),
        "retrain_reached": single_metric(len(known) / len(reached)),
    }


def _moved(metric: Metric, by: float) -> Metric:
    value, low, high = (
        None if part is None else part + by for part in (metric.value, metric.low, metric.high)
    )
    return Metric(value=value, low=low, high=high, n=metric.n)


def _most_changed(cells: Sequence[CellFigures], method: str) -> float:
    return max(
        timing.changed
        for cell in cells
        for (name, stage), timing in cell.timing.items()
        if name == method and stage > 0
    )


def _seconds_to_reach(cell: CellFigures, stage: int) -> float | None:
    """When a retraining first has the MAP of the increment, both on hashed codes; else None."""
    wanted = float(np.nanmean(cell.precision("dlcmh", stage, view="hashed")))
    return next((t for t, value in cell.timing["retrain", stage].trace if value >= wanted), None)


def table_rows(cells: Sequence[CellFigures], seed: int) -> list[Row]:
    """MAP of each method, stage, group, direction and view, with chance as a method of its own."""
    rows: list[Row] = []
    first = cells[0]
    keys = [*first.columns, *(("chance", stage) for stage in range(first.last + 1))]
    for method, stage in keys:
        for group, way, view in _parts(method, stage):

            def take(
                cell: CellFigures,
                stage: int,
                method: str = method,
                group: Group = group,
                way: str = way,
                view: View = view,
            ) -> Floats:
                if method == "chance":
                    return cell.chance_of(stage, group)
                return cell.precision(method, stage, group, way, view)

            rows.append(
                {
                    "method": method,
                    "stage": stage,
                    "group": group,
                    "direction": way,
                    "view": view,
                    "metric": crossed_mean(stacked(cells, take, [stage]), seed),
                }
            )
    return rows


def _parts(method: str, stage: int) -> list[tuple[Group, str, View]]:
    """Groups, directions and views that a method has at a stage."""
    groups: list[Group] = list(GROUPS) if stage else ["all"]
    if method == "chance":
        return [(group, "mean", "served") for group in groups]
    views: list[View] = ["untrained", "hashed"]
    return [
        *((group, way, "served") for group in groups for way in WAYS),
        *((group, "mean", view) for group in groups if group != "first" for view in views),
    ]


def timing_rows(cells: Sequence[CellFigures], seed: int) -> list[Row]:
    """What was trained: seconds, epochs and changed codes of each method and stage."""
    rows: list[Row] = []
    for method, stage in cells[0].timing:
        timings = [cell.timing[method, stage] for cell in cells]
        if timings[0].seconds is None:
            continue

        def of(name: str, method: str = method, stage: int = stage) -> Metric:
            def take(trained: CellFigures, at: int) -> Floats:
                return np.array([getattr(trained.timing[method, at], name)], dtype=np.float64)

            return crossed_mean(stacked(cells, take, [stage]), seed)

        epochs = [timing.epochs for timing in timings if timing.epochs is not None]
        rows.append(
            {
                "method": method,
                "stage": stage,
                "seconds": of("seconds"),
                "cpu_seconds": of("cpu_seconds"),
                "epochs": float(np.mean(epochs)) if epochs else None,
                "changed": max(timing.changed for timing in timings),
            }
        )
    return rows


def robustness_rows(cells: Sequence[CellFigures], seed: int) -> list[Row]:
    """t-MAP of the stale and the fresh attack after each stage, over the cells that have it."""
    attacked = [cell for cell in cells if cell.robustness]
    rows: list[Row] = []
    keys = dict.fromkeys((row.attack, row.stage) for cell in attacked for row in cell.robustness)
    for attack, stage in keys:

        def of(name: str, attack: str = attack, stage: int = stage) -> Metric:
            def take(cell: CellFigures, stage: int) -> Floats:
                (row,) = (
                    row for row in cell.robustness if (row.attack, row.stage) == (attack, stage)
                )
                return row.values[name]

            return crossed_mean(stacked(attacked, take, [stage]), seed)

        names = ("tmap", "tmap_clean", "tmap_chance", "l2")
        rows.append({"attack": attack, "stage": stage, **{name: of(name) for name in names}})
    return rows
