"""A victim that the user brings as `module:function`: its figures, its card, its fingerprint."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from typing import Any

import torch

from advhash.codes.packed import HashCodes
from advhash.data.dataset import Dataset
from advhash.data.readers.shared import SIZES
from advhash.experiments.prepare.worth import victim_flags, victim_metrics
from advhash.measures.sanity import check_pictures
from advhash.victims.base import HashVictim
from advhash.victims.external import (
    ExternalVictim,
    import_function,
    source_file,
    stated_size,
    taken_modality,
)

SAMPLES = 8  # images that a function is tried on


def bring(
    name: str, data: Dataset, device: torch.device, *, seed: int, bootstrap_seed: int
) -> tuple[ExternalVictim, dict[str, Any], dict[str, HashCodes]]:
    """Import and try the function, and take its figures. **Runs the user's code.**

    Returns the victim, a card as a checkpoint has it, which is kept nowhere: there are no weights
    to store; and the codes of the database, by direction. Raises UsageError, DataError.
    """
    function = import_function(name)
    given = taken_modality(function, name, data)
    begun = time.perf_counter()
    sample = data.validation.rows(torch.arange(min(SAMPLES, len(data.validation))))
    victim = ExternalVictim(function, name=name, sample=sample.inputs[given].to(device))
    file = source_file(name)
    source = f"code of the user: {file.name if file else name}"
    served = victim.served_codes(data)
    card = introduce(
        victim, data, served, name=name, source=source, seed=seed, bootstrap_seed=bootstrap_seed
    )
    return victim, {**card, "seconds": round(time.perf_counter() - begun, 2)}, served


def introduce(
    victim: HashVictim,
    data: Dataset,
    served: Mapping[str, HashCodes],
    *,
    name: str,
    source: str,
    seed: int,
    bootstrap_seed: int,
) -> dict[str, Any]:
    """The card of a victim without a checkpoint: its figures and flags on this data.

    served: the codes of the database, by direction
    """
    inside = victim.function if isinstance(victim, ExternalVictim) else victim
    flags = victim_flags(victim, data, served)
    flags += check_pictures(data.pictures, largest=SIZES[1], stated=stated_size(inside))
    metrics = victim_metrics(victim, data, served, bootstrap_seed)
    return {
        "name": name,
        "settings": {},
        "source": source,
        "seed": seed,
        "data": {
            "name": data.name,
            "settings": dict(data.settings),
            "fingerprint": data.fingerprint(),
            "pictures": data.pictures,
        },
        "metrics": {key: vars(metric) for key, metric in metrics.items()},
        "flags": [vars(flag) for flag in flags],
        "seconds": 0.0,
    }


def fingerprint(name: str, served: Mapping[str, HashCodes]) -> str:
    """SHA-256 of the name, of the source file of its module, and of the codes of the database.

    The codes tell apart what the file does not show: weights loaded from elsewhere, other modules.
    """
    digest = hashlib.sha256(name.encode())
    file = source_file(name)
    if file is not None and file.is_file():
        digest.update(file.read_bytes())
    for codes in served.values():
        digest.update(codes.words.tobytes())
    return digest.hexdigest()
