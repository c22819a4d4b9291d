"""Whatever happens to a file of the cache, no run believes it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from small_runs import COMMANDS, options_of, run, timeless

from advhash.errors import StorageError

HINTS = {"costs.jsonl"}  # what `--dry-run` foretells: no figure of a run


def cut(file: Path, _: list[Path]) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flip(file: Path, _: list[Path]) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) * 2 // 3] ^= 4
    file.write_bytes(content)


def empty(file: Path, _: list[Path]) -> None:
    file.write_bytes(b"")


def swap(file: Path, files: list[Path]) -> None:
    """With its nearest sibling: one of the same name, else of the same folder, else any other."""
    others = [one for one in files if one != file]

    def distance(one: Path) -> tuple[bool, ...]:
        return one.name != file.name, one.parent != file.parent, one.suffix != file.suffix

    sibling = min(others, key=distance)
    content = file.read_bytes()
    file.write_bytes(sibling.read_bytes())
    sibling.write_bytes(content)


def pieces_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the pieces of finished cells, the states of trainings and of searches in the cache."""
    rmtree = shutil.rmtree

    def kept(path: str | Path, *rest: object, **how: object) -> None:
        if not {"unfinished", "training", "searches"} & set(Path(path).parts):
            rmtree(path, *rest, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(shutil, "rmtree", kept)


KINDS = (
    *("fitted", "prosgan", "attack", "certify", "detect", "evolve", "invert"),
    *("lifelong", "phase-chart", "benchmark", "transfer", "encode"),
)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_no_damaged_file_of_the_cache_is_believed(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each file cut, with another bit, empty, and swapped with a sibling: rebuilt or refused."""
    options, whole, cache = options_of(kind, tmp_path), tmp_path / "whole", tmp_path / "cache"
    command = COMMANDS.get(kind, kind)
    monkeypatch.setenv("ADVHASH_CACHE", str(whole))
    with monkeypatch.context() as patch:
        pieces_kept(patch)
        run(command, *options, "--out", tmp_path / "run")
    wanted = timeless(json.loads((tmp_path / "run" / "metrics.json").read_text()))
    monkeypatch.setenv("ADVHASH_CACHE", str(cache))
    names = [
        path.relative_to(whole)
        for path in sorted(whole.rglob("*"))
        if path.is_file() and path.name not in HINTS
    ]
    assert len(names) >= 6
    damages: list[Callable[[Path, list[Path]], None]] = [cut, flip, empty, swap]
    for name in names:
        for damage in damages:
            shutil.rmtree(cache, ignore_errors=True)
            shutil.copytree(whole, cache)
            if name.parts[0] != command:  # else the cells would do without what they are made of
                shutil.rmtree(cache / command, ignore_errors=True)
            files = [cache / one for one in names if (cache / one).is_file()]
            damage(cache / name, files)
            out = tmp_path / "again"
            try:
                run(command, *options, "--out", out)
            except StorageError:
                continue
            found = timeless(json.loads((out / "metrics.json").read_text()))
            assert found == wanted, f"{name}, {damage.__name__}"
            shutil.rmtree(out)
