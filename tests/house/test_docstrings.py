"""Every example in a docstring says the truth, and every public name has one."""

from __future__ import annotations

import ast
import doctest
import importlib
from pathlib import Path

import pytest
from source_tree import FILES, named

import advhash
from advhash.api.figures import Figures
from advhash.api.result import AttackResult

MODULES = [named(file) for file in FILES]
PUBLIC = [getattr(advhash, name) for name in advhash.__all__ if name != "__version__"]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module_are_true_and_leave_no_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("public", [*PUBLIC, AttackResult, Figures], ids=lambda one: one.__name__)
def test_every_public_name_has_an_example_that_the_module_runs(public: type) -> None:
    found = doctest.DocTestFinder().find(importlib.import_module(public.__module__))
    examples = {test.name: test.examples for test in found}
    assert examples[f"{public.__module__}.{public.__qualname__}"]


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
