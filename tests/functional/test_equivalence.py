"""Functional hashes: equal functions, however written; and the cache that they are the keys of."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, fx, nn

from advhash.errors import StorageError
from advhash.functional.evaluation_cache import EquivalenceCache, Evaluation
from advhash.functional.functional_hash import FunctionalHash, quantised

CANARY = (torch.linspace(-2, 2, 24).view(4, 6),)
HASH = FunctionalHash(CANARY, {"data": "tests"})


class Written(nn.Module):
    """tanh(2x) summed over columns, as a module."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(2 * x).sum(dim=1)


def graph() -> nn.Module:
    """The same as a graph, its nodes made by hand."""
    built = fx.Graph()
    x = built.placeholder("x")
    doubled = built.call_function(torch.add, (x, x))
    curved = built.call_function(torch.tanh, (doubled,))
    built.output(built.call_method("sum", (curved,), {"dim": 1}))
    return fx.GraphModule(nn.Module(), built)


def program(steps: list[tuple[str, str, tuple[Any, ...]]]) -> Callable[[Tensor], Tensor]:
    """A little imperative program over registers."""
    known: dict[str, Callable[..., Any]] = {
        "multiply": torch.mul, "tanh": torch.tanh, "total": lambda v: v.sum(dim=1),
    }  # fmt: skip

    def run(x: Tensor) -> Tensor:
        registers: dict[str, Any] = {"x": x}
        for target, name, arguments in steps:
            registers[target] = known[name](*(registers.get(a, a) for a in arguments))
        out: Tensor = registers["out"]
        return out

    return run


PROGRAM = program(
    [("a", "multiply", ("x", 2.0)), ("dead", "multiply", ("a", 9.0)), ("a", "tanh", ("a",)),
     ("out", "total", ("a",))]
)  # fmt: skip


def test_one_function_has_one_hash_in_every_representation() -> None:
    written = [Written(), graph(), fx.symbolic_trace(Written()), PROGRAM]
    lambdas = [lambda x: torch.tanh(2 * x).sum(1), lambda x: torch.tanh(x + x).sum(1)]
    assert len({HASH(one) for one in [*written, *lambdas]}) == 1


def test_near_ones_have_others() -> None:
    near = [
        lambda x: torch.tanh(2.001 * x).sum(1),
        lambda x: torch.tanh(2 * x).sum(0),
        lambda x: -torch.tanh(2 * x).sum(1),
        lambda x: torch.tanh(2 * x).sum(1) + 1e-4,
        lambda x: torch.tanh(2 * x).sum(1, keepdim=True),
    ]
    assert len({HASH(one) for one in [Written(), *near]}) == len(near) + 1


def test_coarser_mantissas_tell_less_apart() -> None:
    few = [(lambda x, f=f: f * x) for f in np.linspace(1, 2, 40, endpoint=False)]
    counts = [
        len({FunctionalHash((torch.ones(1),), {}, bits=bits)(one) for one in few})
        for bits in (0, 1, 3, 24)
    ]
    assert counts == [1, 2, 8, 40]


def test_protocol_and_precision_belong_to_the_key() -> None:
    keys = {
        FunctionalHash(CANARY, protocol, bits=bits)(Written())
        for protocol in ({"epochs": 1}, {"epochs": 2})
        for bits in (23, 24)
    }
    assert len(keys) == 4


def test_chance_is_fixed_and_given_back() -> None:
    def chancy(x: Tensor) -> Tensor:
        return x * torch.rand(()) + random.random() + np.random.rand()

    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    before = (torch.rand(()).item(), random.random(), np.random.rand())
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    first = HASH(chancy)
    assert (torch.rand(()).item(), random.random(), np.random.rand()) == before
    assert HASH(chancy) == first
    assert FunctionalHash(CANARY, {"data": "tests"}, seed=1)(chancy) != first


