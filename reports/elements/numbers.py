"""How figures are written in the tables of a page: the filters of its templates."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from advhash.measures.intervals import Metric
from advhash.reports.elements.verdict import NO_VALUE, length, percent


def _points(metric: Metric | None) -> str:
    """100 × the value, as tables show it."""
    if metric is None or metric.value is None:
        return NO_VALUE
    return f"{100 * metric.value:z.1f}"


def _bounds(metric: Metric | None) -> str:
    """The interval under a value in a table."""
    if metric is None or metric.low is None or metric.high is None:
        return ""
    between = " to " if metric.low < 0 else "–"
    return f"{100 * metric.low:z.1f}{between}{100 * metric.high:z.1f}"


def _number(value: Metric | float | None, digits: int = 2) -> str:
    number = value.value if isinstance(value, Metric) else value
    return NO_VALUE if number is None else f"{number:.{digits}f}"


def _chance(p: float | None) -> str:
    """A p-value; the smallest that permutations can give is 0.0002."""
    return NO_VALUE if p is None else f"{p:.4f}"


def _distance(value: Metric | float | None, modality: str) -> str:
    return length(value.value if isinstance(value, Metric) else value, modality)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)


def _span(metric: Metric | None, digits: int = 3) -> str:
    """The interval under a value that is no percentage."""
    if metric is None or metric.low is None or metric.high is None:
        return ""
    return f"{metric.low:.{digits}f} to {metric.high:.{digits}f}"


def _percent(value: Metric | float | None) -> str:
    return percent(value.value if isinstance(value, Metric) else value)


FILTERS: dict[str, Callable[..., str]] = {
    "points": _points,
    "bounds": _bounds,
    "span": _span,
    "number": _number,
    "distance": _distance,
    "json": _json,
    "chance": _chance,
    "percent": _percent,
}
