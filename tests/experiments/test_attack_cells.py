"""The cells of an attack: blocks of its queries, which any process can make, and the ceilings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from advhash.compute.progress import silent
from advhash.experiments import experiment
from advhash.experiments.attack.run import AttackExperiment, Block, Ceiling
from advhash.experiments.config import AttackConfig
from advhash.experiments.experiment import Place, describe, resume, run
from advhash.reports.record import Record

TABLES: dict[str, Any] = {
    "victim": {"name": "dhash"},
    "dataset": {"name": "digits", "size": 16},
    "attack": {"name": "dhta", "steps": 3},
    "budget": {"norm": "linf", "eps": 8 / 255},
    "protocol": {"queries": 20, "batch_size": 8, "poison": 9},
}


def config(**tables: Mapping[str, Any]) -> AttackConfig:
    return AttackConfig.build({**TABLES, **tables})


def figures(folder: Path) -> tuple[dict[str, Any], Any]:
    """All that is measured, without times."""
    document = json.loads((folder / "metrics.json").read_text())
    metrics = {name: value for name, value in document["metrics"].items() if "seconds" not in name}
    kept = {"metrics": metrics, "flags": document["flags"], "attack": document["attack"]}
    return kept, pq.read_table(folder / "queries.parquet").to_pylist()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADVHASH_CACHE", str(folder / "cache"))
        run(AttackExperiment(), config(), folder / "run")
    return folder / "run"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ADVHASH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_blocks_are_cells_and_the_ceilings_come_first(cache: Path) -> None:
    cells = AttackExperiment().plan(config()).cells
    assert isinstance(cells[0], Ceiling)
    blocks = [(cell.first, cell.stop, cell.planted) for cell in cells if isinstance(cell, Block)]
    assert blocks == [(0, 8, False), (8, 16, False), (16, 20, False), (0, 8, True), (8, 9, True)]
    assert len({cell.key for cell in cells}) == len(cells)
    assert describe(AttackExperiment(), config())["cells"] == 6


def test_an_attack_that_couples_queries_is_one_block(cache: Path) -> None:
    plan = AttackExperiment().plan(config(attack={"name": "universal"}))
    blocks = [(cell.first, cell.stop) for cell in plan.cells if isinstance(cell, Block)]
    assert blocks == [(0, 20), (0, 9)]
    assert "one worker attacks all of them" in plan.whole
    assert AttackExperiment().plan(config()).whole == ""


def test_several_budgets_share_the_ceilings(cache: Path) -> None:
    plan = AttackExperiment().plan(config(budget={"norm": "linf", "eps": "4/255,8/255"}))
    assert [type(cell) for cell in plan.cells] == [Ceiling, *[Block] * 10]


def test_blocks_give_what_the_whole_attack_gives(whole: Path, cache: Path) -> None:
    plan = AttackExperiment().plan(config())
    store = experiment.CellStore("attack", plan.attacks[0].key)
    result = AttackExperiment().compute(plan.attacks[0], Place(plan.parts, silent, store=store))
    found = json.loads(Record.from_document(result.document).dumps())
    divided = json.loads((whole / "metrics.json").read_text())
    for name in ("seconds_fit", "seconds_per_image"):
        assert found["metrics"].pop(name)
        assert divided["metrics"].pop(name)
    assert "poison_hit10" in found["metrics"]
    for name in ("metrics", "metrics_by_direction", "flags"):
        assert found[name] == divided[name]


def test_an_interrupted_attack_makes_the_missing_blocks_alone(
    whole: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, made = AttackExperiment.compute, list[Any]()

    def once(self: AttackExperiment, cell: Any, place: Place) -> Any:
        made.append(cell)
        if len(made) == 3:
            raise KeyboardInterrupt
        return real(self, cell, place)

    monkeypatch.setattr(AttackExperiment, "compute", once)
    with pytest.raises(KeyboardInterrupt):
        run(AttackExperiment(), config(), cache / "killed")
    assert describe(AttackExperiment(), config())["cells_done"] == 2
    resume(cache / "killed")
    assert [(cell.first, cell.planted) for cell in made[3:]] == [
        *((8, False), (16, False)),
        *((0, True), (8, True)),
    ]
    assert figures(cache / "killed") == figures(whole)


def test_a_process_keeps_the_parts_of_a_run(cache: Path) -> None:
    class Counted:
        built = 0

        def build(self, place: Place) -> int:
            Counted.built += 1
            return Counted.built

    parts = {"victim": Counted(), "fit": Counted()}
    first = experiment._kept_place("a run", parts)
    assert [first.part("victim"), first.part("fit")] == [1, 2]
    second = experiment._kept_place("a run", {"victim": parts["victim"]})
    assert second.part("victim") == 1
    third = experiment._kept_place("a run", parts)
    assert [third.part("victim"), third.part("fit")] == [1, 3]  # the second did without
    assert experiment._kept_place("another run", parts).part("victim") == 4


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_bit(
    workers: int, whole: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", str(workers))
    run(AttackExperiment(), config(), cache / "there", executor="local")
    assert figures(cache / "there") == figures(whole)
