"""A federation in separate processes: each party in its own, the server in this one.

It proves that codes and gradients are all that passes. A party's process is told where its own
folder lies (its columns, its settings and seeds, the public schedule); from then on the only thing
shared is a pipe that carries `wire` messages, and one byte after each: taken or refused. Same seed,
same weights and the same transcript, byte for byte, as in one process.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from advhash.data import Dataset
from advhash.errors import MessageError
from advhash.files import write_json
from advhash.parties import party_names, party_view
from advhash.victims.federation import Party, Recipe, Server, derived, schedule
from advhash.victims.hashvfl import NOISE, SCHEDULE, HashVFL, new_bottom
from advhash.victims.wire import MAX_VALUES, Kind, Transcript

__all__ = ["collect", "fit_in_processes", "serve"]

TAKEN, REFUSED = b"+", b"-"
ATTEMPTS = 3  # at one message before the server gives a party up
WAIT_SECONDS = 120.0
MAX_BYTES = 4 * MAX_VALUES
COLUMNS, WEIGHTS, SETTINGS = "columns.safetensors", "bottom.safetensors", "settings.json"


def fit_in_processes(
    victim: HashVFL, data: Dataset, *, seed: int, transcript: Transcript | None = None
) -> HashVFL:
    """What `victim.fit` does, with every party in a process of its own.

    Raises MessageError: a party sends what is refused three times, or falls silent.
    """
    data = party_view(data, victim.parties)
    victim.begin(seed)
    rounds = victim.rounds(data, seed)
    server = victim.server_end(data, rounds)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as root:
        pipes, processes = [], []
        for number, name in enumerate(party_names(victim.parties)):
            folder = Path(root) / name
            folder.mkdir()
            columns = data.database.inputs[name][data.train_rows].contiguous()
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
            ours, theirs = context.Pipe()
            process = context.Process(target=party_process, args=(str(folder), theirs), daemon=True)
            process.start()
            theirs.close()
            pipes.append(ours)
            processes.append(process)
        try:
            serve(server, pipes, (lambda _: None) if transcript is None else transcript.record)
            for process in processes:
                process.join(WAIT_SECONDS)
        finally:
            for pipe in pipes:
                pipe.close()
            for process in processes:
                process.terminate()
                process.join()
        for bottom, name in zip(victim.bottoms, party_names(victim.parties), strict=True):
            bottom.load_state_dict(load_file(Path(root) / name / WEIGHTS))
    return victim.eval()


def serve(server: Server, pipes: Sequence[Connection], record: Callable[[bytes], None]) -> None:
    """The server's side of all rounds. Raises MessageError: see `collect`."""
    for _ in server.rounds:
        for number, pipe in enumerate(pipes):
            record(collect(server, number, pipe))
        answers, _ = server.answer()
        for number, (pipe, payload) in enumerate(zip(pipes, answers, strict=True)):
            record(payload)
            tell(pipe, number, payload)


def collect(
    server: Server, number: int, pipe: Connection, *, wait_seconds: float = WAIT_SECONDS
) -> bytes:
    """The message of a party for this round; what is refused may be sent again, twice.

    Raises MessageError: refused three times (the last reason), or nothing came in time.
    """
    reason = MessageError(f"party {number}: sent nothing")
    for _ in range(ATTEMPTS):
        try:
            if not pipe.poll(wait_seconds):
                raise MessageError(
                    f"party {number}: expected a message of round {server.round} within "
                    f"{wait_seconds:g} s, got none; start the training again"
                )
            payload = pipe.recv_bytes(MAX_BYTES)
        except (EOFError, OSError):
            raise MessageError(
                f"party {number}: expected a message of round {server.round}, but it hung up"
            ) from None
        try:
            server.receive(number, payload)
        except MessageError as refused:
            reason = refused
            tell(pipe, number, REFUSED)
        else:
            tell(pipe, number, TAKEN)
            return payload
    raise reason


def tell(pipe: Connection, number: int, payload: bytes) -> None:
    """Send a party something. Raises MessageError: it hung up."""
    try:
        pipe.send_bytes(payload)
    except OSError:
        raise MessageError(f"party {number}: expected it to listen, but it hung up") from None


def party_process(folder: str, pipe: Connection) -> None:
    """A party by itself: reads its own folder, speaks over the pipe, stores its bottom model."""
    torch.set_num_threads(1)
    place = Path(folder)
    own: dict[str, Any] = json.loads((place / SETTINGS).read_text("utf-8"))
    columns = load_file(place / COLUMNS)["columns"]
    recipe = Recipe(**{**own["recipe"], "kind": Kind(own["recipe"]["kind"])})
    rounds = schedule(len(columns), recipe.batch_size, recipe.epochs, own["schedule_seed"])
    bottom = new_bottom(own["bottom"], own["weights_seed"])
    party = Party(own["number"], bottom, columns, rounds, recipe, own["noise_seed"])
    for round_ in range(len(rounds)):
        pipe.send_bytes(party.send(round_))
        if pipe.recv_bytes(len(TAKEN)) != TAKEN:
            raise MessageError(f"party {party.number}: the server refused round {round_}")
        party.receive(round_, pipe.recv_bytes(MAX_BYTES))
    weights = {name: values.contiguous() for name, values in bottom.state_dict().items()}
    save_file(weights, place / WEIGHTS)
    pipe.close()
