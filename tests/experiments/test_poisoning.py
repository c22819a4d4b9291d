"""Planted items: who finds them, against an enumeration of all orders, and from the command."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from command_line import command

from advhash.codes import HashCodes
from advhash.codes.hamming import DistanceHistograms, distances, histograms
from advhash.codes.metrics import hit_at
from advhash.experiments.attack.planted import aimed_at, hit_rates

ATTACK = [
    *("attack", "--victim", "dpsh", "--set", "victim.epochs=2", "--set", "dataset.size=16"),
    *("--set", "attack.steps=20", "--eps", "32/255", "--queries", "10", "-q", "--json"),
]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("first", [1, 3, 6])
def test_a_hit_is_the_share_of_all_orders_of_ties(seed: int, first: int) -> None:
    rng = np.random.default_rng(seed)
    far, aimed = rng.integers(0, 3, 6), rng.random(6) < 0.4
    hits = orders = 0
    for order in itertools.permutations(range(6)):
        if all(far[a] <= far[b] for a, b in itertools.pairwise(order)):
            orders += 1
            hits += bool(aimed[list(order[:first])].any())
    total, relevant = (np.bincount(far[kept], minlength=4) for kept in (far >= 0, aimed))
    counts = DistanceHistograms(total[None], relevant[None])
    assert np.isclose(hit_at(counts, first)[0], hits / orders)


def test_planted_rows_join_the_ranking() -> None:
    rng = np.random.default_rng(0)
    query, table, planted = (HashCodes.pack(rng.integers(0, 2, (n, 8))) for n in (7, 40, 5))
    labels = rng.integers(0, 2, (7, 3)).astype(np.uint8)
    before = histograms(query, table, labels, np.zeros((40, 3), np.uint8))
    aimed = rng.random((7, 5)) < 0.5
    found = hit_rates(query, before, planted, aimed, first=4)
    whole = HashCodes.concatenate([table, planted])
    for row, far in enumerate(distances(query, whole)):
        mine = np.concatenate([np.zeros(40, bool), aimed[row]])
        runs = [
            mine[np.lexsort((np.random.default_rng(s).random(45), far))[:4]].any()
            for s in range(4000)
        ]
        assert abs(found[row] - np.mean(runs)) < 0.03


def test_true_relatives_are_no_hits() -> None:
    queries = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 1]], np.uint8)
    own, targets = np.array([[0, 1, 0]], np.uint8), np.array([[1, 0, 0]], np.uint8)
    assert aimed_at(queries, own, targets).tolist() == [[True], [False], [False]]


def test_planted_pictures_are_found_and_unmoved_ones_are_not(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    code, text, _ = command(
        capsys, *ATTACK, "--method", "dhta", "--poison", "40", "--out", str(out)
    )
    assert code == 0
    document = json.loads(text)
    metrics = document["metrics"]
    assert document["protocol"]["poison"] == 40
    assert metrics["poison_hit10"]["value"] > metrics["poison_hit10_clean"]["value"] + 0.1
    gain = metrics["poison_hit10"]["value"] - metrics["poison_hit10_clean"]["value"]
    assert np.isclose(metrics["poison_hit10_gain"]["value"], gain)
    assert metrics["poison_hit10"]["n"] > 50
    assert 0 < metrics["poison_hit10_chance"]["value"] < metrics["poison_hit10"]["value"]
    assert "Planted in the database" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--method", "noise", "--poison", "5"], "targeted"),
        (["--method", "dhta", "--poison", "0"], "poison"),
        (["--victim", "dlcmh", "--dataset", "openmoji", "--method", "dhta", "--poison", "5"],
         "--database image"),
    ],
)  # fmt: skip
def test_what_cannot_be_planted_is_refused_before_any_training(
    arguments: list[str],
    word: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:

    base = ["attack", "--victim", "dpsh", "--eps", "8/255", "-q", "--out", str(tmp_path / "r")]
    code, _, err = command(capsys, *base, *arguments)
    assert code == 2
    assert word in err
    assert len(err.strip().splitlines()) == 1
    assert not any(tmp_path.iterdir())
