"""The tensors of somebody else's model: a state_dict, a module pickled whole, or safetensors.

A module is no object here but the inert record of one: its parameters and buffers get the names
that its own state_dict would give them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from advhash.errors import CheckpointError
from advhash.storage.documents import Unreadable, expect_file, reason
from advhash.storage.foreign_text import visible
from advhash.storage.pickle_opcodes import Call, View
from advhash.storage.torch_file import TorchFile, open_torch_file, text_table

MOST_PARTS = 400_000  # attributes, parameters, buffers and modules, of all modules together
MOST_DEPTH = 24  # of modules in modules
SEARCHED = 3  # dicts inside each other in which a model is looked for
MOST_NAME = 1000  # characters of the name of a tensor
LISTED = 6  # names in a message
MOST_CALLED = 50  # names that are kept of what was not called
_KNOWN = re.compile(
    r"(torch\.nn\.(modules|parameter)|torchvision\.models|timm)\..*"
    r"|collections\.OrderedDict|(builtins|__builtin__)\.(set|frozenset)"
)


@dataclass(frozen=True)
class ForeignModel:
    """Named tensors of a file that is open.

    shapes:  of each tensor, by its name in the state_dict
    places:  where each lies: two names with one place share their tensor
    read:    the tensor of a name, which lasts until the next is read
    numbers: plain numbers that were attributes of modules, by their dotted names
    called:  what its pickle would have called, but for parts of known packages
    """

    shapes: Mapping[str, tuple[int, ...]]
    places: Mapping[str, object]
    read: Callable[[str], Tensor]
    numbers: Mapping[str, float] = field(default_factory=dict)
    called: tuple[str, ...] = ()


@contextmanager
def open_model(path: Path, part: str | None = None) -> Iterator[ForeignModel]:
    """The model in a file, which stays open for its tensors.

    part: under which keys of the file it lies, with dots between them; None: there is one alone

    Raises CheckpointError: no model, several, or a file that is damaged or hostile.
    """
    try:
        if path.suffix.lower() == ".safetensors":
            if part is not None:
                raise Unreadable(f"safetensors, which hold one model: expected no --part {part}")
            with _stored(path) as model:
                yield model
        else:
            with open_torch_file(path) as file:
                yield _pickled(file, part)
    except (OSError, Unreadable, safetensors.SafetensorError) as error:
        advice = ""
        if path.is_dir():
            advice = "; a folder of transformers is --victim hf:FOLDER, of advhash --victim FOLDER"
        elif path.suffix.lower() == ".onnx":
            advice = "; a model of ONNX is --victim onnx:FILE"
        raise CheckpointError(
            f"expected a model of torch.save or safetensors in {path}, got {reason(error)}{advice}"
        ) from None


@contextmanager
def _stored(path: Path) -> Iterator[ForeignModel]:
    expect_file(path)
    with safetensors.safe_open(path, framework="pt") as stored:
        names = list(stored.keys())
        shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in names}
        yield ForeignModel(shapes, {name: name for name in names}, stored.get_tensor)


def _pickled(file: TorchFile, part: str | None) -> ForeignModel:
    models = dict(_models(file.root, "", 0, set()))
    if part is not None:
        if part not in models:
            raise Unreadable(f"no model under {visible(part[:80])!r}: {_choice(models)}")
        models = {part: models[part]}
    if len(models) != 1:
        raise Unreadable(_choice(models))
    views, numbers = next(iter(models.values()))
    if max(map(len, views), default=0) > MOST_NAME:
        raise Unreadable(f"a tensor whose name has more than {MOST_NAME:,} characters")
    called = [str(name) for name in file.called if not _KNOWN.fullmatch(str(name))]
    return ForeignModel(
        {name: view.shape for name, view in views.items()},
        views,
        lambda name: file.tensor(views[name]),
        numbers,
        tuple(sorted(called)[:MOST_CALLED]),
    )


def _choice(models: Mapping[str, object]) -> str:
    """What to do with several models, or none."""
    if not models:
        return "a pickle without named tensors: save the state_dict() of the model"
    names = [visible(name[:80]) or "." for name in list(models)[:LISTED]]
    return f"{len(models)} models; expected --part with one of {', '.join(names)}"


_Model = tuple[dict[str, View], dict[str, float]]


def _models(value: Any, path: str, depth: int, seen: set[int]) -> Iterator[tuple[str, _Model]]:
    """The models in a value with the keys that lead to them.

    seen: what was looked at, which is not looked at again
    """
    if id(value) in seen:
        return
    seen.add(id(value))
    if _attributes(value):
        yield path, _module(value)
        return
    table = text_table(value)
    views = {name: part for name, part in table.items() if isinstance(part, View)}
    if len(views) > 1:
        yield path, (views, {})
    elif depth < SEARCHED:
        for name, part in table.items():
            yield from _models(part, f"{path}.{name}" if path else name, depth + 1, seen)


def _attributes(value: Any) -> dict[str, Any]:
    """What a module of torch keeps; empty for all that is none."""
    kept = text_table(value.state) if isinstance(value, Call) else {}
    return kept if {"_modules", "_parameters", "_buffers"} <= kept.keys() else {}


def _module(root: Call) -> _Model:
    """The tensors of a module and of those in it, and the numbers among their attributes."""
    views: dict[str, View] = {}
    numbers: dict[str, float] = {}
    waiting: list[tuple[str, Any, int]] = [("", root, 0)]
    parts = 0
    while waiting:
        prefix, value, depth = waiting.pop()
        kept = _attributes(value)
        groups = [text_table(kept.get(name)) for name in ("_parameters", "_buffers")]
        modules = text_table(kept.get("_modules"))
        parts += len(kept) + len(modules) + sum(map(len, groups))
        if depth > MOST_DEPTH or parts > MOST_PARTS or len(prefix) > MOST_NAME:
            raise Unreadable("modules that hold one another, or very many of them")
        for name, number in kept.items():
            if type(number) in (int, float) and math.isfinite(number):
                numbers[prefix + name] = float(number)
        for group in groups:
            for name, tensor in group.items():
                if isinstance(tensor, View):
                    views[prefix + name] = tensor
        for name, module in modules.items():
            if module is not None:
                waiting.append((f"{prefix}{name}.", module, depth + 1))
    return views, numbers
