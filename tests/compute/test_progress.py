"""How far work is: numbered steps, a clock for each passage through a stage, an overall line."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from advhash.cli import console
from advhash.compute.progress import OVERALL, Clocks, Steps

Call = tuple[str, int, int]


class Heard:
    def __init__(self) -> None:
        self.calls: list[Call] = []

    def __call__(self, stage: str, done: int, total: int, **figures: float) -> None:
        self.calls.append((stage, done, total))


def test_a_stage_that_comes_again_has_a_clock_of_its_own() -> None:
    """A second decoder of 60 epochs was said to have 10,501 s left instead of 451."""
    clocks = Clocks()
    for epoch in range(1, 61):
        clocks.tell("decoder", epoch, 60, 10.0 * epoch)
    first = clocks.tell("decoder", 1, 60, 1000.0)
    assert (first.number, first.left(1000.0)) == (2, None)
    assert clocks.tell("decoder", 3, 60, 1020.0).left(1020.0) == 570.0
    early = clocks.tell("decoder", 1, 60, 2000.0)  # the one before stopped early
    assert early.number == 3
    assert clocks.tell("decoder", 2, 80, 3000.0).number == 4, "another length"
    assert clocks.tell("other", 40, 60, 4000.0).number == 1
    resumed = clocks.tell("other", 42, 60, 4020.0)
    assert resumed.left(4020.0) == 180.0, "what was done before does not count"
    assert clocks.tell("other", 60, 60, 4200.0).left(4200.0) is None


def test_steps_are_numbered_and_the_whole_is_told() -> None:
    heard = Heard()
    steps = Steps(heard)
    steps.expect(5)
    steps.begin()
    steps("victim", 1, 2)
    steps.begin()
    steps("decoder", 3, 60)
    beside = steps.beside()
    for done in range(3):
        beside("cells", done, 2)
    steps.begin()
    steps("comparing", 1, 1)
    steps.finish()
    assert [call for call in heard.calls if call[0] != OVERALL] == [
        ("step 1 of 5: victim", 1, 2), ("step 2 of 5: decoder", 3, 60),
        ("cells", 0, 2), ("cells", 1, 2), ("cells", 2, 2), ("step 5 of 5: comparing", 1, 1),
    ]  # fmt: skip
    whole = [done for stage, done, total in heard.calls if stage == OVERALL and total == 5]
    assert whole == sorted(whole)
    assert (whole[0], whole[-1]) == (0, 5)


def test_one_step_needs_no_number() -> None:
    heard = Heard()
    steps = Steps(heard)
    steps.expect(1)
    steps.begin()
    steps("victim", 1, 2)
    assert heard.calls[-1] == ("victim", 1, 2)


def test_plain_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now)
    with console.progress_display() as progress:
        for passage in range(2):
            for epoch in range(1, 61):
                now = 1000.0 * passage + 10.0 * epoch
                progress("decoder", epoch, 60)
    lines = capsys.readouterr().err.splitlines()
    assert lines[60] == "decoder (no. 2): 1/60"
    assert lines[62] == "decoder (no. 2): 3/60, about 570 s left"
    assert lines[-1] == "overall: 2 stages in 1600 s"


def test_a_command_tells_its_steps(
    advhash: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, _, err = advhash(
        *("attack", "--victim", "dpsh", "--bits", "8", "--dataset", "digits", "--method", "noise"),
        *("--set", "victim.epochs=1", "--set", "dataset.size=16", "--queries", "4"),
        *("--out", str(tmp_path / "run"), "--seed", "77"),
    )
    assert code == 0
    steps = re.findall(r"^step (\d+) of (\d+): (.*): ", err, re.MULTILINE)
    assert len({total for _, total, _ in steps}) == 1
    whole = [
        tuple(map(int, pair)) for pair in re.findall(r"^overall: (\d+)/(\d+)", err, re.MULTILINE)
    ]
    assert whole[0][0] == 0
    assert whole[-1][0] == whole[-1][1] == int(steps[0][1])
    assert [int(step) for step, _, _ in steps] == sorted(int(step) for step, _, _ in steps)
    code, _, err = advhash("train", "--victim", "dpsh", "--set", "victim.epochs=1", "--seed", "77")
    assert code == 0
    assert re.search(r"^overall: \d+ stages? in \d+ s$", err, re.MULTILINE)
