"""Rates of false positives and their intervals over groups of pictures."""

from __future__ import annotations

import math

import numpy as np

from advhash.codes import HashCodes
from advhash.codes.close_pairs import close_pairs, pair_counts
from advhash.measures.false_positives import (
    false_positive_rates,
    group_edges,
    lookup_bound,
    lookup_rate,
    rate_among,
)

BITS = 32


def hashes(count: int, seed: int) -> HashCodes:
    """Hashes of pictures of a few kinds: those of one kind are nearer to each other."""
    generator = np.random.default_rng(seed)
    kinds = np.random.default_rng(99).random((12, BITS)) < 0.5
    chosen = kinds[generator.integers(0, 12, count)]
    return HashCodes.pack(chosen ^ (generator.random((count, BITS)) < 0.3))


def rates_of(count: int, seed: int):  # type: ignore[no-untyped-def]
    edges = group_edges(count)
    return false_positive_rates(pair_counts(hashes(count, seed), edges), edges, seed)


def test_the_rate_is_the_share_of_pairs() -> None:
    codes = hashes(200, 0)
    far = np.bitwise_count(codes.words[:, None, 0] ^ codes.words[None, :, 0])
    rows = np.triu_indices(200, 1)
    rates = rates_of(200, 0)
    for threshold in (3, 8, 16):
        assert np.isclose(rates.value[threshold], (far[rows] <= threshold).mean())
    assert rates.pairs == 200 * 199 // 2
    assert (np.diff(rates.high) >= 0).all()
    assert (rates.low <= rates.value).all()
    assert (rates.value <= rates.high).all()


def test_intervals_hold_what_more_pictures_say() -> None:
    """At a threshold that few pairs reach: of 20 samples, 95 % of the intervals hold the truth."""
    truth = rates_of(3000, 1234).value[5]
    inside = 0
    for seed in range(20):
        rates = rates_of(400, seed)
        inside += bool(rates.low[5] <= truth <= rates.high[5])
    assert inside >= 17


def test_what_cannot_be_resolved_is_bounded_by_what_can() -> None:
    rates = rates_of(400, 3)
    unresolved = np.flatnonzero(~rates.resolved)
    assert len(unresolved)
    first = int(np.flatnonzero(rates.resolved)[0])
    assert (rates.high[unresolved] == rates.high[first]).all()
    assert rates.high[0] > 0
    assert rates.threshold(1e-9) is None
    chosen = rates.threshold(0.01)
    assert chosen is not None
    assert rates.high[chosen] <= 0.01 < rates.high[chosen + 1]


def test_one_picture_alone_says_nothing() -> None:
    counts = np.zeros((1, 1, BITS + 1), np.int64)
    alone = false_positive_rates(counts, group_edges(1), 0)
    assert alone.pairs == 0
    assert alone.threshold(0.5) is None
    rates = rates_of(2, 0)
    assert rates.pairs == 1
    assert rates.threshold(1e-4) is None or rates.high[rates.threshold(1e-4)] <= 1e-4


def test_a_look_up_meets_each_entry() -> None:
    """Against the share of pictures that find one among n drawn others."""
    codes, edges = hashes(300, 5), group_edges(300)
    close = close_pairs(codes, edges, 5)
    matches = close.counts.sum(axis=1)
    got = lookup_rate(close.counts, edges, 50)
    none = [math.comb(299 - int(count), 50) / math.comb(299, 50) for count in matches]
    assert np.isclose(got.value, 1 - np.mean(none))
    assert got.low < got.value < got.high
    everyone_else = lookup_rate(close.counts, edges, 299)
    assert np.isclose(everyone_else.value, np.mean(matches > 0))
    assert lookup_rate(close.counts, edges, 10**6) == everyone_else
    generator = np.random.default_rng(0)
    far = np.bitwise_count(codes.words[:, None, 0] ^ codes.words[None, :, 0])
    found = [
        (far[row, generator.choice(np.delete(np.arange(300), row), 50, replace=False)] <= 5).any()
        for row in range(300)
        for _ in range(20)
    ]
    assert abs(np.mean(found) - got.value) < 0.04
    everyone = np.full((4, 2), 2, np.int32)  # each finds all others
    assert lookup_rate(everyone, np.array([0, 2, 4]), 9).value == 1


def test_intervals_of_look_ups_hold_what_more_pictures_say() -> None:
    """A bank of all 399 other pictures, where each close one is met once."""
    many, bank = hashes(3000, 1234), 399
    far = np.bitwise_count(many.words[:, None, 0] ^ many.words[None, :, 0])
    share = ((far <= 5).sum(axis=1) - 1) / 2999
    truth = (1 - (1 - share) ** bank).mean()
    inside = []
    for seed in range(12):
        close = close_pairs(hashes(400, seed), group_edges(400), 5)
        rate = lookup_rate(close.counts, group_edges(400), bank)
        inside.append(rate.low <= truth <= rate.high)
    assert sum(inside) >= 11


def test_a_rate_that_is_not_resolved_has_no_lower_end() -> None:
    rates = rates_of(400, 3)
    first = int(np.flatnonzero(rates.resolved)[0])
    assert rates.metric(first).low is not None
    assert rates.metric(first - 1).low is None
    assert rates.metric(first - 1).high == rates.high[first]


def test_the_bound_of_a_look_up_holds_what_look_ups_find() -> None:
    codes, edges = hashes(300, 5), group_edges(300)
    rates, close = rates_of(300, 5), close_pairs(codes, edges, 5)
    for size in (1, 50):
        share = lookup_rate(close.counts, edges, size).value
        assert share is not None
        assert share <= lookup_bound(float(rates.value[5]), size) + 1e-12


def test_the_rate_among_some_pictures_is_that_of_their_pairs() -> None:
    """With an interval where groups have close pairs, else below what all pictures allow."""
    codes, edges, rates = hashes(300, 5), group_edges(300), rates_of(300, 5)
    kept = np.arange(300) % 3 > 0
    close = close_pairs(codes, edges, 6)
    pairs = np.stack([close.first, close.second], axis=1).astype(np.int64)
    got = rate_among(kept, pairs, edges, rates, 6, seed=0)
    alone = HashCodes.pack(codes.unpack()[kept])
    far = np.bitwise_count(alone.words[:, None, 0] ^ alone.words[None, :, 0])
    assert np.isclose(got.value, (far[np.triu_indices(200, 1)] <= 6).mean())
    assert got.low is not None
    assert got.low < got.value < got.high
    none = rate_among(kept, pairs[:0], edges, rates, 6, seed=0)
    assert (none.value, none.low) == (0, None)
    assert none.high == rates.high[6] * rates.pairs / none.n


def test_a_recommended_threshold_keeps_its_rate_on_other_pictures() -> None:
    """Chosen on 300 pictures, judged on 3,000 others, where two bits more would be too many."""
    elsewhere = rates_of(3000, 1234).value
    kept, beyond, inside = [], [], []
    for seed in range(12):
        rates = rates_of(300, seed)
        threshold = rates.threshold(0.01)
        assert threshold is not None
        kept.append(elsewhere[threshold] <= 0.01)
        beyond.append(elsewhere[threshold + 2] <= 0.01)
        inside.append(rates.low[threshold] <= elsewhere[threshold] <= rates.high[threshold])
    assert sum(kept) >= 11
    assert sum(beyond) <= 1
    assert sum(inside) >= 10
