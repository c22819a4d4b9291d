"""How little can suffice: the bound holds, and the attack comes near to it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.datasets import load_sample_images

from advhash.errors import UsageError
from advhash.victims.perceptual import PDQ, DHash, PerceptualHash, PHash
from advhash.victims.perceptual.certificates import least_l2, linear_hash, majorants
from advhash.victims.perceptual.resampling import Picture
from advhash.victims.perceptual.stored_change import (
    least_stored,
    least_stored_level,
    map_of,
)

Pixels = npt.NDArray[np.uint8]


def photo(side: int, place: int = 0, width: int | None = None) -> Pixels:
    image = load_sample_images().images[place % 2]
    return np.ascontiguousarray(image[10 : 10 + side, 60 * place : 60 * place + (width or side)])


@pytest.mark.parametrize(
    ("victim", "size"),
    [(PDQ(), (128, 128)), (PDQ(), (100, 150)), (PDQ(), (64, 64)), (PHash(), (128, 96))],
    ids=["pdq", "pdq, uneven", "pdq, 64", "phash"],
)
def test_the_map_is_that_of_the_hash_but_for_roundings(
    victim: PerceptualHash, size: tuple[int, int]
) -> None:
    linear = linear_hash(victim, *size)
    for place in range(3):
        pixels = photo(size[0], place, size[1])
        bits = victim.bits_of(Picture.of(pixels))
        assert (linear.bits(pixels.astype(float)) != bits).sum() <= 2
        weights = np.random.default_rng(0).normal(size=victim.bits)
        assert np.isclose(
            (linear.picture(weights) * pixels).sum(), weights @ linear.values(pixels.astype(float))
        )
    gram = np.stack([linear.picture(row).ravel() for row in np.eye(victim.bits)])
    assert np.allclose(gram @ gram.T, linear.gram())


def test_majorants_are_above() -> None:
    gram = linear_hash(PDQ(), 100, 90).gram()
    for diagonal in majorants(gram):
        least = np.linalg.eigvalsh(np.diag(diagonal) - gram)[0]
        assert least >= -1e-9 * gram.max()


@pytest.mark.parametrize(
    ("victim", "side", "threshold", "most"),
    [
        (PDQ(), 128, 31, 1.01), (PDQ(), 375, 31, 1.1), (PDQ(), 200, 31, 1.35),
        (PDQ(), 128, 90, 1.01), (PHash(), 128, 10, 1.1),
    ],
)  # fmt: skip
def test_the_attack_leaves_the_threshold_near_the_bound(
    victim: PerceptualHash, side: int, threshold: int, most: float
) -> None:
    pixels = photo(side)
    linear = linear_hash(victim, side, side)
    found = least_l2(linear, victim.bits_of(Picture.of(pixels)), pixels, threshold)
    assert found is not None
    before, after = (linear.bits(p) for p in (pixels.astype(float), pixels + found.change))
    assert (before != after).sum() > threshold
    assert found.attack == pytest.approx(np.sqrt((found.change**2).sum()))
    assert 0 < found.bound <= found.attack <= most * found.bound
    if isinstance(victim, PDQ):
        assert 0.5 * found.bound < found.real <= found.bound
    else:
        assert found.real == 0  # grey and the resize round by more


def test_no_change_below_the_bound_leaves_the_real_hash() -> None:
    """Rounded changes of many shapes and sizes, along the attack and at random."""
    victim, threshold, out = PDQ(), 31, 0
    generator = np.random.default_rng(0)
    for place in range(4):
        pixels = photo(128, place)
        own = victim.bits_of(Picture.of(pixels))
        found = least_l2(linear_hash(victim, 128, 128), own, pixels, threshold)
        assert found is not None
        for trial in range(60):
            mix = generator.normal(size=pixels.shape) * generator.choice([0, 0.2, 1])
            change = found.change * generator.uniform(0.8, 8) + mix
            moved = (pixels + change).round().clip(0, 255).astype(np.uint8)
            if (victim.bits_of(Picture.of(moved)) != own).sum() > threshold:
                out += 1
                assert np.sqrt(((moved - pixels.astype(float)) ** 2).sum()) >= found.real, trial
    assert out > 30


def test_a_larger_picture_is_shrunk_by_roundings_that_leave_nothing() -> None:
    pixels = np.asarray(np.kron(photo(150), np.ones((4, 4, 1))), np.uint8)
    linear = linear_hash(PDQ(), 600, 600)
    found = least_l2(linear, PDQ().bits_of(Picture.of(pixels)), pixels, 31)
    assert found is not None
    assert found.bound > 0
    assert found.real == 0
    plain = linear_hash(PDQ(shrink="none"), 600, 600)
    own = PDQ(shrink="none").bits_of(Picture.of(pixels))
    unshrunk = least_l2(plain, own, pixels, 31)
    assert unshrunk is not None
    assert unshrunk.real > 0


@pytest.mark.parametrize(
    ("victim", "side", "threshold", "most"),
    [
        (PDQ(), 128, 31, 1.3), (PDQ(), 200, 31, 1.5), (PDQ(shrink="none"), 600, 31, 1.21),
        (PHash(), 128, 10, 1.1), (PHash(), 128, 7, 1.1),
    ],
)  # fmt: skip
def test_a_stored_picture_leaves_the_real_hash_not_far_above_the_bound(
    victim: PerceptualHash, side: int, threshold: int, most: float
) -> None:
    pixels = np.asarray(np.kron(photo(150), np.ones((4, 4, 1))), np.uint8)[:side, :side]
    if side < 300:
        pixels = photo(side)
    own = victim.bits_of(Picture.of(pixels))
    linear = linear_hash(victim, side, side)
    found = least_l2(linear, own, pixels, threshold)
    moved = least_stored(victim, linear, pixels, threshold)
    assert found is not None
    assert moved is not None
    assert moved.dtype == np.uint8
    assert (victim.bits_of(Picture.of(moved)) != own).sum() > threshold
    length = np.sqrt(((moved - pixels.astype(float)) ** 2).sum())
    assert found.real <= length <= most * found.bound


def test_a_stored_picture_keeps_to_black_and_white() -> None:
    """Half of the pixels at both ends of the range would leave it, and do nothing."""
    pixels = np.asarray((photo(128) > 110) * 255, np.uint8)
    linear = linear_hash(PDQ(), 128, 128)
    found = least_l2(linear, PDQ().bits_of(Picture.of(pixels)), pixels, 31)
    moved = least_stored(PDQ(), linear, pixels, 31)
    assert found is not None
    assert moved is not None
    assert np.sqrt(((moved - pixels.astype(float)) ** 2).sum()) > 1.2 * found.bound


@pytest.mark.parametrize("victim", [PDQ(), PHash(), DHash()], ids=["pdq", "phash", "dhash"])
@pytest.mark.parametrize("size", [(3, 3), (5, 5), (6, 40), (16, 16)], ids=str)
def test_tiny_pictures_are_answered_too(victim: PerceptualHash, size: tuple[int, int]) -> None:
    """Some of their values no pixel moves, others only together."""
    pixels = np.ascontiguousarray(photo(160)[:: 160 // size[0], :: 160 // size[1]])
    pixels = pixels[: size[0], : size[1]]
    own = victim.bits_of(Picture.of(pixels))
    linear = map_of(victim, *size)
    for moved in (
        least_stored(victim, linear, pixels, 5),
        least_stored_level(victim, linear, pixels, 5, (1, 8, 64)),
    ):
        assert moved is None or (victim.bits_of(Picture.of(moved)) != own).sum() > 5
    if not isinstance(victim, DHash) and 2 * own.sum() == victim.bits:
        found = least_l2(linear, own, pixels, 5)
        assert found is not None
        assert found.real <= found.bound <= found.attack


def test_what_cannot_be_answered() -> None:
    with pytest.raises(UsageError, match=r"expected pdq or phash.*got DHash"):
        linear_hash(DHash(), 64, 64)
    pixels = photo(64)
    linear = linear_hash(PDQ(), 64, 64)
    assert least_l2(linear, PDQ().bits_of(Picture.of(pixels)), pixels, 256) is None
    assert least_stored(PDQ(), linear, pixels, 256) is None
    flat = np.full((64, 64, 3), 128, np.uint8)
    assert least_stored(PDQ(), linear, flat, 31) is None
