"""What is admitted to a store: counts against slow loops, and thresholds on rows of their own."""

from __future__ import annotations

import numpy as np
import pytest

from advhash.codes.hamming import distances
from advhash.codes.packed import HashCodes
from advhash.stores.admission import Gate

CENTRES = np.random.default_rng(9).random((8, 64)) < 0.5


def codes(rows: int, seed: int, noise: float = 0.15) -> HashCodes:
    rng = np.random.default_rng(seed)
    return HashCodes.pack(CENTRES[rng.integers(0, 8, rows)] ^ (rng.random((rows, 64)) < noise))


DOCUMENTS, PROBES = codes(400, 0), codes(120, 1)


def slow_finders(item: HashCodes, others: HashCodes) -> int:
    """Probe queries that have the item among their first 10 of the others and it, which is last."""
    far, mine = distances(PROBES, others), distances(PROBES, item)[:, 0]
    return int(sum(own < np.sort(row)[9] for own, row in zip(mine, far, strict=True)))


def test_counts_are_those_of_a_slow_loop_each_document_against_all_others() -> None:
    gate = Gate.fit(PROBES, DOCUMENTS, "rate", 0.05, 0)
    items = codes(6, 2)
    finds = gate.finds(items)
    expected = [slow_finders(items[row : row + 1], DOCUMENTS) for row in range(6)]
    assert finds.sum(axis=1).tolist() == expected
    assert gate.refuses(items).tolist() == [count > gate.threshold for count in expected]
    for row in range(0, 400, 40):
        others = DOCUMENTS[np.delete(np.arange(400), row)]
        count = slow_finders(DOCUMENTS[row : row + 1], others)
        assert gate.refuses_held[row] == (count > gate.threshold)


@pytest.mark.parametrize("rate", [0.01, 0.1])
def test_a_rate_is_kept_where_it_was_set_and_nearly_elsewhere(rate: float) -> None:
    gate = Gate.fit(PROBES, DOCUMENTS, "rate", rate, 3)
    order = np.random.default_rng(3).permutation(400)
    assert gate.refuses_held[order[::2]].mean() <= rate
    assert gate.refuses_held[order[1::2]].mean() == gate.reached < 2 * rate + 0.02
    other = Gate.fit(PROBES, DOCUMENTS, "rate", rate / 5, 3)
    assert other.threshold > gate.threshold


def test_a_cap_is_a_share_of_the_probes_for_documents_and_items_alike() -> None:
    cap = Gate.fit(PROBES, DOCUMENTS, "cap", 0.05, 3)
    assert cap.threshold == 0.05 * len(PROBES) == 6
    counts = [
        slow_finders(DOCUMENTS[row : row + 1], DOCUMENTS[np.delete(np.arange(400), row)])
        for row in range(0, 400, 10)
    ]
    assert cap.refuses_held[::10].tolist() == [count > 6 for count in counts]
    assert 0 < cap.refuses_held.sum() < 400
    items = codes(40, 2, noise=0.1)
    assert cap.refuses(items).tolist() == (cap.finds(items).sum(axis=1) > 6).tolist()
    assert not Gate.fit(PROBES, DOCUMENTS, "cap", 1.0, 3).refuses_held.any()


def test_the_published_rule_is_a_median_and_deviations() -> None:
    gate = Gate.fit(PROBES, DOCUMENTS, "mad", 0.01, 3)
    counts = np.array(
        [
            slow_finders(DOCUMENTS[row : row + 1], DOCUMENTS[np.delete(np.arange(400), row)])
            for row in np.random.default_rng(3).permutation(400)[::2]
        ]
    )
    middle = np.median(counts)
    deviation = max(1.4826 * np.median(np.abs(counts - middle)), 1.0)
    assert np.isclose(gate.threshold, middle + 5 * deviation)
    with pytest.raises(ValueError, match="more than 10 documents, got 10"):
        Gate.fit(PROBES, DOCUMENTS[:10], "mad", 0.01, 3)
