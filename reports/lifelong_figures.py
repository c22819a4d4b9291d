"""What the lifelong protocol measures: figures over orders of categories and seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from advhash.hierarchical import hierarchical_mean, hierarchical_ratio
from advhash.stats import Metric, single_metric

__all__ = [
    "GROUPS",
    "WAYS",
    "CellFigures",
    "Group",
    "Robustness",
    "Timing",
    "headline",
    "robustness_rows",
    "table_rows",
    "timing_rows",
]

Floats = npt.NDArray[np.float64]
Key = tuple[str, int]  # method and stage
Group = Literal["all", "old", "new", "first"]
GROUPS: dict[Group, str] = {
    "all": "all queries that can be answered",
    "old": "those known before the increment",
    "new": "those with a category of the increment",
    "first": "those known in phase 1, among the rows of phase 1 alone",
}
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
    """See `lifelong_cell.Stage`."""

    seconds: float | None
    cpu_seconds: float | None
    epochs: int | None
    changed: float
    trace: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Robustness:
    """AP with the target's labels of attacked queries of phase 1, at one stage.

    attack: "stale", fitted to the victim of phase 1, or "fresh", fitted to the present one
    values: "tmap", "tmap_clean", "tmap_chance" and "l2", each (Q,)
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

    def precision(self, method: str, stage: int, group: Group = "all", way: str = "mean") -> Floats:
        """AP of the queries of a group, the mean of the directions that `way` names."""
        found = self.columns[method, stage]
        prefix = "first_" if group == "first" else ""
        values = np.mean([found[prefix + name] for name in WAYS[way]], axis=0)
        return np.asarray(values[self._members(stage, group)])

    def _members(self, stage: int, group: Group) -> npt.NDArray[np.bool_]:
        when = self.query_stage
        old = when < stage if stage else when == 0
        chosen = {"all": when <= stage, "old": old, "new": when == stage, "first": when == 0}
        return np.asarray(chosen[group])

    def chance_of(self, stage: int, group: Group) -> Floats:
        at = 0 if group == "first" else stage
        return np.asarray(self.chance[at][self._members(stage, group)])


def nested(
    cells: Sequence[CellFigures], take: Callable[[CellFigures], Floats]
) -> list[list[Floats]]:
    """[order][seed] → values, for the hierarchical bootstrap."""
    orders = sorted({cell.order for cell in cells})
    return [[take(cell) for cell in cells if cell.order == order] for order in orders]


def over_stages(take: Callable[[CellFigures, int], Floats]) -> Callable[[CellFigures], Floats]:
    """The values of all increments of a cell, one after the other."""
    return lambda cell: np.concatenate([take(cell, stage) for stage in range(1, cell.last + 1)])


