"""Figures as SVG, whose colours follow a dark page.

Figures are made without pyplot, hence without global state, and are the same bytes for the same
numbers. Colours are those of Okabe and Ito, which colour-blind readers can tell apart; every
series also has its own marker or dash.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from advhash.measures.intervals import Metric
from advhash.storage.foreign_text import visible

History = Sequence[Mapping[str, float | str]]

INK, MUTED, PAPER, GRID = "#1f2328", "#6b7280", "#ffffff", "#e5e7eb"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
DASHES = ("-", "--", ":", "-.")
MAX_PHASES = 12
COUNTERS = ("epoch", "step")
NOT_CURVES = frozenset({*COUNTERS, "phase", "seconds", "lr", "learning_rate"})
REFERENCES = {  # name → marker, colour
    "chance": ("x", MUTED),
    "clean": ("D", "#009e73"),
    "ceiling": ("^", "#d55e00"),
}
DARK = {  # colour → the one that a dark page shows instead, told apart as well
    INK: "#e6e9ed",
    MUTED: "#a7b0ba",
    PAPER: "#1b2129",
    GRID: "#3a424c",
    "#0072b2": "#4aa8e0",
    "#d55e00": "#ff8c3a",
    "#009e73": "#2fc99b",
    "#cc79a7": "#e6a0c8",
    "#56b4e9": "#a5dcfa",
    "#e69f00": "#ffc34d",
}
STYLE: Any = {
    "svg.hashsalt": "advhash",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
}


@dataclass(frozen=True)
class Effect:
    """One line of an interval figure: a figure in [0,1] with its interval and its references."""

    label: str
    metric: Metric
    references: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Growth:
    """One attack under several budgets: (ε, figure in [0,1]) in ascending order of ε.

    ceiling: the best that is known, drawn as a line; None where nothing is
    """

    label: str
    points: Sequence[tuple[float, Metric]]
    ceiling: float | None = None


@dataclass(frozen=True)
class Curve:
    """One column of a history, in one phase."""

    phase: str
    column: str
    counter: str  # what the x axis counts
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Drawing:
    """A figure of a page: its SVG, what it shows to who cannot see it, and its caption."""

    svg: bytes
    alt: str
    caption: str = ""

    @property
    def uri(self) -> str:
        """For an `img`: no script in it can run, no id in it can clash."""
        return "data:image/svg+xml;base64," + base64.b64encode(following(self.svg)).decode("ascii")


def following(svg: bytes) -> bytes:
    """The figure with the colours of DARK where the page that shows it is dark."""
    rules = "".join(
        f'[style*="{what}: {light}"]{{{what}:{dark}!important}}'
        for light, dark in DARK.items()
        for what in ("fill", "stroke")
    )
    style = f"<style>@media (prefers-color-scheme:dark){{{rules}}}</style>"
    head, end, rest = svg.partition(b"<defs>")
    return head + style.encode("ascii") + end + rest if end else svg


@contextmanager
def _any_characters() -> Iterator[None]:
    """Names may have characters that the font lacks: nobody is warned of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def svg_of(figure: Figure) -> bytes:
    """The figure as SVG."""
    buffer = io.BytesIO()
    with _any_characters():
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return visible(buffer.getvalue().decode("utf-8"), keep="\t\n\r").encode("utf-8")


def legend_below(figure: Figure, columns: int, *named: Iterable[Any], **style: Any) -> None:
    """A legend under the axes, in fewer columns where these would be wider than the figure.

    named: handles and labels, by default those of the axes
    """
    for count in range(columns, 0, -1):
        legend = figure.legend(
            *named, loc="outside lower center", ncols=count, frameon=False, **style
        )
        with _any_characters():
            width = legend.get_window_extent().width
        if count == 1 or width <= figure.bbox.width:
            return
        legend.remove()


