"""Processes that are killed in the middle of their work."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping

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
