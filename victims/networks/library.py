"""timm, imported when a network is built, and without torch's compiler.

timm and torchvision, which it imports, ask the compiler (`torch._dynamo`) for two things at their
own import that small networks never use. Its import takes longer than torch's own: it waits here
until one of the two is called.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

_COMPILER = "torch._dynamo.utils"


@functools.cache
def timm() -> Any:
    """The package. Hashes without one of its networks never pay for it."""
    with _without_compiler():
        return importlib.import_module("timm")


@contextmanager
def _without_compiler() -> Iterator[None]:
    """Let what is imported have the compiler later, where nothing has imported it before."""
    if _COMPILER in sys.modules:
        yield
        return
    disable = torch.compiler.disable
    torch.compiler.disable = _disabled_later  # type: ignore[assignment]
    sys.modules[_COMPILER] = _Compiler(_COMPILER)
    try:
        yield
    finally:
        torch.compiler.disable = disable
        _forget_stand_in()


class _Compiler(ModuleType):
    """Stands for `torch._dynamo.utils`, of which torchvision takes `is_compile_supported`.

    Whoever takes anything else gets it from the module itself at once.
    """

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name == "is_compile_supported":
            return lambda device: _compiler().is_compile_supported(device)
        return getattr(_compiler(), name)


def _compiler() -> Any:
    _forget_stand_in()
    return importlib.import_module(_COMPILER)


def _forget_stand_in() -> None:
    if isinstance(sys.modules.get(_COMPILER), _Compiler):
        del sys.modules[_COMPILER]


def _disabled_later(function: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.compiler.disable` as a plain decorator, asked when the function is first called."""

    @functools.cache
    def disabled() -> Callable[..., Any]:
        found: Callable[..., Any] = torch.compiler.disable(function)
        return found

    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        return disabled()(*given, **named)

    return call
