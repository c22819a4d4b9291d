"""How a command ends, whatever ends it: streams that take nothing, signals, a machine used up.

One door, `run_to_its_end`, around everything that a command does; exit codes: `advhash.errors`.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

from advhash.cli.options import fail
from advhash.errors import AdvhashError, StorageError, Terminated, exhausted

BROKEN_PIPE = 128 + 13  # what a shell says of a command that SIGPIPE ended
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


class _Hung(AdvhashError):
    """The reader of stdout went away: nothing is left to say, and nobody to say it to."""

    exit_code = BROKEN_PIPE


class _Stream:
    """A standard stream, from which an error comes out as `refused` makes of it; None: as nothing.

    What cannot be written once is not tried again, so that the end of the process is no failure.
    """

    def __init__(self, stream: TextIO, refused: Callable[[OSError], Exception] | None) -> None:
        self._stream, self._refused = stream, refused

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        _drain(self._stream)
        if self._refused is not None:
            raise self._refused(error) from None


def _drain(stream: TextIO) -> None:
    """Let a stream that takes nothing lead nowhere, with what it still holds."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        stream.flush()
    except (OSError, ValueError):
        return


def _refused(error: OSError) -> Exception:
    if error.errno == errno.EPIPE:
        return _Hung("stdout was closed")
    reason = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
    return StorageError(f"cannot write to stdout: {reason}; what the run folder holds is whole")


def _open_closed_streams() -> None:
    """What was closed before leads nowhere: the next file would be opened in its place else."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            mode = "r" if number == 0 else "w"
            stream = open(number, mode, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)


@contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGHUP are raised as an interrupt is, once, unless they are ignored or taken."""

    def raised(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one would stop the cleaning up
        raise Terminated(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    mine = [number for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in mine:
        signal.signal(number, raised)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, signal.SIG_DFL)


def run_to_its_end(command: Callable[[], object]) -> None:
    """Call a command; whatever ends it ends with one line and its exit code, see `advhash.errors`.

    A bug keeps its traceback.
    """
    _open_closed_streams()
    out, err = sys.stdout, sys.stderr
    for stream in (out, err):
        if isinstance(stream, io.TextIOWrapper):  # a terminal without ∞ or × shows ? instead
            stream.reconfigure(errors="replace")
    sys.stdout = _Stream(out, _refused)
    sys.stderr = _Stream(err, None)
    try:
        with _signals():
            code = _exit_code(command)
            if code == 0:
                code = _exit_code(sys.stdout.flush)
            with suppress(AdvhashError):  # it has failed already, of which one line is told
                sys.stdout.flush()
        if code:
            sys.exit(code)
    finally:
        sys.stdout, sys.stderr = out, err


def _exit_code(command: Callable[[], object]) -> int:
    try:
        command()
    except _Hung as error:
        return error.exit_code
    except AdvhashError as error:
        shown = exhausted(error) or error
        fail(str(shown), *getattr(error, "__notes__", ()))
        return shown.exit_code
    except SystemExit as stop:
        interrupt = _interrupt_behind(stop)
        if interrupt is not None:
            return _interrupted(interrupt)
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt as error:  # before Typer began
        return _interrupted(error)
    except Exception as error:
        used_up = exhausted(error)
        if used_up is None:
            raise
        fail(str(used_up), *getattr(error, "__notes__", ()))
        return used_up.exit_code
    return 0


def _interrupt_behind(stop: BaseException) -> KeyboardInterrupt | None:
    """The interrupt of which Typer made an exit without a word."""
    behind: BaseException | None = stop
    while behind is not None and not isinstance(behind, KeyboardInterrupt):
        behind = behind.__cause__ or behind.__context__
    return behind


def _interrupted(error: KeyboardInterrupt) -> int:
    """Tell, in one line and its notes, what ended a command early; the exit code for it."""
    number = error.number if isinstance(error, Terminated) else signal.SIGINT
    word = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    fail(word, *getattr(error, "__notes__", ()))
    return 128 + number
