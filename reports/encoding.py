"""The record of `advhash encode`, and its chapter: what codes encode, beside controls."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import matplotlib
from matplotlib.figure import Figure

from advhash.measures.intervals import Metric
from advhash.measures.sanity import Flag
from advhash.reports.elements.chapters import (
    Chapter,
    Statement,
    attack_fact,
    data_fact,
    source_of,
    victim_fact,
)
from advhash.reports.elements.numbers import as_number
from advhash.reports.elements.pictures import Pictures
from advhash.reports.elements.plots import COLOURS, STYLE, Drawing, legend_below, svg_of
from advhash.reports.elements.tables import (
    Column,
    Table,
    TableCell,
    columns,
    named,
    number,
    of_figures,
    points,
    row,
)
from advhash.reports.elements.verdict import percent, with_interval
from advhash.reports.record import (
    AttackInfo,
    BudgetInfo,
    DatasetInfo,
    Document,
    Part,
    RunInfo,
    VictimInfo as Victim,
)
from advhash.reports.vocabulary import label_of

ENCODING: Literal["advhash/encoding/1"] = "advhash/encoding/1"
METRICS = (
    *("redundancy_train", "redundancy_train_equal", "redundancy_test"),
    *("redundancy_random", "redundancy_adversarial"),
    *("kmeans_purity", "kmeans_one_to_one", "kmeans_purity_train", "kmeans_one_to_one_train"),
    *("knn_accuracy", "knn_accuracy_adversarial"),
    *("logistic_accuracy", "logistic_accuracy_adversarial"),
)
FIGURES = ("rows", "distinct", "balance", "entropy", "correlation", "within", "between")
SPREAD = ("balance", "entropy", "correlation")
REDUNDANCY = (
    *("redundancy_train", "redundancy_train_equal", "redundancy_test"),
    *("redundancy_random", "redundancy_adversarial"),
)
CATEGORIES = (
    *("knn_accuracy", "logistic_accuracy", "kmeans_purity", "kmeans_one_to_one"),
    *("kmeans_purity_train", "kmeans_one_to_one_train"),
    *("knn_accuracy_adversarial", "logistic_accuracy_adversarial"),
)
DISTANCES = ("within", "between")
INPUTS = {
    "adversarial": "moved by the attack",
    "mixed": "mixed",
    "noise": "noise",
    "ood": "out of distribution",
}
KINDS = {
    "code": "the code of the victim",
    "network": "which units of the victim’s network fire",
    "initial": "the same before any training",
    "simhash": "signs of random projections of the pixels, as many bits",
    "pixels": "no code: nearest pictures by Euclidean distance",
}


class Coder(Part):
    """One way to encode the same pictures.

    metrics: METRICS; null where one does not exist. K-Means of test codes and, with _train, of
             training codes; knn_accuracy and logistic_accuracy from training to test codes and,
             with _adversarial, to those of moved test pictures
    figures: FIGURES of the training codes
    """

    label: str
    kind: Literal["code", "network", "initial", "simhash", "pixels"]
    bits: int | None
    metrics: dict[str, Metric | None]
    figures: dict[str, float | None]


class Site(Part):
    """One layer of a neural code: its units, and how many are bits."""

    name: str
    size: int
    kept: int
    smooth: bool  # GELU, SiLU and the like, thresholded at 0


class Detection(Part):
    """AUROC of a detector: abnormal inputs against the clean test pictures."""

    detector: str
    inputs: Literal["adversarial", "mixed", "noise", "ood"]
    auroc: Metric


class EncodingRecord(Document):
    """Everything that `advhash encode` found. `metrics` are those of the first coder."""

    schema_: Literal["advhash/encoding/1"]
    command: Literal["encode"]
    run: RunInfo
    victim: Victim
    attack: AttackInfo | None
    budget: BudgetInfo | None
    dataset: DatasetInfo
    train: int  # rows
    test: int
    neighbours: int
    chance: float  # share of the most frequent class of the test pictures
    sites: list[Site]
    flags: list[Flag]
    metrics: dict[str, Metric | None]
    coders: list[Coder]
    detection: list[Detection]

    @property
    def detectors(self) -> list[str]:
        return list(dict.fromkeys(row.detector for row in self.detection))

    def auroc(self, detector: str, inputs: str) -> Metric | None:
        """One cell of the table of detectors."""
        for entry in self.detection:
            if (entry.detector, entry.inputs) == (detector, inputs):
                return entry.auroc
        return None


def verdicts(record: EncodingRecord) -> list[str]:
    """What was found, in sentences."""
    own = record.coders[0]

    def of(coder: Coder, name: str) -> str:
        return with_interval(coder.metrics.get(name) or Metric())

    repeated = (own.metrics.get("redundancy_train_equal") or Metric()).value or 0
    lines = [
        f"{100 * repeated:.1f} % of {record.test} training pictures have the {own.bits}-bit code "
        f"of an earlier one; of as many test pictures {of(own, 'redundancy_test')}.",
        f"Nearest neighbours by this code are right on {of(own, 'knn_accuracy')} of the test "
        f"pictures, logistic regression on {of(own, 'logistic_accuracy')}, K-Means has a purity of "
        f"{of(own, 'kmeans_purity')} ({of(own, 'kmeans_one_to_one')} one to one).",
    ]
    others = [
        f"{coder.label} {of(coder, 'knn_accuracy')}"
        for coder in record.coders[1:]
        if coder.metrics.get("knn_accuracy")
    ]
    if others:
        lines.append(f"Nearest neighbours by the others: {'; '.join(others)}.")
    if own.metrics.get("knn_accuracy_adversarial"):
        lines.append(
            f"Nearest neighbours of moved pictures are right on "
            f"{of(own, 'knn_accuracy_adversarial')}; "
            f"{of(own, 'redundancy_adversarial')} of them have the code of another one."
        )
    return lines


def bars(record: EncodingRecord) -> Drawing:
    """Accuracy by each way to categorise, a group of bars a coder, intervals as lines."""
    names = ("kmeans_one_to_one", "kmeans_purity", "logistic_accuracy", "knn_accuracy")
    with matplotlib.rc_context(STYLE):
        height = 1.4 + 0.75 * len(record.coders)
        figure = Figure(figsize=(6.4, height), layout="constrained")
        axes = figure.add_subplot()
        for place, name in enumerate(names):
            shown = [
                (row + 0.2 * (1.5 - place), coder.metrics[name])
                for row, coder in enumerate(record.coders)
                if coder.metrics.get(name) is not None
            ]
            known = [
                (y, metric)
                for y, metric in shown
                if metric is not None and metric.value is not None
            ]
            axes.barh(
                [y for y, _ in known],
                [100 * (metric.value or 0) for _, metric in known],
                height=0.17,
                color=COLOURS[place],
                label=label_of(name),
            )
            for y, metric in known:
                if metric.low is not None and metric.high is not None:
                    axes.plot(
                        [100 * metric.low, 100 * metric.high], [y, y], color="#1f2328", linewidth=1
                    )
        axes.axvline(100 * record.chance, color="#6b7280", linestyle=":", label="most frequent")
        axes.set_yticks(range(len(record.coders)), [coder.label for coder in record.coders])
        axes.invert_yaxis()
        axes.set_xlim(0, 102)
        axes.set_xlabel("right (%)")
        axes.tick_params(axis="y", length=0)
        legend_below(figure, 3, fontsize=8)
        alt = (
            "Bars: accuracy of K-Means, logistic regression and nearest neighbours for each code. "
            "The numbers stand in the table below."
        )
        caption = f"Dotted: the most frequent class, {percent(record.chance)}."
        return Drawing(svg_of(figure), alt, caption)


def redundancy_table(record: EncodingRecord) -> Table:
    """Whether codes tell pictures apart."""
    return Table(
        "Redundancy",
        f"Redundancy in percent. Training: {record.train} pictures; all other columns "
        f"{record.test}. Noise: uniform pixels. Moved: by the attack, made for "
        f"{record.victim.label}.",
        [*columns("Code", "bits"), *of_figures(*REDUNDANCY, *SPREAD)],
        [
            row(
                named(coder.label),
                number(coder.bits),
                (points(coder.metrics[name]) for name in REDUNDANCY),
                (number(as_number(coder.figures[name], 3)) for name in SPREAD),
            )
            for coder in record.coders
            if coder.kind != "pixels"
        ],
    )


def categories_table(record: EncodingRecord) -> Table:
    """Whether codes of a class lie together."""
    return Table(
        "Categorisation",
        f"In percent of test pictures, 95 % intervals in small print. K-NN: {record.neighbours} "
        "neighbours among the training codes by Hamming distance; K-Means is fitted to the codes "
        "that it is scored on. Moved: the true class of moved pictures.",
        [Column("Code"), *of_figures(*CATEGORIES, *DISTANCES)],
        [
            row(
                named(coder.label, KINDS[coder.kind]),
                (points(coder.metrics[name]) for name in CATEGORIES),
                (number(as_number(coder.figures[name], 3)) for name in DISTANCES),
            )
            for coder in record.coders
        ],
    )


def detection_table(record: EncodingRecord) -> Table | None:
    """AUROC of each detector; None where none was asked."""
    if not record.detection:
        return None
    return Table(
        "Detection",
        "AUROC in percent against clean test pictures, 95 % intervals in small print; 50 is "
        "chance.",
        columns("Detector", *INPUTS.values()),
        [
            row(named(name), (points(record.auroc(name, inputs)) for inputs in INPUTS))
            for name in record.detectors
        ],
    )


def layers_table(record: EncodingRecord) -> Table | None:
    """The layers whose units are read; None of a victim that has a code of its own."""
    if not record.sites:
        return None

    def meaning(site: Site) -> str:
        smooth = "the sign, as the activation is smooth"
        return smooth if site.smooth else "whether the unit fires"

    return Table(
        "Layers",
        "The layers whose units are read.",
        columns("Layer", "units", "bits", "A bit tells"),
        [
            row(
                TableCell(site.name, style="code"),
                number(site.size),
                number(site.kept),
                TableCell(meaning(site)),
            )
            for site in record.sites
        ],
    )


def encoding_chapter(folder: Path, _: Pictures) -> Chapter:
    """What an encoding run says. Raises RunError."""
    record = EncodingRecord.read(folder)
    victim, data = record.victim, record.dataset
    label = f"encode run {record.run.id}"
    facts = [("Victim", victim_fact(victim.label, victim))]
    if record.attack is not None:
        facts.append(("Attack", attack_fact(record.attack)))
    facts.append(("Data set", data_fact(data)))
    settings = {
        "victim": victim.settings,
        "attack": record.attack.settings if record.attack else None,
        "data set": data.settings,
    }
    lead, *more = verdicts(record)
    return Chapter(
        name=f"What codes of {victim.label} encode on {data.label} ({label})",
        title=f"What codes of {victim.label} encode on {data.label}",
        heading=f"What the codes of {victim.label} encode, on {data.label}",
        template="encoding.html",
        values={
            "record": record,
            "bars": bars(record),
            "detection_table": detection_table(record),
            "redundancy": redundancy_table(record),
            "categories": categories_table(record),
            "layers": layers_table(record),
        },
        statements=[Statement(label, lead, more)],
        sources=[source_of(folder, label, record.run, facts, settings)],
        datasets=[data.label],
        flags=[(label, flag) for flag in record.flags],
        deviations=[(victim.label, text) for text in victim.deviations],
        attributions=[data.attribution],
    )
