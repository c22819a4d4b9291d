"""Searches of a suite: items planted in stores, by the cells of `advhash poison`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, ClassVar

from advhash.attacks.poisoning.base import Poisoning
from advhash.errors import UsageError, counted
from advhash.experiments.benchmark.config import SearchGridConfig, SuiteConfig
from advhash.experiments.config import DatasetConfig, MethodConfig
from advhash.experiments.config_text import method_label
from advhash.experiments.experiment import Missing, Part
from advhash.experiments.poison.config import PoisonConfig
from advhash.experiments.poison.run import (
    MATERIAL,
    Cells,
    CleanSearch,
    PoisonPlan,
    figures_of_shares,
    planned,
)
from advhash.registry import POISONINGS
from advhash.reports.benchmark import CellInfo, SearchRow
from advhash.storage.cache import content_key
from advhash.storage.cells import Result

EMBEDDED = {"dataset", "quantise", "bits", "modality", "known", "unseen", "seed"}


@dataclass(frozen=True)
class SearchCell:
    """One search of a store, as it was or with planted items."""

    search: Cells

    kind: ClassVar[str] = "poison"

    @property
    def key(self) -> str:
        return self.search.key

    @property
    def names(self) -> tuple[str, ...]:
        return self.search.names

    @property
    def parts(self) -> tuple[str, ...]:
        return (self.search.material,)


@dataclass(frozen=True)
class PlannedSearches:
    """A run of `advhash poison` that a suite holds, and how tables name what it is made of."""

    plan: PoisonPlan
    dataset: str
    quantiser: str
    method: str
    store: str


def plan_searches(
    suite: SuiteConfig, device: str, threads: int, parts: dict[str, Part]
) -> list[PlannedSearches]:
    """All searches, each checked; their embeddings are added to the parts of the suite.

    Raises UsageError for a search that cannot be: it names it; and for different ones that tables
    would call the same.
    """
    runs: dict[tuple[str, ...], PlannedSearches] = {}
    for grid in suite.searches:
        for choice in product(
            grid.datasets, grid.quantisers, grid.poisonings, grid.stores, grid.rescorers
        ):
            made = _planned(suite, device, threads, grid, *choice)
            parts.setdefault(made.plan.cells[0].material, made.plan.parts[MATERIAL])
            names = (made.dataset, made.quantiser, made.method, made.store)
            before = runs.setdefault(names, made)
            if [cell.key for cell in before.plan.cells] != [cell.key for cell in made.plan.cells]:
                raise UsageError(
                    f"two different searches are both called {', '.join(names)}: put them into "
                    "suites of their own"
                )
    return list(runs.values())


def _planned(
    suite: SuiteConfig,
    device: str,
    threads: int,
    grid: SearchGridConfig,
    dataset: DatasetConfig,
    quantiser: MethodConfig,
    attack: MethodConfig,
    store: MethodConfig,
    rescorer: MethodConfig,
) -> PlannedSearches:
    stages = [] if rescorer.name == "none" else [rescorer]
    served = ", ".join(map(method_label, [store, *stages]))
    names = (method_label(dataset), method_label(quantiser), method_label(attack), served)
    method: Poisoning = POISONINGS.create(attack.name, attack.settings)
    config = PoisonConfig(
        seed=suite.seed,
        device=device,
        dataset=dataset,
        quantise=quantiser,
        attack=attack,
        store=store,
        rescore=stages,
        share=grid.shares,
        known=grid.known,
        unseen=grid.unseen,
        restarts=1 if method.single else suite.attack_seeds,
    )
    try:
        plan = planned(config.trusting(suite.trust_code), threads)
    except UsageError as error:
        raise UsageError(f"{', '.join(names)}: {error}") from None
    embedded = plan.config.model_dump(mode="json", include=EMBEDDED)
    material = f"embeddings {content_key(embedded)}"
    cells = [replace(cell, material=material) for cell in plan.cells]
    return PlannedSearches(replace(plan, cells=cells), *names)


def search_cells(searches: list[PlannedSearches]) -> list[SearchCell]:
    """The cells of all searches, each once: attacks share the search of a store as it was."""
    cells = (cell for run in searches for cell in run.plan.cells)
    return list({cell.key: SearchCell(cell) for cell in cells}.values())


def search_rows(
    searches: list[PlannedSearches], results: Mapping[str, Result | Missing]
) -> tuple[list[SearchRow], list[CellInfo]]:
    """Figures of every search whose cells are all finished, and what became of each cell."""
    rows, infos = list[SearchRow](), dict[str, CellInfo]()
    for run in searches:
        done = list[Result]()
        for cell in run.plan.cells:
            result = results[cell.key]
            infos.setdefault(cell.key, _info(run, cell, result))
            if isinstance(result, Result):
                done.append(result)
        if len(done) < len(run.plan.cells):
            continue
        rows += [
            SearchRow(
                dataset=run.dataset,
                quantiser=run.quantiser,
                method=run.method,
                store=run.store,
                items=at.items,
                documents=run.plan.documents,
                runs=run.plan.config.restarts,
                metrics=at.metrics,
            )
            for at in figures_of_shares(run.plan, done)
        ]
    return rows, list(infos.values())


def _info(run: PlannedSearches, cell: Cells, result: Result | Missing) -> CellInfo:
    method, items, seed = "none", 0, 0
    if not isinstance(cell, CleanSearch):
        method, items, seed = run.method, cell.items, cell.restart
    outcome: dict[str, Any]
    if isinstance(result, Missing):
        outcome = {"status": result.status, "message": result.message, "trace": result.trace}
    else:
        seconds = sum(result.document["seconds"].values())
        outcome = {"status": "done", "seconds": round(seconds, 3)}
    return CellInfo(
        key=cell.key,
        dataset=run.dataset,
        victim=f"{run.quantiser}, {run.store}",
        method=method,
        budget=counted(items, "item"),
        victim_seed=None,
        attack_seed=seed,
        **outcome,
    )
