"""Results and pieces of cells in the cache: made once, whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor

from advhash.errors import CheckpointError, StorageError
from advhash.storage import checkpoint
from advhash.storage.cells import CellStore, Result


class Work:
    """Makes the tensors of one piece and counts how often."""

    def __init__(self, value: float = 1.0) -> None:
        self.value = value
        self.calls = 0

    def __call__(self) -> Mapping[str, Tensor]:
        self.calls += 1
        return {"codes": torch.full((3,), self.value)}


def no_handles(path: Path) -> None:
    raise OSError(24, "Too many open files")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CellStore:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "cache"))
    return CellStore("kind", "key")


class TestPieces:
    def test_a_piece_is_made_once(self, store: CellStore) -> None:
        first, second = Work(1.0), Work(2.0)
        assert store.piece("0000", first)["codes"].tolist() == [1.0] * 3
        assert CellStore("kind", "key").piece("0000", second)["codes"].tolist() == [1.0] * 3
        assert (first.calls, second.calls) == (1, 0)

    def test_parts_are_told_apart_by_name(self, store: CellStore) -> None:
        store.piece("batch-0.1", Work(1.0))
        assert store.piece("batch-0.2", Work(2.0))["codes"].tolist() == [2.0] * 3

    def test_a_piece_is_not_lost_to_a_lack_of_handles(
        self, store: CellStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.piece("0000", Work(1.0))
        with monkeypatch.context() as patched:
            patched.setattr(checkpoint, "expect_file", no_handles)
            with pytest.raises(CheckpointError):
                store.piece("0000", Work(2.0))
        assert store.piece("0000", Work(3.0))["codes"].tolist() == [1.0] * 3

    @pytest.mark.parametrize("damage", [b"", b"\x00" * 40, None], ids=["empty", "noise", "half"])
    def test_a_damaged_piece_is_made_again(self, store: CellStore, damage: bytes | None) -> None:
        store.piece("0000", Work(1.0))
        file = store.pieces / "0000.safetensors"
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2] if damage is None else damage)
        again = Work(2.0)
        assert store.piece("0000", again)["codes"].tolist() == [2.0] * 3
        assert again.calls == 1
        assert store.piece("0000", Work(3.0))["codes"].tolist() == [2.0] * 3

    def test_every_byte_of_a_piece_is_checked(self, store: CellStore) -> None:
        """One flipped bit of a number would be a wrong figure that nobody notices."""
        store.piece("0000", Work(1.0))
        file = store.pieces / "0000.safetensors"
        content = file.read_bytes()
        for place in range(len(content)):
            changed = bytearray(content)
            changed[place] ^= 1
            file.write_bytes(changed)
            assert store.piece("0000", Work(1.0))["codes"].tolist() == [1.0] * 3
            file.write_bytes(content)
        plain = {"codes": torch.full((3,), 9.0)}
        safetensors.torch.save_file(plain, file)  # without a digest
        assert store.piece("0000", Work(1.0))["codes"].tolist() == [1.0] * 3

    def test_a_piece_gets_its_name_only_when_it_is_whole(
        self, store: CellStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process that is killed cleans nothing up."""
        written = []
        write_bytes = Path.write_bytes

        def watched(path: Path, content: bytes) -> int:
            written.append(path.name)
            return write_bytes(path, content)

        monkeypatch.setattr(Path, "write_bytes", watched)
        store.piece("0000", Work())
        assert written
        assert "0000.safetensors" not in written
        assert [path.name for path in store.pieces.iterdir()] == ["0000.safetensors"]

    def test_a_piece_of_another_cell_is_not_believed(self, store: CellStore) -> None:
        """Its bytes are whole, and they are those of other work."""
        store.piece("0000", Work(1.0))
        for name, key in (("0001", "key"), ("0000", "other")):
            other = CellStore("kind", key)
            other.pieces.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(store.pieces / "0000.safetensors", other.pieces / f"{name}.safetensors")
            assert other.piece(name, Work(2.0))["codes"].tolist() == [2.0] * 3

    def test_what_stands_in_the_way_of_a_piece_is_removed(self, store: CellStore) -> None:
        store.pieces.parent.mkdir(parents=True)
        store.pieces.write_text("a file")
        store.piece("0000", Work(1.0))
        (store.pieces / "0001.safetensors").mkdir()
        assert store.piece("0001", Work(2.0))["codes"].tolist() == [2.0] * 3
        assert store.piece("0001", Work(3.0))["codes"].tolist() == [2.0] * 3

    def test_an_interrupt_while_a_piece_is_made_leaves_no_piece(self, store: CellStore) -> None:
        def interrupted() -> Mapping[str, Tensor]:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            store.piece("0000", interrupted)
        assert list(store.pieces.glob("*")) == []

    def test_a_full_disk_leaves_no_half_of_a_piece(
        self, store: CellStore, full_disk: Callable[[], None]
    ) -> None:
        store.piece("0000", Work())
        full_disk()
        with pytest.raises(StorageError, match="the disk is full; free some space") as got:
            store.piece("0001", Work())
        assert got.value.exit_code == 3
        assert "\n" not in str(got.value)
        assert [path.name for path in store.pieces.iterdir()] == ["0000.safetensors"]

    def test_pieces_hold_plain_tensors_only(self, store: CellStore) -> None:
        store.piece("0", lambda: {"moved": torch.zeros(2, 3)})
        stored = safetensors.torch.load_file(store.pieces / "0.safetensors")
        assert stored["moved"].shape == (2, 3)


class TestResults:
    def test_a_result_is_computed_once_and_its_pieces_go(self, store: CellStore) -> None:
        store.piece("0000", Work())
        assert store.is_begun()
        assert not store.is_done()
        made = Work(2.0)
        for _ in range(2):
            found = store.result(lambda: Result({"rows": [1, 2]}, made()))
            assert found.document == {"rows": [1, 2]}
            assert found.tensors["codes"].tolist() == [2.0] * 3
        assert made.calls == 1
        assert store.is_done()
        assert not store.pieces.exists()
        store.forget()
        assert not store.is_begun()

    @pytest.mark.parametrize("name", ["result.json", "result.safetensors"])
    @pytest.mark.parametrize("damage", ["cut", "bit", "empty", "gone", "swapped"])
    def test_a_damaged_result_is_computed_again_and_never_believed(
        self, store: CellStore, name: str, damage: str
    ) -> None:
        for value, one in ((1.0, store), (5.0, CellStore("kind", "other"))):
            one.result(lambda value=value: Result({"value": value}, Work(value)()))  # type: ignore[misc]
        file = store.folder / name
        content = file.read_bytes()
        changed = bytearray(content)
        changed[len(content) * 2 // 3] ^= 1
        if damage == "gone":
            file.unlink()
        else:
            other = CellStore("kind", "other").folder / name
            file.write_bytes(
                {
                    "cut": content[: len(content) // 2],
                    "bit": bytes(changed),
                    "empty": b"",
                    "swapped": other.read_bytes(),
                }[damage]
            )
        again = Work(1.0)
        found = store.result(lambda: Result({"value": 1.0}, again()))
        assert found.document == {"value": 1.0}
        assert found.tensors["codes"].tolist() == [1.0] * 3
