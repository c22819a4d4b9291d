"""A federation in separate processes: each party in its own, the server in this one.

It proves that codes and gradients are all that passes. A party's process is told where its own
folder lies (its columns, its settings and seeds, the public schedule); from then on the only thing
shared is a `Line` that carries `wire` messages, and one byte after each: taken or refused. Same
seed, same weights and the same transcript, byte for byte, as in one process.
"""

from __future__ import annotations

import multiprocessing
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from advhash.data.dataset import Dataset
from advhash.data.parties import party_names, party_view
from advhash.errors import MessageError
from advhash.storage.documents import read_json
from advhash.storage.files import write_json
from advhash.victims.federated.ends import Party, Recipe, Server, derived, schedule
from advhash.victims.federated.hashvfl import NOISE, SCHEDULE, HashVFL, new_bottom
from advhash.victims.federated.wire import Kind, Transcript, most_bytes

TAKEN, REFUSED = b"+", b"-"
ATTEMPTS = 3  # at one message before the server gives a party up
WAIT_SECONDS = 60.0  # for a whole message, or until what was sent is taken
LENGTH = struct.Struct("<Q")  # of what follows
CHUNK = 2**20
COLUMNS, WEIGHTS, SETTINGS = "columns.safetensors", "bottom.safetensors", "settings.json"


class Line:
    """One end of a socket that carries whole messages, each after its length.

    Whoever sends half a message, or byte after byte of one, stops nobody: `receive` gives up in
    time and keeps what came, so that the next call goes on where this one ended.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._come = bytearray()

    def send(self, payload: bytes, wait_seconds: float | None) -> None:
        """Raises OSError: the other end hung up, or took nothing in time (TimeoutError)."""
        self._end.settimeout(wait_seconds)
        self._end.sendall(LENGTH.pack(len(payload)) + payload)

    def receive(self, limit: int, wait_seconds: float | None) -> bytes:
        """The next message, of `limit` bytes at most.

        Raises EOFError: the other end hung up. MessageError: nothing, or only a part of a message
        came in `wait_seconds` (None: no limit), or a longer message is announced.
        """
        due = None if wait_seconds is None else time.monotonic() + wait_seconds
        size = self._whole(LENGTH.size, due, wait_seconds)
        (length,) = LENGTH.unpack_from(self._come)
        if length > limit:
            raise MessageError(f"expected a message of {limit} bytes at most, got {length} bytes")
        size = self._whole(LENGTH.size + length, due, wait_seconds)
        payload = bytes(self._come[LENGTH.size : size])
        del self._come[:size]
        return payload

    def _whole(self, size: int, due: float | None, wait_seconds: float | None) -> int:
        """Wait until `size` bytes are there."""
        while len(self._come) < size:
            left = None if due is None else due - time.monotonic()
            try:
                if left is not None and left <= 0:  # of the whole message, not of this part
                    raise TimeoutError
                self._end.settimeout(left)
                part = self._end.recv(CHUNK)
            except TimeoutError:
                came = f"{len(self._come)} bytes of one" if self._come else "none"
                raise MessageError(
                    f"expected a message within {wait_seconds:g} s, got {came}"
                ) from None
            if not part:
                raise EOFError
            self._come += part
        return size

    def close(self) -> None:
        self._end.close()


def fit_in_processes(
    victim: HashVFL,
    data: Dataset,
    *,
    seed: int,
    transcript: Transcript | None = None,
    wait_seconds: float = WAIT_SECONDS,
) -> HashVFL:
    """What `victim.fit` does, with every party in a process of its own.

    wait_seconds: for each message of a party, before it is given up

    Raises MessageError: a party sends what is refused three times, falls silent or stops halfway,
    or at the end without having stored its model.
    """
    data = party_view(data, victim.parties)
    victim.begin(seed)
    rounds = victim.rounds(data, seed)
    server = victim.server_end(data, rounds)
    train = data.train
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as root:
        lines, processes = [], []
        for number, name in enumerate(party_names(victim.parties)):
            folder = Path(root) / name
            folder.mkdir()
            columns = train.tensor(name).contiguous()
            save_file({"columns": columns}, folder / COLUMNS)
            own = {
                "number": number,
                "bottom": victim.bottom_settings(number),
                "recipe": asdict(victim.recipe()),
                "weights_seed": derived(seed, number),
                "noise_seed": derived(seed, NOISE + number),
                "schedule_seed": derived(seed, SCHEDULE),
            }
            write_json(folder / SETTINGS, own)
            ours, theirs = socket.socketpair()
            process = context.Process(target=party_process, args=(str(folder), theirs), daemon=True)
            process.start()
            theirs.close()
            lines.append(Line(ours))
            processes.append(process)
        try:
            record = (lambda _: None) if transcript is None else transcript.record
            serve(server, lines, record, wait_seconds=wait_seconds)
            for number, process in enumerate(processes):
                process.join(wait_seconds)
                if process.exitcode != 0:
                    raise MessageError(
                        f"party {number}: expected it to store its model after the last round, but "
                        f"it stopped before or took more than {wait_seconds:g} s"
                    )
        finally:
            for line in lines:
                line.close()
            for process in processes:
                process.terminate()
                process.join()
        for bottom, name in zip(victim.bottoms, party_names(victim.parties), strict=True):
            bottom.load_state_dict(load_file(Path(root) / name / WEIGHTS))
    return victim.eval()


def serve(
    server: Server,
    lines: Sequence[Line],
    record: Callable[[bytes], None],
    *,
    wait_seconds: float = WAIT_SECONDS,
) -> None:
    """The server's side of all rounds that are left. Raises MessageError: see `collect`."""
    while server.round < len(server.rounds):
        for number in server.missing:
            record(collect(server, number, lines[number], wait_seconds=wait_seconds))
        answers, _ = server.answer()
        for number, (line, payload) in enumerate(zip(lines, answers, strict=True)):
            record(payload)
            tell(line, number, payload, wait_seconds)


