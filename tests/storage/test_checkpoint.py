"""Checkpoints: what was saved comes back; everything else is refused in one line."""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from advhash import __version__
from advhash.data.load import load_dataset
from advhash.errors import CheckpointError, StorageError
from advhash.registry import VICTIMS
from advhash.storage.checkpoint import (
    CARD,
    WEIGHTS,
    load_victim,
    read_card,
    read_tensors,
    save_victim,
    write_tensors,
)
from advhash.storage.files import sha256
from advhash.victims.base import HashVictim

SETTINGS = {"bits": 16, "image_size": 32}
BIAS = "network.1.bias"  # of the hash layer
# A pickle of protocol 0 that would create the file "ran" in the working folder.
EVIL_PICKLE = b"cos\nsystem\n(S'touch ran'\ntR."


def make_victim(seed: int = 0) -> HashVictim:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        victim: HashVictim = VICTIMS.create("dpsh", SETTINGS)
    victim.train()
    victim.relax(images(), "image")  # moves the running statistics: they must be saved too
    return victim


def images() -> Tensor:
    return torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("victim")
    victim = make_victim()
    victim.history = [{"phase": "train", "epoch": 1, "loss": 0.5}]
    settings = VICTIMS.settings("dpsh", SETTINGS)
    save_victim(folder, victim, name="dpsh", settings=settings, seed=7, source="a paper")
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "victim"))


class TestRoundTrip:
    def test_the_loaded_victim_gives_the_same_codes(self, folder: Path) -> None:
        victim = make_victim().eval()
        loaded, _ = load_victim(folder)
        with torch.no_grad():
            expected = victim.relax(images(), "image")
            assert torch.equal(loaded.relax(images(), "image"), expected)
            other = make_victim(seed=1).eval()
            assert not torch.equal(other.relax(images(), "image"), expected)

    def test_every_tensor_comes_back(self, folder: Path) -> None:
        wanted, got = make_victim().state_dict(), load_victim(folder)[0].state_dict()
        assert list(wanted) == list(got)
        assert all(torch.equal(wanted[name], got[name]) for name in wanted)

    def test_it_comes_in_eval_mode_with_its_history(self, folder: Path) -> None:
        victim, _ = load_victim(folder)
        assert not any(module.training for module in victim.modules())
        assert victim.history == [{"phase": "train", "epoch": 1, "loss": 0.5}]

    def test_the_card_says_what_it_is(self, folder: Path) -> None:
        _, card = load_victim(folder)
        assert card == read_card(folder)
        assert card["schema"] == "advhash/victim/1"
        assert (card["name"], card["bits"], card["modalities"]) == ("dpsh", 16, ["image"])
        assert card["settings"] == VICTIMS.settings("dpsh", SETTINGS)
        assert card["files"] == {WEIGHTS: sha256(folder / WEIGHTS)}
        assert (card["version"], card["seed"], card["source"]) == (__version__, 7, "a paper")

    def test_the_folder_holds_two_files(self, original: Path) -> None:
        assert {path.name for path in original.iterdir()} == {CARD, WEIGHTS}

    def test_loading_leaves_the_global_generator_as_it_was(self, folder: Path) -> None:
        """A resumed run must not depend on whether a victim was loaded before."""
        torch.manual_seed(0)
        expected = torch.rand(3)
        torch.manual_seed(0)
        load_victim(folder)
        assert torch.equal(torch.rand(3), expected)


def edit_card(folder: Path, **changes: Any) -> None:
    file = folder / CARD
    card = json.loads(file.read_text("utf-8")) | changes
    file.write_text(json.dumps({key: value for key, value in card.items() if value is not None}))


def edit_weights(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Alter the tensors and sign them anew, as a stranger would."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    edit_card(folder, files={WEIGHTS: sha256(folder / WEIGHTS)})


def truncate(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def flip_one_bit(folder: Path) -> None:
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / WEIGHTS).write_bytes(content)


def replace_weights(content: bytes) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / WEIGHTS).write_bytes(content)
        edit_card(folder, files={WEIGHTS: sha256(folder / WEIGHTS)})

    return damage


def replace_card(content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / CARD).write_bytes(content) and None


def huge_card(folder: Path) -> None:
    with (folder / CARD).open("r+b") as stream:
        stream.truncate(17 * 2**20)


def weights_are_a_folder(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).mkdir()


