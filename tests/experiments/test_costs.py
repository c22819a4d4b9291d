"""What earlier work took, as a hint: noted in a file of the cache, or brought along."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from advhash.experiments.costs import KEPT, Costs, Work, foretold, note_cost, passes
from advhash.registry import ATTACKS


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache" / KEPT


def test_what_is_noted_is_read(file: Path) -> None:
    note_cost(Work("attack", ["dhta"], 10), 20.0)
    assert Costs.read().rates["attack",] == [2.0]


def test_neither_a_link_is_followed_nor_a_pipe_waited_for(file: Path, tmp_path: Path) -> None:
    """Another user of a shared cache can put either there."""
    other = tmp_path / "other"
    other.write_text("kept")
    file.symlink_to(other)
    note_cost(Work("attack", ["dhta"], 10), 20.0)
    assert other.read_text() == "kept"
    file.unlink()
    os.mkfifo(file)
    note_cost(Work("attack", ["dhta"], 10), 20.0)
    assert file.is_fifo()


def test_the_reference_answers_until_this_machine_knows(file: Path) -> None:
    work = Work("attack", ["dhta", "dhta+steps=10", "digits"], 10)
    assert foretold([work])["by_reference"] == 1
    note_cost(Work("attack", ["noise", "noise", "digits"], 10), 30.0)
    assert foretold([work])["by_reference"] == 1  # what it knows is of another attack
    note_cost(Work("attack", ["dhta", "dhta", "openmoji"], 10), 20.0)
    plan = foretold([work, Work("attack", ["of a package"], 10)])
    assert plan["by_reference"] == plan["unknown_costs"] == 0
    assert plan["uncertain_costs"] == 1
    assert plan["seconds"] == pytest.approx(20 + 10 * 2.5)
    assert foretold([Work("no such kind", ["dhta"], 1)])["seconds"] is None


UNMEASURED = {"synonyms", "synonyms-untargeted"}  # they want an encoder of texts that users name


@pytest.mark.parametrize("name", sorted({*ATTACKS.names()} - UNMEASURED))
def test_every_attack_has_its_reference(name: str) -> None:
    reference = Costs.reference()
    assert reference.shared(Work("attack", [name], 1)) == 1
    assert reference.shared(Work("fit", [name], 1)) == 1


def test_passes_are_what_the_settings_multiply() -> None:
    assert passes({}) == passes({"queries": None, "neighbours": 0}) == 1
    assert passes({"steps": 100, "restarts": 2, "neighbours": 4, "rest": True}) == 1000
