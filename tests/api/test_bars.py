"""Calls from Python show how far they are where a person watches, and nowhere else."""

from __future__ import annotations

import io
import sys

import pytest

import advhash as ah
from advhash.api.bars import shown
from advhash.compute.progress import OVERALL


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_each_stage_and_the_first_again_from_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    with shown(None) as progress:
        for done in (0, 4, 8, 1):
            progress("training", done, 8, loss=0.25)
        progress("attacking", 5, 5)
        progress(OVERALL, 1, 2)
    text = screen.getvalue()
    assert text.count("training:   0%") >= 2  # it went back: a bar of its own
    assert "0/8" in text
    assert "attacking" in text
    assert OVERALL not in text


def test_nothing_is_shown_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(None) as progress:
        progress("training", 1, 2)
    victim = ah.train("dhash", "digits", bits=64)
    ah.attack(victim, method="noise", eps="8/255", protocol={"queries": 3})
    assert capsys.readouterr().err == ""


def test_a_progress_that_is_given_is_told_instead() -> None:
    told: list[str] = []
    victim = ah.train("dhash", "digits", progress=lambda stage, *_, **__: told.append(stage))
    ah.attack(
        victim, method="noise", eps="8/255", protocol={"queries": 3},
        progress=lambda stage, *_, **__: told.append(stage),
    )  # fmt: skip
    assert "attacking queries" in told
