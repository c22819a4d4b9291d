"""Labels as groups say the same as a column a group, in little memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
import torch

from advhash import shared_labels
from advhash.codes import HashCodes
from advhash.codes.hamming import histograms
from advhash.codes.metrics import average_precision, stable_average_precision
from advhash.codes.relevance import GradedPairs
from advhash.errors import DataError
from advhash.shared_labels import NO_GROUP, GroupIndex, as_groups
from advhash.targets import choose_targets
from advhash.victims.objectives import cosine_label_similarity, label_overlap, shared_label

Ints = npt.NDArray[np.int32]
GROUPS = 9


def drawn(rows: int, width: int, seed: int = 0) -> Ints:
    """Rows of up to `width` groups of 9, some of none."""
    generator = np.random.default_rng(seed)
    table = np.full((rows, width), NO_GROUP, np.int32)
    for row in table:
        held = generator.choice(GROUPS, generator.integers(0, width + 1), replace=False)
        row[: len(held)] = np.sort(held)
    return table


def dense(groups: Ints) -> npt.NDArray[np.uint8]:
    """(N,9) columns, made by a loop."""
    hot = np.zeros((len(groups), GROUPS), np.uint8)
    for row, numbers in enumerate(groups):
        hot[row, numbers[numbers >= 0]] = 1
    return hot


@pytest.fixture(params=[1, 3], ids=["one group a row", "up to three groups a row"])
def sides(request: pytest.FixtureRequest) -> tuple[Ints, Ints]:
    return drawn(40, request.param), drawn(70, request.param, seed=1)


def codes(rows: int, seed: int, bits: int = 12) -> HashCodes:
    return HashCodes.pack(np.random.default_rng(seed).integers(0, 2, (rows, bits)))


def test_histograms_are_those_of_columns(
    sides: tuple[Ints, Ints], monkeypatch: pytest.MonkeyPatch
) -> None:
    query, database = codes(40, 2), codes(70, 3)
    expected = histograms(query, database, *map(dense, sides))
    for pairs in (1, 7, 1 << 22):  # however the pairs are divided
        monkeypatch.setattr(shared_labels, "_PAIRS", pairs)
        counted = histograms(query, database, *sides)
        assert np.array_equal(counted.total, expected.total)
        assert np.array_equal(counted.relevant, expected.relevant)
    assert expected.relevant.sum() > 50
    signs = (torch.from_numpy(query.signs()), torch.from_numpy(database.signs()))
    moved = histograms(*signs, *map(torch.from_numpy, sides))
    assert np.array_equal(moved.relevant, expected.relevant)


def test_ties_by_row_are_those_of_columns(sides: tuple[Ints, Ints]) -> None:
    query, database = codes(40, 2, 3), codes(70, 3, 3)
    expected = stable_average_precision(query, database, *map(dense, sides), top_k=20)
    assert np.array_equal(stable_average_precision(query, database, *sides, top_k=20), expected)


def test_label_sets_stand_in_the_order_of_columns(sides: tuple[Ints, Ints]) -> None:
    for groups in sides:
        sets, counts = shared_labels.label_sets(groups)
        expected, times = shared_labels.label_sets(dense(groups))
        assert np.array_equal(dense(sets), expected)
        assert np.array_equal(counts, times)


@pytest.mark.parametrize("rule", ["disjoint", "uniform", "weighted"])
def test_targets_are_those_of_columns(sides: tuple[Ints, Ints], rule: str) -> None:
    queries, database = sides
    aims = choose_targets(rule, queries, database, 5)  # type: ignore[arg-type]
    expected = choose_targets(rule, dense(queries), dense(database), 5)  # type: ignore[arg-type]
    assert np.array_equal(dense(aims), expected)


def test_no_disjoint_target_is_said() -> None:
    with pytest.raises(DataError, match=r"1 queries \(first: row 1\) share a label with every"):
        choose_targets("disjoint", as_groups([0, 4]), np.array([[4, 5], [4, 6]], np.int32), 0)


def test_objectives_are_those_of_columns(sides: tuple[Ints, Ints]) -> None:
    first, second = map(torch.from_numpy, sides)
    columns = [torch.from_numpy(dense(side)) for side in sides]
    for objective in (shared_label, label_overlap, cosine_label_similarity):
        expected = objective(*columns)
        assert torch.allclose(objective(first, second), expected, atol=1e-6)
        assert 0 < expected.mean() < 1


def test_every_function_takes_both_forms(sides: tuple[Ints, Ints]) -> None:
    groups, _ = sides
    hot = dense(groups)
    assert np.array_equal(shared_labels.columns(groups, GROUPS), hot)
    turned = shared_labels.columns(torch.from_numpy(groups), GROUPS)
    assert torch.equal(turned.to(torch.uint8), torch.from_numpy(hot))
    assert np.array_equal(shared_labels.label_counts(groups), hot.sum(axis=1))
    assert np.array_equal(shared_labels.shares(groups, groups), shared_labels.shares(hot, hot))
    for row in range(len(groups)):
        assert shared_labels.label_numbers(groups[row]) == shared_labels.label_numbers(hot[row])
    for labels in (groups, hot, torch.from_numpy(groups)):
        nothing = shared_labels.without_labels(labels)
        assert nothing.dtype == labels.dtype
        assert not shared_labels.label_counts(nothing).any()


def test_forms_are_not_mixed() -> None:
    with pytest.raises(ValueError, match="one form"):
        histograms(codes(2, 0), codes(2, 0), as_groups([0, 1]), np.ones((2, 1), np.uint8))
    with pytest.raises(ValueError, match="one form"):
        shared_labels.shares(np.ones((2, 1), np.uint8), as_groups([0, 1]))
    with pytest.raises(DataError, match="expected one whole number a row"):
        as_groups([0.5])
    with pytest.raises(DataError, match="from 0 to"):
        as_groups([-2, 3])


def test_judgements_become_groups() -> None:
    generator = np.random.default_rng(3)
    grades = generator.integers(0, 3, (30, 50)) * (generator.random((30, 50)) < 0.1)
    query, row = np.nonzero(grades + (generator.random((30, 50)) < 0.02))
    pairs = GradedPairs.of(30, query, row, grades[query, row])
    asked, known = pairs.groups(50)
    assert np.array_equal(shared_labels.shares(asked, known), grades > 0)
    own, others = codes(30, 2), codes(50, 3)
    nothing = np.zeros((30, 1), np.uint8), np.zeros((50, 1), np.uint8)
    judged, _ = pairs.judged(histograms(own, others, *nothing), own, others)
    scores = average_precision(histograms(own, others, asked, known))
    assert np.array_equal(scores, average_precision(judged))
    assert scores.max() > 0


def test_a_row_that_answers_everything_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("advhash.codes.relevance._MOST_PLACES", 99)
    pairs = GradedPairs.of(10, np.arange(10), np.full(10, 4), np.ones(10))
    with pytest.raises(DataError, match=r"got row 4 which answers 10 \(of 10 rows\)"):
        pairs.groups(10)


def test_forty_thousand_captions_of_eight_thousand_pictures() -> None:
    """Exact against a loop on some queries, without a table of rows × groups (320 MB of bits)."""
    generator = np.random.default_rng(0)
    labels = as_groups(np.repeat(np.arange(8000), 5))
    database = HashCodes.pack(generator.integers(0, 2, (40_000, 64)))
    queries = generator.choice(40_000, 500, replace=False)
    own = HashCodes(database.words[queries], 64)
    tracemalloc.start()
    counted = histograms(own, database, labels[queries], labels)
    targets = choose_targets("disjoint", labels[queries], labels, 0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 << 20
    assert counted.relevant.sum() == 5 * len(queries)
    for place in (0, 77, 499):
        far = np.bitwise_count(database.words ^ own.words[place]).sum(axis=1)
        related = far[(labels == labels[queries[place]])[:, 0]]
        assert np.array_equal(counted.relevant[place], np.bincount(related, minlength=65))
        assert np.array_equal(counted.total[place], np.bincount(far, minlength=65))
    assert not (targets == labels[queries]).any()
    assert targets[0, 0] != targets[1, 0]


def test_an_index_finds_each_pair_once(sides: tuple[Ints, Ints]) -> None:
    wanted, owned = sides
    index = GroupIndex(owned)
    places, rows = index.pairs(wanted)
    found = np.zeros((len(wanted), len(owned)), int)
    np.add.at(found, (places, rows), 1)
    assert np.array_equal(found, shared_labels.shares(wanted, owned))
    assert np.array_equal(index.counts(wanted), found.sum(axis=1))
