"""`__all__` stands where a package shows its face, and says exactly what the face shows."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path

import pytest
from source_tree import FILES, ROOT, named


def public_list(file: Path) -> list[str] | None:
    """The names in the `__all__` of a file; None where it has none."""
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return None


PACKAGES = [file for file in FILES if file.name == "__init__.py" and named(file) != "advhash"]
FACES = [file for file in FILES if public_list(file) is not None]


def test_only_packages_have_faces() -> None:
    assert {file.name for file in FACES} == {"__init__.py"}
    assert {"advhash", "advhash.api", "advhash.codes", "advhash.data"} <= set(map(named, FACES))


@pytest.mark.parametrize("file", FACES, ids=lambda f: str(f.relative_to(ROOT)))
def test_a_face_shows_what_it_lists(file: Path) -> None:
    names = public_list(file)
    assert names is not None
    assert len(names) == len(set(names))
    module = import_module(named(file))
    assert not [name for name in names if not hasattr(module, name)]


@pytest.mark.parametrize("file", PACKAGES, ids=lambda f: str(f.relative_to(ROOT)))
def test_what_a_package_imports_for_others_is_listed(file: Path) -> None:
    imported = {
        alias.asname or alias.name
        for node in ast.parse(file.read_text("utf-8")).body
        if isinstance(node, ast.ImportFrom) and node.module != "__future__"
        for alias in node.names
    }
    assert imported == set(public_list(file) or [])
