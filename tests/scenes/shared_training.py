"""Run by test_processes.py under torchrun: train victims, write the weights of every process.

torchrun --nproc_per_node=2 shared_training.py FOLDER
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import safetensors.torch
import torch

from advhash.data import Dataset
from advhash.data.load import load_dataset
from advhash.registry import VICTIMS
from advhash.victims.base import HashVictim
from advhash.victims.training.acceleration import leave

# no batch normalisation that trains and no dropout: then several processes do what one does
CROSS_MODAL = {
    "freeze_backbone": True,
    "augmentation": False,
    "dropout": 0.0,
    "word_dropout": 0.0,
    "width": 32,
    "bits": 16,
    "epochs": 3,
    "batch_size": 31,
}
SETTINGS = {
    "dpsh": {"freeze_backbone": True, "augmentation": False, "epochs": 3, "batch_size": 27},
    "dcmh": CROSS_MODAL,
    "dlcmh": {**CROSS_MODAL, "increment_epochs": 3, "samples": 60},
}


def tiny(name: str) -> Dataset:
    """Few rows, so that the last batch is odd; for dlcmh one increment."""
    if name == "dpsh":
        digits = load_dataset("digits", {})
        return replace(digits, name="few digits", train_rows=digits.train_rows[:113])
    whole = load_dataset("openmoji", {})
    database = whole.database.take(torch.arange(0, len(whole.database), 13))
    return replace(
        whole,
        name="tiny",
        database=database,
        train_rows=torch.arange(len(database)),
        increments=(("Food & Drink", "fruit", "drink"),),
    )


def trained(name: str) -> HashVictim:
    data = tiny(name)
    arguments = VICTIMS[name].build.data_arguments(data)  # type: ignore[attr-defined]
    torch.manual_seed(0)
    victim: HashVictim = VICTIMS.create(name, {**arguments, **SETTINGS[name]})
    return victim.fit(data, seed=5)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for name in SETTINGS:
        weights = trained(name).state_dict()
        safetensors.torch.save_file(weights, folder / f"{name}.{os.environ['RANK']}")
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
