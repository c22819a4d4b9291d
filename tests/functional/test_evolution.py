"""Search with and without a cache, on a tiny domain with a known optimum and known equivalences."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from advhash.errors import StorageError
from advhash.functional.evaluation_cache import EquivalenceCache, Evaluation
from advhash.functional.evolution import Limits, Search, Step, Strategy

COST, HASH = 10.0, 0.1
SMALL = Strategy(population=8, tournament=3)


class Sums:
    """Seven digits of 0 to 4; only their sum counts. 5⁷ ways to write 29 functions; 28 is best.

    noise: half-width of what is added to the fitness
    """

    def __init__(self, noise: float = 0.0, false: bool = False) -> None:
        self.noise, self.false = noise, false
        self.evaluated: Counter[int] = Counter()
        self.proposed = 0

    def random(self, chance: random.Random) -> tuple[int, ...]:
        self.proposed += 1
        return tuple(chance.randrange(5) for _ in range(7))

    def mutate(self, candidate: tuple[int, ...], chance: random.Random) -> tuple[int, ...]:
        self.proposed += 1
        place, digit = chance.randrange(7), chance.randrange(5)
        return (*candidate[:place], digit, *candidate[place + 1 :])

    def key(self, candidate: tuple[int, ...]) -> tuple[str, float]:
        return str(sum(candidate) // 2 if self.false else sum(candidate)), HASH

    def evaluate(self, candidate: tuple[int, ...], seed: int) -> Evaluation:
        self.evaluated[sum(candidate)] += 1
        noise = self.noise * random.Random(seed).uniform(-1, 1)
        return Evaluation({"fitness": sum(candidate) + noise, "test": 2.0}, COST)

    def agree(self, first: Mapping[str, float], second: Mapping[str, float]) -> bool:
        return first["fitness"] == second["fitness"]

    def write(self, candidate: tuple[int, ...]) -> Any:
        return list(candidate)

    def read(self, document: Any) -> tuple[int, ...]:
        return tuple(document)


def searched(strategy: Strategy = SMALL, **settings: Any) -> tuple[Sums, Search[tuple[int, ...]]]:
    domain = settings.pop("domain", None) or Sums()
    limits = Limits(seconds=settings.pop("seconds", None), candidates=settings.pop("count", None))
    search = Search(domain, strategy, limits, **settings)
    for _ in search.run():
        pass
    return domain, search


def test_evolution_finds_the_best_sooner_than_random_search() -> None:
    _, evolved = searched(Strategy(population=20, tournament=5), count=500)
    _, drawn = searched(Strategy(algorithm="random"), count=500)
    assert evolved.best is not None
    assert drawn.best is not None
    assert evolved.best[1] == {"fitness": 28.0, "test": 2.0}
    assert evolved.best[0] == (4,) * 7
    assert drawn.best[1]["fitness"] < 28


def test_hill_climbing_never_goes_down() -> None:
    domain, search = searched(Strategy(algorithm="hill-climbing"), count=400)
    assert search.best is not None
    assert search.best[1]["fitness"] == 28
    assert search._population[0].fitness == 28
    assert len(search._population) == 1
    assert domain.proposed == 400


def test_a_cache_evaluates_each_function_once_and_searches_the_same_way() -> None:
    domain, cached = searched(count=200, cache=EquivalenceCache())
    plain, uncached = searched(count=200)
    assert max(domain.evaluated.values()) == 1
    assert max(plain.evaluated.values()) > 1
    assert [one.fitness for one in cached.trace] == [one.fitness for one in uncached.trace]
    assert uncached.seconds == 200 * COST
    assert cached.seconds == pytest.approx(len(domain.evaluated) * COST + 200 * HASH)
    kinds = Counter(one.kind for one in cached.trace)
    assert kinds["miss"] == len(domain.evaluated)
    assert kinds["full"] == 200 - len(domain.evaluated)


def test_at_equal_cost_a_cache_sees_more_candidates() -> None:
    _, cached = searched(seconds=500, cache=EquivalenceCache())
    _, uncached = searched(seconds=500)
    assert len(uncached.trace) == 50
    assert len(cached.trace) > 3 * 50
    assert cached.trace[-1].best >= uncached.trace[-1].best


def test_a_candidate_that_ends_after_the_limit_does_not_count() -> None:
    domain, search = searched(seconds=25)
    assert len(search.trace) == 2
    assert sum(domain.evaluated.values()) == 3
    assert search.trace[-1].seconds == 20
    assert search.ended
    assert next(search.run(), None) is None


def test_a_tournament_takes_the_best_and_of_equals_the_later() -> None:
    domain = Sums()
    everyone = Strategy(population=4, tournament=4)
    search = Search(domain, everyone, Limits(candidates=9), seed=3)
    for _ in search.run():
        before = list(search._population)
        if len(before) < 4:
            continue
        parent = search._parent()
        assert parent is not None
        best = max(one.fitness for one in before)
        assert parent is [one for one in before if one.fitness == best][-1]
    assert len(search._population) == 4
    ages = [one.fitness for one in search.trace][-4:]
    assert [one.fitness for one in search._population] == ages  # the oldest were dropped


def test_different_mutates_until_the_function_changes() -> None:
    domain, search = searched(
        Strategy(population=8, tournament=3, different=True), count=100, cache=EquivalenceCache()
    )
    assert search.refused > 0
    assert domain.proposed == 100 + search.refused
    assert search.seconds == pytest.approx(
        len(domain.evaluated) * COST + (100 + search.refused) * HASH
    )


def test_different_gives_up_where_there_is_one_function() -> None:
    domain = Sums()
    domain.key = lambda candidate: ("one", HASH)  # type: ignore[method-assign]
    strategy = Strategy(population=2, tournament=1, different=True, retries=3)
    _, search = searched(strategy, domain=domain, count=6, cache=EquivalenceCache())
    assert len(search.trace) == 6
    assert search.refused == 4 * 3
    assert sum(domain.evaluated.values()) == 1


def test_a_tabu_list_refuses_what_was_seen_often() -> None:
    plain, _ = searched(Strategy(algorithm="random"), count=40)
    strategy = Strategy(algorithm="random", tabu_after=2, retries=500)
    domain, search = searched(strategy, count=40)
    assert search.refused > 0
    assert max(domain.evaluated.values()) <= 2 < max(plain.evaluated.values())


def test_noise_is_averaged_by_partial_hits_and_drawn_anew() -> None:
    domain, search = searched(
        domain=Sums(noise=0.4), count=100, cache=EquivalenceCache(max_num_evals=3)
    )
    assert max(domain.evaluated.values()) == 3
    assert {one.kind for one in search.trace} == {"miss", "partial", "full"}
    firsts = [one.fitness % 1 for one in search.trace[:5]]
    assert len(set(firsts)) == 5


def test_checks_find_false_hits_and_cost_nothing() -> None:
    _, search = searched(domain=Sums(false=True), count=100, cache=EquivalenceCache(), checked=0.5)
    hits = sum(one.kind == "full" for one in search.trace)
    assert 0.2 * hits < len(search.checks) < 0.8 * hits
    assert any(abs(one.stored - one.own) == 1 for one in search.checks)
    assert all(one.agreed == (one.stored == one.own) for one in search.checks)
    misses = 100 - hits
    assert search.seconds == pytest.approx(misses * COST + 100 * HASH)
    _, sound = searched(count=100, cache=EquivalenceCache(), checked=0.5)
    assert sound.checks
    assert all(one.stored == one.own and one.agreed for one in sound.checks)


@pytest.mark.parametrize("algorithm", ["evolution", "random", "hill-climbing"])
def test_a_search_goes_on_from_its_state(algorithm: Any) -> None:
    strategy = Strategy(algorithm=algorithm, population=5, tournament=2, tabu_after=9)

    def fresh(cache: EquivalenceCache) -> Search[tuple[int, ...]]:
        return Search(
            Sums(noise=0.1), strategy, Limits(candidates=60), cache=cache, checked=0.3, seed=5
        )

    whole = fresh(EquivalenceCache())
    steps = list(whole.run())
    cache = EquivalenceCache()
    first = fresh(cache)
    begun: list[Step] = []
    for step in first.run():
        begun.append(step)
        if len(begun) == 25:
            break
    second = fresh(cache)
    second.restore(json.loads(json.dumps(first.state())))
    assert begun + list(second.run()) == steps
    assert second.checks == whole.checks
    assert second.best == whole.best
    assert second.state() == whole.state()


def test_only_the_seed_decides() -> None:
    _, one = searched(count=60, seed=1)
    random.seed(99)
    _, same = searched(count=60, seed=1)
    _, other = searched(count=60, seed=2)
    assert one.trace == same.trace
    assert one.trace != other.trace


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Strategy(algorithm="annealing"), "expected evolution, random or hill-climbing"),  # type: ignore[arg-type]
        (lambda: Strategy(population=3, tournament=4), "tournament=4, population=3"),
        (lambda: Strategy(tabu_after=-1), "tabu_after >= 0"),
        (lambda: Limits(), "a limit of seconds or candidates"),
        (lambda: Limits(seconds=0), "above 0"),
        (lambda: Search(Sums(), SMALL, Limits(candidates=1), checked=2), r"in \[0,1\], got 2"),
    ],
)
def test_bad_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("document", [{}, {"seconds": "soon"}, {"seconds": 1, "refused": None}])
def test_a_damaged_state_is_refused(document: Any) -> None:
    search = Search(Sums(), SMALL, Limits(candidates=1))
    with pytest.raises(StorageError, match="expected the state of a search"):
        search.restore(document)
