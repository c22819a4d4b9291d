"""Cells, their canonical and normal forms, their trainings, and the domain over a table."""

from __future__ import annotations

import copy
import gzip
import itertools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import networkx
import pytest
import torch

from advhash.errors import RunError
from advhash.experiments.evolve.run import DEFAULTS
from advhash.functional.evaluation_cache import EquivalenceCache
from advhash.functional.evolution import Limits, Search, Strategy
from advhash.functional.functional_hash import FunctionalHash
from advhash.functional.nas import (
    EDGES,
    OPERATIONS,
    SCHEMA,
    TABLE,
    CellDomain,
    NetworkCell,
    canonical,
    distinct_cells,
    normal_form,
    parents,
    read_table,
)
from advhash.functional.nas_training import CellNetwork, TrainingProtocol, digits, trained_cell

TINY = TrainingProtocol(channels=4, epochs=1, rows=(100, 60, 60), seeds=2)


@pytest.fixture(scope="module")
def cells() -> dict[str, NetworkCell]:
    return distinct_cells()


@pytest.fixture(scope="module")
def table(cells: dict[str, NetworkCell]) -> Mapping[str, Any]:
    """Figures made up from the normal form, so that equal functions have equal ones.

    A short training tells them apart at 24 bits, two by two at 4.
    """
    rows = {}
    functions = sorted({normal_form(name).text for name in cells})
    for name in cells:
        place = functions.index(normal_form(name).text)
        short = [1 + place / 4096, 1.0, 1.0, 1.0]
        full = [
            {"valid": place / 2000 + seed / 100, "test": 0.5, "seconds": 1.0} for seed in (0, 1)
        ]
        rows[name] = {
            "short": {"losses": short, "accuracies": [0.1] * 4, "seconds": 0.04},
            "full": full,
        }
    return {"schema": SCHEMA, "cells": rows}


def graph(cell: NetworkCell) -> networkx.DiGraph:
    """What is on a path from input to output."""
    whole = networkx.DiGraph([pair for pair, there in zip(EDGES, cell.edges, strict=True) if there])
    whole.add_nodes_from(range(5))
    kept = (networkx.descendants(whole, 0) | {0}) & (networkx.ancestors(whole, 4) | {4})
    found = whole.subgraph(kept).copy()
    kinds = {0: "in", 4: "out", **{place + 1: one for place, one in enumerate(cell.operations)}}
    networkx.set_node_attributes(found, {node: kinds[node] for node in found}, "kind")
    return found


# Forms


def test_canonical_names_are_those_of_isomorphic_graphs() -> None:
    chance = Random(0)
    domain = [
        NetworkCell(tuple(chance.random() < 0.6 for _ in EDGES), tuple(chance.choices((0, 1), k=3)))
        for _ in range(120)
    ]
    known = [cell for cell in domain if canonical(cell) is not None]
    assert len(known) > 80
    equal = 0
    for one, other in itertools.combinations(known[:80], 2):
        same = networkx.is_isomorphic(
            graph(one), graph(other), node_match=lambda a, b: a["kind"] == b["kind"]
        )
        assert (canonical(one) == canonical(other)) == same
        equal += same
    assert equal > 10


def test_there_are_so_many_cells_and_functions(cells: dict[str, NetworkCell]) -> None:
    assert len(cells) == 2559
    assert len(distinct_cells(3)) == 7
    assert len(distinct_cells(4)) == 91
    assert all(canonical(cell) == name for name, cell in cells.items())
    assert len({normal_form(name).text for name in cells}) == 1154


def test_normal_forms_are_equal_exactly_where_random_networks_are(
    cells: dict[str, NetworkCell],
) -> None:
    """All cells of 4 vertices: forms against outputs for the same weights."""
    images = digits(TINY)[0][0][:4]
    hashed = FunctionalHash((images,), {}, bits=18)
    keys: dict[str, set[str]] = {}
    for name in distinct_cells(4):
        torch.manual_seed(1)
        network = CellNetwork(name, TINY)
        with torch.no_grad():
            keys.setdefault(normal_form(name).text, set()).add(hashed(network))
    assert all(len(found) == 1 for found in keys.values())
    assert len(set.union(*keys.values())) == len(keys)
    assert len(keys) < 91


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2|101", "2|111", True),  # max(x, pool x) = pool x
        ("22|110011", "2|101", True),  # two equal pools
        ("0|101", "0|111", False),  # a convolution may be below its input
        ("0|101", "1|101", False),
        ("00|110011", "0|101", False),  # two convolutions have weights of their own
        ("02|100101", "20|100101", False),
    ],
)
def test_known_equivalences(one: str, other: str, same: bool) -> None:
    assert (normal_form(one).text == normal_form(other).text) is same


