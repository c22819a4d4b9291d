"""The chapter of a reconstruction run: what codes of a federation give away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from advhash.measures.intervals import Difference, Metric, largest_gap
from advhash.reports.detection import FEDERATED, explained
from advhash.reports.elements.chapters import (
    Chapter,
    Statement,
    data_fact,
    known,
    source_of,
    victim_fact,
)
from advhash.reports.elements.pictures import Pictures
from advhash.reports.elements.plots import (
    COLOURS,
    DASHES,
    INK,
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
    columns,
    of_figures,
    points,
    row,
    value,
)
from advhash.reports.elements.verdict import percent, signed, with_interval
from advhash.reports.inversion.record import InversionRecord
from advhash.reports.vocabulary import label_of

SMALL_GAIN = 0.02  # SSIM over the class mean: below it, codes cut reconstruction off
BALANCE = 0.2  # how far the mean of a bit may lie from that of the class codes
ONE_CODE = "one code per sample"
VIEWS = {  # what crosses the wire: name of a world → in words, and how its figures end
    "codes": (ONE_CODE, ""),
    "final code": ("one code per training sample", "_final_code"),
    "transcript: codes": ("every code sent in training", "_transcript_codes"),
    "transcript: codes and gradients": ("all codes and gradients of the training", "_transcript"),
}
NO_SSIM = (
    "the data are a table: what is said below of convolutions, pictures and SSIM did not apply, "
    "and the lowest MSE chose the attacker"
)
ATTACKERS = {  # what the names of attackers mean
    "decoder": "a network that learns inputs from codes, by squared error",
    "decoder-ssim": "the same, trained on SSIM",
    "neighbours": "the mean of the attacker’s inputs whose codes are nearest",
    "ste": "descent on the input; the gradient passes the sign as it is (straight-through)",
    "tanh": "descent on the input; tanh stands for the sign",
    "descent": "descent on the input, without a sign",
}
MARKERS = ("o", "s", "^")


def _figure(width: float, height: float, draw: Callable[[Figure], None]) -> bytes:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        return svg_of(figure)


def gains_figure(record: InversionRecord) -> Drawing | None:
    """SSIM gained over the class mean by every attacker, with its interval; None: of tables."""
    if not record.of_pictures:
        return None
    rows = [
        (f"{world.name}: {attacker.name}{' *' if attacker.chosen else ''}", attacker.gain)
        for world in record.worlds
        for attacker in world.attackers
        if attacker.gain is not None and attacker.gain.value is not None
    ]
    if not rows:
        return None

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for height, (_, gain) in enumerate(rows):
            assert gain is not None
            assert gain.value is not None
            low = gain.value if gain.low is None else gain.low
            high = gain.value if gain.high is None else gain.high
            clear = gain.low is not None and gain.low > SMALL_GAIN
            colour = COLOURS[1] if clear else COLOURS[0]
            axes.plot([low, high], [height, height], color=colour, linewidth=2)
            axes.plot(gain.value, height, marker="o", color=colour)
        axes.axvline(0, color=MUTED, linewidth=0.8)
        axes.axvline(SMALL_GAIN, color=MUTED, linewidth=0.8, linestyle="--")
        axes.set_yticks(range(len(rows)), [name for name, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(f"SSIM − SSIM of the class mean (dashed: {SMALL_GAIN:g})")
        axes.grid(axis="x", color="#e5e7eb", linewidth=0.8)
        axes.set_axisbelow(True)

    return Drawing(
        _figure(7.0, 1.0 + 0.32 * len(rows), draw),
        "SSIM gained over the class mean by each attacker",
        "* chosen on validation data. Orange: the whole interval lies above 0.02.",
    )


def sweep_figure(record: InversionRecord) -> Drawing | None:
    """Accuracy against K at the run's P, and against P at its K."""
    own = record.victim.settings
    panels = [
        ("K, bits of a code", [p for p in record.sweep if p.parties == own["parties"]], "bits"),
        ("P, parties", [p for p in record.sweep if p.bits == own["bits"]], "parties"),
    ]
    panels = [panel for panel in panels if len(panel[1]) > 1]
    if not panels:
        return None

    def draw(figure: Figure) -> None:
        for place, (label, sweep, column) in enumerate(panels):
            axes = figure.add_subplot(1, len(panels), place + 1)
            sweep = sorted(sweep, key=lambda point: int(getattr(point, column)))
            x = [int(getattr(point, column)) for point in sweep]
            _lines(axes, x, [("codes", [p.accuracy for p in sweep]),
                             ("undefended", [p.accuracy_undefended for p in sweep])])  # fmt: skip
            axes.set_xscale("log", base=2)
            axes.set_xticks(x, [str(value) for value in x])
            axes.minorticks_off()
            axes.set_xlabel(label)
            axes.set_ylabel(f"{label_of('accuracy')} (%)")
            axes.legend(frameon=False)

    alt = "Accuracy against the number of bits and of parties"
    return Drawing(_figure(4.2 * len(panels), 3.0, draw), alt)


