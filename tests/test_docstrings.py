"""Every example in a docstring says the truth."""

from __future__ import annotations

import ast
import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("advhash", "victims", "attacks", "defenses", "reports")


def modules() -> list[str]:
    names = []
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).glob("*.py")):
            package = "advhash" if folder == "advhash" else f"advhash.{folder}"
            names.append(package if file.stem == "__init__" else f"{package}.{file.stem}")
    return names


@pytest.mark.parametrize("name", modules())
def test_examples_of_a_module_are_true(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = {
        name: sum(len(test.examples) for test in finder.find(importlib.import_module(name)))
        for name in modules()
    }
    assert examples["advhash.metrics"] > 0
    assert sum(examples.values()) >= 10


@pytest.mark.parametrize("name", modules())
def test_a_module_says_what_it_is_for(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    summary = ast.get_docstring(ast.parse(Path(module.__file__).read_text("utf-8")))
    assert summary
    assert summary.partition("\n")[0].rstrip().endswith((".", ":")), summary
