"""A victim that the user brings as `module:function`: its figures, its card, its fingerprint."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import torch

from advhash.data.dataset import Dataset
from advhash.errors import DataError
from advhash.experiments.prepare.worth import victim_flags, victim_metrics
from advhash.measures.sanity import check_pictures
from advhash.victims.base import HashVictim
from advhash.victims.external import (
    ExternalVictim,
    import_function,
    source_file,
    stated_modality,
    stated_size,
)

SAMPLES = 8  # images that a function is tried on


def bring(
    name: str, data: Dataset, device: torch.device, *, seed: int, bootstrap_seed: int
) -> tuple[ExternalVictim, dict[str, Any]]:
    """Import and try the function, and take its figures. **Runs the user's code.**

    Returns the victim and a card as a checkpoint has it, which is kept nowhere: there are no
    weights to store. Raises UsageError, DataError.
    """
    function = import_function(name)
    texts = "text" in data.modalities and "image" not in data.modalities
    given = stated_modality(function) or ("text" if texts else "image")
    if given not in data.modalities:
        raise DataError(f"{name} needs {given}s: {data.name!r} has {', '.join(data.modalities)}")
    if given == "text" and data.text_kind != "characters":
        raise DataError(
            f"{name} takes texts as they are: expected text=characters, got {data.text_kind}; add "
            "--set dataset.text=characters"
        )
    begun = time.perf_counter()
    sample = data.validation.rows(torch.arange(min(SAMPLES, len(data.validation))))
    victim = ExternalVictim(function, name=name, sample=sample.inputs[given].to(device))
    file = source_file(name)
    source = f"code of the user: {file.name if file else name}"
    card = introduce(
        victim, data, name=name, source=source, seed=seed, bootstrap_seed=bootstrap_seed
    )
    return victim, {**card, "seconds": round(time.perf_counter() - begun, 2)}


def introduce(
    victim: HashVictim, data: Dataset, *, name: str, source: str, seed: int, bootstrap_seed: int
) -> dict[str, Any]:
    """The card of a victim without a checkpoint: its figures and flags on this data."""
    inside = victim.function if isinstance(victim, ExternalVictim) else victim
    served = victim.served_codes(data)
    flags = victim_flags(victim, data, served)
    flags += check_pictures(data.pictures, stated=stated_size(inside))
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


def fingerprint(victim: HashVictim, name: str, data: Dataset) -> str:
    """SHA-256 of the name, of the source file of its module, and of the codes of the database.

    The codes tell apart what the file does not show: weights loaded from elsewhere, other modules.
    """
    digest = hashlib.sha256(name.encode())
    file = source_file(name)
    if file is not None and file.is_file():
        digest.update(file.read_bytes())
    for direction in victim.directions:
        digest.update(victim.database_codes(data, direction).words.tobytes())
    return digest.hexdigest()