def test_nothing_of_candidate_or_canary_changes() -> None:
    module = nn.Sequential(nn.BatchNorm1d(6), nn.Dropout()).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    first = HASH(module)
    assert module.training
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())

    def spoils(x: Tensor) -> Tensor:
        return x.mul_(0)

    HASH(spoils)
    assert HASH(module) == first
    assert float(CANARY[0].abs().sum()) > 0


def test_places_of_numbers_belong_to_the_key() -> None:
    keys = {
        HASH(lambda x, value=value: value)
        for value in ({"a": 1.0, "b": 2.0}, {"a": 1.0, "c": 2.0}, [1.0, 2.0], [1.0, [2.0]],
                      [[1.0], 2.0, ()], 1 + 2j, torch.tensor(1 + 3j))
    }  # fmt: skip
    assert len(keys) == 5  # [2.0] is 2.0, and () is nothing
    assert HASH(lambda x: {"a": 1.0, 2: 0.0}) == HASH(lambda x: {2: 0.0, "a": 1.0})
    assert HASH(lambda x: x.to(torch.bfloat16)) == HASH(lambda x: x.to(torch.bfloat16).double())


@pytest.mark.parametrize("value", [None, "0.5", object(), {"a": None}, np.array(["b"])])
def test_what_returns_no_numbers_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="expected a candidate that returns floats"):
        HASH(lambda x: value)


def test_failures_are_known_by_their_kind() -> None:
    def division(x: Tensor) -> float:
        return 1 / 0

    def shape(x: Tensor) -> Tensor:
        return x.view(7, 7)

    assert HASH(division) == HASH(division) != HASH(shape)
    with pytest.raises(KeyboardInterrupt):
        HASH(lambda x: (_ for _ in ()).throw(KeyboardInterrupt))


def test_odd_numbers() -> None:
    words = quantised([math.nan, -math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, -1.0], 24)
    assert words[0] == words[1]
    assert words[4] == words[5] == 0
    assert len(set(words.tolist())) == 6
    assert quantised(-5e-324, 24) == 0  # all its bits are cut
    coarse = quantised([math.nan, math.inf, -math.inf], 0)
    assert len(set(coarse.tolist())) == 3
    assert quantised(0.5, 24) != quantised(0.5 - 1e-12, 24)  # an edge splits, however close
    with pytest.raises(ValueError, match="0 to 52"):
        quantised([1.0], 53)


def scores(values: list[float]) -> Callable[[], Evaluation]:
    """An evaluation that gives one value after the other."""
    left = iter(values)
    return lambda: Evaluation({"fitness": next(left)}, 10.0)


def test_a_miss_is_evaluated_and_a_hit_is_not() -> None:
    cache = EquivalenceCache()
    evaluate = scores([0.25])
    first = cache.evaluate("a", evaluate, hash_seconds=1.0)
    again = cache.evaluate("a", evaluate, hash_seconds=1.0)
    assert (first.kind, first.seconds) == ("miss", 11.0)
    assert (again.kind, again.seconds, again.figures) == ("full", 1.0, {"fitness": 0.25})
    found = cache.statistics
    assert (found.misses, found.full_hits, found.hash_seconds) == (1, 1, 2.0)
    assert (found.evaluation_seconds, found.saved_seconds) == (10.0, 10.0)
    assert found.hit_rate == 0.5
    assert found.hash_overhead == pytest.approx(2 / 12)


def test_several_evaluations_are_averaged() -> None:
    cache = EquivalenceCache(max_num_evals=3)
    evaluate = scores([1.0, 2.0, 6.0])
    kinds, means = [], []
    for _ in range(4):
        found = cache.evaluate("a", evaluate, hash_seconds=0.0)
        kinds.append(found.kind)
        means.append(found.figures["fitness"])
    assert kinds == ["miss", "partial", "partial", "full"]
    assert means == [1.0, 1.5, 3.0, 3.0]


