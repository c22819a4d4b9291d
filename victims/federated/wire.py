"""The wire between parties and server: codes go up, gradients of codes come down, nothing else.

A message is a header and one table of numbers. Whoever receives one trusts nothing in it: what is
malformed, of another round, another shape, not finite or not a code raises MessageError and leaves
the receiver as it was, so that training can go on once a proper message comes.
"""

from __future__ import annotations

import shutil
import struct
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from advhash.errors import MessageError
from advhash.storage.documents import open_file, reason
from advhash.storage.files import storage_errors

MAGIC = b"AVFL"
HEADER = struct.Struct("<4sBHQII")  # magic, kind, party, round, rows, width
IN_MEMORY = 16 * 2**20  # bytes of a transcript; what is longer lies in a file
MAX_VALUES = 2**26  # rows × width that a header may announce
LARGEST = 1e6  # magnitude of a real or a gradient: sums of squares of such stay finite


class Kind(IntEnum):
    """What a table holds."""

    CODES = 0  # up: ±1, one bit each
    REALS = 1  # up: float32, where embeddings or noisy codes are sent
    GRADIENTS = 2  # down: float32


@dataclass(frozen=True)
class Message:
    """One table that crossed: values (B,K) float32, row i being the i-th of the round's batch."""

    kind: Kind
    party: int
    round: int
    values: Tensor


def most_bytes(rows: int, width: int) -> int:
    """Bytes of the longest message of a round: its table as float32, after the header."""
    return HEADER.size + 4 * rows * width


def pack(message: Message) -> bytes:
    """The bytes of a message. Codes take one bit a value; a bit is 1 iff the value is > 0."""
    rows, width = message.values.shape
    header = HEADER.pack(MAGIC, message.kind, message.party, message.round, rows, width)
    values = message.values.detach().cpu().numpy()
    if message.kind is Kind.CODES:
        return header + np.packbits(values.ravel() > 0, bitorder="little").tobytes()
    return header + values.astype("<f4").tobytes()


def unpack(payload: bytes) -> Message:
    """The message in these bytes. Raises MessageError: they are none."""
    try:
        magic, number, party, round_, rows, width = HEADER.unpack_from(payload)
        kind = Kind(number)
    except (struct.error, ValueError):
        raise MessageError(
            f"expected a message with a header of {HEADER.size} bytes, got {len(payload)} bytes "
            "of something else"
        ) from None
    count = rows * width
    size = -(-count // 8) if kind is Kind.CODES else 4 * count
    body = payload[HEADER.size :]
    if magic != MAGIC or count > MAX_VALUES or len(body) != size:
        raise MessageError(
            f"expected {size} bytes for {rows} × {width} {kind.name.lower()}, got {len(body)}: "
            "damaged on the way; send it again"
        )
    if kind is Kind.CODES:
        bits = np.unpackbits(np.frombuffer(body, np.uint8), bitorder="little")
        if bits[count:].any():
            raise MessageError("expected zeros after the last bit of a code, got ones")
        values = np.where(bits[:count], np.float32(1), np.float32(-1))
    else:
        values = np.frombuffer(body, "<f4").astype(np.float32)
    return Message(kind, party, round_, torch.from_numpy(values.reshape(rows, width)))


def check_message(
    message: Message, *, party: int, round_: int, shape: tuple[int, int], kind: Kind
) -> Tensor:
    """The (B,K) values of a message that is what is waited for.

    Where codes are, reals are read too, so that what is no code can be named.

    Raises MessageError: another party, round, kind or shape, a value that is not finite, above
    LARGEST in magnitude, or no code.
    """
    who = f"party {party}, round {round_}"
    if message.party != party:
        raise MessageError(f"{who}: expected a message of party {party}, got party {message.party}")
    if message.round != round_:
        age = "an old one" if message.round < round_ else "one to come"
        raise MessageError(
            f"{who}: expected round {round_}, got {message.round}, {age}; send the current round"
        )
    if message.kind is not kind and (kind, message.kind) != (Kind.CODES, Kind.REALS):
        raise MessageError(f"{who}: expected {kind.name.lower()}, got {message.kind.name.lower()}")
    values = message.values
    if tuple(values.shape) != shape:
        raise MessageError(f"{who}: expected values of shape {shape}, got {tuple(values.shape)}")
    if not bool(values.isfinite().all()):
        raise MessageError(f"{who}: expected finite values, got NaN or infinity")
    if values.numel() and float(values.abs().max()) > LARGEST:
        worst = float(values.abs().max())
        raise MessageError(
            f"{who}: expected {kind.name.lower()} of magnitude {LARGEST:g} at most, got {worst:g}"
        )
    if kind is Kind.CODES and not bool((values.abs() == 1).all()):
        worst = float(values[values.abs() != 1][0])
        raise MessageError(f"{who}: expected a code of −1 and 1, got the value {worst:g}")
    return values


class Transcript:
    """All messages of a training, in the order in which they crossed.

    Kept in memory up to `in_memory` bytes, beyond that in a temporary file. The file that `save`
    writes is the messages themselves, one after the other.
    """

    def __init__(self, *, in_memory: int = IN_MEMORY) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=in_memory)  # noqa: SIM115
        self.close = weakref.finalize(self, self._file.close)  # gives up the temporary file
        self.count = 0
        self.size = 0

    def record(self, payload: bytes) -> None:
        """Append a message."""
        self._file.seek(self.size)
        self._file.write(payload)
        self.count += 1
        self.size += len(payload)

    def payloads(self) -> Iterator[bytes]:
        """The bytes of every message. Raises MessageError where what was loaded is damaged."""
        place = 0
        while place < self.size:
            self._file.seek(place)
            head = self._file.read(HEADER.size)
            try:
                _, number, _, _, rows, width = HEADER.unpack(head)
            except struct.error:
                raise MessageError("expected whole messages, got a transcript cut short") from None
            count = rows * width
            size = -(-count // 8) if number == Kind.CODES else 4 * count
            yield head + self._file.read(min(size, MAX_VALUES * 4))
            place += HEADER.size + size

    def __iter__(self) -> Iterator[Message]:
        for payload in self.payloads():
            yield unpack(payload)

    def save(self, path: Path) -> None:
        """Write all messages to a file. Raises StorageError."""
        with storage_errors(path), path.open("wb") as stream:
            self._file.seek(0)
            shutil.copyfileobj(self._file, stream)

    @classmethod
    def load(cls, path: Path) -> Transcript:
        """Read what `save` wrote. Raises MessageError: missing or damaged."""
        transcript = cls()
        try:
            with open_file(path) as stream:
                shutil.copyfileobj(stream, transcript._file)
        except OSError as error:
            raise MessageError(f"expected a transcript {path}, got: {reason(error)}") from None
        transcript.size = transcript._file.tell()
        for _ in transcript:
            transcript.count += 1
        return transcript
