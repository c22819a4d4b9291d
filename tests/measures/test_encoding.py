"""Encoding properties against slow loops and scikit-learn; nearest codes against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import KNeighborsClassifier

from advhash.codes import HashCodes
from advhash.codes.hamming import distances, nearest, neighbours
from advhash.measures import encoding
from advhash.measures.encoding import (
    bit_correlation,
    bit_shares,
    cluster_classes,
    clusters,
    knn_classes,
    logistic_classes,
    pixel_knn_classes,
    redundancy_ratio,
    separation,
    simhash,
)


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(3)


def blobs(
    generator: np.random.Generator, rows: int, bits: int = 40
) -> tuple[HashCodes, np.ndarray]:
    """Three classes, each a code with 10 % of its bits flipped."""
    classes = generator.integers(0, 3, rows)
    centres = np.random.default_rng(0).random((3, bits)) < 0.5
    return HashCodes.pack(centres[classes] ^ (generator.random((rows, bits)) < 0.1)), classes


class TestNeighbours:
    @pytest.mark.parametrize("bits", [1, 63, 64, 65, 512, 513, 3000])
    @pytest.mark.parametrize("rows", [1, 3, 90])
    def test_against_brute_force(
        self, bits: int, rows: int, generator: np.random.Generator
    ) -> None:
        query = HashCodes.pack(generator.random((7, bits)) < 0.5)
        database = HashCodes.pack(generator.random((rows, bits)) < 0.5)
        far = distances(query, database).astype(int)
        expected = np.argsort(far, axis=1, kind="stable")[:, :9]
        found, found_far = neighbours(query, database, 9)
        assert np.array_equal(found, expected)
        assert np.array_equal(found_far, np.take_along_axis(far, expected, axis=1))
        assert np.array_equal(nearest(query, database, 9), expected)

    def test_ties_over_several_blocks_go_to_the_first_row(self) -> None:
        database = HashCodes.pack(np.zeros((5000, 8192), bool))
        rows, far = neighbours(database[:5], database, 3)
        assert rows.tolist() == [[0, 1, 2]] * 5
        assert not far.any()

    def test_bad_and_empty(self, generator: np.random.Generator) -> None:
        codes = HashCodes.pack(generator.random((3, 8)) < 0.5)
        with pytest.raises(ValueError, match="expected codes of 9 bits, got 8"):
            neighbours(codes, HashCodes.pack(np.zeros((2, 9))), 1)
        assert neighbours(codes[:0], codes, 2)[0].shape == (0, 2)
        assert neighbours(codes, codes[:0], 2)[0].shape == (3, 0)

    def test_distances_refuse_what_would_overflow(self) -> None:
        codes = HashCodes.pack(np.ones((1, 65_536), bool))
        zeros = HashCodes.pack(np.zeros((1, 65_536), bool))
        with pytest.raises(ValueError, match="65,535"):
            distances(codes, zeros)
        assert neighbours(codes, zeros, 1)[1].tolist() == [[65_536]]


class TestFigures:
    def test_redundancy(self, generator: np.random.Generator) -> None:
        codes = HashCodes.pack(generator.random((200, 6)) < 0.5)
        seen: list[list[bool]] = []
        repeated = 0
        for row in codes.unpack().tolist():
            repeated += row in seen
            seen.append(row)
        assert redundancy_ratio(codes) == repeated / 200
        assert redundancy_ratio(codes[:1]) == 0
        with pytest.raises(ValueError, match="got none"):
            redundancy_ratio(codes[:0])

    def test_separation_against_all_pairs(
        self, generator: np.random.Generator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(encoding, "CHUNK", 7)
        codes, classes = blobs(generator, 50)
        far = distances(codes, codes) / codes.bits
        same = classes[:, None] == classes
        others = ~np.eye(50, dtype=bool)
        found = separation(codes, classes)
        assert found.within == pytest.approx(far[same & others].mean())
        assert found.between == pytest.approx(far[~same].mean())
        assert separation(codes[:1], classes[:1]).within is None
        assert separation(codes, np.zeros(50, np.int64)).between is None
        assert np.allclose(bit_shares(codes), codes.unpack().mean(axis=0))

    def test_correlation_against_numpy(self, generator: np.random.Generator) -> None:
        codes, _ = blobs(generator, 60, bits=12)
        bits = np.concatenate([codes.unpack(), np.ones((60, 1), bool)], axis=1)
        r = np.corrcoef(codes.unpack().T.astype(float))
        expected = np.abs(r[np.triu_indices(12, 1)]).mean()
        assert bit_correlation(HashCodes.pack(bits), 0) == pytest.approx(expected)
        assert bit_correlation(HashCodes.pack(np.ones((4, 3))), 0) is None

    def test_simhash_keeps_angles(self, generator: np.random.Generator) -> None:
        values = generator.standard_normal((6, 20)).astype(np.float32)
        centre = np.zeros(20, np.float32)
        codes = simhash(values, centre, 20_000, seed=1)
        cosine = values @ values.T / np.outer(*[np.linalg.norm(values, axis=1)] * 2)
        angles = np.arccos(cosine.clip(-1, 1)) / np.pi
        assert np.abs(distances(codes, codes) / 20_000 - angles).max() < 0.02
        assert (
            simhash(values, centre, 5, 1).words.tolist()
            != simhash(values, centre, 5, 2).words.tolist()
        )


class TestCategories:
    def test_knn_is_that_of_scikit_learn(self, generator: np.random.Generator) -> None:
        known, classes = blobs(generator, 300, bits=3001)
        query, _ = blobs(generator, 80, bits=3001)
        noise = generator.random((80, 3001)) < 0.35
        query = HashCodes.pack(query.unpack() ^ noise)
        model = KNeighborsClassifier(9, metric="hamming", algorithm="brute")
        expected = model.fit(known.unpack(), classes).predict(query.unpack())
        found = knn_classes(query, known, classes)
        far = np.sort(pairwise_distances(query.unpack(), known.unpack(), "hamming"), axis=1)
        clear = far[:, 8] < far[:, 9]  # elsewhere the ninth neighbour is one of several
        assert clear.sum() > 40
        assert np.array_equal(found[clear], expected[clear])
        assert (found != expected).mean() < 0.1

    def test_equal_votes_go_to_the_smallest_class(self) -> None:
        known = HashCodes.pack([[0, 0], [0, 1]])
        found = knn_classes(HashCodes.pack([[0, 0]]), known, np.array([2, 1]), count=2)
        assert found.tolist() == [1]

    def test_pixels(self, generator: np.random.Generator) -> None:
        values = generator.standard_normal((40, 5)).astype(np.float32)
        classes = generator.integers(0, 3, 40)
        model = KNeighborsClassifier(9, algorithm="brute").fit(values, classes)
        other = generator.standard_normal((20, 5)).astype(np.float32)
        assert np.array_equal(pixel_knn_classes(other, values, classes), model.predict(other))

    def test_clusters_of_blobs(self, generator: np.random.Generator) -> None:
        codes, classes = blobs(generator, 200)
        rows, found = clusters(codes, 3, seed=9)
        for one_to_one in (False, True):
            named = cluster_classes(found, classes[rows], one_to_one=one_to_one)
            assert (named == classes[rows]).mean() > 0.95

    def test_purity_is_not_below_one_to_one(self, generator: np.random.Generator) -> None:
        for _ in range(20):
            found, classes = generator.integers(0, 5, 60), generator.integers(0, 4, 60)
            purity, one_to_one = (
                (cluster_classes(found, classes, one_to_one=way) == classes).sum()
                for way in (False, True)
            )
            assert purity == sum(np.bincount(classes[found == c]).max() for c in range(5))
            assert one_to_one <= purity

    def test_fewer_codes_than_classes(self) -> None:
        codes = HashCodes.pack([[0, 1]] * 5 + [[1, 1]] * 5)
        _, found = clusters(codes, 4, seed=0)
        assert len(set(found.tolist())) == 2

    def test_logistic(
        self, generator: np.random.Generator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known, classes = blobs(generator, 200)
        query, wanted = blobs(generator, 50)
        first, second = logistic_classes([query, query[:3]], known, classes, seed=0)
        assert (first == wanted).mean() > 0.95
        assert second.tolist() == first[:3].tolist()
        (alone,) = logistic_classes([query], known, np.full(200, 2), seed=0)
        assert set(alone.tolist()) == {2}
        monkeypatch.setattr(encoding, "MOST_VALUES", 40 * 60)
        (few,) = logistic_classes([query], known, classes, seed=0)
        assert (few == wanted).mean() > 0.9
        assert len(clusters(known, 3, seed=0)[0]) == 60

    def test_rows_must_fit(self, generator: np.random.Generator) -> None:
        codes, classes = blobs(generator, 9)
        with pytest.raises(ValueError, match="expected 9 classes, got 8"):
            knn_classes(codes, codes, classes[:8])
        with pytest.raises(ValueError, match="expected 9 classes, got 8"):
            separation(codes, classes[:8])