def test_a_hit_can_be_the_last() -> None:
    always = EquivalenceCache(remove_probability=1.0)
    evaluate = scores([1.0, 2.0])
    found = [always.evaluate("a", evaluate, hash_seconds=0.0) for _ in range(3)]
    assert [one.kind for one in found] == ["miss", "full", "miss"]
    assert found[1].figures == {"fitness": 1.0}  # that hit still gets the stored value
    assert always.statistics.forgotten == 1
    third = EquivalenceCache(forget_every=3)
    evaluate = scores([1.0, 2.0])
    kinds = [third.evaluate("a", evaluate, hash_seconds=0.0).kind for _ in range(5)]
    assert kinds == ["miss", "full", "full", "full", "miss"]


def test_forgetting_by_chance_is_seeded() -> None:
    def kinds(seed: int) -> list[str]:
        cache = EquivalenceCache(remove_probability=0.5, seed=seed)
        evaluate = scores([1.0] * 40)
        return [cache.evaluate("a", evaluate, hash_seconds=0.0).kind for _ in range(40)]

    assert kinds(1) == kinds(1) != kinds(2)


def test_the_longest_unused_key_goes_first() -> None:
    cache = EquivalenceCache(capacity=2)
    for key in ("a", "b", "a", "c"):
        cache.evaluate(key, scores([1.0]), hash_seconds=0.0)
    assert len(cache) == 2
    assert cache.statistics.evicted == 1
    assert cache.evaluate("a", scores([2.0]), hash_seconds=0.0).kind == "full"
    assert cache.evaluate("b", scores([2.0]), hash_seconds=0.0).kind == "miss"


def test_a_cache_goes_on_from_its_state() -> None:
    def fresh() -> EquivalenceCache:
        return EquivalenceCache(remove_probability=0.4, capacity=3, max_num_evals=2, seed=3)

    def looked_up(cache: EquivalenceCache, first: int, last: int) -> list[Any]:
        return [
            cache.evaluate(f"k{place % 4}", scores([float(place)]), hash_seconds=1.0)
            for place in range(first, last)
        ]

    whole, first, second = fresh(), fresh(), fresh()
    steps = looked_up(whole, 0, 60)
    begun = looked_up(first, 0, 30)
    looked_up(second, 5, 9)  # replaced
    second.restore(json.loads(json.dumps(first.state())))
    assert begun + looked_up(second, 30, 60) == steps
    assert second.state() == whole.state()
    assert second.document() == whole.document()


@pytest.mark.parametrize(
    "document",
    [{}, {"entries": [[1]], "counts": [], "chance": [3, [1], None]},
     {"entries": [], "counts": [], "chance": [3, [1], None]}],
)  # fmt: skip
def test_a_damaged_state_is_refused_and_changes_nothing(document: Any) -> None:
    cache = EquivalenceCache()
    cache.evaluate("a", scores([1.0]), hash_seconds=0.0)
    with pytest.raises(StorageError, match="expected"):
        cache.restore(document)
    assert len(cache) == 1


def test_a_failed_evaluation_leaves_nothing() -> None:
    cache = EquivalenceCache()

    def fails() -> Evaluation:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        cache.evaluate("a", fails, hash_seconds=1.0)
    assert len(cache) == 0
    assert cache.evaluate("a", scores([1.0]), hash_seconds=1.0).kind == "miss"


WORK = """
import sys
from pathlib import Path
from advhash.functional.evaluation_cache import EquivalenceCache, Evaluation
cache = EquivalenceCache(Path(sys.argv[1]), max_num_evals=1_000_000)
for place in range(60):
    cache.evaluate(f"k{place % 7}", lambda: Evaluation({"fitness": 1.0}, 1.0), hash_seconds=1.0)
"""


def test_processes_share_a_file_and_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "cache.sqlite"
    command = [sys.executable, "-c", WORK, str(path)]
    workers = [subprocess.Popen(command) for _ in range(3)]
    assert [worker.wait(timeout=120) for worker in workers] == [0, 0, 0]
    cache = EquivalenceCache(path, max_num_evals=1)
    found = cache.statistics
    assert (found.lookups, found.misses, len(cache)) == (180, 7, 7)
    assert found.hash_seconds == 180
    assert cache.evaluate("k3", scores([5.0]), hash_seconds=0.0).figures == {"fitness": 1.0}


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_bytes(b"these are notes, no table" * 100)
    with pytest.raises(StorageError, match="expected an equivalence cache"):
        EquivalenceCache(file)


