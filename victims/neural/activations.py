"""The binary activation pattern of a network: which of its units fire, read by forward hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import torch
from torch import Tensor, nn

from advhash.codes.packed import HashCodes
from advhash.data.dataset import Modality, Split
from advhash.errors import UsageError, nearest

PIECEWISE = frozenset(  # above 0 iff its input is; linear on each side, or nearly so below 0
    {"relu", "relu6", "leakyrelu", "prelu", "rrelu", "elu", "celu", "selu"}
)
SMOOTH = frozenset(  # above 0 iff its input is, but 0 is no border between two linear maps
    {"gelu", "gelutanh", "quickgelu", "silu", "swish", "hardswish", "mish", "hardmish"}
)


@dataclass(frozen=True)
class Layer:
    """One activation of a network.

    name:   of its module; where the module is called several times, with the number of the call
    size:   units, those of all channels and places
    smooth: GELU, SiLU and their like, of which the sign is taken as well
    """

    name: str
    size: int
    smooth: bool


def _kind(module: nn.Module) -> str:
    return type(module).__name__.lower().removesuffix("me").removesuffix("jit")


@contextmanager
def recorded(network: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Fills the dictionary with what enters each activation, (B, …), in the order of the calls.

    Hooks are removed at the end, so that a copy of the network carries none.
    """
    outputs: dict[str, Tensor] = {}
    handles = []

    def hook(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        calls = 0

        def note(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            nonlocal calls
            outputs[f"{name}#{calls}" if calls else name] = inputs[0]
            calls += 1

        return note

    for name, module in network.named_modules():
        if _kind(module) in PIECEWISE | SMOOTH:
            if getattr(module, "inplace", False):  # it would overwrite what was noted
                module.inplace = False
            handles.append(module.register_forward_pre_hook(hook(name or "activation")))
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def layers_of(network: nn.Module, forward: Callable[[], object]) -> list[Layer]:
    """The activations that `forward()` passes, found with one row.

    Raises UsageError where there is none: hooks see modules, not calls of functions.
    """
    smooth = {name for name, module in network.named_modules() if _kind(module) in SMOOTH}
    with torch.no_grad(), recorded(network) as outputs:
        forward()
    if not outputs:
        raise UsageError(
            "expected a network with activation modules (nn.ReLU, nn.GELU, …), got none: hooks do "
            "not see functions such as torch.relu"
        )
    return [
        Layer(name, values[0].numel(), name.partition("#")[0] in smooth)
        for name, values in outputs.items()
    ]


def chosen(layers: Sequence[Layer], wanted: str) -> list[Layer]:
    """The layers that `wanted` names: "all", "last", or names with * and ?, with commas between.

    Raises UsageError where one names no layer.

    >>> layers = [Layer("0.relu", 8, False), Layer("1.relu", 8, False)]
    >>> [layer.name for layer in chosen(layers, "last")], len(chosen(layers, "*.relu"))
    (['1.relu'], 2)
    """
    if wanted == "all":
        return list(layers)
    if wanted == "last":
        return [layers[-1]]
    names = [layer.name for layer in layers]
    patterns = [part.strip() for part in wanted.split(",")]
    for part in patterns:
        if not any(fnmatchcase(name, part) for name in names):
            raise UsageError(
                f"no layer {part!r}: {nearest(part, names)}Known: all, last, {', '.join(names)}"
            )
    return [layer for layer in layers if any(fnmatchcase(layer.name, part) for part in patterns)]


def pattern(values: Sequence[Tensor], kept: Sequence[Tensor]) -> HashCodes:
    """The kept units of each layer, bit = 1 iff above 0, packed without a float copy of them.

    values: (B, …) what enters each layer; kept: (k,) numbers of units of each

    Raises ValueError where a value is NaN.
    """
    parts = []
    for layer, units in zip(values, kept, strict=True):
        flat = layer.flatten(1)
        if bool(flat.isnan().any()):
            raise ValueError("expected real activations, got NaN: the network is broken")
        parts.append((flat > 0).index_select(1, units).cpu().numpy())
    return HashCodes.pack(np.concatenate(parts, axis=1))


@dataclass
class Moments:
    """What training rows do to each layer: how often a unit fires, and how far its input spreads.

    fired: (size,) int64 of each layer; spread: root mean square of what enters it; rows: N
    """

    fired: list[Tensor]
    spread: list[float]
    rows: int

    @classmethod
    def over(
        cls, run: Callable[[Tensor], Sequence[Tensor]], split: Split, modality: Modality
    ) -> Moments:
        """All rows of a split, in batches; `run` gives what enters each layer."""
        fired: list[Tensor] = []
        squares: list[float] = []
        for batch in split.batches(256):
            with torch.no_grad():
                values = [layer.flatten(1) for layer in run(batch.inputs[modality])]
            counts = [(layer > 0).sum(dim=0).cpu() for layer in values]
            sums = [float(layer.square().sum(dtype=torch.float64)) for layer in values]
            fired = [a + b for a, b in zip(fired, counts, strict=True)] if fired else counts
            squares = [a + b for a, b in zip(squares, sums, strict=True)] if squares else sums
        spread = [
            (total / (len(split) * len(bits))) ** 0.5
            for total, bits in zip(squares, fired, strict=True)
        ]
        return cls(fired, spread, len(split))

    @property
    def varying(self) -> Tensor:
        """(total,) bool: units that fire for some rows and not for others."""
        return torch.cat([(counts > 0) & (counts < self.rows) for counts in self.fired])
