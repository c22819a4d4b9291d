"""How figures are written: in their unit, in cells of tables, and by the filters of templates."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from advhash.errors import counted
from advhash.measures.intervals import Metric
from advhash.reports.elements.verdict import NBSP, NO_VALUE, length, percent, signed
from advhash.reports.vocabulary import GREY_RMS, figure

Given = Metric | Mapping[str, Any] | None  # of a record, or of a document


@dataclass(frozen=True)
class Unit:
    """How figures of a unit are written: scale × value with so many digits, then the sign.

    headed: whether the heading of a figure says the sign, see `Figure.heading`
    """

    scale: float = 1
    digits: int = 3
    sign: str = ""
    headed: bool = False

    def number(self, value: float) -> str:
        """The value without its sign."""
        return signed(f"{self.scale * value:z.{self.digits}f}")


UNITS: dict[str, Unit] = {
    "share": Unit(100, 1, " %"),
    "points": Unit(100, 1, " points"),
    "ratio": Unit(1, 3, " ×"),
    "steps": Unit(255, 1, "/255"),
    "dB": Unit(1, 1, " dB", headed=True),
    "bits": Unit(1, 1, " bits", headed=True),
    "s": Unit(1, 4, " s", headed=True),
    GREY_RMS: Unit(1, 3, f" {GREY_RMS}", headed=True),
}
FINE = Unit(100, 4, " %")  # of shares so small that one digit would show none of them


def unit_of(
    name: str, value: float = 1, *, difference: bool = False, pictures: bool = True
) -> Unit:
    """The unit that people think a figure of this value in.

    difference: of two such figures: shares become points; pictures: whether pixels are 255ths
    """
    unit = figure(name).unit
    if unit == "steps" and not pictures:
        return Unit()
    if unit == "share" and difference:
        return UNITS["points"]
    if unit == "share" and 0 < value < 0.0005:
        return FINE
    return UNITS.get(unit, Unit())


def exists(metric: Given) -> bool:
    """Whether a figure has a value."""
    value = metric.get("value") if isinstance(metric, Mapping) else getattr(metric, "value", None)
    return value is not None and math.isfinite(value)


def written(
    name: str,
    metric: Given,
    *,
    difference: bool = False,
    pictures: bool = True,
    headed: bool = True,
) -> str:
    """A figure in its unit with its 95 % interval; `difference` and `pictures` as in `unit_of`.

    headed: whether the heading of the figure stands beside it, which says some units; in a
            sentence no line ends between number and unit

    >>> written("tmap", Metric(0.974, 0.93, 0.99, 9)), written("linf", Metric(8 / 255))
    ('97.4 %  [93.0, 99.0]', '8.0/255')
    >>> written("psnr", Metric(37.1)), written("psnr", Metric(37.1), headed=False)
    ('37.1', '37.1\\xa0dB')
    """
    if metric is None or not exists(metric):
        return NO_VALUE
    parts = metric if isinstance(metric, Mapping) else vars(metric)
    unit = unit_of(name, parts["value"], difference=difference, pictures=pictures)
    sign = ("" if unit.headed else unit.sign) if headed else unit.sign.replace(" ", NBSP)
    text = unit.number(parts["value"]) + sign
    if parts["low"] is not None and parts["high"] is not None and parts["n"] > 1:
        text += f"  [{unit.number(parts['low'])}, {unit.number(parts['high'])}]"
    return text


def as_code(text: str) -> Markup:
    """Text as HTML, what stands between backticks as code.

    >>> as_code("`--top-k` < 5")
    Markup('<code>--top-k</code> &lt; 5')
    """
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def as_setting(text: str) -> Markup:
    """A name with its settings as HTML: lines may end behind a `+`, rather than inside a word.

    >>> as_setting("p2p+steps=3")
    Markup('p2p+<wbr>steps=3')
    """
    return Markup(re.sub(r"(?<=\w)\+", "+<wbr>", str(escape(text))))


def as_points(metric: Metric | None) -> str:
    """100 × the value, as tables show it."""
    if metric is None or metric.value is None:
        return NO_VALUE
    return signed(f"{100 * metric.value:z.1f}")


def as_bounds(metric: Metric | None, digits: int, scale: float = 1) -> tuple[str, str] | None:
    """The interval beside a value in a table; None where there is none."""
    if metric is None or metric.low is None or metric.high is None:
        return None
    low, high = (signed(f"{scale * bound:z.{digits}f}") for bound in (metric.low, metric.high))
    return low, high


def as_number(value: Metric | float | None, digits: int = 2) -> str:
    """A figure that is no share."""
    number = value.value if isinstance(value, Metric) else value
    return NO_VALUE if number is None else signed(f"{number:.{digits}f}")


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
    "counted": counted,
    "coded": as_code,
    "settings": as_setting,
}
