"""What `--help` tells of every command, compared with a file, so that no change goes unseen.

`python tests/cli/test_help.py` writes the file anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from advhash.cli.app import app

GOLDEN = Path(__file__).with_name("help.txt")


def commands(command: Any, path: str = "advhash") -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, below in sorted(getattr(command, "commands", {}).items()):
        yield from commands(below, f"{path} {name}")


def line(parameter: Any) -> str:
    """Names, default and words of an argument or option; how types are named is Typer's matter."""
    named = ", ".join([*parameter.opts, *parameter.secondary_opts])
    if parameter.param_type_name == "argument":
        named = named.upper()
    default = "" if parameter.default in (None, False, ()) else f" [{parameter.default}]"
    return f"  {named}{default}  {' '.join((parameter.help or '').split())}"


def described(path: str, command: Any) -> str:
    """The command's own sentence, then a line for each argument and option."""
    shown = [
        parameter
        for parameter in command.params
        if not getattr(parameter, "hidden", False) and "completion" not in parameter.name
    ]
    head = path + "  (hidden)" * command.hidden
    return "\n".join([head, f"    {' '.join((command.help or '').split())}", *map(line, shown)])


def written() -> str:
    tree = commands(typer.main.get_command(app))
    return "\n\n".join(described(path, command) for path, command in tree) + "\n"


def test_help_says_what_the_file_says() -> None:
    assert written() == GOLDEN.read_text("utf-8"), f"`python {__file__}` writes {GOLDEN} anew"


@pytest.mark.parametrize(
    "path", [path for path, _ in commands(typer.main.get_command(app))], ids=lambda path: path
)
def test_every_command_answers_to_help(path: str) -> None:
    result = CliRunner().invoke(app, [*path.split()[1:], "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


if __name__ == "__main__":
    GOLDEN.write_text(written(), "utf-8")
