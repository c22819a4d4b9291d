"""`advhash benchmark`: the cells of a suite through an executor, then one record and one page.

What is finished lies in the cache, cell by cell: a killed suite goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from advhash.experiments.attack.record import score_columns
from advhash.experiments.attack.run import AttackExperiment
from advhash.experiments.benchmark.config import SuiteConfig
from advhash.experiments.benchmark.leaderboard import Sample
from advhash.experiments.benchmark.record import FinishedCell, suite_record
from advhash.experiments.benchmark.searches import SearchCell, search_cells, search_rows
from advhash.experiments.benchmark.shown import best_change, shown_standings
from advhash.experiments.benchmark.suite import THREADS, Suite, SuiteCell, plan_suite
from advhash.experiments.experiment import Experiment, Missing, Place, Plan
from advhash.experiments.prepare.planned import PlannedVictim
from advhash.measures.paired_runs import Queries
from advhash.registry import ATTACKS, EXPERIMENTS
from advhash.reports.benchmark import BenchmarkRecord
from advhash.reports.record import TARGETED_METRICS, Record
from advhash.storage.cells import Result

PICTURES = ("moved",)  # of a cell: not kept, as figures alone are compared


@dataclass(frozen=True, kw_only=True)
class BenchmarkPlan(Plan[SuiteConfig, SuiteCell | SearchCell]):
    """The suite whose cells these are."""

    suite: Suite


@EXPERIMENTS.register("benchmark", source="the suites of advhash")
class Benchmark(Experiment[SuiteConfig, SuiteCell | SearchCell, BenchmarkPlan, BenchmarkRecord]):
    """Victims × defences × attacks × budgets × data sets × seeds, ranked; stores, side by side.

    A cell is one attack run, or one search; one that fails costs no other: the record names it.
    """

    name, config, record = "benchmark", SuiteConfig, BenchmarkRecord
    code = ("stores", "experiments.attack", "experiments.poison", "experiments.benchmark")
    keeps_going = True
    stage = "attacks"

    def plan(self, config: SuiteConfig) -> BenchmarkPlan:
        suite = plan_suite(config)
        victims = [name for name, part in suite.parts.items() if isinstance(part, PlannedVictim)]
        learnt = {cell.attack.fit for cell in suite.cells if _trains(cell)}
        return BenchmarkPlan(
            config=suite.config,
            cells=[*suite.cells, *search_cells(suite.searches)],
            parts=suite.parts,
            stages=[victims, sorted(learnt)],
            threads=THREADS,
            label=f"benchmark-{config.name}",
            shown={"name": config.name},
            suite=suite,
        )

    def compute(self, cell: SuiteCell | SearchCell, place: Place) -> Result:
        if isinstance(cell, SearchCell):
            return cell.search.compute(place)
        result = AttackExperiment().compute(cell.attack, place)
        tensors = {name: tensor for name, tensor in result.tensors.items() if name not in PICTURES}
        return Result(result.document, tensors | best_change(cell, result, place))

    def judge(
        self, plan: BenchmarkPlan, results: Sequence[Result | Missing], place: Place
    ) -> BenchmarkRecord:
        missing, finished = dict[str, Missing](), dict[str, FinishedCell]()
        kept: list[tuple[SuiteCell, Result]] = []
        searched = dict[str, Result | Missing]()
        for done, (cell, result) in enumerate(zip(plan.cells, results, strict=True)):
            if isinstance(cell, SearchCell):
                searched[cell.key] = result
            elif isinstance(result, Missing):
                missing[cell.key] = result
            else:
                kept.append((cell, result))
                attacked = Record.from_document(result.document)
                sample = Sample(cell.victim_seed, cell.attack_seed, _queries(attacked, result))
                finished[cell.key] = FinishedCell(cell, attacked, sample)
            place.progress("reading cells", done + 1, len(plan.cells))
        searches = search_rows(plan.suite.searches, searched)
        record = suite_record(plan.suite, missing, finished, searches, place)
        shown = shown_standings(record.victims, kept, place.folder)
        return record.model_copy(update={"shown_changes": shown})


def _trains(cell: SuiteCell) -> bool:
    return bool(ATTACKS[cell.config.attack.name].build.trains)  # type: ignore[attr-defined]


def _queries(record: Record, result: Result) -> Queries:
    """The figures of a cell query by query."""
    names, targets = ["map", "map_adversarial", "map_chance"], None
    if "targets" in result.tensors:
        names += TARGETED_METRICS[:4]
        targets = [row.nonzero().flatten().tolist() for row in result.tensors["targets"]]
    columns = score_columns(result.tensors)[record.protocol.database]
    rows = result.tensors["rows"].numpy()
    return Queries(rows, targets, {name: columns[name] for name in names})
