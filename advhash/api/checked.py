"""Every misuse of the Python API is one AdvhashError that names the right spelling."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import ParamSpec, TypeVar

from advhash.errors import UsageError, nearest
from advhash.storage.places import user_path

P = ParamSpec("P")
T = TypeVar("T")

PATH = "a path"
_WANTED: Mapping[str, tuple[tuple[type, ...], str]] = {
    "seed": ((Integral,), "a whole number"),
    "device": ((str,), '"auto", "cpu" or "cuda"'),
    "method": ((str,), 'the name of an attack, e.g. "dhta"'),
    "checkpoint": ((str, Path), PATH),
    "name": ((str, Path, type(None)), "a name or a path"),
    "norm": ((str, type(None)), '"linf", "l2", "l0" or "none"'),
    "eps": ((Real, str, type(None)), 'a number or a fraction such as "8/255"'),
    "eight_bit": ((bool,), "True or False"),
    "out": ((str, Path, type(None)), PATH),
}
OTHER_NAMES = {"epsilon": "eps", "radius": "eps", "attack": "method", "model": "victim"}


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, whose wrong arguments raise UsageError before anything is done."""
    signature = inspect.signature(function)
    called = f"advhash.{function.__name__}"

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            unknown = [name for name in kwargs if name not in signature.parameters]
            hint = misspelt(unknown[0], signature) if unknown else ""
            raise UsageError(f"{called}: {error}; {hint}it takes {_written(signature)}") from None
        given = bound.arguments
        for name, value in given.items():
            types, wanted = _WANTED.get(name, ((object,), ""))
            truth = isinstance(value, bool) and bool not in types and object not in types
            if not isinstance(value, types) or truth:
                raise UsageError(f"{called}: expected {name}= to be {wanted}, got {brief(value)}")
            if wanted == PATH and isinstance(value, str | Path):
                given[name] = user_path(value)
        progress = given.get("progress")
        if progress is not None and not callable(progress):
            raise UsageError(
                f"{called}: expected progress= to be a function, got {brief(progress)}"
            )
        return function(*bound.args, **bound.kwargs)

    return call


def misspelt(name: str, signature: inspect.Signature) -> str:
    """What may have been meant by a parameter of this name; empty where nothing is near."""
    other = OTHER_NAMES.get(name)
    if other in signature.parameters:
        return f"did you mean {other!r}? "
    return nearest(name, signature.parameters)


def _written(signature: inspect.Signature) -> str:
    return ", ".join(signature.parameters)


def brief(value: object) -> str:
    """The type and the beginning of a value in one line, for errors.

    >>> brief(3), brief("two\\nlines"), brief(None)
    ('int 3', "str 'two\\\\nlines'", 'NoneType None')
    """
    return f"{type(value).__name__} {repr(value).splitlines()[0][:60]}"
