"""Errors that a user can cause, each one line: what was expected, what came, what to do next.

    AdvhashError
    ├── UsageError            exit 2   an option or argument that cannot be used
    │   ├── ConfigError       exit 2   a setting with a wrong name, type or value
    │   └── UnknownName       exit 2   a victim, attack, dataset … that is not registered
    ├── RefusedError          exit 3   something given from outside is refused
    │   ├── DataError         exit 3   a data set or image
    │   ├── CheckpointError   exit 3   a checkpoint folder
    │   ├── RunError          exit 3   a run folder
    │   ├── MessageError      exit 3   a message between the parties of a federation
    │   └── StorageError      exit 3   the disk is full or a folder cannot be written
    ├── ThresholdMissed       exit 4   a figure fell short of `--fail-under`
    └── CellsFailed           exit 5   some cells of a grid failed

Everything else that escapes is a bug of advhash: it keeps its traceback and exits with 1.
An interrupt (Ctrl-C) exits with 130.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AdvhashError(Exception):
    """Base of every error that is not a bug. `exit_code` is what the command line returns."""

    exit_code = 1


class UsageError(AdvhashError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class UnknownName(UsageError):
    """A name that no registry entry carries.

    >>> str(UnknownName("victim", "dlmch", ["dlcmh", "dpsh"]))
    "unknown victim 'dlmch': did you mean 'dlcmh'? Known: dlcmh, dpsh"
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        super().__init__(
            f"unknown {kind} {name!r}: {nearest(name, known)}Known: {', '.join(known) or 'none'}"
        )


class RefusedError(AdvhashError):
    exit_code = 3


class DataError(RefusedError):
    pass


class CheckpointError(RefusedError):
    pass


class RunError(RefusedError):
    pass


class MessageError(RefusedError):
    pass


class StorageError(RefusedError):
    pass


class ThresholdMissed(AdvhashError):
    exit_code = 4


class CellsFailed(AdvhashError):
    exit_code = 5


def nearest(name: str, known: Iterable[str]) -> str:
    """`"did you mean 'x'? "` for the closest known name, or an empty string.

    >>> nearest("epoch", ["epochs", "bits"])
    "did you mean 'epochs'? "
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}? " if close else ""