def headline(cells: Sequence[CellFigures], seed: int) -> dict[str, Metric | None]:
    """The figures of `--json`; means over increments, orders and seeds."""

    def mean(take: Callable[[CellFigures], Floats]) -> Metric:
        return hierarchical_mean(nested(cells, take), seed)

    def gain(rival: str, group: Group) -> Metric:
        def of(method: str) -> list[list[Floats]]:
            return nested(
                cells, over_stages(lambda cell, stage: cell.precision(method, stage, group))
            )

        return _moved(hierarchical_ratio(of("dlcmh"), of(rival), seed), -1.0)

    def gap(rival: str) -> Metric:
        return mean(
            over_stages(
                lambda cell, stage: cell.precision(rival, stage) - cell.precision("dlcmh", stage)
            )
        )

    def forgotten(method: str) -> Metric:
        return mean(
            lambda cell: (
                cell.precision(method, 0, "first") - cell.precision(method, cell.last, "first")
            )
        )

    def in_service(cell: CellFigures) -> Floats:
        known = cell.query_stage == 0
        after = cell.columns["dlcmh", cell.last]
        kept = np.mean([after[name][known] for name in WAYS["mean"]], axis=0)
        return np.asarray(cell.precision("dlcmh", 0) - kept)

    def share(figure: str) -> Metric:
        def ratios(cell: CellFigures, stage: int) -> Floats:
            above, below = (
                getattr(cell.timing[name, stage], figure) for name in ("dlcmh", "retrain")
            )
            return np.array([above / below])

        return mean(over_stages(ratios))

    reached = [
        _seconds_to_reach(cell, stage) for cell in cells for stage in range(1, cell.last + 1)
    ]
    known = [value for value in reached if value is not None]
    return {
        "increment_seconds_ratio": share("seconds"),
        "increment_cpu_seconds_ratio": share("cpu_seconds"),
        "map_new_gain": gain("frozen", "new"),
        "map_new_gain_same_time": gain("retrain_same_time", "new"),
        "map_new_gain_retrain": gain("retrain", "new"),
        "map_all_gain_same_time": gain("retrain_same_time", "all"),
        "map_all_gap": gap("retrain"),
        "forgetting_old": forgotten("dlcmh"),
        "forgetting_old_in_service": mean(in_service),
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
    """When a retraining first has the MAP of the increment; None where it never has."""
    wanted = float(cell.precision("dlcmh", stage).mean())
    timing = cell.timing["retrain", stage]
    final = (timing.seconds or 0.0, float(cell.precision("retrain", stage).mean()))
    return next((when for when, value in [*timing.trace, final] if value >= wanted), None)


def table_rows(cells: Sequence[CellFigures], seed: int) -> list[Row]:
    """MAP of each method, stage, group and direction, with chance as a method of its own."""
    rows: list[Row] = []
    first = cells[0]
    keys = [*first.columns, *(("chance", stage) for stage in range(first.last + 1))]
    for method, stage in keys:
        for group in GROUPS:
            if stage == 0 and group != "all":
                continue
            for way in WAYS if method != "chance" else ("mean",):

                def values(
                    cell: CellFigures,
                    method: str = method,
                    stage: int = stage,
                    group: Group = group,
                    way: str = way,
                ) -> Floats:
                    if method == "chance":
                        return cell.chance_of(stage, group)
                    return cell.precision(method, stage, group, way)

                metric = hierarchical_mean(nested(cells, values), seed)
                rows.append(
                    {
                        "method": method,
                        "stage": stage,
                        "group": group,
                        "direction": way,
                        "metric": metric,
                    }
                )
    return rows


def timing_rows(cells: Sequence[CellFigures], seed: int) -> list[Row]:
    """What was trained: seconds, epochs and changed codes of each method and stage."""
    rows: list[Row] = []
    for method, stage in cells[0].timing:
        if cells[0].timing[method, stage].seconds is None:
            continue
        found = [cell.timing[method, stage] for cell in cells]

        def of(name: str, method: str = method, stage: int = stage) -> Metric:
            def take(one: CellFigures) -> Floats:
                return np.array([getattr(one.timing[method, stage], name)], dtype=np.float64)

            return hierarchical_mean(nested(cells, take), seed)

        epochs = [timing.epochs for timing in found if timing.epochs is not None]
        rows.append(
            {
                "method": method,
                "stage": stage,
                "seconds": of("seconds"),
                "cpu_seconds": of("cpu_seconds"),
                "epochs": float(np.mean(epochs)) if epochs else None,
                "changed": max(timing.changed for timing in found),
            }
        )
    return rows


def robustness_rows(cells: Sequence[CellFigures], seed: int) -> list[Row]:
    """t-MAP of the stale and the fresh attack after each stage, over the cells that have it."""
    attacked = [cell for cell in cells if cell.robustness]
    rows: list[Row] = []
    keys = dict.fromkeys((one.attack, one.stage) for cell in attacked for one in cell.robustness)
    for attack, stage in keys:

        def of(name: str, attack: str = attack, stage: int = stage) -> Metric:
            def take(cell: CellFigures) -> Floats:
                (one,) = (
                    one for one in cell.robustness if (one.attack, one.stage) == (attack, stage)
                )
                return one.values[name]

            return hierarchical_mean(nested(attacked, take), seed)

        names = ("tmap", "tmap_clean", "tmap_chance", "l2")
        rows.append({"attack": attack, "stage": stage, **{name: of(name) for name in names}})
    return rows