def fill(value: float) -> Callable[[dict[str, Tensor]], object]:
    return lambda tensors: tensors[BIAS][3].fill_(value)


def settings(**changes: Any) -> dict[str, Any]:
    return VICTIMS.settings("dpsh", SETTINGS) | changes


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(truncate, "truncated or altered", id="truncated"),
        pytest.param(flip_one_bit, "truncated or altered", id="one bit flipped"),
        pytest.param(lambda f: (f / WEIGHTS).unlink(), f"expected {WEIGHTS}", id="no weights"),
        pytest.param(weights_are_a_folder, f"expected {WEIGHTS}", id="weights are a folder"),
        pytest.param(replace_weights(b""), "expected safetensors", id="empty weights, signed"),
        pytest.param(replace_weights(b"\xff" * 99), "expected safetensors", id="noise, signed"),
        pytest.param(replace_weights(EVIL_PICKLE), "expected safetensors", id="pickle, signed"),
        pytest.param(
            lambda f: edit_weights(f, lambda t: t.pop(BIAS)),
            rf"1 tensors differ, first '{BIAS}': expected \(16,\), got none",
            id="tensor missing",
        ),
        pytest.param(
            lambda f: edit_weights(f, lambda t: t.update(more=torch.zeros(2))),
            r"1 tensors differ, first 'more': expected none, got \(2,\)",
            id="tensor too many",
        ),
        pytest.param(
            lambda f: edit_weights(f, lambda t: t.update({BIAS: torch.zeros(17)})),
            rf"first '{BIAS}': expected \(16,\), got \(17,\)",
            id="wrong shape",
        ),
        pytest.param(
            lambda f: edit_weights(f, lambda t: t.update({BIAS: t[BIAS].double()})),
            rf"expected torch.float32 in '{BIAS}'",
            id="wrong type",
        ),
        pytest.param(
            lambda f: edit_weights(f, fill(math.nan)), "expected finite weights", id="NaN"
        ),
        pytest.param(
            lambda f: edit_weights(f, fill(-math.inf)), "expected finite weights", id="infinity"
        ),
        pytest.param(lambda f: (f / CARD).unlink(), f"expected {CARD}", id="no card"),
        pytest.param(replace_card(b"{"), "expected a victim card", id="card is no JSON"),
        pytest.param(replace_card(b"\xff\xfe"), "expected a victim card", id="card is no text"),
        pytest.param(replace_card(b"[]"), "schema 'list'", id="card is a list"),
        pytest.param(replace_card(b"{}"), "schema None", id="card is empty"),
        pytest.param(
            replace_card(b"[" * 200_000), "expected a victim card", id="card is nested deeply"
        ),
        pytest.param(
            replace_card(b"1" * 10_000), "expected a victim card", id="card is a long number"
        ),
        pytest.param(huge_card, "more than 16,777,216 bytes", id="card is huge"),
        pytest.param(
            lambda f: edit_card(f, schema="other/1"), "schema 'other/1'", id="foreign card"
        ),
        pytest.param(
            lambda f: edit_card(f, name=None), "name is missing: expected text", id="no name"
        ),
        pytest.param(
            lambda f: edit_card(f, name=["x"]),
            "name: expected text, got \\['x'\\]",
            id="odd name",
        ),
        pytest.param(
            lambda f: edit_card(f, settings=[1]),
            "settings: expected a table, got \\[1\\]",
            id="odd settings",
        ),
        pytest.param(
            lambda f: edit_card(f, files=None),
            "files is missing: expected a table of texts",
            id="no digests",
        ),
        pytest.param(lambda f: edit_card(f, files={}), "truncated or altered", id="not signed"),
        pytest.param(
            lambda f: edit_card(f, name="dpsh\nor not"),
            r"does not fit this advhash: unknown victim 'dpsh\\nor not'",
            id="unknown victim",
        ),
        pytest.param(
            lambda f: edit_card(f, settings=settings(bit=16)),
            "no setting 'bit': did you mean 'bits'",
            id="unknown setting",
        ),
        pytest.param(
            lambda f: edit_card(f, settings=settings(bits="many")),
            "setting 'victim.bits' of dpsh: expected a whole number, got 'many'",
            id="setting of a wrong type",
        ),
        pytest.param(
            lambda f: edit_card(f, settings=settings(bits=24)),
            r"2 tensors differ, first 'network.1.bias': expected \(24,\), got \(16,\)",
            id="settings of another victim",
        ),
        pytest.param(
            lambda f: edit_card(f, settings=settings(bits=-1)),
            "does not fit this advhash",
            id="setting out of range",
        ),
        pytest.param(
            lambda f: edit_card(
                f, name="neural-code", settings={"classes": 3, "depth": 10**9, "width": 1}
            ),
            "asks for more than 1",
            id="layers without end",
        ),
        pytest.param(
            lambda f: edit_card(f, settings=settings(backbone="resnet_of_mine")),
            "unknown backbone",
            id="unknown backbone",
        ),
    ],
)
def test_a_damaged_or_foreign_checkpoint_is_refused_in_one_line(
    folder: Path,
    damage: Callable[[Path], object],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as got:
        load_victim(folder)
    assert got.value.exit_code == 3
    assert "\n" not in str(got.value)
    assert str(folder) in str(got.value)
    assert not (folder / "ran").exists()


FIGURE = {"value": 0.5, "low": None, "high": None, "n": 9}
PICTURES = {"fed": [32, 32], "stored": None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metrics": {"map": {**FIGURE, "value": math.nan}}}, "NaN, which is no number of JSON"),
        (
            {"metrics": {"map": {**FIGURE, "value": "high"}}},
            "metrics.map.value: expected a number, got 'high'",
        ),
        (
            {"metrics": {"map": 0.5}},
            "metrics.map: expected a table with high, low, n, value, got 0.5",
        ),
        ({"metrics": [1]}, "metrics: expected a table of tables"),
        ({"history": [{"loss": -math.inf}]}, "-Infinity, which is no number of JSON"),
        ({"history": [{"loss": [1.0]}]}, "history.0.loss"),
        ({"history": [{"loss": {}}]}, "history.0.loss"),
        ({"history": {"loss": 1.0}}, "history: expected a list of tables"),
        ({"seed": "7"}, "seed: expected a whole number of at least 0"),
        ({"seed": 2**63}, "seed: expected a whole number of at least 0 and below"),
        ({"seed": 10**30}, "a whole number of more than 64 bits"),
        ({"seconds": -1}, "seconds: expected a number of at least 0, got -1"),
        ({"flags": [{"name": "odd", "level": "fatal", "message": ""}]}, "flags.0.level"),
        ({"flags": [{"name": "odd", "level": "info", "message": 3}]}, "flags.0.message"),
        ({"defenses": [{"name": "saat"}]}, "defenses.0.settings is missing: expected a table"),
        ({"data": {"name": "toy", "settings": {}, "pictures": {"fed": [32]}}}, "data.pictures"),
        ({"data": {"name": "toy", "settings": {}, "rows": {"train": -1}}}, "data.rows.train"),
        (
            {"codes": {"image": {"rows": 1}}},
            "codes.image.distinct is missing: expected a whole number",
        ),
        ({"undefended": {"codes": {"image": 3}}}, "undefended.codes.image"),
        ({"bits": 0}, "bits: expected a whole number of at least 1, got 0"),
        ({"modalities": "image"}, "modalities: expected a list of texts, got 'image'"),
        ({"name": "\ud800"}, "half of a Unicode character"),
    ],
    ids=str,
)
def test_no_part_of_a_card_is_believed_unread(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    """What is wrong in it would end a run once all was computed, when the record is written."""
    edit_card(folder, **changes)
    with pytest.raises(CheckpointError, match=message) as got:
        read_card(folder)
    assert "\n" not in str(got.value)


def test_what_a_training_writes_into_its_card_is_read(folder: Path) -> None:
    edit_card(
        folder,
        metrics={"map_image_image": FIGURE},
        history=[{"phase": "train", "epoch": 1, "loss": 0.5}],
        data={"name": "toy", "settings": {"size": 32}, "pictures": PICTURES, "rows": {"train": 4}},
        codes={"image": {"rows": 4, "distinct": 4, "balance": 1.0, "entropy": 0.5}},
        defenses=[{"name": "saat", "settings": {}, "source": "", "budget": None, "seed": 0}],
        undefended={"metrics": {"map": FIGURE}, "codes": None, "seconds": 1.5},
        entry_to_come={"any": [1]},
    )
    assert read_card(folder)["entry_to_come"] == {"any": [1]}


@pytest.mark.parametrize("suffix", [".pt", ".PTH", ".bin", ".pkl", ".ckpt", ".npy", ".joblib"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_pickle_is_refused_unread_with_what_to_do_instead(
    tmp_path: Path, suffix: str, exists: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / f"model{suffix}"
    if exists:
        file.write_bytes(EVIL_PICKLE)
    with pytest.raises(
        CheckpointError, match="can run code; `advhash import FILE --as NAME`"
    ) as got:
        load_victim(file)
    assert got.value.exit_code == 3
    assert "\n" not in str(got.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "best.PT"])
def test_a_folder_of_pickles_is_refused_unread(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(EVIL_PICKLE)
    with pytest.raises(CheckpointError, match=rf"got pickles \({name}\), which are refused") as got:
        load_victim(tmp_path)
    assert got.value.exit_code == 3
    assert "\n" not in str(got.value)
    assert not (tmp_path / "ran").exists()


def test_a_missing_folder_and_a_plain_file_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        load_victim(tmp_path / "gone")
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="a file"):
        load_victim(tmp_path / "file")


def test_tensors_round_trip_whatever_their_layout(tmp_path: Path) -> None:
    tensors = {
        "transposed": torch.arange(6).view(2, 3).T,
        "with gradient": torch.ones(2, requires_grad=True),
        "scalar": torch.tensor(3.5),
        "bytes": torch.tensor([0, 255], dtype=torch.uint8),
        "none": torch.zeros(0, 4),
    }
    write_tensors(tmp_path / "t.safetensors", tensors)
    got = read_tensors(tmp_path / "t.safetensors")
    assert set(got) == set(tensors)
    for name, value in tensors.items():
        assert got[name].dtype == value.dtype
        assert torch.equal(got[name], value)


def test_missing_tensors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected safetensors in"):
        read_tensors(tmp_path / "gone.safetensors")


def test_weights_are_written_as_all_else(tmp_path: Path) -> None:
    """The bytes that safetensors makes, which name a victim, and who may read them."""
    victim = make_victim()
    umask = os.umask(0o022)
    try:
        save_victim(tmp_path, victim, name="dpsh", settings={})
    finally:
        os.umask(umask)
    assert (tmp_path / WEIGHTS).read_bytes() == safetensors.torch.save(victim.state_dict())
    assert (tmp_path / WEIGHTS).stat().st_mode & 0o777 == 0o644


def test_weights_on_a_full_disk_end_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(StorageError, match="the disk is full"):
        save_victim(tmp_path, make_victim(), name="dpsh", settings={})


def test_a_full_disk_leaves_no_half_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, content: bytes) -> int:
        with path.open("wb") as stream:
            stream.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(StorageError, match="the disk is full") as got:
        write_tensors(tmp_path / "t.safetensors", {"a": torch.ones(100)})
    assert got.value.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_a_card_that_names_a_giant_costs_neither_memory_nor_time(folder: Path) -> None:
    """Its billion weights would be drawn before they are compared with the file."""
    giant = settings(backbone="vit_giant_patch14_224", image_size=224)
    edit_card(folder, settings=giant)
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="does not fit"):
        load_victim(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # KiB
    assert time.monotonic() - began < 10


def test_an_image_size_is_no_reason_to_take_memory(folder: Path) -> None:
    """The weights fit at any size of pictures, of which a card may ask for a giant one."""
    edit_card(folder, settings=settings(image_size=16384))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    load_victim(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000


@pytest.mark.parametrize("name", [entry.name for entry in VICTIMS if not entry.digest])
def test_a_victim_has_its_shapes_without_memory(name: str) -> None:
    """Its tensors on the meta device have the names and shapes that they have in memory."""
    build: type[HashVictim] = VICTIMS[name].build  # type: ignore[assignment]
    data = load_dataset(build.default_dataset)
    more = {"encoder": "timm:test_resnet", "pretrained": False} if name == "encoder" else {}
    known = VICTIMS.settings(name, {**build.data_arguments(data), **more})
    with torch.device("meta"):
        outline: HashVictim = VICTIMS.create(name, known)
    whole: HashVictim = VICTIMS.create(name, known)
    shapes = {key: value.shape for key, value in whole.state_dict().items()}
    assert {key: value.shape for key, value in outline.state_dict().items()} == shapes
    assert all(value.is_meta for value in outline.state_dict().values())
