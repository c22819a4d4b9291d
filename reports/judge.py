"""The record of `advhash judge`, and its chapter: what a set claims and what was measured of it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import FiniteFloat

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
from advhash.reports.elements.numbers import unit_of, written
from advhash.reports.elements.pictures import Pictures
from advhash.reports.elements.tables import (
    Column,
    Table,
    TableCell,
    columns,
    number,
    row,
    titled,
)
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
FLOAT32 = 1e-6  # of a claim: distances are measured in it, and no finer
Standing = Literal["holds", "too strong", "differs", "not measured"]
WORDS: dict[Standing, str] = {
    "holds": "✓ holds",
    "too strong": "claims too much",
    "differs": "differs",
    "not measured": "not measured",
}
ALONE: dict[Standing, str] = {  # of the one figure that is claimed
    "holds": "holds",
    "too strong": "does not hold",
    "differs": "does not hold",
    "not measured": "was not measured",
}


class SetInfo(Part):
    """An adversarial set that another tool made.

    form:    of its files
    originals: how many there are, of which the set may hold a choice
    digest:  SHA-256 of ids and pixels
    rounded: how many pictures lay between 8-bit steps and were rounded
    codes_claimed: whether codes came with it, which were not read
    """

    name: str
    form: str
    pictures: int
    originals: int
    digest: str
    goal: Literal["targeted", "untargeted"]
    rounded: int
    codes_claimed: bool


class Claim(Part):
    """A figure that the set claims of itself, and the one that was measured; None: not measured.

    rounding: how far what was rounded may lie from the claim: half of its last digit
    """

    name: str
    claimed: FiniteFloat
    rounding: FiniteFloat
    measured: Metric | None

    @property
    def slack(self) -> float:
        """What the claim may stand for to each side: its rounding, within reason.

        Half a percent of a share at most, a twentieth of any other figure: a bare 1 is no 0.5.
        """
        most = 0.005 if figure(self.name).unit == "share" else abs(self.claimed) / 20
        return min(self.rounding, most) + FLOAT32 * abs(self.claimed)

    @property
    def standing(self) -> Standing:
        """Whether the claim lies in the interval, or beyond it on the side of the attacker."""
        metric = self.measured
        if metric is None or metric.value is None:
            return "not measured"
        low = metric.value if metric.low is None else metric.low
        high = metric.value if metric.high is None else metric.high
        above, below = self.claimed - self.slack > high, self.claimed + self.slack < low
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


def chosen(record: JudgeRecord) -> str:
    """How many originals the set holds, and how many there are."""
    return f"{record.set.pictures:,} of {record.set.originals:,} originals"


def verdicts(record: JudgeRecord) -> list[str]:
    """What the claims of the set are worth, in sentences; none where nothing is claimed."""
    if not record.claims:
        return []
    standings = [claim.standing for claim in record.claims]
    held, count = standings.count("holds"), len(standings)
    lines = [f"{held} of {count} claimed figures hold{'s' if held == 1 else ''}."]
    if count == 1:
        lines = [f"The claimed figure {ALONE[standings[0]]}."]
    for claim, standing in zip(record.claims, standings, strict=True):
        if standing == "too strong":
            said, got = (
                written(claim.name, Metric(value), headed=False)
                for value in (claim.claimed, (claim.measured or Metric()).value)
            )
            lines.append(
                f"The set claims {figure(claim.name).label} {said}; the measured figure is {got}."
            )
    return lines


def claims_table(record: JudgeRecord) -> Table | None:
    """Claimed and measured, side by side; None where nothing is claimed."""
    if not record.claims:
        return None

    def cells(claim: Claim) -> list[TableCell]:
        standing = claim.standing
        style: Literal["strong", "soft"] = "strong" if standing == "too strong" else "soft"
        return row(
            titled(claim.name),
            number(written(claim.name, Metric(claim.claimed))),
            _measured(claim),
            TableCell(WORDS[standing], style=style),
        )

    return Table(
        "Claimed and measured",
        "Figures that the set claims of itself, and what was measured of the same pictures, hashed "
        "anew, with 95 % intervals of the same unit in small print. A claim holds where the "
        "interval holds it, or a number that rounds to the digits that it is written with; it "
        "claims too much where it lies beyond the interval on the side of the attacker.",
        [*columns("Figure", "Claimed", "Measured"), Column("The claim", wide=True)],
        [cells(claim) for claim in record.claims],
    )


def _measured(claim: Claim) -> TableCell:
    metric = claim.measured or Metric()
    bounds = None
    if metric.low is not None and metric.high is not None:
        unit = unit_of(claim.name, metric.value or 0)
        bounds = unit.number(metric.low), unit.number(metric.high)
    return TableCell(written(claim.name, Metric(metric.value)), bounds, numeric=True)


def judge_chapter(path: Path, pictures: Pictures) -> Chapter:
    """What a run of `advhash judge` says. Raises RunError."""
    record = JudgeRecord.read(path)
    label = f"judge run {record.run.id}"
    attacked = record.as_attack
    run = read_run(path, attacked, f"{record.set.name}, {record.budget.text}", pictures)
    own = statement_of(label, run.verdict)
    title = f"{record.set.name} against {record.victim.label} on {record.dataset.label}"
    facts = [
        (
            "Adversarial set",
            f"{record.set.name}: pictures of {chosen(record)}, {record.set.form}. SHA-256 "
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
        f"({record.budget.text}) on {record.dataset.label}",
        template="judge.html",
        values={
            **chapter_values([run]),
            "record": record,
            "chosen": chosen(record),
            "claims": claims_table(record),
        },
        statements=[
            Statement(label, own.lead, [*verdicts(record), *own.more], own.word, share=own.share)
        ],
        sources=[source_of(path, label, record.run, facts, settings)],
        datasets=[record.dataset.label],
        flags=[(label, flag) for flag in record.flags],
        deviations=[(record.victim.label, text) for text in record.victim.deviations],
        attributions=[record.dataset.attribution],
    )