def test_parents_reads_the_bits_of_a_name() -> None:
    assert parents("02|110101") == ([0, 2], [[], [0], [0, 1], [2]])
    assert parents("|1") == ([], [[], [0]])


# Trainings


def test_a_row_has_what_a_search_needs() -> None:
    row = trained_cell("02|100101", TINY)
    assert len(row["full"]) == 2
    for one in row["full"]:
        assert 0 <= one["valid"] <= 1
        assert one["seconds"] > 0
    assert len(row["short"]["losses"]) == len(row["short"]["accuracies"]) == 4
    again = trained_cell("02|100101", TINY)
    assert again["short"]["losses"] == row["short"]["losses"]
    assert [one["test"] for one in again["full"]] == [one["test"] for one in row["full"]]


def test_training_learns() -> None:
    quick = TrainingProtocol(channels=8, epochs=10, rows=(400, 100, 100), seeds=1)
    assert trained_cell("0|101", quick)["full"][0]["valid"] > 0.6


def test_equal_functions_train_alike_up_to_rounding() -> None:
    one, other = "20|110101", "20|100101"  # max(x, pool x) and pool x before the convolution
    assert normal_form(one).text == normal_form(other).text
    losses = [trained_cell(name, TINY)["short"]["losses"] for name in (one, other, "00|100101")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert losses[0] != pytest.approx(losses[2], rel=1e-4)


def test_splits_do_not_overlap() -> None:
    train, validation, test = digits(TrainingProtocol())
    assert [len(part[1]) for part in (train, validation, test)] == [500, 600, 697]
    rows = torch.cat([part[0].flatten(1) for part in (train, validation, test)])
    assert len(torch.unique(rows, dim=0)) >= len(rows) - 1  # scikit-learn's own doubles


# The domain


def test_mutations_change_and_stay_in_the_table(table: Mapping[str, Any]) -> None:
    domain, chance = CellDomain(table), Random(0)
    cell = domain.random(chance)
    flips = 0
    for _ in range(300):
        other = domain.mutate(cell, chance)
        assert other != cell
        assert domain.name(other) in table["cells"]
        flips += sum(a != b for a, b in zip(cell.edges, other.edges, strict=True))
        cell = other
        assert domain.read(json.loads(json.dumps(domain.write(cell)))) == cell
    assert 1.5 < flips / 300 < 3


def test_keys_by_function_structure_and_coarseness(table: Mapping[str, Any]) -> None:
    small = {"cells": {name: table["cells"][name] for name in distinct_cells(4)}}
    functions = len({normal_form(name).text for name in small["cells"]})
    fine = CellDomain(table)
    exact, coarse = CellDomain(small).study([24, 3])
    assert exact["keys"] == functions < 91
    assert exact["cells_per_key"] == pytest.approx(91 / functions)
    assert exact["collided"] == exact["split"] == 0
    assert coarse["keys"] < functions / 4
    assert coarse["collided"] > 0.9
    assert coarse["split"] == 0
    (same,) = CellDomain(small, keyed="accuracies").study([24])
    assert same["keys"] == 1
    structure = CellDomain(table, keyed="structure")
    one = NetworkCell((True,) * 10, (0, 1, 2))
    assert structure.key(one) == (canonical(one), 0.0)
    assert fine.key(one)[1] == 0.04


def test_a_study_counts_functions_with_several_keys(table: Mapping[str, Any]) -> None:
    small = {name: copy.deepcopy(table["cells"][name]) for name in distinct_cells(4)}
    assert normal_form("2|101").text == normal_form("2|111").text
    small["2|111"]["short"]["losses"][0] += 1e-3
    (found,) = CellDomain({"cells": small}).study([24])
    forms = [normal_form(name).text for name in small]
    assert found["split"] == pytest.approx(1 / sum(forms.count(form) > 1 for form in set(forms)))


def test_figures_agree_exactly_for_equal_functions(table: Mapping[str, Any]) -> None:
    domain, cells = CellDomain(table), distinct_cells(3)
    figures = {name: domain.evaluate(cells[name], 0).figures for name in cells}
    assert domain.agree(figures["2|101"], figures["2|111"])
    assert not domain.agree(figures["0|101"], figures["0|111"])


def test_an_evaluation_is_one_of_the_trainings(table: Mapping[str, Any]) -> None:
    domain, cell = CellDomain(table), NetworkCell((True,) * 10, (0, 1, 2))
    runs = [run["valid"] for run in table["cells"][canonical(cell)]["full"]]
    found = [domain.evaluate(cell, seed) for seed in range(40)]
    assert {one.figures["fitness"] for one in found} == set(runs)
    assert all(one.figures["mean"] == pytest.approx(sum(runs) / 2) for one in found)
    assert {one.seconds for one in found} == {1.0}
    noisy = [CellDomain(table, noise=0.5).evaluate(cell, seed) for seed in range(40)]
    assert len({one.figures["fitness"] for one in noisy}) == 40


def test_a_functional_cache_searches_further_than_one_of_structure(
    table: Mapping[str, Any],
) -> None:
    def candidates(keyed: Any) -> int:
        cache = None if keyed is None else EquivalenceCache()
        domain = CellDomain(table, keyed=keyed or "losses")
        search = Search(domain, Strategy(population=20), Limits(seconds=60), cache=cache)
        for _ in search.run():
            pass
        return len(search.trace)

    plain, structure, function = (candidates(keyed) for keyed in (None, "structure", "losses"))
    assert plain == 60
    assert plain < structure < function


@pytest.mark.parametrize(
    "content",
    [b"nothing", gzip.compress(b"{"), gzip.compress(b'{"schema": "other"}'), gzip.compress(b"[]"),
     gzip.compress(json.dumps({"schema": SCHEMA, "cells": []}).encode())],
    ids=["no gzip", "no JSON", "another schema", "a list", "cells in a list"],
)  # fmt: skip
def test_what_is_no_table_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "table.json.gz"
    file.write_bytes(content)
    with pytest.raises(RunError, match="expected a table of trained cells"):
        read_table(file)


def test_a_table_that_unpacks_to_more_than_any_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "table.json.gz"
    with gzip.open(file, "wb", compresslevel=1) as stream:
        for _ in range(300):
            stream.write(b" " * 2**20)
    with pytest.raises(RunError, match="expected a table of trained cells"):
        read_table(file)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("0|101", {"full": []}, r"'0\|101' of 1 damaged"),
        ("0|101", {"full": [{"valid": 0.5, "test": 0.5}]}, "damaged"),
        ("0|101", {"full": [{"valid": math.nan, "test": 0.5, "seconds": 1.0}]}, "damaged"),
        ("0|101", {"full": [{"valid": 0.5, "test": 0.5, "seconds": -1.0}]}, "damaged"),
        ("0|101", {"short": {"losses": [1.0] * 3, "accuracies": [1.0] * 4, "seconds": 1}}, "dam"),
        ("0|101", {"short": {"losses": ["a"] * 4, "accuracies": [1.0] * 4, "seconds": 1}}, "dam"),
        ("../../x", {}, "x' of 1 damaged"),
        ("0|100", {}, "damaged"),  # no path leads through
        (None, {}, "got none"),
    ],
)
def test_damaged_rows_are_refused(
    name: str | None, change: dict[str, Any], message: str, table: Mapping[str, Any], tmp_path: Path
) -> None:
    rows = {} if name is None else {name: {**table["cells"]["0|101"], **change}}
    file = tmp_path / "table.json.gz"
    file.write_bytes(gzip.compress(json.dumps({"schema": SCHEMA, "cells": rows}).encode()))
    with pytest.raises(RunError, match=message):
        read_table(file)


