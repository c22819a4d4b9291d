"""`advhash search`: the strongest attack, or the best cell, with equals evaluated once.

Arms search at equal cost, each repeat with a cold cache: with the functional cache and without, and
over cells also with a cache by structure, at random and uphill.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from advhash.attacks.evolved.genome import Evolved
from advhash.compute.executor import check_executor, run_tasks
from advhash.data.dataset import Progress, silent
from advhash.errors import RunError, UsageError
from advhash.experiments.attack.record import budget_info, dataset_info, run_info
from advhash.experiments.config import DatasetConfig
from advhash.experiments.evolve.cell import (
    ARMS,
    CODE,
    SearchTask,
    forget_search,
    run_search,
    validation_range,
    victim_config,
)
from advhash.experiments.evolve.config import SearchConfig
from advhash.experiments.evolve.domain import Range
from advhash.experiments.evolve.figures import search_differences, search_flags, search_metrics
from advhash.experiments.evolve.winner import best_candidate, exported, on_held_out
from advhash.experiments.prepare.code_key import code_version, same_code
from advhash.experiments.prepare.hardened import prepare
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained, cache_identity
from advhash.experiments.prepare.victim import plan_victim
from advhash.functional.evolution import Strategy
from advhash.functional.nas import TABLE, CellDomain, read_table
from advhash.measures.intervals import mean_metric
from advhash.registry import VICTIMS
from advhash.reports.evolve import (
    SEARCH,
    Coarseness,
    HeldOut,
    NoiseStudy,
    SearchRecord,
    SearchResult,
)
from advhash.reports.page.render import render
from advhash.storage.cache import content_key
from advhash.storage.files import sha256, write_json
from advhash.storage.run_folder import RunFolder, environment, new_run_id

__all__ = ["DEFAULTS", "search"]

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "attack": {"population": 20, "tournament": 5, "seconds": 120.0, "repeats": 3, "bits": 24},
    "nas": {"population": 100, "tournament": 10, "seconds": 600.0, "repeats": 10, "bits": 14},
}
MOST = 50_000  # candidates, where hits cost nothing and time alone would never end
STUDIED_BITS = (1, 3, 5, 7, 9, 12, 14, 16, 18, 20, 24)
STUDIED = tuple(
    {"noise": noise, "max_num_evals": evaluations, "remove_probability": forgetting}
    for noise in (0.0, 0.01)
    for evaluations in (1, 3)
    for forgetting in (0.0, 0.1)
)


def search(
    config: SearchConfig, out: Path | None = None, progress: Progress = silent
) -> SearchRecord:
    """Search, judge what was found, and write the run folder (`out`, or `runs/<id>`).

    An interrupted run goes on when it is started again with the same `out`.

    Raises AdvhashError: a victim without images or gradients, a budget that attacks cannot take, a
    missing table of cells.
    """
    config = _resolved(config)
    seconds: dict[str, float] = {}
    began = time.perf_counter()
    place = other = None
    if config.domain == "nas":
        file = TABLE if config.table is None else Path(config.table)
        read_table(file)
        identity: dict[str, object] = {"table": sha256(file)}
    else:
        trained, rival = _victims(config, progress)
        place = validation_range(config, trained)
        other = rival
        identity = {"victims": [cache_identity(one) for one in (trained, rival)]}
    seconds["victims"] = time.perf_counter() - began
    folder = RunFolder.start_or_continue(
        out or Path("runs") / new_run_id(f"search-{config.domain}")
    )
    folder.identify(
        content_key({**identity, "config": config.to_toml(), "code": code_version(*CODE)})
    )
    try:
        folder.write_text("config.toml", config.to_toml())
        write_json(folder.path / "env.json", environment())
        record = _into(folder, config, place, other, seconds, progress)
        folder.write_text("metrics.json", record.dumps())
        render([folder.path], folder.path / "report.html")
        folder.finish()
    except BaseException as error:
        if folder.abandon() and not isinstance(error, RunError):
            error.add_note(
                f"finished searches are kept: the same command with --out {folder.final}"
            )
        raise
    return record


def _resolved(config: SearchConfig) -> SearchConfig:
    """Every default written out. Raises UsageError."""
    check_executor(config.executor)
    table = config.search
    missing = {
        name: value
        for name, value in DEFAULTS[config.domain].items()
        if getattr(table, name) is None
    }
    if table.candidates is not None and table.seconds is None:
        missing.pop("seconds", None)  # a number of candidates is a limit of its own
    if "tournament" in missing and table.population is not None:
        missing["tournament"] = min(missing["tournament"], table.population)
    if config.domain == "nas" and table.candidates is None:
        missing["candidates"] = MOST
    table = table.model_copy(update=missing)
    try:
        Strategy(population=table.population or 1, tournament=table.tournament or 1)
    except ValueError as error:
        raise UsageError(f"--set search.tournament: {error}") from None
    return config.model_copy(update={"search": table}).trusting(config.trust_code)


def _victims(config: SearchConfig, progress: Progress) -> tuple[Trained, Trained]:
    """The victim of the search and the other one, on the same data. Raises UsageError.

    What can be refused is refused before anything is trained.
    """
    attack = Evolved()
    attack.check_budget(config.budget.resolve(attack.default_budget))
    dataset: DatasetConfig | None = None
    prints, wanted = [], []
    here: list[Trained | None] = []  # those that come trained
    for table in (config.victim, config.other):
        wanted.append(victim_config(config, table, dataset))
        planned = plan_victim(wanted[-1])
        if planned is None:
            trained = prepare(wanted[-1], progress)
            here.append(trained)
            data, victim = trained.data, trained.victim
        else:
            here.append(None)
            data, victim = planned[0], VICTIMS.create(table.name, planned[1])
        attack.check_gradients(victim)
        victim.check_modality("image")
        prints.append(data.fingerprint())
        dataset = dataset or DatasetConfig.build({"name": data.name, **data.settings})
    if prints[0] != prints[1]:
        raise UsageError(
            f"expected victims of the same data: {config.other.name} sees other data than "
            f"{config.victim.name}"
        )
    _expect_another(config.victim.model_dump() != config.other.model_dump())
    trained, other = (one or prepare(two, progress) for one, two in zip(here, wanted, strict=True))
    _expect_another(not other.fingerprint or other.fingerprint != trained.fingerprint)
    return trained, other


def _expect_another(another: bool) -> None:
    if not another:
        raise UsageError(
            "other: expected a victim that no search uses, got the searched one; choose another "
            "name or setting, e.g. --set other.name=csq"
        )


def _arms(config: SearchConfig) -> list[str]:
    return list(ARMS) if config.domain == "nas" else ["cached", "uncached"]


def _into(
    folder: RunFolder,
    config: SearchConfig,
    place: Range | None,
    other: Trained | None,
    seconds: dict[str, float],
    progress: Progress,
) -> SearchRecord:
    table, boot = config.search, derive_seed(config.seed, "bootstrap")
    assert table.repeats is not None
    began = time.perf_counter()
    tasks = [
        SearchTask(config, arm, repeat) for repeat in range(table.repeats) for arm in _arms(config)
    ]
    documents = _done(folder, config, tasks, "searches", progress)
    results = [SearchResult(**one) for one in documents]
    seconds["searches"] = time.perf_counter() - began
    coarseness: list[Coarseness] = []
    noise: list[NoiseStudy] = []
    if config.domain == "nas":
        began = time.perf_counter()
        domain = CellDomain(
            read_table(None if config.table is None else Path(config.table)), keyed=table.keyed
        )
        coarseness = [Coarseness(**one) for one in domain.study(STUDIED_BITS)]
        noise = _noise(folder, config, boot, progress)
        seconds["studies"] = time.perf_counter() - began
    winner = best_candidate(results)
    held_out: list[HeldOut] = []
    if place is not None and other is not None and winner is not None:
        began = time.perf_counter()
        held_out = on_held_out(folder, config, place, other, winner, boot, progress)
        folder.write_text("winner.toml", exported(config, place, winner))
        seconds["held out"] = time.perf_counter() - began
    metrics = search_metrics(config.domain, results, boot)
    return SearchRecord(
        schema_=SEARCH,
        command="search",
        run=run_info(
            folder.final,
            config.seed,
            "cpu" if place is None else str(place.trained.victim.device),
            seconds,
        ),
        domain=config.domain,
        settings=config.model_dump(mode="json"),
        dataset=None if place is None else dataset_info(place.served.dataset),
        budget=None if place is None else budget_info(place.budget, eight_bit=True),
        flags=search_flags(results, metrics, held_out),
        metrics=metrics,
        differences=search_differences(config.domain, results, boot),
        results=results,
        coarseness=coarseness,
        noise=noise,
        held_out=held_out,
        winner=winner,
    )


def _done(
    folder: RunFolder,
    config: SearchConfig,
    tasks: Sequence[SearchTask],
    stage: str,
    progress: Progress,
) -> list[dict[str, Any]]:
    """The documents of all tasks. Inline, each is on disk once it is done; else all at once.

    States of searches over attacks go when all are.
    """
    if config.executor == "inline":
        found = []
        for done, task in enumerate(tasks):
            progress(stage, done, len(tasks))
            found.append(folder.json_part(task.key, partial(run_search, task)))
        progress(stage, len(tasks), len(tasks))
    else:
        found = folder.json_part(
            content_key([task.key for task in tasks]),
            lambda: run_tasks(
                config.executor, run_search, tasks, stage=stage, progress=progress, same=same_code
            ),
        )
    for task in tasks:
        forget_search(task)
    return list(found)


def _noise(
    folder: RunFolder, config: SearchConfig, boot: int, progress: Progress
) -> list[NoiseStudy]:
    repeats = config.search.repeats or 1
    tasks = [
        SearchTask(config, "cached", repeat, **one)  # type: ignore[arg-type]
        for one in STUDIED
        for repeat in range(repeats)
    ]
    documents = _done(folder, config, tasks, "study of noise", progress)
    studies = []
    for number, one in enumerate(STUDIED):
        mine = documents[number * repeats : (number + 1) * repeats]
        studies.append(
            NoiseStudy(
                noise=one["noise"],
                max_num_evals=int(one["max_num_evals"]),
                remove_probability=one["remove_probability"],
                quality=mean_metric([doc["figures"].get("mean", np.nan) for doc in mine], boot),
                claimed=mean_metric([doc["figures"].get("fitness", np.nan) for doc in mine], boot),
                candidates=mean_metric([doc["candidates"] for doc in mine], boot),
            )
        )
    return studies
