"""What a command says to type next can be typed: it names the same victim, data and threshold."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from report_scene import MAKERS, NAMES

from advhash.cli.commands.scan import size_option
from advhash.experiments import experiment
from advhash.reports.scan import ScanRecord, Sides

Command = Callable[..., tuple[int, str, str]]
DATA = ("--dataset", "digits", "--set", "dataset.size=16")
DPSH = ("--victim", "dpsh", "--bits", "16", "--set", "victim.epochs=1", *DATA)
FEDERATION = (
    *("--victim", "hashvfl", "--bits", "8", "--set", "victim.epochs=1"),
    *("--set", "victim.width=8", "--set", "dataset.size=16"),
)
EMOJI = ("--set", "dataset.pictures=60", "--queries", "4")
BRIEF = ("--set", "protocol.noise_control=false", "--eps", "8/255", "-q")
NOISE = ("--method", "noise", *BRIEF)
ATTACKED = ("--method", "dhta", "--set", "attack.steps=3")
LIFELONG = (
    *("--victim", "dlcmh", "--bits", "8", "--set", "victim.epochs=1", "--set", "dataset.size=16"),
    *("--orders", "1", "--increments", "1", "--seeds", "1", "--set", "lifelong.attacked_seeds=0"),
)
SEARCHED = (
    *("--domain", "attack", "--victim", "dpsh", "--set", "victim.bits=16", *DATA),
    *("--other", "dpsh", "--set", "other.bits=12", "--candidates", "6", "--repeats", "2"),
)
MATRIX = ("--victims", "dpsh+epochs=1,csq+epochs=1", "--methods", "dhta+steps=3", *DATA)
KINDS = {  # a made record of each, and a command that would have made it
    "attack": ("attack", *DPSH, *ATTACKED, "--eps", "8/255"),
    "untargeted": ("attack", "--victim", "phash", "--method", "noise", "--eps", "8/255", *DATA),
    "transfer": ("transfer", *MATRIX),
    "defend": ("defend", *DPSH, "--defense", "saat", "--set", "defense.epochs=1"),
    "detect": ("detect", *DPSH, *ATTACKED, "--detector", "all", "--adaptive", "steps=3"),
    "certify": ("certify", *DPSH, "--sigma", "0.1", "--radii", "0.05,0.15"),
    "least-change": ("certify", "--victim", "pdq", *EMOJI[:2]),
    "inversion": ("invert", *FEDERATION, "--method", "code-inversion"),
    "encode": ("encode", *DPSH, *ATTACKED, "--eps", "16/255"),
    "phase": ("phase-chart", "--widths", "3,12", "--epochs", "0,2", "--samples", "60,100"),
    "lifelong": ("lifelong", *LIFELONG),
    "search": ("evolve", *SEARCHED),
    "benchmark": ("benchmark", "--suite", "suite.toml"),
    "poison": ("poison", "--database", "rows.npy", "--method", "hubs", "--items", "2"),
}
BY_HAND = {"judge", "scan"}  # their commands name what is on disk: they run
PLANNED = {arguments[0] for arguments in KINDS.values()} | {"judge", "scan"}
SUITE = """
victim_seeds = 1
attack_seeds = 1
[[grids]]
datasets = ["digits+size=16"]
victims = ["dpsh+epochs=1+bits=16"]
attacks = ["dhta+steps=3"]
budgets = ["8/255"]
"""
HASH = """
import torch

def corners(images: torch.Tensor) -> torch.Tensor:
    return (images[:, :, ::8, ::8].flatten(1) - 0.5)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_corners.py").write_text(HASH)
    return tmp_path


def printed(advhash: Command, *arguments: str, code: int = 0) -> list[str]:
    """The commands that a command says to type next; code: what it exits with."""
    got, out, err = advhash(*arguments)
    assert got == code, err
    return re.findall(r"^next: advhash (.*?)  # ", out, re.MULTILINE)


def expect_each_works(advhash: Command, commands: list[str]) -> None:
    assert commands
    for text in commands:
        words = shlex.split(text)
        dry = ("--dry-run",) if words[0] in PLANNED else ()
        code, _, err = advhash(*words, *dry)
        assert code == 0, f"{text}: {err}"


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ((*DPSH, *NOISE, "--queries", "4"), "defend --victim dpsh .*victim.epochs=1 .*size=16 "),
        (("--victim", "dhash", *NOISE, *EMOJI), "attack --config .* --seed 1"),
        (
            ("--victim", "phash", "--threshold", "6", *NOISE, *EMOJI),
            "certify --victim phash .*pictures=60 --threshold 6",
        ),
        (
            ("--victim", "my_corners:corners", "--trust-code", *DATA, *NOISE, "--queries", "4"),
            "attack --config .* --trust-code --seed 1",
        ),
    ],
)
def test_what_follows_an_attack(
    arguments: tuple[str, ...], kept: str, advhash: Command, place: Path
) -> None:
    commands = printed(advhash, "attack", *arguments, "--out", str(place / "a run"))
    assert len(commands) == 2
    assert re.match(kept, commands[1]), commands
    expect_each_works(advhash, commands)


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        (DPSH, "attack --victim checkpoint --method autohash"),
        (FEDERATION, "invert --victim checkpoint"),
        (("--victim", "dhash", *EMOJI[:2]), "attack --victim checkpoint --method evasion"),
    ],
)
def test_what_follows_a_training(
    arguments: tuple[str, ...], first: str, advhash: Command, place: Path
) -> None:
    commands = printed(advhash, "train", *arguments, "--out", "checkpoint", "-q")
    assert commands[0].startswith(first)
    expect_each_works(advhash, commands)
    if "attack" in first:  # of the checkpoint
        attack = ("attack", "--victim", "checkpoint", *NOISE, "--queries", "4", "--out", "run")
        expect_each_works(advhash, printed(advhash, *attack))


