"""The document of `advhash certify`, and its chapter: what no attack in an L2 ball can take."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from advhash.measures.intervals import Metric
from advhash.reports.elements.chapters import Chapter, Statement, named_data_fact, source_of
from advhash.reports.elements.numbers import as_number
from advhash.reports.elements.pictures import Pictures
from advhash.reports.elements.tables import Table, columns, points, row, titled, value
from advhash.reports.elements.verdict import with_interval
from advhash.reports.record import FileDocument, Part

CERTIFY: Literal["advhash/certify/1"] = "advhash/certify/1"
WORTH = (  # of the smoothed hash, without an attack
    *("map_clean", "map_clean_unsmoothed", "map_chance"),
    *("precision_clean", "recall_clean", "irrelevant_clean"),
)
SHARES = ("recall_certified", "irrelevant_certified", "recall_served")  # at an L2 radius
BITS = ("bits_certified", "flips_bound", "bits_served")


class Noise(Part):
    sigma: float
    votes: int
    seed: int


class Served(Part):
    votes: int
    level: float


class AtRadius(Part):
    radius: float
    metrics: dict[str, Metric]


class CertificateRecord(FileDocument):
    """What `advhash certify` found; `advhash.experiments.certify.run` says what each figure is."""

    schema_: Literal["advhash/certify/1"]
    command: Literal["certify"]
    database: str
    queries: int
    smoothing: Noise
    samples: int
    selection: int
    alpha: float
    within: int
    served: Served
    largest_radius: float
    metrics: dict[str, Metric]
    radii: list[AtRadius] = Field(min_length=1)
    codes: dict[str, dict[str, int | float]]
    environment: dict[str, Any]


def verdicts(record: CertificateRecord) -> list[str]:
    """What is certified at each radius, after what the smoothed hash is worth."""
    worth = record.metrics
    lines = [
        f"Under noise of σ {record.smoothing.sigma:g} the hash retrieves with MAP "
        f"{with_interval(worth['map_clean'])}, without it with "
        f"{with_interval(worth['map_clean_unsmoothed'])}."
    ]
    for ball in record.radii:
        kept, others = (ball.metrics[name] for name in ("recall_certified", "irrelevant_certified"))
        lines.append(
            f"Whatever is done within L2 {ball.radius:g}, at least {with_interval(kept)} of the "
            f"relevant rows stay within {record.within} bits of a query, and at least "
            f"{with_interval(others)} of the others."
        )
    return lines


def worth_table(record: CertificateRecord) -> Table:
    """What the smoothed hash is worth without an attack."""
    return Table(
        "Worth of the smoothed hash",
        "What the smoothed hash is worth without an attack, in percent, 95 % intervals in small "
        f"print. The Hamming radius is {record.within} bits. A certificate says nothing where "
        "other rows are as near as relevant ones.",
        columns("Figure", "value"),
        [row(titled(name), points(record.metrics[name])) for name in WORTH],
    )


def radii_table(record: CertificateRecord) -> Table:
    """What holds whatever an attack within each radius does."""
    bits = [
        row(titled(name), (value(ball.metrics[name], 1) for ball in record.radii)) for name in BITS
    ]
    shares = [
        row(titled(name), (points(ball.metrics[name]) for ball in record.radii)) for name in SHARES
    ]
    return Table(
        "What is certified at each radius",
        "What holds whatever an attack within the L2 radius does: bits of a code as numbers, rows "
        f"in percent. No radius from {as_number(record.largest_radius, 3)} on can come out, "
        "whatever the hash.",
        columns("Figure", *(f"L2 {ball.radius}" for ball in record.radii)),
        bits + shares,
    )


def certificate_chapter(path: Path, _: Pictures) -> Chapter:
    """What a document of `advhash certify` says. Raises RunError."""
    record = CertificateRecord.read(path)
    victim, data = record.defended, record.dataset.label
    label = f"certify run {record.label(path)}"
    settings = {
        "victim": record.victim.settings,
        "defences": record.defenses,
        "data set": record.dataset.settings,
        "smoothing": record.smoothing.model_dump(),
    }
    facts = [("Victim", victim), ("Data set", named_data_fact(record.dataset))]
    lead, *more = verdicts(record)
    title = f"What is certified of {victim} on {data}"
    return Chapter(
        name=f"{title} ({label})",
        title=title,
        heading=title,
        template="certificates.html",
        values={
            "record": record,
            "victim": victim,
            "worth": worth_table(record),
            "radii": radii_table(record),
        },
        statements=[Statement(label, lead, more)],
        sources=[source_of(path, label, record.info(path), facts, settings)],
        datasets=[data],
        flags=[(label, flag) for flag in record.flags],
    )
