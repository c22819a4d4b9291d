"""A seed for each purpose, and the device that a name means."""

from __future__ import annotations

from zlib import crc32

import numpy as np
import torch

from advhash.compute.processes import local_process
from advhash.errors import UsageError


def derive_seed(seed: int, purpose: str) -> int:
    """A seed of its own for each purpose, so that adding one draw changes no other."""
    words = np.random.SeedSequence([seed, crc32(purpose.encode())]).generate_state(2, np.uint32)
    return int(words[0]) << 31 | int(words[1]) >> 1


def resolve_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one; under torchrun, each process has its own.

    Raises UsageError: unknown, absent, or not enough for the processes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    index, processes = local_process()
    if processes > 1 and name.startswith("cuda"):
        if name != "cuda" or processes > torch.cuda.device_count():
            raise UsageError(
                f"--device: expected auto, cpu or cuda and a GPU for each of the {processes} "
                f"processes of torchrun, got {name!r} and {torch.cuda.device_count()} GPUs"
            )
        name = f"cuda:{index}"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise UsageError(f"--device: expected auto, cpu or a present GPU, got {name!r}") from None
    return device
