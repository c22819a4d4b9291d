"""The record of `advhash judge`, and its chapter: what a set claims and what was measured of it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from advhash.measures.intervals import Metric
from advhash.measures.sanity import Flag
from advhash.reports.attack.chapter import chapter_values, read_run, statement_of
from advhash.reports.elements.chapters import (
    Chapter,
    Statement,
    data_fact,
    source_of,
    victim_fact,
)
from advhash.reports.elements.pictures import Pictures
from advhash.reports.elements.tables import (
    Column,
    Table,
    TableCell,
    columns,
    number,
    points,
    row,
    titled,
    value,
)
from advhash.reports.elements.verdict import NBSP, percent
from advhash.reports.record import (
    SCHEMA,
    AttackInfo,
    BudgetInfo,
    DatasetInfo,
    Document,
    Example,
    Part,
    Protocol,
    Record,
    RunInfo,
    VictimInfo,
)
from advhash.reports.vocabulary import figure

JUDGE: Literal["advhash/judge/1"] = "advhash/judge/1"
ROUNDED = 0.005  # by which a claim may pass the interval: claims have two digits
Standing = Literal["holds", "too strong", "differs", "not measured"]
WORDS: dict[Standing, str] = {
    "holds": "✓ holds",
    "too strong": "claims too much",
    "differs": "differs",
    "not measured": "not measured",
}


class SetInfo(Part):
    """An adversarial set that another tool made.

    form:    of its files
    digest:  SHA-256 of ids and pixels
    rounded: how many pictures lay between 8-bit steps and were rounded
    codes_claimed: whether codes came with it, which were not read
    """

    name: str
    form: str
    pictures: int
    digest: str
    goal: Literal["targeted", "untargeted"]
    rounded: int
    codes_claimed: bool


class Claim(Part):
    """A figure that the set claims of itself, and the one that was measured; None: not measured."""

    name: str
    claimed: float
    measured: Metric | None

    @property
    def standing(self) -> Standing:
        """Whether the claim lies in the interval, or beyond it on the side of the attacker."""
        metric = self.measured
        if metric is None or metric.value is None:
            return "not measured"
        low = metric.value if metric.low is None else metric.low
        high = metric.value if metric.high is None else metric.high
        above, below = self.claimed > high + ROUNDED, self.claimed < low - ROUNDED
        if not (above or below):
            return "holds"
        serves = figure(self.name).serves
        strong = (above and serves == "attacker") or (below and serves == "defender")
        return "too strong" if strong else "differs"


class JudgeRecord(Document):
    """What `advhash judge` measured, as of an attack run, beside what the set claims."""

    schema_: Literal["advhash/judge/1"]
    command: Literal["judge"]
    run: RunInfo
    set: SetInfo
    claims: list[Claim]
    victim: VictimInfo
    dataset: DatasetInfo
    budget: BudgetInfo
    protocol: Protocol
    flags: list[Flag]
    metrics: dict[str, Metric | None]
    metrics_by_direction: dict[str, dict[str, Metric | None]]
    examples: list[Example]

    @property
    def as_attack(self) -> Record:
        """The same as the record of an attack of which nothing but its result is known."""
        made = AttackInfo(
            name=self.set.name,
            settings={},
            source="",
            summary="Pictures that another tool changed.",
            cached=False,
            fingerprint=self.set.digest,
            history=[],
            deviations=[],
            goal=self.set.goal,
            knowledge=[],
        )
        shared = {name: getattr(self, name) for name in Record.model_fields if name in SHARED}
        return Record(schema_=SCHEMA, command="attack", attack=made, **shared)


SHARED = JudgeRecord.model_fields.keys() & Record.model_fields.keys() - {"schema_", "command"}


def verdicts(record: JudgeRecord) -> list[str]:
    """What the claims of the set are worth, in sentences; none where nothing is claimed."""
    if not record.claims:
        return []
    standings = [claim.standing for claim in record.claims]
    held, count = standings.count("holds"), len(standings)
    lines = [f"{held} of {count} claimed figures hold{'s' if count == 1 else ''}."]
    for claim, standing in zip(record.claims, standings, strict=True):
        if standing == "too strong":
            got = written(claim, None if claim.measured is None else claim.measured.value)
            lines.append(
                f"The set claims {figure(claim.name).label} {written(claim, claim.claimed)}; "
                f"the measured figure is {got}."
            )
    return lines


def written(claim: Claim, claimed: float | None) -> str:
    known = figure(claim.name)
    if known.unit == "share" or claimed is None:
        return percent(claimed)
    return f"{claimed:.3g}" + (f"{NBSP}{known.unit}" if known.unit in ("dB", "s", "bits") else "")


def claims_table(record: JudgeRecord) -> Table | None:
    """Claimed and measured, side by side; None where nothing is claimed."""
    if not record.claims:
        return None

    def cells(claim: Claim) -> list[TableCell]:
        share = figure(claim.name).unit == "share"
        standing = claim.standing
        style: Literal["strong", "soft"] = "strong" if standing == "too strong" else "soft"
        return row(
            titled(claim.name),
            number(f"{100 * claim.claimed:z.1f}" if share else f"{claim.claimed:.3g}"),
            points(claim.measured) if share else value(claim.measured),
            TableCell(WORDS[standing], style=style),
        )

    return Table(
        "Claimed and measured",
        "Figures that the set claims of itself, and what was measured of the same pictures, hashed "
        "anew: rates and precisions in percent, 95 % intervals in small print. A claim holds where "
        f"it lies in the interval, give or take {ROUNDED}; it claims too much where it lies beyond "
        "it on the side of the attacker.",
        [*columns("Figure", "Claimed", "Measured"), Column("The claim", wide=True)],
        [cells(claim) for claim in record.claims],
    )


def judge_chapter(path: Path, pictures: Pictures) -> Chapter:
    """What a run of `advhash judge` says. Raises RunError."""
    record = JudgeRecord.read(path)
    label = f"judge run {record.run.id}"
    attacked = record.as_attack
    run = read_run(path, attacked, f"{record.set.name}, {record.budget.text}", pictures)
    own = statement_of(label, run.verdict)
    title = f"{record.set.name} against {record.victim.label} on {record.dataset.name}"
    facts = [
        (
            "Adversarial set",
            f"{record.set.name}: {record.set.pictures} pictures, {record.set.form}. SHA-256 "
            f"{record.set.digest}",
        ),
        ("Victim", victim_fact(record.victim.label, record.victim)),
        ("Data set", data_fact(record.dataset)),
    ]
    settings = {
        "victim": record.victim.settings,
        "data set": record.dataset.settings,
        "budget": {"norm": record.budget.norm, "eps": record.budget.eps},
    }
    return Chapter(
        name=f"{title} ({label})",
        title=title,
        heading=f"What the adversarial set “{record.set.name}” does to {record.victim.label} "
        f"({record.budget.text}) on {record.dataset.name}",
        template="judge.html",
        values={
            **chapter_values([run]),
            "record": record,
            "claims": claims_table(record),
        },
        statements=[Statement(label, own.lead, [*verdicts(record), *own.more], own.word)],
        sources=[source_of(path, label, record.run, facts, settings)],
        datasets=[record.dataset.name],
        flags=[(label, flag) for flag in record.flags],
        deviations=[(record.victim.label, text) for text in record.victim.deviations],
        attributions=[record.dataset.attribution],
    )
