"""`advhash report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from advhash.cli.options import (
    Json,
)
from advhash.errors import UsageError


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Finished runs of any kind; files of `detect --out`.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The page to write.")] = Path("report.html"),
    tables_to: Annotated[
        Path | None,
        typer.Option("--tables", help="Also write its tables to this new folder: CSV and LaTeX."),
    ] = None,
    figures_to: Annotated[
        Path | None,
        typer.Option("--figures", help="Also write its figures to this new folder: SVG and PNG."),
    ] = None,
    as_json: Json = False,
) -> None:
    """One page over one or several runs, drawn again from their records, without a model."""
    from advhash.cli.console import print_json
    from advhash.registry import EXPERIMENTS
    from advhash.reports.page.exports import write_figures, write_tables
    from advhash.reports.page.render import render
    from advhash.storage.run_folder import refuse_partial

    for run in runs:
        refuse_partial(run)
    list(EXPERIMENTS.brought())  # their chapters
    for option, folder in (("--tables", tables_to), ("--figures", figures_to)):
        if folder is not None and folder.exists():
            raise UsageError(f"expected a new folder for {option}, got {folder}, which exists")
    places = [place.absolute() for place in (out, tables_to, figures_to) if place is not None]
    if len(set(places)) < len(places):
        raise UsageError("expected different places for --out, --tables and --figures")
    if len({run.absolute() for run in runs}) < len(runs):
        raise UsageError("expected every run once, got one twice")
    page = render(runs, out)
    document: dict[str, Any] = {"schema": "advhash/report/1", "report": str(out)}
    document["runs"] = [str(run) for run in runs]
    if tables_to is not None:
        document["tables"] = [str(file) for file in write_tables(page, tables_to)]
    if figures_to is not None:
        document["figures"] = [str(file) for file in write_figures(page, figures_to)]
    if as_json:
        print_json(document)
    else:
        sys.stdout.write(f"{out}\n")
