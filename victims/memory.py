"""How many inputs a victim derives at once: as many as a stated amount of memory holds.

A network at 224 pixels keeps some 50 MB for each picture until its gradient was taken, so that a
batch of 100 would take 5 GB.
"""

from __future__ import annotations

import torch
from torch import Tensor

from advhash.data.dataset import Modality
from advhash.victims.base import HashVictim

MEMORY = 2**30  # bytes


def kept_bytes(victim: HashVictim, inputs: Tensor, modality: Modality) -> int:
    """What torch keeps of these inputs (B, …) for their gradient, weights left aside; in bytes."""
    own = {
        value.untyped_storage().data_ptr() for value in (*victim.parameters(), *victim.buffers())
    }
    sizes: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
        return value

    given = inputs.detach().clone().requires_grad_()
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value)
    with torch.enable_grad(), hooks:
        kept = victim.relax(given, modality)  # lives on, and with it what was kept
        total = sum(sizes.values())
    del kept
    return total


def rows_at_once(victim: HashVictim, inputs: Tensor, modality: Modality) -> int:
    """How many rows of these inputs (B, …) are to be derived together: 1 to B.

    The same on every machine. All of them where there is nothing to derive.
    """
    if not (victim.differentiable and victim.is_image(modality)) or not len(inputs):
        return max(len(inputs), 1)
    each = kept_bytes(victim, inputs[:1].to(victim.device), modality)
    return max(1, min(len(inputs), MEMORY // max(each, 1)))
