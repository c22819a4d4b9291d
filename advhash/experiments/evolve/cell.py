"""One search of a run: an arm and a repeat. A task that any process can do."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from advhash.attacks.evolved.genome import Evolved
from advhash.errors import StorageError, exhausted
from advhash.experiments.config import DatasetConfig, MethodConfig, TrainConfig
from advhash.experiments.evolve.config import SearchConfig
from advhash.experiments.evolve.domain import AttackDomain, Range, make_range
from advhash.experiments.prepare.code_key import code_version
from advhash.experiments.prepare.hardened import prepare
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained
from advhash.functional.evaluation_cache import EquivalenceCache
from advhash.functional.evolution import Limits, Search, Strategy
from advhash.functional.nas import CellDomain, Keyed, read_table
from advhash.storage.cache import cache_root, content_key, expect_own, make_way
from advhash.storage.documents import parse_json, read_json
from advhash.storage.files import write_json
from advhash.storage.places import user_path

CODE = ("experiments.attack", "experiments.evolve")  # determine searches
POINTS = 120  # of a curve
SAVED_EVERY = 2.0  # seconds between two states of a search on disk


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
    inputs: names the victims, or the table of cells, as far as they are known before training
    """

    config: SearchConfig
    arm: str
    repeat: int
    inputs: str = ""
    noise: float | None = None
    max_num_evals: int | None = None
    remove_probability: float | None = None

    @property
    def names(self) -> tuple[str, str]:
        """By which the cost is learnt."""
        return self.config.domain, self.arm

    @property
    def key(self) -> str:
        return content_key(
            {
                "config": self.config.to_toml(),
                "trust": self.config.trust_code,
                "code": code_version(*CODE),
                **{name: value for name, value in vars(self).items() if name != "config"},
            }
        )


def run_search(task: SearchTask) -> dict[str, Any]:
    """One search with a cold cache, as JSON.

    In the attack domain its state, its cache included, lies in the cache of advhash, so that a
    killed one goes on as if nothing had happened, until `forget_search`; in simulated time a search
    is done in seconds.
    """
    config, arm, table = task.config, ARMS[task.arm], task.config.search
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
    if config.domain == "attack":
        _run_kept(_state_file(task), search, cache)
    else:
        for _ in search.run():
            pass
    document = _document(task, search, cache)
    if cache is not None:
        cache.close()
    return document


def _state_file(task: SearchTask) -> Path:
    return cache_root() / "searches" / task.key / "state.json"


def forget_search(task: SearchTask) -> None:
    """Drop the state of a search whose document is kept elsewhere."""
    shutil.rmtree(_state_file(task).parent, ignore_errors=True)


def _run_kept(file: Path, search: Search[Any], cache: EquivalenceCache | None) -> None:
    """Run from the state in the file, where there is one, and keep it up to date there.

    Search and cache are one file: a kill between two could leave a candidate in the cache that the
    search has not seen yet.
    """
    make_way(file.parent)
    if file.is_file():
        expect_own(file)
        try:
            _read_state(file)
        except StorageError as error:  # damaged: the search begins again, and replaces it
            if exhausted(error) is not None:
                raise
            file.unlink(missing_ok=True)
        else:
            _restore(file, search, cache)
    saved = time.monotonic()
    for _ in search.run():
        if time.monotonic() - saved >= SAVED_EVERY:
            _save(file, search, cache)
            saved = time.monotonic()
    _save(file, search, cache)


def _save(file: Path, search: Search[Any], cache: EquivalenceCache | None) -> None:
    state = {
        "key": file.parent.name,
        "search": search.state(),
        "cache": None if cache is None else cache.state(),
    }
    text = json.dumps(state, allow_nan=False)
    write_json(file, {"sha256": hashlib.sha256(text.encode()).hexdigest(), "state": text})


def _read_state(file: Path) -> tuple[Any, Any]:
    """The state of search and cache. Raises StorageError: a file without one, or a damaged one."""
    try:
        kept = read_json(file)
        if hashlib.sha256(kept["state"].encode()).hexdigest() != kept["sha256"]:
            raise ValueError
        document = parse_json(kept["state"])
        if document["key"] != file.parent.name:
            raise ValueError  # the state of another search
        return document["search"], document["cache"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise StorageError(
            f"expected the state of a search, got {file}: delete it and start again"
        ) from None


def _restore(file: Path, search: Search[Any], cache: EquivalenceCache | None) -> None:
    """Raises StorageError for a file that holds no state."""
    states = _read_state(file)
    search.restore(states[0])
    if cache is not None:
        cache.restore(states[1])


def _first(given: float | None, default: float) -> float:
    return default if given is None else given


def _domain(task: SearchTask) -> Any:
    config = task.config
    bits = config.search.bits
    assert bits is not None
    if config.domain == "attack":
        return AttackDomain(_range(task), steps=config.search.steps, bits=bits)
    keyed: Keyed = "structure" if ARMS[task.arm].cached == "structure" else config.search.keyed
    noise = _first(task.noise, config.search.noise)
    return CellDomain(_table(config.table), keyed=keyed, bits=bits, noise=noise)


@functools.lru_cache(maxsize=1)
def _table(file: str | None) -> dict[str, Any]:
    return read_table(None if file is None else user_path(file))


_ranges: dict[tuple[str, str, bool], Range] = {}


def _range(task: SearchTask) -> Range:
    """Loading a victim takes seconds: once a process, unless its checkpoint is replaced."""
    config = task.config
    key = task.inputs, config.to_toml(), config.trust_code
    if key not in _ranges:
        _ranges.clear()
        trained = prepare(config.turned_into(TrainConfig))
        _ranges[key] = validation_range(config, trained)
    return _ranges[key]


def victim_config(
    config: SearchConfig, victim: MethodConfig, dataset: DatasetConfig
) -> TrainConfig:
    """How a victim of the run is made. Raises ConfigError."""
    return config.turned_into(TrainConfig, victim=victim.model_dump(), dataset=dataset.model_dump())


def validation_range(config: SearchConfig, trained: Trained) -> Range:
    """The queries that determine fitness. Raises AdvhashError."""
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
        "repeated": search.repeated,
        "checked": len(search.checks),
        "false": sum(not check.agreed for check in search.checks),
        "cache": {} if cache is None else cache.document(),
        "curve": curve,
        "improvements": improvements,
    }
