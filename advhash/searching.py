"""`advhash search`: the strongest attack, or the best cell, with equals evaluated once.

Arms search at equal cost, each repeat with a cold cache: with the functional cache and without, and
over cells also with a cache by structure, at random and uphill.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from advhash.attack_domain import AttackDomain, Range, make_range
from advhash.attacks.base import Attack
from advhash.attacks.genome import Evolved, read_genome
from advhash.cache import content_key
from advhash.config import (
    AttackConfig,
    BudgetConfig,
    DatasetConfig,
    MethodConfig,
    ProtocolConfig,
    SearchConfig,
)
from advhash.data import Progress, silent
from advhash.errors import RunError, UsageError
from advhash.evolution import Strategy
from advhash.executor import check_executor, run_tasks
from advhash.files import sha256, write_json
from advhash.nas import TABLE, CellDomain, read_table
from advhash.pipeline import resolve
from advhash.recording import budget_info, dataset_info, run_info, victim_info
from advhash.registry import ATTACKS
from advhash.reports.html import render
from advhash.reports.search import (
    SEARCH,
    Coarseness,
    HeldOut,
    NoiseStudy,
    SearchRecord,
    SearchResult,
)
from advhash.runs import RunFolder, environment, new_run_id
from advhash.sanity import Flag
from advhash.search_cell import ARMS, SearchTask, prepared, run_search, validation_range
from advhash.stats import Metric, mean_metric, paired_difference, ratio_of_means
from advhash.training import Trained, cache_identity, derive_seed

__all__ = ["DEFAULTS", "search"]

DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "attack": {"population": 20, "tournament": 5, "seconds": 120.0, "repeats": 3, "bits": 24},
    "nas": {"population": 100, "tournament": 10, "seconds": 600.0, "repeats": 10, "bits": 16},
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
    try:
        folder.write_text("config.toml", config.to_toml())
        folder.identify(content_key({**identity, "config": config.to_toml()}))
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
    trained = prepared(config, config.victim, progress=progress)
    attack.check_gradients(trained.victim)
    trained.victim.check_modality("image")
    dataset = DatasetConfig.build({"name": trained.data.name, **trained.data.settings})
    other = prepared(config, config.other, dataset, progress)
    if other.data.fingerprint() != trained.data.fingerprint():
        raise UsageError(
            f"expected victims of the same data: {config.other.name} sees other data than "
            f"{config.victim.name}"
        )
    if other.fingerprint == trained.fingerprint and other.fingerprint:
        raise UsageError(
            "other: expected a victim that no search uses, got the searched one; choose another "
            "name or setting, e.g. --set other.name=csq"
        )
    return trained, other


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
    winner = _winner(results)
    held_out: list[HeldOut] = []
    if place is not None and other is not None and winner is not None:
        began = time.perf_counter()
        held_out = _held_out(folder, config, place, other, winner, boot, progress)
        folder.write_text("winner.toml", _exported(config, place, winner))
        seconds["held out"] = time.perf_counter() - began
    metrics = _metrics(config, results, boot)
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
        flags=_flags(results, metrics, held_out),
        metrics=metrics,
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
    """The documents of all tasks. Inline, each is on disk once it is done; else all at once."""
    if config.executor == "inline":
        found = []
        for done, task in enumerate(tasks):
            progress(stage, done, len(tasks))
            found.append(_kept(folder, task.key, partial(run_search, task)))
        progress(stage, len(tasks), len(tasks))
        return found
    name = content_key([task.key for task in tasks])
    everything = _kept(
        folder,
        name,
        lambda: run_tasks(config.executor, run_search, tasks, stage=stage, progress=progress),
    )
    return list(everything)


def _kept(folder: RunFolder, name: str, make: Callable[[], Any]) -> Any:
    """JSON as a part of a run folder, so that `--out` goes on after an interrupt."""

    def part() -> dict[str, torch.Tensor]:
        text = json.dumps(make(), allow_nan=False).encode()
        return {"json": torch.frombuffer(bytearray(text), dtype=torch.uint8)}

    return json.loads(folder.part(name, part)["json"].numpy().tobytes())


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


def _winner(results: Sequence[SearchResult]) -> Any:
    """The best candidate of the searches with the functional cache; None where there is none."""
    found = [one for one in results if one.arm == "cached" and one.best is not None]
    return max(found, key=lambda one: one.figures["fitness"]).best if found else None


def _metrics(
    config: SearchConfig, results: Sequence[SearchResult], boot: int
) -> dict[str, Metric | None]:
    """Over repeats; arms of one repeat are paired."""
    arms = {arm: [one for one in results if one.arm == arm] for arm in _arms(config)}
    cached, uncached = arms["cached"], arms["uncached"]

    def best(arm: str, figure: str = "fitness") -> npt.NDArray[np.float64]:
        return np.array([one.figures.get(figure, np.nan) for one in arms[arm]])

    def rate(arm: str) -> npt.NDArray[np.float64]:
        return np.array([one.candidates / max(one.seconds, 1e-9) for one in arms[arm]])

    def hits(arm: str) -> npt.NDArray[np.float64]:
        return np.array([one.lookups.get("full", 0) / max(1, one.candidates) for one in arms[arm]])

    metrics: dict[str, Metric | None] = {
        "speedup": mean_metric(rate("cached") / rate("uncached"), boot),
        "hit_rate": mean_metric(hits("cached"), boot),
        "best_fitness": mean_metric(best("cached"), boot),
        "best_fitness_uncached": mean_metric(best("uncached"), boot),
        "best_gain": paired_difference(best("cached"), best("uncached"), boot),
        "time_to_uncached": mean_metric(
            [_time_to(one, two) for one, two in zip(cached, uncached, strict=True)], boot
        ),
        "false_hit_rate": ratio_of_means(
            [one.false for one in cached], [one.checked for one in cached], boot
        ),
        "hash_overhead": _overhead(cached, boot),
        "candidates": mean_metric([one.candidates for one in cached], boot),
        "candidates_uncached": mean_metric([one.candidates for one in uncached], boot),
    }
    if config.domain == "nas":
        metrics |= {
            "best_test": mean_metric(best("cached", "test"), boot),
            "best_test_uncached": mean_metric(best("uncached", "test"), boot),
            "speedup_structure": mean_metric(rate("structure") / rate("uncached"), boot),
            "speedup_over_structure": mean_metric(rate("cached") / rate("structure"), boot),
            "hit_rate_structure": mean_metric(hits("structure"), boot),
            "best_gain_over_structure": paired_difference(best("cached"), best("structure"), boot),
        }
        for arm in ("structure", "random", "hill-climbing"):
            metrics[f"best_fitness_{arm.replace('-', '_')}"] = mean_metric(best(arm), boot)
    return metrics


def _time_to(cached: SearchResult, uncached: SearchResult) -> float:
    """Share of the uncached search's time after which the other is as good; 1 where never."""
    wanted = uncached.figures.get("fitness", math.nan)
    for seconds, best in cached.improvements:
        if best >= wanted:
            return min(1.0, seconds / max(uncached.seconds, 1e-9))
    return 1.0


