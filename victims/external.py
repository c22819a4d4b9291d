"""Bring your own: any callable from images, texts or tables to codes, named `module:function`.

Importing a module runs its code, so this happens only where the user says so (`--trust-code`).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset, Modality
from advhash.data.paths import Reads
from advhash.data.text.characters import LAST, are_characters, as_strings
from advhash.errors import DataError, UsageError, nearest
from advhash.victims.base import HashVictim


def import_function(name: str) -> Callable[[Any], Any]:
    """What `module:function` names. **Runs the code of that module**; the current folder counts.

    Raises UsageError: no such module or function, one that fails on import, one not to be called.
    """
    module_name, _, path = name.partition(":")
    if os.getcwd() not in sys.path:  # as `python -m` has it; the module may import others later
        sys.path.insert(0, os.getcwd())
    try:
        target: Any = importlib.import_module(module_name)
    except Exception as error:  # the user's own code can raise anything
        absent = isinstance(error, ModuleNotFoundError) and module_name.startswith(str(error.name))
        raise UsageError(
            f"--victim {name}: importing {module_name!r} from {os.getcwd()} or the installed "
            f"packages raised {_reason(error)}; "
            + (
                "call advhash in the folder where that module lies, or install its package"
                if absent
                else f"see python -c 'import {module_name}'"
            )
        ) from error
    for part in path.split("."):
        if not hasattr(target, part):
            raise UsageError(
                f"--victim {name}: expected {part!r} in {module_name!r}, got none: "
                f"{nearest(part, vars(target))}define a function there"
            )
        target = getattr(target, part)
    if isinstance(target, type) or not callable(target):
        kind = "class" if isinstance(target, type) else type(target).__name__
        raise UsageError(
            f"--victim {name}: expected a function from (B,3,H,W) images in [0,1], a list of texts "
            f"or (B,F) rows of a table to (B,K) codes, got a {kind}"
        )
    function: Callable[[Any], Any] = target
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


def stated_modality(function: object) -> Modality | None:
    """Whether a function says that it takes images, texts or a table; None: it says nothing.

    What says so: its attribute `modality`, or how its first argument is annotated.

    >>> def average(texts: list[str]) -> object: ...
    >>> stated_modality(average), stated_modality(len)
    ('text', None)
    """
    stated = getattr(function, "modality", None)
    if stated in TAKEN:
        return str(stated)
    try:
        first = next(iter(inspect.signature(function).parameters.values()), None)  # type: ignore[arg-type]
    except (TypeError, ValueError):  # what is written in C has no signature
        return None
    written = "" if first is None or first.annotation is first.empty else str(first.annotation)
    if re.search(r"\bstr\b", written):
        return "text"
    return "image" if "Tensor" in written else None


def reads_of(function: object) -> Reads:
    """What data a function is looked for: with what it says, else with images or texts."""
    stated = stated_modality(function)
    names = ("image", "text") if stated is None else (stated,)
    return Reads(tuple(frozenset({name}) for name in names), classes=False, advice=_SAYS)


def taken_modality(function: object, name: str, data: Dataset) -> Modality:
    """What a function is given of these data: what it says, else texts where they have no images.

    Raises DataError: they lack it, or have texts of another kind.
    """
    texts = "text" in data.modalities and "image" not in data.modalities
    given = stated_modality(function) or ("text" if texts else "image")
    if given not in data.modalities:
        raise DataError(
            f"{name} needs {given}s: {data.name!r} has {', '.join(data.modalities)}; {_SAYS}"
        )
    if given == "text" and data.text_kind != "characters":
        raise DataError(
            f"{name} takes texts as they are: expected text=characters, got {data.text_kind}; add "
            "--set dataset.text=characters"
        )
    return given


TAKEN: tuple[Modality, ...] = ("image", "text", "table")
_SAYS = 'take other data, or let the function say what it reads: its attribute modality = "table"'
MOST_PARTS = 2000  # that are looked through for modules
_ARRAYS = (Tensor, np.ndarray)
OTHERS = ("torch", "torchvision", "numpy", "builtins", "logging", "advhash")


def modules_of(function: object) -> list[nn.Module]:
    """The torch modules that a callable works with, as far as its code names them.

    Itself, the object of a method, what a partial or a decorator wraps, what a function closes
    over, the globals that it or a function called by it names, and what these objects hold.
    """
    modules: dict[int, nn.Module] = {}
    seen: dict[int, object] = {}  # kept, so that no number is given twice
    waiting = [function]
    while waiting and len(seen) < MOST_PARTS:
        part = waiting.pop()
        if id(part) in seen:
            continue
        seen[id(part)] = part
        if isinstance(part, nn.Module):
            modules[id(part)] = part
        else:
            waiting += _parts(part)
    return list(modules.values())


def _parts(value: object) -> list[Any]:
    """What a callable or an object is made of, where modules of torch may be found."""
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, list | tuple):
        return list(value)
    if isinstance(value, FunctionType):
        if value.__module__ and value.__module__.partition(".")[0] in OTHERS:
            return []
        names = set(_names(value.__code__))
        scope = [value.__globals__[name] for name in names if name in value.__globals__]
        modules = [vars(part) for part in scope if isinstance(part, ModuleType)]
        inside = [module[name] for module in modules for name in names if name in module]
        cells = [cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell)]
        return [*scope, *inside, *cells, *vars(value).values()]
    if isinstance(value, type | ModuleType | Tensor) or not hasattr(value, "__dict__"):
        return []
    return [] if type(value).__module__.partition(".")[0] in OTHERS else list(vars(value).values())


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # a name that is bound later
        return False


def _names(code: CodeType) -> Iterator[str]:
    """The globals and attributes that a function names, those of its inner functions too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


