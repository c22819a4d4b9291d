"""What strangers wrote is shown on the terminal, and does nothing there."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from report_scene import edit, make_run, make_transfer
from rich.console import Console
from source_tree import ROOT

from advhash.cli import console
from advhash.cli.commands.attack import print_run
from advhash.cli.console import print_flags, print_rows
from advhash.cli.terminal import remark, tell, tell_json
from advhash.reports.record import Record
from advhash.storage.foreign_text import CONTROLS, visible

Command = Callable[..., tuple[int, str, str]]
HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\x9b31m\x7f\u202e552/8\u2066\u2028\nred"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\r\x9b31m\x7f\u202e552/8\u2066\u2028\nred"


def acts(text: str) -> list[str]:
    """The signs in it that act, ends of lines apart."""
    return [sign for sign in CONTROLS.findall(text) if sign != "\n"]


def test_signs_that_act_are_written_out() -> None:
    assert visible(HOSTILE) == SHOWN
    assert visible("dog \udcff\udcfe.png") == r"dog \xff\xfe.png"
    assert visible("\ud800") == r"\ud800"


@pytest.mark.parametrize("text", ["L∞ 8/255 × 3 – “ε” → 👩‍🦰 שלום 3\N{NO-BREAK SPACE}%", "\\x1b"])
def test_all_else_is_left(text: str) -> None:
    assert visible(text) == text


def test_a_line_stays_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    tell(HOSTILE)
    remark(HOSTILE)
    assert capsys.readouterr() == (SHOWN + "\n", SHOWN + "\n")


def test_json_keeps_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"name": HOSTILE, HOSTILE: ["L∞", "\udcff"]}
    tell_json(document)
    written = capsys.readouterr().out
    assert json.loads(written) == document
    assert acts(written) == []
    assert "L∞" in written


def test_a_figure_that_does_not_exist_has_no_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_run(Record.read(make_run(tmp_path / "run", goal="untargeted")), every=True)
    out = capsys.readouterr().out
    assert "MAP attacked" in out
    assert "t-MAP" not in out


def test_tables_and_flags_show_them(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(("victim", HOSTILE), [{"victim": f"[red]{HOSTILE}[/red]", HOSTILE: HOSTILE}])
    print_flags([{"level": "info", "message": HOSTILE}])
    out = capsys.readouterr().out
    assert acts(out) == []
    assert f"[red]{SHOWN}[/red]" in out
    assert len(out.splitlines()) == 3


def test_bars_of_progress_show_them(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        console, "Console", lambda **_: Console(file=screen, force_terminal=True, width=200)
    )
    with console.progress_display() as progress:
        progress(f"[bold]{HOSTILE}", 1, 2)
        progress(f"[bold]{HOSTILE}", 2, 2)
    assert f"[bold]{SHOWN}" in screen.getvalue()
    assert "owned\x07" not in screen.getvalue()


@pytest.mark.parametrize(
    "arguments",
    [
        ("report", f"/gone/{HOSTILE}"),
        ("train", "--victim", HOSTILE),
        ("train", "--victim", "dpsh", "--set", f"victim.{HOSTILE}=1"),
        ("eval", "--codes", "a", "--database", "b", "--label-form", HOSTILE),
        ("train", f"--{HOSTILE}"),
        (HOSTILE,),
    ],
)
def test_errors_show_them(advhash: Command, arguments: tuple[str, ...]) -> None:
    """Those of Typer too, of names that a shell may have found."""
    code, out, told = advhash(*arguments)
    assert code in (2, 3)
    assert acts(out + told) == []
    assert "x1b" in told


def test_a_record_of_a_stranger_shows_them(advhash: Command, tmp_path: Path) -> None:
    def hostile(body: dict) -> None:
        body["run"]["id"] = HOSTILE
        body["flags"] = [{"name": HOSTILE, "level": "info", "message": HOSTILE}]

    first, second = (edit(make_run(tmp_path / name), hostile) for name in ("a", "b"))
    code, out, told = advhash("compare", first, second)
    assert acts(out + told) == []
    assert code == 3  # no queries.parquet
    code, out, told = advhash("compare", make_transfer(tmp_path / "c"), second)
    assert acts(out + told) == []


def test_one_place_writes() -> None:
    """Whatever else would print passes strangers' text by."""
    writing = re.compile(r"(?<![.\w])print\(|\becho\(|std(out|err)\.write|\bConsole\(")
    found = {
        file.name: sorted({hit[0] for hit in writing.finditer(file.read_text("utf-8"))})
        for file in (ROOT / "advhash/cli").glob("*.py")
        if writing.search(file.read_text("utf-8"))
    }
    assert found == {
        "terminal.py": ["stderr.write", "stdout.write"],
        "console.py": ["Console("],  # of tables and bars, whose texts are made visible
    }
