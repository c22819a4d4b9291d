"""Odd paths: every command that takes one refuses it in one line, before any work."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import advhash as ah
from advhash.errors import AdvhashError, UsageError
from advhash.storage.places import user_path

Command = Callable[..., tuple[int, str, str]]
ATTACK = ("attack", "--victim", "dpsh", "--method", "dhta", "--dry-run")
PLACES: dict[str, Callable[[str], tuple[str, ...]]] = {
    "report": lambda path: ("report", path),
    "report out": lambda path: ("report", ".", "--out", path),
    "tables": lambda path: ("report", ".", "--tables", path),
    "figures": lambda path: ("report", ".", "--figures", path),
    "compare": lambda path: ("compare", path, "."),
    "victim": lambda path: ("train", "--victim", path),
    "dataset": lambda path: (*ATTACK, "--dataset", path),
    "config": lambda path: (*ATTACK, "--config", path),
    "out": lambda path: (*ATTACK[:-1], "--out", path),
    "match": lambda path: (*ATTACK, "--match", path),
    "resume": lambda path: ("attack", "--resume", path),
    "suite": lambda path: ("benchmark", "--suite", path, "--dry-run"),
    "codes": lambda path: ("eval", "--codes", path, "--database", path),
    "labels": lambda path: ("eval", "--codes", path, "--database", "a.txt", "--labels", path),
    "import": lambda path: ("codes", "import", path, "a.codes"),
    "import model": lambda path: ("import", path, "--as", "new"),
    "import as": lambda path: ("import", "a.pt", "--as", path),
    "import pictures": lambda path: ("import", "a.pt", "--as", "new", "--pictures", path),
    "export": lambda path: ("codes", "export", "a.codes", path),
    "data": lambda path: ("data", "show", path),
    "root": lambda path: ("data", "show", "folder", "--set", f"dataset.root={path}"),
    "image grid": lambda path: ("data", "show", "tiny", "--image-grid", path),
    "table": lambda path: ("evolve", "--domain", "nas", "--table", path, "--dry-run"),
    "train out": lambda path: ("train", "--victim", "dpsh", "--out", path),
    "certify out": lambda path: ("certify", "--victim", "dpsh", "--out", path),
}
SUFFIXES = {
    **dict.fromkeys(("codes", "labels", "import"), (".txt", ".npz", ".npy", ".codes")),
    **dict.fromkeys(("dataset", "data", "root"), ("", ".csv", ".npz")),
}
every_place = pytest.mark.parametrize("given", PLACES.values(), ids=PLACES)


def one_line(found: tuple[int, str, str], *expected: int) -> str:
    code, _, told = found
    assert code in (expected or (2, 3)), told
    assert told.startswith("advhash: error: "), told
    assert told.count("\n") == 1, told
    assert "Traceback" not in told
    return told


@every_place
def test_a_name_that_is_too_long_is_refused(
    advhash: Command, given: Callable[[str], tuple[str, ...]]
) -> None:
    assert "a name that is too long" in one_line(advhash(*given("/tmp/" + "n" * 300)), 2)


@every_place
def test_the_home_of_nobody_is_refused(
    advhash: Command, given: Callable[[str], tuple[str, ...]]
) -> None:
    told = one_line(advhash(*given("~nouser/x")), 2)
    assert "no user nouser: a name with ~ is written ./~nouser" in told


@every_place
def test_a_name_that_is_not_utf_8_is_refused(
    advhash: Command, given: Callable[[str], tuple[str, ...]]
) -> None:
    told = one_line(advhash(*given("/tmp/" + os.fsdecode(b"\xff\xfe"))), 2)
    assert "a name that is not UTF-8: rename it" in told
    assert r"\udcff" in told


@every_place
def test_a_working_directory_that_is_gone_is_told(
    advhash: Command,
    given: Callable[[str], tuple[str, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    one_line(advhash(*given("./here")), 2)


def test_so_it_is_by_commands_that_take_no_path(
    advhash: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Intel's library ends the whole process where it cannot tell the working directory."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert "a working directory that is gone" in one_line(advhash("list", "victims"), 2)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "zero"])
@pytest.mark.parametrize("place", PLACES)
def test_a_pipe_or_a_device_is_no_file(
    advhash: Command, place: str, kind: str, tmp_path: Path
) -> None:
    """Reading one to its end would take for ever, or all memory."""
    for suffix in SUFFIXES.get(place, ("",)):
        file = tmp_path / f"x{suffix}"
        if kind == "pipe":
            os.mkfifo(file)
        else:
            file.symlink_to("/dev/zero")
        one_line(advhash(*PLACES[place](str(file))))


@every_place
def test_a_newline_in_a_path_leaves_the_message_in_one_line(
    advhash: Command, given: Callable[[str], tuple[str, ...]], tmp_path: Path
) -> None:
    (tmp_path / "a\nb").mkdir()
    one_line(advhash(*given(str(tmp_path / "a\nb"))))


@pytest.mark.parametrize("path", ["a\0b", "~nouser", "n" * 300, "\udcff", "/" + "n/" * 2000])
def test_calls_refuse_what_commands_refuse(path: str) -> None:
    for call in (
        lambda: ah.load(path),
        lambda: ah.report(path),
        lambda: ah.report([], out=path),
        lambda: ah.load_dataset("folder", {"root": path}),
        lambda: ah.train("dpsh", {"name": "folder", "root": path}),
    ):
        with pytest.raises(AdvhashError):
            call()


def test_a_home_is_written_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/runs") == tmp_path / "runs"


def test_a_link_that_leads_back_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "a")
    with pytest.raises(UsageError, match="a link that leads back to itself"):
        user_path(tmp_path / "a")


@pytest.mark.parametrize("name", ["/", ".partial"])
def test_what_names_no_run_is_not_continued(advhash: Command, name: str) -> None:
    assert "no name of one" in one_line(advhash("attack", "--resume", name), 3)
