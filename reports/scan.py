"""The record of `advhash scan`, and its chapter: hashes and thresholds for a folder of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pydantic import Field

from advhash.errors import counted
from advhash.measures.intervals import Metric
from advhash.measures.sanity import Flag
from advhash.reports.elements.chapters import Chapter, Statement, source_of
from advhash.reports.elements.pictures import Pictures, change_rows
from advhash.reports.elements.plots import (
    COLOURS,
    DASHES,
    MUTED,
    STYLE,
    Drawing,
    legend_below,
    make_logarithmic,
    svg_of,
)
from advhash.reports.elements.tables import (
    Column,
    Table,
    TableCell,
    columns,
    extremes,
    named,
    number,
    points,
    row,
)
from advhash.reports.elements.verdict import with_interval
from advhash.reports.record import Document, Part, RunInfo, ShownChange
from advhash.reports.vocabulary import GREY_RMS

SCAN: Literal["advhash/scan/1"] = "advhash/scan/1"
AXIS = 16  # grey levels that a histogram of least changes shows at least
SHOWN = 10  # rows of a list on the page
CHOSEN = {"given": "chosen by you", "interval": "", "estimate": "not certain"}  # a threshold


class AtThreshold(Part):
    """The rate of false positives per comparison at one threshold.

    high: where not `resolved`, a bound alone
    """

    threshold: int
    value: float
    low: float
    high: float
    resolved: bool


class Pair(Part):
    """Two pictures, how far apart, and whether they were marked as the same."""

    first: str
    second: str
    distance: int
    marked: bool


class Crowded(Part):
    """A picture or an entry of the bank that many others are close to."""

    name: str
    matches: int
    share: float


class Match(Part):
    """A picture that is close to an entry of the bank, which is told by its row or id alone."""

    picture: str
    entry: str
    distance: int


class BankFigures(Part):
    """What a bank finds in the folder.

    entries: of the bank; matched: pictures with an entry close by; lookups: see `HashFigures`
    """

    entries: int
    matched: int
    matches: list[Match]
    crowded: list[Crowded]


class EvasionFigures(Part):
    """How little leaves the threshold.

    pictures: that were tried; moved_out: that could be moved out
    linf: steps of a grey level, by picture; l2: in grey levels a colour value, root of the mean
    shares: of pictures that are out at L∞ 1, 2, 4, 8 and 16 grey levels
    after_jpeg: of those found, still out after JPEG of quality 90
    least_linf: `median_linf` with its interval
    """

    pictures: int
    moved_out: int
    method: str
    linf: list[int | None]
    l2: list[float | None]
    names: list[str]
    median_linf: float | None
    median_l2: float | None
    shares: dict[str, Metric]
    after_jpeg: Metric | None
    least_linf: Metric | None = None


class HashFigures(Part):
    """One hash on the pictures of the folder.

    threshold: pictures are taken for one at this many bits or fewer; None: no threshold is low
               enough
    chosen:    by the user, by the whole interval of false positives, or by their estimate alone
               where no interval is low enough
    false_positive_rate: per comparison, without marked pairs; `with_marked` with them; `good` among
               pictures that are not of low quality
    lookup_rate: share of pictures that find a false match in a bank of `bank_size` others; like the
               rates without a lower end where `high` is a bound alone
    curve:     the rate at every threshold up to a third of the bits, or to `threshold` beyond
    edits:     share of edited pictures that still match their own, by edit
    kept:      its mean over kinds of edits
    """

    label: str
    bits: int
    threshold: int | None
    chosen: Literal["given", "interval", "estimate"]
    false_positive_rate: Metric | None
    false_positive_rate_with_marked: Metric | None
    false_positive_rate_good: Metric | None
    resolved: bool
    lookup_rate: Metric | None
    bank_size: int
    curve: list[AtThreshold]
    edits: dict[str, Metric]
    kept: float | None
    worst_edit: str | None
    pairs_within: int
    matched_pictures: int
    clusters: int
    largest_cluster: int
    nearest: list[Pair]
    crowded: list[Crowded]
    bank: BankFigures | None
    evasion_at: EvasionFigures | None


class ShownPair(Part):
    """A close pair whose pictures the page shows.

    distances: in bits, under each hash in order; files: in the run folder, of first and second
    """

    first: str
    second: str
    marked: bool
    distances: list[int]
    files: list[str]


class LeastShown(ShownChange):
    """The least change by L2 of one picture, which the page shows.

    hash: label of that whose threshold is left; distance: in its bits
    """

    hash: str
    distance: int


class Recommended(Part):
    hash: str | None
    threshold: int | None
    reason: str


class Sides(Part):
    """Pixels of the pictures that were read: the median shorter side, and the longest side."""

    shorter: int
    longest: int


class ScanRecord(Document):
    """Everything that `advhash scan` found.

    pictures: that were read; copies: with the pixels of an earlier one; low_quality: of PDQ's
    quality below `quality`; edit_texts: edits in words, edit_kinds: what they belong to
    """

    schema_: Literal["advhash/scan/1"]
    command: Literal["scan"]
    run: RunInfo
    folder: str
    settings: dict[str, Any]
    files: int
    pictures: int
    copies: int
    low_quality: int
    sides: Sides | None = None
    quality: int
    edited: int
    marked: int
    skipped: dict[str, int]
    left_out: dict[str, int]
    remarks: dict[str, int]
    edit_texts: dict[str, str]
    edit_kinds: dict[str, str]
    groups: int
    false_positives: float
    hashes: list[HashFigures]
    recommendation: Recommended
    shown_pairs: list[ShownPair] = Field(default_factory=list)
    shown_changes: list[LeastShown] = Field(default_factory=list)
    flags: list[Flag]
    seconds: dict[str, float]


def rate_text(metric: Metric | None) -> str:
    """A rate as a power of ten would be read, with its interval; a bound where there is no more.

    >>> rate_text(Metric(0.0, None, 2.5e-5, 9)), rate_text(Metric(1e-4, 5e-5, 2e-4, 9))
    ('below 2.5e-05', '0.0001 [5e-05, 0.0002]')
    """
    if metric is None or metric.value is None:
        return "–"
    if metric.high is None:
        return f"{metric.value:.2g}"
    if metric.low is None:
        return f"below {metric.high:.2g}"
    return f"{metric.value:.2g} [{metric.low:.2g}, {metric.high:.2g}]"


def verdicts(record: ScanRecord) -> list[str]:
    """What was found, in sentences."""
    lines = [record.recommendation.reason]
    for hashing in record.hashes:
        if hashing.threshold is None:
            lines.append(
                f"{hashing.label}: no threshold keeps false positives below "
                f"{record.false_positives:g} per comparison on these pictures."
            )
            continue
        unsure = f" ({CHOSEN['estimate']})" if hashing.chosen == "estimate" else ""
        text = (
            f"{hashing.label} at {hashing.threshold} of {hashing.bits} bits{unsure}: false "
            f"positives {rate_text(hashing.false_positive_rate)} per comparison"
        )
        if hashing.worst_edit is not None:
            text += (
                f"; {100 * (hashing.kept or 0):.0f} % of edited pictures still match, the fewest "
                f"after {worst_text(record, hashing)}"
            )
        evasion = hashing.evasion_at
        if evasion is not None and evasion.median_linf is not None:
            text += f". {_half_out(evasion)}"
        lines.append(text + ".")
    return lines


def worst_text(record: ScanRecord, hashing: HashFigures) -> str:
    """After which edit the fewest pictures still match, or after how many where they tie."""
    least = min(metric.value or 0 for metric in hashing.edits.values())
    tied = [name for name, metric in hashing.edits.items() if (metric.value or 0) == least]
    name = f"“{record.edit_texts[tied[0]]}”" if len(tied) == 1 else f"{len(tied)} edits"
    return f"{name}: {with_interval(hashing.edits[tied[0]])}"


def _half_out(evasion: EvasionFigures) -> str:
    """The change at which half of the attacked pictures are out, with its interval."""
    assert evasion.median_linf is not None
    change = counted(evasion.median_linf, "grey level")
    half = (
        "the attacked picture leaves"
        if evasion.pictures == 1
        else f"at least half of the {evasion.pictures:,} attacked pictures leave"
    )
    text = f"At a change of at most {change} in any colour value, {half} the threshold"
    least = evasion.least_linf
    if least is None:
        return text
    if least.low is None and least.high is None:
        return f"{text} (too few for an interval)"
    if least.high is None:
        return f"{text} (95 % interval from {least.low:g} grey levels on)"
    return f"{text} (95 % interval {least.low or 0:g} to {least.high:g} grey levels)"


def curves(record: ScanRecord) -> Drawing | None:
    """False positives over the threshold as a share of the bits, one line a hash."""
    shown = [hashing for hashing in record.hashes if any(at.value > 0 for at in hashing.curve)]
    if not shown:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.add_subplot()
        for place, hashing in enumerate(shown):
            known = [at for at in hashing.curve if at.value > 0]
            share = [100 * at.threshold / hashing.bits for at in known]
            colour = COLOURS[place % len(COLOURS)]
            axes.plot(
                share,
                [at.value for at in known],
                DASHES[place // len(COLOURS) % len(DASHES)],
                color=colour,
                marker="osD^v<"[place % 6],
                markersize=3,
                linewidth=1.3,
                label=hashing.label,
            )
            axes.fill_between(
                share, [max(at.low, 1e-12) for at in known], [at.high for at in known],
                color=colour, alpha=0.15, linewidth=0,
            )  # fmt: skip
        for hashing in record.hashes:
            if hashing.threshold is not None:
                drawn = hashing in shown
                axes.axvline(
                    100 * hashing.threshold / hashing.bits,
                    color=COLOURS[shown.index(hashing) % len(COLOURS)] if drawn else MUTED,
                    linewidth=0.8,
                    linestyle=":",
                    label=None if drawn else f"{hashing.label}, threshold alone",
                )
        axes.axhline(record.false_positives, color="#6b7280", linewidth=0.8, linestyle="--")
        make_logarithmic(axes)
        lowest = min(at.value for hashing in shown for at in hashing.curve if at.value > 0)
        axes.set_ylim(bottom=0.8 * min(lowest, record.false_positives))
        axes.set_xlabel("threshold, in percent of the bits")
        axes.set_ylabel("false positives per comparison")
        axes.grid(color="#e5e7eb", linewidth=0.8)
        legend_below(figure, 3, fontsize=9)
        return Drawing(
            svg_of(figure),
            "Lines: the rate of false positives of each hash over its threshold. The rates at the "
            "thresholds stand in the table below.",
            f"Shaded: 95 % intervals. Dashed: the rate asked for. Dotted: {_dotted(record)}."
            + _without_line([hashing for hashing in record.hashes if hashing not in shown]),
        )


def _dotted(record: ScanRecord) -> str:
    """What a dotted line of the chart is: how the thresholds were chosen."""
    chosen = {each.chosen for each in record.hashes if each.threshold is not None}
    words = {
        "given": "the threshold that you gave",
        "interval": "the largest threshold whose whole interval keeps to that rate",
        "estimate": "the largest threshold whose estimate alone keeps to that rate, which is not "
        "certain",
    }
    return ", or ".join(text for way, text in words.items() if way in chosen) or "no threshold"


def _without_line(left_out: Sequence[HashFigures]) -> str:
    """Why the chart of rates has no line of these hashes."""
    sentences = []
    for hashing in left_out:
        reach = max((at.threshold for at in hashing.curve), default=0)
        closest = min((pair.distance for pair in hashing.nearest if not pair.marked), default=None)
        sentences.append(
            f" {hashing.label} has no line: "
            + (
                f"no unmarked pair lies within {reach} bits."
                if closest is None
                else f"its closest unmarked pair is {closest} bits apart, and rates are counted up "
                f"to {reach}."
            )
        )
    return "".join(sentences)


def hashes_table(record: ScanRecord) -> Table:
    """Each hash at its threshold."""
    return Table(
        "Hashes at their thresholds",
        "Two pictures are taken for one at the threshold or fewer bits. False positives: pairs of "
        f"different pictures, {record.marked} marked pairs left out. A look-up compares a picture "
        "with all entries of a bank.",
        [
            *columns("Hash", "bits", "threshold", "false positives per comparison"),
            *columns("with marked pairs", "of good quality", "bank", "false match per look-up"),
            *columns("pairs", "clusters", "largest"),
        ],
        [
            row(
                named(hashing.label, CHOSEN[hashing.chosen]),
                number(hashing.bits),
                number("–" if hashing.threshold is None else hashing.threshold),
                TableCell(rate_text(hashing.false_positive_rate)),
                TableCell(rate_text(hashing.false_positive_rate_with_marked)),
                TableCell(rate_text(hashing.false_positive_rate_good)),
                number(f"{hashing.bank_size:,}"),
                TableCell(rate_text(hashing.lookup_rate)),
                number(hashing.pairs_within),
                number(hashing.clusters),
                number(hashing.largest_cluster),
            )
            for hashing in record.hashes
        ],
    )


def edits_table(record: ScanRecord) -> Table | None:
    """What each hash still finds after each edit; None where nothing was edited."""
    if not record.edited:
        return None
    shown = [hashing for hashing in record.hashes if hashing.edits]
    return Table(
        "Edits",
        f"Share of {record.edited} edited pictures that still match their own at the threshold, in "
        "percent, 95 % intervals in small print.",
        [Column("Edit", wide=True), *columns(*(hashing.label for hashing in shown))],
        [
            row(named(text), (points(hashing.edits[name]) for hashing in shown))
            for name, text in record.edit_texts.items()
        ],
    )


def pairs_table(record: ScanRecord) -> Table | None:
    """The closest pairs; None where there are none."""
    rows = [
        row(
            named(hashing.label),
            number(pair.distance),
            named(pair.first),
            named(pair.second),
            TableCell("yes" if pair.marked else "no"),
        )
        for hashing in record.hashes
        for pair in hashing.nearest[:SHOWN]
    ]
    if not rows:
        return None
    return Table(
        "Closest pairs",
        "The closest different pictures. Look at them: where both show the same, mark the pair "
        "(--duplicates pairs.csv, without the lines of other pairs): it is no false positive.",
        [*columns("Hash", "bits apart"), Column("First", wide=True), Column("Second", wide=True),
         Column("Marked")],
        rows,
    )  # fmt: skip


def crowded_table(record: ScanRecord) -> Table | None:
    """Pictures and entries of the bank that match too much; None where none does."""
    rows = [
        row(named(hashing.label), TableCell(kind), named(entry.name), number(entry.matches),
            number(f"{100 * entry.share:.2f}"))
        for hashing in record.hashes
        for kind, entries in (
            ("picture", hashing.crowded), ("bank", hashing.bank.crowded if hashing.bank else [])
        )
        for entry in entries[:SHOWN]
    ]  # fmt: skip
    if not rows:
        return None
    return Table(
        "Entries that match too much",
        "Each is close to so many other pictures that a bank which holds it floods its reviewers.",
        [*columns("Hash", "kind"), Column("Name", wide=True), *columns("matches", "% of pictures")],
        rows,
    )


def bank_table(record: ScanRecord) -> Table | None:
    """What the bank finds; None without a bank."""
    rows = [
        row(named(hashing.label), named(match.picture), named(match.entry), number(match.distance))
        for hashing in record.hashes
        if hashing.bank is not None
        for match in hashing.bank.matches[:SHOWN]
    ]
    if not rows:
        return None
    return Table(
        "Matches in the bank",
        "Pictures that are close to an entry, which is told by its row or id.",
        [Column("Hash"), Column("Picture", wide=True), *columns("Entry", "bits apart")],
        rows,
    )


def evasion_table(record: ScanRecord) -> Table | None:
    """How little leaves the threshold; None where it was not looked for."""
    shown = [hashing for hashing in record.hashes if hashing.evasion_at is not None]
    if not shown:
        return None
    levels = list(shown[0].evasion_at.shares) if shown[0].evasion_at else []
    rows = []
    for hashing in shown:
        evasion = hashing.evasion_at
        assert evasion is not None
        rows.append(
            row(
                named(hashing.label, evasion.method),
                number(evasion.pictures),
                number(evasion.moved_out),
                number("–" if evasion.median_linf is None else f"{evasion.median_linf:g}"),
                number("–" if evasion.median_l2 is None else f"{evasion.median_l2:.2g}"),
                (points(evasion.shares[level]) for level in levels),
                points(evasion.after_jpeg),
            )
        )
    return Table(
        "How little suffices",
        "The least change of the stored 8-bit picture that leaves the threshold, in grey levels: "
        f"L∞ the largest of a colour value, L2 ({GREY_RMS}) the root of the mean square over them. "
        "Shares in percent.",
        [
            *columns("Hash", "pictures", "moved out", "median L∞", f"median L2 ({GREY_RMS})"),
            *columns(*(f"out at {level}" for level in levels), "after JPEG 90"),
        ],
        rows,
    )


def fragile_table(record: ScanRecord) -> Table | None:
    """The most and the least fragile pictures; None where no least change was looked for."""
    rows = []
    for hashing in record.hashes:
        evasion = hashing.evasion_at
        if evasion is None:
            continue
        known = [
            (l2, name) for l2, name in zip(evasion.l2, evasion.names, strict=True) if l2 is not None
        ]
        known.sort()
        rows += [
            row(named(hashing.label), TableCell(kind), named(name), number(f"{l2:.2g}"))
            for kind, (l2, name) in extremes(known, SHOWN, kinds=("most fragile", "least"))
        ]
    if not rows:
        return None
    return Table(
        "The most and the least fragile pictures",
        f"By the L2 of the least change, in {GREY_RMS}; few pictures of a hash stand in one list, "
        "the most fragile first.",
        [*columns("Hash", "Among"), Column("Picture", wide=True), Column(GREY_RMS)],
        rows,
    )


def histogram(record: ScanRecord) -> Drawing | None:
    """Pictures by the L∞ of their least change; None where it was not looked for."""
    shown = [
        (hashing.label, [value for value in hashing.evasion_at.linf if value is not None])
        for hashing in record.hashes
        if hashing.evasion_at is not None and hashing.evasion_at.moved_out
    ]
    if not shown:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.0), layout="constrained")
        axes = figure.add_subplot()
        most = max(AXIS, *(max(values) for _, values in shown))
        axes.hist(
            [values for _, values in shown],
            bins=[level + 0.5 for level in range(most + 1)],
            label=[label for label, _ in shown],
            color=COLOURS[: len(shown)],
        )
        axes.set_xlim(0.5, most + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("least L∞ change, grey levels")
        axes.set_ylabel("pictures")
        legend_below(figure, 3, fontsize=9)
        return Drawing(
            svg_of(figure),
            "Bars: how many pictures leave the threshold by each number of grey levels.",
        )


def files_table(record: ScanRecord) -> Table | None:
    """What was odd about files, by reason; None where nothing was."""
    rows = [
        row(TableCell(kind), named(why), number(count))
        for kind, counts in (
            ("not read", record.skipped), ("left out", record.left_out), ("read", record.remarks)
        )
        for why, count in counts.items()
    ]  # fmt: skip
    if not rows:
        return None
    return Table(
        "Files",
        "Files that could not be read, were left out, or were odd.",
        [Column("File"), Column("Why", wide=True), Column("files")],
        rows,
    )


def pair_rows(record: ScanRecord, folder: Path, pictures: Pictures) -> list[dict[str, Any]]:
    """The closest pairs as the page shows them; none where pictures are left out."""
    if pictures.left_out:
        return []
    return [
        {
            "pair": pair,
            "cells": [pictures.add(folder, file) for file in pair.files],
            "apart": [
                apart_text(hashing, distance)
                for hashing, distance in zip(record.hashes, pair.distances, strict=True)
            ],
        }
        for pair in record.shown_pairs
    ]


def apart_text(hashing: HashFigures, distance: int) -> str:
    """How far two pictures are apart under a hash, and what its threshold makes of them."""
    text = f"{hashing.label}: {distance} of {hashing.bits} bits"
    if hashing.threshold is None:
        return f"{text}, no threshold"
    verdict = "taken for one" if distance <= hashing.threshold else "told apart"
    return f"{text}, {verdict} (threshold {hashing.threshold})"


def _changes(record: ScanRecord) -> list[tuple[ShownChange, list[str]]]:
    """Least changes with what the threshold makes of them."""
    hashes = {hashing.label: hashing for hashing in record.hashes}
    return [
        (change, [apart_text(hashes[change.hash], change.distance)])
        for change in record.shown_changes
    ]


def scan_chapter(folder: Path, pictures: Pictures) -> Chapter:
    """What a scan says. Raises RunError."""
    record = ScanRecord.read(folder)
    label = f"scan run {record.run.id}"
    lead, *more = verdicts(record)
    facts = [
        ("Folder", record.folder),
        ("Pictures", _pictures_fact(record)),
        ("Hashes", ", ".join(hashing.label for hashing in record.hashes)),
    ]
    name = Path(record.folder).name
    title = f"Hashes and thresholds for {record.pictures:,} pictures of {name}"
    tables: Sequence[tuple[str, Any]] = (
        ("curves", curves(record)),
        ("hashes", hashes_table(record)),
        ("edits", edits_table(record)),
        ("pairs", pairs_table(record)),
        ("crowded", crowded_table(record)),
        ("bank", bank_table(record)),
        ("evasion", evasion_table(record)),
        ("histogram", histogram(record)),
        ("fragile", fragile_table(record)),
        ("files", files_table(record)),
    )
    return Chapter(
        name=f"{title} ({label})",
        title=title,
        heading=title,
        template="scan.html",
        values={
            "record": record,
            "close": pair_rows(record, folder, pictures),
            "changes": change_rows(folder, pictures, _changes(record)),
            **dict(tables),
        },
        statements=[Statement(label, lead, more)],
        sources=[source_of(folder, label, record.run, facts, record.settings)],
        datasets=[name],
        flags=[(label, flag) for flag in record.flags],
    )


def _pictures_fact(record: ScanRecord) -> str:
    return (
        f"{record.pictures:,} of {record.files:,} files read; {record.copies:,} with the pixels of "
        f"an earlier one, compared once; {record.low_quality:,} of PDQ's quality below "
        f"{record.quality}; {record.edited:,} edited"
    )
