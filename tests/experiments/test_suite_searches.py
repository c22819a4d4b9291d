"""Suites that hold searches of stores: figures are those of `advhash poison`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import command

from advhash.experiments.benchmark.config import SuiteConfig
from advhash.experiments.benchmark.run import Benchmark
from advhash.experiments.benchmark.shipped import load_suite
from advhash.experiments.experiment import run
from advhash.experiments.poison import material
from advhash.experiments.poison.config import PoisonConfig
from advhash.experiments.poison.material import StoredFloats
from advhash.experiments.poison.run import Poison
from advhash.registry import DATASETS, POISONINGS, QUANTISERS, RESCORERS, STORES
from advhash.reports.benchmark import BenchmarkRecord, verdicts

TOPICS = np.random.default_rng(3).standard_normal((12, 48))
SEARCHES: dict[str, Any] = {
    "datasets": ["openmoji+text=sentence"],
    "quantisers": ["sign"],
    "poisonings": ["hubs", "centroid"],
    "stores": ["exact", "faiss-flat"],
    "rescorers": ["none", "float+multiplier=4"],
    "shares": None,
}


def rows(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = TOPICS[rng.integers(0, 12, count)] + 0.9 * rng.standard_normal((count, 48))
    return values.astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def embedded() -> Iterator[None]:
    """Rows in the place of a data set's embeddings, which take seconds."""
    with pytest.MonkeyPatch.context() as patch:
        stored = StoredFloats(rows(500, 0), rows(160, 1), None)
        patch.setattr(material, "_of_data", lambda _: stored)
        yield


def suite(**more: Any) -> SuiteConfig:
    return SuiteConfig.build({"name": "searches", "attack_seeds": 2, "searches": [SEARCHES | more]})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, embedded: None) -> BenchmarkRecord:
    return run(Benchmark(), suite(), tmp_path_factory.mktemp("searches") / "run")


def test_figures_are_those_of_poison_and_attacks_share_the_clean_search(
    finished: BenchmarkRecord, tmp_path: Path
) -> None:
    """Four searches of stores as they were, with two seeds of hubs and one of the one centroid."""
    assert len(finished.cells) == 4 * (1 + 2 + 1)
    assert [row.runs for row in finished.searches] == [2] * 4 + [1] * 4
    config = PoisonConfig.build(
        {
            "dataset": {"name": "openmoji", "text": "sentence"},
            "quantise": {"name": "sign"},
            "attack": {"name": "hubs"},
            "store": {"name": "faiss-flat"},
            "rescore": [{"name": "float", "multiplier": 4}],
            "restarts": 2,
        }
    )
    alone = run(Poison(), config, tmp_path / "run")
    mine = next(
        row
        for row in finished.searches
        if (row.method, row.store) == ("hubs", "faiss-flat, float+multiplier=4")
    )
    assert mine.metrics == alone.metrics
    assert (mine.items, mine.documents) == (alone.shares[0].items, alone.documents)


def test_the_page_and_the_verdict_name_the_search_that_is_reached_most(
    finished: BenchmarkRecord,
) -> None:
    for method, line in zip(("hubs", "centroid"), verdicts(finished), strict=True):
        there = [row for row in finished.searches if row.method == method]
        most = max(row.metrics["planted_top10"].value or 0 for row in there)
        assert f"openmoji+text=sentence, {method}: " in line
        assert f", {100 * most:.1f}\N{NO-BREAK SPACE}% (" in line
    page = Path(finished.report).read_text("utf-8")
    assert "What planted items reach in each store: suite searches" in page
    assert "Items planted in stores" in page
    assert "faiss-flat, float+multiplier=4" in page


def test_a_search_that_fails_costs_no_other(tmp_path: Path) -> None:
    """As many centres as bits need more documents than there are."""
    config = suite(stores=["exact", "faiss-ivf+lists=501"], poisonings=["centroid"])
    record = run(Benchmark(), config, tmp_path / "run")
    assert {row.store for row in record.searches} == {"exact", "exact, float+multiplier=4"}
    failed = [cell for cell in record.cells if cell.status == "failed"]
    assert len(failed) == len(record.failed) == 4
    assert "lists: expected 1 to 500" in failed[0].message


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"poisonings": ["hubz"]}, "did you mean 'hubs'"),
        ({"poisonings": ["hub-text"]}, "hub-text, exact: hub-text plants texts"),
        ({"stores": ["exact+m=3"]}, "m"),
        ({"rescorers": ["flot"]}, "did you mean 'float'"),
        ({"shares": [0.0]}, "a number above 0 and of at most 1"),
        ({"unseen": 1000}, "at least 1000 unseen queries"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(
    more: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import tomli_w

    file = tmp_path / "mine.toml"
    tables = {name: value for name, value in (SEARCHES | more).items() if value is not None}
    file.write_text(tomli_w.dumps({"searches": [tables]}), "utf-8")
    code, out, err = command(capsys, "benchmark", "--suite", str(file), "-q", "--dry-run")
    assert (code, out) == (2, "")
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_a_suite_of_nothing_is_refused_and_the_shipped_one_names_what_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "none.toml").write_text("name = 'none'\n", "utf-8")
    code, _, err = command(capsys, "benchmark", "--suite", str(tmp_path / "none.toml"), "--dry-run")
    assert (code, "expected grids of attacks or searches of stores" in err) == (2, True)
    (grid,) = SuiteConfig.build(load_suite("vector-search")).searches
    for registry, tables in (
        (DATASETS, grid.datasets), (QUANTISERS, grid.quantisers), (POISONINGS, grid.poisonings),
        (STORES, grid.stores), (RESCORERS, grid.rescorers[1:]),
    ):  # fmt: skip
        for table in tables:
            registry.describe(str(table.name)).check(registry.kind, table.settings)
