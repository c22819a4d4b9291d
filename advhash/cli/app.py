"""The command line: parse, call the pipeline, print. Results on stdout, all else on stderr.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from advhash._version import __version__
from advhash.cli.commands.attack import attack
from advhash.cli.commands.benchmark import benchmark
from advhash.cli.commands.certify import certify
from advhash.cli.commands.codes import codes_app, evaluate_codes
from advhash.cli.commands.compare import compare
from advhash.cli.commands.data import data_app
from advhash.cli.commands.defend import defend
from advhash.cli.commands.detect import detect
from advhash.cli.commands.encode import encode
from advhash.cli.commands.evolve import evolve
from advhash.cli.commands.imported import import_model
from advhash.cli.commands.invert import invert
from advhash.cli.commands.judge import judge
from advhash.cli.commands.least_change import least_change
from advhash.cli.commands.lifelong import lifelong
from advhash.cli.commands.list import list_entries
from advhash.cli.commands.phase_chart import phase_chart
from advhash.cli.commands.poison import poison
from advhash.cli.commands.report import report
from advhash.cli.commands.scan import scan
from advhash.cli.commands.train import train
from advhash.cli.commands.transfer import transfer
from advhash.cli.endings import run_to_its_end
from advhash.cli.execute import brought, command_of
from advhash.cli.help import Command, epilog, grouped, heading_of, in_order_of_use
from advhash.cli.options import Json, placed
from advhash.cli.terminal import tell
from advhash.cli.usage import usage_errors
from advhash.compute.processes import process_count
from advhash.errors import UsageError
from advhash.storage.places import user_path


class Commands(TyperGroup):
    """The commands of advhash, and the kinds of run that packages bring by entry points."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*in_order_of_use(super().list_commands(ctx)), *sorted(brought())]

    def get_params(self, ctx: Any) -> list[Any]:
        return grouped("", super().get_params(ctx))

    def make_context(self, *args: Any, **more: Any) -> Any:
        with usage_errors():
            return super().make_context(*args, **more)

    def invoke(self, ctx: Any) -> Any:
        with usage_errors(ctx):
            return super().invoke(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        known = super().get_command(ctx, cmd_name)
        return command_of(cmd_name) if known is None and cmd_name in brought() else known


app = typer.Typer(
    cls=Commands,
    help="How easily can binary codes be fooled? Attack, measure and report hashing retrieval.",
    epilog=epilog(""),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data", rich_help_panel=heading_of("data"))
app.add_typer(codes_app, name="codes", rich_help_panel=heading_of("codes"))
app.command("eval")(evaluate_codes)
app.command("list")(list_entries)
app.command()(lifelong)
app.command()(benchmark)
app.command()(certify)
app.command()(scan)
app.command()(poison)
app.command()(attack)
app.command()(compare)
app.command()(defend)
app.command()(detect)
app.command()(encode)
app.command("import")(import_model)
app.command()(invert)
app.command()(judge)
app.command("phase-chart")(phase_chart)
app.command()(report)
app.command()(train)
app.command()(transfer)
app.command()(evolve)
app.command("least-change", hidden=True)(least_change)  # `certify` of pdq and phash runs it
app.command("search", hidden=True)(evolve)  # its name until 0.1


def main() -> None:
    """Entry point. Exit codes: see `advhash.errors`; a bug keeps its traceback and exits with 1."""
    run_to_its_end(app)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        tell(f"advhash {__version__}")
        raise typer.Exit
    user_path(".")  # one that is gone would end libraries below with words of their own
    if process_count() > 1 and context.invoked_subcommand != "train":
        raise UsageError(
            f"torchrun starts {process_count()} processes, which only `advhash train` shares out: "
            "start this command alone"
        )


@app.command()
def doctor(as_json: Json = False) -> None:
    """Check this installation: packages, name clashes, cache, devices."""
    from advhash.cli.commands.doctor import examine
    from advhash.cli.console import print_json, print_rows

    findings = examine()
    if as_json:
        print_json({"schema": "advhash/doctor/1", "findings": findings})
    else:
        print_rows(("level", "subject", "message"), findings)
    if any(finding["level"] == "error" for finding in findings):
        raise typer.Exit(3)


for part, above in ((app, ""), (data_app, "data "), (codes_app, "codes ")):
    for registered in part.registered_commands:
        assert registered.callback is not None
        name = registered.name or registered.callback.__name__.replace("_", "-")
        registered.cls, registered.epilog = Command, epilog(above + name)
        registered.rich_help_panel = None if above else heading_of(name)
        registered.callback = placed(registered.callback)
