"""Training after a kill: the weights of an undisturbed run; no damaged or foreign state is used."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from advhash.errors import StorageError
from advhash.experiments.prepare import victim
from advhash.experiments.prepare.victim import plan_victim, train
from advhash.registry import VICTIMS
from advhash.storage.cache import cache_root
from advhash.storage.checkpoint import WEIGHTS
from advhash.storage.files import partial_file, sha256
from advhash.victims.training import state
from advhash.victims.training.state import TrainingState

FILE = Path(__file__).resolve().parents[1] / "scenes/interrupted_training.py"
_spec = importlib.util.spec_from_file_location("interrupted_training", FILE)
assert _spec is not None
assert _spec.loader is not None
interrupted: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(interrupted)


def killed(name: str, folder: Path, *moment: str) -> tuple[list[str], list[list[str]]]:
    """What the undisturbed training told of, and each of those that were killed."""
    done = subprocess.run(
        [sys.executable, str(FILE), name, str(folder), *moment],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    calm, *twins = result["undisturbed"]
    for twin in twins:  # two processes that train the same victim at once
        assert twin[-1].split()[:2] == calm[-1].split()[:2]
    return calm, result["wild"]


def check(calm: list[str], wild: list[list[str]]) -> None:
    assert len(wild) > 1, "no child was killed"
    digest = calm[-1].split()
    assert digest[0] == "digest"
    assert wild[-1][-1].split()[:2] == digest[:2]
    assert len(wild[-1]) < len(calm) + 1, "the last child went through all epochs again"
    folder = Path(wild[-1][-1].split(maxsplit=2)[2])
    assert not (folder.parents[1] / "training" / folder.name).exists()
    history = json.loads((folder / "card.json").read_text())["history"]
    calm_card = json.loads((Path(calm[-1].split(maxsplit=2)[2]) / "card.json").read_text())
    bare = [{key: row[key] for key in row if key != "seconds"} for row in history]
    assert bare == [
        {key: row[key] for key in row if key != "seconds"} for row in calm_card["history"]
    ]
    for phase in {row["phase"] for row in history}:
        seconds = [row["seconds"] for row in history if row["phase"] == phase]
        assert seconds == sorted(seconds)
        assert seconds[0] > 0


@pytest.mark.parametrize("name", ["hashnet", "dcmh", "hashvfl", "neural-code"])
def test_killed(tmp_path: Path, name: str) -> None:
    check(*killed(name, tmp_path, "train", "2"))


def test_a_hardening_killed_between_two_fits_of_its_attack(tmp_path: Path) -> None:
    check(*killed("atrdh", tmp_path, "harden image", "2"))


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param(("original", "2"), marks=pytest.mark.slow),
        ("increment 1", "2"),
        pytest.param(("increment 2", "3"), marks=pytest.mark.slow),
    ],
)
def test_killed_dlcmh(tmp_path: Path, moment: tuple[str, str]) -> None:
    calm, wild = killed("dlcmh", tmp_path, *moment)
    check(calm, wild)
    assert wild[0][-1] == " ".join(moment)
    phase, epoch = moment
    resumed = wild[1][0]  # a phase is not gone through again
    assert resumed in {f"{phase} {int(epoch) - 1}", f"{phase} {epoch}"}


class Killed(BaseException):
    """Stands for a kill, within this process."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache of its own, a tiny data set, a state after every epoch."""
    data = interrupted.tiny("csq")
    monkeypatch.setattr(victim, "load_data", lambda config, default: data)
    monkeypatch.setattr(state, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(state, "SHARE", 1e9)
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path))
    return tmp_path


def stop_after(epoch: int) -> Any:
    def progress(stage: str, done: int, total: int, **figures: float) -> None:
        if done > epoch:
            raise Killed

    return progress


def left_state(config: Any, epoch: int = 3) -> Path:
    """The file that a training leaves which is killed after the given epoch."""
    with pytest.raises(Killed):
        train(config, stop_after(epoch))
    planned = plan_victim(config)
    assert planned is not None
    file = cache_root() / "training" / planned[2] / "state"
    assert file.is_file()
    return file


