"""What accelerate does for training: mixed precision, and processes that share each batch.

Under torchrun every process computes the codes of its share of a batch. They are joined, so every
process computes one and the same loss over all pairs of the whole batch, as one process would; its
gradient reaches the weights through the share, and the sum over processes is the gradient of the
whole batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from advhash.compute.processes import is_main_process, process_count
from advhash.errors import UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator

_VARIABLE = "ACCELERATE_MIXED_PRECISION"  # of accelerate itself


def asked_precision() -> str:
    """What $ACCELERATE_MIXED_PRECISION asks for; "" where it is not set."""
    return os.environ.get(_VARIABLE, "")


def precision(device: torch.device) -> str:
    """ "no", "bf16" or "fp16": what forward passes are computed in while training.

    On a GPU bf16 where it has it, else fp16; "no" on a CPU. $ACCELERATE_MIXED_PRECISION decides
    where it is set.

    Raises UsageError where that names anything else, or fp16 on a CPU.

    >>> precision(torch.device("cpu"))
    'no'
    """
    cuda = device.type == "cuda"
    known = ("no", "bf16", "fp16") if cuda else ("no", "bf16")
    given = os.environ.get(_VARIABLE)
    if given is not None:
        if given not in known:
            raise UsageError(
                f"${_VARIABLE}: expected {', '.join(known)} on {device.type}, got {given!r}"
            )
        return given
    if not cuda:
        return "no"
    return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"


def accelerated(device: torch.device) -> Accelerator:
    """A new Accelerator for training on the device. Under torchrun: one of its processes."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import InitProcessGroupKwargs

    wanted = precision(device)
    if process_count() == 1 and AcceleratorState._shared_state:
        before = AcceleratorState()
        if (before.device.type, before.mixed_precision) != (device.type, wanted):
            AcceleratorState._reset_state(reset_partial_state=True)
    return Accelerator(
        mixed_precision=wanted,
        cpu=device.type == "cpu",
        device_placement=False,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=2))],
    )


def share(accelerator: Accelerator, count: int) -> slice:
    """Which of the rows of a batch this process takes: all of them where it is alone."""
    index, processes = accelerator.process_index, accelerator.num_processes
    return slice(count * index // processes, count * (index + 1) // processes)


def joined(accelerator: Accelerator, values: Tensor, count: int) -> Tensor:
    """(B,...) values of all rows of a batch, from those (b,...) of each process's share.

    The gradient goes back to the own share only. Other than through these values no weight may
    enter a loss: its gradient would count once for each process.
    """
    if accelerator.num_processes == 1:
        return values
    result: Tensor = _Join.apply(values, accelerator, count)
    return result


class _Join(torch.autograd.Function):
    @staticmethod
    def forward(
        context: torch.autograd.function.FunctionCtx,
        values: Tensor,
        accelerator: Accelerator,
        count: int,
    ) -> Tensor:
        part = share(accelerator, count)
        context.part = part  # type: ignore[attr-defined]
        whole = values.new_zeros(count, *values.shape[1:])
        whole[part] = values
        return accelerator.reduce(whole, "sum")  # type: ignore[no-any-return]

    @staticmethod
    def backward(context: torch.autograd.function.FunctionCtx, *gradients: Tensor):  # type: ignore[no-untyped-def]
        return gradients[0][context.part], None, None  # type: ignore[attr-defined]


def add_gradients(accelerator: Accelerator, parameters: Iterable[nn.Parameter]) -> None:
    """Give every process the sum of the gradients of all."""
    if accelerator.num_processes == 1:
        return
    gradients = [weight.grad for weight in parameters if weight.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
    parts = accelerator.reduce(flat, "sum").split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def equalise(accelerator: Accelerator, tensors: Iterable[Tensor]) -> None:
    """Give every process the main one's values of real tensors, in place.

    Statistics of batch normalisation are those of a share.
    """
    from accelerate.utils import broadcast

    if accelerator.num_processes == 1:
        return
    for values in tensors:
        if values.is_floating_point():
            values.copy_(broadcast(values.contiguous()))


def agreed(accelerator: Accelerator, value: int) -> int:
    """The main process's value, in every process."""
    if accelerator.num_processes == 1:
        return value
    shared = torch.tensor(value if is_main_process() else 0, device=accelerator.device)
    return int(accelerator.reduce(shared, "sum"))


def lead(device: torch.device) -> None:
    """In the main process: have the others train too."""
    _tell(device, 1)


def dismiss(device: torch.device) -> None:
    """In the main process: let the others go, for the victim is stored."""
    _tell(device, 0)


def led(device: torch.device) -> bool:
    """In the others: wait until the main process says whether to train."""
    return bool(_tell(device, 0))


def _tell(device: torch.device, value: int) -> int:
    return agreed(accelerated(device), value) if process_count() > 1 else value


def leave() -> None:
    """Leave the processes of torchrun: no training after this."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