def _overhead(results: Sequence[SearchResult], boot: int) -> Metric:
    """Seconds of one hash by those of one evaluation."""
    hashes, evaluations = [], []
    for one in results:
        found = one.cache
        evaluated = found["misses"] + found["partial_hits"]
        hashes.append(found["hash_seconds"] / max(1.0, evaluated + found["full_hits"]))
        evaluations.append(found["evaluation_seconds"] / max(1.0, evaluated))
    return ratio_of_means(hashes, evaluations, boot)


def _held_out(
    folder: RunFolder,
    config: SearchConfig,
    place: Range,
    other: Trained,
    winner: Any,
    boot: int,
    progress: Progress,
) -> list[HeldOut]:
    """The winner and dhta on held-out queries, before the victim of the search and another."""
    genome, found = read_genome(winner), []
    for number, trained in enumerate((place.trained, other)):
        progress("held-out queries", number, 2)
        judged = make_range(
            trained,
            "query",
            config.search.held_out,
            rule=config.targets,
            budget=place.budget,
            seed=derive_seed(config.seed, "held out"),
            progress=progress,
        )
        steps = config.search.steps
        dhta: Attack = ATTACKS.create("dhta", {"steps": steps})
        ours = AttackDomain(judged, steps=steps, bits=0).attack(genome)

        def columns(mine: Attack = ours, theirs: Attack = dhta, where: Range = judged) -> Any:
            return {
                "winner": where.precision(mine).tolist(),
                "dhta": where.precision(theirs).tolist(),
            }

        scores = _kept(folder, f"held-out-{number}", columns)
        arrays = {name: np.asarray(values) for name, values in scores.items()}
        found.append(
            HeldOut(
                victim=trained.card["name"],
                searched=number == 0,
                info=victim_info(trained),
                queries=len(judged.rows),
                tmap={
                    name: mean_metric(values, boot)
                    for name, values in (
                        *arrays.items(),
                        ("clean", judged.clean),
                        ("ceiling", judged.ceiling),
                    )
                },
                normalised={
                    name: ratio_of_means(values - judged.clean, judged.ceiling - judged.clean, boot)
                    for name, values in arrays.items()
                },
                difference=paired_difference(arrays["winner"], arrays["dhta"], boot),
            )
        )
    progress("held-out queries", 2, 2)
    return found


def _exported(config: SearchConfig, place: Range, winner: Any) -> str:
    """The winner as the file that `advhash attack --config` runs."""
    exported = AttackConfig(
        seed=config.seed,
        device=config.device,
        victim=place.trained.replay,
        attack=MethodConfig.build({"name": "evolved", "steps": config.search.steps, **winner}),
        budget=BudgetConfig(
            norm=place.budget.norm,
            eps="none" if math.isinf(place.budget.eps) else place.budget.eps,
        ),
        protocol=ProtocolConfig(targets=config.targets, queries=config.search.held_out),
    )
    return resolve(exported.trusting(config.trust_code), place.trained).to_toml()


def _flags(
    results: Sequence[SearchResult],
    metrics: Mapping[str, Metric | None],
    held_out: Sequence[HeldOut],
) -> list[Flag]:
    flags = []
    empty = [one for one in results if one.candidates == 0]
    if empty:
        flags.append(
            Flag(
                "no_candidate",
                "error",
                f"{len(empty)} of {len(results)} searches ended before their first candidate: "
                "give them more search.seconds.",
            )
        )
    overhead = metrics.get("hash_overhead")
    if overhead is not None and overhead.value is not None and overhead.value > 0.05:
        flags.append(
            Flag(
                "costly_hash",
                "warning",
                f"A hash costs {100 * overhead.value:.1f} % of an evaluation: more than 5 %.",
            )
        )
    for one in held_out:
        if one.difference.low is None or one.difference.low <= 0:
            flags.append(
                Flag(
                    "not_better",
                    "info",
                    f"The attack that was found does not beat dhta on {one.victim}: the interval "
                    "of the difference is not above zero.",
                )
            )
    return flags
