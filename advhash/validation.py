"""What pydantic refuses, in words of ours: which setting, what was expected, what was got.

`first_fault` is the one door: what is expected is read from the annotation of the field, so that
the models of other packages are described as ours are. `WORDS` is the table of types.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import inspect
import json
import types
import typing
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_core.core_schema import ErrorType

from advhash.errors import ConfigError, MissingSetting, SettingError, nearest

WORDS: dict[type, tuple[str, str]] = {  # singular and plural
    bool: ("true or false", "values true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "texts"),
    bytes: ("bytes", "bytes"),
    Path: ("a path", "paths"),
    datetime.datetime: ("a date with a time", "dates with times"),
    datetime.date: ("a date", "dates"),
    type(None): ("nothing", "nothing"),
}
LISTS = (list, tuple, set, frozenset, Sequence, Set, Iterable)
TABLES = (dict, Mapping)
CONSTRAINTS = (  # as annotated_types, pydantic and, for `min` and `max`, Typer call them
    *("gt", "ge", "lt", "le", "min", "max"),
    *("multiple_of", "min_length", "max_length", "pattern"),
)
LONGEST = 60  # characters of a value that is shown
OWN_WORDS = ("value_error", "assertion_error")  # a validator's, which pydantic puts words before
PYDANTIC = {*get_args(ErrorType), "path_type"}
LATER = {"extra_forbidden": 0, "missing": 2}  # a misspelt setting explains one that is missing


@dataclass(frozen=True)
class Expected:
    """What an annotation and its constraints ask for; default: of the field, None where it has
    none."""

    annotation: Any
    constraints: tuple[Any, ...] = ()
    default: Any = None

    @property
    def choices(self) -> list[str]:
        """The values that it lists, as one types them."""
        return [str(value) for value in _choices(_unwrapped(self)[0])]


@dataclass(frozen=True)
class Fault:
    """The first thing that is wrong.

    where:   the setting, with dots; "" where the whole is wrong
    kind:    unknown, missing or wrong
    said:    what was expected and what was got; the known settings of one that is unknown
    example: a value of the setting that would do, as one writes it; "" where the words suffice
    """

    where: str
    kind: Literal["unknown", "missing", "wrong"]
    said: str
    example: str = ""

    def __str__(self) -> str:
        if self.kind == "unknown":
            return f"no {self.where!r}: {self.said}"
        if self.kind == "missing":
            return f"{self.where} is missing: {self.said}"
        return f"{self.where}: {self.said}" if self.where else self.said


def refusal(fault: Fault, *, table: str = "", method: str = "") -> ConfigError:
    """The error of a setting that was refused.

    table, method: of a method's own settings: the table that names it, and its name
    """
    where = ".".join(filter(None, (table, fault.where)))
    if fault.kind == "unknown":
        return ConfigError(f"no setting {where!r}{method and f' of {method}'}: {fault.said}")
    if fault.kind == "missing":
        return MissingSetting(where, fault.said, of=method)
    if not where:
        return ConfigError(fault.said)
    return SettingError(where, fault.said, of=method, example=fault.example)


def first_fault(
    model: type[BaseModel], error: ValidationError, given: object, *, partly: bool = False
) -> Fault | None:
    """What a model refused of what it was given.

    partly: what is missing will come later; None where nothing else is wrong
    """
    faults = [
        fault
        for fault in error.errors(include_url=False)
        if not (partly and fault["type"] == "missing")
    ]
    if not faults:
        return None
    first = min(faults, key=lambda fault: LATER.get(fault["type"], 1))
    path, expected = _walk(model, first["loc"])
    where = ".".join(map(str, path))
    above, table = _walk(model, first["loc"][:-1])
    if first["type"] == "extra_forbidden" and len(above) == len(first["loc"]) - 1:
        known = sorted(_fields(table.annotation))
        near = nearest(str(first["loc"][-1]), known)
        where = ".".join(str(part) for part in first["loc"])
        return Fault(where, "unknown", f"{near}Known here: {', '.join(known)}")
    if first["type"] == "missing" and len(path) == len(first["loc"]):
        return Fault(where, "missing", f"expected {described(expected)}", example(expected))
    if first["type"] in OWN_WORDS or first["type"] not in PYDANTIC:
        return Fault(where, "wrong", _own_words(first))
    if first["type"] in ("too_short", "too_long") and len(path) == len(first["loc"]):
        few, limits = first["type"] == "too_short", first["ctx"]
        most = f"least {limits['min_length']}" if few else f"most {limits['max_length']}"
        return Fault(where, "wrong", f"expected at {most}, got {limits['actual_length']}")
    got = first["input"] if len(path) == len(first["loc"]) else _at(given, path, first["input"])
    said = described(expected)
    if first["type"] == "finite_number":
        said = said.replace("a number", "a finite number")
    near = nearest(got, expected.choices) if isinstance(got, str) else ""
    hint = f"; {near.strip()}" if near else ""
    return Fault(where, "wrong", f"expected {said}, got {shown(got)}{hint}", example(expected, got))


def described(expected: Expected, *, plural: bool = False) -> str:
    """An annotation in plain words.

    >>> described(Expected(float)), described(Expected(tuple[int, ...]))
    ('a number', 'a list of whole numbers')
    >>> described(Expected(Literal["a", "b", "c"])), described(Expected(int | Literal["stored"]))
    ('one of a, b, c', 'a whole number or stored')
    """
    annotation, constraints = _unwrapped(expected)
    bounds = _bounds(constraints)
    members = _members(annotation)
    if len(members) > 1:
        parts = [described(Expected(member, constraints), plural=plural) for member in members]
        return " or ".join(dict.fromkeys(parts))
    if choices := _choices(annotation):
        listed = ", ".join(map(str, choices))
        if plural:
            return f"values out of {listed}"
        return " or ".join(map(str, choices)) if len(choices) < 3 else f"one of {listed}"
    origin = get_origin(annotation) or annotation
    if origin in LISTS:
        return _listed(annotation, bounds, plural=plural)
    if origin in TABLES or _is_table(annotation):
        return _tabled(annotation, plural=plural)
    if isinstance(origin, type):
        for kind in origin.__mro__:
            if kind in WORDS:
                return WORDS[kind][plural] + bounds
        if origin is not object:
            return f"{'values' if plural else 'a value'} of type {origin.__name__}"
    return "values" if plural else "a value"


def shown(value: object) -> str:
    """A value as people see it, on one line, shortened."""
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a whole number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"


def example(expected: Expected, got: object = None) -> str:
    """A value that would do, as one writes it in a config; "" where the words say it all."""
    annotation, _ = _unwrapped(expected)
    members = _members(annotation)
    if str in members and isinstance(got, bool | int | float):
        return json.dumps(str(got))
    if _choices(annotation) or (isinstance(got, int | float) and {int, float} & set(members)):
        return ""
    default = expected.default
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, int | float):
        return f"{default:g}" if isinstance(default, float) else str(default)
    if isinstance(default, str):
        return default
    if isinstance(default, list | tuple) and default:
        try:
            return json.dumps(default)
        except TypeError:
            return ""
    return ""


def _own_words(fault: ErrorDetails) -> str:
    """What a validator said, without pydantic's words before it."""
    behind = fault.get("ctx", {}).get("error")
    text = str(behind) if fault["type"] in OWN_WORDS and behind is not None else fault["msg"]
    said = " ".join(text.split()) or "expected another value"
    return said if not fault["loc"] or "got " in said else f"{said}, got {shown(fault['input'])}"


