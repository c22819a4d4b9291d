"""One cache for the whole session, never the user's; and a scene of attacks without training."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from attack_scene import Scene, make_scene
from command_line import command


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("advhash-cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADVHASH_CACHE", str(folder))
        patch.setenv("COLUMNS", "200")
        patch.setenv("OMP_NUM_THREADS", "1")  # for the processes that tests start
        yield folder


@pytest.fixture(scope="session", autouse=True)
def no_runs_beside() -> Iterator[None]:
    """What tests run is written where they say, not into the folder that they are called from."""
    before = set(Path("runs").resolve().glob("*"))
    folder = Path.cwd()
    yield
    left = set((folder / "runs").resolve().glob("*")) - before
    assert not left, f"left by a test: {sorted(map(str, left))}"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small tensors: more threads only wait for each other, and one gives the same bits."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def scene() -> Scene:
    """Untrained victim, database, queries, targets; attacks leave all of it as it is."""
    return make_scene()


@pytest.fixture
def advhash(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call the command in this process: exit code, stdout, stderr."""
    return lambda *arguments: command(capsys, *arguments)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on half of each file is written before the disk is full."""

    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as stream:
            stream.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    return lambda: monkeypatch.setattr(Path, "write_bytes", full)