def interval_figure(effects: Sequence[Effect], axis: str) -> bytes | None:
    """A dot with its interval bar for each run, its references marked; None where there is none."""
    shown = [effect for effect in effects if effect.metric.value is not None]
    if not shown:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.0, 1.15 + 0.42 * len(shown)), layout="constrained")
        axes = figure.add_subplot()
        for height, effect in enumerate(shown):
            _draw_effect(axes, height, effect)
        axes.set_yticks(range(len(shown)), [_short(effect.label, 30) for effect in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.set_xlim(-2, 102)
        axes.set_xlabel(axis)
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        legend_below(figure, 4, named.values(), named.keys(), handletextpad=0.3, columnspacing=1.2)
        return svg_of(figure)


def _draw_effect(axes: Axes, height: int, effect: Effect) -> None:
    metric = effect.metric
    assert metric.value is not None
    if metric.low is not None and metric.high is not None:
        axes.plot(
            [100 * metric.low, 100 * metric.high],
            [height, height],
            color=COLOURS[0],
            linewidth=5,
            alpha=0.45,
            solid_capstyle="butt",
        )
    axes.plot(
        100 * metric.value,
        height,
        "o",
        color=COLOURS[0],
        markersize=7,
        label="attacked (95 %)",
    )
    for name, value in effect.references.items():
        marker, colour = REFERENCES[name]
        axes.plot(
            100 * value,
            height,
            marker,
            color=colour,
            markersize=7,
            label=name,
            markerfacecolor="none",
            markeredgewidth=1.8,
            linestyle="none",
        )


def budget_figure(grown: Sequence[Growth], norm: str, axis: str) -> bytes:
    """The figure of each attack against ε, with 95 % intervals; ε of linf in steps of 1/255."""
    scale = 255 if norm == "linf" else 1
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.0, 3.0 + 0.2 * len(grown)), layout="constrained")
        axes = figure.add_subplot()
        for place, growth in enumerate(grown):
            known = [(eps, metric) for eps, metric in growth.points if metric.value is not None]
            values = [100 * float(metric.value or 0) for _, metric in known]
            bars = [
                (value - 100 * (metric.low or 0), 100 * (metric.high or 0) - value)
                if metric.low is not None and metric.high is not None
                else (0.0, 0.0)
                for value, (_, metric) in zip(values, known, strict=True)
            ]
            axes.errorbar(
                [scale * eps for eps, _ in known],
                values,
                yerr=list(zip(*bars, strict=True)),
                color=COLOURS[place % len(COLOURS)],
                linestyle=DASHES[place // len(COLOURS) % len(DASHES)],
                marker="osD^v<"[place % 6],
                markersize=5,
                linewidth=1.4,
                capsize=3,
                label=_short(growth.label, 44),
            )
        for value in dict.fromkeys(growth.ceiling for growth in grown):
            if value is not None:
                axes.axhline(100 * value, color=MUTED, linestyle=":", linewidth=1.2)
                axes.annotate("ceiling", (1, 100 * value), xycoords=("axes fraction", "data"),
                              ha="right", va="bottom", fontsize=8, color=MUTED)  # fmt: skip
        axes.set_xlim(left=0)
        axes.set_ylim(-2, 104)
        axes.set_xlabel("ε, L∞ in steps of 1/255" if norm == "linf" else f"ε, {norm}")
        axes.set_ylabel(axis)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        legend_below(figure, 1, fontsize=9)
        return svg_of(figure)


def curves(history: History) -> list[Curve]:
    """The numeric columns of a history, by phase, in order of appearance.

    >>> [(c.phase, c.column, c.y) for c in curves([{"phase": "a", "epoch": 1, "loss": 2.0}])]
    [('a', 'loss', (2.0,))]
    """
    phases = list(dict.fromkeys(str(row.get("phase", "training")) for row in history))
    drawn = []
    for phase in phases:
        rows = [row for row in history if str(row.get("phase", "training")) == phase]
        columns = dict.fromkeys(
            name
            for row in rows
            for name, value in row.items()
            if name not in NOT_CURVES and not isinstance(value, str)
        )
        counter = next((name for name in COUNTERS if name in rows[0]), "row")
        for column in columns:
            points = [
                (float(row.get(counter, place)), float(row[column]))
                for place, row in enumerate(rows)
                if not isinstance(row.get(column, ""), str)
            ]
            drawn.append(
                Curve(phase, column, counter, *(tuple(axis) for axis in zip(*points, strict=True)))
            )
    return drawn


def history_figures(history: History) -> list[tuple[str, bytes]]:
    """(phase, figure) for each phase that has a curve: one line a column; MAX_PHASES at most."""
    drawn = curves(history)
    phases = list(dict.fromkeys(curve.phase for curve in drawn))
    with matplotlib.rc_context(STYLE):
        return [
            (phase, _phase_figure([curve for curve in drawn if curve.phase == phase]))
            for phase in phases[:MAX_PHASES]
        ]


def _phase_figure(drawn: Sequence[Curve]) -> bytes:
    figure = Figure(figsize=(3.7, 2.6 + 0.2 * (len(drawn) // 2)), layout="constrained")
    axes = figure.add_subplot()
    for place, curve in enumerate(drawn):
        axes.plot(
            curve.x,
            curve.y,
            DASHES[place // len(COLOURS) % len(DASHES)],
            color=COLOURS[place % len(COLOURS)],
            marker="osD^v<"[place % 6] if len(curve.x) <= 15 else None,
            markersize=3.5,
            linewidth=1.4,
            label=_short(curve.column.lstrip("_"), 22),
        )
    values = [value for curve in drawn for value in curve.y]
    if min(values) > 0 and max(values) > 50 * min(values):
        make_logarithmic(axes)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel(drawn[0].counter)
    axes.set_title(_short(drawn[0].phase, 38), fontsize=10)
    axes.grid(color=GRID, linewidth=0.8)
    legend_below(figure, 2, fontsize=9)
    return svg_of(figure)


def make_logarithmic(axes: Axes, along: Literal["x", "y"] = "y") -> None:
    """Give `axes` a logarithmic axis with plain numbers: an SVG shows no mathtext."""
    axes.set(**{f"{along}scale": "log"})
    axis = axes.xaxis if along == "x" else axes.yaxis
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
