"""The record of a suite: figures over seeds, leaderboards, and the flags that go with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from advhash.experiments.attack.record import run_info
from advhash.experiments.benchmark.leaderboard import Sample, mean_over, overall, ranks, summary
from advhash.experiments.benchmark.suite import Suite, SuiteCell
from advhash.experiments.experiment import Missing, Place
from advhash.experiments.prepare.victim import is_checkpoint
from advhash.measures.sanity import Flag
from advhash.reports.benchmark import (
    BENCHMARK,
    BenchmarkRecord,
    CellInfo,
    Method,
    Row,
    SearchRow,
    Standing,
)
from advhash.reports.headline import HEADLINES
from advhash.reports.record import Record


@dataclass(frozen=True)
class FinishedCell:
    """A finished cell with what its run says."""

    cell: SuiteCell
    record: Record
    sample: Sample


def suite_record(
    suite: Suite,
    missing: Mapping[str, Missing],
    read: Mapping[str, FinishedCell],
    searches: tuple[list[SearchRow], list[CellInfo]],
    place: Place,
) -> BenchmarkRecord:
    """What a suite found.

    missing: why cells gave nothing; read: those that are finished; searches: see `search_rows`
    """
    infos, done = [], [read[cell.key] for cell in suite.cells if cell.key in read]
    for cell in suite.cells:
        gone, figures, spent = missing.get(cell.key), {}, None
        if cell.key in read:
            record = read[cell.key].record
            figures = {name: metric.value for name, metric in record.metrics.items() if metric}
            spent = sum(record.run.seconds.values())
        infos.append(
            CellInfo(
                key=cell.key,
                dataset=cell.dataset,
                victim=cell.victim,
                method=cell.method,
                budget=cell.budget,
                victim_seed=cell.victim_seed,
                attack_seed=cell.attack_seed,
                status="done" if gone is None else gone.status,
                seconds=None if spent is None else round(spent, 3),
                figures=figures,
                message="" if gone is None else gone.message,
                trace="" if gone is None else gone.trace,
            )
        )
    infos += searches[1]
    config = suite.config
    groups: dict[tuple[str, str, str], dict[str, dict[str, list[FinishedCell]]]] = {}
    for run in done:
        cell = run.cell
        place_ = groups.setdefault((cell.dataset, cell.budget, cell.goal), {})
        place_.setdefault(cell.victim, {}).setdefault(cell.method, []).append(run)
    rows: list[Row] = []
    methods: list[Method] = []
    victims: list[Standing] = []
    for done_groups, (key, table) in enumerate(groups.items()):
        here = _rows(key, table)
        rows += here
        methods += _methods(key, table)
        victims += _standings(key, table, here)
        place.progress("comparing", done_groups + 1, len(groups))
    return BenchmarkRecord(
        schema_=BENCHMARK,
        command="benchmark",
        run=run_info(place.final, config.seed, config.device, {"all": place.seconds["all"]}),
        name=config.name,
        suite=config.model_dump(mode="json"),
        executor=place.executor,
        report=str(place.final / "report.html"),
        failed=[info.key for info in infos if info.status == "failed"],
        left=[info.key for info in infos if info.status == "left"],
        flags=[*seed_flags(suite), *_unequal(groups), *_raised(done)],
        rows=rows,
        methods=methods,
        victims=victims,
        searches=searches[0],
        knowledge={run.cell.method: run.record.attack.knowledge for run in done},
        data={run.cell.dataset: run.record.dataset.fingerprint for run in done},
        deviations=_deviations(done),
        attributions=sorted({run.record.dataset.attribution for run in done} - {""}),
        cells=infos,
    )


def seed_flags(suite: Suite) -> list[Flag]:
    """What no interval covers."""
    config, flags = suite.config, []
    once = {
        cell.victim: None
        for cell in suite.cells
        if is_checkpoint(cell.config.victim.name)  # hardened anew for each seed, or not
        or (cell.victim_seed is None and cell.config.victim.seed is not None)
    }
    if config.victim_seeds == 1:
        once |= {cell.victim: None for cell in suite.cells if cell.victim_seed is not None}
    if once:
        message = f"{', '.join(once)}: one training each, so no interval covers another one."
        flags.append(Flag("one_training", "warning", message))
    if config.attack_seeds == 1:
        message = (
            "One seed of the attacks: no interval covers other targets or an attack trained anew."
        )
        flags.append(Flag("one_attack_seed", "warning", message))
    return flags


def _raised(done: Sequence[FinishedCell]) -> list[Flag]:
    """One flag for each kind that runs raised, in the words of the first run."""
    first: dict[tuple[str, str], tuple[SuiteCell, Flag]] = {}
    counts: Counter[tuple[str, str]] = Counter()
    for run in done:
        kinds = {(flag.name, flag.level): flag for flag in run.record.flags}
        counts.update(kinds.keys())
        for kind, flag in kinds.items():
            first.setdefault(kind, (run.cell, flag))
    return [
        Flag(
            flag.name,
            flag.level,
            f"{counts[kind]} of {len(done)} runs (see the tables), the first {cell.method} on "
            f"{cell.victim}, {cell.dataset}, {cell.budget}: {flag.message}",
        )
        for kind, (cell, flag) in first.items()
    ]


def _deviations(done: Sequence[FinishedCell]) -> dict[str, list[str]]:
    """Victims with their defences, and attacks; each once, whatever the settings."""
    deviations: dict[str, dict[str, None]] = {}
    for run in done:
        for name, info in (
            (run.record.victim.label, run.record.victim),
            (run.record.attack.name, run.record.attack),
        ):
            if info.deviations:
                deviations.setdefault(name, {}).update(dict.fromkeys(info.deviations))
    return {name: list(texts) for name, texts in deviations.items()}


Setting = tuple[str, str, Any]  # data set, budget, goal
Table = Mapping[str, Mapping[str, Sequence[FinishedCell]]]  # victim → method → cells


def _samples(done: Sequence[FinishedCell]) -> list[Sample]:
    return [run.sample for run in done]


def _rows(key: Setting, table: Table) -> list[Row]:
    dataset, budget, goal = key
    rows = []
    for victim, by_method in table.items():
        order = ranks(
            {method: [_samples(done)] for method, done in by_method.items()},
            goal,
            strongest=True,
        )
        for method, done in by_method.items():
            spent = done[0].record.budget
            rows.append(
                Row(
                    dataset=dataset,
                    victim=victim,
                    method=method,
                    budget=budget,
                    norm=spent.norm,
                    eps=spent.eps,
                    goal=goal,
                    cells=len(done),
                    rank=order[method],
                    metrics=summary(_samples(done), goal),
                    flags=dict(
                        Counter(
                            name
                            for run in done
                            for name in {flag.name: None for flag in run.record.flags}
                        )
                    ),
                )
            )
    return sorted(rows, key=lambda row: row.rank)


def _methods(key: Setting, table: Table) -> list[Method]:
    """Each attack over the victims that all of them were made on."""
    dataset, budget, goal = key
    names = list(dict.fromkeys(method for by_method in table.values() for method in by_method))
    victims = [victim for victim, by_method in table.items() if set(by_method) == set(names)]
    if not victims or len(names) < 2:
        return []
    entries = {method: [_samples(table[victim][method]) for victim in victims] for method in names}
    order = ranks(entries, goal, strongest=True)
    methods = [
        Method(
            dataset=dataset,
            budget=budget,
            goal=goal,
            method=method,
            victims=victims,
            rank=order[method],
            main=mean_over(overall(samples, HEADLINES[goal].main)),
        )
        for method, samples in entries.items()
    ]
    return sorted(methods, key=lambda entry: entry.rank)


def _unequal(groups: Mapping[Setting, Table]) -> list[Flag]:
    """Victims that faced fewer attacks than those beside which they stand."""
    places: dict[tuple[str, str, str], list[str]] = {}
    for (dataset, budget, goal), table in groups.items():
        all_methods = {method for by_method in table.values() for method in by_method}
        for victim, by_method in table.items():
            if missing := all_methods - set(by_method):
                where = f"{dataset}, {goal}"
                faced = f"{len(by_method)} of {len(missing) + len(by_method)} attacks"
                places.setdefault((victim, where, faced), []).append(budget)
    return [
        Flag(
            "fewer_attacks",
            "warning",
            f"{victim} faced {faced} ({where}, {', '.join(budgets)}): under the others it could "
            "stand lower among the victims.",
        )
        for (victim, where, faced), budgets in places.items()
    ]


def _standings(key: Setting, table: Table, rows: Sequence[Row]) -> list[Standing]:
    """Each victim under the attack whose mean moves it most."""
    dataset, budget, goal = key
    main, sign = HEADLINES[goal].main, HEADLINES[goal].sign
    worst: dict[str, Row] = {}
    for row in rows:
        value = row.metrics[main].value
        if value is None:
            continue
        held = worst.get(row.victim)
        if held is None or sign * value > sign * float(held.metrics[main].value or 0):
            worst[row.victim] = row
    order = ranks(
        {victim: [_samples(table[victim][row.method])] for victim, row in worst.items()},
        goal,
        strongest=False,
    )
    entries = [
        Standing(
            dataset=dataset,
            budget=budget,
            goal=goal,
            victim=victim,
            method=row.method,
            rank=order[victim],
            metrics=row.metrics,
        )
        for victim, row in worst.items()
    ]
    return sorted(entries, key=lambda entry: entry.rank)
