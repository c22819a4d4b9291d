"""The record of a transfer run, and its chapter: attacks made on one victim, judged on others."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.figure import Figure
from pydantic import Field

from advhash.measures.intervals import Difference, Metric
from advhash.measures.sanity import Flag
from advhash.reports.elements.chapters import (
    Chapter,
    Statement,
    data_fact,
    known,
    source_of,
    victim_fact,
)
from advhash.reports.elements.numbers import as_number, as_points
from advhash.reports.elements.pictures import Pictures, change_rows
from advhash.reports.elements.plots import STYLE, Drawing, svg_of
from advhash.reports.elements.tables import (
    Column,
    Table,
    TableCell,
    chance,
    columns,
    named,
    number,
    of_figures,
    points,
    row,
)
from advhash.reports.elements.verdict import percent, with_interval
from advhash.reports.headline import HEADLINES, Headline
from advhash.reports.record import (
    AttackInfo,
    BudgetInfo,
    DatasetInfo,
    Document,
    Part,
    Protocol,
    RunInfo,
    ShownChange,
    VictimInfo,
)
from advhash.reports.vocabulary import label_of

TRANSFER: Literal["advhash/transfer/1"] = "advhash/transfer/1"
WORTH = ("map_clean", "map_robust", "tmap_clean", "tmap_robust")
NOT_ADAPTIVE = ("map_nonadaptive", "tmap_nonadaptive")
LETTER, LINE = 0.085, 0.2  # inches of a label in a drawing
CODES = ("rows", "distinct", "balance", "entropy", "seconds_training")


class Victim(Part):
    """One of the victims, as the command named it, and what its database holds."""

    label: str
    database: str
    info: VictimInfo


class Ensemble(Part):
    """A source made of several victims.

    members: their labels
    """

    label: str
    members: list[str]


class Method(Part):
    """One attack as fitted to one source."""

    label: str
    source: str
    info: AttackInfo


class MatrixEntry(Part):
    """The queries that a method moved on `source`, judged on `target`: its database, its codes.

    gain:      paired over queries: t-MAP − t-MAP of clean queries; untargeted: MAP lost
    over_noise: the same against uniform noise under the same budget; null where there is none
    over_single: of an ensemble on a victim outside of it, the same against its best member alone,
        which is chosen for each half of the queries on the other half
    """

    method: str
    source: str
    target: str
    metrics: dict[str, Metric | None]
    gain: Difference
    over_noise: Difference | None
    over_single: Difference | None = None


class PrecisionAt(Part):
    """Average precision of one query on a target, before and after: for the labels aimed at, or,
    untargeted, for its own.
    """

    target: str
    before: float | None
    after: float | None


class TransferShown(ShownChange):
    """A query as a method moved it on `source`, which the page shows; rank: among its queries."""

    method: str
    source: str
    rank: str
    precision: list[PrecisionAt]


class Check(Part):
    """Whether a gradient is masked: a sequence that a sound one makes fall, or a pair."""

    name: str
    question: str
    points: dict[str, Metric]  # what was varied → MAP, or t-MAP, of some queries
    passed: bool


class Defense(Part):
    """What `advhash defend` adds: which victims are compared, and whether to believe it."""

    checkpoint: str
    undefended: str  # labels of victims
    defended: str
    codes: dict[str, dict[str, Any]]  # of both: database, distinct, balance, entropy
    training: dict[str, float | None]  # seconds of both
    checks: list[Check]


class TransferRecord(Document):
    """Everything that a transfer run found. Metrics are means over queries with 95 % intervals."""

    schema_: Literal["advhash/transfer/1"]
    command: Literal["transfer", "defend"]
    run: RunInfo
    victims: list[Victim]
    ensembles: list[Ensemble] = Field(default_factory=list)
    methods: list[Method]
    dataset: DatasetInfo
    budgets: dict[str, BudgetInfo]  # of each method
    protocol: Protocol
    flags: list[Flag]
    metrics: dict[str, Metric | None]  # `<main>_own:<method>` and `<main>_transferred:<method>`
    cells: list[MatrixEntry]
    shown_changes: list[TransferShown] = Field(default_factory=list)
    defense: Defense | None = None  # of `advhash defend`

    def at(self, method: str, source: str, target: str) -> MatrixEntry:
        """One cell. Raises KeyError."""
        for cell in self.cells:
            if (cell.method, cell.source, cell.target) == (method, source, target):
                return cell
        raise KeyError((method, source, target))

    def goal(self, method: str) -> Literal["targeted", "untargeted"]:
        """What a method aims at. Raises KeyError."""
        for candidate in self.methods:
            if candidate.label == method:
                return candidate.info.goal
        raise KeyError(method)

    def headline(self, method: str) -> Headline:
        """The figures that a method leads with. Raises KeyError."""
        return HEADLINES[self.goal(method)]

    @property
    def labels(self) -> list[str]:
        """The victims in order."""
        return [victim.label for victim in self.victims]

    @property
    def sources(self) -> list[str]:
        """What attacks are made for: the victims, then the ensembles."""
        return [*self.labels, *(ensemble.label for ensemble in self.ensembles)]


def verdicts(record: TransferRecord) -> list[str]:
    """What was found: a sentence for each method, or what a defence changes."""
    if record.defense is not None:
        return _defense_verdict(record)
    lines = []
    for method in record.budgets:
        main = record.headline(method).main
        name = label_of(main)
        own, moved = (record.metrics[f"{main}_{kind}:{method}"] for kind in ("own", "transferred"))
        line = f"{method} ({record.budgets[method].text}): {name} "
        line += f"{with_interval(own or Metric())} on the victim that it was made for, "
        mine = [c for c in record.cells if c.method == method]
        others = [c for c in mine if c.source in record.labels and c.source != c.target]
        clean = [c.metrics.get(record.headline(method).unattacked) for c in others]
        before = [metric.value for metric in clean if metric and metric.value is not None]
        line += f"{with_interval(moved or Metric())} on others"
        line += (
            f", where unattacked queries have {percent(sum(before) / len(before))}."
            if before
            else "."
        )
        shown = [c for c in others if c.gain.low is not None and c.gain.low > 0]
        beats = [c for c in others if c.over_noise and (c.over_noise.low or 0) > 0]
        line += f" In {len(shown)} of {len(others)} transfers the interval of the gain is above 0"
        noisy = any(c.over_noise for c in others)
        line += f", in {len(beats)} that of the gain over noise." if noisy else "."
        joint = [c.over_single for c in mine if c.over_single is not None]
        if joint:
            ahead = sum(gain.low is not None and gain.low > 0 for gain in joint)
            behind = sum(gain.high is not None and gain.high < 0 for gain in joint)
            line += (
                f" Made for an ensemble it is ahead of the best member alone on {ahead} and behind "
                f"on {behind} of {len(joint)} victims outside of it, by the interval of the "
                "difference."
            )
        lines.append(line)
    return lines


def _defense_verdict(record: TransferRecord) -> list[str]:
    def value(name: str) -> str:
        return with_interval(record.metrics.get(name) or Metric())

    assert record.defense is not None
    failed = [check.name for check in record.defense.checks if not check.passed]
    return [
        f"Under the strongest attack tried on the defended victim itself, MAP falls to "
        f"{value('map_robust')}; undefended, to {value('map_robust_undefended')}.",
        f"t-MAP rises to {value('tmap_robust')}; undefended, to {value('tmap_robust_undefended')}.",
        f"The defence keeps {value('map_kept')} of the clean MAP: {value('map_clean')} instead of "
        f"{value('map_clean_undefended')}.",
        f"Do not believe this before looking at: {', '.join(failed)}."
        if failed
        else "No sign of a masked gradient was found.",
    ]


def _folded(label: str) -> str:
    """A label of a victim, its settings on lines of their own.

    >>> _folded("dpsh+bits=16"), _folded("dpsh")
    ('dpsh\\n+bits=16', 'dpsh')
    """
    return label.replace("+", "\n+")


def heat_map(record: TransferRecord, method: str) -> Drawing:
    """The source × target matrix of a method in percent, intervals below each figure."""
    labels, sources, headline = record.labels, record.sources, record.headline(method)
    metrics = [
        [record.at(method, source, target).metrics.get(headline.main) for target in labels]
        for source in sources
    ]
    values = [[100 * (m.value or 0) if m else 0.0 for m in row] for row in metrics]
    with matplotlib.rc_context(STYLE):
        below, beside = (list(map(_folded, names)) for names in (labels, sources))
        lines = [text.split("\n") for text in (*below, *beside)]
        room = LETTER * max(len(line) for text in lines for line in text)
        width, height = max(1.1, room) * len(labels), 0.77 * len(sources)
        tall = LINE * max(map(len, lines))
        figure = Figure(figsize=(1.6 + room + width, 1.1 + tall + height), layout="constrained")
        axes = figure.add_subplot()
        image = axes.imshow(values, cmap="cividis", vmin=0, vmax=100, aspect="auto")
        for row, line in enumerate(metrics):
            for column, metric in enumerate(line):
                text = percent(None if metric is None else metric.value).replace("\xa0%", "")
                if metric is not None and metric.low is not None and metric.high is not None:
                    text += f"\n{100 * metric.low:.0f}–{100 * metric.high:.0f}"
                ink = "black" if values[row][column] > 55 else "white"
                axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=9)
        axes.set_xticks(range(len(labels)), below)
        axes.set_yticks(range(len(sources)), beside)
        axes.set_xlabel("judged on")
        axes.set_ylabel("made for")
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        figure.colorbar(image, ax=axes, shrink=0.85)
        alt = (
            f"Heat map of {method}: rows are the victims that it was made for, columns the victims "
            "that it is judged on. The numbers stand in the table below."
        )
        shade = "lighter" if headline.sign > 0 else "darker"
        caption = (
            f"{label_of(headline.main)} in percent: {shade} is a stronger attack; 95 % intervals "
            "over queries below each figure."
        )
        return Drawing(svg_of(figure), alt, caption)


def matrix_table(record: TransferRecord, method: str) -> Table:
    """Every cell of a method."""
    targeted = record.goal(method) == "targeted"
    figures = record.headline(method).figures
    gain = "t-MAP − t-MAP of clean queries" if targeted else "MAP lost"
    members = {ensemble.label: ensemble.members for ensemble in record.ensembles}
    single = ["over_single"] if members else []
    caption = (
        f"In percent, 95 % intervals in small print. Gain: {gain}, paired over queries, in points."
    )
    if members:
        caption += (
            " Over the best member: an ensemble less that one of its members which alone does best "
            "on the other half of the queries; every gradient of an ensemble costs one of each "
            "member."
        )

    def note(cell: MatrixEntry) -> str:
        if cell.source == cell.target:
            return "itself"
        return "a member" if cell.target in members.get(cell.source, ()) else ""

    return Table(
        f"{method} from victim to victim",
        caption,
        [
            *columns("Made for", "Judged on"),
            *of_figures(*figures, "gain"),
            Column("p"),
            *of_figures("over_noise", *single),
        ],
        [
            row(
                named(cell.source),
                named(cell.target, note(cell)),
                (points(cell.metrics[name]) for name in figures),
                points(cell.gain),
                chance(cell.gain.p),
                points(cell.over_noise),
                *(points(getattr(cell, name)) for name in single),
            )
            for cell in record.cells
            if cell.method == method
        ],
    )


def defence_table(record: TransferRecord, defense: Defense) -> Table:
    """Figures with and without the defence."""
    metrics = record.metrics

    def ratio(name: str) -> str:
        return as_points(metrics[name])

    drop = (
        f"the drop of MAP is {ratio('map_drop_ratio')} %, the gain of t-MAP "
        f"{ratio('tmap_gain_ratio')} % of the undefended one's"
    )
    return Table(
        "With and without the defence",
        "In percent, 95 % intervals in small print. Robust: under autohash made for this very "
        "victim, untargeted for MAP, targeted for t-MAP, against the database as the victim "
        "serves it. Not adaptive: the same pictures made for the undefended victim, shown only to "
        "be compared.",
        [Column("Victim"), *of_figures(*WORTH, *NOT_ADAPTIVE)],
        [
            row(
                named(defense.undefended),
                (points(metrics[f"{name}_undefended"]) for name in WORTH),
                (TableCell() for _ in NOT_ADAPTIVE),
            ),
            row(
                named(defense.defended),
                (points(metrics[name]) for name in (*WORTH, *NOT_ADAPTIVE)),
            ),
            row(
                TableCell("defended / undefended"),
                points(metrics["map_kept"]),
                TableCell(drop, span=5, numeric=True),
            ),
        ],
    )


def codes_table(defense: Defense) -> Table:
    """Codes of the database, and what training took."""
    return Table(
        "Codes with and without the defence",
        "Codes of the database, and what training took.",
        [Column("Victim"), *of_figures(*CODES)],
        [
            row(
                named(label),
                number(codes["rows"]),
                number(codes["distinct"]),
                number(as_number(codes["balance"], 3)),
                number(as_number(codes["entropy"], 3)),
                number(as_number(defense.training[label] or 0, 0)),
            )
            for label, codes in defense.codes.items()
        ],
    )


def checks_table(defense: Defense) -> Table:
    """Signs of a masked gradient."""

    def figures(check: Check) -> str:
        return "; ".join(f"{name}: {as_points(metric)}" for name, metric in check.points.items())

    return Table(
        "Checks for a masked gradient",
        "MAP, or t-MAP, in percent of attacked queries.",
        columns("Check", "Found, in percent", "Sound"),
        [
            row(
                TableCell(check.question),
                TableCell(figures(check)),
                TableCell("✔ yes" if check.passed else "✖ no"),
            )
            for check in defense.checks
        ],
    )


def shown_lines(change: TransferShown, *, targeted: bool) -> list[str]:
    """What comes of a moved query on each target."""
    figure = f"average precision for {'the target' if targeted else 'its own labels'}"
    return [
        f"{change.method} on {change.source}, {change.rank}",
        *(
            f"{at.target}: {figure} {percent(at.before)} before, {percent(at.after)} after"
            for at in change.precision
        ),
    ]


def _goals(record: TransferRecord) -> dict[str, bool]:
    """Whether each method is targeted."""
    return {method.label: method.info.goal == "targeted" for method in record.methods}


def transfer_chapter(folder: Path, pictures: Pictures) -> Chapter:
    """What a run of `advhash transfer` or `advhash defend` says. Raises RunError."""
    record = TransferRecord.read(folder)
    label, data = f"{record.command} run {record.run.id}", record.dataset
    if record.defense is not None:
        infos = {victim.label: victim.info for victim in record.victims}
        title = heading = f"What {infos[record.defense.defended].label} withstands"
    else:
        title = f"Transfer between {len(record.labels)} victims"
        heading = "What an attack made for one victim does to others"
    facts = [
        *(("Victim", victim_fact(victim.label, victim.info)) for victim in record.victims),
        ("Data set", data_fact(data)),
    ]
    settings = {
        "victims": {victim.label: victim.info.settings for victim in record.victims},
        "methods": {
            f"{method.label}, for {method.source}": method.info.settings
            for method in record.methods
        },
        "data set": data.settings,
    }
    lead, *more = verdicts(record)
    return Chapter(
        name=f"{title} ({label})",
        title=f"{title} on {data.label}",
        heading=f"{heading}, on {data.label}",
        template="transfer.html",
        values={
            "changes": change_rows(
                folder,
                pictures,
                (
                    (change, shown_lines(change, targeted=_goals(record)[change.method]))
                    for change in record.shown_changes
                ),
            ),
            "record": record,
            "maps": {method: heat_map(record, method) for method in record.budgets},
            "tables": {method: matrix_table(record, method) for method in record.budgets},
            "defence": record.defense and defence_table(record, record.defense),
            "codes": record.defense and codes_table(record.defense),
            "checks": record.defense and checks_table(record.defense),
            "knowledge": {method.label: known(method.info.knowledge) for method in record.methods},
            "sent": "picture" if record.protocol.query_modality == "image" else "text",
        },
        statements=[Statement(label, lead, more)],
        sources=[source_of(folder, label, record.run, facts, settings)],
        datasets=[data.label],
        flags=[(label, flag) for flag in record.flags],
        deviations=[
            (name, text)
            for name, info in (
                *((victim.label, victim.info) for victim in record.victims),
                *((method.label, method.info) for method in record.methods),
            )
            for text in info.deviations
        ],
        attributions=[data.attribution],
    )
