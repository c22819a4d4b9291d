"""The record of an attack run: `metrics.json` in the run folder, and what `--json` prints.

JSON is the truth; every table, picture and page derives from it and from `queries.parquet`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from advhash.errors import RunError, counted
from advhash.measures.intervals import Metric
from advhash.measures.sanity import Flag
from advhash.registry import called, data_called
from advhash.reports.headline import Headline, headline_of
from advhash.storage.documents import parse_json, read_json, read_text, reason
from advhash.storage.model_card import Origin
from advhash.validation import first_fault

SCHEMA: Literal["advhash/attack/1"] = "advhash/attack/1"
SIBLINGS: Literal["advhash/attacks/1"] = "advhash/attacks/1"
GAIN = 10  # the factor by which a perturbation is enlarged in its picture
EXAMPLE_RULE = (
    "All queries of the run are sorted by how well the attack works on them, and the ranks at "
    "equal steps from the best to the worst are taken: the first is the best for the attacker, "
    "the last the worst. Nobody picked them by hand."
)
TARGETED_METRICS = ("tmap", "tmap_chance", "tmap_clean", "tmap_ceiling", "tmap_normalised")


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Retrieved(Part):
    """One retrieved database row: how far, and whether it is relevant to query and to target."""

    row: int
    distance: int
    relevant: bool
    target_relevant: bool | None
    name: str
    picture: str | None  # path inside the run folder
    text: str | None = None  # of a row that is a text and has no picture


class ShownChange(Part):
    """A changed picture that a page shows.

    linf:  of the change in grey levels; l2: in grey levels a colour value, the root of the mean
           square
    files: in the run folder: the picture, GAIN × the change around mid-grey, the changed picture
    """

    name: str
    linf: int
    l2: float
    files: list[str]


class Example(Part):
    """One query, before and after the attack, with what it retrieves."""

    query: int
    name: str
    labels: list[str]
    target: list[str] | None
    clean_picture: str | None
    adversarial_picture: str | None
    perturbation_picture: str | None  # GAIN × the change around mid-grey
    linf: float | None  # None for tokens, which have no such distance
    words_before: list[str] | None = None  # of a text that changes word by word
    words_after: list[str] | None = None
    before: list[Retrieved]
    after: list[Retrieved]

    @property
    def unchanged(self) -> bool:
        """Whether the attack left the query as it was."""
        if self.words_before is not None:
            return self.words_before == self.words_after
        return self.linf == 0


class RunInfo(Part):
    id: str
    folder: str
    created: str  # ISO 8601, UTC
    seed: int
    device: str
    version: str
    seconds: dict[str, float]  # stage → wall seconds


class MethodInfo(Part):
    """A victim or an attack: its name, every setting, where it comes from."""

    name: str
    settings: dict[str, Any]
    source: str
    summary: str
    cached: bool  # its weights or its fitted state were read, not made in this run
    fingerprint: str  # SHA-256 of the weights or of the fitted state; "" where there is none
    history: list[dict[str, float | str]]
    deviations: list[str]


class VictimInfo(MethodInfo):
    origin: Origin | None = None  # None: of version 0.1, which did not tell
    modalities: list[str]
    notes: dict[str, Any]  # from its card: metrics, seconds, seed
    defenses: list[dict[str, Any]] = []  # name, settings, source, budget, seed of each

    @property
    def label(self) -> str:
        """What it is called, with its defences: "dpsh + saat"."""
        own = called(self.name, self.settings)
        return " + ".join([own, *(str(defense["name"]) for defense in self.defenses)])


class AttackInfo(MethodInfo):
    goal: Literal["targeted", "untargeted"]
    knowledge: list[str]
    indicators: dict[str, float] = {}  # what the attack noted of itself: shares, means


class DatasetInfo(Part):
    name: str  # of the reader; people read the label
    settings: dict[str, Any]
    fingerprint: str
    classes: list[str]
    database: int
    train: int
    queries: int
    attribution: str
    pictures: dict[str, Any] | None = None  # what was fed and what is stored; None: no pictures

    @property
    def label(self) -> str:
        """What it is called: the user's own by their name for it."""
        return data_called(self.name, self.settings)


class BudgetInfo(Part):
    norm: Literal["linf", "l2", "l0", "none"]
    eps: float | None  # None: no bound
    text: str
    eight_bit: bool