@pytest.mark.parametrize(
    "settings",
    [{"max_num_evals": 0}, {"remove_probability": 1.5}, {"forget_every": -1}, {"capacity": 0}],
)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        EquivalenceCache(**settings)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("figures", "[1]"), ("figures", "{"), ("figures", '{"fitness": "x"}'), ("figures", None),
        ("seconds", "x"), ("seconds", None), ("hits", "x"), ("figures", b"\xff"),
        ("seconds", 1e999),
    ],
)  # fmt: skip
def test_a_row_that_nobody_of_us_wrote_is_one_line(
    tmp_path: Path, column: str, value: object
) -> None:
    """SQLite keeps any type in any column."""
    cache = EquivalenceCache(tmp_path / "cache.sqlite")
    cache.evaluate("a", lambda: Evaluation({"fitness": 1.0}, 1.0), hash_seconds=0.0)
    cache.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "cache.sqlite")) as table, table:
        table.execute("DROP TABLE entries")
        row = {"key": "a", "evaluations": 1, "hits": 0, "figures": "{}", "seconds": 0.5, "used": 1}
        table.execute(f"CREATE TABLE entries ({', '.join(row)}, UNIQUE (key))")
        values = [*(row | {column: value}).values()]
        table.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", values)
    cache = EquivalenceCache(tmp_path / "cache.sqlite")
    with pytest.raises(StorageError, match="expected an equivalence cache"):
        cache.evaluate("a", lambda: Evaluation({"fitness": 1.0}, 1.0), hash_seconds=0.0)
    cache.close()


@pytest.mark.timeout(20)
def test_a_pipe_is_no_cache(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cache.sqlite")
    with pytest.raises(StorageError, match="a pipe or a device"):
        EquivalenceCache(tmp_path / "cache.sqlite")


@pytest.mark.parametrize("row", [("odd", 1.0), (None, 1.0), ("misses", "x"), ("misses", 1e999)])
def test_counts_that_nobody_of_us_wrote_are_one_line(tmp_path: Path, row: tuple) -> None:
    EquivalenceCache(tmp_path / "cache.sqlite").close()
    with contextlib.closing(sqlite3.connect(tmp_path / "cache.sqlite")) as table, table:
        table.execute("DROP TABLE counts")
        table.execute("CREATE TABLE counts (name UNIQUE, value)")
        table.execute("INSERT INTO counts VALUES (?, ?)", row)
    cache = EquivalenceCache(tmp_path / "cache.sqlite")
    with pytest.raises(StorageError, match="expected an equivalence cache"):
        cache.document()
    cache.close()


def test_a_mean_over_no_evaluations_is_one_line(tmp_path: Path) -> None:
    cache = EquivalenceCache(tmp_path / "cache.sqlite", max_num_evals=2)
    cache.evaluate("a", lambda: Evaluation({"fitness": 1.0}, 1.0), hash_seconds=0.0)
    with contextlib.closing(sqlite3.connect(tmp_path / "cache.sqlite")) as table, table:
        table.execute("UPDATE entries SET evaluations = -1")
    with pytest.raises(StorageError, match="division by zero"):
        cache.evaluate("a", lambda: Evaluation({"fitness": 1.0}, 1.0), hash_seconds=0.0)
    cache.close()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_figures_that_are_not_finite_are_the_fault_of_who_brings_them(value: float) -> None:
    """They are not kept: the next look-up would call the file damaged."""
    cache = EquivalenceCache()
    with pytest.raises(ValueError, match="expected finite figures of 'a'"):
        cache.evaluate("a", lambda: Evaluation({"fitness": value}, 1.0), hash_seconds=0.0)
    assert len(cache) == 0
