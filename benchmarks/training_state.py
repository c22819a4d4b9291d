"""What it costs to keep a training so that it can go on: `python benchmarks/training_state.py`.

Trains dpsh on `digits` (12 epochs, one thread) with a state after every epoch, far more often than
by default, and without one, in turns; and times one write for the victim of the paper's size
(dph with vgg11). Writes benchmarks/training_state.json: medians of three.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from advhash.data.load import load_dataset
from advhash.registry import VICTIMS
from advhash.storage.run_folder import environment
from advhash.victims.base import HashVictim
from advhash.victims.training import state as training_state
from advhash.victims.training.descent import Descent
from advhash.victims.training.phase import Phase
from advhash.victims.training.state import UNSAVED, TrainingState

OUT = Path(__file__).with_suffix(".json")
REPEATS = 3


def train_seconds(state: TrainingState) -> float:
    data = load_dataset("digits", {})
    victim: HashVictim = VICTIMS.create("dpsh", VICTIMS["dpsh"].build.data_arguments(data))
    victim.training_state = state
    victim.fit(data, seed=0)
    return float(victim.history[-1]["seconds"])


def write(name: str, folder: Path, **settings: object) -> dict[str, float]:
    """Seconds and megabytes of one state, its optimiser having taken a step."""
    victim: HashVictim = VICTIMS.create(name, settings)
    descent = Descent(victim.parameters(), epochs=1, steps=1, learning_rate=1e-3)
    descent.step(sum((weight.square().sum() for weight in victim.parameters()), torch.zeros(())))
    victim.training_state = TrainingState(folder / name)
    phase = Phase("train", victim)
    epochs = phase.epochs(9, descents={"all": descent}, generator=torch.Generator())
    next(epochs)
    seconds = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        next(epochs)  # the state is written between two epochs
        seconds.append(time.perf_counter() - began)
    return {
        "seconds": statistics.median(seconds),
        "megabytes": (folder / name / "state").stat().st_size / 1e6,
    }


def main() -> None:
    torch.set_num_threads(1)
    training_state.SAVE_SECONDS, training_state.SHARE = 0.0, 1e9
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train_seconds(UNSAVED)  # warms up
        saved, plain = [], []
        for number in range(REPEATS):
            saved.append(train_seconds(TrainingState(folder / str(number))))
            plain.append(train_seconds(UNSAVED))
        body = {
            "dpsh, 12 epochs": {
                "seconds with a state after every epoch": statistics.median(saved),
                "seconds without": statistics.median(plain),
            },
            "one state of dpsh": write("dpsh", folder),
            "one state of dph, vgg11": write("dph", folder, backbone="vgg11", image_size=224),
            "environment": environment(),
        }
    OUT.write_text(json.dumps(body, indent=1) + "\n")
    print(json.dumps(body, indent=1))


if __name__ == "__main__":
    main()