class Protocol(Part):
    targets: str | None  # the target rule; None when untargeted
    query_modality: str
    database: str
    queries: int
    batch_size: int | None = None  # anchors are drawn batch by batch
    top_k: int | None
    ties: str
    empty: str
    empty_queries: int  # queries without a relevant database row
    poison: int | None = None  # adversarial items planted in the database
    threshold: int | None = None  # in bits, where the user gave one
    start: str | None = None  # "originals" or "copies", where each label names one picture
    at_threshold: bool = False  # whether each query evades or collides at a threshold, or not
    store: dict[str, Any] | None = (
        None  # that served the first results; None: an exact one, or none
    )
    rescore: list[dict[str, Any]] = []
    confidence: float
    resamples: int

    @property
    def served_by(self) -> str:
        """The store and the rescorers behind it: "faiss-ivf, float ×10"."""
        store = "exact" if self.store is None else str(self.store["name"])
        stages = (f"{stage['name']} ×{stage['multiplier']}" for stage in self.rescore)
        return ", ".join([store, *stages])

    @property
    def text(self) -> str:
        """All that figures of one task must have in common, for a heading.

        "300 queries image→text", then what is not the default.
        """
        particulars = {
            "targets": self.targets if self.targets != "disjoint" else None,
            "first": self.top_k,
            "ties": self.ties if self.ties != "expected" else None,
            "empty": self.empty if self.empty != "zero" else None,
            "threshold": self.threshold,
            "start": self.start,
            "planted": self.poison,
            "store": self.served_by if self.store is not None or self.rescore else None,
        }
        return ", ".join(
            [
                f"{counted(self.queries, 'query')} {self.query_modality}→{self.database}",
                *(f"{name} {value}" for name, value in particulars.items() if value is not None),
            ]
        )


class OtherSchema(ValueError):
    """A document of another kind, which may be whole."""


