"""Packed codes and their Hamming distances against brute force."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from advhash.codes import HashCodes, hamming
from advhash.shared_labels import shares

WIDTHS = [1, 63, 64, 65, 1000]


def random_bits(count: int, width: int, seed: int = 0) -> npt.NDArray[np.bool_]:
    return np.random.default_rng(seed).random((count, width)) < 0.5


@pytest.mark.parametrize("width", WIDTHS)
class TestPacking:
    def test_unpack_is_the_inverse_of_pack(self, width: int) -> None:
        bits = random_bits(17, width)
        codes = HashCodes.pack(bits)
        assert codes.bits == width
        assert len(codes) == 17
        assert np.array_equal(codes.unpack(), bits)

    def test_bit_k_lies_in_word_k_over_64_at_position_k_mod_64(self, width: int) -> None:
        bits = random_bits(3, width)
        words = HashCodes.pack(bits).words
        for row in range(3):
            for bit in range(width):
                value = int(words[row, bit // 64]) >> (bit % 64) & 1
                assert value == int(bits[row, bit])

    def test_padding_bits_are_zero(self, width: int) -> None:
        words = HashCodes.pack(np.ones((2, width))).words
        assert words.shape == (2, -(-width // 64))
        assert sum(int(word).bit_count() for word in words[0]) == width
        assert int(words[0, -1]) >> ((width - 1) % 64 + 1) == 0

    def test_distances_equal_the_count_of_unequal_bits(self, width: int) -> None:
        left, right = random_bits(7, width, 1), random_bits(11, width, 2)
        expected = [[int((a != b).sum()) for b in right] for a in left]
        got = hamming.distances(HashCodes.pack(left), HashCodes.pack(right))
        assert got.tolist() == expected

    def test_complement_is_at_distance_k(self, width: int) -> None:
        """Counts of one word fit 8 bits; their sum need not."""
        bits = random_bits(4, width)
        got = hamming.distances(HashCodes.pack(bits), HashCodes.pack(~bits))
        assert np.diag(got).tolist() == [width] * 4


def test_a_bit_is_one_only_above_zero_and_there_is_no_third_value() -> None:
    relaxed = torch.tensor([[-torch.inf, -1.0, -1e-40, -0.0, 0.0, 1e-40, 1.0, torch.inf]])
    codes = HashCodes.from_relaxed(relaxed)
    assert codes.unpack().tolist() == [[False] * 5 + [True] * 3]
    assert codes.signs().tolist() == [[-1.0] * 5 + [1.0] * 3]
    assert codes.signs().dtype == np.float32


def test_nan_has_no_bit() -> None:
    with pytest.raises(ValueError, match="NaN"):
        HashCodes.from_relaxed(torch.tensor([[0.5, torch.nan]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_type_gives_the_same_bits(dtype: torch.dtype) -> None:
    relaxed = torch.tensor([[0.5, -0.5, 0.0]], dtype=dtype)
    assert HashCodes.from_relaxed(relaxed).unpack().tolist() == [[True, False, False]]


@pytest.mark.parametrize("values", [np.zeros(3), np.zeros((2, 0)), np.zeros((1, 2, 3)), 1.0])
def test_pack_refuses_what_is_no_matrix_of_bits(values: npt.ArrayLike) -> None:
    with pytest.raises(ValueError, match="expected"):
        HashCodes.pack(values)


@pytest.mark.parametrize(
    ("words", "bits"),
    [
        (np.zeros((2, 1), np.int64), 8),
        (np.zeros((2, 1), np.uint64), 65),
        (np.zeros((2, 2), np.uint64), 64),
        (np.zeros((2,), np.uint64), 8),
        (np.zeros((2, 0), np.uint64), 0),
    ],
    ids=["signed", "too-narrow", "too-wide", "one-dimensional", "no-bits"],
)
def test_words_must_fit_the_bits(words: npt.NDArray[np.uint64], bits: int) -> None:
    with pytest.raises(ValueError, match="expected uint64 words"):
        HashCodes(words, bits)


def test_rows_are_chosen_by_slice_mask_and_index() -> None:
    bits = random_bits(5, 70)
    codes = HashCodes.pack(bits)
    assert np.array_equal(codes[1:3].unpack(), bits[1:3])
    assert np.array_equal(codes[bits[:, 0]].unpack(), bits[bits[:, 0]])
    assert np.array_equal(codes[np.array([4, 0, 4])].unpack(), bits[[4, 0, 4]])
    assert codes[1:3].bits == 70


def test_no_rows_are_codes_too() -> None:
    none = HashCodes.pack(np.zeros((0, 70)))
    assert len(none) == 0
    assert none.unpack().shape == (0, 70)
    assert hamming.distances(none, HashCodes.pack(random_bits(3, 70))).shape == (0, 3)


def test_concatenate_keeps_the_order() -> None:
    bits = random_bits(9, 65)
    parts = [HashCodes.pack(bits[:4]), HashCodes.pack(bits[4:5]), HashCodes.pack(bits[5:])]
    assert np.array_equal(HashCodes.concatenate(parts).unpack(), bits)


@pytest.mark.parametrize("other", [5, 64, 65])
def test_codes_of_different_bits_do_not_mix(other: int) -> None:
    """3 and 5 bits fill one word each, so the arrays alone would not tell."""
    mixed = [HashCodes.pack(random_bits(2, 3)), HashCodes.pack(random_bits(2, other))]
    with pytest.raises(ValueError, match="bits"):
        HashCodes.concatenate(mixed)
    with pytest.raises(ValueError, match=f"expected codes of {other} bits, got 3"):
        hamming.distances(*mixed)


class TestHistograms:
    query = HashCodes.pack(random_bits(13, 20, 1))
    database = HashCodes.pack(random_bits(29, 20, 2))
    query_labels = random_bits(13, 6, 3).astype(np.uint8)
    database_labels = random_bits(29, 6, 4).astype(np.uint8)

    def counts(self, rows: slice = slice(None)) -> hamming.DistanceHistograms:
        return hamming.histograms(
            self.query, self.database[rows], self.query_labels, self.database_labels[rows]
        )

    def test_each_count_equals_a_loop_over_all_pairs(self) -> None:
        total = np.zeros((13, 21), int)
        relevant = np.zeros((13, 21), int)
        left, right = self.query.unpack(), self.database.unpack()
        for row in range(13):
            for other in range(29):
                far = int((left[row] != right[other]).sum())
                total[row, far] += 1
                relevant[row, far] += bool(
                    (self.query_labels[row] & self.database_labels[other]).any()
                )
        counts = self.counts()
        assert np.array_equal(counts.total, total)
        assert np.array_equal(counts.relevant, relevant)

    @pytest.mark.parametrize("queries", [1, 5, 12, 13])
    def test_chunks_of_queries_change_nothing(
        self, monkeypatch: pytest.MonkeyPatch, queries: int
    ) -> None:
        whole = self.counts()
        calls = []
        count = hamming._count
        monkeypatch.setattr(hamming, "_QUERIES", queries)
        monkeypatch.setattr(hamming, "_count", lambda *codes: calls.append(1) or count(*codes))
        chunked = self.counts()
        assert len(calls) == -(-13 // queries)
        assert np.array_equal(chunked.total, whole.total)
        assert np.array_equal(chunked.relevant, whole.relevant)

    def test_shards_add_up_exactly(self) -> None:
        shards = [self.counts(slice(0, 10)), self.counts(slice(10, 11)), self.counts(slice(11, 29))]
        assert np.array_equal(sum(shard.total for shard in shards), self.counts().total)
        assert np.array_equal(sum(shard.relevant for shard in shards), self.counts().relevant)


def test_relevance_is_at_least_one_shared_label() -> None:
    query = np.array([[1, 1, 0], [0, 0, 0]], np.uint8)
    database = np.array([[0, 1, 1], [0, 0, 1], [0, 0, 0]], np.uint8)
    assert shares(query, database).tolist() == [[True, False, False], [False] * 3]


def test_relevance_survives_256_shared_labels() -> None:
    """A sum in uint8 would wrap to 0."""
    labels = np.ones((1, 256), np.uint8)
    assert shares(labels, labels).tolist() == [[True]]


def test_relevance_refuses_different_numbers_of_classes() -> None:
    with pytest.raises(ValueError, match="expected 3 label columns, got 2"):
        shares(np.ones((1, 2), np.uint8), np.ones((1, 3), np.uint8))


def test_nearest_ranks_by_distance_then_by_row() -> None:
    database = HashCodes.pack([[1, 1], [1, 0], [0, 0], [0, 1]])
    assert hamming.nearest(HashCodes.pack([[0, 0]]), database, 3).tolist() == [[2, 1, 3]]
    many = random_bits(500, 3)
    far = many.sum(axis=1).tolist()
    expected = sorted(range(500), key=lambda row: (far[row], row))
    got = hamming.nearest(HashCodes.pack(np.zeros((1, 3))), HashCodes.pack(many), 500)
    assert got.tolist() == [expected]
