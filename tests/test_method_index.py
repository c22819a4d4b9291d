"""The index of methods, which is read instead of importing them, says what they say themselves.

`python tests/test_method_index.py` writes it anew.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic.fields import FieldInfo

from advhash import registry
from advhash.errors import ConfigError
from advhash.registry import INDEX, Entry, Listed, Method, Registry

REGISTRIES: list[Registry[Any]] = [
    one for one in vars(registry).values() if isinstance(one, Registry)
]
by_kind = pytest.mark.parametrize("methods", REGISTRIES, ids=lambda one: one.kind)


def setting(field: FieldInfo) -> str:
    """`int = 100`, or `int` where it must be given."""
    kind: Any = field.annotation
    text = kind.__name__ if isinstance(kind, type) else repr(kind)
    return text if field.is_required() else f"{text} = {field.default!r}"


def record(methods: Registry[Any], entry: Entry[Any]) -> dict[str, Any]:
    """What the index keeps of a method."""
    return {
        "module": entry.build.__module__,
        "source": entry.source,
        "summary": entry.summary,
        "presets": entry.presets,
        "settings": {name: setting(field) for name, field in entry.model.model_fields.items()},
        "facts": {name: entry.fact(name) for name in methods.facts},
    }


def ours(methods: Registry[Any]) -> list[Entry[Any]]:
    return [entry for entry in methods if not entry.digest]


def written() -> str:
    found = {
        methods.kind: {
            entry.name: {key: value for key, value in record(methods, entry).items() if value}
            for entry in ours(methods)
        }
        for methods in REGISTRIES
    }
    return json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def test_the_index_is_what_the_methods_say() -> None:
    assert written() == INDEX.read_text("utf-8"), f"`python {__file__}` writes {INDEX} anew"


def refusal(known: Method, kind: str, given: dict[str, Any]) -> str | None:
    try:
        known.check(kind, given, partly=True)
    except ConfigError as error:
        return str(error)
    return None


@by_kind
def test_the_index_refuses_what_the_methods_refuse_in_the_same_words(
    methods: Registry[Any],
) -> None:
    for entry in ours(methods):
        listed = Listed(entry.name, json.loads(INDEX.read_text("utf-8"))[methods.kind][entry.name])
        for name in (*entry.model.model_fields, "preset", "unheard"):
            for value in ("?", 2.5, -1, None, True, ["?"], [2.5], {"?": 1}):
                expected = refusal(entry, methods.kind, {name: value})
                assert refusal(listed, methods.kind, {name: value}) == expected, (name, value)
        for preset in entry.presets:
            assert refusal(listed, methods.kind, {"preset": preset}) is None
        assert refusal(listed, methods.kind, {"unheard": 1}) is not None


if __name__ == "__main__":
    INDEX.write_text("{}", "utf-8")  # whatever it holds, methods register
    INDEX.write_text(written(), "utf-8")
