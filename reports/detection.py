"""The document of `advhash detect`, and its chapter: who is told from clean queries."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import matplotlib
from matplotlib.figure import Figure
from pydantic import AliasChoices, BeforeValidator, Field, model_validator

from advhash.measures.intervals import Metric
from advhash.measures.roc import is_off
from advhash.registry import DETECTORS
from advhash.reports.elements.chapters import Chapter, Statement, named_data_fact, source_of
from advhash.reports.elements.numbers import as_number
from advhash.reports.elements.pictures import Pictures, change_rows
from advhash.reports.elements.plots import (
    COLOURS,
    DASHES,
    MUTED,
    STYLE,
    Drawing,
    legend_below,
    svg_of,
)
from advhash.reports.elements.tables import (
    Column,
    Table,
    TableCell,
    number,
    of_figures,
    points,
    row,
    titled,
)
from advhash.reports.elements.verdict import percent, with_interval
from advhash.reports.record import FileDocument, Named, Part, ShownChange
from advhash.reports.vocabulary import label_of

DETECT: Literal["advhash/detect/1"] = "advhash/detect/1"
OLD_NAMES = {"tpr_at_5fpr": "detected", "tpr_at_1fpr": "strict_detected"}  # of version 0.1
METRICS = (  # in the order of the table
    *("false_alarms", "detected", "detected_randomised"),
    *("accepted_adaptive", "success_and_accepted", "success_and_accepted_clean"),
    *("accepted_replay", "accepted_clean_errors", "accepted_any_code", "success"),
    *("success_adaptive", "wrong_adaptive", "auroc", "auroc_noise", "average_precision"),
    *("flagged_noise", "false_alarms_held_out", "strict_false_alarms", "strict_detected"),
    *("strict_detected_randomised", "strict_false_alarms_held_out"),
    *("accuracy", "accuracy_abnormal"),
)
FEDERATED = "hashvfl"  # a victim whose abnormal inputs are those of a party
PARTS = {  # what abnormal inputs of a federation are
    "mixed": "party 0 sends its part of a query of another class",
    "noise": "party 0 sends noise",
    "ood": "out of distribution: all parties see items of another data set, of tables shuffled "
    "features",
}
PICTURES = {  # what abnormal pictures are
    "mixed": "the mean of a query and another one of another class",
    "noise": "uniform noise",
    "ood": "out of distribution: pictures of another data set",
}
EPSILONS = ("epsilon_message", "epsilon_training")


class Curve(Part):
    fpr: list[float]
    tpr: list[float]


def _by_new_names(metrics: Any) -> Any:
    """Metrics of a document; version 0.1 called detection by a rate that its rule may not reach."""
    if not isinstance(metrics, dict):
        return metrics
    return {OLD_NAMES.get(name, name): value for name, value in metrics.items()}


Metrics = Annotated[dict[str, Metric | None], BeforeValidator(_by_new_names)]


class DetectorFigures(Part):
    """What one detector does; what the attacker who knows it took.

    highest: the score that no code exceeds; None where nothing bounds it
    flagged: whether it flags each of the abnormal inputs that the page shows
    """

    threshold: float
    highest: float | None = None
    adaptive: dict[str, Any] | None = None
    metrics: Metrics
    roc: Curve
    flagged: list[bool] = Field(default_factory=list)

    @property
    def off(self) -> bool:
        """Whether it can flag nothing: no code scores above its threshold."""
        return is_off(self.threshold, self.highest)


class Acceptance(Part):
    threshold: float
    false_alarms: Metric
    accepted_adaptive: Metric
    accepted_replay: Metric | None = None


class DetectionRecord(FileDocument):
    """What `advhash detect` found: of one detector, or under `detectors` of all.

    allowed_false_alarms: the share of the `validation` rows that a threshold lets be flagged at
        most; what was reached is `false_alarms` and `false_alarms_held_out` of each detector
    """

    schema_: Literal["advhash/detect/1"]
    command: Literal["detect"]
    detector: Named
    inputs: str
    attack: Named | None
    budget: str | None
    clean: int
    abnormal: int
    validation: int
    threshold: float | None
    highest: float | None = None
    allowed_false_alarms: float = Field(
        validation_alias=AliasChoices("allowed_false_alarms", "false_alarm_rate")
    )
    metrics: Metrics = Field(default_factory=dict)
    roc: Curve | None = None
    detectors: dict[str, DetectorFigures] = Field(default_factory=dict)
    adaptive: dict[str, Any] | None = None
    acceptance: list[Acceptance] = Field(default_factory=list)
    probe: Any = None
    flagged: list[bool] = Field(default_factory=list)
    shown_changes: list[ShownChange] = Field(default_factory=list)

    @model_validator(mode="after")
    def _of_one_or_all(self) -> Self:
        if not self.detectors and (self.roc is None or self.threshold is None):
            raise ValueError("expected a threshold and a ROC curve, or several detectors")
        return self

    @property
    def by_name(self) -> dict[str, DetectorFigures]:
        """Every detector by its name."""
        if self.detectors:
            return self.detectors
        assert self.roc is not None
        assert self.threshold is not None
        detector = DetectorFigures(
            threshold=self.threshold,
            highest=self.highest,
            adaptive=self.adaptive,
            metrics=self.metrics,
            roc=self.roc,
            flagged=self.flagged,
        )
        return {str(self.detector.name): detector}

    @property
    def shown(self) -> list[str]:
        """The figures that at least one detector has."""
        return [
            name
            for name in METRICS
            if any(detector.metrics.get(name) is not None for detector in self.by_name.values())
        ]


def explained(detectors: Iterable[str], inputs: Iterable[str], victim: str) -> list[str]:
    """What names of detectors and abnormal inputs on a page mean, a line each."""
    kinds = PARTS if victim == FEDERATED else PICTURES
    lines = [f"{name}: {kinds[name]}." for name in inputs if name in kinds]
    known = [name for name in detectors if name in DETECTORS]
    return [*lines, *(f"{name}: {DETECTORS.describe(name).summary}" for name in known)]


def verdicts(record: DetectionRecord) -> list[str]:
    """What was found: a sentence for each detector, from the one that stops most on."""

    def rank(item: tuple[str, DetectorFigures]) -> tuple[float, float]:
        past, area = (
            item[1].metrics.get(key) or Metric() for key in ("accepted_adaptive", "auroc")
        )
        return 1.0 if past.value is None else past.value, -(area.value or 0.0)

    lines = []
    for name, detector in sorted(record.by_name.items(), key=rank):
        figures = {key: detector.metrics.get(key) or Metric() for key in METRICS}
        line = (
            f"The detector {name} flags {with_interval(figures['detected'])} of {record.inputs} "
            f"inputs and {with_interval(figures['false_alarms'])} of clean queries"
        )
        if detector.off:
            line += (
                f": at the {percent(record.allowed_false_alarms)} of false alarms allowed it is "
                f"off, as it flags scores above {detector.threshold:g} and no code scores above "
                f"{detector.highest:g}"
            )
        if figures["detected_randomised"].value is not None:
            line += (
                f"; at exactly {percent(record.allowed_false_alarms)} of them, by a randomised "
                f"rule, it would flag {with_interval(figures['detected_randomised'])}"
            )
        if figures["accepted_adaptive"].value is not None:
            line += (
                f". An attacker who knows the detector succeeds and gets past it in "
                f"{with_interval(figures['accepted_adaptive'])} of cases"
            )
        lines.append(f"{line}. AUROC is {with_interval(figures['auroc'])}.")
    return lines


def roc_figure(record: DetectionRecord) -> Drawing:
    """The ROC curve of every detector."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 4.2 + 0.2 * len(record.by_name)), layout="constrained")
        axes = figure.add_subplot()
        for place, (name, detector) in enumerate(record.by_name.items()):
            axes.plot(
                [100 * value for value in detector.roc.fpr],
                [100 * value for value in detector.roc.tpr],
                DASHES[place // len(COLOURS) % len(DASHES)],
                color=COLOURS[place % len(COLOURS)],
                label=name,
            )
        axes.plot([0, 100], [0, 100], color=MUTED, linewidth=0.8)
        axes.set_xlabel(f"{label_of('false_alarms')} (%)")
        axes.set_ylabel(f"{record.inputs} inputs flagged (%)")
        axes.set_aspect("equal")
        legend_below(figure, 2, fontsize=9)
        alt = f"ROC curves of {', '.join(record.by_name)}. The areas below them stand in the table."
        return Drawing(svg_of(figure), alt, "ROC curves; the thin line is chance.")


def figures_table(record: DetectionRecord) -> Table:
    """The figures that at least one detector has, a column a detector."""
    detectors = record.by_name.values()
    rows = [
        row(titled(name), (points(detector.metrics.get(name)) for detector in detectors))
        for name in record.shown
    ]
    rows += [
        row(
            TableCell(f"{label_of(name)} (no percentage)"),
            (number(as_number(detector.metrics.get(name), 2)) for detector in detectors),
        )
        for name in EPSILONS
        if any(name in detector.metrics for detector in detectors)
    ]
    thresholds = (number(as_number(detector.threshold, 3)) for detector in detectors)
    return Table(
        "Figures of detectors",
        "In percent, 95 % intervals in small print; – where a figure does not exist.",
        [Column("Figure"), *(Column(name) for name in record.by_name)],
        [*rows, row(titled("threshold"), thresholds)],
    )


def acceptance_table(record: DetectionRecord) -> Table | None:
    """Which inputs get past at other thresholds; None where that was not measured."""
    if not record.acceptance:
        return None
    return Table(
        "Acceptance at other thresholds",
        "In percent, 95 % intervals in small print. The attacker was made for the chosen "
        "threshold.",
        of_figures("threshold", "false_alarms", "accepted_adaptive", "accepted_replay"),
        [
            row(
                TableCell(as_number(level.threshold, 2)),
                points(level.false_alarms),
                points(level.accepted_adaptive),
                points(level.accepted_replay),
            )
            for level in record.acceptance
        ],
    )


def _changes(record: DetectionRecord) -> list[tuple[ShownChange, list[str]]]:
    """Abnormal inputs, and which detectors flag them."""
    rows = []
    for place, change in enumerate(record.shown_changes):
        names = {True: list[str](), False: list[str]()}
        for name, detector in record.by_name.items():
            names[detector.flagged[place]].append(name)
        lines = [f"flagged by {', '.join(names[True]) or 'none'}"]
        if names[False]:
            lines.append(f"not flagged by {', '.join(names[False])}")
        rows.append((change, lines))
    return rows


def detection_chapter(path: Path, pictures: Pictures) -> Chapter:
    """What a document of `advhash detect` says. Raises RunError."""
    record = DetectionRecord.read(path)
    victim, data = record.defended, record.dataset.label
    label = f"detect run {record.label(path)}"
    settings = {
        "victim": record.victim.settings,
        "defences": record.defenses,
        "data set": record.dataset.settings,
        "detector": record.detector.settings,
        "attack": record.attack.model_dump() if record.attack else None,
        "adaptive attackers": {
            name: detector.adaptive for name, detector in record.by_name.items()
        },
    }
    facts = [("Victim", victim), ("Data set", named_data_fact(record.dataset))]
    lead, *others = verdicts(record)
    more = []
    if others:
        more = [f"An attacker gets past it least often of {len(record.by_name)} detectors."]
        if "accepted_adaptive" not in record.shown:
            more = [f"Its AUROC is the highest of {len(record.by_name)} detectors."]
    title = f"Detection of {record.inputs} inputs of {victim} on {data}"
    return Chapter(
        name=f"{title} ({label})",
        title=title,
        heading=f"Which inputs are told from clean queries of {victim}, on {data}",
        template="detection.html",
        values={
            "record": record,
            "victim": victim,
            "explained": explained(record.by_name, [record.inputs], str(record.victim.name)),
            "changes": change_rows(path, pictures, _changes(record)),
            "roc": roc_figure(record),
            "figures": figures_table(record),
            "acceptance": acceptance_table(record),
        },
        statements=[Statement(label, lead, more)],
        sources=[source_of(path, label, record.info(path), facts, settings)],
        datasets=[data],
        flags=[(label, flag) for flag in record.flags],
        attributions=[record.dataset.attribution],
    )
