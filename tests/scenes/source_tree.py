"""The tree as the tests of the house see it: modules, what they import, where they lie."""

from __future__ import annotations

import ast
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Real data, where they lie beside the tree or where ADVHASH_DATA says.
SHARED = Path(os.environ.get("ADVHASH_DATA", ROOT.parent / "shared/data"))
FOLDERS = ("advhash", "victims", "attacks", "defenses", "reports")
FILES = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]


def named(file: Path) -> str:
    """The module in this file: `victims/base.py` is `advhash.victims.base`."""
    parts = list(file.relative_to(ROOT).with_suffix("").parts)
    if parts[-1] == "__init__":
        parts.pop()
    return ".".join(parts if parts[0] == "advhash" else ["advhash", *parts])


MODULES = {named(file): file for file in FILES}


def path_of(module: str) -> Path:
    return MODULES[module]


def folder_of(module: str) -> str:
    """The first folder of a module under advhash; "ground" where it lies in none."""
    parts = module.split(".")
    if len(parts) > 2 or (MODULES.get(module, Path()).name == "__init__.py" and len(parts) > 1):
        return parts[1]
    return "ground"


def _is_type_checking(test: ast.expr) -> bool:
    return ast.unparse(test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes below, except what only type checkers see."""
    for child in ast.iter_child_nodes(node):
        if isinstance(node, ast.If) and _is_type_checking(node.test) and child in node.body:
            continue
        yield child
        yield from _running(child)


def imports(source: str, *, typed: bool = False) -> set[str]:
    """What of advhash running this source imports, inside functions too.

    `from advhash.data import x` counts as `advhash.data.x`, which may be a module or a name.

    typed: also what only type checkers import
    """
    found = set()
    tree = ast.parse(source)
    for node in ast.walk(tree) if typed else _running(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "advhash"}


@cache
def modules_of(file: Path, *, typed: bool = False) -> frozenset[str]:
    """The modules of advhash that a file imports; `typed`: or names for type checkers."""
    found = set()
    for name in imports(file.read_text("utf-8"), typed=typed):
        while name not in MODULES:
            name = name.rpartition(".")[0]
        found.add(name)
    return frozenset(found - {named(file)})
