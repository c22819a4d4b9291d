"""How the command line tells what a run found: a verdict, a few figures, what to type next."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from report_scene import NAMES, every_kind, make_run

from advhash.cli import console
from advhash.cli.app import app
from advhash.cli.commands import (
    attack,
    benchmark,
    certify,
    defend,
    detect,
    encode,
    evolve,
    invert,
    judge,
    least_change,
    lifelong,
    phase_chart,
    poison,
    scan,
    transfer,
)
from advhash.cli.console import print_flags
from advhash.measures.intervals import Metric
from advhash.measures.sanity import Flag
from advhash.registry import EXPERIMENTS
from advhash.reports.elements.numbers import written
from advhash.reports.record import Record, Siblings, record_file, schema_of

SHOWS: dict[str, Callable[[Any, bool], None]] = {
    "benchmark": benchmark.print_benchmark,
    "attack": attack.show,
    "untargeted": attack.show,
    "detect": detect.print_detection,
    "certify": certify.show,
    "least-change": least_change.print_least_change,
    "transfer": transfer.print_transfer,
    "defend": defend.print_defense,
    "lifelong": lifelong.print_lifelong,
    "inversion": invert.print_inversion,
    "judge": judge.print_judge,
    "encode": encode.print_encoding,
    "phase": phase_chart.print_phase,
    "search": evolve.print_search,
    "scan": scan.print_scan,
    "poison": poison.print_poison,
}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A record of each kind of run."""
    made = [EXPERIMENTS[name].build.record for name in EXPERIMENTS.names()]
    by_schema = {get_args(record.model_fields["schema_"].annotation)[0]: record for record in made}
    folders = every_kind(tmp_path_factory.mktemp("kinds"))
    return {name: by_schema[schema_of(path)].read(path) for name, path in folders.items()}


def printed(capsys: pytest.CaptureFixture[str], name: str, record: Any, *, every: bool) -> str:
    capsys.readouterr()
    SHOWS[name](record, every)
    return capsys.readouterr().out


def test_a_flag_that_several_budgets_raise_is_printed_once(
    kinds: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    both = Flag("both", "warning", "The victim is weak.")
    runs = [
        kinds["attack"].model_copy(update={"flags": flags, "budget": budget})
        for flags, budget in (
            ([both], kinds["attack"].budget.model_copy(update={"text": "L∞ 4/255"})),
            ([both, Flag("one", "info", "Odd.")], kinds["attack"].budget),
        )
    ]
    documents = [record.document() for record in runs]
    siblings = Siblings(
        schema_="advhash/attacks/1", command="attack", report="page.html", runs=documents
    )
    attack.show(siblings, False)
    flags = [
        line for line in capsys.readouterr().out.splitlines() if re.match("info|warning", line)
    ]
    assert flags == [
        "warning: L∞ 4/255, L∞ 8/255: The victim is weak.",
        "info: L∞ 8/255: Odd.",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_verdict_leads_and_commands_follow(
    name: str, kinds: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    record = kinds[name]
    lines = printed(capsys, name, record, every=False).splitlines()
    sentences = [number for number, line in enumerate(lines) if re.search(r"\w{3}.*[.]$", line)]
    table = next(number for number, line in enumerate(lines) if re.search(r"\S {2,}\S", line))
    assert sentences[0] < table
    after = [line.partition("next: advhash ")[2] for line in lines if line.startswith("next: ")]
    another = name != "judge"  # whose set no seed changes
    assert len(after) == (0 if record.run is None else 1 + another)
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for text in after:
        command, *words = shlex.split(text, comments=True)
        assert commands[command].make_context(command, words).params
    flags = [line for line in lines if line.startswith(("info: ", "warning: ", "error: "))]
    assert lines[len(lines) - len(flags) :] == flags
    assert len(flags) == len(record.flags)


@pytest.mark.parametrize("name", NAMES)
def test_all_adds_to_what_is_read_first(
    name: str, kinds: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    few = printed(capsys, name, kinds[name], every=False).splitlines()
    every = printed(capsys, name, kinds[name], every=True).splitlines()
    hidden = [line for line in few if "--all, or the report" in line]
    assert len(few) - len(hidden) <= len(every)
    assert not any("--all" in line for line in every)
    cells = {line.split()[-1] for line in every if line}
    assert {line.split()[-1] for line in few if line and line not in hidden} <= cells


def test_figures_are_told_in_the_units_of_the_field() -> None:
    share = Metric(0.974, 0.93, 0.99, 9)
    assert written("tmap", share) == "97.4 %  [93.0, 99.0]"
    assert written("tmap", share, difference=True) == "97.4 points  [93.0, 99.0]"
    assert written("linf", Metric(7 / 255, None, None, 1)) == "7.0/255"
    assert written("l2", Metric(1.547, None, None, 1)) == "1.547"
    assert written("rmse", Metric(0.014, None, None, 1)) == "0.014"
    assert written("overrun", Metric(1 / 255, None, None, 1)) == "1.0/255"
    assert written("linf", Metric(3.0, None, None, 1), pictures=False) == "3.000"
    assert written("psnr", Metric(32.26, None, None, 1)) == "32.3"
    assert written("false_positives", Metric(2e-5, None, None, 1)) == "0.0020 %"
    assert written("tmap", None) == "–"


def test_warnings_have_colours_on_a_terminal_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flag = {"level": "warning", "message": "the victim has collapsed"}
    print_flags([flag])
    assert capsys.readouterr().out == "warning: the victim has collapsed\n"
    monkeypatch.setenv("TERM", "xterm")
    for no_color, coloured in (("", True), ("1", False)):
        monkeypatch.setenv("NO_COLOR", no_color)
        real = console.Console
        monkeypatch.setattr(
            console, "Console", lambda real=real, **how: real(force_terminal=True, **how)
        )
        print_flags([flag])
        assert ("\x1b[33m" in capsys.readouterr().out) is coloured
        monkeypatch.setattr(console, "Console", real)


def test_an_attack_on_words_shows_no_pixels(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = Record.read(record_file(make_run(tmp_path / "run")))
    record.protocol.query_modality = "text"
    table = printed(capsys, "attack", record, every=True).partition("figure")[2]
    assert "/255" not in table.partition("report: ")[0]