class ExternalVictim(HashVictim):
    """Code given by the user: any callable from images, texts or tables to codes.

    function: gets (B,3,H,W) float32 images in [0,1] or (B,F) float32 rows of a table, a copy that
              it may write into, or a list of strings, and returns (B,K) numbers, a torch tensor or
              what numpy makes an array of. Real: a bit is 1 iff > 0. All 0 and 1, or bool: the
              bits. Bytes that hold eight bits each are refused
    name:     `module:function`, for messages
    sample:   (B,3,H,W) images, (B,L) characters or (B,F) floats to try it on, which determine
              what it is given, K, 0/1 codes and gradients; texts have none

    It is differentiable where a gradient other than 0 comes back for the sample; else `no_gradient`
    says what happened. Then `relax` lets a gradient of 0 through, and attacks that need one refuse.
    A `torch.nn.Module` is moved to the device of the sample; it, and every module that a function
    names or closes over, is in eval mode wherever codes are taken.

    Raises UsageError: the function fails on the sample or returns something else.
    """

    default_dataset = "digits"
    reads = Reads(tuple(frozenset({name}) for name in TAKEN), classes=False)

    def __init__(self, function: Callable[[Any], Any], *, name: str, sample: Tensor) -> None:
        super().__init__()
        self.function = function.to(sample.device) if isinstance(function, nn.Module) else function
        self.held = nn.ModuleList(
            module for module in modules_of(function) if module is not function
        )
        self.name = name
        self.of_texts = are_characters(sample)
        if self.of_texts:
            self.bounds = {"text": (0.0, float(LAST))}
        elif sample.dim() == 2:
            self.bounds = {"table": (-math.inf, math.inf)}
        else:
            self.bounds = {"image": (0.0, 1.0)}
        self.default_database = next(iter(self.bounds))
        self.history = []
        self.register_buffer("place", torch.empty(0, device=sample.device), persistent=False)
        self.bits = 0
        self.zero_one = False
        self.eval()
        self.no_gradient = self._tried(sample)
        self.differentiable = not self.no_gradient
        with torch.no_grad():
            codes = self._call(sample)
        self.bits = codes.shape[1]
        self.zero_one = bool(((codes == 0) | (codes == 1)).all())

    @property
    def device(self) -> torch.device:
        """Where its images go: modules that a function holds are its own to place."""
        place = self.place
        assert isinstance(place, Tensor)
        return place.device

    @classmethod
    def data_arguments(cls, data: Dataset) -> dict[str, object]:
        return {}

    def fit(self, data: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """Nothing to do: it comes trained."""
        return self

    def query_modality(self, asked: Modality) -> Modality:
        """Its one kind of queries where images, the default, are asked for; else what is asked."""
        return next(iter(self.bounds)) if asked == "image" else asked

    def loss_gradient(
        self, inputs: Tensor, modality: Modality, loss: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Texts have none: it is 0, of the shape of the codes."""
        if not self.of_texts:
            return super().loss_gradient(inputs, modality, loss)
        relaxed = self.relax(inputs, modality)
        return relaxed, torch.zeros_like(relaxed)

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        if self.of_texts:
            with torch.no_grad():
                codes = self._call(inputs)
        elif self.differentiable:
            codes = self._call(inputs)
        else:
            with torch.no_grad():
                codes = self._call(inputs.detach())
            codes = codes + 0 * inputs.flatten(1).sum(dim=1, keepdim=True)
        return 2 * codes - 1 if self.zero_one else codes

    def _tried(self, sample: Tensor) -> str:
        """Why no gradient other than 0 comes back for the sample; empty where one does."""
        if self.of_texts:
            return "it takes texts, which nothing can be derived in"
        inputs = sample.clone().requires_grad_()
        try:
            with torch.enable_grad():
                value = self.function(inputs.clone())  # a leaf could not be written into
            if not isinstance(value, Tensor):
                return f"it returns {_described(value)}, not a tensor of torch"
            if not value.requires_grad:
                return "its codes carry no gradient: it ends in a comparison, or leaves torch"
            weights = torch.linspace(1, 2, value.numel(), device=value.device).view_as(value)
            gradients: tuple[Tensor | None, ...] = torch.autograd.grad(
                (value * weights).sum(), inputs, allow_unused=True
            )
        except Exception as error:  # the call without a gradient judges whether it works at all
            return f"asked for one, it raised {_reason(error)}"
        if gradients[0] is None:
            return "its codes do not follow from its inputs through torch"
        return "" if bool((gradients[0] != 0).any()) else "it is 0 everywhere, as that of a sign is"

    def _call(self, inputs: Tensor) -> Tensor:
        """(B,K) float32 of the function, checked. Raises UsageError."""
        kind = "images" if inputs.dim() > 2 else "a table"
        shown = f"{kind} {tuple(inputs.shape)} on {inputs.device}"
        if self.of_texts:
            shown = f"a list of {len(inputs)} texts"
        called = f"victim {self.name}: called with {shown}"
        try:
            value = self.function(as_strings(inputs) if self.of_texts else inputs.clone())
        except Exception as error:  # the user's own code can raise anything
            raise UsageError(f"{called}, it raised {_reason(error)}") from error
        numbers = self._numbers(value, len(inputs))
        self._check_unpacked(numbers)
        codes = numbers.to(inputs.device, torch.float32)
        shape = tuple(codes.shape)
        wanted = (len(inputs), self.bits or "K")
        bits = shape[1] if len(shape) == 2 else 0
        if bits < 1 or shape[0] != len(inputs) or self.bits not in (0, bits):
            raise UsageError(
                f"victim {self.name}: expected {wanted} codes for {shown}, got {shape}"
            )
        if not bool(codes.isfinite().all()):
            raise UsageError(
                f"victim {self.name}: expected finite codes for {shown}, got NaN or infinity; look "
                "for a division by 0 or a logarithm in it"
            )
        return codes

    def _check_unpacked(self, codes: Tensor) -> None:
        """Raise UsageError for bytes that are neither 0 and 1 nor signs: their sign is no bit."""
        if codes.dtype not in (torch.uint8, torch.int8):
            return
        wide = codes.to(torch.int16)
        other = wide[(wide < -1) | (wide > 1)]
        if len(other):
            kind = str(codes.dtype).removeprefix("torch.")
            form = "ubinary" if codes.dtype == torch.uint8 else "binary"
            octets = "codes" if form == "ubinary" else "(codes.astype(int) + 128).astype('uint8')"
            raise UsageError(
                f"victim {self.name}: expected one number a bit, got {kind} codes such as "
                f"{int(other[0])}, as packed bytes ({form}) have them: return np.unpackbits("
                f"{octets}, axis=1), or real codes as floats"
            )

    def _numbers(self, value: Any, count: int) -> Tensor:
        """What came back as one tensor of real numbers. Raises UsageError."""
        if isinstance(value, Tensor) and not value.is_complex() and not value.is_sparse:
            return value
        hint = "return one tensor or array of real numbers"
        if isinstance(value, Mapping):
            some = next(iter(value), "codes")
            hint = f"return one of its entries, e.g. found[{some!r}]"
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            shapes = [part.ndim for part in value if isinstance(part, _ARRAYS)]
            if shapes and (len(value) != count or set(shapes) != {1}):
                hint = "return one of its entries, e.g. found[0]"
            else:
                try:
                    array = np.asarray([_plain(part) for part in value])
                    plain = array.dtype.kind in "biuf"
                    return torch.as_tensor(array if plain else array.astype(float))
                except Exception as error:
                    hint = f"numpy makes no array of it ({_reason(error)}); {hint}"
        elif not isinstance(value, Tensor):
            try:
                array = np.asarray(value)
                if array.dtype.kind in "biuf":
                    return torch.as_tensor(array)
            except Exception as error:  # objects of the user can raise anything
                hint = f"numpy makes no array of it ({_reason(error)}); {hint}"
        raise UsageError(
            f"victim {self.name}: expected ({count}, {self.bits or 'K'}) codes, got "
            f"{_described(value)}; {hint}"
        )


def _plain(value: Any) -> Any:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value


def _described(value: object) -> str:
    """What a function returned, in a few words.

    >>> _described((torch.zeros(8, 64), None)), _described({"codes": 1, "loss": 2})
    ('a tuple of float32 (8, 64), None', "a dict with 'codes', 'loss'")
    """
    if value is None:
        return "None"
    if isinstance(value, _ARRAYS):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    kind = f"a {type(value).__name__}"
    if isinstance(value, Mapping):
        return f"{kind} with {', '.join(map(repr, list(value)[:4]))}"
    if isinstance(value, list | tuple) and any(isinstance(part, _ARRAYS) for part in value):
        return f"{kind} of {', '.join(map(_described, value[:4]))}"
    return kind


def _reason(error: Exception) -> str:
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
