"""`advhash report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from advhash.cli.options import (
    Json,
)
from advhash.cli.terminal import tell
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
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns",
            metavar="FIGURE,…",
            help="Write the columns of these figures alone, e.g. tmap,psnr.",
        ),
    ] = None,
    width: Annotated[
        Literal["one", "two"],
        typer.Option("--width", help="Columns of a page that the LaTeX of --tables spans."),
    ] = "one",
    figures_to: Annotated[
        Path | None,
        typer.Option("--figures", help="Also write its figures to this new folder: SVG and PNG."),
    ] = None,
    no_pictures: Annotated[
        bool,
        typer.Option("--no-pictures", help="Leave out pictures of the data; file names stay."),
    ] = False,
    as_json: Json = False,
) -> None:
    """One page over one or several runs, drawn again from their records, without a model."""
    from advhash.storage.run_folder import expect_finished

    for run in runs:
        expect_finished(run)
    for option, folder in (("--tables", tables_to), ("--figures", figures_to)):
        if folder is not None and folder.exists():
            raise UsageError(f"expected a new folder for {option}, got {folder}, which exists")
    if columns is not None and tables_to is None:
        raise UsageError("--columns goes with --tables FOLDER")
    places = [place.absolute() for place in (out, tables_to, figures_to) if place is not None]
    if len(set(places)) < len(places):
        raise UsageError("expected different places for --out, --tables and --figures")
    if len({run.absolute() for run in runs}) < len(runs):
        raise UsageError("expected every run once, got one twice")

    from advhash.cli.console import print_json
    from advhash.registry import EXPERIMENTS
    from advhash.reports.page.exports import expect_figures, write_figures, write_tables
    from advhash.reports.page.render import render

    list(EXPERIMENTS.brought())  # their chapters
    chosen = [name.strip() for name in (columns or "").split(",") if name.strip()]
    page = render(
        runs,
        out,
        pictures=not no_pictures,
        check=lambda drawn: expect_figures(drawn, chosen),
    )
    document: dict[str, Any] = {"schema": "advhash/report/1", "report": str(out)}
    document["runs"] = [str(run) for run in runs]
    if tables_to is not None:
        document["tables"] = [
            str(file) for file in write_tables(page, tables_to, columns=chosen, width=width)
        ]
    if figures_to is not None:
        document["figures"] = [str(file) for file in write_figures(page, figures_to)]
    if as_json:
        print_json(document)
    else:
        tell(str(out))
