"""Files that torch.save wrote, read by code of ours: tensors, and inert values for all else.

Two layouts: a zip archive since torch 1.6, whose entries are stored as they are, and the stream of
before. Where every tensor lies is known and checked before the numbers of any are read.
"""

from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from advhash.storage.documents import BROKEN_ARRAYS, CHUNK, Unreadable, open_file, reason
from advhash.storage.foreign_text import visible
from advhash.storage.pickle_opcodes import (
    MOST_BYTES,
    Call,
    Name,
    Pickle,
    Storage,
    Table,
    View,
    read_pickle,
)

MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the stream of before torch 1.6
STREAM_VERSION = 1001
MOST_ENTRIES = 20_000
READINGS = 4  # of all storages: each is read for every tensor in it
BYTE_ORDER = "numbers in another byte order: save it on a usual machine"
DESCRIPTORS = (0, 16, 24)  # bytes behind an entry that repeat its checksum and sizes
END = struct.Struct("<4s4H2LH")  # of a zip archive
END64 = struct.Struct("<4sQ2H2L4Q")
END64_PLACE = struct.Struct("<4sLQL")
KINDS = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
OTHERS = {  # what files begin with that are taken for a model
    b"\x89HDF": "an HDF5 file (Keras?)",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff\xe0": "a JPEG picture",
    b"\x93NUM": "an array of NumPy",
    b"\x1f\x8b\x08\x00": "a gzipped file: unpack it first",
}


class TorchFile:
    """An open file of torch.save.

    root:   its value; tensors in it are each a `View`
    called: what its pickle would call, and what is not called
    fill:   reads the bytes of a storage, by its key, into a buffer of their length
    """

    def __init__(self, pickle: Pickle, fill: Callable[[str, memoryview], None]) -> None:
        self.root = pickle.value
        self.called = pickle.called
        self._fill = fill
        stored = [storage.size * width_of(storage) for storage in pickle.storages.values()]
        self._left = READINGS * sum(stored)
        self._largest = max(stored, default=0)
        self._buffer: Tensor | None = None

    def tensor(self, view: View) -> Tensor:
        """The numbers of a view, on the CPU. Raises OSError, Unreadable.

        They lie in one buffer for all readings: clone what is to last beyond the next.
        """
        storage = view.storage
        if self._buffer is None:
            self._buffer = torch.empty(self._largest, dtype=torch.uint8)
        content = self._buffer[: storage.size * width_of(storage)]
        self._left -= len(content)
        if self._left < 0:
            raise Unreadable("many tensors that are slices of a large storage: save clones of them")
        self._fill(storage.key, memoryview(content.numpy()))  # type: ignore[arg-type]
        return content.view(KINDS[storage.kind]).as_strided(view.shape, view.stride, view.offset)


def width_of(storage: Storage) -> int:
    """Bytes of a number. Raises Unreadable: a kind of number that no network here has."""
    if storage.kind not in KINDS:
        raise Unreadable(f"a {visible(storage.kind[:40])}, whose numbers no network here has")
    return KINDS[storage.kind].itemsize


@contextmanager
def open_torch_file(path: Path) -> Iterator[TorchFile]:
    """Raises OSError, Unreadable: none, damaged, or not as torch.save writes it."""
    with open_file(path) as stream:
        head = stream.read(4)
        stream.seek(0)
        if head == b"PK\x03\x04":
            with _broken_archive():
                _expect_few(stream)
                archive = zipfile.ZipFile(stream)
            with archive:
                yield _archived(archive, stream)
        elif head[:1] == b"\x80":
            yield _streamed(stream)
        else:
            known = "no file of torch.save and no safetensors: save the state_dict() of the model"
            raise Unreadable(OTHERS.get(head, known))


def _archived(archive: zipfile.ZipFile, stream: BufferedReader) -> TorchFile:
    """The zip archive of torch 1.6 and later."""
    with _broken_archive():
        members = _members(archive, stream)
        order = members.get("byteorder")
        if order is not None and (order.file_size != 6 or archive.read(order) != b"little"):
            raise Unreadable(BYTE_ORDER)
        if members["data.pkl"].file_size > MOST_BYTES:
            raise Unreadable(f"a pickle of more than {MOST_BYTES:,} bytes")
        pickle = read_pickle(io.BytesIO(archive.read(members["data.pkl"])))
    for key, storage in pickle.storages.items():
        member, shown = members.get(f"data/{key}"), visible(key[:40])
        if member is None:
            raise Unreadable(f"no numbers of storage {shown!r}")
        if storage.size * width_of(storage) != member.file_size:
            raise Unreadable(
                f"storage {shown!r} of {storage.size:,} numbers in {member.file_size:,} bytes"
            )

    def fill(key: str, target: memoryview) -> None:
        with _broken_archive(), archive.open(members[f"data/{key}"]) as member:
            _read_into(target, member)

    return TorchFile(pickle, fill)


