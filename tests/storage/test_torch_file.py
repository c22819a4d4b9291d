"""Files of torch.save, read without running them: what comes out, and what hostile ones end in."""

from __future__ import annotations

import io
import os
import pickle  # noqa: TID251  (written here as strangers write them; read by code of ours)
import struct
import subprocess
import sys
import textwrap
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from advhash.errors import CheckpointError
from advhash.storage.foreign_model import open_model
from advhash.storage.torch_file import open_torch_file, text_table


def save(value: Any, file: Path, **settings: Any) -> Path:
    torch.save(value, file, **settings)  # noqa: TID251
    return file


def tensors(file: Path, part: str | None = None) -> dict[str, Tensor]:
    with open_model(file, part) as model:
        return {name: model.read(name).clone() for name in model.shapes}


both = pytest.mark.parametrize("zipped", [True, False], ids=["archive", "stream"])


@both
class TestWhatComesOut:
    def test_a_state_dict(self, tmp_path: Path, zipped: bool) -> None:
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        state = network.state_dict()
        file = save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        read = tensors(file)
        assert list(read) == list(state)
        for name, value in state.items():
            assert torch.equal(read[name], value)
            assert read[name].dtype == value.dtype

    def test_a_module(self, tmp_path: Path, zipped: bool) -> None:
        network = nn.Sequential(OrderedDict(a=nn.Linear(3, 2), b=nn.Sequential(nn.Linear(2, 2))))
        network.scale = 2.5  # type: ignore[assignment]
        file = save(network, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        with open_model(file) as model:
            assert {*model.shapes} == {*network.state_dict()}
            assert model.numbers["scale"] == 2.5
            assert model.called == ()
            for name, value in network.state_dict().items():
                assert torch.equal(model.read(name), value)

    def test_slices_views_and_shared_storages(self, tmp_path: Path, zipped: bool) -> None:
        base = torch.arange(24.0)
        given = {
            "part": base[5:9],
            "turned": base.view(4, 6).T,
            "column": base.view(4, 6)[:, 2],
            "whole": base,
            "empty": torch.zeros(0, 3),
            "number": torch.tensor(7),
        }
        file = save(given, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        read = tensors(file)
        assert all(torch.equal(read[name], value) for name, value in given.items())

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.bool])
    def test_kinds_of_numbers(self, tmp_path: Path, zipped: bool, dtype: torch.dtype) -> None:
        given = {"a": torch.tensor([0.0, 1.0, 2.0]).to(dtype), "b": torch.ones(2)}
        file = save(given, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        assert torch.equal(tensors(file)["a"], given["a"])

    def test_a_model_among_other_things(self, tmp_path: Path, zipped: bool) -> None:
        state = nn.Linear(3, 2).state_dict()
        optimiser = {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}
        given = {"epoch": 3, "model": state, "optimizer": optimiser, "best": {1.5, 2.5}}
        file = save(given, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
        assert {*tensors(file)} == {"weight", "bias"}
        second = nn.Linear(3, 2).state_dict()
        file = save({**given, "ema": second}, file, _use_new_zipfile_serialization=zipped)
        with pytest.raises(CheckpointError, match="2 models; expected --part with one of model, e"):
            tensors(file)
        assert {*tensors(file, "ema")} == {"weight", "bias"}
        with pytest.raises(CheckpointError, match="no model under 'emma'"):
            tensors(file, "emma")


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol(tmp_path: Path, protocol: int) -> None:
    given = {"a": torch.ones(2), "b": torch.zeros(3), "more": [1, -2, 2**40, 1.5, b"x", "é", None]}
    file = save(given, tmp_path / "a.pt", pickle_protocol=protocol or 2)
    assert torch.equal(tensors(file)["a"], given["a"])  # type: ignore[arg-type]


def test_plain_values(tmp_path: Path) -> None:
    given = {"a": (1, 2, [3, (4,)]), "b": {"c": True}, "d": "text", "e": -1.5}
    with open_torch_file(save(given, tmp_path / "a.pt")) as file:
        root = text_table(file.root)
    assert root["a"] == (1, 2, [3, (4,)])
    assert text_table(root["b"]) == {"c": True}
    assert (root["d"], root["e"]) == ("text", -1.5)


class Runs:
    """An object whose pickle would call something."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self._reduced = function, arguments

    def __reduce__(self) -> Any:
        return self._reduced


def archive(folder: Path, data: bytes, **entries: bytes) -> Path:
    """A file of torch.save with another pickle in it, its sizes and checksums right."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as file:
        file.writestr("a/data.pkl", data)
        for name, content in {"0": bytes(16), **entries}.items():
            file.writestr(f"a/data/{name}", content)
        file.writestr("a/version", b"3\n")
    (folder / "a.pt").write_bytes(stream.getvalue())
    return folder / "a.pt"


def tensor(
    key: str = "0", size: int = 4, offset: int = 0, shape: Any = (4,), step: Any = (1,)
) -> bytes:
    """The opcodes of a tensor."""

    def written(value: Any) -> bytes:
        return pickle.dumps(value, 2)[2:-1]

    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n((" + written("storage") + b"ctorch\nFloatStorage\n"
        + written(key) + written("cpu") + written(size) + b"tQ" + written(offset) + written(shape)
        + written(step) + b"\x89ccollections\nOrderedDict\n)RtR"
    )  # fmt: skip


def of(*values: bytes) -> bytes:
    """A pickle of a dict with these values and one tensor that is right."""
    pairs = b"".join(b"X\x01\x00\x00\x00" + b"abcdefg"[place : place + 1] + value
                     for place, value in enumerate((tensor(), *values)))  # fmt: skip
    return b"\x80\x02}(" + pairs + b"u."


def named(word: str) -> bytes:
    return b"c" + word.replace(":", "\n").encode() + b"\n"


RUNNING: dict[str, bytes] = {
    "REDUCE": named("os:system") + b"X\x09\x00\x00\x00touch ran\x85R",
    "NEWOBJ": named("os:system") + b"X\x09\x00\x00\x00touch ran\x85\x81",
    "NEWOBJ_EX": named("os:system") + b"X\x09\x00\x00\x00touch ran\x85}\x92",
    "OBJ": b"(" + named("os:system") + b"X\x09\x00\x00\x00touch rano",
    "INST": b"(X\x09\x00\x00\x00touch rani" + named("os:system")[1:],
    "STACK_GLOBAL": (
        b"X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93X\x09\x00\x00\x00touch ran\x85R"
    ),
    "BUILD": named("os:system") + b")\x81}X\x08\x00\x00\x00__dict__X\x01\x00\x00\x00xsb",
    "imports": named("antigravity_of_strangers:fly"),
    "exec": named("builtins:exec") + b"X\x14\x00\x00\x00open('ran','w').xx()\x85R",
}


@pytest.mark.parametrize("kind", RUNNING)
def test_nothing_that_a_pickle_names_runs(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model beside it comes in all the same; what would have been called is named."""
    (tmp_path / "antigravity_of_strangers.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    second = b"X\x01\x00\x00\x00z" + tensor()
    data = b"\x80\x04}(X\x01\x00\x00\x00a" + tensor() + second + b"X\x01\x00\x00\x00b"
    file = archive(tmp_path, data + RUNNING[kind] + b"u.")
    before = {*sys.modules}
    with open_model(file) as model:
        assert {*model.shapes} == {"a", "z"}
        assert bool(model.called) == (kind != "imports")
    assert not (tmp_path / "ran").exists()
    assert "antigravity_of_strangers" not in {*sys.modules} - before


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_that_run_are_no_models(protocol: int, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(
        pickle.dumps(Runs(os.system, f"touch {tmp_path}/ran"), protocol)
    )
    with pytest.raises(CheckpointError, match=r"expected a model of torch\.save"):
        tensors(tmp_path / "a.pt")
    assert not (tmp_path / "ran").exists()


def chain(count: int) -> bytes:
    return b"\x80\x02" + b"]" * count + b"a" * (count - 1) + b"."


HOSTILE: dict[str, tuple[bytes, str]] = {
    "10^9 elements": (of(tensor(size=10**9, shape=(10**9,))), "with two sizes"),
    "10^9 elements alone": (
        b"\x80\x02}X\x01\x00\x00\x00a" + tensor(size=10**9, shape=(10**9,)) + b"s.",
        "1,000,000,000 numbers in 16 bytes",
    ),
    "behind the end": (of(tensor(offset=1)), r"from place 1 on, of a storage of 4"),
    "shape too large": (of(tensor(shape=(2, 3), step=(3, 1))), "of a storage of 4"),
    "product beyond 64 bits": (of(tensor(shape=(2**40, 2**40), step=(2**40, 1))), "of a storage"),
    "stride 0": (of(tensor(shape=(4, 4), step=(0, 1))), "has places twice"),
    "stride 0 alone": (of(tensor(shape=(10**9,), step=(0,))), "has places twice"),
    "overlap": (of(tensor(shape=(2, 3), step=(1, 1))), "has places twice"),
    "negative stride": (of(tensor(step=(-1,))), "no whole number from 0"),
    "negative place": (of(tensor(offset=-1)), "no whole number from 0"),
    "fraction": (of(tensor(shape=(1.5,))), "no whole number from 0"),
    "many dimensions": (of(tensor(shape=(1,) * 9, step=(1,) * 9)), "9 sizes and 9 strides"),
    "sizes without strides": (of(tensor(step=())), "1 sizes and 0 strides"),
    "unknown storage": (of(tensor(key="7")), "no numbers of storage '7'"),
    "unknown numbers": (of(tensor().replace(b"Float", b"Quant", 1)), "two sizes or kinds"),
    "deep": (chain(100_000), "stacks more than 20,000"),
    "deep by marks": (b"\x80\x02" + b"(" * 1000 + b"t" * 1000 + b".", "nested more than 300"),
    "many opcodes": (b"\x80\x02" + b"N0" * 300_000 + b"N.", "more than 400,000 opcodes"),
    "huge memo": (b"\x80\x02Nr\x00\x00\x00\x7f.", "remembers more than 200,000"),
    "long number": (
        b"\x80\x02\x8b" + struct.pack("<i", 10**6) + b"\x01" * 10**6 + b".",
        "more than 127 bits",
    ),
    "long number as a line": (b"L" + b"9" * 10**6 + b"L\n.", "line in its pickle"),
    "digits": (b"\x80\x02L" + b"9" * 6000 + b"L\n.", "cut or damaged"),
    "long text": (b"\x80\x02X\xff\xff\xff\x7f.", "a text of 2,147,483,647 bytes"),
    "longer text": (b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f.", "a text of|cut or damaged"),
    "no end": (b"\x80\x02N", "cut or damaged"),
    "nothing": (b"", "cut or damaged"),
    "empty stack": (b"\x80\x02R.", "takes more than it has"),
    "never opened": (b"\x80\x02t.", "closes what it never opened"),
    "never kept": (b"\x80\x02h\x09.", "recalls what it never kept"),
    "key without value": (b"\x80\x02}(Nu.", "a key and no value"),
    "calls a number": (b"\x80\x02K\x01)R.", "calls a int"),
    "state of a list": (b"\x80\x02]}b.", "sets the state of a list"),
    "appends to a number": (b"\x80\x02K\x01Na.", "appends to a int"),
    "keys of a list": (b"\x80\x02]NNs.", "sets keys of a list"),
    "extension": (b"\x80\x02\x82\x01.", "the opcode EXT1"),
    "buffer": (b"\x80\x05\x97.", "the opcode NEXT_BUFFER"),
    "persistent text": (b"Pabc\n.", "the opcode PERSID"),
    "persistent other": (b"\x80\x02X\x01\x00\x00\x00a\x85Q.", "no storage"),
    "no tensors": (b"\x80\x02K\x01.", "without named tensors"),
    "name twice": (
        b"\x80\x02}(X\x01\x00\x00\x00a" + tensor() + b"X\x01\x00\x00\x00a" + tensor() + b"u.",
        "the name 'a' twice",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_pickle_ends_in_one_line(kind: str, tmp_path: Path) -> None:
    data, message = HOSTILE[kind]
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=message) as refused:
        tensors(archive(tmp_path, data))
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 600
    assert time.monotonic() - began < 30


def module(inner: bytes) -> bytes:
    """The opcodes of a module with one part, called `a`."""
    keys = b"".join(
        struct.pack("<cI", b"X", len(name)) + name + value
        for name, value in ((b"_parameters", b"}"), (b"_buffers", b"}"),
                            (b"_modules", b"}X\x01\x00\x00\x00a" + inner + b"s"))
    )  # fmt: skip
    return b"ctheirs\nNet\n)\x81q\x01}(" + keys + b"ub"


def test_a_module_in_itself_ends_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="modules that hold one another"):
        tensors(archive(tmp_path, b"\x80\x02" + module(b"h\x01") + b"."))


def test_a_dict_in_itself_ends_in_one_line(tmp_path: Path) -> None:
    data = b"\x80\x02}q\x01X\x01\x00\x00\x00ah\x01s."
    with pytest.raises(CheckpointError, match="without named tensors"):
        tensors(archive(tmp_path, data))


def test_dicts_that_share_one_another_take_no_time(tmp_path: Path) -> None:
    """40 dicts, each twice in the next: 2^40 ways, one of them walked."""
    grown = b"".join(
        b"}q" + bytes([place + 1]) + b"(X\x01\x00\x00\x00ah" + bytes([place])
        + b"X\x01\x00\x00\x00bh" + bytes([place]) + b"u"
        for place in range(40)
    )  # fmt: skip
    with pytest.raises(CheckpointError, match="without named tensors"):
        tensors(archive(tmp_path, b"\x80\x02}q\x00" + grown + b"."))


def test_slices_of_one_large_storage_are_refused(tmp_path: Path) -> None:
    base = torch.zeros(100_000)
    file = save({f"t{place}": base[place : place + 1] for place in range(100)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="slices of a large storage"):
        tensors(file)


def rewritten(
    file: Path, change: Callable[[zipfile.ZipFile, zipfile.ZipInfo, bytes], None]
) -> None:
    with zipfile.ZipFile(file) as before:
        parts = [(member, before.read(member)) for member in before.infolist()]
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as after:
        for member, content in parts:
            change(after, member, content)


def _deflated(after: zipfile.ZipFile, member: zipfile.ZipInfo, content: bytes) -> None:
    after.writestr(member.filename, content, zipfile.ZIP_DEFLATED)


def _twice(after: zipfile.ZipFile, member: zipfile.ZipInfo, content: bytes) -> None:
    after.writestr(member.filename, content)
    after.writestr(member.filename.replace("a/", "b/"), content)


def _script(after: zipfile.ZipFile, member: zipfile.ZipInfo, content: bytes) -> None:
    after.writestr(member.filename, content)
    if member.filename.endswith("data.pkl"):
        packed = zipfile.ZIP_DEFLATED  # as torch.jit.save has it
        after.writestr("a/code/__torch__.py", b"import os" * 9, packed)


def _big_endian(after: zipfile.ZipFile, member: zipfile.ZipInfo, content: bytes) -> None:
    after.writestr(member.filename, b"big" if "byteorder" in member.filename else content)


def _other(after: zipfile.ZipFile, member: zipfile.ZipInfo, content: bytes) -> None:
    after.writestr(member.filename.replace("data.pkl", "data.txt"), content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_deflated, "which is packed"),
        (_twice, "twice"),
        (_script, "TorchScript"),
        (_big_endian, "another byte order"),
        (_other, "torch.save did not write"),
    ],
)
def test_an_odd_archive_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    file = save(nn.Linear(3, 2).state_dict(), tmp_path / "a.pt")
    rewritten(file, change)
    with pytest.raises(CheckpointError, match=message):
        tensors(file)


def test_overlapping_entries_are_refused(tmp_path: Path) -> None:
    file = archive(tmp_path, of(), **{"1": bytes(16)})
    content = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as opened:
        first, second = (opened.getinfo(f"a/data/{key}").header_offset for key in "01")
    place = content.rindex(struct.pack("<I", second) + b"a/data/1")
    content[place : place + 4] = struct.pack("<I", first)
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="overlaps another"):
        tensors(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1], "cut"),
        (lambda content: content + b"x", "behind its end"),
        (lambda content: b"x" + content, "no file of torch.save"),
        (lambda content: content[:100], "cut"),
        (lambda content: content.replace(bytes(16), b"\x01" + bytes(15), 1), "damaged"),
        (lambda content: b"", "no file of torch.save"),
        (lambda content: b"\x89HDF" + content, "HDF5"),
    ],
)
def test_a_damaged_archive_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    file = archive(tmp_path, of(tensor()))
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(CheckpointError, match=message):
        tensors(file)


def test_an_archive_with_another_end_than_it_says_is_refused(tmp_path: Path) -> None:
    file = save({"a": torch.ones(3), "b": torch.ones(2)}, tmp_path / "a.pt")
    content = bytearray(file.read_bytes())
    place = content.rindex(b"PK\x06\x07") + 8
    content[place : place + 8] = struct.pack("<Q", 0)
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="not where it says"):
        tensors(file)


def test_names_without_end_are_refused(tmp_path: Path) -> None:
    """Wrappers in wrappers, and modules whose names grow from level to level."""
    long = "module." * 1000
    file = save({long + "a": torch.ones(1), long + "b": torch.ones(1)}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="more than 1,000 characters"):
        tensors(file)
    network = nn.Sequential(nn.Linear(1, 1))
    for _ in range(6):
        network = nn.Sequential(OrderedDict({"x" * 400: network}))
    with pytest.raises(CheckpointError, match="very many"):
        tensors(save(network, tmp_path / "a.pt"))


def test_a_stream_that_states_more_numbers_than_fit_anywhere_is_refused(tmp_path: Path) -> None:
    values = {"a": torch.ones(3), "b": torch.ones(4)}
    file = save(values, tmp_path / "a.pt", _use_new_zipfile_serialization=False)
    size = struct.pack("<q", 2**62)
    content = file.read_bytes()
    for count in (3, 4):
        content = content.replace(struct.pack("<q", count), size)
        content = content.replace(bytes([0x4B, count]) + b"N", b"\x8a\x08" + size + b"N", 1)
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="do not add up"):
        tensors(file)


def test_an_archive_of_very_many_entries_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = archive(tmp_path, of())
    content = bytearray(file.read_bytes())
    content[-12:-10] = content[-14:-12] = b"\xff\xff"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="65,535 entries"):
        tensors(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1], "add up"),
        (lambda content: content + b"x", "add up"),
        (lambda content: content[:-20], "numbers where its pickle says|add up"),
        (lambda content: content.replace(b"little_endian", b"littlE_endian"), "byte order"),
        (lambda content: content.replace(b"\x4d\xe9\x03", b"\x4d\xe9\x04"), "version of torch"),
        (lambda content: b"\x80\x02N." + content, "torch.save did not write"),
    ],
)
def test_a_damaged_stream_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    file = save({"a": torch.ones(3), "b": torch.ones(4)}, tmp_path / "a.pt",
                _use_new_zipfile_serialization=False)  # fmt: skip
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(CheckpointError, match=message):
        tensors(file)


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="a pipe or a device"):
        tensors(tmp_path / "a.pt")


def test_safetensors_are_read_too(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a": torch.ones(3)}, tmp_path / "a.safetensors")
    assert torch.equal(tensors(tmp_path / "a.safetensors")["a"], torch.ones(3))
    (tmp_path / "b.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match="expected a model"):
        tensors(tmp_path / "b.safetensors")


@pytest.mark.slow
def test_100_megabytes_take_seconds_and_little_memory(tmp_path: Path) -> None:
    """A whole ResNet-50: under 5 s, at most three times the file above torch's own memory."""
    program = textwrap.dedent(
        """
        import resource, sys, time
        from pathlib import Path
        import timm, torch
        from advhash.experiments.prepare.imported import import_checkpoint
        folder = Path(sys.argv[1])
        torch.save(timm.create_model("test_resnet", num_classes=8), folder / "small.pt")
        import_checkpoint(
            folder / "small.pt", folder / "small", architecture="timm:test_resnet", normalise="none"
        )
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        began = time.monotonic()
        import_checkpoint(folder / "large.pt", folder / "large", normalise="none")
        print(time.monotonic() - began)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)
        """
    )
    import torchvision

    network = torchvision.models.resnet50(num_classes=64)
    save(network, tmp_path / "large.pt")
    size = (tmp_path / "large.pt").stat().st_size
    assert size > 90e6
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    seconds, memory = map(float, done.stdout.split()[-2:])
    assert seconds < 5, seconds
    assert memory < 3 * size, memory / size
