"""`advhash evolve`, from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from advhash.cli.console import print_end, print_lead, print_metrics
from advhash.cli.execute import UNHARDENED, experiment
from advhash.cli.options import DatasetName, Norm, Sets, Targets, Victim
from advhash.cli.terminal import tell

if TYPE_CHECKING:
    from advhash.reports.evolve import SearchRecord


READ_FIRST = ("best_fitness", "best_fitness_uncached", "best_gain", "speedup", "false_hit_rate")


def print_search(record: SearchRecord, every: bool) -> None:
    """Headline of a search, its verdicts, and where winner and report are."""
    from advhash.reports.evolve import verdicts

    repeats = len(record.of("cached"))
    tell(f"search over {record.domain}, {repeats} repeats")
    print_lead(verdicts(record), every=every)
    print_metrics({**record.metrics, **record.differences}, first=READ_FIRST, every=every)
    winner = [f"winner: {record.run.folder}/winner.toml"] if record.held_out else []
    print_end(record, *winner)


@experiment("evolve", show=print_search, names={"victim": "dpsh", "other": "csq"}, hint=UNHARDENED)
def evolve(
    domain: Annotated[
        str | None, typer.Option("--domain", help="attack or nas: what is searched.")
    ] = None,
    algorithm: Annotated[
        str | None,
        typer.Option("--algorithm", help="evolution, random or hill-climbing."),
        Sets("search.algorithm"),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", help="Length of each search. (default: 120; nas: 600 simulated)"),
        Sets("search.seconds"),
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option("--candidates", help="Most candidates of each search."),
        Sets("search.candidates"),
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option("--repeats", help="Each with a cold cache. (default: 3; nas: 10)"),
        Sets("search.repeats"),
    ] = None,
    table: Annotated[
        Path | None, typer.Option("--table", help="nas: a file of benchmarks/nas_table.py.")
    ] = None,
    victim: Victim = None,
    other: Annotated[
        str | None,
        typer.Option("--other", help="A victim that no search uses. (default: csq)"),
        Sets("other.name"),
    ] = None,
    dataset: DatasetName = None,
    norm: Norm = None,
    eps: Annotated[
        str | None, typer.Option("--eps", help="e.g. 8/255. (default: 8/255)"), Sets("budget.eps")
    ] = None,
    targets: Targets = None,
) -> dict[str, Any]:
    """Search for the strongest attack, or the best cell, and evaluate equals once.

    Compared at equal cost with the same search without a cache.
    """
    return {"table": None if table is None else str(table)}
