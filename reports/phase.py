"""The record of a phase chart, and its chapter: maps over size and time, a panel a sample size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from pydantic import ConfigDict

from advhash.measures.intervals import Metric
from advhash.measures.regimes import REGIMES, Regime, means_by
from advhash.measures.sanity import Flag
from advhash.reports.elements.chapters import Chapter, Statement, data_fact, source_of
from advhash.reports.elements.numbers import as_number
from advhash.reports.elements.pictures import Pictures
from advhash.reports.elements.plots import INK, STYLE, Drawing, svg_of
from advhash.reports.elements.tables import Table, columns, number, of_figures, row, titled
from advhash.reports.elements.verdict import percent
from advhash.reports.record import DatasetInfo, Document, Part, RunInfo
from advhash.reports.vocabulary import label_of

PHASE: Literal["advhash/phase/1"] = "advhash/phase/1"
EXPRESSIVE: dict[Regime, str] = {
    "under": "under-expressive",
    "critical": "critically expressive",
    "sufficient": "sufficiently expressive",
}
FACTORS = {
    "width": "model size",
    "epochs": "training time",
    "sample": "sample size",
    "weight_decay": "regularisation",
    "noise": "label noise",
}
MAPS = {  # outcome → levels of its contour lines
    "redundancy_train": (0.01, 0.05, 0.2, 0.5),
    "knn_accuracy": (0.5, 0.7, 0.8, 0.9, 0.95),
    "tmap": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "auroc": (0.6, 0.7, 0.8, 0.9),
}
OUTCOMES = (
    *("redundancy_train", "redundancy_test", "kmeans_purity", "kmeans_one_to_one"),
    *("knn_accuracy", "logistic_accuracy", "accuracy", "tmap_clean", "tmap", "auroc"),
)
INKS = ("#d55e00", "#f0e442", "#009e73")  # of the regimes


class Point(Part):
    """A point of the grid."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    width: int
    epochs: int
    sample: int
    weight_decay: float
    noise: float


class Snapshot(Part):
    """One training at one time: outcome → figure, see `phase_cell.OUTCOMES`; and its bits."""

    point: Point
    repeat: int
    figures: dict[str, float]


class Effect(Part):
    """η² of each factor on an outcome over the whole grid; repeats: the share between repeats."""

    outcome: str
    eta_squared: dict[str, float | None]
    repeats: float | None


class PhaseRecord(Document):
    """Everything that a phase chart found. `metrics` are those of `--json`."""

    schema_: Literal["advhash/phase/1"]
    command: Literal["phase-chart"]
    run: RunInfo
    victim: dict[str, Any]
    source: str
    deviations: list[str]
    attack: dict[str, Any]
    budget: str
    dataset: DatasetInfo
    axes: dict[str, list[float]]
    repeats: int
    queries: int
    thresholds: dict[str, float]
    threads: int
    flags: list[Flag]
    metrics: dict[str, Metric | None]
    effects: list[Effect]
    regimes: list[tuple[Point, Regime]]
    cells: list[Snapshot]

    def point(self, width: float, epochs: float, sample: float) -> Point:
        """The point of these factors at the first weight decay and label noise."""
        return Point(
            width=int(width),
            epochs=int(epochs),
            sample=int(sample),
            weight_decay=self.axes["weight_decay"][0],
            noise=self.axes["noise"][0],
        )

    def panels(self, values: Mapping[Point, float]) -> list[list[list[float]]]:
        """A map for each sample size, of a row a time and a value a width. Raises KeyError."""
        return [
            [
                [values[self.point(width, epochs, sample)] for width in self.axes["width"]]
                for epochs in self.axes["epochs"]
            ]
            for sample in self.axes["sample"]
        ]


def verdicts(record: PhaseRecord) -> list[str]:
    """What was found, in sentences."""

    def value(name: str) -> float | None:
        metric = record.metrics.get(name)
        return None if metric is None else metric.value

    shares = ", ".join(
        f"{100 * (value(f'share_{name}') or 0):.0f} % {EXPRESSIVE[name]}" for name in REGIMES
    )
    lines = [f"By thresholds of ours, {len(record.regimes)} points are {shares}."]
    for outcome in MAPS:
        effect = next(candidate for candidate in record.effects if candidate.outcome == outcome)
        known = [(share, name) for name, share in effect.eta_squared.items() if share is not None]
        if known:
            ordered = [
                f"{FACTORS[name]} {100 * share:.0f} %" for share, name in sorted(known)[::-1]
            ]
            lines.append(f"The variance of {label_of(outcome)} comes from {', '.join(ordered)}.")
    for name in REGIMES:
        tmap, auroc = value(f"tmap_{name}"), value(f"auroc_{name}")
        if tmap is not None and auroc is not None:
            lines.append(
                f"Where networks are {EXPRESSIVE[name]}, the attack reaches t-MAP "
                f"{100 * tmap:.0f} % and is detected with AUROC {100 * auroc:.0f} %."
            )
    return lines


