"""The record of `advhash poison`, and its chapter: what planted items do to a search."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.figure import Figure
from pydantic import Field

from advhash.errors import counted
from advhash.measures.intervals import Metric
from advhash.measures.sanity import Flag
from advhash.reports.elements.chapters import Chapter, Statement, source_of
from advhash.reports.elements.pictures import Pictures
from advhash.reports.elements.plots import STYLE, Drawing, svg_of
from advhash.reports.elements.tables import (
    Column,
    Table,
    TableCell,
    columns,
    number,
    of_figures,
    points,
    row,
)
from advhash.reports.elements.verdict import points as points_lost, with_interval
from advhash.reports.record import GAIN, Document, Part, RunInfo, ShownChange

POISON: Literal["advhash/poison/1"] = "advhash/poison/1"
PLANTED = (
    *("planted_top1", "planted_top5", "planted_top10"),
    *("planted_top10_random", "planted_top10_natural", "planted_top10_over_natural"),
)
OWN = ("own_recall10_before", "own_recall10_after", "own_recall10_lost", "store_recall_at_10")
HONEST = ("own_recall10_before", "own_recall10_defended", "own_recall10_cost")
CURVES = {
    "planted_top10": ("planted items", "#d55e00", "-"),
    "planted_top10_natural": ("natural hubs", "#009e73", "--"),
    "planted_top10_random": ("random documents", "#777777", ":"),
}


class AtShare(Part):
    """What is found with so many items planted.

    refused, dropped: of each seed, items that a gate or a collapse of near-duplicates kept out, and
        documents that were dropped for them
    natural_refused: natural hubs that the defences would not hold; None: there are none
    surfaces: of each seed, what the queries were clustered by; []: nothing was clustered
    """

    items: int
    share: float
    refused: list[int]
    dropped: list[int]
    surfaces: list[Literal["codes", "floats"]] = Field(default_factory=list)
    natural_refused: int | None = None
    metrics: dict[str, Metric]


class PlantedSample(Part):
    """A planted input beside queries that find it among their first 10 results.

    found_by: how many unseen queries
    text, queries: of texts
    files:    pictures in the run folder: the item, then the queries
    change:   of a picture that the attacker moved
    """

    found_by: int
    text: str = ""
    queries: list[str] = Field(default_factory=list)
    files: list[str] = Field(default_factory=list)
    change: ShownChange | None = None


class PoisonRecord(Document):
    """What `advhash poison` found; `advhash.experiments.poison.judge` says what each figure is.

    gate, cap:   with the threshold that was set, and the share of documents that lie above it
    turned_away: documents that the defences would not hold; None: there are none
    """

    schema_: Literal["advhash/poison/1"]
    command: Literal["poison"]
    run: RunInfo
    source: str
    quantise: dict[str, Any] | None
    bits: int
    attack: dict[str, Any]
    summary: str
    knowledge: list[str]
    free_pairs: bool
    budget: str | None = None
    samples: list[PlantedSample] = Field(default_factory=list)
    store: dict[str, Any]
    rescore: list[dict[str, Any]]
    collapse: dict[str, Any] | None
    gate: dict[str, Any] | None = None
    cap: dict[str, Any] | None = None
    turned_away: int | None = None
    rotate: bool = False
    attribution: str = ""
    documents: int
    known: int
    unseen: int
    repeated: int
    restarts: int
    metrics: dict[str, Metric]
    shares: list[AtShare] = Field(min_length=1)
    flags: list[Flag]

    @property
    def served_by(self) -> str:
        """The store and the rescorers behind it: "faiss-ivf, float ×10"."""
        stages = (f"{stage['name']} ×{stage['multiplier']}" for stage in self.rescore)
        return ", ".join([str(self.store["name"]), *stages])

    @property
    def clustered_by(self) -> str:
        """What queries were clustered by, over shares and seeds: "codes", "codes 2×, floats 1×"."""
        times = Counter(surface for at in self.shares for surface in at.surfaces)
        if len(times) < 2:
            return "".join(times)
        return ", ".join(f"{surface} {count}×" for surface, count in sorted(times.items()))


def verdicts(record: PoisonRecord) -> list[str]:
    """What planted items reach beyond natural hubs, and what queries lose."""
    most, metrics = record.shares[-1], record.metrics
    items, documents = counted(most.items, "item"), counted(record.documents, "document")
    if record.budget:
        items += f" of {record.budget}"
    pairs = ", code and vector written apart," if record.free_pairs else ""
    return [
        f"With {items} ({100 * most.share:.3g} % of {documents}) planted by "
        f"{record.attack['name']}{pairs or ','} {with_interval(metrics['planted_top10'])} of the "
        f"unseen queries find one among their first 10 results ({record.served_by}); as many "
        f"natural hubs are found by {with_interval(metrics['planted_top10_natural'])}.",
        *_own_answers(record),
    ]


def _own_answers(record: PoisonRecord) -> list[str]:
    """What becomes of own answers, the share of the defences apart from that of the items."""
    metrics = record.metrics
    before, after = (with_interval(metrics[f"own_recall10_{name}"]) for name in ("before", "after"))
    if record.cap is None:
        return [f"Recall of the queries' own answers goes from {before} to {after}."]
    cost, lost = (points_lost(metrics[f"own_recall10_{name}"]) for name in ("cost", "lost"))
    return [
        f"Recall of the queries' own answers is {before} without any defence and {after} in the "
        f"end: without any attack the defences cost {cost}; the items take {lost} of what the cap "
        "shows.",
    ]


def shares_table(record: PoisonRecord, names: tuple[str, ...], label: str, what: str) -> Table:
    """Figures of every planted share."""
    return Table(
        label,
        what,
        [*columns("Items", "Share (%)"), *of_figures(*names)],
        [
            row(
                number(at.items),
                number(f"{100 * at.share:.3g}"),
                (points(at.metrics[name]) for name in names),
            )
            for at in record.shares
        ],
    )


def admission_table(record: PoisonRecord) -> Table | None:
    """What is refused, planted and honest; None: everything is taken."""
    if record.turned_away is None:
        return None
    return Table(
        "Refused items",
        "Planted items that are not held in the end, as a mean over seeds, natural hubs that "
        "would not be held either, and documents that were dropped for planted near-duplicates.",
        columns("Items", "Planted, refused", "Natural hubs, refused", "Documents dropped"),
        [
            row(
                number(at.items),
                number(f"{sum(at.refused) / len(at.refused):.3g}"),
                number("–" if at.natural_refused is None else at.natural_refused),
                number(f"{sum(at.dropped) / len(at.dropped):.3g}"),
            )
            for at in record.shares
        ],
    )


def honest_table(record: PoisonRecord) -> Table | None:
    """What defences cost without any attack; None: there are none."""
    if record.turned_away is None:
        return None
    return shares_table(
        record,
        HONEST,
        "What the defences cost",
        f"Recall at 10 of a query's own answers without any attack, in percent, and with documents "
        f"going through the defences as planted items do, which {record.turned_away} of "
        f"{record.documents} do not get through.",
    )


def texts_table(record: PoisonRecord) -> Table | None:
    """Planted texts beside queries that find them; None: no texts were planted."""
    texts = [sample for sample in record.samples if sample.text]
    if not texts:
        return None
    return Table(
        "Planted texts",
        f"Some of the {record.shares[-1].items} planted texts, by how many unseen queries they are "
        "found among the first 10 results, and some of these queries.",
        [Column("Planted text", wide=True), Column("Queries"), Column("Some of them", wide=True)],
        [
            row(
                TableCell(sample.text),
                number(sample.found_by),
                TableCell("; ".join(sample.queries)),
            )
            for sample in texts
        ],
    )


def picture_rows(record: PoisonRecord, folder: Path, pictures: Pictures) -> list[dict[str, Any]]:
    """Planted pictures beside queries that find them; nothing where pictures are left out."""
    if pictures.left_out:
        return []
    return [
        {
            "found_by": sample.found_by,
            "change": sample.change,
            "before": [pictures.add(folder, file) for file in sample.change.files[:2]]
            if sample.change
            else [],
            "cells": [pictures.add(folder, file) for file in sample.files],
        }
        for sample in record.samples
        if sample.files
    ]


def curve(record: PoisonRecord) -> Drawing:
    """Found items over the planted share, with intervals."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.2), layout="constrained")
        axes = figure.subplots()
        shares = [100 * at.share for at in record.shares]
        for name, (label, ink, line) in CURVES.items():
            metrics = [at.metrics[name] for at in record.shares]
            values = [100 * (metric.value or 0) for metric in metrics]
            axes.plot(shares, values, line, color=ink, label=label, marker="o", markersize=3)
            if all(metric.low is not None and metric.high is not None for metric in metrics):
                low = [100 * (metric.low or 0) for metric in metrics]
                high = [100 * (metric.high or 0) for metric in metrics]
                axes.fill_between(shares, low, high, color=ink, alpha=0.15, linewidth=0)
        axes.set_xscale("log")
        axes.set_xticks(shares, [f"{share:.3g}" for share in shares])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_xlabel("planted items, % of the documents")
        axes.set_ylabel("queries that find one, %")
        axes.legend(frameon=False)
        svg = svg_of(figure)
    return Drawing(
        svg,
        "Share of unseen queries with a planted item among their first 10 results, over the "
        "planted share. The numbers stand in the table.",
        "Found by the planted share",
    )


