"""Every store keeps the one contract: exact ones equal a slow loop, others say what they miss."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from advhash.codes.hamming import distances as all_distances
from advhash.codes.packed import HashCodes
from advhash.errors import ConfigError, StoreError, UsageError
from advhash.registry import STORES
from advhash.stores.base import NONE, Store, _ordered, expect_installed
from advhash.stores.served import recall_of_distances

CODES = [name for name in STORES.names() if STORES.describe(name).fact("holds") == "codes"]
EXACT = [name for name in CODES if STORES.describe(name).fact("exact")]
FLOATS = [name for name in STORES.names() if name not in CODES]
LEAST = {"faiss-multihash": 0.1, "faiss-ivf": 0.6, "pgvector-ivfflat": 0.6}  # recall of clean codes
BITS, ROWS = 96, 1500


def codes_in_groups(rows: int, seed: int, bits: int = BITS) -> HashCodes:
    """Codes of 20 loose groups: neighbours are nearer than chance, and many are equally far."""
    centres = np.random.default_rng(9).random((20, bits)) < 0.5
    rng = np.random.default_rng(seed)
    return HashCodes.pack(centres[rng.integers(0, 20, rows)] ^ (rng.random((rows, bits)) < 0.12))


def slow(
    query: HashCodes, ids: npt.NDArray[np.int64], rows: HashCodes, count: int
) -> tuple[list[list[int]], list[list[int]]]:
    """The nearest by a sort of all (distance, id)."""
    found = [
        sorted(zip(far.tolist(), ids.tolist(), strict=True))[:count]
        for far in all_distances(query, rows)
    ]
    return [[i for _, i in row] for row in found], [[far for far, _ in row] for row in found]


def created(name: str, **settings: Any) -> Store:
    store: Store = STORES.create(name, settings)
    return store


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("bits", [7, 64, 96])
def test_exact_stores_equal_a_slow_loop_ties_by_id(name: str, bits: int) -> None:
    """7 bits: hundreds of rows are equally far, and ids come in no order, in two lots."""
    rows, query = codes_in_groups(400, 0, bits), codes_in_groups(12, 1, bits)
    ids = np.random.default_rng(2).permutation(5000)[:400].astype(np.int64)
    with created(name) as store:
        store.add(ids[:250], rows[:250])
        store.add(ids[250:], rows[250:])
        assert len(store) == 400
        for count in (1, 10, 400, 1000):
            found, far = store.search(query, count)
            expected, distances = slow(query, ids, rows, count)
            assert found.tolist() == expected
            assert far.tolist() == distances
        gone = np.zeros(400, bool)
        gone[::3] = True
        store.remove(ids[gone])
        found, far = store.search(query, 10)
        expected, distances = slow(query, ids[~gone], rows[~gone], 10)
        assert (found.tolist(), far.tolist()) == (expected, distances)
        store.add(ids[gone], rows[gone])
        assert store.search(query, 10)[0].tolist() == slow(query, ids, rows, 10)[0]


@pytest.mark.parametrize("name", [name for name in CODES if name not in EXACT])
def test_approximate_stores_say_true_distances_and_find_most(name: str) -> None:
    rows, query = codes_in_groups(ROWS, 0), codes_in_groups(60, 1)
    ids = np.arange(ROWS) + 100
    with created(name) as store, created("exact") as ours:
        for one in (store, ours):
            one.add(ids, rows)
        found, far = store.search(query, 10)
        _, nearest = ours.search(query, 10)
        there = found != NONE
        true = all_distances(query, rows)
        place = np.where(there, found - 100, 0)
        assert (far[there] == np.take_along_axis(true, place, 1)[there]).all()
        assert (far[~there] == BITS + 1).all()
        assert (np.diff(far.astype(int), axis=1) >= 0).all()
        recall = recall_of_distances(far, nearest)
        assert recall.mean() > LEAST.get(name, 0.95)
        gone = np.unique(found[:20][there[:20]])
        store.remove(gone)
        again, _ = store.search(query[:20], 10)
        assert not np.isin(again, gone).any()
        assert (again == NONE).mean() <= (~there[:20]).mean() + 0.05  # others take their places
        store.add(gone, rows[gone - 100])
        assert len(store) == ROWS


@pytest.mark.parametrize("name", FLOATS)
def test_float_rivals_rank_by_the_cosine(name: str) -> None:
    rng = np.random.default_rng(0)
    rows = (rng.standard_normal((900, 24)) + 3 * rng.standard_normal((1, 24))).astype(np.float32)
    query = rows[:20] + 0.1 * rng.standard_normal((20, 24)).astype(np.float32)
    unit = [values / np.linalg.norm(values, axis=1, keepdims=True) for values in (query, rows)]
    near = 1 - unit[0] @ unit[1].T
    with created(name) as store:
        store.add(np.arange(900), rows)
        found, far = store.search(query, 10)
    assert np.allclose(far, np.take_along_axis(near, found, 1), atol=1e-5)
    assert (far <= np.sort(near, axis=1)[:, 9:10] + 1e-5).mean() > (
        0.999 if STORES.describe(name).fact("exact") else 0.6
    )


@pytest.mark.parametrize("name", CODES)
def test_what_cannot_be_kept_is_refused_and_changes_nothing(name: str) -> None:
    rows = codes_in_groups(300, 0)
    with created(name) as store:
        assert store.search(rows[:2], 5)[0].shape == (2, 0)
        store.add(np.arange(300), rows)
        for message, wrong in (
            ("expected different ids, got 7 twice", lambda: store.add([7], rows[:1])),
            ("expected different ids, got 900 twice", lambda: store.add([900, 900], rows[:2])),
            ("as many ids as rows, got 1 and 2", lambda: store.add([900], rows[:2])),
            ("expected ids from 0, got -1", lambda: store.add([-1], rows[:1])),
            (
                "expected rows of 96 bits, got 64",
                lambda: store.add([900], codes_in_groups(1, 0, 64)),
            ),
            ("expected rows of codes, got floats", lambda: store.add([900], np.ones((1, 96)))),
            ("expected ids that are in the store, got 900", lambda: store.remove([0, 900])),
            ("at least one row of a search", lambda: store.search(rows[:1], 0)),
        ):
            with pytest.raises(StoreError, match=message):
                wrong()  # type: ignore[no-untyped-call]
        assert len(store) == 300
        found, far = store.search(rows[3:4], 300)
        assert (far[0, 0], 3 in found[0]) == (0, True)


@pytest.mark.parametrize("name", STORES.names())
def test_parameters_say_settings_and_versions(name: str) -> None:
    with created(name) as store:
        told = store.parameters()
    assert "none" not in told["versions"].values()
    assert set(told["settings"]) == set(STORES[name].model.model_fields)


@pytest.mark.parametrize("name", ["faiss-ivf", "faiss-hnsw", "usearch", "faiss-float-hnsw"])
def test_an_index_is_the_same_each_time(name: str) -> None:
    floats = name in FLOATS
    rows: Any = codes_in_groups(ROWS, 0)
    rows = rows.signs() if floats else rows
    found = []
    for _ in range(2):
        with created(name) as store:
            store.add(np.arange(ROWS), rows)
            found.append(store.search(rows[:50], 10)[0])
    assert np.array_equal(*found)


def test_settings_reach_the_index() -> None:
    rows, query = codes_in_groups(ROWS, 0), codes_in_groups(60, 1)
    recalls = []
    for probes in (1, 30):
        with created("faiss-ivf", lists=30, probes=probes) as store, created("exact") as ours:
            store.add(np.arange(ROWS), rows)
            ours.add(np.arange(ROWS), rows)
            far = [one.search(query, 10)[1] for one in (store, ours)]
            recalls.append(recall_of_distances(*far).mean())
    assert recalls[0] < recalls[1] == 1
    with pytest.raises(StoreError, match="at most the 96 bits of a code, got 256"):
        created("faiss-multihash", tables=16).add(np.arange(4), rows[:4])
    with pytest.raises(StoreError, match="lists: expected 1 to 4"):
        created("faiss-ivf", lists=9).add(np.arange(4), rows[:4])
    with pytest.raises(ConfigError, match="did you mean 'probes'"):
        STORES.create("faiss-ivf", {"probe": 3})


@pytest.mark.parametrize(
    ("name", "setting", "least"),
    [
        ("faiss-hnsw", "m", 2), ("faiss-float-hnsw", "m", 2), ("usearch", "m", 2),
        ("faiss-ivf", "probes", 1), ("faiss-multihash", "flips", 0), ("pgvector-hnsw", "m", 2),
        ("pgvector-ivfflat", "lists", 1),
    ],
)  # fmt: skip
def test_settings_at_which_a_client_fails_are_refused_before_any_work(
    name: str, setting: str, least: int
) -> None:
    """With m=0 faiss ends the whole process."""
    with created(name, **{setting: least}) as store:
        rows = codes_in_groups(100, 0)
        store.add(np.arange(100), rows.signs() if store.holds == "floats" else rows)
    with pytest.raises(UsageError, match=f"{setting}: expected at least {least}, got {least - 1}"):
        created(name, **{setting: least - 1})


def test_a_client_that_is_missing_is_named_with_the_line_to_type() -> None:
    class Missing(Store):
        packages, extra = ("no-such-client",), "stores"

    with pytest.raises(UsageError, match=r"pip install 'advhash-toolkit\[stores\]'"):
        expect_installed(Missing)


def test_narrow_distances_and_wide_ids_are_ordered_as_wide_ones() -> None:
    """A client may give int32 distances: 60 · 2²⁸ does not fit into 32 bits."""
    ids = np.array([[2**28, 5, 3]])
    ordered, far = _ordered(ids, np.array([[60, 60, 70]], np.int32))
    assert ordered.tolist() == [[5, 2**28, 3]]
    assert far.tolist() == [[60, 60, 70]]