def test_a_loss_that_is_no_number_is_a_figure(table: Mapping[str, Any], tmp_path: Path) -> None:
    row = copy.deepcopy(table["cells"]["0|101"])
    row["short"]["losses"][0] = math.nan
    file = tmp_path / "table.json.gz"
    content = {"schema": SCHEMA, "cells": {"0|101": row}}
    file.write_bytes(gzip.compress(json.dumps(content).encode()))
    domain = CellDomain(read_table(file))
    assert domain.name(domain.random(Random(0))) == "0|101"


@pytest.mark.skipif(not TABLE.exists(), reason="no packaged table: benchmarks/nas_table.py")
def test_the_default_bits_stand_for_functions_over_all_trained_cells() -> None:
    """Chosen on 2,200 of them; `python benchmarks/nas_bits.py` has the whole study."""
    domain = CellDomain(read_table())
    assert len(domain.cells) == 2559
    bits = DEFAULTS["nas"]["bits"]
    found = {row["bits"]: row for row in domain.study((bits, 24))}
    assert found[bits]["collided"] <= 0.005
    assert found[bits]["split"] <= 0.005
    assert found[24]["split"] > found[bits]["split"]


def test_a_missing_table_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"benchmarks/nas_table\.py"):
        read_table(tmp_path / "none.json.gz")


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"keyed": "name"}, "losses, accuracies or structure"), ({"rate": 0}, "rate > 0"),
     ({"noise": -1}, "noise >= 0")],
)  # fmt: skip
def test_bad_settings_are_refused(
    settings: dict[str, Any], message: str, table: Mapping[str, Any]
) -> None:
    with pytest.raises(ValueError, match=message):
        CellDomain(table, **settings)


def test_a_cell_outside_the_table_is_refused(table: Mapping[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected a cell of the table"):
        CellDomain(table).evaluate(NetworkCell((False,) * 10, (0, 0, 0)), 0)
    assert OPERATIONS[2] == "maxpool3x3"