def epochs_run(config: Any) -> tuple[list[int], Any]:
    """Which epochs a training tells of, and its victim."""
    told: list[int] = []
    trained = train(config, lambda stage, done, total, **figures: told.append(done))
    return told, trained


def test_state_changes_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights with a state after every epoch, without any, and after a kill are the same."""
    config = interrupted.config("csq")
    left_state(config)
    told, resumed = epochs_run(config)
    assert told == [3, 4, 5, 6]
    monkeypatch.setenv("ADVHASH_CACHE", str(cache / "saving"))
    told, saving = epochs_run(config)
    assert told == [1, 2, 3, 4, 5, 6]
    data = interrupted.tiny("csq")
    seed = victim.derive_seed(0, "victim")
    planned = plan_victim(config)
    assert planned is not None
    plain = VICTIMS.create("csq", planned[1]).fit(data, seed=seed)
    for name, value in plain.state_dict().items():
        assert torch.equal(value, saving.victim.state_dict()[name])
    assert sha256(resumed.folder / WEIGHTS) == sha256(saving.folder / WEIGHTS)
    assert resumed.card["seconds"] > 0


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_damaged_state_is_not_used(cache: Path, damage: str) -> None:
    config = interrupted.config("csq")
    file = left_state(config)
    content = bytearray(file.read_bytes())
    if damage == "cut":
        del content[-1000:]
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
    elif damage == "empty":
        content.clear()
    else:  # that of another seed, laid into this one's folder
        content[:] = left_state(interrupted.config("csq", seed=1)).read_bytes()
    file.write_bytes(content)
    told, trained = epochs_run(config)
    assert told == [1, 2, 3, 4, 5, 6]
    flags = {flag["name"]: flag["message"] for flag in trained.card["flags"]}
    wanted = "that of another training" if damage == "foreign" else "it is damaged"
    assert wanted in flags["training_state"]
    assert not file.exists()


def test_a_lack_of_handles_begins_no_training_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_handles(*_: object) -> bytes:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(state, "read_bytes", no_handles)
    with pytest.raises(OSError, match="Too many open files"):
        TrainingState(tmp_path / "state")


def test_state_of_another_setting_is_not_used(cache: Path) -> None:
    file = left_state(interrupted.config("csq"))
    told, trained = epochs_run(interrupted.config("csq", seed=1))
    assert told == [1, 2, 3, 4, 5, 6]
    assert file.is_file()  # that one can still go on
    assert "training_state" not in {flag["name"] for flag in trained.card["flags"]}


def test_training_goes_on_without_space(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, content: bytes) -> None:
        raise StorageError(f"cannot write {path}: the disk is full")

    monkeypatch.setattr(state, "write_bytes", full)
    told, trained = epochs_run(interrupted.config("csq"))
    assert told == [1, 2, 3, 4, 5, 6]
    flags = {flag["name"]: flag["message"] for flag in trained.card["flags"]}
    assert "the disk is full" in flags["training_state"]


def test_an_interrupt_says_where_it_goes_on(cache: Path) -> None:
    def progress(stage: str, done: int, total: int, **figures: float) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        train(interrupted.config("csq"), progress)
    assert caught.value.__notes__ == ["the same command goes on after train, epoch 3"]


def test_states_are_not_written_too_often(tmp_path: Path, cache: Path) -> None:
    state.SAVE_SECONDS = 3600.0
    with pytest.raises(Killed):
        train(interrupted.config("csq"), stop_after(3))
    assert not (cache / "training").exists()


def test_half_written_files_of_the_killed_are_removed(tmp_path: Path) -> None:
    left = tmp_path / ".state.1.partial"
    left.write_bytes(b"half")
    with partial_file(tmp_path / "state") as written:
        TrainingState(tmp_path)
        assert written.exists()
    assert not left.exists()
