"""The counting kernel against brute force, for every width that could matter."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings, strategies as st

from advhash.codes import HashCodes, bit_slices, hamming, lanes
from advhash.codes.hamming import DistanceHistograms, histograms
from advhash.compute.cores import usable_cores
from advhash.errors import UsageError

BLOCK = 64 * bit_slices.BLOCK_WORDS
Bits = npt.NDArray[np.bool_]


def random_bits(rows: int, columns: int, seed: int, density: float = 0.5) -> Bits:
    return np.random.default_rng(seed).random((rows, columns)) < density


def slow(query: Bits, database: Bits, wanted: Bits, owned: Bits) -> DistanceHistograms:
    """Every pair by its definition."""
    levels = query.shape[1] + 1
    total = np.zeros((len(query), levels), np.int64)
    relevant = np.zeros_like(total)
    for row, code in enumerate(query):
        far = (code != database).sum(axis=1)
        hit = (wanted[row] & owned).any(axis=1)
        total[row] = np.bincount(far, minlength=levels)
        relevant[row] = np.bincount(far[hit], minlength=levels)
    return DistanceHistograms(total, relevant)


def check(query: Bits, database: Bits, wanted: Bits, owned: Bits) -> None:
    expected = slow(query, database, wanted, owned)
    got = histograms(
        HashCodes.pack(query),
        HashCodes.pack(database),
        wanted.astype(np.uint8),
        HashCodes.pack(owned),
    )
    assert np.array_equal(got.total, expected.total)
    assert np.array_equal(got.relevant, expected.relevant)


@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 31, 48, 63, 64, 65, 127, 128, 129, 1000, 1024])
def test_any_number_of_bits(width: int) -> None:
    database = random_bits(300, width, 1)
    query = random_bits(4, width, 2)
    query[1], query[2] = database[7], ~database[7]  # distances 0 and K
    check(query, database, random_bits(4, 21, 3, 0.1), random_bits(300, 21, 4, 0.1))


@pytest.mark.parametrize("classes", [1, 21, 63, 64, 65, 200])
def test_any_number_of_labels(classes: int) -> None:
    query, database = random_bits(3, 24, 1), random_bits(500, 24, 2)
    check(query, database, random_bits(3, classes, 3, 0.2), random_bits(500, classes, 4, 0.02))


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 511, 512, 513, BLOCK - 1, BLOCK, BLOCK + 1])
def test_any_number_of_rows(rows: int) -> None:
    """The last word, vector and block are not full."""
    database = random_bits(rows, 33, rows)
    check(random_bits(2, 33, 1), database, random_bits(2, 5, 2), random_bits(rows, 5, 3))


def test_several_blocks_on_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 5 * BLOCK + 17
    data = (
        random_bits(3, 40, 1),
        random_bits(rows, 40, 2),
        random_bits(3, 9, 3),
        random_bits(rows, 9, 4, 0.1),
    )
    for threads in (1, 2, 3, 50):
        monkeypatch.setattr(hamming, "usable_cores", lambda count=threads: count)
        check(*data)


def test_more_rows_than_half_a_word_can_count_are_split(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    kernel = bit_slices.add_histograms
    monkeypatch.setattr(hamming, "_COUNTED_ROWS", BLOCK)
    monkeypatch.setattr(bit_slices, "add_histograms", lambda *a: calls.append(a[5:7]) or kernel(*a))
    rows = 4 * BLOCK + 3
    check(
        random_bits(2, 9, 1),
        random_bits(rows, 9, 2),
        np.ones((2, 1), bool),
        np.ones((rows, 1), bool),
    )
    assert sorted(calls) == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]


def test_the_number_of_threads_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    assert usable_cores() == 1
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1000")
    unbounded = usable_cores()
    monkeypatch.delenv("NUMBA_NUM_THREADS")
    assert usable_cores() == unbounded >= 1
    for wrong in ("0", "-1", "abc", ""):
        monkeypatch.setenv("NUMBA_NUM_THREADS", wrong)
        with pytest.raises(UsageError, match="above 0 in NUMBA_NUM_THREADS"):
            usable_cores()


def test_the_kernel_needs_no_folder_to_keep_what_it_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*arguments: object, **options: object) -> object:
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(*arguments, **options)

    monkeypatch.setattr(lanes, "njit", refuse)
    assert lanes.compiled(lambda number: number + 1)(2) == 3


@pytest.mark.parametrize("density", [0.0, 0.02, 0.98, 1.0])
def test_codes_that_crowd_at_one_distance(density: float) -> None:
    """Whole groups of distances are empty, which the kernel skips."""
    database = random_bits(700, 64, 1, density)
    query = np.stack([np.zeros(64, bool), np.ones(64, bool)])
    check(query, database, np.ones((2, 1), bool), random_bits(700, 1, 2))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_random_shapes(data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 140))
    classes = data.draw(st.integers(1, 70))
    queries = data.draw(st.integers(0, 6))
    rows = data.draw(st.integers(0, 200))
    seed = data.draw(st.integers(0, 2**31))
    check(
        random_bits(queries, width, seed),
        random_bits(rows, width, seed + 1),
        random_bits(queries, classes, seed + 2, 0.3),
        random_bits(rows, classes, seed + 3, 0.3),
    )


class TestTensors:
    """The path for codes on a GPU, on a CPU tensor."""

    query, database = random_bits(9, 70, 1), random_bits(400, 70, 2)
    wanted, owned = random_bits(9, 12, 3, 0.2), random_bits(400, 12, 4, 0.2)

    @staticmethod
    def real(bits: Bits, seed: int) -> torch.Tensor:
        size = torch.rand(bits.shape, generator=torch.Generator().manual_seed(seed)) + 0.01
        return torch.where(torch.from_numpy(bits), size, -size)

    @pytest.mark.parametrize("pairs", [1, 400, 401, 10**6])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_equals_the_kernel(
        self, monkeypatch: pytest.MonkeyPatch, pairs: int, dtype: torch.dtype
    ) -> None:
        monkeypatch.setattr(hamming, "_TENSOR_PAIRS", pairs)
        expected = slow(self.query, self.database, self.wanted, self.owned)
        got = histograms(
            self.real(self.query, 1).to(dtype),
            self.real(self.database, 2).to(dtype),
            torch.from_numpy(self.wanted),
            torch.from_numpy(self.owned),
        )
        assert got.total.dtype == np.int64
        assert np.array_equal(got.total, expected.total)
        assert np.array_equal(got.relevant, expected.relevant)

    def test_zero_is_bit_0_as_everywhere(self) -> None:
        zero, one = torch.zeros(1, 3), torch.ones(1, 3)
        hot = torch.ones(1, 1)
        assert histograms(zero, one, hot, hot).total.tolist() == [[0, 0, 0, 1]]
        assert histograms(zero, -one, hot, hot).total.tolist() == [[1, 0, 0, 0]]

    def test_nan_has_no_bit(self) -> None:
        broken, hot = torch.full((1, 3), torch.nan), torch.ones(1, 1)
        for pair in ((broken, torch.ones(1, 3)), (torch.ones(1, 3), broken)):
            with pytest.raises(ValueError, match="got NaN"):
                histograms(*pair, hot, hot)

    def test_no_rows_and_no_queries(self) -> None:
        none, some = torch.zeros(0, 3), torch.ones(2, 3)
        hot = torch.ones(2, 1)
        assert histograms(some, none, hot, hot[:0]).total.tolist() == [[0] * 4] * 2
        assert histograms(none, some, hot[:0], hot).total.shape == (0, 4)

    def test_what_does_not_fit_is_refused(self) -> None:
        two, three, hot = torch.ones(1, 2), torch.ones(1, 3), torch.ones(1, 1)
        with pytest.raises(ValueError, match="expected codes of 3 bits, got 2"):
            histograms(two, three, hot, hot)
        with pytest.raises(ValueError, match="expected 2 label columns, got 1"):
            histograms(three, three, hot, torch.ones(1, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": HashCodes.pack(np.ones((2, 5)))}, "expected codes of 6 bits, got 5"),
        ({"query_labels": np.ones((2, 3), np.uint8)}, "expected 4 label columns, got 3"),
        ({"query_labels": np.ones((1, 4), np.uint8)}, "expected 2 rows of query labels, got 1"),
        (
            {"database_labels": np.ones((9, 4), np.uint8)},
            "expected 3 rows of database labels, got 9",
        ),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, object], message: str) -> None:
    parts: dict[str, object] = {
        "query": HashCodes.pack(np.ones((2, 6))),
        "database": HashCodes.pack(np.ones((3, 6))),
        "query_labels": np.ones((2, 4), np.uint8),
        "database_labels": np.ones((3, 4), np.uint8),
    }
    with pytest.raises(ValueError, match=message):
        histograms(**{**parts, **change})  # type: ignore[call-overload]


def test_adding_no_shard_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one shard"):
        DistanceHistograms.add([])
