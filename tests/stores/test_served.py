"""What is served after rescoring, against the same by hand."""

from __future__ import annotations

import numpy as np
import pytest

from advhash.codes.hamming import distances
from advhash.codes.packed import HashCodes
from advhash.codes.vectors import Vectors
from advhash.errors import UsageError
from advhash.stores.served import Served


def vectors(rows: int, seed: int) -> Vectors:
    centres = np.random.default_rng(5).standard_normal((10, 64))
    rng = np.random.default_rng(seed)
    floats = centres[rng.integers(0, 10, rows)] + 0.7 * rng.standard_normal((rows, 64))
    values = floats.astype(np.float32)
    return Vectors(HashCodes.pack(values > 0), values, values)


DATABASE, QUERIES, IDS = vectors(600, 0), vectors(20, 1), np.arange(600) * 3 + 1


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def by_hand(kind: str, multiplier: int, count: int) -> np.ndarray:
    known = DATABASE.codes.signs() if kind == "asymmetric" else unit(DATABASE.floats)
    far = distances(QUERIES.codes, DATABASE.codes).astype(int)
    candidates = np.argsort(far * 1000 + np.arange(600), axis=1)[:, : multiplier * count]
    scores = np.take_along_axis(unit(QUERIES.floats) @ known.T, candidates, 1)
    best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    return IDS[np.take_along_axis(candidates, best, 1)]


@pytest.mark.parametrize("kind", ["float", "asymmetric"])
@pytest.mark.parametrize("multiplier", [1, 3, 60])
def test_candidates_are_ordered_anew(kind: str, multiplier: int) -> None:
    with Served({"name": "exact"}, [{"name": kind, "multiplier": multiplier}]) as served:
        served.add(IDS[:400], DATABASE[:400])
        served.add(IDS[400:], DATABASE[400:])
        found, far = served.search(QUERIES, 10)
    assert (np.diff(far, axis=1) >= 0).all()
    assert (found == by_hand(kind, multiplier, 10)).mean() > 0.995  # but for rounding


def test_int8_rows_are_nearly_the_floats_and_are_bytes() -> None:
    found = {}
    for kind in ("float", "int8"):
        with Served({"name": "exact"}, [{"name": kind}]) as served:
            served.add(IDS, DATABASE)
            found[kind] = served.search(QUERIES, 10)[0]
            kept = served._kept[0]
    assert kept.dtype == np.int8
    shared = [len(set(a) & set(b)) / 10 for a, b in zip(*found.values(), strict=True)]
    assert np.mean(shared) > 0.95


def test_all_floats_as_candidates_are_the_float_store() -> None:
    with Served({"name": "exact"}, [{"name": "float", "multiplier": 60}]) as served:
        served.add(IDS, DATABASE)
        rescored = served.search(QUERIES, 10)[0]
    with Served({"name": "float"}) as rival:
        rival.add(IDS, DATABASE)
        assert np.array_equal(rescored, rival.search(QUERIES, 10)[0])


def test_stages_follow_each_other_behind_an_approximate_index() -> None:
    stages = [{"name": "asymmetric", "multiplier": 20}, {"name": "float", "multiplier": 4}]
    with Served({"name": "faiss-hnsw"}, stages) as served:
        served.add(IDS, DATABASE)
        ids, far = served.search(QUERIES, 5)
        cosines = unit(QUERIES.floats) @ unit(DATABASE.floats).T
        assert np.allclose(-far, np.take_along_axis(cosines, (ids - 1) // 3, 1), atol=1e-5)
        served.remove(ids[0, :2])
        assert not set(ids[0, :2]) & set(served.search(QUERIES[:1], 5)[0][0])


def test_empty_places_stay_last() -> None:
    """Tables by pieces find few rows; what is not there has no similarity."""
    table = {"name": "faiss-multihash", "tables": 2, "piece": 16, "flips": 0}
    with Served(table, [{"name": "float", "multiplier": 5}]) as served:
        served.add(IDS, DATABASE)
        ids, far = served.search(QUERIES, 10)
    assert (ids == -1).any()
    assert (np.isinf(far) == (ids == -1)).all()
    assert (np.diff((ids == -1).astype(int), axis=1) >= 0).all()


@pytest.mark.parametrize(
    ("store", "rescore", "message"),
    [
        ("float", ["float"], "holds floats: expected no rescoring"),
        ("exact", [{"name": "float", "multiplier": 0}], "expected a multiplier above 0, got 0"),
        ("exact", [("int8", 3), ("float", 5)], "multipliers fall"),
        ("exact", ["floats"], "did you mean 'float'"),
    ],
)
def test_what_makes_no_sense_is_refused(store: str, rescore: list[object], message: str) -> None:
    tables = [
        {"name": one}
        if isinstance(one, str)
        else {"name": one[0], "multiplier": one[1]}
        if isinstance(one, tuple)
        else one
        for one in rescore
    ]
    with pytest.raises(UsageError, match=message):
        Served({"name": store}, tables)  # type: ignore[arg-type]
