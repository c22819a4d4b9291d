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
    │   ├── StorageError      exit 3   the disk is full or a folder cannot be written
    │   ├── StoreError        exit 3   a vector store, or its server
    │   └── ResourceError     exit 3   memory, open files or threads ran out
    ├── ThresholdMissed       exit 4   a figure fell short of `--fail-under`
    └── CellsFailed           exit 5   some cells of a grid failed

Everything else that escapes is a bug of advhash: it keeps its traceback and exits with 1.
An interrupt (Ctrl-C) exits with 130, SIGTERM with 143 and SIGHUP with 129; a reader of stdout that
went away ends a command with 141.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable


class AdvhashError(Exception):
    """Base of every error that is not a bug. `exit_code` is what the command line returns.

    >>> import advhash as ah
    >>> try:
    ...     ah.train("dpsh", device=0)
    ... except ah.AdvhashError as error:
    ...     print(error)
    advhash.train: expected device= to be "auto", "cpu" or "cuda", got int 0
    """

    exit_code = 1


class UsageError(AdvhashError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class SettingError(ConfigError):
    """A setting whose value cannot be taken; the command line names the option that it came from.

    of:      the method that has the setting, "" where none does
    example: a value that would do; "" where `said` suffices

    >>> str(SettingError("gate.rate", "expected a share, got 2"))
    "setting 'gate.rate': expected a share, got 2"
    >>> str(SettingError("attack.steps", "expected a number, got 'x'", of="dhta", example="100"))
    "setting 'attack.steps' of dhta: expected a number, got 'x'; e.g. attack.steps=100"
    """

    def __init__(self, setting: str, said: str, *, of: str = "", example: str = "") -> None:
        behind = f"; e.g. {setting}={example}" if example else ""
        super().__init__(f"setting {setting!r}{of and f' of {of}'}: {said}{behind}")
        self.setting, self.said = setting, said


class MissingSetting(ConfigError):
    """A setting that has no default and was not given.

    >>> str(MissingSetting("attack.name", "expected text"))
    "setting 'attack.name' is missing: expected text"
    """

    def __init__(self, setting: str, said: str, *, of: str = "") -> None:
        super().__init__(f"setting {setting!r}{of and f' of {of}'} is missing: {said}")
        self.setting = setting


class UnknownName(UsageError):
    """A name that no registry entry carries.

    >>> str(UnknownName("victim", "dlmch", ["dlcmh", "dpsh"]))
    "unknown victim 'dlmch': did you mean 'dlcmh'? Known: dlcmh, dpsh"
    >>> str(UnknownName("victim", "dpsh+bits=16", ["dlcmh", "dpsh"]))
    "unknown victim 'dpsh+bits=16': 'dpsh' is known; give bits=16 apart from the name"
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        base, _, settings = name.partition("+")
        if base in known and "=" in settings:  # as in a suite
            super().__init__(
                f"unknown {kind} {name!r}: {base!r} is known; give {settings.replace('+', ', ')} "
                "apart from the name"
            )
            return
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


class StoreError(RefusedError):
    pass


class ResourceError(RefusedError):
    pass


class Terminated(KeyboardInterrupt):
    """A signal that ends the process, cleaned up after as an interrupt is.

    number: of the signal
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


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


def counted(count: float, noun: str) -> str:
    """A number and what it counts, a regular noun in the singular.

    >>> counted(1, "training"), counted(1200, "cell"), counted(2, "query"), counted(10, "class")
    ('1 training', '1,200 cells', '2 queries', '10 classes')
    >>> counted(1.75, "word")
    '1.75 words'
    """
    shown = f"{int(count):,}" if float(count).is_integer() else f"{count:.3g}"
    if count == 1:
        return f"{shown} {noun}"
    stem = f"{noun[:-1]}ie" if re.search("[^aeiou]y$", noun) else noun
    return f"{shown} {stem}{'es' if noun.endswith(('s', 'x', 'ch')) else 's'}"


_EXHAUSTED = (
    (
        "memory",
        (errno.ENOMEM,),
        r"cannot allocate memory|can't allocate|out of memory|failed to map",
    ),
    ("open files", (errno.EMFILE, errno.ENFILE), r"too many open files|os error 2[34]\b"),
    ("threads", (), r"can't start new thread|pthread_create|thread creation failed"),
)
_ADVICE = {
    "memory": "allow more, or ask for less: a smaller protocol.batch_size or dataset.size",
    "open files": "allow more (ulimit -n)",
    "threads": "allow more (ulimit -u), or set OMP_NUM_THREADS=1",
}


def exhausted(error: BaseException) -> ResourceError | None:
    """What the machine refused where that is why an error was raised, whatever library raised it.

    What a reader of ours made of such an error (`raise … from`) counts as the error itself.

    >>> exhausted(OSError(24, "Too many open files")).args
    ('the open files that this process may use are used up: allow more (ulimit -n)',)
    """
    if error.__suppress_context__:
        behind = error.__cause__ or error.__context__
        if behind is not None and (used_up := exhausted(behind)) is not None:
            return used_up
    if isinstance(error, AdvhashError):
        return None
    for what, numbers, pattern in _EXHAUSTED:
        known = isinstance(error, MemoryError) and what == "memory"
        if isinstance(error, OSError) and error.errno in numbers:
            known = True
        if isinstance(error, OSError | RuntimeError | ImportError) or "Safetensor" in repr(error):
            known = known or re.search(pattern, str(error), re.IGNORECASE) is not None
        if known:
            verb = "is" if what == "memory" else "are"
            return ResourceError(
                f"the {what} that this process may use {verb} used up: {_ADVICE[what]}"
            )
    return None
