"""`advhash evolve`: both domains end to end, what is refused, and going on after an interrupt."""

from __future__ import annotations

import gzip
import json
import shutil
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from advhash.attacks.evolved.genome import read_genome
from advhash.errors import AdvhashError, ConfigError, RunError, StorageError, UsageError
from advhash.experiments.attack.run import AttackExperiment
from advhash.experiments.config import AttackConfig, TrainConfig, VictimConfig
from advhash.experiments.evolve import cell, run
from advhash.experiments.evolve.config import SearchConfig
from advhash.experiments.evolve.domain import AttackDomain
from advhash.experiments.evolve.run import Evolve
from advhash.experiments.evolve.winner import STEPS
from advhash.experiments.experiment import describe, resume, run as run_experiment
from advhash.experiments.prepare.hardened import prepare
from advhash.functional.evolution import Limits, Search, Strategy
from advhash.functional.nas import (
    SCHEMA,
    CellDomain,
    distinct_cells,
    normal_form,
    read_table,
)
from advhash.reports.evolve import SearchRecord
from advhash.reports.page.render import page
from advhash.storage.cache import cache_root

HEADLINE = (
    "speedup", "hit_rate", "best_fitness", "best_fitness_uncached", "false_hit_rate",
    "hash_overhead",
)  # fmt: skip


def search(config: SearchConfig, out: Path, **how: Any) -> SearchRecord:
    return run_experiment(Evolve(), config, out, **how)


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
    assert false.value == false.low == 0
    assert false.n == sum(one.checked for one in record.of("cached"))
    assert 0 < (false.high or 0) < 0.2  # none of so many leaves some room
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
    assert read == record
    assert read.differences["best_gain"].p is not None


def test_only_the_seed_decides_in_simulated_time(
    cells: tuple[SearchRecord, Path], table: Path, tmp_path: Path
) -> None:
    again = search(nas(table), tmp_path / "again")
    assert again.results == cells[0].results
    assert again.metrics == cells[0].metrics
    assert again.differences == cells[0].differences


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
    for one in record.held_out:
        assert one.tuned_step == record.held_out[0].tuned_step in STEPS
        means = [one.tmap[name].value for name in ("winner", "dhta", "dhta_tuned")]
        assert one.difference.value == pytest.approx(means[0] - means[1])  # type: ignore[operator]
        assert one.tuned_difference.value == pytest.approx(means[0] - means[2])  # type: ignore[operator]
    genome = read_genome(record.winner)
    config = AttackConfig.build(tomllib.loads((out / "winner.toml").read_text("utf-8")))
    assert config.attack.name == "evolved"
    assert config.attack.settings["program"] == list(genome.program)
    assert config.attack.settings["steps"] == genome.steps(3)
    plan = describe(AttackExperiment(), config)
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
    real, calls = run.run_search, []

    def stopping(task: Any) -> Any:
        calls.append(task)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(task)

    monkeypatch.setattr(run, "run_search", stopping)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        search(nas(table, repeats=1), out)
    assert not out.exists()
    resume(out)
    assert len(calls) == 4 + 2 + 8  # the fourth again, the last, and the study


# Kills, and other places to run


def untimed(record: SearchRecord) -> list[dict[str, Any]]:
    """Results without their seconds, which no two runs share."""
    rows = []
    for one in record.results:
        row = one.model_dump()
        del row["seconds"]
        row["cache"] = {name: v for name, v in row["cache"].items() if "seconds" not in name}
        row["curve"] = [point[1:] for point in row["curve"]]
        row["improvements"] = [point[1:] for point in row["improvements"]]
        rows.append(row)
    return rows


FORGETFUL = {"remove_probability": 0.5, "repeats": 1, "candidates": 14}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    record = search(attack(**FORGETFUL), tmp_path_factory.mktemp("whole") / "run")
    rows = untimed(record)
    assert rows[0]["cache"]["forgotten"] > 0
    return rows