def _expect_few(stream: BufferedReader) -> None:
    """Raise Unreadable where an archive has no plain end, or states very many entries.

    `zipfile` makes an object of every entry that it finds.
    """
    size = stream.seek(0, 2)
    stream.seek(max(0, size - END.size))
    parts = END.unpack(stream.read(END.size))
    count, length, comment = parts[4], parts[5], parts[7]
    if parts[0] != b"PK\x05\x06" or comment:
        raise Unreadable("an archive that is cut, or has something behind its end")
    place = size - END.size - END64_PLACE.size
    if place >= 0:
        stream.seek(place)
        mark, _, end, _ = END64_PLACE.unpack(stream.read(END64_PLACE.size))
        if mark == b"PK\x06\x07":
            if end != place - END64.size:  # `zipfile` looks there, whatever is stated
                raise Unreadable("an archive whose end is not where it says")
            stream.seek(end)
            parts64 = END64.unpack(stream.read(END64.size))
            count, length = max(count, parts64[7]), parts64[8]
    stream.seek(0)
    if count > MOST_ENTRIES or length > MOST_ENTRIES * 128:
        raise Unreadable(f"an archive of {count:,} entries, over {MOST_ENTRIES:,}")


def _members(archive: zipfile.ZipFile, stream: BufferedReader) -> dict[str, zipfile.ZipInfo]:
    """The entries by their names below the folder that torch puts them in.

    Raises Unreadable unless they are stored, once each, one behind the other, and fill the file.
    """
    members: dict[str, zipfile.ZipInfo] = {}
    place = 0
    inner = [name.partition("/")[2] for name in archive.namelist()]
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise Unreadable("a TorchScript archive, which holds code: save its state_dict() instead")
    for member in sorted(archive.infolist(), key=lambda member: member.header_offset):
        shown = visible(member.filename[:60])
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise Unreadable(f"the entry {shown!r}, which is packed: torch stores them as they are")
        if member.flag_bits & 0x1:
            raise Unreadable(f"the entry {shown!r}, which is encrypted")
        if member.header_offset - place not in (DESCRIPTORS if members else (0,)):
            raise Unreadable(f"the entry {shown!r}, which overlaps another or leaves a gap")
        stream.seek(member.header_offset + 26)
        name, extra = struct.unpack("<2H", stream.read(4))
        place = member.header_offset + 30 + name + extra + member.file_size
        below = member.filename.partition("/")[2]
        if below in members:
            raise Unreadable(f"the entry {shown!r} twice")
        members[below] = member
    if archive.start_dir - place not in DESCRIPTORS:
        raise Unreadable("an archive whose entries do not add up to its size")
    if "data.pkl" not in members:
        raise Unreadable("a zip archive that torch.save did not write")
    return members


def _streamed(stream: BufferedReader) -> TorchFile:
    """The stream of before torch 1.6: five pickles, then the numbers of every storage."""
    if read_pickle(stream).value != MAGIC:
        raise Unreadable("a pickle that torch.save did not write: save the state_dict() with it")
    if read_pickle(stream).value != STREAM_VERSION:
        raise Unreadable("a file of a version of torch that is not known")
    if text_table(read_pickle(stream).value).get("little_endian") is not True:
        raise Unreadable(BYTE_ORDER)
    pickle = read_pickle(stream)
    keys = read_pickle(stream).value
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Unreadable("no list of its storages")
    if len(keys) != len(pickle.storages) or {*keys} != {*pickle.storages}:
        raise Unreadable("a list of storages that does not fit its pickle")
    places: dict[str, int] = {}
    place = stream.tell()
    size = stream.seek(0, os.SEEK_END)
    for key in keys:
        storage = pickle.storages[key]
        if place > size:
            break
        stream.seek(place)
        count = int.from_bytes(stream.read(8), "little")
        if count != storage.size:
            raise Unreadable(f"{count:,} numbers where its pickle says {storage.size:,}")
        places[key] = place + 8
        place += 8 + count * width_of(storage)
    if place != size:
        raise Unreadable("storages that do not add up to the size of the file")

    def fill(key: str, target: memoryview) -> None:
        stream.seek(places[key])
        _read_into(target, stream)

    return TorchFile(pickle, fill)


def text_table(value: Any) -> dict[str, Any]:
    """The values of a dict whose keys are texts, and those of an OrderedDict; others are left out.

    Raises Unreadable: a key twice.
    """
    table: dict[str, Any] = {}
    for key, part in _pairs(value):
        if isinstance(key, str):
            if key in table:
                raise Unreadable(f"the name {visible(key[:60])!r} twice")
            table[key] = part
    return table


def _pairs(value: Any) -> list[tuple[Any, Any]]:
    """The pairs of a dict or an OrderedDict; of anything else, none."""
    if isinstance(value, Table):
        return value.pairs
    if not isinstance(value, Call) or value.name != Name("collections", "OrderedDict"):
        return []
    first = value.arguments[0] if value.arguments else []  # as Python 2 wrote it: a list of pairs
    given = first if isinstance(first, list | tuple) else []
    listed = [tuple(pair) for pair in given if isinstance(pair, list | tuple) and len(pair) == 2]
    return [*listed, *value.pairs]


def _read_into(target: memoryview, stream: Any) -> None:
    """Read bytes until a buffer is full. Raises Unreadable."""
    place = 0
    while place < len(target):
        part = stream.read(min(CHUNK, len(target) - place))
        if not part:
            raise Unreadable("numbers that are cut")
        target[place : place + len(part)] = part
        place += len(part)


@contextmanager
def _broken_archive() -> Iterator[None]:
    try:
        yield
    except Unreadable:
        raise
    except (*BROKEN_ARRAYS, NotImplementedError) as error:
        raise Unreadable(f"an archive that is damaged ({visible(reason(error))})") from None
