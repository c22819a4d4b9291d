"""The record of `advhash least-change`, and its chapter: how little can suffice, and how near."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator
from pydantic import Field

from advhash.errors import counted
from advhash.measures.intervals import Metric
from advhash.measures.sanity import read_size
from advhash.registry import called
from advhash.reports.elements.chapters import Chapter, Statement, named_data_fact, source_of
from advhash.reports.elements.numbers import as_number
from advhash.reports.elements.pictures import Pictures, change_rows
from advhash.reports.elements.plots import (
    COLOURS,
    STYLE,
    Drawing,
    legend_below,
    make_logarithmic,
    svg_of,
)
from advhash.reports.elements.tables import (
    Column,
    Table,
    columns,
    extremes,
    named,
    number,
    of_figures,
    points,
    row,
    titled,
    value,
)
from advhash.reports.record import FileDocument, Part, ShownChange
from advhash.reports.vocabulary import GREY_RMS, figure as figure_of

LEAST_CHANGE: Literal["advhash/least-change/1"] = "advhash/least-change/1"
LEVELS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # grey levels, the root of the mean square
SIZES = {  # of a picture → figure, colour, line
    "bound": ("least_change_bound", COLOURS[0], "-"),
    "real": ("least_change_real", COLOURS[4], ":"),
    "attack": ("least_change_attack", COLOURS[1], "--"),
    "stored": ("least_change_stored", COLOURS[2], "-"),
}
RATIOS = ("real_over_bound", "attack_over_bound", "stored_over_bound")
SHARES = ("holds_unrounded", "holds_as_run", "leaves_stored")
SPREAD = {"least": "least", "low": "5 %", "high": "95 %", "most": "most"}
SHOWN = 5  # most and least fragile pictures
BINS = 24


class PictureChange(Part):
    """How little suffices for one picture, in grey levels, the root of the mean square.

    half: whether half of the bits are 1; elsewhere nothing is stated
    stored: None where no stored picture was seen to leave the threshold
    """

    picture: str
    row: int
    height: int
    width: int
    half: bool
    bound: float | None
    real: float | None
    attack: float | None
    stored: float | None


class LeastShown(ShownChange):
    """The nearest stored picture that is out, which the page shows; distance: in bits."""

    distance: int


class Spread(Part):
    """The extremes of a figure over pictures, and what 5 % lie below and above."""

    least: float | None
    low: float | None
    high: float | None
    most: float | None


class AtLevel(Part):
    level: float
    metrics: dict[str, Metric]


class LeastChangeRecord(FileDocument):
    """What `advhash least-change` found; `advhash.experiments.least_change.run` says how.

    stated: how many of the pictures anything is stated for
    spread: of the same figures as `metrics`
    """

    schema_: Literal["advhash/least-change/1"]
    command: Literal["least-change"]
    bits: int
    threshold: int
    pictures: list[PictureChange]
    stated: int
    metrics: dict[str, Metric]
    spread: dict[str, Spread]
    levels: list[AtLevel]
    shown_changes: list[LeastShown] = Field(default_factory=list)
    environment: dict[str, Any]

    def sizes(self, name: str) -> list[float]:
        """The pictures that have this size, in order."""
        sizes = [getattr(picture, name) for picture in self.pictures]
        return [size for size in sizes if size is not None]


def grey_levels(metric: Metric) -> str:
    """A size in grey levels with its interval, in words.

    >>> grey_levels(Metric(0.25, 0.2, 0.3, 40))
    '0.25 grey levels rms (95 % interval 0.20 to 0.30)'
    """
    text = f"{as_number(metric, 2)} {GREY_RMS}"
    if metric.low is None or metric.high is None:
        return text
    return f"{text} (95 % interval {metric.low:.2f} to {metric.high:.2f})"


def verdicts(record: LeastChangeRecord) -> list[str]:
    """What is proven, what was reached, and what the 8-bit grid takes from it."""
    metrics = record.metrics
    if not record.stated:
        return ["Nothing is stated for any of the pictures: the values of all of them tie."]
    stored, real = metrics["least_change_stored"], metrics["least_change_real"]
    allowed = (
        f"the bound is {grey_levels(real)}"
        if real.value
        else "nothing is proven for half of the pictures or more"
    )
    judged = ", ".join(
        filter(None, (counted(record.stated, "picture"), read_size(record.dataset.pictures)))
    )
    lines = [
        f"At {record.threshold} of {record.bits} bits no change below "
        f"{grey_levels(metrics['least_change_bound'])} leaves the threshold of the hash without "
        f"its roundings, and one of {grey_levels(metrics['least_change_attack'])} does: medians "
        f"over {judged}. With an allowance for its roundings {allowed}."
    ]
    if stored.value is not None:
        lines.append(
            f"The nearest stored picture that the hash itself puts beyond the threshold is "
            f"{grey_levels(stored)} away, {as_number(metrics['stored_over_bound'], 2)} times the "
            f"bound."
        )
    return lines


def medians_table(record: LeastChangeRecord, names: Sequence[str], label: str, what: str) -> Table:
    """Figures over the pictures."""
    return Table(
        label,
        what,
        columns("Figure", "median", *SPREAD.values()),
        [
            row(
                titled(name),
                value(record.metrics[name]),
                (number(as_number(getattr(record.spread[name], end), 3)) for end in SPREAD),
            )
            for name in names
        ],
    )


def levels_table(record: LeastChangeRecord) -> Table:
    """What holds, and what leaves, at sizes of a change."""
    return Table(
        "At sizes of a change",
        "Share of the pictures in percent, exact 95 % intervals in small print. The first two are "
        "proven: no change below the size leaves the threshold.",
        [Column(GREY_RMS), *of_figures(*SHARES)],
        [
            row(
                number(f"{at.level:g}"),
                (points(at.metrics[name]) for name in SHARES),
            )
            for at in record.levels
        ],
    )


def fragile_table(record: LeastChangeRecord) -> Table | None:
    """The pictures with the least and the largest bound; None where nothing is stated."""
    known = sorted(
        (picture for picture in record.pictures if picture.bound is not None),
        key=lambda picture: picture.bound or 0.0,
    )
    if not known:
        return None
    shown = extremes(known, SHOWN, kinds=("most fragile", "least"))
    return Table(
        "The most and the least fragile pictures",
        f"By the proven bound, in {GREY_RMS}; few pictures stand in one list, the most fragile "
        "first.",
        [
            Column("Picture", wide=True),
            Column("Among"),
            *of_figures(*(of for of, _, _ in SIZES.values())),
        ],
        [
            row(
                named(picture.picture, f"{picture.width}×{picture.height}"),
                named(kind),
                (number(as_number(getattr(picture, name), 3)) for name in SIZES),
            )
            for kind, picture in shown
        ],
    )


def histogram(record: LeastChangeRecord) -> Drawing | None:
    """Pictures by each size; None where nothing is stated."""
    shown = {name: [size for size in record.sizes(name) if size > 0] for name in SIZES}
    every = [size for sizes in shown.values() for size in sizes]
    if not every:
        return None
    low, high = 0.98 * min(every), 1.02 * max(every)
    edges = [low * (high / low) ** (place / BINS) for place in range(BINS + 1)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        axes = figure.subplots()
        for name, (title, colour, line) in SIZES.items():
            if shown[name]:
                label = figure_of(title).label.removeprefix("least change, ")
                axes.hist(
                    shown[name],
                    bins=edges,
                    histtype="step",
                    color=colour,
                    linestyle=line,
                    linewidth=1.4,
                    label=label,
                )
        make_logarithmic(axes, along="x")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=20))
        axes.minorticks_off()
        axes.set_xlabel(GREY_RMS)
        axes.set_ylabel("pictures")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        legend_below(figure, 4, fontsize=9)
        svg = svg_of(figure)
    return Drawing(
        svg,
        "Lines: how many pictures have each size of the bound, of the bound of the hash as it "
        "runs, of the change that was reached and of the stored one. The numbers stand in the "
        "tables.",
        "A bound of 0 is not drawn.",
    )


def least_change_chapter(path: Path, pictures: Pictures) -> Chapter:
    """What a run of `advhash least-change` says. Raises RunError."""
    record = LeastChangeRecord.read(path)
    victim, data = called(str(record.victim.name), record.victim.settings), record.dataset.label
    label = f"least-change run {record.label(path)}"
    settings = {"victim": record.victim.settings, "data set": record.dataset.settings}
    facts = [
        ("Victim", victim),
        ("Data set", named_data_fact(record.dataset)),
        ("Threshold", f"{record.threshold} of {record.bits} bits"),
    ]
    lead, *more = verdicts(record)
    title = f"How little can leave the threshold of {victim} on {data}"
    return Chapter(
        name=f"{title} ({label})",
        title=title,
        heading=title,
        template="least_change.html",
        values={
            "record": record,
            "victim": victim,
            "changes": change_rows(
                path,
                pictures,
                (
                    (change, [f"{change.distance} of {record.bits} bits from its own hash"])
                    for change in record.shown_changes
                ),
            ),
            "histogram": histogram(record),
            "sizes": medians_table(
                record,
                [title for title, _, _ in SIZES.values()],
                "Least change",
                f"In {GREY_RMS}: the root of the mean square over colour values; over the pictures "
                "that something is stated for, with the 95 % interval of the median in small "
                "print.",
            ),
            "ratios": medians_table(
                record,
                RATIOS,
                "Against the bound",
                "Ratios to the proven bound without roundings, picture by picture.",
            ),
            "levels": levels_table(record),
            "fragile": fragile_table(record),
        },
        statements=[Statement(label, lead, more)],
        sources=[source_of(path, label, record.info(path), facts, settings)],
        datasets=[data],
        flags=[(label, flag) for flag in record.flags],
        attributions=[record.dataset.attribution],
    )