def maps(record: PhaseRecord) -> list[Drawing]:
    """The regimes and each outcome in MAPS.

    At the first weight decay and label noise, means over repeats.
    """
    drawn = [("Regimes", _regime_map(record))]
    drawn += [(label_of(name), _map(record, name, levels)) for name, levels in MAPS.items()]
    return [
        Drawing(
            svg,
            f"{title} over width and epochs, a panel for each sample size. The numbers stand in "
            "the table of all cells.",
            title,
        )
        for title, svg in drawn
    ]


def effects_table(record: PhaseRecord) -> Table:
    """What determines each outcome."""
    return Table(
        "Effect sizes",
        "η² in percent.",
        columns("Outcome", *FACTORS.values(), "between repeats"),
        [
            row(
                titled(effect.outcome),
                (number(percent(effect.eta_squared[name])) for name in FACTORS),
                number(percent(effect.repeats)),
            )
            for effect in record.effects
        ],
    )


def cells_table(record: PhaseRecord) -> Table:
    """Every training at every time."""
    return Table(
        "All cells",
        "Every training at every time.",
        [*columns(*FACTORS.values(), "repeat", "bits"), *of_figures(*OUTCOMES)],
        [
            row(
                (number(f"{getattr(cell.point, name):g}") for name in FACTORS),
                number(cell.repeat),
                number(int(cell.figures["bits"])),
                (number(as_number(cell.figures.get(name), 3)) for name in OUTCOMES),
            )
            for cell in record.cells
        ],
        headed=False,
    )


def _panels(record: PhaseRecord) -> tuple[Figure, list[Axes]]:
    samples = record.axes["sample"]
    figure = Figure(figsize=(0.9 + 2.9 * len(samples), 3.0), layout="constrained")
    panels = figure.subplots(1, len(samples), sharey=True, squeeze=False)[0]
    for axes, sample in zip(panels, samples, strict=True):
        axes.set_title(f"{sample:g} training rows", fontsize=10)
        for axis, name in ((axes.xaxis, "width"), (axes.yaxis, "epochs")):
            values = record.axes[name]
            axis.set_ticks(range(len(values)), [f"{value:g}" for value in values])
        axes.set_xlabel("width")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    panels[0].set_ylabel("epochs")
    return figure, list(panels)


def _map(record: PhaseRecord, outcome: str, levels: Sequence[float]) -> bytes:
    with matplotlib.rc_context(STYLE):
        figure, panels = _panels(record)
        means = means_by(
            [cell.figures[outcome] for cell in record.cells], [cell.point for cell in record.cells]
        )
        grids = record.panels(means)
        low, high = _bounds([value for grid in grids for row in grid for value in row])
        for axes, grid in zip(panels, grids, strict=True):
            image = axes.imshow(
                grid, cmap="cividis", vmin=low, vmax=high, origin="lower", aspect="auto"
            )
            least, most = _bounds([value for row in grid for value in row])
            crossed = [level for level in levels if least < level < most]
            if crossed and min(len(grid), len(grid[0])) > 1:
                lines = axes.contour(grid, levels=crossed, colors="white", linewidths=1.2)
                axes.clabel(lines, fmt=_percent, fontsize=8)
        figure.colorbar(image, ax=panels, shrink=0.9, format=FuncFormatter(_percent))
        return svg_of(figure)


def _percent(share: float, _: int | None = None) -> str:
    return f"{100 * share:g} %"


def _bounds(values: Sequence[float]) -> tuple[float, float]:
    return min(values), max(values)


def _regime_map(record: PhaseRecord) -> bytes:
    places = {point: float(REGIMES.index(regime)) for point, regime in record.regimes}
    with matplotlib.rc_context(STYLE):
        figure, panels = _panels(record)
        for axes, grid in zip(panels, record.panels(places), strict=True):
            for height, row in enumerate(grid):
                for column, place in enumerate(row):
                    letter = REGIMES[int(place)][0].upper()
                    axes.text(
                        column, height, letter, ha="center", va="center", color=INK, fontsize=9
                    )
            axes.imshow(
                grid, cmap=ListedColormap(INKS), vmin=0, vmax=2, origin="lower", aspect="auto",
                alpha=0.75,
            )  # fmt: skip
        return svg_of(figure)


def phase_chapter(folder: Path, _: Pictures) -> Chapter:
    """What a phase chart says. Raises RunError."""
    record = PhaseRecord.read(folder)
    data, label = record.dataset, f"phase chart {record.run.id}"
    title = f"Phase chart of neural codes on {data.label}"
    settings = {
        "victim": record.victim,
        "attack": record.attack,
        "data set": data.settings,
        "axes": record.axes,
    }
    lead, *more = verdicts(record)
    return Chapter(
        name=f"{title} ({label})",
        title=title,
        heading=f"When do networks encode? Phase chart on {data.label}",
        template="phase.html",
        values={
            "record": record,
            "maps": maps(record),
            "effects": effects_table(record),
            "cells": cells_table(record),
        },
        statements=[Statement(label, lead, more)],
        sources=[source_of(folder, label, record.run, [("Data set", data_fact(data))], settings)],
        datasets=[data.label],
        flags=[(label, flag) for flag in record.flags],
        deviations=[("phase chart", text) for text in record.deviations],
        attributions=[data.attribution],
    )
