"""The codes that a victim's database holds: hashed once, then kept with what is cached.

A network of somebody else takes minutes for ten thousand pictures, and everything that follows asks
for the same codes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from advhash.codes.packed import HashCodes
from advhash.experiments.prepare.trained import Trained, cache_identity
from advhash.storage.cache import cached, content_key
from advhash.storage.checkpoint import read_tensors, write_tensors

_FILE = "codes.safetensors"


def served_codes(trained: Trained) -> dict[str, HashCodes]:
    """The codes of the database in every direction, as `HashVictim.served_codes` gives them."""
    return {name: database_codes(trained, name) for name in trained.victim.directions}


def database_codes(
    trained: Trained, direction: str, made: Mapping[str, HashCodes] | None = None
) -> HashCodes:
    """The codes of the database in a direction: from the cache, or hashed and kept there.

    made: those that were hashed already, by direction
    """
    victim, data = trained.victim, trained.data

    def build(folder: Path) -> None:
        codes = made[direction] if made else victim.database_codes(data, direction)
        words = torch.from_numpy(codes.words.view(np.int64))
        write_tensors(folder / _FILE, {"words": words})

    def read(folder: Path) -> HashCodes:
        words = read_tensors(folder / _FILE)["words"].numpy().view(np.uint64).copy()
        if len(words) != len(data.database):
            raise ValueError("expected a code of each row of the database")
        return HashCodes(words, victim.bits)

    key = content_key({**cache_identity(trained), "database": direction})
    return cached("codes", key, build, read)


def keep_codes(trained: Trained, made: Mapping[str, HashCodes]) -> None:
    """Keep what was hashed when the victim was made. made: the codes by direction."""
    for direction in made:
        database_codes(trained, direction, made)
