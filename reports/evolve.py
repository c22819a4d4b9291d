"""The record of a search, and its chapter: what equal candidates save, and what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import matplotlib
from matplotlib.figure import Figure

from advhash.measures.intervals import Difference, Metric
from advhash.measures.sanity import Flag
from advhash.measures.staircases import mean_staircase
from advhash.reports.elements.chapters import Chapter, Statement, data_fact, source_of, victim_fact
from advhash.reports.elements.pictures import Pictures
from advhash.reports.elements.plots import COLOURS, DASHES, STYLE, Drawing, svg_of
from advhash.reports.elements.tables import (
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
from advhash.reports.elements.verdict import with_interval
from advhash.reports.record import BudgetInfo, DatasetInfo, Document, Part, RunInfo, VictimInfo
from advhash.reports.vocabulary import label_of

SEARCH: Literal["advhash/search/1"] = "advhash/search/1"
ALGORITHMS = {
    "evolution": "evolution",
    "random": "random search",
    "hill-climbing": "hill climbing",
}
CACHES = {"cached": "functional cache", "uncached": "no cache", "structure": "cache by structure"}


class SearchResult(Part):
    """One search.

    figures:      of the best candidate, "fitness" among them
    lookups:      candidates by kind: miss, partial, full, or none
    refused:      proposals that FCM and tabu list made again
    repeated:     candidates written exactly like an earlier one, which any cache would know
    checked, false: full hits evaluated nevertheless, and how many of them were another function
    curve:        seconds, best fitness and hit rate so far
    improvements: seconds and fitness of each new best
    """

    arm: str
    repeat: int
    candidates: int
    seconds: float
    figures: dict[str, float]
    best: Any
    lookups: dict[str, int]
    refused: int
    repeated: int
    checked: int
    false: int
    cache: dict[str, float]
    curve: list[tuple[float, float, float]]
    improvements: list[tuple[float, float]]


class Coarseness(Part):
    """Keys of so many bits against true equivalence; see `CellDomain.study`."""

    bits: float
    keys: float
    cells_per_key: float
    collided: float
    split: float


class NoiseStudy(Part):
    """Searches under noise: mean over repeats of the noise-free fitness of what they found best."""

    noise: float
    max_num_evals: int
    remove_probability: float
    quality: Metric
    claimed: Metric  # the fitness that the search itself saw
    candidates: Metric


class HeldOut(Part):
    """The winner and dhta at equal steps on queries that no search saw, made for this very victim.

    bits:       of its codes; None: of a record whose `victim` says it
    difference: t-AP of the winner − t-AP of dhta, paired over queries; tuned_difference: the same
    from dhta with `tuned_step` (of the radius), chosen on the queries of the search
    """

    victim: str
    bits: int | None = None
    searched: bool  # whether the search used this victim
    info: VictimInfo
    queries: int
    tmap: dict[str, Metric]  # winner, dhta, dhta_tuned, clean, ceiling
    normalised: dict[str, Metric]  # winner, dhta, dhta_tuned
    difference: Difference
    tuned_step: float
    tuned_difference: Difference

    @property
    def label(self) -> str:
        """What pages call the victim: two of a run may differ in their bits alone."""
        return self.victim if self.bits is None else f"{self.victim} of {self.bits} bits"


class SearchRecord(Document):
    """Everything that a search run found. Metrics are means over repeats with 95 % intervals.

    differences: between arms, paired over repeats
    """

    schema_: Literal["advhash/search/1"]
    command: Literal["search"]
    run: RunInfo
    domain: Literal["attack", "nas"]
    settings: dict[str, Any]
    dataset: DatasetInfo | None
    budget: BudgetInfo | None
    flags: list[Flag]
    metrics: dict[str, Metric | None]
    differences: dict[str, Difference]
    results: list[SearchResult]
    coarseness: list[Coarseness]
    noise: list[NoiseStudy]
    held_out: list[HeldOut]
    winner: Any

    def of(self, arm: str) -> list[SearchResult]:
        """The repeats of an arm in order."""
        return [result for result in self.results if result.arm == arm]

    @property
    def names(self) -> dict[str, str]:
        """What the arms reached, in words."""
        asked = str(self.settings["search"]["algorithm"])
        return {
            arm: f"{ALGORITHMS[arm if arm in ALGORITHMS else asked]}, "
            f"{CACHES.get(arm, CACHES['cached'])}"
            for arm in self.arms
        }

    @property
    def cost(self) -> str:
        """What all searches have alike."""
        limit = self.settings["search"]
        if limit.get("seconds") is None:
            return f"{limit['candidates']} candidates"
        return f"{limit['seconds']:g} {'' if self.domain == 'attack' else 'simulated '}seconds"

    @property
    def arms(self) -> list[str]:
        """In the order of their first results."""
        return list(dict.fromkeys(result.arm for result in self.results))


def _times(metric: Metric | None) -> str:
    if metric is None or metric.value is None:
        return "unknown"
    inside = "" if metric.low is None else f" [{metric.low:.2f}, {metric.high:.2f}]"
    return f"{metric.value:.2f}{inside}"


def verdicts(record: SearchRecord) -> list[str]:
    """What was found, a sentence each."""
    m = record.metrics

    def share(name: str) -> str:
        return with_interval(m.get(name) or Metric())

    def ahead(name: str) -> str:
        gain = record.differences[name]
        if gain.low is None or gain.high is None:
            return "no interval"
        if gain.low > 0:
            return "ahead"
        return "no loss" if gain.low >= 0 else ("behind" if gain.high < 0 else "undecided")

    lines = [
        f"With the functional cache, a search tries {_times(m.get('speedup'))} times as many "
        f"candidates in the same time; its hit rate is {share('hit_rate')}.",
        f"The best of {record.cost} has a fitness of {share('best_fitness')}, without the cache "
        f"{share('best_fitness_uncached')} (paired over repeats: {ahead('best_gain')}). A search "
        f"with the cache reaches the final fitness of one without in {share('reached_uncached')} "
        f"of the repeats, after {share('time_to_uncached')} of the time (all of it where never).",
        f"{share('repeat_rate')} of its candidates were written like an earlier one. A hash costs "
        f"{share('hash_overhead')} of an evaluation; {share('false_hit_rate')} of checked "
        "hits were another function.",
    ]
    if m.get("speedup_structure") is not None:
        lines.append(
            f"A cache by structure, free of charge, sees {_times(m['speedup_structure'])} times as "
            f"many candidates as none; the functional one {_times(m.get('speedup_over_structure'))}"
            " times as many as that."
        )
    sentences = []
    for trial in record.held_out:
        d = trial.difference
        words = "beats" if d.low is not None and d.low > 0 else "does not beat"
        where = "the victim of the search" if trial.searched else "a victim that no search used"
        sentences.append(
            f"On {where} ({trial.label}), the attack that was found {words} dhta at the same "
            f"number of steps: t-MAP {with_interval(trial.tmap['winner'])} against "
            f"{with_interval(trial.tmap['dhta'])} on {trial.queries} held-out queries. With its "
            f"step tuned on the queries of the search ({trial.tuned_step:g} of the radius) dhta "
            f"reaches {with_interval(trial.tmap['dhta_tuned'])}."
        )
    return [*sentences, *lines]


def _over_time(record: SearchRecord, column: int, label: str) -> bytes:
    """Mean over repeats of a column of the curves, over the seconds of the clock."""
    end = max((result.seconds for result in record.results), default=0.0)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for place, arm in enumerate(record.arms):
            lines = [
                [(point[0], point[column]) for point in result.curve]
                for result in record.of(arm)
                if result.curve
            ]
            if not lines or (column == 2 and arm == "uncached"):
                continue
            mean = mean_staircase(lines, end)
            axes.plot(
                mean.times,
                [100 * value for value in mean.values],
                DASHES[place % len(DASHES)],
                color=COLOURS[place % len(COLOURS)],
                label=record.names[arm],
            )
        axes.set_xlabel("seconds" if record.domain == "attack" else "simulated seconds")
        axes.set_ylabel(f"{label} (%)")
        axes.legend(frameon=False, fontsize=8)
        return svg_of(figure)


def searches_table(record: SearchRecord) -> Table:
    """One row a search."""

    def cells(result: SearchResult) -> list[TableCell]:
        hits = result.lookups.get("full", 0)
        counts = (result.repeat, result.candidates, hits, result.candidates - hits)
        fitness = 100 * result.figures.get("fitness", 0)
        return row(
            TableCell(record.names[result.arm]),
            map(number, counts),
            number(f"{fitness:.2f}"),
            number(result.checked),
            number(result.false),
        )

    return Table(
        "All searches",
        "All searches.",
        columns(
            *("Arm", "Repeat", label_of("candidates"), "Full hits", "Evaluated"),
            *(f"{label_of('best_fitness')}, %", "Checked hits", "False hits"),
        ),
        [cells(result) for result in record.results],
    )


def coarseness_table(record: SearchRecord) -> Table | None:
    """Keys of so many bits; None where equivalence is not known."""
    if not record.coarseness:
        return None
    return Table(
        "Coarseness of keys",
        "Keys against true equivalence.",
        columns("Bits", "Keys", "Cells a key", "Collided, %", "Split, %"),
        [
            row(
                TableCell(f"{keys.bits:.0f}"),
                number(f"{keys.keys:.0f}"),
                number(f"{keys.cells_per_key:.2f}"),
                number(f"{100 * keys.collided:.1f}"),
                number(f"{100 * keys.split:.1f}"),
            )
            for keys in record.coarseness
        ],
    )


def noise_table(record: SearchRecord) -> Table | None:
    """Searches under noise; None where there are none."""
    if not record.noise:
        return None
    return Table(
        "Noise and forgetting",
        "In percent, 95 % intervals over repeats in small print.",
        [
            *columns("Noise", "Evaluations a key", "Forgotten a step"),
            *of_figures("quality", "claimed", "candidates"),
        ],
        [
            row(
                TableCell(str(study.noise)),
                number(study.max_num_evals),
                number(study.remove_probability),
                points(study.quality),
                points(study.claimed),
                number(f"{study.candidates.value or 0:.0f}"),
            )
            for study in record.noise
        ],
    )


def held_out_table(record: SearchRecord) -> Table | None:
    """The attack that was found on held-out queries; None where no attack was searched."""
    if not record.held_out:
        return None
    return Table(
        "Held-out queries",
        "The attack that was found against dhta at equal steps, in percent.",
        columns(
            *("Victim", "Searched on"),
            *(f"{label_of('tmap')} {who}" for who in ("found", "dhta", "dhta, step tuned")),
            *map(label_of, ("tmap_clean", "tmap_ceiling")),
            *("Found over dhta", "p", "over tuned", "p"),
        ),
        [
            row(
                named(trial.label),
                TableCell("yes" if trial.searched else "no"),
                (
                    points(trial.tmap[name])
                    for name in ("winner", "dhta", "dhta_tuned", "clean", "ceiling")
                ),
                points(trial.difference),
                chance(trial.difference.p),
                points(trial.tuned_difference),
                chance(trial.tuned_difference.p),
            )
            for trial in record.held_out
        ],
    )


def search_chapter(folder: Path, _: Pictures) -> Chapter:
    """What a search says. Raises RunError."""
    record = SearchRecord.read(folder)
    label, data = f"search run {record.run.id}", record.dataset
    what = "attacks" if record.domain == "attack" else "trained cells"
    facts = [("Victim", victim_fact(trial.label, trial.info)) for trial in record.held_out]
    if data is not None:
        facts.append(("Data set", data_fact(data)))
    lead, *more = verdicts(record)
    return Chapter(
        name=f"Search over {what} ({label})",
        title=f"Search over {what} with functional hashing",
        heading=f"What a search over {what} found, and what its functional cache saves",
        template="evolve.html",
        values={
            "record": record,
            "best": Drawing(
                _over_time(record, 1, label_of("best_fitness")),
                "Best fitness over time for each arm; the final values stand in the table.",
                "Best fitness so far, mean over repeats.",
            ),
            "hits": Drawing(
                _over_time(record, 2, label_of("hit_rate")),
                "Hit rate over time for each arm with a cache.",
                "Share of candidates so far that were not evaluated.",
            ),
            "searches": searches_table(record),
            "coarseness": coarseness_table(record),
            "noise": noise_table(record),
            "held_out": held_out_table(record),
        },
        statements=[Statement(label, lead, more)],
        sources=[source_of(folder, label, record.run, facts, record.settings)],
        datasets=["a table of trained cells" if data is None else data.label],
        flags=[(label, flag) for flag in record.flags],
        deviations=[
            (trial.label, text) for trial in record.held_out for text in trial.info.deviations
        ],
        attributions=[] if data is None else [data.attribution],
    )
