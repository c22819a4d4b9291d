"""All pairs of codes, against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from advhash.codes import HashCodes, close_pairs as pairs
from advhash.codes.close_pairs import close_rows, clusters, pair_counts
from advhash.codes.hamming import distances

EDGES = np.linspace(0, 150, 8).astype(np.int64)


def random_codes(rows: int, bits: int, seed: int) -> HashCodes:
    return HashCodes.pack(np.random.default_rng(seed).random((rows, bits)) < 0.5)


@pytest.mark.parametrize("bits", [9, 64, 100, 256])
def test_counts_and_lists_are_those_of_all_pairs(bits: int) -> None:
    codes = random_codes(150, bits, bits)
    far = distances(codes, codes).astype(np.int64)
    first, second = np.triu_indices(150, 1)
    counts = pair_counts(codes, EDGES)
    group = np.searchsorted(EDGES, np.arange(150), side="right") - 1
    expected = np.zeros_like(counts)
    np.add.at(expected, (group[first], group[second], far[first, second]), 1)
    assert np.array_equal(counts, expected)

    threshold = int(bits * 0.45)
    found = pairs.close_pairs(codes, EDGES, threshold)
    near = (far <= threshold) & ~np.eye(150, dtype=bool)
    rows = sorted(zip(found.first.tolist(), found.second.tolist(), strict=True))
    assert rows == np.argwhere(np.triu(near)).tolist() or rows == [
        tuple(row) for row in np.argwhere(np.triu(near)).tolist()
    ]
    assert np.array_equal(found.far, far[found.first, found.second])
    assert np.array_equal(found.far, np.sort(found.far))
    for place in range(len(EDGES) - 1):
        assert np.array_equal(found.counts[:, place], near[:, group == place].sum(axis=1))


def test_rows_of_a_bank() -> None:
    codes, bank = random_codes(90, 64, 1), random_codes(40, 64, 2)
    far = distances(codes, bank)
    found = close_rows(codes, bank, 28)
    assert np.array_equal(found.counts[:, 0], (far <= 28).sum(axis=1))
    assert sorted(zip(found.first.tolist(), found.second.tolist(), strict=True)) == [
        tuple(row) for row in np.argwhere(far <= 28).tolist()
    ]
    with pytest.raises(ValueError, match="expected codes of 32 bits, got 64"):
        close_rows(codes, random_codes(3, 32, 0), 1)


def test_clusters_are_linked_pairs() -> None:
    codes = HashCodes.pack([[0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 1, 1], [1, 0, 1, 0]])
    found = pairs.close_pairs(codes, np.array([0, 5]), 1)
    assert clusters(5, found).tolist() == [0, 1, 0, 0, 2]


def test_the_list_ends_where_it_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts go on."""
    monkeypatch.setattr(pairs, "MOST_PAIRS", 50)
    codes = HashCodes.pack(np.zeros((30, 8), bool))
    found = pairs.close_pairs(codes, np.array([0, 30]), 0)
    assert len(found.far) == 50
    assert not found.listed_all
    assert (found.counts[:, 0] == 29).all()
