"""`advhash compare`: two runs query by query, with thresholds for continuous integration."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from advhash.cli.console import FIGURE, print_rows
from advhash.cli.options import Json
from advhash.cli.terminal import tell

if TYPE_CHECKING:
    from advhash.experiments.compare import Comparison


def compare(
    first: Annotated[Path, typer.Argument(help="A finished run, e.g. of the release before.")],
    second: Annotated[Path, typer.Argument(help="The run that it is compared with.")],
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-under",
            metavar="METRIC=VALUE",
            help="Exit 4 where this figure of the second run is lower.",
        ),
    ] = None,
    fail_over: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-over",
            metavar="METRIC=VALUE",
            help="Exit 4 where this figure of the second run is higher.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Paired differences of two attack runs on the same queries: second − first."""
    from advhash.storage.run_folder import expect_finished

    for run in (first, second):
        expect_finished(run)

    from advhash.cli.console import print_json
    from advhash.experiments.compare import (
        check_names,
        check_thresholds,
        compare_runs,
        parse_threshold,
    )

    thresholds = [parse_threshold(text, "under") for text in fail_under or []]
    thresholds += [parse_threshold(text, "over") for text in fail_over or []]
    comparison = compare_runs(first, second)
    check_names(comparison.second, thresholds)
    if as_json:
        print_json(comparison.document())
    else:
        print_comparison(comparison)
    check_thresholds(comparison.second, thresholds)


def print_comparison(comparison: Comparison) -> None:
    """The paired differences of two runs."""
    from advhash.reports.elements.numbers import written

    tell(comparison.title)
    rows = [
        {
            "metric": name,
            FIGURE: written(name, difference, difference=True),
            "p": "" if difference.p is None else f"{difference.p:.4f}",
        }
        for name, difference in comparison.differences.items()
    ]
    print_rows(("metric", FIGURE, "p"), rows)
    for note in comparison.notes:
        tell(f"note: {note}")
