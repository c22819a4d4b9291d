"""The record of a reconstruction run: `metrics.json`, and what `--json` prints.

A sibling of the record of attacks: no budget, no perturbed query, no retrieval.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from advhash.measures.intervals import Difference, Metric
from advhash.measures.roc import is_off
from advhash.measures.sanity import Flag
from advhash.reports.record import DatasetInfo, Document, RunInfo, VictimInfo

SCHEMA: Literal["advhash/inversion/1"] = "advhash/inversion/1"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class InversionInfo(_Part):
    kind: Literal["inversion"]
    name: str
    settings: dict[str, Any]
    source: str
    summary: str
    knowledge: list[str]
    deviations: list[str]


class InversionProtocol(_Part):
    party: str  # whose inputs are reconstructed
    columns: list[str] = Field(default_factory=list)  # of a table, which the party holds
    samples: int  # of the query split
    validation: int
    auxiliary: int  # inputs that the attacker has
    candidates: int
    transcript_samples: int  # training rows, attacked with the transcript
    transcript_bytes: int
    confidence: float
    resamples: int


class Attacker(_Part):
    """One reconstruction: mean figures over the samples, and what it gains over the class mean."""

    name: str
    chosen: bool
    validation: float | None  # mean SSIM there, or −MSE for tables
    ssim: Metric | None
    psnr: Metric | None
    mse: Metric
    reidentification: Metric
    gain: Difference | None  # SSIM − that of the class mean; of tables how far MSE is below it
    gain_over_told: Difference | None = None  # − SSIM of a decoder told the class, trained alike


class World(_Part):
    """What is seen of the same victim or of its undefended twin, and what attackers make of it."""

    name: str
    text: str
    attackers: list[Attacker]


class PartyBits(_Part):
    """Mean of each bit in ±1 over the database, and that of the class codes of the same rows."""

    party: str
    means: list[float]
    wanted: list[float]


class SweepPoint(_Part):
    bits: int
    parties: int
    accuracy: Metric
    accuracy_undefended: Metric


class Picture(_Part):
    """One row of the grid: what was sent by whom, and one picture file a column."""

    name: str
    labels: str
    files: dict[str, str]  # column → path inside the run folder


class Roc(_Part):
    """A detector on a kind of inputs; see `advhash.measures.roc.rule_metrics`."""

    inputs: str
    detector: str
    auroc: Metric
    detected: Metric = Field(validation_alias=AliasChoices("detected", "tpr_at_5fpr"))
    false_alarms: Metric
    false_alarms_held_out: Metric | None = None  # these two: not of version 0.1
    detected_randomised: Metric | None = None
    threshold: float | None = None  # what scores above it is flagged
    highest: float | None = None  # the score that no code exceeds; None where nothing bounds it
    fpr: list[float]
    tpr: list[float]

    @property
    def off(self) -> bool:
        """Whether the detector can flag nothing: no code scores above its threshold."""
        return is_off(self.threshold, self.highest)


class InversionRecord(Document):
    """Everything that a reconstruction run found. Metrics are means with a 95 % interval."""

    schema_: Literal["advhash/inversion/1"]
    command: Literal["invert", "attack"]  # attack: of version 0.1
    run: RunInfo
    victim: VictimInfo
    attack: InversionInfo
    dataset: DatasetInfo
    budget: None = None
    protocol: InversionProtocol
    flags: list[Flag]
    metrics: dict[str, Metric | None]
    differences: dict[str, Difference | None]  # paired over samples
    worlds: list[World]
    bits: list[PartyBits]
    leakage: dict[str, Metric]
    sweep: list[SweepPoint]
    detection: list[Roc]
    pictures: list[Picture]

    def value(self, name: str) -> float | None:
        """A figure without its interval; None where there is none."""
        metric = self.metrics.get(name)
        return None if metric is None else metric.value

    def gain(self, name: str) -> Difference | None:
        """A gain over the class mean, above 0 where the attacker wins.

        Runs of tables of version 0.1 kept MSE − MSE of the class mean, and none of each attacker.
        """
        gain = self.differences.get(name)
        each = [attacker.gain for world in self.worlds for attacker in world.attackers]
        if gain is None or gain.value is None or self.of_pictures or any(each):
            return gain
        low, high = (None if end is None else -end for end in (gain.high, gain.low))
        return Difference(-gain.value, low, high, gain.n, gain.p)

    @property
    def compares_codes(self) -> bool:
        """Whether `reidentification` is what comparing codes reached, not the chosen attacker."""
        drawn = self.value("reidentification_by_picture")
        return drawn is not None and drawn != self.value("reidentification")

    @property
    def of_pictures(self) -> bool:
        """Whether pictures were reconstructed: rows of tables have neither SSIM nor PSNR."""
        return any(
            attacker.ssim is not None for world in self.worlds for attacker in world.attackers
        )