def collect(
    server: Server, number: int, line: Line, *, wait_seconds: float = WAIT_SECONDS
) -> bytes:
    """The message of a party for this round; what is refused may be sent again, twice.

    Raises MessageError: refused three times (the last reason), a longer message than any, or
    nothing whole came in time. Nothing is lost then: called again, it goes on waiting.
    """
    who = f"party {number}, round {server.round}"
    most = most_bytes(len(server.rounds[server.round]), server.recipe.bits)
    for attempt in range(ATTEMPTS):
        try:
            payload = line.receive(most, wait_seconds)
        except MessageError as error:
            raise MessageError(f"{who}: {error}") from None
        except (EOFError, OSError):
            raise MessageError(f"{who}: expected a message, but it hung up") from None
        try:
            server.receive(number, payload)
        except MessageError:
            tell(line, number, REFUSED, wait_seconds)
            if attempt == ATTEMPTS - 1:
                raise
        else:
            tell(line, number, TAKEN, wait_seconds)
            break
    return payload


def tell(line: Line, number: int, payload: bytes, wait_seconds: float = WAIT_SECONDS) -> None:
    """Send a party something. Raises MessageError: it hung up, or does not listen."""
    try:
        line.send(payload, wait_seconds)
    except TimeoutError:
        raise MessageError(
            f"party {number}: expected it to take an answer within {wait_seconds:g} s"
        ) from None
    except OSError:
        raise MessageError(f"party {number}: expected it to listen, but it hung up") from None


def party_process(folder: str, end: socket.socket) -> None:
    """A party by itself: reads its own folder, speaks over the line, stores its bottom model."""
    line = Line(end)
    torch.set_num_threads(1)
    place = Path(folder)
    own: dict[str, Any] = read_json(place / SETTINGS)
    columns = load_file(place / COLUMNS)["columns"]
    recipe = Recipe(**{**own["recipe"], "kind": Kind(own["recipe"]["kind"])})
    rounds = schedule(len(columns), recipe.batch_size, recipe.epochs, own["schedule_seed"])
    bottom = new_bottom(own["bottom"], own["weights_seed"])
    party = Party(own["number"], bottom, columns, rounds, recipe, own["noise_seed"])
    for round_, rows in enumerate(rounds):
        line.send(party.send(round_), None)
        if line.receive(len(TAKEN), None) != TAKEN:
            raise MessageError(f"party {party.number}: the server refused round {round_}")
        party.receive(round_, line.receive(most_bytes(len(rows), recipe.bits), None))
    weights = {name: values.contiguous() for name, values in bottom.state_dict().items()}
    save_file(weights, place / WEIGHTS)
    line.close()
