"""What is cached is thrown away when what determines it changes, and at no other time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from source_tree import FILES, FOLDERS, ROOT, folder_of, modules_of, named, path_of

from advhash.experiments.prepare import code_key
from advhash.experiments.prepare.code_key import GROUND, PREPARED, _origin, code_version

SHOWING = {"reports", "cli", "api"}  # determine nothing that is kept
CARRIERS = {  # of settings, whose values are in the keys, of cells, costs and the version
    "advhash",
    "advhash._version",
    "advhash.experiments",
    "advhash.experiments.config",
    "advhash.experiments.config_text",
    "advhash.experiments.costs",
    "advhash.experiments.experiment",
}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def key(copy: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """`code_version` as it is where the sources are those of the copy."""

    def origin(name: str) -> Path:
        return copy / path_of(f"advhash.{name}").relative_to(ROOT)

    monkeypatch.setattr(code_key, "_origin", origin)
    return code_version.__wrapped__


def test_the_sources_are_those_that_run() -> None:
    for name in (*GROUND, *PREPARED, "experiments.lifelong"):
        assert _origin(name) == path_of(f"advhash.{name}")


@pytest.mark.parametrize(
    ("file", "victims", "cells"),
    [
        ("victims/objectives.py", True, True),
        ("advhash/codes/metrics.py", True, True),
        ("advhash/experiments/prepare/ceiling.py", True, True),
        ("advhash/budget.py", True, True),
        ("advhash/experiments/lifelong/cell.py", False, True),
        ("advhash/experiments/phase/cell.py", False, False),
        ("advhash/cli/commands/lifelong.py", False, False),
        ("advhash/api/calls.py", False, False),
        ("reports/page/render.py", False, False),
        ("reports/lifelong/lifelong.html", False, False),
        ("reports/lifelong/chapter.py", False, False),
    ],
)
def test_keys_change_with_what_decides(
    copy: Path, key: Callable[..., str], file: str, victims: bool, cells: bool
) -> None:
    """Keys of victims, fitted attacks and ceilings; keys of the cells of `advhash lifelong`."""
    before = key(), key("experiments.lifelong")
    source = (copy / file).read_text("utf-8")
    try:
        (copy / file).write_text(source + "\n# changed\n")
        after = key(), key("experiments.lifelong")
    finally:
        (copy / file).write_text(source)
    assert tuple(one != other for one, other in zip(before, after, strict=True)) == (
        victims,
        cells,
    )


def inside(module: str, folders: tuple[str, ...]) -> bool:
    return any(f"{module}.".startswith(f"advhash.{name}.") for name in folders)


def reached(folders: tuple[str, ...]) -> set[str]:
    """All modules that those of these folders import, and what these import in turn."""
    waiting = [named(file) for file in FILES if inside(named(file), folders)]
    found: set[str] = set()
    while waiting:
        module = waiting.pop()
        if module in found or folder_of(module) in SHOWING or module in CARRIERS:
            continue
        found.add(module)
        waiting += modules_of(path_of(module))
    return found


def test_what_decides_over_victims_imports_nothing_else() -> None:
    known = (*GROUND, *PREPARED)
    assert {module for module in reached(PREPARED) if not inside(module, known)} == set()


@pytest.mark.parametrize(
    "kind",
    [
        *("attack", "benchmark", "certify", "detect", "encode", "evolve", "invert", "judge"),
        *("least_change", "lifelong", "phase", "poison", "scan", "transfer"),
    ],
)
def test_what_decides_over_cells_imports_nothing_else(kind: str) -> None:
    """They attack, and hash that beside their own folder; some draw what detectors see.

    Stores serve what is judged of an attack; of the others no cell searches in one. Suites hold
    cells of `poison`.
    """
    own = ("stores", "experiments.attack", f"experiments.{kind}")
    drawn = ("experiments.detect",) if kind in ("encode", "invert") else ()
    drawn += ("experiments.poison",) if kind == "benchmark" else ()
    known = (*GROUND, *PREPARED, *own, *drawn)
    modules = reached((f"experiments.{kind}",))
    assert {module for module in modules if not inside(module, known)} == set()
