"""What a leaderboard shows of its victims: the query on which their strongest attack works best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from advhash.data.images.mixed import one_picture, to_unit
from advhash.experiments.attack.changes import Change, write_change
from advhash.experiments.attack.columns import PRECISIONS
from advhash.experiments.attack.examples import choose_examples
from advhash.experiments.attack.record import Outcome, score_columns
from advhash.experiments.attack.run import seen_by
from advhash.experiments.benchmark.suite import SuiteCell
from advhash.experiments.experiment import Place
from advhash.reports.benchmark import BenchmarkShown, Standing
from advhash.storage.cells import Result

SHOWN, FIGURES = "shown", "shown figures"  # tensors of a cell
VICTIMS = 4  # on a page, three pictures each


def best_change(cell: SuiteCell, result: Result, place: Place) -> dict[str, Tensor]:
    """`Change.images` of the query on which an attack works best; {}: nothing of pictures moved.

    With its linf and l2, and its average precision before and after.
    """
    config, trained = seen_by(cell.attack, False, place)
    if config.protocol.query_modality != "image":
        return {}
    outcome = Outcome.from_tensors(result.tensors, trained.data.query, "image")
    columns = score_columns(result.tensors)[str(config.protocol.database)]
    before, after = (columns[name] for name in PRECISIONS[cell.goal])
    gained = after - before if cell.goal == "targeted" else before - after
    best = choose_examples(gained, 1).tolist()
    if not best:
        return {}
    images = (to_unit(one_picture(side, best[0])) for side in (outcome.clean, outcome.moved))
    change = Change.of_tensors(*images)
    figures = [change.linf, change.l2, before[best[0]], after[best[0]]]
    return {SHOWN: change.images, FIGURES: torch.tensor(figures, dtype=torch.float64)}


def shown_standings(
    standings: Sequence[Standing], finished: Sequence[tuple[SuiteCell, Result]], folder: Path
) -> list[BenchmarkShown]:
    """The first victims under their strongest attacks, of their first seeds, pictures written.

    Raises StorageError.
    """
    shown: list[BenchmarkShown] = []
    for standing in standings:
        own = [
            result
            for cell, result in finished
            if SHOWN in result.tensors
            and (cell.dataset, cell.victim, cell.method, cell.budget, cell.goal)
            == (
                *(standing.dataset, standing.victim, standing.method),
                *(standing.budget, standing.goal),
            )
        ]
        if not own or len(shown) == VICTIMS:
            continue
        linf, l2, before, after = own[0].tensors[FIGURES].tolist()
        shown.append(
            BenchmarkShown(
                name=standing.victim,
                linf=int(linf),
                l2=l2,
                files=write_change(folder, str(len(shown)), own[0].tensors[SHOWN]),
                dataset=standing.dataset,
                victim=standing.victim,
                method=standing.method,
                budget=standing.budget,
                goal=standing.goal,
                before=before,
                after=after,
            )
        )
    return shown