def _walk(model: type[BaseModel], places: Sequence[int | str]) -> tuple[list[int | str], Expected]:
    """How far the place of a fault can be followed, and what is expected there.

    Of several kinds that a value may have, pydantic names the one that it tried, which is no place.
    """
    path: list[int | str] = []
    expected = Expected(model)
    for place in places:
        annotation, _ = _unwrapped(expected)
        origin, members = get_origin(annotation) or annotation, _members(annotation)
        arguments = get_args(annotation)
        if len(members) > 1:
            break
        fields = _fields(annotation)
        if place in fields:
            expected = fields[str(place)]
        elif origin in LISTS and isinstance(place, int) and arguments:
            fixed = origin is tuple and arguments[-1] is not Ellipsis
            if fixed and place >= len(arguments):
                break
            expected = Expected(arguments[place if fixed else 0])
        elif origin in TABLES and len(arguments) == 2:
            expected = Expected(arguments[1])
        else:
            break
        path.append(place)
    return path, expected


def _at(given: object, path: Iterable[int | str], otherwise: object) -> object:
    """What was given at a place."""
    for place in path:
        try:
            given = given[place]  # type: ignore[index]
        except (TypeError, KeyError, IndexError):
            return otherwise
    return given


def _unwrapped(expected: Expected) -> tuple[Any, tuple[Any, ...]]:
    """An annotation without `Annotated` and `| None`, and all its constraints."""
    annotation, constraints = expected.annotation, expected.constraints
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            for each in more:
                constraints += tuple(each.metadata) if isinstance(each, FieldInfo) else (each,)
        elif len(members := _members(annotation)) == 1 and members[0] is not annotation:
            annotation = members[0]
        else:
            return annotation, constraints


