"""What Typer refuses of a command line, in one line of ours: expected, got, where to look."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from typer import BadParameter

from advhash.errors import AdvhashError, UsageError, nearest

NO_COMMAND = re.compile(r"No such command '(.*?)'", re.DOTALL)
NO_ARGUMENT = re.compile(r"unexpected extra argument\S* \((.*)\)", re.DOTALL)
PATHS = {  # what Typer says of a path
    "is not readable": ("a path that can be read", "no permission; see `ls -l`"),
    "is not writable": ("a path that can be written", "no permission; see `ls -l`"),
    "does not exist": ("a file or folder", "nothing there; check the path"),
    "is a file": ("a folder", "a file"),
    "is a directory": ("a file", "a folder"),
}
NO_PATH = re.compile(rf"'(.*)' ({'|'.join(PATHS)})", re.DOTALL)


@contextmanager
def usage_errors(above: Any = None) -> Iterator[None]:
    """Turn what Typer refuses into UsageError; a call for help and all else passes.

    above: the context of the group whose command is called
    """
    try:
        yield
    except AdvhashError:
        raise
    except Exception as error:
        said = _said(error)
        if said is None:
            raise
        command = _path(getattr(error, "ctx", None), above)
        if "see `" not in said:
            said += f"{' See' if said.endswith('?') else '; see'} `{command} --help`"
        raise UsageError(said) from None


def _path(context: Any, above: Any) -> str:
    """The command as one types it, e.g. `advhash codes export`."""
    if context is None:
        return " ".join(filter(None, ("advhash", above and above.invoked_subcommand)))
    names: list[str] = []
    while context.parent is not None:
        names.insert(0, context.info_name)
        context = context.parent
    return " ".join(("advhash", *names))


def _said(error: Any) -> str | None:
    """Typer's exceptions are known by their names, which it does not export."""
    kind = type(error).__name__
    if kind == "NoSuchOption":
        near = nearest(error.option_name, _options(error.ctx))
        return f"unknown option {error.option_name!r}{near and ': '}{near}".rstrip()
    if kind == "MissingParameter":
        about = (getattr(error.param, "help", None) or "").rstrip(".")
        return f"expected {_called(error.param)}{f' ({about})' if about else ''}, got none"
    if isinstance(error, BadParameter):
        return _of_value(error)
    if kind == "BadOptionUsage":
        takes = "takes no value" in error.message or "not take a value" in error.message
        got = "no value, got one" if takes else "a value, got none"
        return f"{error.option_name}: expected {got}"
    if kind == "UsageError" and (typed := NO_COMMAND.search(error.message)):
        group = error.ctx.command
        known = [name for name in group.list_commands(error.ctx) if not _hidden(error.ctx, name)]
        return f"unknown command {typed[1]!r}: {nearest(typed[1], known)}Known: {', '.join(known)}"
    if kind == "UsageError" and (extra := NO_ARGUMENT.search(error.message)):
        return f"expected no further argument, got {extra[1]!r}"
    if kind in ("UsageError", "BadArgumentUsage"):
        return " ".join(str(error.message).split())
    return None


def _of_value(error: Any) -> str:
    from pydantic import ValidationError

    from advhash.validation import Expected, described, shown

    behind = error.__cause__
    if error.ctx is None or error.param is None:
        return " ".join(error.format_message().split())
    if not isinstance(behind, ValidationError):
        return f"{_called(error.param)}: {_of_path(error.message)}"
    parameters = inspect.signature(error.ctx.command.callback, eval_str=True).parameters
    expected = Expected(parameters[error.param.name].annotation)
    got = behind.errors()[0]["input"]
    near = nearest(str(got), expected.choices)
    said = f"{_called(error.param)}: expected {described(expected)}, got {shown(got)}"
    return f"{said}; {near}".rstrip() if near else said


def _of_path(message: str) -> str:
    """What is wrong with a path that Typer looked at."""
    path = NO_PATH.search(message)
    if path is None:
        return " ".join(message.split())
    wanted, got = PATHS[path[2]]
    return f"expected {wanted}, got {path[1]!r}: {got}"


def _called(parameter: Any) -> str:
    """`--codes` of an option, `SOURCE` of an argument."""
    if parameter.param_type_name == "argument":
        return str(parameter.name).upper()
    return str(max(parameter.opts, key=len))


def _hidden(context: Any, command: str) -> bool:
    return bool(getattr(context.command.commands.get(command), "hidden", False))


def _options(context: Any) -> list[str]:
    return [name for parameter in context.command.get_params(context) for name in parameter.opts]
