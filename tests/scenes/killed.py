"""Processes that are killed in the middle of their work."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

PATIENCE = 240  # seconds


def killed_when(command: list[str], ready: Callable[[], bool], env: Mapping[str, str]) -> None:
    """Start a command and SIGKILL it as soon as `ready`.

    Raises AssertionError where it ends by itself before, or is never ready.
    """
    began = time.monotonic()
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            while not ready():
                if process.poll() is not None:
                    told = process.stdout.read() if process.stdout else ""
                    raise AssertionError(f"expected a command that is killed, but it ended: {told}")
                if time.monotonic() - began > PATIENCE:
                    raise AssertionError(f"expected {command} to be ready in {PATIENCE} s")
                time.sleep(0.005)
        finally:
            process.kill()
    assert process.returncode == -9, "it ended before it was killed"


def killed_after(seconds: float, command: Sequence[str], folder: Path) -> None:
    """Start a command and SIGKILL it alone after some time, unless it ended well before.

    Raises AssertionError where it failed, or a process that it began outlives it.
    """
    with (folder / "told").open("wb") as told:
        process = subprocess.Popen(command, stdout=told, stderr=told, start_new_session=True)
    with suppress(subprocess.TimeoutExpired):
        assert process.wait(seconds) == 0, (folder / "told").read_text()
    process.kill()
    process.wait()
    until = time.monotonic() + 30
    while orphans := _in_session(process.pid):
        if time.monotonic() > until:
            os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"expected no process of {command} to outlive it, got {orphans}")
        time.sleep(0.1)


def _in_session(session: int) -> list[str]:
    """The commands of processes of a session that still run."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, _, number = (place / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(number) == session and state != "Z":
                found.append((place / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found
