"""Calls of the command in this process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from advhash.cli import app


def exit_code(*arguments: str | Path) -> int:
    """What `advhash ARGUMENTS` exits with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["advhash", *map(str, arguments)])
        try:
            app.main()
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


def command(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    """Its exit code, stdout and stderr."""
    code = exit_code(*arguments)
    return code, *capsys.readouterr()
