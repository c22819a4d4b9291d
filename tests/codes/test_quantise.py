"""Thresholds are those of the database, and the bits are those of others who take them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from advhash.codes import quantise
from advhash.codes.quantise import RULES, Rule, above, thresholds


def embeddings(rows: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0.3, 1, (rows, 24)).astype(np.float32)


@pytest.mark.parametrize("values", [1 << 24, 100])
@pytest.mark.parametrize("quantiser", RULES)
def test_thresholds_are_the_statistics_of_the_columns(
    monkeypatch: pytest.MonkeyPatch, quantiser: Rule, values: int
) -> None:
    """Whole or in blocks."""
    monkeypatch.setattr(quantise, "_VALUES", values)
    rows = embeddings(101)
    wanted = {
        "sign": np.zeros(24),
        "mean": rows.astype(float).mean(axis=0),
        "median": np.median(rows.astype(float), axis=0),
    }
    found = thresholds(rows, quantiser)
    assert found == pytest.approx(wanted[quantiser], abs=1e-12)
    assert np.array_equal(above(rows, found), rows > found)


def test_the_median_gives_each_bit_to_half_of_the_database() -> None:
    rows = np.abs(embeddings(100))  # as after a ReLU: all signs are equal
    assert above(rows, thresholds(rows, "sign")).all()
    assert (above(rows, thresholds(rows, "median")).sum(axis=0) == 50).all()


def test_signs_are_the_bits_of_sentence_transformers() -> None:
    library = pytest.importorskip("sentence_transformers.util.quantization")
    rows = embeddings(50)
    bits = above(rows, thresholds(rows, "sign"))
    packed = np.packbits(bits, axis=1)
    assert np.array_equal(library.quantize_embeddings(rows, precision="ubinary"), packed)
    binary = library.quantize_embeddings(rows, precision="binary")
    assert np.array_equal(binary.astype(int) + 128, packed)


def test_what_cannot_be_quantised_is_refused() -> None:
    with pytest.raises(ValueError, match="got NaN"):
        above(np.array([[0.0, np.nan]]), np.zeros(2))
    with pytest.raises(ValueError, match="expected rows of 3 numbers"):
        above(np.zeros((1, 2)), np.zeros(3))
    with pytest.raises(ValueError, match="rows of a database"):
        thresholds(np.zeros((0, 2)), "mean")
    with pytest.raises(ValueError, match="expected sign, mean, median, got 'itq'"):
        thresholds(np.zeros((1, 2)), "itq")  # type: ignore[arg-type]
