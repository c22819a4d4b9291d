"""The run folder: it resumes, and it never looks finished before it is."""

from __future__ import annotations

import json
import re
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advhash import __version__
from advhash.errors import DataError, RunError, StorageError
from advhash.experiments.experiment import _Deadline, resume
from advhash.registry import EXPERIMENTS
from advhash.storage.run_folder import RunFolder, environment, expect_finished, new_run_id


@pytest.fixture
def final(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "first"


@pytest.fixture
def run(final: Path) -> RunFolder:
    run = RunFolder.start(final)
    run.claim("attack", "seed = 1\n", "code")
    return run


class TestStart:
    def test_work_goes_to_the_partial_name(self, final: Path, run: RunFolder) -> None:
        assert run.path == final.with_name("first.partial")
        assert run.path.is_dir()
        assert not final.exists()

    def test_a_name_with_a_dot_keeps_it(self, tmp_path: Path) -> None:
        run = RunFolder.start(tmp_path / "eps-0.5")
        assert run.path == tmp_path / "eps-0.5.partial"
        assert run.finish() == tmp_path / "eps-0.5"

    @pytest.mark.parametrize("kind", ["folder", "file"])
    def test_what_exists_is_never_touched(self, final: Path, kind: str) -> None:
        final.parent.mkdir()
        if kind == "file":
            final.write_text("mine")
        else:
            final.mkdir()
        with pytest.raises(RunError, match="which exists: choose another --out") as got:
            RunFolder.start(final)
        assert got.value.exit_code == 3
        assert [path.name for path in final.parent.iterdir()] == ["first"]

    def test_an_interrupted_run_is_offered_for_resuming(self, final: Path, run: RunFolder) -> None:
        with pytest.raises(RunError, match=r"which exists: continue it with --resume .*first"):
            RunFolder.start(final)
        assert (run.path / "config.toml").is_file()

    def test_a_file_in_the_way_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        with pytest.raises(StorageError, match="a part of the path is a file"):
            RunFolder.start(tmp_path / "file" / "run")

    def test_a_relative_name_survives_a_change_of_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        run = RunFolder.start(Path("run"))
        monkeypatch.chdir("/")
        assert run.finish() == tmp_path / "run"


class TestResume:
    @pytest.mark.parametrize("name", ["first", "first.partial"])
    def test_by_either_name(self, final: Path, run: RunFolder, name: str) -> None:
        assert RunFolder.interrupted(final.with_name(name)) == (run.final, "attack")

    def test_from_inside_the_folder(self, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(run.path)
        assert RunFolder.interrupted(Path("."))[0] == run.final

    def test_a_finished_run_is_refused(self, final: Path, run: RunFolder) -> None:
        run.finish()
        with pytest.raises(RunError, match="which is finished"):
            RunFolder.interrupted(final)

    def test_a_missing_run_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match=r"no .*gone.partial/config.toml"):
            RunFolder.interrupted(tmp_path / "gone")

    def test_a_folder_without_a_config_is_refused(self, final: Path) -> None:
        RunFolder.start(final)
        with pytest.raises(RunError, match=r"no .*first.partial/config.toml"):
            RunFolder.interrupted(final)

    def test_a_damaged_config_names_its_file(self, final: Path, run: RunFolder) -> None:
        run.abandon(keep=True)
        with pytest.raises(
            RunError, match=r"config\.toml, got a damaged one: setting .* is missing"
        ):
            resume(final)


class TestFinish:
    def test_it_never_looks_finished_before(self, final: Path, run: RunFolder) -> None:
        run.write_text("metrics.json", "{}")
        assert not final.exists()
        assert run.finish() == final
        assert {path.name for path in final.iterdir()} == {"config.toml", "metrics.json"}
        assert not run.path.exists()

    def test_a_full_disk_leaves_no_half_of_a_text(
        self, final: Path, run: RunFolder, full_disk: Callable[[], None]
    ) -> None:
        full_disk()
        with pytest.raises(StorageError, match=r"cannot write .*metrics.json: the disk is full"):
            run.write_text("metrics.json", "{}")
        assert sorted(path.name for path in run.path.iterdir()) == ["config.toml", "identity.json"]
        assert not final.exists()

    def test_a_failed_text_keeps_the_one_before(
        self, run: RunFolder, full_disk: Callable[[], None]
    ) -> None:
        full_disk()
        with pytest.raises(StorageError):
            run.write_text("config.toml", "seed = 2\n")
        assert (run.path / "config.toml").read_text() == "seed = 1\n"


class TestAbandon:
    def test_where_nothing_is_finished_nothing_is_left(self, final: Path, run: RunFolder) -> None:
        assert run.abandon(keep=False) is False
        assert not run.path.exists()
        assert not final.exists()

    def test_what_says_not_what_it_is_cannot_be_continued(self, tmp_path: Path) -> None:
        run = RunFolder.start(tmp_path / "unknown")
        assert run.abandon(keep=True) is False
        assert not run.path.exists()

    def test_what_is_begun_is_kept_for_resuming(self, final: Path, run: RunFolder) -> None:
        assert run.abandon(keep=True) is True
        assert RunFolder.interrupted(final) == (run.final, "attack")


class TestClaim:
    def test_the_same_run_goes_on(self, run: RunFolder) -> None:
        run.claim("attack", "seed = 1\n", "code")

    @pytest.mark.parametrize(
        ("kind", "config", "code", "difference"),
        [
            ("detect", "seed = 1\n", "code", "`advhash attack`, not by `advhash detect`"),
            ("attack", "seed = 2\n", "code", "with other settings"),
            ("attack", "seed = 1\n", "other", f"another code of advhash .version {__version__}"),
        ],
    )
    def test_another_run_is_refused_with_the_difference(
        self, run: RunFolder, kind: str, config: str, code: str, difference: str
    ) -> None:
        with (
            pytest.raises(RunError, match=difference) as got,
            RunFolder.writing(run.final, lambda: False) as other,
        ):
            other.claim(kind, config, code)
        assert "\n" not in str(got.value)
        assert (run.path / "config.toml").read_text() == "seed = 1\n"  # nothing is lost
        assert RunFolder.interrupted(run.final) == (run.final, "attack")

    def test_a_run_of_an_older_version_says_so(self, final: Path, run: RunFolder) -> None:
        (run.path / "identity.json").unlink()
        with pytest.raises(RunError, match=r"begun by a version before 0\.2"):
            RunFolder.interrupted(final)
        with (
            pytest.raises(RunError, match=r"begun by a version before 0\.2"),
            RunFolder.writing(final, lambda: False) as other,
        ):
            other.claim("attack", "seed = 1\n", "code")
        assert (run.path / "config.toml").is_file()

    def test_what_is_written_in_one_go_is_new(self, run: RunFolder) -> None:
        with pytest.raises(RunError, match="which exists"), RunFolder.writing(run.final):
            pass
        assert (run.path / "config.toml").is_file()

    def test_a_kill_between_its_two_files_can_go_on(self, final: Path, run: RunFolder) -> None:
        (run.path / "config.toml").unlink()
        with RunFolder.writing(final, lambda: False) as other:
            other.claim("attack", "seed = 1\n", "code")
        assert (final / "config.toml").read_text() == "seed = 1\n"


def test_ids_name_the_run_and_sort_by_time() -> None:
    ids = [new_run_id("dlcmh-dhta") for _ in range(2)]
    assert all(re.fullmatch(r"dlcmh-dhta-\d{8}T\d{9}", name) for name in ids)
    assert ids == sorted(ids)


def test_the_environment_is_json_with_versions() -> None:
    found = json.loads(json.dumps(environment(), allow_nan=False))
    assert found["advhash"] == __version__
    assert torch.__version__.startswith(found["packages"]["torch"])
    assert found["packages"]["numpy"][0].isdigit()


def test_a_missing_package_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advhash.storage.run_folder._PACKAGES", ("advhash-of-another-world",))
    assert environment()["packages"] == {"advhash-of-another-world": "not installed"}


def test_advice_for_what_was_interrupted_fits_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "benchmark-small.partial"
    folder.mkdir()
    with pytest.raises(RunError, match="give the command that began it again, with the same --out"):
        expect_finished(folder)
    (folder / "config.toml").touch()
    with pytest.raises(RunError, match=r"a version before 0\.2.*: delete it and run again"):
        expect_finished(folder)
    (folder / "identity.json").write_text('{"kind": "benchmark"}')
    with pytest.raises(RunError, match=r"continue it with `advhash benchmark --resume \S+partial`"):
        expect_finished(folder)


def test_the_printed_command_continues_a_run_of_own_code_at_a_path_with_blanks(
    tmp_path: Path,
) -> None:
    final = tmp_path / "my run"

    def interrupt() -> None:
        with RunFolder.writing(final, lambda: True) as run:
            run.claim("attack", "seed = 0\n", "1", trusted=True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        interrupt()
    printed = re.findall("`(.*)`", stopped.value.__notes__[0])[0]
    assert shlex.split(printed) == ["advhash", "attack", "--resume", str(final), "--trust-code"]


def test_an_interrupt_before_anything_is_finished_says_what_to_do(tmp_path: Path) -> None:
    def interrupt() -> None:
        with RunFolder.writing(tmp_path / "run", lambda: False) as run:
            run.claim("attack", "seed = 0\n", "1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        interrupt()
    assert stopped.value.__notes__ == ["nothing was finished yet: the same command starts again"]
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("shift", [-(10**6), 10**6])
def test_a_limit_in_minutes_is_none_of_the_time_of_day(
    shift: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that is set back would let a run go on for ever, and one set forth would end it."""
    limits = [_Deadline.after(1, executor) for executor in ("inline", "local")]
    today, ticks = time.time(), time.monotonic()
    monkeypatch.setattr(time, "time", lambda: today + shift)
    assert [limit.over for limit in limits] == [False, False]
    monkeypatch.setattr(time, "monotonic", lambda: ticks + 61)
    assert [limit.over for limit in limits] == [True, True]


@pytest.mark.parametrize(
    ("kind", "tables"),
    [
        ("detect", {"attack": {"name": "dhta"}}),
        ("detect", {"inputs": "noise"}),  # whose adaptive attacker has targets
        ("detect", {"victim": {"name": "hashvfl"}, "attack": {"name": "dhta"}}),
        ("evolve", {"domain": "attack", "other": {"name": "csq"}}),
    ],
)
def test_a_plan_refuses_targets_that_cannot_be_chosen(
    kind: str, tables: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where every item has the same labels: before, the victim was trained first."""
    experiment = EXPERIMENTS.create(kind)
    config = experiment.config.build({"victim": {"name": "dpsh"}, **tables})
    alike = np.ones((1, 10), np.uint8), np.array([1347])
    monkeypatch.setattr("advhash.targets.label_sets", lambda _: alike)
    with pytest.raises(DataError, match="two label sets or more"):
        experiment.plan(config)