def _members(annotation: Any) -> tuple[Any, ...]:
    """The kinds that a value may have, None apart."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return (annotation,)
    members = tuple(kind for kind in get_args(annotation) if kind is not type(None))
    return members or (type(None),)


def _choices(annotation: Any) -> list[Any]:
    """The values that an annotation lists."""
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return [member.value for member in annotation]
    members = _members(annotation)
    return [] if len(members) == 1 else [value for kind in members for value in _choices(kind)]


def _is_table(annotation: Any) -> bool:
    return isinstance(annotation, type) and (
        issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)
    )


def _fields(annotation: Any) -> dict[str, Expected]:
    """The settings of a table by the names under which they are given; {} of what is none."""
    if not _is_table(annotation):
        return {}
    if not issubclass(annotation, BaseModel):
        hints = typing.get_type_hints(annotation, include_extras=True)
        return {name: Expected(kind) for name, kind in hints.items()}
    fields = {}
    for name, field in annotation.model_fields.items():
        aliases = getattr(field.validation_alias, "choices", [field.validation_alias])
        for called in [name, field.alias, *aliases]:
            if isinstance(called, str):
                fields[called] = _field(field)
    return fields


def _field(field: FieldInfo) -> Expected:
    default = None if field.is_required() else field.get_default(call_default_factory=False)
    return Expected(field.annotation, tuple(field.metadata), default)


def _tabled(annotation: Any, *, plural: bool) -> str:
    word = "tables" if plural else "a table"
    if keys := ", ".join(sorted(_fields(annotation))):
        return f"{word} with {keys}"
    *_, values = get_args(annotation) or (Any,)
    return word if values is Any else f"{word} of {described(Expected(values), plural=True)}"


def _listed(annotation: Any, bounds: str, *, plural: bool) -> str:
    arguments = get_args(annotation)
    word = "lists" if plural else "a list"
    if get_origin(annotation) is tuple and arguments and arguments[-1] is not Ellipsis:
        kinds = dict.fromkeys(described(Expected(kind), plural=True) for kind in arguments)
        return f"{word} of {len(arguments)} {' and '.join(kinds)}"
    if not arguments or arguments[0] in (Any, object):
        return word + bounds
    return f"{word} of {described(Expected(arguments[0]), plural=True)}{bounds}"


def _bounds(constraints: Iterable[Any]) -> str:
    """Constraints in words, each after a blank.

    >>> from annotated_types import Ge, Gt, Le, Lt, MinLen
    >>> _bounds([Ge(0), Le(1)]), _bounds([Gt(0), Lt(2**63)]), _bounds([MinLen(1)])
    (' from 0 to 1', ' above 0 and below 2^63', ', not empty')
    """
    limits: dict[str, Any] = {}
    for constraint in constraints:
        for name in CONSTRAINTS:
            value = getattr(constraint, name, None)
            if value is not None and not inspect.isroutine(value):
                limits[{"min": "ge", "max": "le"}.get(name, name)] = value
    sides = {name: _number(limit) for name, limit in limits.items()}
    if {"ge", "le"} <= set(sides):
        said = f" from {sides['ge']} to {sides['le']}"
    else:
        words = {"gt": "above", "ge": "of at least", "lt": "below", "le": "of at most"}
        said = " and".join(
            f" {word} {sides[name]}" for name, word in words.items() if name in sides
        )
    if "multiple_of" in sides:
        said += f", a multiple of {sides['multiple_of']}"
    if limits.get("min_length") == 1 and "max_length" not in limits:
        said += ", not empty"
    elif limits.get("min_length"):
        said += f", at least {limits['min_length']} long"
    if "max_length" in limits:
        said += f", at most {limits['max_length']} long"
    if "pattern" in limits:
        pattern = limits["pattern"]
        said += f" of the form {getattr(pattern, 'pattern', pattern)}"
    return said


def _number(limit: Any) -> str:
    if isinstance(limit, int) and limit >= 2**31 and limit.bit_count() == 1:
        return f"2^{limit.bit_length() - 1}"
    return f"{limit:,}" if isinstance(limit, int) and abs(limit) >= 10_000 else str(limit)