def poison_chapter(path: Path, pictures: Pictures) -> Chapter:
    """What a run of `advhash poison` says. Raises RunError."""
    record = PoisonRecord.read(path)
    label = f"poison run {record.run.id}"
    title = (
        f"What is planted by {record.attack['name']} in a store ({record.served_by}): "
        f"{record.source}"
    )
    lead, *more = verdicts(record)
    settings = {
        "attack": record.attack,
        "store": record.store,
        "rescore": record.rescore,
        "quantise": record.quantise,
        "collapse": record.collapse,
        "gate": record.gate,
        "cap": record.cap,
        "rotate": record.rotate,
    }
    facts = [
        ("Embeddings", record.source),
        ("Attack", f"{record.attack['name']}: {record.summary}"),
        ("Store", record.served_by),
        *([("Queries clustered by", record.clustered_by)] if record.clustered_by else []),
        *([("Budget", record.budget)] if record.budget else []),
    ]
    return Chapter(
        name=f"{title} ({label})",
        title=title,
        heading=title,
        template="poison.html",
        values={
            "record": record,
            "planted": shares_table(
                record,
                PLANTED,
                "Found by unseen queries",
                "Share of unseen queries with a planted item among their first results, in "
                "percent, 95 % intervals in small print. Random documents and natural hubs are as "
                "many clean documents, counted in the store without the items; under a cap, "
                "documents that it shows.",
            ),
            "own": shares_table(
                record,
                OWN,
                "What queries find of their own answers",
                "Recall at 10 of a query's own answers before and after, in percent; the recall of "
                "the store is what it finds of its own exact first 10 without any attack.",
            ),
            "admission": admission_table(record),
            "honest": honest_table(record),
            "texts": texts_table(record),
            "grid": picture_rows(record, path, pictures),
            "gain": GAIN,
            "curve": curve(record) if len(record.shares) > 1 else None,
        },
        statements=[Statement(label, lead, more)],
        sources=[source_of(path, label, record.run, facts, settings)],
        datasets=[record.source],
        flags=[(label, flag) for flag in record.flags],
        attributions=[record.attribution],
    )