def test_what_follows_a_judgement(advhash: Command, place: Path) -> None:
    draw = np.random.default_rng(0)
    for number in range(100):  # fewer recommend nothing
        picture = draw.integers(9, 240, (20 + number, 30, 3), np.uint8)
        for folder, moved in (("photos", 0), ("changed", 4)):
            (place / folder).mkdir(exist_ok=True)
            Image.fromarray(picture + np.uint8(moved)).save(place / folder / f"{number}.png")
    judge = ("judge", "changed", "--clean", "photos", "--victim", "pdq", "--threshold", "31")
    commands = printed(advhash, *judge, *BRIEF, "--out", "run")
    assert re.match("attack --victim pdq .*--norm linf .*--threshold 31", commands[0])
    expect_each_works(advhash, commands)
    code, _, err = advhash("judge", "--config", "run/config.toml", "--seed", "1", "--dry-run")
    assert code == 0, err


@pytest.mark.parametrize("name", sorted(set(NAMES) - BY_HAND))
def test_what_follows_each_kind(
    name: str, advhash: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is a made one; the config, what is printed and its commands are of the run."""
    source = MAKERS[name](place / name)
    folder = place / f"{name} run"
    folder.mkdir()
    (place / "suite.toml").write_text(SUITE)
    np.save(place / "rows.npy", np.random.default_rng(0).normal(size=(300, 16)).astype("f4"))

    def made(kind: Any, config: Any, *_: Any, **__: Any) -> Any:
        (folder / "config.toml").write_text(kind.plan(config).config.to_toml())
        record = kind.record.read(source)
        run = record.run or record.info(source)  # a document alone has none
        run = run.model_copy(update={"id": folder.name, "folder": str(folder)})
        record = record.model_copy(update={"run": run})
        (folder / "metrics.json").write_text(record.dumps())
        return record

    monkeypatch.setattr(experiment, "run", made)
    commands = printed(advhash, *KINDS[name], "-q", code=5 if name == "benchmark" else 0)
    assert len(commands) == 2
    expect_each_works(advhash, commands)


def test_what_follows_a_scan(advhash: Command, place: Path) -> None:
    draw = np.random.default_rng(0)
    (place / "my photos").mkdir()
    for number in range(100):  # fewer recommend nothing
        picture = draw.integers(0, 256, (8, 8, 3), np.uint8)
        shown = Image.fromarray(picture).resize((64, 64), Image.Resampling.BICUBIC)
        shown.save(place / "my photos" / f"{number}.png")
    scan = ("scan", "my photos", "--hash", "phash", "--false-positives", "0.2", "--edited", "4")
    commands = printed(advhash, *scan, "-q", "--out", "run")
    assert [text.split()[0] for text in commands] == ["attack", "certify"]
    assert all(" --set dataset.size=stored " in text for text in commands)
    expect_each_works(advhash, commands)


@pytest.mark.parametrize(
    ("sides", "size"), [((400, 512), "stored"), ((400, 533), "400"), ((600, 900), "512")]
)
def test_the_next_commands_of_a_scan_read_pictures_as_the_hash_did(
    sides: tuple[int, int], size: str
) -> None:
    record = ScanRecord.model_construct(sides=Sides(shorter=sides[0], longest=sides[1]))
    assert size_option(record) == f" --set dataset.size={size}"


def test_what_follows_several_radii(advhash: Command, place: Path) -> None:
    radii = ("--eps", "2/255,8/255", "-q", "--set", "protocol.noise_control=false")
    attack = ("attack", "--victim", "phash", "--method", "noise", *DATA, "--queries", "4")
    commands = printed(advhash, *attack, *radii, "--out", str(place / "two runs"))
    assert [text.split()[0] for text in commands] == ["compare", "report"]
    expect_each_works(advhash, commands)


def test_a_second_run_writes_its_tables_beside_those_of_the_first(
    advhash: Command, place: Path
) -> None:
    for name in ("first", "second"):
        judged = ("certify", "--victim", "pdq", *EMOJI, "-q", "--out", name)
        commands = printed(advhash, *judged)
        assert commands[1].startswith(f"report {place / name} --tables {name}-tables ")
        assert advhash(*shlex.split(commands[1]))[0] == 0


def test_a_hash_that_learns_nothing_is_planned_without_training(advhash: Command) -> None:
    _, out, _ = advhash("attack", "--victim", "pdq", *NOISE, *EMOJI, "--dry-run")
    assert "pdq (learns: no)" in out
    assert "training" not in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("attack", "--victim", "3160", *NOISE), "no folder '3160' is here"),
        (("scan", "photos", "--fail-over", "2"), "--fail-over"),
    ],
)
def test_what_cannot_be_is_refused_by_its_own_name(
    arguments: tuple[str, ...], said: str, advhash: Command, place: Path
) -> None:
    code, _, err = advhash(*arguments)
    assert (code, said in err) == (2, True), err
