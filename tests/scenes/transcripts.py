"""Pages whose commands are run: every line that they show is printed."""

from __future__ import annotations

import re
import runpy
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from command_line import command

DOCS = Path(__file__).resolve().parents[2] / "docs"


def transcript(
    page: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    left_out: str = "$^",
    quicker: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[tuple[list[str], list[str]]]:
    """What each command of a page shows and what it prints, in a folder with the page's files.

    left_out: a pattern in lines that a page leaves out: times and places; the folder itself is "…"
    quicker:  options that are added to a command, by its name, so that a test takes seconds
    """
    text = (DOCS / page).read_text("utf-8")
    (folder / "make.py").write_text(text.partition("```python\n")[2].partition("```")[0])
    runpy.run_path(str(folder / "make.py"))
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for part in block.split("$ advhash ")[1:]:
            line, *shown = part.splitlines()
            words = shlex.split(line, comments=True)
            _, out, err = command(capsys, *words, *shlex.split(quicker.get(words[0], "")))
            printed = [line.rstrip() for line in (out + err).replace(str(folder), "…").splitlines()]
            yield shown, [line for line in printed if not re.search(left_out, line)]
