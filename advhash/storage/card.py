"""What `card.json` of a checkpoint holds: every part that anything of advhash reads, checked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from advhash.validation import first_fault

SCHEMA: Literal["advhash/victim/1"] = "advhash/victim/1"
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Size = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)]


class Part(BaseModel):
    """Types are taken as they are, NaN is none; a version to come may add further entries."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="allow")


class Figure(Part):
    value: float | None
    low: float | None
    high: float | None
    n: Count


class Flag(Part):
    model_config = ConfigDict(extra="forbid")

    name: str
    level: Literal["info", "warning", "error"]
    message: str


class Codes(Part):
    rows: Count
    distinct: Count
    balance: Share
    entropy: Share


class StoredPictures(Part):
    count: Count
    larger: Count
    smallest: Size
    median: Size
    largest: Size


class Pictures(Part):
    fed: Size | None  # each at its own size
    stored: StoredPictures | None


class Data(Part):
    name: str
    settings: dict[str, Any]
    fingerprint: str | None = None
    pictures: Pictures | None = None
    rows: dict[str, Count] = {}
    source: str = ""
    licence: str = ""
    attribution: str = ""


class Method(Part):
    """A defence: `budget` as it is written for people, `seed` of its training."""

    name: str
    settings: dict[str, Any]
    source: str = ""
    budget: str | None = None
    seed: Count | None = None


class Worth(Part):
    """What a victim was worth before it was hardened."""

    metrics: dict[str, Figure] | None = None
    codes: dict[str, Codes] | None = None
    seconds: Annotated[float, Field(ge=0)] | None = None


class Robustness(Part):
    """What an attack did to the victim; `budget` as it is written for people."""

    attack: str
    budget: str | None = None
    metrics: dict[str, Figure]


class Card(Part):
    """files: SHA-256 by name; history: rows of the training; undefended: see `Worth`.

    commit, robustness: of a victim in a zoo
    """

    schema_: Literal["advhash/victim/1"] = Field(alias="schema")
    name: str
    settings: dict[str, Any]
    files: dict[str, str]
    bits: Annotated[int, Field(ge=1)] = 1
    modalities: list[str] = []
    version: str = ""
    history: list[dict[str, float | str]] = []
    source: str = ""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    data: Data | None = None
    codes: dict[str, Codes] = {}
    metrics: dict[str, Figure] = {}
    flags: list[Flag] = []
    seconds: Annotated[float, Field(ge=0)] = 0
    processes: Count = 1
    precision: str = ""
    environment: dict[str, Any] = {}
    created: str = ""
    defenses: list[Method] = []
    undefended: Worth | None = None
    commit: str = ""
    robustness: list[Robustness] = []


def check_card(body: Any) -> dict[str, Any]:
    """The card itself, where it is one. Raises ValueError of one line: what is wrong, and where."""
    schema = body.get("schema") if isinstance(body, dict) else type(body).__name__
    if schema != SCHEMA:
        raise ValueError(f"schema {schema!r}, not {SCHEMA!r}")
    try:
        Card.model_validate(body)
    except ValidationError as error:
        raise ValueError(str(first_fault(Card, error, body))) from None
    return dict(body)