class Document(Part):
    """A JSON document that begins with the name of its schema."""

    schema_: str

    def document(self) -> dict[str, Any]:
        """The JSON document, `schema` first, without NaN."""
        body = self.model_dump(mode="json")
        return {"schema": body.pop("schema_"), **body}

    def dumps(self) -> str:
        return json.dumps(self.document(), indent=1, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """What `document` gave. Raises ValueError where it is no such document."""
        return cls.loads(json.dumps(document))

    @classmethod
    def loads(cls, text: str) -> Self:
        """Raises OtherSchema, a ValueError, or ValueError where the text is no such document."""
        (schema,) = get_args(cls.model_fields["schema_"].annotation)
        body = parse_json(text)
        if not isinstance(body, dict) or body.get("schema") != schema:
            given = body.get("schema") if isinstance(body, dict) else type(body).__name__
            raise OtherSchema(f"expected a run of schema {schema!r}, got {given!r}")
        body["schema_"] = body.pop("schema")
        return cls.model_validate(body)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The document of a run folder, or of a file.

        Raises RunError: absent, damaged or of another kind.
        """
        file = record_file(path)
        try:
            return cls.loads(read_text(file))
        except OtherSchema as error:
            raise RunError(
                f"{error} in {file}: `advhash report RUN RUN` shows runs of any kind on one page"
            ) from None
        except OSError as error:
            raise RunError(f"expected a run record, got {file}: {reason(error)}") from None
        except ValidationError as error:
            fault = str(first_fault(cls, error, None))
        except ValueError as error:
            fault = reason(error)
        raise RunError(f"expected a run record in {file}, got a damaged one: {fault}")


class Named(Part):
    name: str | None
    settings: dict[str, Any]


class NamedData(Named):
    pictures: dict[str, Any] | None = None  # as of `DatasetInfo`
    attribution: str = ""  # likewise

    @property
    def label(self) -> str:
        """As of `DatasetInfo`."""
        return data_called(str(self.name), self.settings)


class FileDocument(Document):
    """A document on a victim and its data set, which may be a file of its own.

    run: None of a file, which no run folder is kept of
    """

    run: RunInfo | None = None
    created: str
    version: str
    seed: int
    victim: Named
    defenses: list[dict[str, Any]] = Field(default_factory=list)
    dataset: NamedData
    flags: list[Flag] = Field(default_factory=list)
    seconds: float

    @property
    def defended(self) -> str:
        """The victim with its defences: "dpsh + jpeg"."""
        return " + ".join(
            str(name)
            for name in (
                called(str(self.victim.name), self.victim.settings),
                *(d["name"] for d in self.defenses),
            )
        )

    def label(self, path: Path) -> str:
        """What a page calls the run: like its folder or the file."""
        return path.stem if self.run is None else self.run.id

    def info(self, path: Path) -> RunInfo:
        """What provenance says of the run, or of the file."""
        return self.run or RunInfo(
            id=path.name,
            folder=str(path.parent),
            created=self.created,
            seed=self.seed,
            device="not recorded",
            version=self.version,
            seconds={"all": self.seconds},
        )


class Record(Document):
    """Everything that a run found. Metrics are means over queries with a 95 % interval."""

    schema_: Literal["advhash/attack/1"]
    command: Literal["attack"]
    run: RunInfo
    victim: VictimInfo
    attack: AttackInfo
    dataset: DatasetInfo
    budget: BudgetInfo
    protocol: Protocol
    flags: list[Flag]
    metrics: dict[str, Metric | None]
    metrics_by_direction: dict[str, dict[str, Metric | None]]  # "image-text": query-database
    examples: list[Example]

    def headline(self) -> Headline:
        """The figures that a run of this goal, judged as this one is, leads with."""
        return headline_of(self.attack.goal, at_threshold=self.protocol.at_threshold)

    @property
    def unchanged(self) -> bool:
        """Whether the attack left every query as it was, so that its figures say nothing."""
        return self.value("words_changed" if self.budget.norm == "l0" else "linf") == 0

    @property
    def limit(self) -> int | None:
        """The bits within which two pictures match, of a run that this judges; None elsewhere."""
        bits = self.value("threshold_bits") if self.protocol.at_threshold else None
        return None if bits is None else int(bits)

    def value(self, name: str) -> float | None:
        """A figure without its interval; None where there is none."""
        metric = self.metrics.get(name)
        return None if metric is None else metric.value


def record_file(path: Path) -> Path:
    """The record of a run: `metrics.json` of its folder, or the file itself."""
    return path if path.is_file() else path / "metrics.json"


def schema_of(path: Path) -> str:
    """The schema that a run's record names; "" where it cannot be told."""
    try:
        body = read_json(record_file(path))
    except (ValueError, OSError):
        return ""
    return str(body.get("schema")) if isinstance(body, dict) else ""


class Siblings(Document):
    """Runs that differ in ε alone, in ascending order, and the page over all of them.

    report: its path; runs: the documents of the runs, each in a folder below
    """

    schema_: Literal["advhash/attacks/1"]
    command: Literal["attack"]
    report: str
    runs: list[dict[str, Any]]

    @field_validator("runs")
    @classmethod
    def _lie_below(cls, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for document in runs:
            run = document.get("run")
            folder = run.get("folder") if isinstance(run, dict) else None
            if not isinstance(folder, str) or Path(folder).name in ("", ".."):
                raise ValueError("expected the folder of each run")
        return runs

    @property
    def records(self) -> list[Record]:
        return [Record.from_document(document) for document in self.runs]

    def folders(self, folder: Path) -> list[Path]:
        """The folders of the runs, wherever the one above them lies now."""
        return [folder / Path(document["run"]["folder"]).name for document in self.runs]


def load_record(folder: Path) -> Record:
    """Read a run. Raises RunError: no such run, not finished, damaged."""
    file = folder / "metrics.json"
    if not folder.is_dir():
        got = "a file" if folder.exists() else "no such folder"
        raise RunError(f"expected a run folder, got {folder}: {got}")
    if not file.is_file() or schema_of(folder) == SIBLINGS:
        siblings = sorted(file.parent for file in folder.glob("*/metrics.json"))
        if siblings:  # of several radii
            raise RunError(
                f"expected one run, got {folder}, which holds {len(siblings)}: name them, e.g. "
                f"{siblings[0]}"
            )
        raise RunError(
            f"expected {file}: not there, so {folder} is no finished run; an interrupted one is "
            f"called {folder.name}.partial and continues with --resume"
        )
    return Record.read(folder)
