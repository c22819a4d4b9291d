"""Run by test_resume_training.py: train in forked children and kill them at random moments.

    python interrupted_training.py VICTIM FOLDER [PHASE EPOCH]

Trains undisturbed in the cache FOLDER/calm, then, in FOLDER/wild, in children that are killed by
SIGKILL until one gets through: the first once it has told of epoch EPOCH of PHASE, each later one
after a random time. In between, two children train at once in FOLDER/twins. Prints JSON: what each
child told of, at last the SHA-256 of the weights.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from advhash.data import Dataset
from advhash.data.load import load_dataset
from advhash.experiments.config import TrainConfig
from advhash.experiments.prepare import hardened, victim
from advhash.storage.checkpoint import WEIGHTS
from advhash.victims.training import state

SETTINGS = {
    "hashnet": {"epochs": 6, "stages": 3, "bits": 16},
    "csq": {"epochs": 6, "bits": 16},
    "neural-code": {"epochs": 6, "width": 32},
    "dcmh": {"epochs": 6, "width": 32, "bits": 16},
    "hashvfl": {"epochs": 6, "width": 16, "protection": "laplace", "epsilon": 4.0},
    "dlcmh": {"epochs": 4, "increment_epochs": 4, "width": 32, "bits": 16},
}
DEFENSES = {"atrdh": {"name": "atrdh", "epochs": 6, "steps": 1, "refresh": 3}}


def tiny(name: str) -> Dataset:
    """Few rows; emoji of two increments for cross-modal victims."""
    if name not in ("dcmh", "dlcmh"):
        digits = load_dataset("digits", {})
        return replace(
            digits,
            name="few digits",
            database=digits.database.take(torch.arange(260)),
            train_rows=torch.arange(200),
            query=digits.query.take(torch.arange(40)),
        )
    whole = load_dataset("openmoji", {})
    database = whole.database.take(torch.arange(0, len(whole.database), 9))
    return replace(
        whole,
        name="tiny",
        database=database,
        train_rows=torch.arange(len(database))[torch.arange(len(database)) % 5 != 4],
        validation=whole.validation.take(torch.arange(20)),
        query=whole.query.take(torch.arange(30)),
        increments=(("Food & Drink", "fruit", "drink"), ("Flags",)),
    )


def config(name: str, seed: int = 0) -> TrainConfig:
    return TrainConfig.build({"device": "cpu", "seed": seed, **tables(name)})


def tables(name: str) -> dict[str, object]:
    if name in DEFENSES:
        return {"victim": {"name": "dpsh", "epochs": 1, "bits": 16}, "defense": DEFENSES[name]}
    return {"victim": {"name": name, **SETTINGS[name]}}


def save_every_epoch() -> None:
    state.SAVE_SECONDS = 0.0
    state.SHARE = 1e9


def start(name: str, cache: Path, log: Path) -> int:
    """Train in a child. It writes a line an epoch and, at the end, the digest of the weights."""
    child = os.fork()
    if child:
        return child
    os.environ["ADVHASH_CACHE"] = str(cache)
    with log.open("w") as stream:

        def progress(stage: str, done: int, total: int, **figures: float) -> None:
            stream.write(f"{stage} {done}\n")
            stream.flush()

        folder = hardened.prepare(config(name), progress).folder
        assert folder is not None
        digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        stream.write(f"digest {digest} {folder}\n")
        stream.flush()
    os._exit(0)


def main(name: str, folder: Path, phase: str = "", epoch: str = "") -> None:
    torch.set_num_threads(1)
    data = tiny(name)
    victim.load_data = lambda config, default: data
    victim.plan_victim(config(name))  # imports everything once, for all children
    calm = folder / "calm.log"
    began = time.monotonic()
    os.waitpid(start(name, folder / "calm", calm), 0)
    duration = time.monotonic() - began
    chance = random.Random(name)
    save_every_epoch()
    twins = [folder / "first twin.log", folder / "second twin.log"]
    for child in [start(name, folder / "twins", log) for log in twins]:
        os.waitpid(child, 0)
    told: list[list[str]] = []
    for attempt in range(20):
        log = folder / f"{attempt}.log"
        child = start(name, folder / "wild", log)
        limit = time.monotonic() + chance.uniform(0.4, 0.9) * duration
        ended = 0
        while not ended:
            ended, _ = os.waitpid(child, os.WNOHANG)
            first = attempt == 0 and phase
            if first and log.exists() and f"{phase} {epoch}\n" in log.read_text():
                limit = 0.0
            elif first:
                limit = time.monotonic() + 1
            if not ended and time.monotonic() > limit and attempt < 19:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                break
            time.sleep(0.001)
        told.append(log.read_text().splitlines() if log.exists() else [])
        if ended:
            break
    logs = [log.read_text().splitlines() for log in (calm, *twins)]
    print(json.dumps({"undisturbed": logs, "wild": told}))  # noqa: T201


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
