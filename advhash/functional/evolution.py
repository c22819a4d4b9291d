"""Search over candidates of any kind: regularised evolution, random search and hill climbing.

With an `EquivalenceCache`, candidates that do the same are evaluated once (Unified Functional
Hashing, Gillard et al., arXiv 2302.05433; the released code: unified_functional_hashing/). What a
candidate is, a `Domain` tells. The clock is what hashes and evaluations cost, in real or simulated
seconds.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Generic, Literal, Protocol, TypeVar

from advhash.errors import StorageError
from advhash.functional.evaluation_cache import EquivalenceCache, Evaluation, Kind

Algorithm = Literal["evolution", "random", "hill-climbing"]
Candidate = TypeVar("Candidate")


class Domain(Protocol[Candidate]):
    """What is searched. All chance comes from the generator or the seed that is given.

    random, mutate: a new candidate, and one near to another
    key:            its functional hash, and the seconds that the hash cost
    evaluate:       figures with "fitness", to be maximised, and seconds; `seed` is for its noise
    agree:          whether figures of two candidates may be those of one function
    write, read:    a candidate as plain JSON and back
    """

    def random(self, chance: Random) -> Candidate: ...
    def mutate(self, candidate: Candidate, chance: Random) -> Candidate: ...
    def key(self, candidate: Candidate) -> tuple[str, float]: ...
    def evaluate(self, candidate: Candidate, seed: int) -> Evaluation: ...
    def agree(self, first: Mapping[str, float], second: Mapping[str, float]) -> bool: ...
    def write(self, candidate: Candidate) -> Any: ...
    def read(self, document: Any) -> Candidate: ...


@dataclass(frozen=True, kw_only=True)
class Strategy:
    """How candidates are proposed.

    algorithm:  "evolution" (regularised: the best of a tournament is mutated, the oldest dropped;
                Real et al., AAAI 2019), "random", or "hill-climbing" (a child that is no worse
                takes its parent's place)
    population: how many live; the first ones are random
    tournament: how many are drawn, without replacement
    different:  mutate until the functional hash is another than the parent's (FCM)
    tabu_after: a hash that was proposed so often is refused; 0: never
    retries:    how often a proposal that one of the two refuses is made again; then it counts.
                Each costs its hash.

    Raises ValueError for settings out of range.
    """

    algorithm: Algorithm = "evolution"
    population: int = 100
    tournament: int = 10
    different: bool = False
    tabu_after: int = 0
    retries: int = 20

    def __post_init__(self) -> None:
        if self.algorithm not in ("evolution", "random", "hill-climbing"):
            raise ValueError(f"expected evolution, random or hill-climbing, got {self.algorithm!r}")
        if not 1 <= self.tournament <= self.population:
            raise ValueError(
                "expected 1 <= tournament <= population, got "
                f"tournament={self.tournament}, population={self.population}"
            )
        if self.tabu_after < 0 or self.retries < 0:
            raise ValueError(
                "expected tabu_after >= 0 and retries >= 0, got "
                f"{self.tabu_after} and {self.retries}"
            )

    @property
    def hashes(self) -> bool:
        """Whether proposals need hashes even without a cache."""
        return self.different or self.tabu_after > 0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When a search ends: at a cost in seconds of its clock, or a number of candidates.

    A candidate whose result comes after the cost limit does not count. Raises ValueError where
    there is no limit, or one that is not positive.
    """

    seconds: float | None = None
    candidates: int | None = None

    def __post_init__(self) -> None:
        given = [limit for limit in (self.seconds, self.candidates) if limit is not None]
        if not given or not min(given) > 0:
            raise ValueError(
                "expected a limit of seconds or candidates above 0, got "
                f"seconds={self.seconds}, candidates={self.candidates}"
            )


@dataclass(frozen=True)
class Step:
    """One candidate of a search.

    seconds: of the clock when its fitness was known
    best:    the best fitness so far
    kind:    of its lookup; "none" without a cache
    """

    seconds: float
    fitness: float
    best: float
    kind: Kind | Literal["none"]


@dataclass(frozen=True)
class Check:
    """A full hit that was evaluated nevertheless, off the clock.

    stored, own: the fitness of the cache and that of the candidate itself
    agreed:      whether the domain calls the figures those of one function
    """

    stored: float
    own: float
    agreed: bool


@dataclass(frozen=True)
class _Individual(Generic[Candidate]):
    candidate: Candidate
    fitness: float
    key: str  # "" where it was not hashed


class Search(Generic[Candidate]):
    """One search. `run` goes on where `state` was taken when given to `restore`.

    cache:   keeps evaluations by functional hash; None: every candidate is evaluated
    checked: share of full hits that are evaluated nevertheless, off the clock (`checks`)
    seed:    determines every random draw: proposals, noise of evaluations, which hits are checked.
             Searches with and without a cache draw alike until their fitness differs.

    Deviations: published code goes on past an exhausted FCM with an error; here the last proposal
    counts, so that a domain of few functions can be searched.
    """

    def __init__(
        self,
        domain: Domain[Candidate],
        strategy: Strategy,
        limits: Limits,
        *,
        cache: EquivalenceCache | None = None,
        checked: float = 0.0,
        seed: int = 0,
    ) -> None:
        if not 0 <= checked <= 1:
            raise ValueError(f"expected a share of checked hits in [0,1], got {checked}")
        self.domain, self.strategy, self.limits = domain, strategy, limits
        self.cache, self.checked = cache, checked
        self.trace: list[Step] = []
        self.checks: list[Check] = []
        self.best: tuple[Candidate, Mapping[str, float]] | None = None
        self.seconds = 0.0
        self.refused = 0  # proposals of FCM and tabu list
        self.repeated = 0  # candidates written exactly like an earlier one
        self._population: list[_Individual[Candidate]] = []
        self._seen: Counter[str] = Counter()
        self._written: set[str] = set()
        self._proposals = Random(f"{seed}/proposals")
        self._noise = Random(f"{seed}/noise")
        self._checking = Random(f"{seed}/checks")
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether a limit is reached."""
        limit = self.limits.candidates
        return self._ended or (limit is not None and len(self.trace) >= limit)

    def run(self) -> Iterator[Step]:
        """Yield each candidate's step until a limit is reached."""
        while not self.ended:
            step = self._advance()
            if step is not None:
                yield step

    def _advance(self) -> Step | None:
        parent = self._parent()
        candidate, key, hash_seconds = self._proposed(parent)
        seed = self._noise.getrandbits(32)
        kind: Kind | Literal["none"] = "none"
        if self.cache is None:
            evaluation = self.domain.evaluate(candidate, seed)
            figures = evaluation.figures
            self.seconds += hash_seconds + evaluation.seconds
        else:
            lookup = self.cache.evaluate(
                key, lambda: self.domain.evaluate(candidate, seed), hash_seconds=hash_seconds
            )
            figures, kind = lookup.figures, lookup.kind
            self.seconds += lookup.seconds
            if kind == "full" and self._checking.random() < self.checked:
                own = self.domain.evaluate(candidate, seed).figures
                agreed = self.domain.agree(figures, own)
                self.checks.append(Check(figures["fitness"], own["fitness"], agreed))
        if self.limits.seconds is not None and self.seconds > self.limits.seconds:
            self._ended = True
            return None
        fitness = figures["fitness"]
        if self.best is None or fitness > self.best[1]["fitness"]:
            self.best = candidate, dict(figures)
        step = Step(self.seconds, fitness, self.best[1]["fitness"], kind)
        self.trace.append(step)
        text = json.dumps(self.domain.write(candidate))
        self.repeated += text in self._written
        self._written.add(text)
        self._admit(_Individual(candidate, fitness, key))
        return step

    def _parent(self) -> _Individual[Candidate] | None:
        """Whom to mutate; None for a random candidate."""
        strategy = self.strategy
        if strategy.algorithm == "random":
            return None
        if strategy.algorithm == "hill-climbing":
            return self._population[0] if self._population else None
        if len(self._population) < strategy.population:
            return None
        drawn = self._proposals.sample(range(len(self._population)), strategy.tournament)
        return self._population[
            max(drawn, key=lambda place: (self._population[place].fitness, place))
        ]

    def _proposed(self, parent: _Individual[Candidate] | None) -> tuple[Candidate, str, float]:
        """A candidate, its hash and what that cost; refused ones are charged here."""
        strategy, domain = self.strategy, self.domain
        for attempt in range(strategy.retries + 1):
            if parent is None:
                candidate = domain.random(self._proposals)
            else:
                candidate = domain.mutate(parent.candidate, self._proposals)
            if self.cache is None and not strategy.hashes:
                return candidate, "", 0.0
            key, seconds = domain.key(candidate)
            same = strategy.different and parent is not None and key == parent.key
            tabu = strategy.tabu_after > 0 and self._seen[key] >= strategy.tabu_after
            if attempt == strategy.retries or not (same or tabu):
                break
            self.refused += 1
            self.seconds += seconds
        self._seen[key] += 1
        return candidate, key, seconds

    def _admit(self, individual: _Individual[Candidate]) -> None:
        if self.strategy.algorithm == "hill-climbing":
            if not self._population or individual.fitness >= self._population[0].fitness:
                self._population = [individual]
            return
        if self.strategy.algorithm == "random":
            return
        self._population.append(individual)
        if len(self._population) > self.strategy.population:
            self._population.pop(0)

    def state(self) -> dict[str, Any]:
        """All that `restore` needs, as plain JSON, but for the cache, which has its own."""
        write = self.domain.write
        return {
            "seconds": self.seconds,
            "refused": self.refused,
            "repeated": self.repeated,
            "written": sorted(self._written),
            "ended": self._ended,
            "trace": [[step.seconds, step.fitness, step.best, step.kind] for step in self.trace],
            "checks": [[check.stored, check.own, check.agreed] for check in self.checks],
            "best": None if self.best is None else [write(self.best[0]), dict(self.best[1])],
            "population": [
                [write(member.candidate), member.fitness, member.key] for member in self._population
            ],
            "seen": dict(self._seen) if self.strategy.tabu_after else {},
            "chance": [_written(chance) for chance in self._chances],
        }

    def restore(self, document: Mapping[str, Any]) -> None:
        """Go on from a `state`. Raises StorageError for what is none."""
        read = self.domain.read
        try:
            self.seconds, self.refused = float(document["seconds"]), int(document["refused"])
            self.repeated, self._written = int(document["repeated"]), set(document["written"])
            self._ended = bool(document["ended"])
            self.trace = [Step(*step) for step in document["trace"]]
            self.checks = [Check(*check) for check in document["checks"]]
            best = document["best"]
            self.best = None if best is None else (read(best[0]), dict(best[1]))
            self._population = [
                _Individual(read(candidate), float(fitness), str(key))
                for candidate, fitness, key in document["population"]
            ]
            self._seen = Counter(document["seen"])
            for chance, (version, words, gauss) in zip(
                self._chances, document["chance"], strict=True
            ):
                chance.setstate((version, tuple(words), gauss))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise StorageError(
                f"expected the state of a search, got: {error!r}; delete it and start again"
            ) from None

    @property
    def _chances(self) -> tuple[Random, Random, Random]:
        return self._proposals, self._noise, self._checking


def _written(chance: Random) -> list[Any]:
    version, words, gauss = chance.getstate()
    return [version, list(words), gauss]
