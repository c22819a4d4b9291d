"""What earlier work took, as a hint: noted in a file of the cache, or nowhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from advhash.experiments.costs import Costs, note_cost


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache" / "costs.jsonl"


def test_what_is_noted_is_read(file: Path) -> None:
    note_cost("attack", ["dhta"], 10, 20.0)
    assert Costs.read().rates["attack",] == [2.0]


def test_neither_a_link_is_followed_nor_a_pipe_waited_for(file: Path, tmp_path: Path) -> None:
    """Another user of a shared cache can put either there."""
    other = tmp_path / "other"
    other.write_text("kept")
    file.symlink_to(other)
    note_cost("attack", ["dhta"], 10, 20.0)
    assert other.read_text() == "kept"
    file.unlink()
    os.mkfifo(file)
    note_cost("attack", ["dhta"], 10, 20.0)
    assert file.is_fifo()
