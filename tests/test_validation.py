"""What pydantic refuses reaches users in our words, whichever setting of whichever method it is."""

from __future__ import annotations

import datetime
import enum
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from advhash import registry as registries
from advhash.errors import ConfigError
from advhash.experiments.config import Run, Table
from advhash.experiments.methods import check_methods
from advhash.experiments.poison.config import RowsConfig
from advhash.registry import EXPERIMENTS, Registry
from advhash.storage.card import Card
from advhash.validation import Fault, first_fault, refusal

THEIRS = re.compile(
    r"[Ii]nput should|[Ff]ield required|not permitted|[Uu]nable to|[Vv]alue error|[Aa]ssertion"
    r"|valid (integer|number|string|boolean|list|tuple|dict)|pydantic|https?:|\bstr\b|\bint\b"
)
WRONG: tuple[Any, ...] = (
    *("four\nor so", 2.5, -7, 2**31 - 1, True, 1e30, math.nan, -math.inf, None),
    *([["x"]], [{}], {"other": [1]}, {}, [], b"\xff", object()),
)
METHODS = [
    (registry, name)
    for registry in vars(registries).values()
    if isinstance(registry, Registry) and registry.modules and registry is not EXPERIMENTS
    for name in registry.names()
]
KINDS = sorted(EXPERIMENTS.names())


def expect_ours(line: str, setting: str, method: str = "") -> None:
    """One line of ours: it names the setting, and says what was expected and what was got."""
    assert "\n" not in line
    assert THEIRS.search(line) is None, line
    assert f"'{setting}'" in line or f"'{setting}." in line, line
    assert "expected " in line, line
    assert ", got " in line, line
    assert method in line, line


@pytest.mark.parametrize(
    ("registry", "name"), METHODS, ids=lambda value: getattr(value, "kind", value)
)
def test_every_setting_of_every_method_is_refused_in_our_words(
    registry: Registry[Any], name: str
) -> None:
    method = registry.describe(name)
    for setting in method.model.model_fields:
        refused = 0
        for value in WRONG:
            try:
                method.check(registry.kind, {setting: value}, partly=True, table=registry.table)
            except ConfigError as error:
                refused += 1
                expect_ours(str(error), f"{registry.table}.{setting}", f" of {name}: ")
        assert refused >= 5, f"{setting} takes nearly anything"
    with pytest.raises(ConfigError, match=f"{name}' has no setting 'of_no_method'"):
        method.check(registry.kind, {"of_no_method": 1}, partly=True)


