"""How figures are written on pages: in cells of tables, and by the filters of templates."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from advhash.measures.intervals import Metric
from advhash.reports.elements.verdict import NO_VALUE, length, percent


def as_points(metric: Metric | None) -> str:
    """100 × the value, as tables show it."""
    if metric is None or metric.value is None:
        return NO_VALUE
    return f"{100 * metric.value:z.1f}"


def as_bounds(metric: Metric | None, digits: int, scale: float = 1) -> tuple[str, str] | None:
    """The interval beside a value in a table; None where there is none."""
    if metric is None or metric.low is None or metric.high is None:
        return None
    low, high = (f"{scale * bound:z.{digits}f}" for bound in (metric.low, metric.high))
    return low, high


def as_number(value: Metric | float | None, digits: int = 2) -> str:
    """A figure that is no share."""
    number = value.value if isinstance(value, Metric) else value
    return NO_VALUE if number is None else f"{number:.{digits}f}"


def as_chance(p: float | None) -> str:
    """A p-value; the smallest that permutations can give is 0.0002."""
    return NO_VALUE if p is None else f"{p:.4f}"


def as_distance(value: Metric | float | None, modality: str) -> str:
    """A distance in input units."""
    return length(value.value if isinstance(value, Metric) else value, modality)


def as_percent(value: Metric | float | None) -> str:
    """A share with its sign."""
    return percent(value.value if isinstance(value, Metric) else value)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)


FILTERS: dict[str, Callable[..., str]] = {
    "points": as_points,
    "number": as_number,
    "distance": as_distance,
    "json": _json,
    "percent": as_percent,
}
