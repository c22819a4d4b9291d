"""Bring your own: any callable from images to codes as a victim, named `module:function`.

Importing a module runs its code, so this happens only where the user says so (`--trust-code`).
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset, Modality
from advhash.data.paths import Reads
from advhash.errors import UsageError, nearest
from advhash.victims.base import HashVictim

_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_external(name: str) -> bool:
    """Whether a victim's name has the form `module:function`.

    >>> is_external("my_package.hashes:average"), is_external("dpsh"), is_external("C:/victim")
    (True, False, False)
    """
    return _NAME.fullmatch(name) is not None


def import_function(name: str) -> Callable[[Tensor], Any]:
    """What `module:function` names. **Runs the code of that module**; the current folder counts.

    Raises UsageError: no such module or function, one that fails on import, one not to be called.
    """
    module_name, _, path = name.partition(":")
    if os.getcwd() not in sys.path:  # as `python -m` has it; the module may import others later
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # the user's own code can raise anything
        raise UsageError(
            f"--victim {name}: importing {module_name!r} from {os.getcwd()} or the installed "
            f"packages raised {_reason(error)}"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise UsageError(
                f"--victim {name}: expected {part!r} in {module_name!r}, got none: "
                f"{nearest(part, vars(found))}define a function there"
            )
        found = getattr(found, part)
    if isinstance(found, type) or not callable(found):
        raise UsageError(
            f"--victim {name}: expected a function from (B,3,H,W) images in [0,1] to (B,K) codes, "
            f"got a {'class' if isinstance(found, type) else type(found).__name__}"
        )
    function: Callable[[Tensor], Any] = found
    return function


def source_file(name: str) -> Path | None:
    """The file of the module in `module:function`; None for a module without one."""
    origin = getattr(sys.modules.get(name.partition(":")[0]), "__file__", None)
    return Path(origin) if origin else None


def stated_size(model: object) -> int | None:
    """The side of the square pictures that a model says it wants, in pixels; None: it says nothing.

    What says so: `image_size` or `input_size` of the function or module, or timm's configs; a
    number, (H,W) or (3,H,W).

    >>> model = nn.Flatten()
    >>> model.image_size = (64, 64)
    >>> stated_size(model), stated_size(nn.Flatten())
    (64, None)
    """
    said = [getattr(model, name, None) for name in ("image_size", "input_size")]
    configs = [getattr(model, name, None) for name in ("pretrained_cfg", "default_cfg")]
    said += [config.get("input_size") for config in configs if isinstance(config, dict)]
    for value in said:
        sides = list(value[-2:]) if isinstance(value, tuple | list) else [value]
        whole = [side for side in sides if isinstance(side, int) and side > 0]
        if len(whole) == len(sides) and len(set(whole)) == 1:
            return whole[0]
    return None


class ExternalVictim(HashVictim):
    """Code given by the user: any callable from images to codes.

    function: gets (B,3,H,W) float32 images in [0,1] and returns (B,K) numbers, a torch tensor or
              what numpy makes an array of. Real: a bit is 1 iff > 0. All 0 and 1, or bool: the bits
    name:     `module:function`, for messages
    sample:   (B,3,H,W) images to try it on, which decide over K, 0/1 codes and gradients

    It is differentiable where a gradient other than 0 comes back for the sample; a function that
    ends in a sign or leaves torch has none. Then `relax` lets a gradient of 0 through, and attacks
    that need one refuse. A `torch.nn.Module` is moved to the device of the sample.

    Raises UsageError: the function fails on the sample or returns something else.
    """

    default_dataset = "digits"
    reads = Reads(classes=False)

    def __init__(self, function: Callable[[Tensor], Any], *, name: str, sample: Tensor) -> None:
        super().__init__()
        self.function = function.to(sample.device) if isinstance(function, nn.Module) else function
        self.name = name
        self.bounds = {"image": (0.0, 1.0)}
        self.history = []
        self.register_buffer("place", torch.empty(0, device=sample.device), persistent=False)
        self.bits = 0
        self.zero_one = False
        self.eval()
        self.differentiable = self._has_gradient(sample)
        with torch.no_grad():
            codes = self._call(sample)
        self.bits = codes.shape[1]
        self.zero_one = bool(((codes == 0) | (codes == 1)).all())

    @classmethod
    def data_arguments(cls, data: Dataset) -> dict[str, object]:
        return {}

    def fit(self, data: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """Nothing to do: it comes trained."""
        return self

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        if self.differentiable:
            codes = self._call(inputs)
        else:
            with torch.no_grad():
                codes = self._call(inputs.detach())
            codes = codes + 0 * inputs.flatten(1).sum(dim=1, keepdim=True)
        return 2 * codes - 1 if self.zero_one else codes

    def _has_gradient(self, sample: Tensor) -> bool:
        inputs = sample.clone().requires_grad_()
        try:
            with torch.enable_grad():
                value = self.function(inputs)
            if not isinstance(value, Tensor) or not value.requires_grad:
                return False
            weights = torch.linspace(1, 2, value.numel(), device=value.device).view_as(value)
            (gradient,) = torch.autograd.grad((value * weights).sum(), inputs, allow_unused=True)
        except Exception:  # as numpy does on a tensor with a gradient; the call without one judges
            return False
        return gradient is not None and bool((gradient != 0).any())

    def _call(self, inputs: Tensor) -> Tensor:
        """(B,K) float32 of the function, checked. Raises UsageError."""
        try:
            value = self.function(inputs)
            codes = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
            codes = codes.to(inputs.device, torch.float32)
        except Exception as error:  # the user's own code can raise anything
            raise UsageError(
                f"victim {self.name}: called with images {tuple(inputs.shape)} on "
                f"{inputs.device}, it raised {_reason(error)}"
            ) from error
        shape = tuple(codes.shape)
        wanted = (len(inputs), self.bits or "K")
        bits = shape[1] if len(shape) == 2 else 0
        if bits < 1 or shape[0] != len(inputs) or self.bits not in (0, bits):
            raise UsageError(
                f"victim {self.name}: expected {wanted} codes for {tuple(inputs.shape)} images, "
                f"got {shape}"
            )
        if not bool(codes.isfinite().all()):
            raise UsageError(f"victim {self.name}: expected finite codes, got NaN or infinity")
        return codes


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