@pytest.mark.parametrize("victim", ["evaluate", "save"])
@pytest.mark.parametrize("every", [0.0, 0.05])
def test_a_search_over_attacks_killed_half_way_goes_on_as_if_it_was_not(
    victim: str, every: float, undisturbed: list[dict[str, Any]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Inside an evaluation, or after one that the cache knows and the state on disk does not."""
    monkeypatch.setattr(cell, "SAVED_EVERY", every)
    calls: list[None] = []
    owner: Any
    owner, name = (AttackDomain, "evaluate") if victim == "evaluate" else (cell, "_save")
    real = getattr(owner, name)

    def killed(*arguments: Any) -> Any:
        calls.append(None)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(owner, name, killed)
    config = attack(**FORGETFUL)
    try:
        search(config, tmp_path / "run")
    except KeyboardInterrupt:
        kept = list((cache_root() / "searches").glob("*/state.json"))
        assert kept or every
        if Path(f"{tmp_path / 'run'}.partial").is_dir():
            resume(tmp_path / "run")
        else:  # no search was finished
            search(config, tmp_path / "run")
    assert len(calls) > 5
    assert untimed(SearchRecord.read(tmp_path / "run")) == undisturbed
    assert not list((cache_root() / "searches").iterdir())


def test_a_checkpoint_that_was_replaced_is_searched_anew(tmp_path: Path) -> None:
    """In one process, at one path: the victim of the run before is not the victim of this one."""
    place, found = tmp_path / "victim", []
    for seed in (0, 1):
        given = {"victim": {"name": "dpsh", "seed": seed, **TINY}}
        given["dataset"] = {"name": "digits", "size": 16}
        shutil.rmtree(place, ignore_errors=True)
        trained = prepare(TrainConfig.build(given))
        assert trained.folder is not None
        shutil.copytree(trained.folder, place)
        config = attack(repeats=1).model_copy(update={"victim": VictimConfig(name=str(place))})
        found.append(untimed(search(config, tmp_path / f"replaced-{seed}")))
    cell._ranges.clear()
    assert untimed(search(config, tmp_path / "fresh")) == found[1] != found[0]


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    domain = CellDomain({"cells": {}})
    fresh = Search(domain, Strategy(), Limits(candidates=1))
    for text in ("", "[]", "{}", '{"search": {}, "cache": {}}'):
        file = tmp_path / "state.json"
        file.write_text(text)
        with pytest.raises(StorageError, match="expected the state of a search"):
            cell._restore(file, fresh, None)


def test_a_search_begins_again_where_its_state_is_damaged(tmp_path: Path) -> None:
    """One digit of it could be another candidate's fitness."""

    def made() -> Search[Any]:
        table = read_table()
        return Search(
            CellDomain(table), Strategy(population=4, tournament=2), Limits(candidates=12), seed=3
        )

    whole, file = made(), tmp_path / "state.json"
    cell._run_kept(file, whole, None)
    text = file.read_text()
    assert cell._read_state(file)[0] == json.loads(json.dumps(whole.state()))
    place = text.rindex("0.9")
    file.write_text(f"{text[:place]}0.1{text[place + 3 :]}")
    again = made()
    cell._run_kept(file, again, None)
    assert again.state() == whole.state()
    assert file.read_text() == text


def test_a_search_is_not_begun_again_for_a_lack_of_handles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_handles(*_: object) -> Any:
        raise OSError(24, "Too many open files")

    file = tmp_path / "state.json"
    file.write_text("kept")
    monkeypatch.setattr(cell, "read_json", no_handles)
    search = Search(CellDomain(read_table()), Strategy(), Limits(candidates=1))
    with pytest.raises(StorageError):
        cell._run_kept(file, search, None)
    assert file.read_text() == "kept"


@pytest.mark.parametrize("executor", ["local", "dask"])
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_every_executor_gives_the_same_results(
    executor: str, cells: tuple[SearchRecord, Path], undisturbed: list[dict[str, Any]],
    table: Path, tmp_path: Path,
) -> None:  # fmt: skip
    with place_to_run(executor) as name:
        found = search(nas(table), tmp_path / "nas", executor=name)
        assert found.results == cells[0].results
        assert found.noise == cells[0].noise
        found = search(attack(**FORGETFUL), tmp_path / "attack", executor=name)
        assert untimed(found) == undisturbed


@contextmanager
def place_to_run(executor: str) -> Iterator[str]:
    if executor == "local":
        yield "local"
        return
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, host="127.0.0.1",
        dashboard_address=None, silence_logs=50,
    ) as started:  # fmt: skip
        yield f"dask:{started.scheduler_address}"


# What is refused


SIGNS = "def codes(images):\n    return (images.flatten(1)[:, :8] - 0.5).sign()\n"


@pytest.mark.parametrize("place", ["victim", "other"])
@pytest.mark.parametrize(
    ("name", "message"),
    [("signs_of_mine:codes", "needs gradients"), ("hashvfl", "modality"), ("nothing", "unknown")],
)
def test_a_victim_that_cannot_be_searched_is_refused_before_any_training(
    place: str, name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "signs_of_mine.py").write_text(SIGNS)
    monkeypatch.syspath_prepend(tmp_path)

    monkeypatch.setattr("advhash.experiments.prepare.planned.prepare", None)
    config = SearchConfig.build(
        {"domain": "attack", "dataset": {"name": "digits", "size": 16}, place: {"name": name}}
    ).trusting(True)
    with pytest.raises(UsageError, match=message):
        search(config, tmp_path / "run")
    assert not list(tmp_path.glob("run*"))


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"domain": "music"}, ConfigError, "domain"),
        ({"domain": "nas", "search": {"bits": 53}}, ConfigError, "bits"),
        ({"domain": "nas", "search": {"seconds": 0}}, ConfigError, "seconds"),
        ({"domain": "nas", "executor": "moon"}, ConfigError, "no setting 'executor'"),
        ({"domain": "nas", "search": {"population": 2, "tournament": 3}}, UsageError, "tournament"),
        ({"domain": "nas", "victim": {"name": "csq"}}, UsageError, "expected no victim"),
        ({"domain": "nas", "budget": {"eps": "8/255"}}, UsageError, "expected no budget"),
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
    data = {"dataset": {"name": "digits", "size": 16}} if values["domain"] == "attack" else {}
    with pytest.raises(error, match=message):
        search(SearchConfig.build({**data, **values}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_place_that_is_none_is_refused(table: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--executor"):
        search(nas(table), tmp_path / "run", executor="moon")
    assert not list(tmp_path.glob("run*"))


def test_configs_of_the_old_name_are_read(table: Path) -> None:
    old = {**nas(table).model_dump(exclude_none=True), "command": "search", "executor": "local"}
    assert SearchConfig.build(old) == nas(table)
