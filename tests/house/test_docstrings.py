"""Every example in a docstring says the truth."""

from __future__ import annotations

import ast
import doctest
import importlib
from pathlib import Path

import pytest
from source_tree import FILES, named

MODULES = [named(file) for file in FILES]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module_are_true(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    examples = {
        name: sum(len(test.examples) for test in finder.find(importlib.import_module(name)))
        for name in MODULES
    }
    assert examples["advhash.codes.metrics"] > 0
    assert sum(examples.values()) >= 10


@pytest.mark.parametrize("name", MODULES)
def test_a_module_says_what_it_is_for(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__file__ is not None
    summary = ast.get_docstring(ast.parse(Path(module.__file__).read_text("utf-8")))
    assert summary
    assert summary.partition("\n")[0].rstrip().endswith((".", ":")), summary
