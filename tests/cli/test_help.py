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
from advhash.cli.help import COMMANDS, EXAMPLES, OPTIONS
from advhash.registry import EXPERIMENTS

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
    """The command's own sentence, a line for each argument and option in its group, an example."""
    lines = [path + "  (hidden)" * command.hidden, f"    {' '.join((command.help or '').split())}"]
    group = None
    for parameter in parameters(command):
        heading = getattr(parameter, "rich_help_panel", None)
        if heading != group:
            lines.append(f" {heading}")
            group = heading
        lines.append(line(parameter))
    return "\n".join([*lines, *([f" {command.epilog}"] if command.epilog else [])])


def parameters(command: Any) -> list[Any]:
    """Arguments and options as help shows them."""
    shown = command.get_params(typer.Context(command))
    return [
        parameter
        for parameter in shown
        if not getattr(parameter, "hidden", False)
        and not ({"completion", "help"} & {*parameter.name.split("_")})
    ]


def written() -> str:
    tree = commands(typer.main.get_command(app))
    return "\n\n".join(described(path, command) for path, command in tree) + "\n"


@pytest.mark.parametrize("kind", EXPERIMENTS.names())
def test_a_defense_is_offered_where_victims_are_hardened(kind: str) -> None:
    names = {"least-change": "certify"}  # which is asked for by another command
    command: Any = typer.main.get_command(app)
    shown = parameters(command.commands[names.get(kind, kind)])
    hardened = "defense" in EXPERIMENTS.create(names.get(kind, kind)).config.model_fields
    assert any("--defense" in parameter.opts for parameter in shown) == hardened


def test_help_says_what_the_file_says() -> None:
    assert written() == GOLDEN.read_text("utf-8"), f"`python {__file__}` writes {GOLDEN} anew"


@pytest.mark.parametrize(
    "path", [path for path, _ in commands(typer.main.get_command(app))], ids=lambda path: path
)
def test_every_command_answers_to_help(path: str) -> None:
    result = CliRunner().invoke(app, [*path.split()[1:], "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.output


TREE = dict(commands(typer.main.get_command(app)))
LEAVES = {
    path.removeprefix("advhash ")
    for path, command in TREE.items()
    if not hasattr(command, "commands")
}


def test_every_command_has_a_group_and_an_example() -> None:
    assert {*EXAMPLES} == LEAVES | {""}
    visible = {
        name.split()[1] for name, command in TREE.items() if not command.hidden and " " in name
    }
    assert {*" ".join(COMMANDS.values()).split()} == visible


def test_the_table_of_groups_names_options_that_exist() -> None:
    known = {
        name
        for path, command in TREE.items()
        for parameter in command.get_params(typer.Context(command))
        for name in (parameter.name, f"{path.split()[-1]}.{parameter.name}")
    }
    assert {*" ".join(OPTIONS.values()).split()} <= known


@pytest.mark.parametrize("path", sorted(EXAMPLES))
def test_the_example_at_the_foot_goes_through_the_parser(path: str) -> None:
    words = EXAMPLES[path].split()[1:]
    nested = sorted(LEAVES, key=len, reverse=True)
    inner = next(name for name in nested if " ".join(words).startswith(name))
    arguments = words[len(inner.split()) :]
    assert TREE[f"advhash {inner}"].make_context(inner, arguments).params
    shown = CliRunner().invoke(app, [*path.split(), "--help"], env={"COLUMNS": "200"})
    assert EXAMPLES[path] in shown.output


def test_no_flag_shows_a_type() -> None:
    result = CliRunner().invoke(app, ["attack", "--help"], env={"COLUMNS": "120"})
    assert "bool" not in result.output.lower()
    assert "TABLE.KEY=VALUE" in result.output


if __name__ == "__main__":
    GOLDEN.write_text(written(), "utf-8")
