"""The figures of the lifelong protocol, against numbers worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from advhash.experiments.lifelong.figures import (
    WAYS,
    CellFigures,
    Robustness,
    Timing,
    headline,
    robustness_rows,
    table_rows,
    timing_rows,
)
from advhash.reports.lifelong.record import VIEWS

STAGES = np.array([0, 0, 0, 1, 1, 2])  # when each query becomes known


def column(values: list[float], stage: int) -> np.ndarray:
    return np.where(stage >= STAGES, values, np.nan)


def figures(order: int = 0, seed: int = 0, shift: float = 0.0) -> CellFigures:
    """dlcmh: .5 in phase 1, .4 on old and .6 on new queries later; others as named below."""
    level = {
        ("dlcmh", 0): [0.5] * 6,
        ("dlcmh", 1): [0.4, 0.4, 0.4, 0.6, 0.6, 9.0],
        ("dlcmh", 2): [0.4, 0.4, 0.4, 0.4, 0.4, 0.6],
        ("frozen", 0): [0.5] * 6,
        ("frozen", 1): [0.5, 0.5, 0.5, 0.3, 0.3, 9.0],
        ("frozen", 2): [0.5, 0.5, 0.5, 0.3, 0.3, 0.3],
    }
    for name, value in (("retrain", 0.55), ("retrain_same_time", 0.4), ("dcmh", 0.2)):
        level |= {(name, stage): [value] * 6 for stage in (1, 2)}
    level |= {("codes_only", stage): [0.45] * 6 for stage in range(3)}
    for name in ("finetune", "dlcmh_binary"):
        level |= {(name, 0): [0.5] * 6, (name, 1): [0.2] * 6, (name, 2): [0.1] * 6}
    columns, timing = {}, {}
    for (name, stage), values in level.items():
        moved = [value + shift for value in values]
        found = {}
        for way, up in (("image_text", 0.1), ("text_image", -0.1), ("image_fused", 0.2)):
            found[way] = column(moved, stage) + up
            found[f"untrained_{way}"] = column(moved, stage) + up - 0.1
            found[f"hashed_{way}"] = column(moved, stage) + up - 0.05
            found[f"first_{way}"] = column([value - 0.01 * stage for value in moved], 0) + up
            found[f"before_{way}"] = column(moved, max(stage - 1, 0)) + up - 0.03
        for view in ("", "untrained_", "hashed_", "first_", "before_"):
            found[f"{view}text_fused"] = found[f"{view}image_text"]
        columns[name, stage] = found
        seconds = {"retrain": 10.0, "dlcmh": 2.0 if stage == 1 else 1.0}.get(name, 3.0)
        timing[name, stage] = Timing(
            None if name == "frozen" and stage else seconds,
            2 * seconds,
            7,
            0.25 if name == "finetune" and stage == 2 else 0.0,
            [(1.0, 0.3), (4.0, 0.45), (8.0, 0.5)] if name == "retrain" else [],
        )
    chance = np.stack([column([0.1] * 6, stage) for stage in range(3)])
    return CellFigures(order, seed, STAGES, chance, [30, 40, 50], columns, timing)


CELLS = [figures(order, seed, 0.0) for order in range(2) for seed in range(2)]


ALL = (
    (0.4 * 3 + 0.6 * 2) / 5 + (0.4 * 5 + 0.6) / 6
) / 2  # of dlcmh, the mean over the two increments


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("increment_seconds_ratio", (0.2 + 0.1) / 2),
        ("increment_cpu_seconds_ratio", (0.2 + 0.1) / 2),
        ("map_new_gain", 0.6 / 0.3 - 1),
        ("map_new_gain_untrained", 0.5 / 0.2 - 1),
        ("map_new_gain_hashed", 0.55 / 0.25 - 1),
        ("map_new_gain_codes_only", 0.45 / 0.3 - 1),
        ("map_new_gain_same_time", 0.6 / 0.4 - 1),
        ("map_new_gain_same_time_untrained", 0.5 / 0.3 - 1),
        ("map_new_gain_retrain", 0.6 / 0.55 - 1),
        ("map_new_gain_dcmh", 0.6 / 0.2 - 1),
        ("map_all_gain_same_time", ALL / 0.4 - 1),
        ("map_all_gap", 0.55 - ALL),
        ("map_all_gap_untrained", 0.55 - ALL),
        ("map_all_gap_hashed", 0.55 - ALL),
        ("forgetting_old", 0.5 - (0.4 - 0.02)),
        ("forgetting_each", ((0.5 - 0.37) + ((0.4 * 3 + 0.6 * 2) / 5 - 0.37)) / 2),
        ("forgetting_old_in_service", 0.5 - 0.4),
        ("forgetting_old_finetune", 0.5 - (0.1 - 0.02)),
        ("old_codes_changed", 0.0),
        ("old_codes_changed_finetune", 0.25),
        ("retrain_seconds_to_reach", (4.0 + 4.0) / 2),
        ("retrain_reached", 1.0),
    ],
)
def test_headline(name: str, value: float) -> None:
    metric = headline(CELLS, 0)[name]
    assert metric is not None
    assert metric.value == pytest.approx(value)


def test_a_retraining_that_never_gets_there_has_no_time() -> None:
    cell = figures()
    for stage in (1, 2):
        cell.columns["dlcmh", stage]["hashed_image_text"][:] += 1  # type: ignore[index]
    found = headline([cell], 0)
    assert found["retrain_reached"].value == 0  # type: ignore[union-attr]
    assert found["retrain_seconds_to_reach"].value is None  # type: ignore[union-attr]


def test_the_interval_is_over_orders_and_seeds() -> None:
    apart = [
        figures(order, seed, 0.1 * order + 0.02 * seed) for order in range(3) for seed in (0, 1)
    ]
    gain = headline(apart, 0)["map_new_gain"]
    assert gain is not None
    assert gain.low is not None
    assert gain.low < gain.value < gain.high  # type: ignore[operator]
    values = [(0.6 + s) / 1 for s in (0.0, 0.02, 0.1, 0.12, 0.2, 0.22)]
    below = [0.3 + s for s in (0.0, 0.02, 0.1, 0.12, 0.2, 0.22)]
    assert gain.value == pytest.approx(np.mean(values) / np.mean(below) - 1)


def test_groups_and_directions() -> None:
    cell, nan = figures(), np.nan
    for found, expected in (
        (cell.precision("dlcmh", 1), [0.4] * 3 + [0.6] * 2 + [nan]),
        (cell.precision("dlcmh", 1, "new"), [nan] * 3 + [0.6] * 2 + [nan]),
        (cell.precision("dlcmh", 1, "old"), [0.4] * 3 + [nan] * 3),
        (cell.precision("dlcmh", 2, "old"), [0.4] * 5 + [nan]),
        (cell.precision("dlcmh", 2, "first"), [0.38] * 3 + [nan] * 3),
        (cell.precision("dlcmh", 2, "new", "image_fused"), [nan] * 5 + [0.8]),
        (cell.precision("dlcmh", 2, "new", view="untrained"), [nan] * 5 + [0.5]),
        (cell.precision("dlcmh", 2, "new", view="hashed"), [nan] * 5 + [0.55]),
        (cell.kept("dlcmh", 2), [0.37] * 5 + [nan]),
    ):
        assert found.tolist() == pytest.approx(expected, nan_ok=True)


def test_the_table_has_every_method_stage_group_and_direction() -> None:
    rows = table_rows(CELLS, 0)
    views = {(r["method"], r["stage"], r["group"], r["direction"], r["view"]) for r in rows}
    assert len(views) == len(rows)
    assert {view[4] for view in views} == set(VIEWS)
    found = {
        (r["method"], r["stage"], r["group"], r["direction"]): r["metric"]
        for r in rows
        if r["view"] == "served"
    }
    assert {key[3] for key in found} == set(WAYS)
    metric = found["dlcmh", 1, "new", "mean"]
    assert (metric.value, metric.n) == (pytest.approx(0.6), 8)  # type: ignore[attr-defined]
    assert found["chance", 2, "all", "mean"].value == pytest.approx(0.1)  # type: ignore[attr-defined]
    assert ("retrain", 0, "all", "mean") not in found


def test_times_are_of_what_was_trained() -> None:
    rows = {(row["method"], row["stage"]): row for row in timing_rows(CELLS, 0)}
    assert ("frozen", 1) not in rows
    assert rows["dlcmh", 1]["seconds"].value == 2.0  # type: ignore[attr-defined]
    assert rows["finetune", 2]["changed"] == 0.25


def test_robustness_is_over_the_cells_that_were_attacked() -> None:
    attacked = figures()
    for stage in range(3):
        for name, value in (("stale", 0.5), ("fresh", 0.7)):
            values = {"tmap": value, "tmap_clean": 0.1, "tmap_chance": 0.05, "l2": 3.0}
            attacked.robustness.append(
                Robustness(
                    name,
                    stage,
                    {k: np.array([v, v, v, v, np.nan, np.nan]) for k, v in values.items()},
                )
            )
    rows = robustness_rows([attacked, figures(1)], 0)
    assert [(row["attack"], row["stage"]) for row in rows] == [
        (name, stage) for stage in range(3) for name in ("stale", "fresh")
    ]
    assert rows[1]["tmap"].value == pytest.approx(0.7)  # type: ignore[attr-defined]
    assert rows[1]["tmap"].n == 4  # type: ignore[attr-defined]
    assert robustness_rows([figures()], 0) == []
