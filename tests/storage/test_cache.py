"""The cache: what was written is what is read, else it is made again, once."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advhash.attacks.base import AttackData
from advhash.budget import Budget
from advhash.codes.metrics import Scoring
from advhash.errors import CheckpointError, StorageError
from advhash.experiments.config import AttackConfig
from advhash.experiments.prepare.ceiling import target_ceilings
from advhash.experiments.prepare.fit_attack import fit_attack
from advhash.experiments.prepare.victim import train
from advhash.storage import cache
from advhash.storage.cache import DIGESTS, cached


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path))
    return tmp_path


class Built:
    """A folder of two files, one below a folder of its own."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        self.calls += 1
        (folder / "a").write_bytes(bytes(range(100)))
        (folder / "below").mkdir()
        (folder / "below" / "b").write_text("12345")

    def read(self, folder: Path) -> bytes:
        return (folder / "a").read_bytes() + (folder / "below" / "b").read_bytes()


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "flipped": flip,
    "cut": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"x"),
    "empty": lambda file: file.write_bytes(b""),
    "gone": lambda file: file.unlink(),
}


@pytest.mark.parametrize("name", ["a", "below/b", DIGESTS])
@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_damaged_is_made_again_once(name: str, damage: str, root: Path) -> None:
    built = Built()
    whole = cached("kind", "key", built, built.read)
    assert cached("kind", "key", built, built.read) == whole
    assert built.calls == 1
    DAMAGES[damage](root / "kind" / "key" / name)
    assert cached("kind", "key", built, built.read) == whole
    assert cached("kind", "key", built, built.read) == whole
    assert built.calls == 2
    assert [path.name for path in (root / "kind").iterdir()] == ["key"]


def test_large_files_are_read_again_only_where_they_were_touched(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "LARGE", 50)
    seen: list[str] = []
    digest = cache.sha256
    monkeypatch.setattr(cache, "sha256", lambda path: (seen.append(path.name), digest(path))[1])
    built = Built()
    whole = cached("kind", "key", built, built.read)
    seen.clear()
    assert cached("kind", "key", built, built.read) == whole
    assert seen == ["b"]
    file = root / "kind" / "key" / "a"
    os.utime(file)  # as a copy to another disk does
    assert cached("kind", "key", built, built.read) == whole
    assert "a" in seen
    assert built.calls == 1
    flip(file)
    assert cached("kind", "key", built, built.read) == whole
    assert built.calls == 2


def test_a_disk_that_damages_at_once_is_told(root: Path) -> None:
    built = Built()

    def read(folder: Path) -> bytes:
        raise ValueError("no")

    with pytest.raises(StorageError, match="came back damaged right after it was written"):
        cached("kind", "key", built, read)
    assert built.calls == 2


def test_what_is_whole_is_not_lost_to_a_lack_of_handles_or_a_bug(root: Path) -> None:
    """Even where a reader made an error of its own of it."""
    built = Built()
    whole = cached("kind", "key", built, built.read)

    def no_handles(folder: Path) -> bytes:
        try:
            raise OSError(24, "Too many open files")
        except OSError:
            raise CheckpointError("expected safetensors") from None

    def bug(folder: Path) -> bytes:
        raise TypeError("of ours")

    with pytest.raises(CheckpointError):
        cached("kind", "key", built, no_handles)
    with pytest.raises(TypeError):
        cached("kind", "key", built, bug)
    assert cached("kind", "key", built, built.read) == whole
    assert built.calls == 1


def test_a_folder_under_the_name_of_another_is_made_again(root: Path) -> None:
    """Its digests are right, and they are those of other content."""
    first, second = Built(), Built()
    cached("kind", "first", first, first.read)
    cached("kind", "second", second, second.read)
    shutil.rmtree(root / "kind" / "second")
    shutil.copytree(root / "kind" / "first", root / "kind" / "second")
    cached("kind", "second", second, second.read)
    assert (first.calls, second.calls) == (1, 2)


