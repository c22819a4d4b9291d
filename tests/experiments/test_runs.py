"""The run folder: it resumes, and it never looks finished before it is."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from advhash import __version__
from advhash.errors import RunError, StorageError
from advhash.storage.run_folder import RunFolder, environment, new_run_id, refuse_partial


class Work:
    """Makes the tensors of one part and counts how often."""

    def __init__(self, value: float = 1.0) -> None:
        self.value = value
        self.calls = 0

    def __call__(self) -> Mapping[str, Tensor]:
        self.calls += 1
        return {"codes": torch.full((3,), self.value)}


@pytest.fixture
def final(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "first"


@pytest.fixture
def run(final: Path) -> RunFolder:
    run = RunFolder.start(final)
    run.write_text("config.toml", "seed = 1\n")
    return run


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on half of each file is written before the disk is full."""

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as stream:
            stream.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    return lambda: monkeypatch.setattr(Path, "write_bytes", full)


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
        again = RunFolder.resume(final.with_name(name))
        assert (again.final, again.path) == (run.final, run.path)

    def test_from_inside_the_folder(self, run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(run.path)
        assert RunFolder.resume(Path(".")).path == run.path

    def test_a_finished_run_is_refused(self, final: Path, run: RunFolder) -> None:
        run.finish()
        with pytest.raises(RunError, match="which is finished"):
            RunFolder.resume(final)

    def test_a_missing_run_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(RunError, match=r"no .*gone.partial/config.toml"):
            RunFolder.resume(tmp_path / "gone")

    def test_a_folder_without_a_config_is_refused(self, final: Path) -> None:
        RunFolder.start(final)
        with pytest.raises(RunError, match=r"no .*first.partial/config.toml"):
            RunFolder.resume(final)


class TestParts:
    def test_a_part_is_made_once(self, final: Path, run: RunFolder) -> None:
        first, second = Work(1.0), Work(2.0)
        assert run.part("0000", first)["codes"].tolist() == [1.0] * 3
        assert RunFolder.resume(final).part("0000", second)["codes"].tolist() == [1.0] * 3
        assert (first.calls, second.calls) == (1, 0)

    def test_parts_are_told_apart_by_name(self, run: RunFolder) -> None:
        run.part("batch-0.1", Work(1.0))
        assert run.part("batch-0.2", Work(2.0))["codes"].tolist() == [2.0] * 3

    @pytest.mark.parametrize("damage", [b"", b"\x00" * 40, None], ids=["empty", "noise", "half"])
    def test_a_damaged_part_is_made_again(self, run: RunFolder, damage: bytes | None) -> None:
        run.part("0000", Work(1.0))
        file = run.path / "parts" / "0000.safetensors"
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2] if damage is None else damage)
        again = Work(2.0)
        assert run.part("0000", again)["codes"].tolist() == [2.0] * 3
        assert again.calls == 1
        assert run.part("0000", Work(3.0))["codes"].tolist() == [2.0] * 3

    def test_a_part_gets_its_name_only_when_it_is_whole(
        self, run: RunFolder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process that is killed cleans nothing up."""
        written = []
        write_bytes = Path.write_bytes

        def watched(path: Path, content: bytes) -> int:
            written.append(path.name)
            return write_bytes(path, content)

        monkeypatch.setattr(Path, "write_bytes", watched)
        run.part("0000", Work())
        assert written
        assert "0000.safetensors" not in written
        assert [path.name for path in (run.path / "parts").iterdir()] == ["0000.safetensors"]

    def test_an_interrupt_while_a_part_is_made_leaves_no_part(self, run: RunFolder) -> None:
        def interrupted() -> Mapping[str, Tensor]:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run.part("0000", interrupted)
        assert list(run.path.glob("parts/*")) == []

    def test_a_full_disk_leaves_no_half_of_a_part(
        self, run: RunFolder, full_disk: Callable[[], None]
    ) -> None:
        run.part("0000", Work())
        full_disk()
        with pytest.raises(StorageError, match="the disk is full; free some space") as got:
            run.part("0001", Work())
        assert got.value.exit_code == 3
        assert "\n" not in str(got.value)
        assert [path.name for path in (run.path / "parts").iterdir()] == ["0000.safetensors"]


class TestFinish:
    def test_it_never_looks_finished_before(self, final: Path, run: RunFolder) -> None:
        run.part("0000", Work())
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
        assert [path.name for path in run.path.iterdir()] == ["config.toml"]
        assert not final.exists()

    def test_a_failed_text_keeps_the_one_before(
        self, run: RunFolder, full_disk: Callable[[], None]
    ) -> None:
        full_disk()
        with pytest.raises(StorageError):
            run.write_text("config.toml", "seed = 2\n")
        assert (run.path / "config.toml").read_text() == "seed = 1\n"


class TestAbandon:
    def test_without_a_finished_part_nothing_is_left(self, final: Path, run: RunFolder) -> None:
        assert run.abandon() is False
        assert not run.path.exists()
        assert not final.exists()

    def test_an_unfinished_part_does_not_count(self, run: RunFolder) -> None:
        (run.path / "parts").mkdir()
        (run.path / "parts" / "0000.partial").write_bytes(b"x")
        assert run.abandon() is False
        assert not run.path.exists()

    def test_a_finished_part_is_kept_for_resuming(self, final: Path, run: RunFolder) -> None:
        run.part("0000", Work(1.0))
        assert run.abandon() is True
        assert RunFolder.resume(final).part("0000", Work(2.0))["codes"].tolist() == [1.0] * 3


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
        refuse_partial(folder)
    (folder / "config.toml").touch()  # which an attack writes first
    with pytest.raises(RunError, match="continue it with `advhash attack --resume"):
        refuse_partial(folder)