def _lines(axes: Axes, x: Sequence[int], series: Sequence[tuple[str, list[Metric]]]) -> None:
    for number, (name, metrics) in enumerate(series):
        y = [100 * (metric.value or 0) for metric in metrics]
        below = [v - 100 * (m.low if m.low is not None else v / 100) for v, m in zip(y, metrics, strict=True)]  # fmt: skip  # noqa: E501
        above = [100 * (m.high if m.high is not None else v / 100) - v for v, m in zip(y, metrics, strict=True)]  # fmt: skip  # noqa: E501
        beside = [value * (0.98 + 0.04 * number) for value in x]  # of a log axis: bars lie apart
        axes.errorbar(
            beside, y, yerr=[below, above], label=name, color=COLOURS[number],
            linestyle=DASHES[number], marker=MARKERS[number], capsize=3,
        )  # fmt: skip


def bits_figure(record: InversionRecord) -> Drawing:
    """The mean of each bit of each party, and that of the class codes."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for number, party in enumerate(record.bits):
            axes.plot(
                range(len(party.means)), party.means, linestyle="none",
                marker=MARKERS[number % 3], color=COLOURS[number % len(COLOURS)], label=party.party,
            )  # fmt: skip
        wanted = record.bits[0].wanted
        axes.plot(range(len(wanted)), wanted, linestyle="none", marker="_", color=INK,
                  markersize=12, label="class codes")  # fmt: skip
        axes.axhspan(-BALANCE, BALANCE, color="#e5e7eb", zorder=0)
        axes.set_ylim(-1.05, 1.05)
        axes.set_xlabel("bit")
        axes.set_ylabel("mean over the database (−1 to 1)")
        legend_below(figure, 5)

    worst = max(largest_gap(party.means, party.wanted) for party in record.bits)
    caption = f"Grey: ±0.2. Farthest from the class codes: {worst:.3f}."
    return Drawing(_figure(7.0, 3.2, draw), "Mean of each bit of each party", caption)


def roc_figure(record: InversionRecord) -> Drawing | None:
    """ROC curves, a panel a kind of abnormal inputs, a line a detector."""
    kinds = list(dict.fromkeys(row.inputs for row in record.detection))
    if not kinds:
        return None

    def draw(figure: Figure) -> None:
        for place, kind in enumerate(kinds):
            axes = figure.add_subplot(1, len(kinds), place + 1)
            rows = [entry for entry in record.detection if entry.inputs == kind]
            for number, entry in enumerate(rows):
                axes.plot(
                    [100 * share for share in entry.fpr], [100 * share for share in entry.tpr],
                    color=COLOURS[number], linestyle=DASHES[number],
                    label=entry.detector if not place else None,
                )  # fmt: skip
            axes.plot([0, 100], [0, 100], color=MUTED, linewidth=0.8)
            axes.set_title(kind, fontsize=10)
            axes.set_xlabel(f"{label_of('false_alarms')} (%)")
            axes.set_aspect("equal")
            if not place:
                axes.set_ylabel("detected (%)")
        legend_below(figure, 3)

    return Drawing(_figure(3.0 * len(kinds), 4.0, draw), "ROC curves of the detectors")


def attackers_table(record: InversionRecord) -> Table:
    """What every attacker makes of what is seen; the chosen ones stand out."""
    shown = [
        (world, attacker, attacker is world.attackers[0])
        for world in record.worlds
        for attacker in world.attackers
    ]
    pictures = record.of_pictures
    likeness = ("ssim", "gain_over_class_mean", "gain_codes_over_class_decoder", "psnr")
    return Table(
        "Attackers",
        "Similarity of reconstructions to what was sent: a gain above 0 is more than the class "
        "alone gives away; 95 % intervals in small print."
        if pictures
        else "Errors of reconstructions of what was sent: a gain above 0, an MSE below that of the "
        "class mean of the same samples, is more than the class alone gives away; 95 % intervals "
        "in small print.",
        [
            *columns("what is seen", "attacker"),
            *of_figures(*(likeness if pictures else ("gain_over_class_mean",)), "mse"),
            Column(f"{label_of('reidentification_by_picture')} among {_most(record)} (%)"),
        ],
        [
            row(
                TableCell(world.name, note=world.text if first else ""),
                TableCell(attacker.name),
                (
                    value(attacker.ssim),
                    value(attacker.gain),
                    value(attacker.gain_over_told),
                    value(attacker.psnr, 1),
                )
                if pictures
                else value(attacker.gain),
                value(attacker.mse, 4),
                points(attacker.reidentification),
            )
            for world, attacker, first in shown
        ],
        chosen=[place for place, (_, attacker, _) in enumerate(shown) if attacker.chosen],
    )


def detectors_table(record: InversionRecord) -> Table:
    """Detectors on each kind of abnormal inputs."""
    return Table(
        "Detectors",
        "Detectors on abnormal inputs, in percent, 95 % intervals in small print."
        + "".join(
            f" {name} is off at the false alarms allowed: no code scores above its threshold."
            for name in dict.fromkeys(entry.detector for entry in record.detection if entry.off)
        ),
        [
            *columns("inputs", "detector"),
            *of_figures("false_alarms", "detected", "detected_randomised", "auroc"),
        ],
        [
            row(
                TableCell(entry.inputs),
                TableCell(entry.detector),
                map(
                    points,
                    (entry.false_alarms, entry.detected, entry.detected_randomised, entry.auroc),
                ),
            )
            for entry in record.detection
        ],
    )


def labels_table(record: InversionRecord) -> Table:
    """Labels that are read."""
    return Table(
        "Labels",
        "Labels that are read correctly, in percent.",
        [Column("read from"), *of_figures("label_read")],
        [
            row(TableCell(name.replace("_", " ")), points(metric))
            for name, metric in record.leakage.items()
        ],
    )


def accuracy_table(record: InversionRecord) -> Table:
    """What sending codes costs."""
    metrics = record.metrics
    return Table(
        "Accuracy",
        "Accuracy of the federation in percent.",
        of_figures("accuracy", "accuracy_undefended", "accuracy_loss"),
        [
            row(
                points(metrics.get("accuracy")),
                points(metrics.get("accuracy_undefended")),
                points(record.differences.get("accuracy_loss")),
            )
        ],
        headed=False,
    )


@dataclass(frozen=True)
class Reidentified:
    """How often one attacker picks the true input among others of its class.

    seen:     what the attacker has, in words
    attacker: its name; None where codes were compared, without any reconstruction
    samples:  in words, how many of which it was tried on
    over:     hits − chance, paired by sample
    score:    (what, of its reconstructions, of the class mean) where the record has both
    """

    seen: str
    attacker: str | None
    samples: str
    hit: Metric
    over: Difference
    score: tuple[str, float, float] | None

    @property
    def shown(self) -> bool:
        return self.over.low is not None and self.over.low > 0


def reidentifications(record: InversionRecord) -> list[Reidentified]:
    """Those of the chosen attackers on what crosses the wire, the strongest first."""
    score, rows = "ssim" if record.of_pictures else "mse", []
    for world in record.worlds:
        seen, key = VIEWS.get(world.name, ("", ""))
        hit = record.metrics.get(f"reidentification{key}")
        over = record.differences.get(f"reidentification{key}_over_chance")
        chosen = [attacker.name for attacker in world.attackers if attacker.chosen]
        if not (seen and chosen and hit and over and hit.value is not None):
            continue
        trained = key != ""
        compared = not trained and record.compares_codes
        count = record.protocol.transcript_samples if trained else record.protocol.samples
        reached = record.value(f"{score}{key or '_codes'}")
        mean = record.value(f"{score}{'_transcript' if trained else ''}_class_mean")
        rows.append(
            Reidentified(
                seen,
                None if compared else chosen[0],
                f"{count} {'samples of the training rows' if trained else 'query samples'}",
                hit,
                over,
                None
                if compared or reached is None or mean is None
                else (score.upper(), reached, mean),
            )
        )
    return sorted(rows, key=lambda row: (row.shown, row.over.value or 0.0), reverse=True)


def _picked(record: InversionRecord, row: Reidentified) -> str:
    """What a re-identification says of the codes, in a sentence."""
    chance = (row.hit.value or 0.0) - (row.over.value or 0.0)
    attacker = (
        "an attacker who compares codes instead of reconstructions"
        if row.attacker is None
        else f"the attacker “{row.attacker}”"
    )
    sentence = (
        f"From {row.seen}, {attacker} picks the true input among "
        f"{_among(record, chance)} of its class for {with_interval(row.hit)} of {row.samples}"
        f"{_expected(row.hit, row.hit.n)}, by chance {percent(chance)}: codes "
        f"{'single out samples' if row.shown else 'were not shown to single out samples'}"
    )
    if row.score is None:
        return f"{sentence}."
    name, reached, mean = row.score
    return f"{sentence}. Its reconstructions have {name} {reached:.3f}, the class mean {mean:.3f}."


def verdicts(record: InversionRecord) -> list[str]:
    """What the figures say, in plain words; each number is one of the record.

    The strongest re-identification comes first, then what sending codes costs.
    """
    picked = reidentifications(record)
    lines = [_picked(record, row) for row in picked[:1]]
    loss = record.differences.get("accuracy_loss")
    if loss is not None and loss.value is not None:
        accuracy = record.metrics["accuracy"]
        assert accuracy is not None
        lines.append(
            f"Accuracy is {percent(accuracy.value)} with codes, and with real embeddings "
            f"{abs(100 * loss.value):.1f} points {'lower' if loss.value < 0 else 'higher'}: "
            f"embeddings less codes {signed(f'{100 * loss.value:z.1f}')}{_between(loss, 100)}."
        )
    for key, what in (
        ("gain_codes", "From one code per sample, the best attacker"),
        ("gain_undefended", "From what the undefended twin sends, the best attacker"),
        ("gain_transcript", "From the whole training transcript, the best attacker"),
    ):
        gain = record.gain(key)
        if gain is None or gain.value is None:
            continue
        amount = f"{signed(f'{gain.value:z.3f}')}{_between(gain, 1)}"
        if record.of_pictures:
            lines.append(
                f"{what} gains, in SSIM over the mean picture of the class, {amount}: "
                f"{_meaning(gain)}."
            )
        else:
            lines.append(
                f"{what} gains, in MSE below that of the class mean, {amount}: "
                f"{_error_meaning(gain)}."
            )
    lines += _trained_on_ssim(record)
    lines += [_picked(record, row) for row in picked[1:] if row.seen == ONE_CODE]
    message, training = (record.metrics.get(f"epsilon_{end}") for end in ("message", "training"))
    if message is not None and training is not None:
        lines.append(
            f"The Laplace noise composes to \N{GREEK SMALL LETTER EPSILON} = {message.value:g} for "
            f"one code and {training.value:g} for the training (basic composition over bits and "
            "rounds)."
        )
    return lines


def _trained_on_ssim(record: InversionRecord) -> list[str]:
    """What of the gain of a decoder trained on SSIM is the code, and what the training."""
    gain, informed, over = (
        record.differences.get(name)
        for name in ("gain_decoder_ssim", "gain_class_decoder_ssim",
                     "gain_decoder_ssim_over_class_decoder")
    )  # fmt: skip
    if gain is None or informed is None or over is None:
        return []
    if gain.value is None or informed.value is None or over.value is None:
        return []
    return [
        f"A decoder trained on SSIM itself gains {gain.value:.3f} from codes{_between(gain, 1)} "
        f"and {informed.value:.3f} from the class alone{_between(informed, 1)}: the code adds "
        f"{over.value:.3f}{_between(over, 1)}."
    ]


def _among(record: InversionRecord, chance: float) -> str:
    """How many candidates there were: fewer than wanted where a class has fewer queries."""
    wanted = record.protocol.candidates
    fewer = chance > 1 / wanted + 1e-6
    return f"at most {wanted}" if fewer else str(wanted)


def _most(record: InversionRecord) -> str:
    """The same of all rows of a table: by the largest chance of any."""
    ends = ("", *(end for _, end in VIEWS.values() if end))
    chances = [record.value("reidentification_chance") or 0.0]
    for end in ends:
        hit = record.value(f"reidentification{end}")
        over = record.differences.get(f"reidentification{end}_over_chance")
        if hit is not None and over is not None and over.value is not None:
            chances.append(hit - over.value)
    return _among(record, max(chances))


def _expected(hit: Metric, count: int) -> str:
    """That ties count by chance, where the share of the samples is no whole number of them."""
    number = (hit.value or 0.0) * count
    return "" if abs(number - round(number)) < 1e-6 else " in expectation over ties"


def _between(difference: Difference, scale: float) -> str:
    if difference.low is None or difference.high is None:
        return ""
    digits = 1 if scale == 100 else 3
    ends = (difference.low, difference.high)
    low, high = (signed(f"{scale * end:z.{digits}f}") for end in ends)
    return f" (95\N{NO-BREAK SPACE}% interval {low} to {high})"


def _meaning(gain: Difference) -> str:
    if gain.high is not None and gain.high < SMALL_GAIN:
        return f"below {SMALL_GAIN:g}, so next to nothing beyond the class"
    if gain.low is not None and gain.low > SMALL_GAIN:
        return f"above {SMALL_GAIN:g}, so more than the mean picture of the class is drawn"
    return (
        f"the interval holds {SMALL_GAIN:g}, so it is not decided whether more than that picture is"
    )


def _error_meaning(gain: Difference) -> str:
    """What the fall of MSE below that of the class mean says; above 0 is a leak."""
    if gain.low is not None and gain.low > 0:
        return "above 0, so more than the class is given away"
    if gain.high is not None and gain.high < 0:
        return "below 0, so the mean of the class alone is nearer"
    return "the interval holds 0, so no leak beyond the class is shown"


def _grid(folder: Path, record: InversionRecord, pictures: Pictures) -> list[dict[str, Any]]:
    if pictures.left_out:
        return []
    return [
        {
            "name": row.name,
            "labels": row.labels,
            "cells": [(column, pictures.add(folder, file)) for column, file in row.files.items()],
        }
        for row in record.pictures
    ]


def inversion_chapter(folder: Path, pictures: Pictures) -> Chapter:
    """What a reconstruction run says. Raises RunError."""
    record = InversionRecord.read(folder)
    victim, attack, data = record.victim, record.attack, record.dataset
    label = f"reconstruction run {record.run.id}"
    facts = [
        ("Victim", victim_fact(victim.label, victim)),
        ("Attack", f"{attack.name} – {attack.summary} Source: {attack.source}."),
        ("Data set", data_fact(data)),
    ]
    settings = {
        "victim": victim.settings,
        "attack": attack.settings,
        "data set": data.settings,
    }
    lead, *more = verdicts(record) or ["No verdict: the figures for one do not exist."]
    return Chapter(
        name=f"{attack.name} against {victim.label} on {data.label} ({label})",
        title=f"{attack.name} against {victim.label} on {data.label}",
        heading=f"What codes give away: {victim.label} on {data.label}",
        template="vfl.html",
        values={
            "record": record,
            "grid": _grid(folder, record, pictures),
            "gains": gains_figure(record),
            "sweep": sweep_figure(record),
            "bits": bits_figure(record),
            "roc": roc_figure(record),
            "attackers": attackers_table(record),
            "detectors": detectors_table(record),
            "labels": labels_table(record),
            "accuracy": accuracy_table(record),
            "knowledge": known(attack.knowledge),
            "explained": [
                f"{name}: {ATTACKERS[name]}."
                for name in dict.fromkeys(a.name for w in record.worlds for a in w.attackers)
                if name in ATTACKERS
            ],
            "judged": explained(
                dict.fromkeys(entry.detector for entry in record.detection),
                dict.fromkeys(entry.inputs for entry in record.detection),
                FEDERATED,
            ),
        },
        statements=[Statement(label, lead, more)],
        sources=[source_of(folder, label, record.run, facts, settings)],
        datasets=[data.label],
        flags=[(label, flag) for flag in record.flags],
        deviations=([] if record.of_pictures else [("this run", NO_SSIM)])
        + [
            (name, text)
            for name, texts in ((victim.label, victim.deviations), (attack.name, attack.deviations))
            for text in texts
        ],
        attributions=[data.attribution],
    )
