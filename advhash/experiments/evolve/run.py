"""`advhash evolve`: the strongest attack, or the best cell, with equals evaluated once.

Arms search at equal cost, each repeat with a cold cache: with the functional cache and without, and
over cells also with a cache by structure, at random and uphill.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from advhash.attacks.evolved.genome import Evolved
from advhash.data.dataset import SplitName
from advhash.errors import UsageError
from advhash.experiments.attack.record import budget_info, dataset_info, run_info
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
from advhash.experiments.evolve.domain import Range, drawn_targets
from advhash.experiments.evolve.figures import search_differences, search_flags, search_metrics
from advhash.experiments.evolve.winner import best_candidate, exported, on_held_out
from advhash.experiments.experiment import Experiment, Part, Place, Plan
from advhash.experiments.prepare.planned import PlannedVictim
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.victim import check_place
from advhash.functional.evolution import Strategy
from advhash.functional.nas import TABLE, CellDomain, read_table
from advhash.measures.intervals import mean_metric
from advhash.registry import EXPERIMENTS
from advhash.reports.evolve import (
    SEARCH,
    Coarseness,
    HeldOut,
    NoiseStudy,
    SearchRecord,
    SearchResult,
)
from advhash.storage.cache import content_key
from advhash.storage.cells import Result
from advhash.storage.files import sha256, write_text
from advhash.storage.places import user_path

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


SPLITS: tuple[tuple[SplitName, str, str], ...] = (  # split, setting of its count, name of its seed
    ("validation", "queries", "validation"),
    ("query", "held_out", "held out"),
)


@dataclass(frozen=True, kw_only=True)
class EvolvePlan(Plan[SearchConfig, SearchTask]):
    """The searches that are compared, before those of the study of noise.

    searches: how many of the cells are compared
    """

    searches: int


@EXPERIMENTS.register("evolve", source="Gillard et al., 2023 (arXiv 2302.05433)")
class Evolve(Experiment[SearchConfig, SearchTask, EvolvePlan, SearchRecord]):
    """The strongest attack, or the best cell, by evolution that evaluates equals once."""

    name, config, record, code = "evolve", SearchConfig, SearchRecord, CODE
    lasts = False
    stage = "searches"

    def plan(self, config: SearchConfig) -> EvolvePlan:
        config = _resolved(config)
        parts: dict[str, Part] = {}
        if config.domain == "nas":
            _expect_no_victims(config)
            file = TABLE if config.table is None else user_path(config.table)
            read_table(file)
            inputs = sha256(file)
        else:
            victims = _victims(config)
            parts = {"victim": victims[0], "other": victims[1]}
            inputs = content_key([victim.identity for victim in victims])
        repeats = config.search.repeats
        assert repeats is not None
        searches = [
            SearchTask(config, arm, repeat, inputs)
            for repeat in range(repeats)
            for arm in _arms(config)
        ]
        study = []
        if config.domain == "nas":
            study = [
                SearchTask(config, "cached", repeat, inputs, **study)  # type: ignore[arg-type]
                for study in STUDIED
                for repeat in range(repeats)
            ]
        return EvolvePlan(
            config=config,
            cells=[*searches, *study],
            parts=parts,
            label=f"evolve-{config.domain}",
            shown={"domain": config.domain, "search": config.search.model_dump(mode="json")},
            searches=len(searches),
        )

    def compute(self, cell: SearchTask, place: Place) -> Result:
        return Result(run_search(cell))

    def judge(self, plan: EvolvePlan, results: Sequence[Result], place: Place) -> SearchRecord:
        documents = [result.document for result in results]
        record = _record(plan, documents, place)
        for task in plan.cells:
            forget_search(task)
        return record


def _resolved(config: SearchConfig) -> SearchConfig:
    """Every default written out. Raises UsageError."""
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
    return config.model_copy(update={"search": table})


def _victims(config: SearchConfig) -> tuple[PlannedVictim, PlannedVictim]:
    """The victim of the search and the other one, on the same data. Raises UsageError.

    What can be refused is refused before anything is trained.
    """
    attack = Evolved()
    attack.check_budget(config.budget.resolve(attack.default_budget))
    dataset, planned = config.dataset, list[PlannedVictim]()
    for table in (config.victim, config.other):
        known = PlannedVictim.of(victim_config(config, table, dataset))
        known.data.expect_one_size("advhash evolve")
        check_place(config.dataset, known.victim)
        attack.check_gradients(known.victim)
        known.victim.check_modality("image")
        dataset = known.dataset
        planned.append(known)
    victim, other = planned
    if victim.data.fingerprint() != other.data.fingerprint():
        raise UsageError(
            f"expected victims of the same data: {config.other.name} sees other data than "
            f"{config.victim.name}"
        )
    _expect_another(config.victim.model_dump() != config.other.model_dump())
    _expect_another(victim.identity != other.identity)
    for split, setting, name in SPLITS:  # refuses queries for which no target is left
        seed, count = derive_seed(config.seed, name), getattr(config.search, setting)
        drawn_targets(victim.data, split, count, rule=config.targets, seed=seed)
    return victim, other


def _expect_no_victims(config: SearchConfig) -> None:
    """Raise UsageError for a victim, a data set or a budget: a table judges cells."""
    plain = SearchConfig(domain="nas")
    for name in ("victim", "other", "dataset", "budget", "targets"):
        if getattr(config, name) != getattr(plain, name):
            raise UsageError(
                f"--domain nas: expected no {name}, as a table judges cells; "
                "leave it out, or take --domain attack"
            )


def _expect_another(another: bool) -> None:
    if not another:
        raise UsageError(
            "other: expected a victim that no search uses, got the searched one; choose another "
            "name or setting, e.g. --set other.name=csq"
        )


def _arms(config: SearchConfig) -> list[str]:
    return list(ARMS) if config.domain == "nas" else ["cached", "uncached"]


def _record(plan: EvolvePlan, documents: Sequence[dict[str, Any]], place: Place) -> SearchRecord:
    config, boot = plan.config, derive_seed(plan.config.seed, "bootstrap")
    results = [SearchResult(**document) for document in documents[: plan.searches]]
    place.seconds["searches"] = place.seconds["all"]
    coarseness: list[Coarseness] = []
    noise: list[NoiseStudy] = []
    held_out: list[HeldOut] = []
    where: Range | None = None
    winner = best_candidate(results)
    if config.domain == "nas":
        with place.timed("studies"):
            table = read_table(None if config.table is None else user_path(config.table))
            domain = CellDomain(table, keyed=config.search.keyed)
            coarseness = [Coarseness(**study) for study in domain.study(STUDIED_BITS)]
            noise = _noise(config, documents[plan.searches :], boot)
    else:
        where = validation_range(config, place.part("victim"))
        if winner is not None:
            with place.timed("held out"):
                other = place.part("other")
                held_out = on_held_out(config, where, other, winner, boot, place.progress)
            write_text(place.folder / "winner.toml", exported(config, where, winner))
    metrics = search_metrics(config.domain, results, boot)
    device = "cpu" if where is None else str(where.trained.victim.device)
    return SearchRecord(
        schema_=SEARCH,
        command="search",
        run=run_info(place.final, config.seed, device, place.seconds),
        domain=config.domain,
        settings=config.model_dump(mode="json"),
        dataset=None if where is None else dataset_info(where.served.dataset),
        budget=None if where is None else budget_info(where.budget, eight_bit=True),
        flags=search_flags(results, metrics, held_out),
        metrics=metrics,
        differences=search_differences(config.domain, results, boot),
        results=results,
        coarseness=coarseness,
        noise=noise,
        held_out=held_out,
        winner=winner,
    )


def _noise(
    config: SearchConfig, documents: Sequence[dict[str, Any]], boot: int
) -> list[NoiseStudy]:
    """documents: of `STUDIED`, as many as there are repeats of each."""
    repeats = config.search.repeats or 1
    studies = []
    for number, study in enumerate(STUDIED):
        mine = documents[number * repeats : (number + 1) * repeats]
        studies.append(
            NoiseStudy(
                noise=study["noise"],
                max_num_evals=int(study["max_num_evals"]),
                remove_probability=study["remove_probability"],
                quality=mean_metric([doc["figures"].get("mean", np.nan) for doc in mine], boot),
                claimed=mean_metric([doc["figures"].get("fitness", np.nan) for doc in mine], boot),
                candidates=mean_metric([doc["candidates"] for doc in mine], boot),
            )
        )
    return studies
