"""The tables of attack runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from advhash.measures.intervals import Metric
from advhash.measures.paired_runs import Pair, Standing
from advhash.reports.elements.chapters import KNOWLEDGE
from advhash.reports.elements.numbers import as_distance, as_number
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
    titled,
)
from advhash.reports.elements.verdict import metric_of, share_of_pairs
from advhash.reports.record import TARGETED_METRICS, Record
from advhash.reports.vocabulary import figure, label_of

OWN = ("map_chance", "map", "map_adversarial")
CODECS = ("_clean", "", "_png", "_jpeg90", "_jpeg75", "_clean_pdq", "_pdq")
PLANTED = ("poison_hit10", "poison_hit10_clean", "poison_hit10_gain", "poison_hit10_chance")
SERVED = (
    *("served_tprecision_at_10", "served_tprecision_at_10_clean"),
    *("served_precision_at_10_adversarial", "served_precision_at_10"),
    *("store_recall_at_10_adversarial", "store_recall_at_10"),
)
AFTER = ("_jpeg90", "_jpeg75", "_survived")  # what figures after a file are called by
DISTANCES = {  # figure → digits
    "linf": 1, "l2": 2, "psnr": 1, "ssim": 3, "words_changed": 2, "overrun": 2, "seconds_fit": 1,
    "seconds_per_image": 3,
}  # fmt: skip
APART = ("bits_clean", "bits_adversarial", "bits_own")
RATES = {  # goal → label of the table, its figure, what that is
    "targeted": (
        "Collision at the threshold",
        "collision_rate",
        "the share of queries that collide with the target picture",
    ),
    "untargeted": (
        "Evasion at the threshold",
        "evasion_rate",
        "the share of queries that evade, with more bits than that to their own picture",
    ),
}
YES, NO = TableCell("✓ yes", style="strong"), TableCell("no", style="soft")


class Run(Protocol):
    """What tables need of a run."""

    @property
    def label(self) -> str: ...
    @property
    def record(self) -> Record: ...


def aimed(runs: Sequence[Run]) -> bool:
    """Whether any of the runs has targets."""
    return any(run.record.attack.goal == "targeted" for run in runs)


def threat(runs: Sequence[Run]) -> Table:
    """What each attacker wants, may change and has."""

    def cells(run: Run) -> list[TableCell]:
        attack, budget = run.record.attack, run.record.budget
        modality = run.record.protocol.query_modality
        rounded = "yes" if budget.eight_bit else "no"
        return row(
            named(run.label),
            TableCell(attack.goal),
            TableCell(modality),
            number(budget.text if budget.norm != "none" else "no bound"),
            [TableCell(rounded if modality == "image" else "–")] if pixels else [],
            (YES if name in attack.knowledge else NO for name in KNOWLEDGE),
        )

    pixels = any(run.record.protocol.query_modality == "image" for run in runs)
    heads = columns("Run", "Goal", "Query", "Budget", *(["8 bits"] if pixels else []))
    return Table(
        "Threat model",
        "What the attacker wants, may change and has.",
        [*heads, *(Column(text, wide=True) for text in KNOWLEDGE.values())],
        [cells(run) for run in runs],
    )


def shown(runs: Sequence[Run]) -> list[str]:
    """The figures of the table of results."""
    return [*_shares(runs), *_existing(runs, DISTANCES)]


def _existing(runs: Sequence[Run], names: Iterable[str]) -> list[str]:
    """The figures that some run has."""
    return [name for name in names if any(run.record.value(name) is not None for run in runs)]


def rank(standing: Standing) -> str:
    """A rank as it is written, "2" or a range such as "2–3"."""
    best, worst = standing.best, standing.worst
    return str(best) if best == worst else f"{best}–{worst}"


def leaderboard(runs: Sequence[Run], standings: Sequence[Standing]) -> Table | None:
    """The strongest attack first; None where no two runs were paired."""
    if not standings:
        return None
    moved = _existing(runs, ("linf", "l2", "words_changed"))
    rows = []
    for standing in standings:
        record = runs[standing.run].record
        rows.append(
            row(
                named(runs[standing.run].label),
                number(rank(standing)),
                points(record.metrics.get(standing.metric)),
                (_moved(record, name) for name in moved),
            )
        )
    return Table(
        "Leaderboard",
        f"The strongest attack first, among runs of one task ({len(standings)} of them). A range "
        "of ranks, such as 1–2: the differences, query by query, do not settle the order (p "
        "adjusted is 0.05 or more). In percent, 95 % intervals in small print.",
        [*columns("Run", "Rank"), *of_figures(standings[0].metric, *moved)],
        rows,
    )


def _shares(runs: Sequence[Run]) -> tuple[str, ...]:
    headlines = [run.record.headline() for run in runs]
    known = (*OWN, *(TARGETED_METRICS if any(led.main == "tmap" for led in headlines) else ()))
    rates = [(f"{led.main}_clean", led.main) for led in headlines if led.hides]
    return (
        *dict.fromkeys(name for pair in rates for name in pair),
        *(name for name in known if any(led.shows(name) for led in headlines)),
    )


def _plain(record: Record, name: str, digits: int = 2) -> TableCell:
    return number(as_number(record.metrics.get(name), digits))


def _moved(record: Record, name: str) -> TableCell:
    """One of DISTANCES as it is written: pixels in 255ths."""
    metric, modality = record.metrics.get(name), record.protocol.query_modality
    if name == "linf" or (name == "overrun" and record.budget.norm == "linf"):
        return number(as_distance(metric, modality))
    if name == "overrun":
        return number("–" if record.budget.norm == "none" else as_distance(metric, ""))
    return _plain(record, name, DISTANCES[name])


def results(runs: Sequence[Run]) -> Table:
    """One row a run."""

    def cells(run: Run) -> list[TableCell]:
        record = run.record
        return row(
            named(run.label),
            (
                points(record.metrics.get(name) if record.headline().shows(name) else None)
                for name in shares
            ),
            (_moved(record, name) for name in moved),
        )

    shares, moved = _shares(runs), _existing(runs, DISTANCES)
    return Table(
        "Results",
        f"{'All runs' if len(runs) > 1 else 'The run'}; means over queries. Rates and precisions "
        "in percent, 95 % intervals in small print; "
        "– where a figure does not exist.",
        [Column("Run"), *of_figures(*shares, *moved)],
        [cells(run) for run in runs],
    )


def after_files(runs: Sequence[Run]) -> Table | None:
    """The headline figures beside those after a file; None where no run moved pictures."""
    kept: list[str] = []
    runs = [run for run in runs if not run.record.protocol.at_threshold]  # see `thresholds`
    for name in dict.fromkeys(name for run in runs for name in run.record.headline().brief):
        known = (name + part for part in AFTER)
        after = [name for name in known if any(run.record.metrics.get(name) for run in runs)]
        kept += [name, *after] if after else []
    if not kept:
        return None
    return Table(
        "After a file",
        "The attacked pictures as they are, and as they come back from a file. In percent.",
        [Column("Run"), *of_figures(*kept)],
        [
            row(named(run.label), (points(run.record.metrics.get(name)) for name in kept))
            for run in runs
        ],
    )


def directions(runs: Sequence[Run]) -> Table | None:
    """The same queries against each kind of database code, for the runs that retrieval judges."""

    def cells(run: Run, way: str, metrics: Mapping[str, Metric | None]) -> list[TableCell]:
        protocol = run.record.protocol
        headline = way == f"{protocol.query_modality}-{protocol.database}"
        return row(
            TableCell(way, note="(headline)" if headline else ""),
            named(run.label),
            (points(metrics.get(name)) for name in shares),
        )

    retrieving = [run for run in runs if not run.record.protocol.at_threshold]
    shares = _shares(retrieving)
    rows = [
        cells(run, way, metrics)
        for run in retrieving
        for way, metrics in run.record.metrics_by_direction.items()
    ]
    if not rows:
        return None
    return Table(
        "Results by direction",
        "The same attacked queries against each kind of database code: query modality – what the "
        "database holds. In percent.",
        [*columns("Direction", "Run"), *of_figures(*shares)],
        rows,
    )


def planted(runs: Sequence[Run]) -> Table | None:
    """What planted items do; None where no run planted any."""
    rows = [
        row(
            named(run.label),
            number(run.record.protocol.poison),
            number(metric_of(run.record, "poison_hit10").n),
            (points(run.record.metrics.get(name)) for name in PLANTED),
        )
        for run in runs
        if run.record.protocol.poison
    ]
    if not rows:
        return None
    return Table(
        "Planted items",
        "Share of clean queries that find, among their first 10 results, a planted picture that "
        "was moved toward one of their labels and truly has none of them. In percent.",
        [*columns("Run", "Planted", "Queries aimed at"), *of_figures(*PLANTED)],
        rows,
    )


def served(runs: Sequence[Run]) -> Table | None:
    """What the first results of stores hold; None where no run searched in one."""
    rows = [
        row(
            named(run.label),
            number(run.record.protocol.served_by),
            (points(run.record.metrics.get(name)) for name in SERVED),
        )
        for run in runs
        if "store_recall_at_10" in run.record.metrics
    ]
    if not rows:
        return None
    return Table(
        "As it is served",
        "The first 10 results of the store, after rescoring, in percent: with a label of the "
        "target, with one of the query, and the share that the store finds of its own exact first "
        "10.",
        [*columns("Run", "Served by"), *of_figures(*SERVED)],
        rows,
    )


def thresholds(runs: Sequence[Run]) -> list[Table]:
    """Collision of targeted runs, evasion of untargeted ones, of those that have a threshold."""
    judged = [run for run in runs if "threshold_bits" in run.record.metrics]
    aims = {goal: [run for run in judged if run.record.attack.goal == goal] for goal in RATES}
    return [_threshold(aims[goal], *RATES[goal]) for goal in RATES if aims[goal]]


def _threshold(runs: Sequence[Run], label: str, rate: str, what: str) -> Table:
    rates = [rate + part for part in CODECS]
    apart = [name for name in APART if any(run.record.metrics.get(name) for run in runs)]
    return Table(
        label,
        "Two pictures count as one where their codes are at most the threshold apart. In percent: "
        f"{what}. Saved and read again as PNG and JPEG by Pillow.",
        [Column("Run"), *of_figures("threshold_bits", "false_positives", *apart, *rates)],
        [
            row(
                named(run.label),
                _plain(run.record, "threshold_bits", 0),
                number(share_of_pairs(metric_of(run.record, "false_positives"))),
                (_plain(run.record, name, 1) for name in apart),
                (points(run.record.metrics.get(name)) for name in rates),
            )
            for run in runs
        ],
    )


def pairs(runs: Sequence[Run], paired: Sequence[Pair]) -> Table | None:
    """The paired differences; None where there is none."""

    def cells(pair: Pair) -> list[TableCell]:
        return row(
            named(runs[pair.first].label),
            TableCell(runs[pair.second].label, style="strong"),
            titled(pair.metric),
            points(pair.difference),
            number(pair.difference.n),
            chance(pair.difference.p),
            chance(pair.adjusted),
        )

    stronger = "".join(
        f"In {label_of(name)}, above 0 means that the "
        f"{'first' if figure(name).serves == 'attacker' else 'second'} is the stronger attack. "
        for name in dict.fromkeys(pair.metric for pair in paired)
    )
    if not paired:
        return None
    return Table(
        "Compared pairwise",
        "First run minus second run, in percentage points, 95 % intervals in small print. "
        f"{stronger}Only runs with the same victim, data, protocol, queries and targets are "
        "compared.",
        [
            Column("First run"),
            Column("Second run", wide=True),
            *columns("Figure", "Difference", "Queries", "p", "p adjusted"),
        ],
        [cells(pair) for pair in paired],
    )