def settings_of(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The places of all settings of a table, those of tables in it among them."""
    for name, field in model.model_fields.items():
        yield (*above, name)
        if get_origin(field.annotation) is list:
            continue
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Table):
                yield from settings_of(kind, (*above, name))


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_of_every_kind_of_run_is_refused_in_our_words(kind: str) -> None:
    config = config_of(kind)
    for place in settings_of(config):
        refused = 0
        for value in (*WRONG, {"name": 5}, 10**30):
            given: Any = value
            for name in reversed(place):
                given = {name: given}
            try:
                config.build(given)
            except ConfigError as error:
                if re.search("is missing|expected grids", str(error)):  # the value passed
                    continue
                refused += 1
                if "no setting" not in str(error):  # in a table
                    expect_ours(str(error), ".".join(place))
        assert refused >= 3 or place in TAKES_MUCH, f"{place} takes nearly anything"


TAKES_MUCH = {("rows", name) for name in RowsConfig.model_fields}  # paths, written out


def config_of(kind: str) -> type[Run]:
    from advhash.cli.execute import config_of as of_kind

    return of_kind(kind)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Inner(BaseModel):
    depth: int


@dataclass
class Typed:
    size: int


def _third(value: Any) -> Any:
    if value == "custom":
        raise PydanticCustomError("of_a_package", "expected a colour,\n got custom")
    if value == "odd":
        raise AssertionError("expected an even one")
    return value


class Theirs(BaseModel):
    """A model as a package of others may bring it."""

    model_config = {"extra": "forbid"}

    share: Annotated[float, Field(ge=0, le=1)] = 0.5
    count: Annotated[int, Field(gt=0, lt=2**31)] = 4
    even: Annotated[int, Field(multiple_of=2)] = 4
    code: Annotated[str, Field(min_length=2, max_length=3)] = "ab"
    word: Annotated[str, Field(pattern="^[ab]+$")] = "ab"
    colour: Colour = Colour.RED
    mode: Literal["fast", "slow", "slower"] = "fast"
    size: int | Literal["stored"] = 3
    place: Path | None = None
    day: datetime.date | None = None
    inner: Inner | None = None
    typed: Typed | None = None
    inners: list[Inner] = []
    pair: tuple[int, str] = (1, "x")
    names: dict[str, list[int]] = {}
    unique: frozenset[str] = frozenset()
    third: Annotated[Any, BeforeValidator(_third)] = None
    levels: list[float] = [0.5, 1.0]

    @field_validator("levels")
    @classmethod
    def _ascending(cls, levels: list[float]) -> list[float]:
        if sorted(levels) != levels:
            raise ValueError("expected ascending levels")
        return levels


def fault_of(given: object, model: type[BaseModel] = Theirs) -> Fault:
    with pytest.raises(ValidationError) as got:
        model.model_validate(given)
    fault = first_fault(model, got.value, given)
    assert fault is not None
    return fault


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"share": 2}, "share: expected a number from 0 to 1, got 2"),
        ({"count": 10**5000}, "count: expected a whole number above 0 and below 2^31, got a whole"),
        ({"share": "x"}, "share: expected a number from 0 to 1, got 'x'"),
        ({"count": 0}, "count: expected a whole number above 0 and below 2^31, got 0"),
        ({"even": 3}, "even: expected a whole number, a multiple of 2, got 3"),
        ({"code": "a"}, "code: expected text, at least 2 long, at most 3 long, got 'a'"),
        ({"word": "c"}, "word: expected text of the form ^[ab]+$, got 'c'"),
        ({"colour": "rad"}, "colour: expected red or blue, got 'rad'; did you mean 'red'?"),
        ({"mode": "slwo"}, "mode: expected one of fast, slow, slower, got 'slwo'; did you"),
        ({"size": "store"}, "size: expected a whole number or stored, got 'store'; did you mean"),
        ({"size": 2.5}, "size: expected a whole number or stored, got 2.5"),
        ({"place": 3}, "place: expected a path, got 3"),
        ({"day": "soon"}, "day: expected a date, got 'soon'"),
        ({"inner": 3}, "inner: expected a table with depth, got 3"),
        ({"inner": {"depth": "x"}}, "inner.depth: expected a whole number, got 'x'"),
        ({"inner": {}}, "inner.depth is missing: expected a whole number"),
        ({"typed": {"size": []}}, "typed.size: expected a whole number, got []"),
        ({"inners": [{"depth": 1}, {"depth": "x"}]}, "inners.1.depth: expected a whole number"),
        ({"inners": 3}, "inners: expected a list of tables with depth, got 3"),
        ({"pair": [1]}, "pair.1 is missing: expected text"),
        ({"pair": 5}, "pair: expected a list of 2 whole numbers and texts, got 5"),
        ({"names": {"a": "x"}}, "names.a: expected a list of whole numbers, got 'x'"),
        ({"names": {"a": [1, "x"]}}, "names.a.1: expected a whole number, got 'x'"),
        ({"names": 3}, "names: expected a table of lists of whole numbers, got 3"),
        ({"unique": 3}, "unique: expected a list of texts, got 3"),
        ({"third": "custom"}, "third: expected a colour, got custom"),
        ({"third": "odd"}, "third: expected an even one, got 'odd'"),
        ({"levels": [2, 1]}, "levels: expected ascending levels, got [2, 1]"),
        ({"levels": [0.0] * 99 + ["x"]}, "levels.99: expected a number, got 'x'"),
        ({"levels": "x" * 999}, "levels: expected a list of numbers, got '" + "x" * 59 + " …"),
        ({"mod": "fast"}, "no 'mod': did you mean 'mode'? Known here: code, colour, count, day,"),
        ("x", "expected a table with code, colour, count, day,"),
    ],
)  # fmt: skip
def test_models_of_packages_are_described_as_ours_are(given: Any, said: str) -> None:
    assert str(fault_of(given)).startswith(said)


def test_a_misspelt_setting_goes_before_one_that_is_missing_for_it() -> None:
    class Needs(Theirs):
        wanted: int

    assert fault_of({"wantet": 3}, Needs).where == "wantet"


@pytest.mark.parametrize(
    ("given", "example"),
    [
        ({"levels": 3}, "levels=[0.5, 1.0]"),
        ({"share": "x"}, "share=0.5"),
        ({"code": 5}, 'code="5"'),
        ({"share": 2}, ""),
        ({"mode": "quick"}, ""),
        ({"place": 3}, ""),
    ],
)
def test_the_next_step_is_a_value_that_would_do(given: dict[str, Any], example: str) -> None:
    line = str(refusal(fault_of(given)))
    assert line.partition("; e.g. ")[2] == example


class Left(BaseModel):
    model_config = ConfigDict(extra="forbid")
    n: int


class Right(BaseModel):
    model_config = ConfigDict(extra="forbid")
    m: int


class Either(BaseModel):
    side: Left | Right


@pytest.mark.parametrize("given", [{"n": "x"}, {"zz": 1}, {}])
def test_what_fits_no_table_of_several_is_told_what_each_has(given: dict[str, Any]) -> None:
    """Pydantic names the class that it tried, which is no place in a config."""
    fault = fault_of({"side": given}, Either)
    assert fault.where == "side"
    assert fault.said.startswith("expected a table with n or a table with m, got {")


def test_what_is_missing_may_come_later() -> None:
    with pytest.raises(ValidationError) as got:
        Inner.model_validate({})
    assert first_fault(Inner, got.value, {}, partly=True) is None


def test_a_damaged_card_is_described_by_the_names_in_its_file() -> None:
    assert (
        str(fault_of({"schema": "other"}, Card)) == "schema: expected advhash/victim/1, got 'other'"
    )


def test_the_settings_of_a_store_are_named_with_the_tables_above(tmp_path: Path) -> None:
    store = {"name": "faiss-ivf", "probes": "x"}
    given = {"victim": {"name": "dpsh"}, "attack": {"name": "dhta"}, "protocol": {"store": store}}
    with pytest.raises(ConfigError, match=r"'protocol\.store\.probes' of faiss-ivf"):
        check_methods(config_of("attack").build(given))