def test_what_another_user_wrote_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests tell damage; whoever writes the files writes their digests too."""
    built = Built()
    cached("kind", "key", built, built.read)
    foreign = os.geteuid() + 1 if os.geteuid() else 12345
    monkeypatch.setattr(os, "geteuid", lambda: foreign)
    cache._owner_here.cache_clear()
    cached("kind", "key", built, built.read)  # here the file system knows nobody else
    monkeypatch.setattr(cache, "_owner_here", lambda _: foreign)
    if os.getuid() == 0:  # what root wrote is believed; what another user wrote is not
        os.chown(root / "kind" / "key" / "a", 54321, 54321)
    with pytest.raises(StorageError, match=r"who may have written any figure: set ADVHASH_CACHE"):
        cached("kind", "key", built, built.read)
    assert built.calls == 1
    assert (root / "kind" / "key").stat().st_mode & 0o077 == 0


def test_a_damaged_name_of_a_cache_is_drawn_again(root: Path) -> None:
    name = cache.cache_name()
    assert cache.cache_name() == name
    for content in (b"", name[:10].encode(), b"\xff" * 32):
        (root / "name").write_bytes(content)
        again = cache.cache_name()
        assert re.fullmatch("[0-9a-f]{32}", again)
        assert cache.cache_name() == again
    for put in (lambda file: os.mkfifo(file), lambda file: file.symlink_to(root)):
        (root / "name").unlink()
        put(root / "name")
        assert re.fullmatch("[0-9a-f]{32}", cache.cache_name())
    assert [path.name for path in root.iterdir()] == ["name"]


def test_a_clock_that_goes_backwards_changes_nothing(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written now lies in the future of the next process: locks count, not ages."""
    left = root / "kind" / ".left.1.tmp"
    left.mkdir(parents=True)
    now = time.time()
    os.utime(left, (now + 10**7, now + 10**7))
    built = Built()
    monkeypatch.setattr(time, "time", lambda: now - 10**7)
    whole = cached("kind", "key", built, built.read)
    assert not left.exists()
    monkeypatch.setattr(time, "time", lambda: now + 10**7)

    def build(folder: Path) -> None:
        cached("kind", "other", built, built.read)  # sweeps
        assert folder.is_dir()
        built(folder)

    assert cached("kind", "third", build, built.read) == whole


@pytest.mark.parametrize(
    "error", [OSError(24, "Too many open files"), OSError("I/O error: (os error 24)")]
)
def test_what_this_process_lacks_is_no_damage(error: OSError, root: Path) -> None:
    """The folder would be thrown away, and built again where nothing can be opened."""
    built = Built()
    cached("kind", "key", built, built.read)

    def read(folder: Path) -> bytes:
        raise error

    with pytest.raises(OSError, match=r"24|open files"):
        cached("kind", "key", built, read)
    assert built.calls == 1
    assert (root / "kind" / "key").is_dir()


# --- what runs keep


@pytest.fixture(scope="module")
def victim() -> Any:
    return train(AttackConfig.build(CONFIG))


CONFIG = {
    "victim": {"name": "dhash"},
    "attack": {"name": "tha", "steps": 2, "prototype_steps": 20},
    "dataset": {"name": "digits", "size": 16},
}


def only(root: Path, pattern: str) -> Path:
    (file,) = root.glob(pattern)
    return file


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_attack_is_fitted_again(damage: str, victim: Any, root: Path) -> None:
    """It ended in a traceback for ever, or attacked with other weights."""
    config = AttackConfig.build(CONFIG)
    codes = victim.victim.database_codes(victim.data, "image")
    data = AttackData(victim.data, codes, "image", "image")
    first = fit_attack(config, victim, data)
    assert not first.cached
    assert fit_attack(config, victim, data).cached
    DAMAGES[damage](only(root, "attacks/*/state.safetensors"))
    again = fit_attack(config, victim, data)
    assert not again.cached
    assert again.fingerprint == first.fingerprint
    assert fit_attack(config, victim, data).cached
    assert again.budget == Budget("linf", 8 / 255)


def test_ceilings_are_of_the_victim_that_identity_names(victim: Any, root: Path) -> None:
    """Names that differ in a seed alone gave both victims the ceilings of the first."""
    data = victim.data
    codes = victim.victim.database_codes(data, "image")
    served = AttackData(data, codes, "image", "image")
    for seed in (1, 2):
        target_ceilings(
            victim.victim, served, data.database.labels[:3].numpy(),
            scoring=Scoring(), identity={"seed": seed},
        )  # fmt: skip
    assert len(list(root.glob("ceilings/*/ceilings.safetensors"))) == 2


def test_ceilings_that_were_halved_are_taken_again(victim: Any, root: Path) -> None:
    """Every number of the damaged file is one that could be."""
    data = victim.data
    codes = victim.victim.database_codes(data, "image")
    served = AttackData(data, codes, "image", "image")
    targets = data.database.labels[:3].numpy()

    def taken() -> Any:
        return target_ceilings(
            victim.victim, served, targets, scoring=Scoring(), identity={"test": "here"}
        )

    whole = taken()
    file = only(root, "ceilings/*/ceilings.safetensors")
    stored = torch.frombuffer(bytearray(file.read_bytes()[-8:]), dtype=torch.float64)
    content = file.read_bytes()
    file.write_bytes(content[:-8] + (stored / 2).numpy().tobytes())
    assert file.read_bytes() != content
    assert np.array_equal(taken(), whole)
    assert json.loads((file.parent / DIGESTS).read_text())
    assert file.read_bytes() == content
