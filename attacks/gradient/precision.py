"""Passes through the victim in bfloat16, where the processor computes in it."""

from __future__ import annotations

from typing import Literal, Self, get_args

import torch
from torch import Tensor

from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset, Modality
from advhash.errors import UsageError
from advhash.victims.base import HashVictim

Precision = Literal["no", "bf16"]


def expect_precision(precision: str, device: torch.device) -> None:
    """Raise UsageError for bf16 on a device that only emulates it, slower than float32."""
    if precision == "bf16" and not computes_bf16(device):
        raise UsageError(
            f"precision bf16: expected a processor that computes in it, got {device.type} without "
            "(AVX-512 BF16, AMX or CUDA 8.0); leave it out"
        )


def computes_bf16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


class Reduced(HashVictim):
    """`victim` whose networks pass forward and backward in bfloat16; codes come as float32."""

    def __init__(self, victim: HashVictim) -> None:
        super().__init__()
        self.victim = victim
        self.bits, self.bounds, self.history = victim.bits, victim.bounds, []
        self.differentiable, self.no_gradient = victim.differentiable, victim.no_gradient

    @classmethod
    def of(cls, precision: Precision, victim: HashVictim) -> HashVictim:
        """`victim` in a precision; itself in "no". Raises UsageError, see `expect_precision`."""
        if precision not in get_args(Precision):
            raise ValueError(f"expected precision no or bf16, got {precision!r}")
        expect_precision(precision, victim.device)
        return victim if precision == "no" else cls(victim)

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        with torch.autocast(inputs.device.type, torch.bfloat16):
            return self.victim.relax(inputs, modality).float()

    def fit(self, data: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """The victim is trained already."""
        return self
