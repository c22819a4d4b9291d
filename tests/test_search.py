"""`advhash search`: both domains end to end, what is refused, and going on after an interrupt."""

from __future__ import annotations

import gzip
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from advhash import searching
from advhash.attacks.genome import read_genome
from advhash.config import AttackConfig, SearchConfig
from advhash.errors import AdvhashError, ConfigError, RunError, UsageError
from advhash.nas import SCHEMA, distinct_cells, normal_form
from advhash.pipeline import attack_plan
from advhash.reports.html import page
from advhash.reports.search import SearchRecord
from advhash.searching import search

HEADLINE = (
    "speedup", "hit_rate", "best_fitness", "best_fitness_uncached", "false_hit_rate",
    "hash_overhead",
)  # fmt: skip
TINY = {"bits": 16, "epochs": 3, "image_size": 16}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made-up figures of the cells of 4 vertices: equal functions have equal ones."""
    names = list(distinct_cells(4))
    forms = sorted({normal_form(name).text for name in names})
    rows = {}
    for name in names:
        place = forms.index(normal_form(name).text)
        full = [
            {"valid": place / 100 + seed / 1000, "test": place / 100, "seconds": 1.0}
            for seed in range(3)
        ]
        losses = [1 + place / 256, 1.0, 1.0, 1.0]
        rows[name] = {
            "short": {"losses": losses, "accuracies": losses, "seconds": 0.03},
            "full": full,
        }
    file = tmp_path_factory.mktemp("table") / "nas.json.gz"
    file.write_bytes(gzip.compress(json.dumps({"schema": SCHEMA, "cells": rows}).encode()))
    return file


def nas(table: Path, **settings: Any) -> SearchConfig:
    return SearchConfig.build(
        {
            "domain": "nas",
            "table": str(table),
            "search": {"seconds": 40, "repeats": 2, "population": 10, "tournament": 3, **settings},
        }
    )


def attack(**settings: Any) -> SearchConfig:
    return SearchConfig.build(
        {
            "domain": "attack",
            "victim": {"name": "dpsh", **TINY},
            "other": {"name": "dpsh", **TINY, "bits": 12},
            "dataset": {"name": "digits", "size": 16},
            "budget": {"eps": "32/255"},
            "search": {
                "candidates": 8, "repeats": 2, "population": 3, "tournament": 2, "steps": 3,
                "queries": 12, "held_out": 20, "checked": 1.0, **settings,
            },
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def cells(table: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[SearchRecord, Path]:
    out = tmp_path_factory.mktemp("nas") / "run"
    return search(nas(table), out), out


@pytest.fixture(scope="module")
def attacks(tmp_path_factory: pytest.TempPathFactory) -> tuple[SearchRecord, Path]:
    out = tmp_path_factory.mktemp("attack") / "run"
    return search(attack(), out), out


def test_cells_are_searched_further_with_the_cache(cells: tuple[SearchRecord, Path]) -> None:
    record, _ = cells
    assert record.arms == ["cached", "uncached", "structure", "random", "hill-climbing"]
    for arm in record.arms:
        assert [one.repeat for one in record.of(arm)] == [0, 1]
    assert [one.candidates for one in record.of("uncached")] == [40, 40]
    for one, two in zip(record.of("cached"), record.of("uncached"), strict=True):
        assert one.candidates > 3 * two.candidates
        assert one.seconds <= 40
        assert sum(one.lookups.values()) == one.candidates
    for name in HEADLINE:
        assert record.metrics[name] is not None
    speedup = record.metrics["speedup"]
    assert speedup is not None
    assert (speedup.value or 0) > 3
    false = record.metrics["false_hit_rate"]
    assert false is not None
    assert false.value == 0
    overhead = record.metrics["hash_overhead"]
    assert overhead is not None
    assert overhead.value == pytest.approx(0.03)


def test_studies_are_in_the_record_and_on_the_page(cells: tuple[SearchRecord, Path]) -> None:
    record, out = cells
    assert record.coarseness[0].collided > record.coarseness[-1].collided == 0
    assert len(record.noise) == 8
    noisy = [one for one in record.noise if one.noise]
    assert all((one.claimed.value or 0) > 0 for one in noisy)
    text = page([out])
    assert "How many bits of the mantissa" in text
    assert "cache by structure" in text
    read = SearchRecord.read(out)
    assert (read.results, read.noise, read.winner) == (record.results, record.noise, record.winner)


def test_only_the_seed_decides_in_simulated_time(
    cells: tuple[SearchRecord, Path], table: Path, tmp_path: Path
) -> None:
    again = search(nas(table), tmp_path / "again")
    assert again.results == cells[0].results
    assert again.metrics == cells[0].metrics


def test_an_attack_is_found_judged_and_exported(attacks: tuple[SearchRecord, Path]) -> None:
    record, out = attacks
    assert record.arms == ["cached", "uncached"]
    assert all(one.candidates == 8 for one in record.results)
    for name in HEADLINE:
        assert name in record.metrics
    assert [(one.victim, one.searched) for one in record.held_out] == [
        ("dpsh", True), ("dpsh", False),
    ]  # fmt: skip
    assert all(one.queries == 20 for one in record.held_out)
    genome = read_genome(record.winner)
    config = AttackConfig.build(tomllib.loads((out / "winner.toml").read_text("utf-8")))
    assert config.attack.name == "evolved"
    assert config.attack.settings["program"] == list(genome.program)
    assert config.attack.settings["steps"] == 3
    plan = attack_plan(config)
    assert plan["victim"]["trained"] is True
    assert "found" in page([out])


def test_hits_of_attacks_are_true(attacks: tuple[SearchRecord, Path]) -> None:
    for one in attacks[0].of("cached"):
        assert one.checked == one.lookups.get("full", 0)
        assert one.false == 0


def test_cached_and_uncached_searches_see_the_same_candidates(
    attacks: tuple[SearchRecord, Path],
) -> None:
    record = attacks[0]
    for one, two in zip(record.of("cached"), record.of("uncached"), strict=True):
        assert one.figures["fitness"] == pytest.approx(two.figures["fitness"], abs=1e-6)
        assert one.best == two.best


def test_an_interrupted_run_goes_on(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = searching.run_search, []

    def stopping(task: Any) -> Any:
        calls.append(task)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(task)

    monkeypatch.setattr(searching, "run_search", stopping)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        search(nas(table, repeats=1), out)
    assert not out.exists()
    search(nas(table, repeats=1), out)
    assert len(calls) == 4 + 2 + 8  # the fourth again, the last, and the study


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"domain": "music"}, ConfigError, "domain"),
        ({"domain": "nas", "search": {"bits": 53}}, ConfigError, "bits"),
        ({"domain": "nas", "search": {"seconds": 0}}, ConfigError, "seconds"),
        ({"domain": "nas", "executor": "moon"}, UsageError, "--executor"),
        ({"domain": "nas", "search": {"population": 2, "tournament": 3}}, UsageError, "tournament"),
        ({"domain": "nas", "table": "/nowhere/table.json.gz"}, RunError, "nas_table.py"),
        ({"domain": "attack", "victim": {"name": "dpsh", **TINY},
          "other": {"name": "dpsh", **TINY}}, UsageError, "no search uses"),
        ({"domain": "attack", "victim": {"name": "dpsh", **TINY},
          "budget": {"norm": "l0", "eps": 3},
          "other": {"name": "dpsh", **TINY, "bits": 12}}, UsageError, "got l0"),
        ({"domain": "attack", "budget": {"eps": 0}}, ConfigError, "positive"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(
    values: dict[str, Any], error: type[AdvhashError], message: str, tmp_path: Path
) -> None:
    given = {"dataset": {"name": "digits", "size": 16}, **values}
    with pytest.raises(error, match=message):
        search(SearchConfig.build(given), tmp_path / "run")
    assert not (tmp_path / "run").exists()
