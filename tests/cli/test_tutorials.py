"""The tutorial of each door of README runs as it is printed and shows the figures that it prints.

The page of vector stores is compared to the last digit in tests/experiments/test_poison.py. Others
train or hash pictures: here they do so for seconds, and numbers alone are left open.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from transcripts import transcript

from advhash.reports.elements.verdict import STRENGTHS

NUMBER = re.compile(r"[-−]?\d+(?:[.,]\d+)*(?:e-?\d+)?")
OF_NUMBERS = re.compile(  # how strong an attack is, in a word, and the attacker that does best
    "|".join((*(f"^{word}[.]" for _, word in STRENGTHS), "^No effect[.]", "“[^”]*”"))
)
PROGRESS = r": \d+/\d+|^overall: "
OF_THE_MACHINE = re.compile(r"(ok|warning|error) {2,}")  # a row of `advhash doctor`
TUTORIALS = {
    "tutorial.md": {
        "train": "--set victim.epochs=2",
        "attack": "--queries 8 --set attack.steps=10",
    },
    "how_to/scan.md": {"scan": "--edited 3"},
    "how_to/federated.md": {
        "train": "--set victim.epochs=4",
        "invert": "--queries 20 --set attack.steps=3 --set attack.decoder_epochs=2",
        "detect": "--queries 20 --set adaptive.steps=3",
    },
}


def masked(lines: Sequence[str]) -> list[str]:
    """The lines with every number as 0 and words that numbers choose as "…", columns joined."""
    return [
        " ".join(NUMBER.sub("0", OF_NUMBERS.sub("…", line)).split())
        for line in lines
        if not OF_THE_MACHINE.match(line)
    ]


@pytest.mark.parametrize("page", TUTORIALS)
def test_a_tutorial_runs_as_it_is_printed(
    page: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = 0
    for shown, printed in transcript(
        page, tmp_path, capsys, left_out=PROGRESS, quicker=TUTORIALS[page]
    ):
        assert masked(printed) == masked(shown), "\n".join(printed)
        commands += 1
    assert commands >= 3
