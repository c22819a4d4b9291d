"""One search of a run: an arm and a repeat. A task that any process can do."""

from __future__ import annotations

import functools
import json
import shutil
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from advhash.attack_domain import AttackDomain, Range, make_range
from advhash.attacks.genome import Evolved
from advhash.cache import cache_root, content_key
from advhash.config import DatasetConfig, MethodConfig, SearchConfig, TrainConfig
from advhash.data import Progress, silent
from advhash.equivalence import EquivalenceCache
from advhash.evolution import Limits, Search, Strategy
from advhash.files import write_json
from advhash.hardening import prepare
from advhash.nas import CellDomain, Keyed, read_table
from advhash.training import Trained, code_version, derive_seed

__all__ = ["ARMS", "Arm", "SearchTask", "prepared", "run_search", "validation_range"]

POINTS = 120  # of a curve


@dataclass(frozen=True)
class Arm:
    """One way to search.

    cached: by functional hash, by structure, or not at all
    """

    cached: Literal["function", "structure", "no"]
    algorithm: Literal["evolution", "random", "hill-climbing"] | None = None  # None: as configured


ARMS = {
    "cached": Arm("function"),
    "uncached": Arm("no"),
    "structure": Arm("structure"),
    "random": Arm("function", "random"),
    "hill-climbing": Arm("function", "hill-climbing"),
}


@dataclass(frozen=True)
class SearchTask:
    """An arm, a repeat and a config whose every default is written out.

    noise, max_num_evals, remove_probability: instead of the config's
    """

    config: SearchConfig
    arm: str
    repeat: int
    noise: float | None = None
    max_num_evals: int | None = None
    remove_probability: float | None = None

    @property
    def key(self) -> str:
        """A name for files."""
        return content_key(
            {
                "config": self.config.to_toml(),
                "trust": self.config.trust_code,
                "code": code_version(),
                **{name: value for name, value in vars(self).items() if name != "config"},
            }
        )


def run_search(task: SearchTask) -> dict[str, Any]:
    """One search with a cold cache, as JSON.

    In the attack domain its state lies in the cache of advhash after every candidate, so that a
    killed one goes on; in simulated time a search is done in seconds.
    """
    config, arm, table = task.config, ARMS[task.arm], task.config.search
    real = config.domain == "attack"
    keep = cache_root() / "searches" / task.key if real else None
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    assert table.population is not None
    assert table.tournament is not None
    strategy = Strategy(
        algorithm=arm.algorithm or table.algorithm,
        population=table.population,
        tournament=table.tournament,
        different=table.different and arm.cached == "function",
        tabu_after=table.tabu_after if arm.cached == "function" else 0,
    )
    seed = derive_seed(config.seed, f"search {task.repeat}")
    cache = None
    if arm.cached != "no":
        cache = EquivalenceCache(
            None if keep is None else keep / "cache.sqlite",
            max_num_evals=task.max_num_evals or table.max_num_evals,
            remove_probability=_first(task.remove_probability, table.remove_probability),
            forget_every=table.forget_every,
            capacity=table.capacity,
            seed=seed,
        )
    search: Search[Any] = Search(
        _domain(task),
        strategy,
        Limits(seconds=table.seconds, candidates=table.candidates),
        cache=cache,
        checked=table.checked,
        seed=seed,
    )
    state = None if keep is None else keep / "state.json"
    if state is not None and state.is_file():
        search.restore(json.loads(state.read_text("utf-8")))
    for _ in search.run():
        if state is not None:
            write_json(state, search.state())
    document = _document(task, search, cache)
    if cache is not None:
        cache.close()
    if keep is not None:
        shutil.rmtree(keep, ignore_errors=True)
    return document


def _first(given: float | None, default: float) -> float:
    return default if given is None else given


def _domain(task: SearchTask) -> Any:
    config = task.config
    bits = config.search.bits
    assert bits is not None
    if config.domain == "attack":
        return AttackDomain(_range(config.to_toml(), config), steps=config.search.steps, bits=bits)
    keyed: Keyed = "structure" if ARMS[task.arm].cached == "structure" else config.search.keyed
    noise = _first(task.noise, config.search.noise)
    return CellDomain(_table(config.table), keyed=keyed, bits=bits, noise=noise)


@functools.lru_cache(maxsize=1)
def _table(file: str | None) -> dict[str, Any]:
    return read_table(None if file is None else Path(file))


_ranges: dict[tuple[str, bool], Range] = {}


def _range(key: str, config: SearchConfig) -> Range:
    """Loading a victim takes seconds: once a process."""
    if (key, config.trust_code) not in _ranges:
        _ranges.clear()
        _ranges[key, config.trust_code] = validation_range(config, prepared(config, config.victim))
    return _ranges[key, config.trust_code]


def prepared(
    config: SearchConfig,
    victim: MethodConfig,
    dataset: DatasetConfig | None = None,
    progress: Progress = silent,
) -> Trained:
    """A victim of the run, trained or from the cache. Raises AdvhashError."""
    wanted = TrainConfig.build(
        {
            "seed": config.seed,
            "device": config.device,
            "victim": victim.model_dump(),
            "dataset": (dataset or config.dataset).model_dump(),
        }
    )
    return prepare(wanted.trusting(config.trust_code), progress)


def validation_range(config: SearchConfig, trained: Trained) -> Range:
    """The queries that decide over fitness. Raises AdvhashError."""
    return make_range(
        trained,
        "validation",
        config.search.queries,
        rule=config.targets,
        budget=config.budget.resolve(Evolved.default_budget),
        seed=derive_seed(config.seed, "validation"),
    )


def _document(
    task: SearchTask, search: Search[Any], cache: EquivalenceCache | None
) -> dict[str, Any]:
    trace, kinds = search.trace, Counter(step.kind for step in search.trace)
    full = 0
    curve: list[list[float]] = []
    improvements: list[list[float]] = []
    stride = max(1, -(-len(trace) // POINTS))
    for place, step in enumerate(trace):
        full += step.kind == "full"
        if not improvements or step.best > improvements[-1][1]:
            improvements.append([step.seconds, step.best])
        if place % stride == 0 or place == len(trace) - 1:
            curve.append([step.seconds, step.best, full / (place + 1)])
    candidate, figures = (None, {}) if search.best is None else search.best
    return {
        "arm": task.arm,
        "repeat": task.repeat,
        "candidates": len(trace),
        "seconds": trace[-1].seconds if trace else 0.0,
        "figures": dict(figures),
        "best": None if candidate is None else search.domain.write(candidate),
        "lookups": dict(kinds),
        "refused": search.refused,
        "checked": len(search.checks),
        "false": sum(not check.agreed for check in search.checks),
        "cache": {} if cache is None else {**asdict(cache.statistics), "keys": len(cache)},
        "curve": curve,
        "improvements": improvements,
    }
