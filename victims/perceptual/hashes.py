"""Perceptual hashes as victims: phash, dhash and PDQ, what deduplication and moderation run.

They are not trained. The code of a picture is that of the reference program, in the arithmetic of
that program; the gradient is that of the same operator without its roundings. Pictures come at
any size: each hash brings its own resize. Hashes of means are in `block_means`.
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from typing import Literal, Self

import numpy as np
import numpy.typing as npt
import scipy.fft
import torch
from torch import Tensor

from advhash.codes.packed import HashCodes
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset, Modality
from advhash.data.paths import Reads
from advhash.errors import DataError
from advhash.registry import VICTIMS
from advhash.victims.base import HashVictim, expect_positive
from advhash.victims.perceptual.kernels import both_products, luminance, running_means
from advhash.victims.perceptual.resampling import (
    Picture,
    Pixels,
    eight_bit_pixels,
    fitted_size,
    grey,
    resize,
    straight_through,
)

Floats = npt.NDArray[np.float32]
Bits = npt.NDArray[np.bool_]
LEAST_SIDE = 5  # PDQ gives a picture with a shorter side no bit and no quality
QUALITY_SCALE = 90  # PDQ's quality is the sum of gradients over this, at most 100


class PerceptualHash(HashVictim):
    """A hash that is computed, not learnt: `fit` has nothing to do and `history` stays empty.

    A bit is 1 iff its value is above the threshold of the picture, as everywhere: relaxed > 0.
    Codes alone are taken from the pixels by Pillow, which `relax` equals, and many times as fast.
    """

    any_size = True
    default_dataset = "near_duplicates"
    reads = Reads(classes=False)

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.bounds = {"image": (0.0, 1.0)}
        self.history = []
        self.register_buffer("place", torch.empty(0), persistent=False)  # knows the device

    @abstractmethod
    def bits_of(self, picture: Picture) -> Bits:
        """(K,) of one picture: what `relax` gives, above 0 or not."""

    def binarise(self, inputs: Tensor, modality: Modality) -> HashCodes:
        if bool(inputs.isnan().any()):
            raise ValueError("expected pixels, got NaN: what made the picture is broken")
        pixels = eight_bit_pixels(inputs.detach()).byte().permute(0, 2, 3, 1).cpu().numpy()
        return HashCodes.pack(np.stack([self.bits_of(Picture.of(each)) for each in pixels]))

    @classmethod
    def data_arguments(cls, data: Dataset) -> dict[str, object]:
        if "image" not in data.modalities:
            raise DataError(
                f"{cls.__name__} needs images: {data.name!r} has {', '.join(data.modalities)}"
            )
        return {}

    def fit(self, data: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """Nothing to learn. Raises DataError where there are no images."""
        self.data_arguments(data)
        return self


@VICTIMS.register("phash", source="Krawetz, hackerfactor.com 2011, as in imagehash 4.3")
class PHash(PerceptualHash):
    """Perceptual hash: the low frequencies of a small grey picture, above their median or not.

    bits: a square number h²
    highfreq_factor: the picture is resized to h·factor pixels a side before its DCT

    `relax` gives value − median in units of the orthonormal DCT of [0,1] pixels. See
    docs/victims/perceptual.md.
    """

    def __init__(self, *, bits: int = 64, highfreq_factor: int = 4) -> None:
        super().__init__(bits)
        expect_positive(highfreq_factor=highfreq_factor)
        self.highfreq_factor = highfreq_factor
        self.side = square_side(bits)

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        size = self.side * self.highfreq_factor
        pixels = resize(grey(eight_bit_pixels(inputs)), size, size)
        transform = torch.from_numpy(2 * dct_matrix(self.side, size)).to(pixels)
        smooth = (transform @ pixels @ transform.T).flatten(1)
        whole = pixels.detach().cpu().numpy().astype(np.uint8)
        exact = torch.from_numpy(np.stack([self._frequencies(image) for image in whole]))
        values = straight_through(exact.to(smooth), smooth)
        relaxed = values - middle(values).mean(dim=1, keepdim=True)
        return (relaxed / (2 * 255 * size)).float()

    def bits_of(self, picture: Picture) -> Bits:
        size = self.side * self.highfreq_factor
        values = self._frequencies(picture.small_grey(size, size))
        return np.asarray(values > np.median(values))

    def _frequencies(self, pixels: Pixels) -> npt.NDArray[np.float64]:
        """(K,) by scipy: in symmetric pictures many are 0 but for its rounding, which decides."""
        columns = scipy.fft.dct(pixels, axis=0)
        both = scipy.fft.dct(columns, axis=1)
        return np.asarray(both[: self.side, : self.side], np.float64).ravel()


@VICTIMS.register("dhash", source="Krawetz, hackerfactor.com 2013, as in imagehash 4.3")
class DHash(PerceptualHash):
    """Difference hash: whether a pixel of a tiny grey picture is lighter than its left neighbour.

    bits: a square number h²; the picture is resized to h rows of h+1 pixels

    `relax` gives the difference of the two pixels, in [−1,1].
    """

    def __init__(self, *, bits: int = 64) -> None:
        super().__init__(bits)
        self.side = square_side(bits)

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        pixels = resize(grey(eight_bit_pixels(inputs)), self.side, self.side + 1)
        return (pixels.diff(dim=2) / 255).flatten(1).float()

    def bits_of(self, picture: Picture) -> Bits:
        small = picture.small_grey(self.side, self.side + 1)
        return np.asarray(small[:, 1:] > small[:, :-1]).ravel()


@VICTIMS.register("pdq", source="Facebook 2019, The TMK+PDQF and the PDQ algorithms")
class PDQ(PerceptualHash):
    """PDQ: 256 bits of the low frequencies of a blurred picture of 64×64 points.

    Luminance, twice a box filter along rows and columns, one point of each of 64×64 cells, a DCT
    of which rows and columns 1 to 16 are kept, above their (lower) median or not. All in float32
    and in the order of the reference program, whose bits are numbered from the last to the first.
    A picture with a side below 5 pixels has no bit that is 1, as there.

    shrink: 512, as of the published hashes: a picture with a longer side is first made to fit
        512×512 pixels in its own shape, by Pillow's bicubic filter; "none": it is hashed at its own
        size, as `pdqhash` does. Smaller pictures have one and the same hash.

    `relax` gives (value − median)/255. See docs/victims/perceptual.md.
    """

    grid = 64
    side = 16

    def __init__(self, *, shrink: Literal[512, "none"] = 512) -> None:
        super().__init__(self.side**2)
        if shrink not in (512, "none"):
            raise ValueError(f"expected shrink 512 or none, got {shrink!r}")
        self.shrink = shrink

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        pixels = self._fitted(eight_bit_pixels(inputs)).double()
        points = pixels[:, 0] * 0.299 + pixels[:, 1] * 0.587 + pixels[:, 2] * 0.114
        smooth = self._smooth(points)
        whole = points.detach().float().cpu().numpy()
        exact = torch.from_numpy(np.stack([_frequencies(_grid(picture)) for picture in whole]))
        values = straight_through(exact.to(smooth), smooth).flatten(1).flip(1)
        relaxed = ((values - middle(values)[:, :1]) / 255).float()
        return relaxed * 0 if min(pixels.shape[2:]) < LEAST_SIDE else relaxed

    def bits_of(self, picture: Picture) -> Bits:
        grey_picture = self._luminance(picture)
        if min(grey_picture.shape) < LEAST_SIDE:
            return np.zeros(self.bits, np.bool_)
        return _above_lower_median(_frequencies(_grid(grey_picture)))

    def quality(self, picture: Picture) -> int:
        """0 … 100: how much the picture changes from point to point.

        Users of PDQ drop pictures below 50: flat ones, whose hashes mean little.
        """
        return _quality(self._luminance(picture))

    def dihedral(self, picture: Picture) -> HashCodes:
        """Eight codes of one picture, as it would be turned and mirrored.

        As it is, turned by 90°, 180° and 270°, upside down, left to right, and mirrored at either
        diagonal: changes of sign and order of the frequencies, so that a picture that is turned
        before it is hashed may differ in a few bits.
        """
        grey_picture = self._luminance(picture)
        if min(grey_picture.shape) < LEAST_SIDE:
            return HashCodes.pack(np.zeros((8, self.bits)))
        values = _frequencies(_grid(grey_picture))
        odd = np.where(np.arange(self.side) % 2 == 0, -1, 1).astype(np.float32)
        down, across = odd[:, None], odd[None]
        turned = values.T
        return HashCodes.pack(
            np.stack(
                [
                    _above_lower_median(each)
                    for each in (
                        *(values, turned * down, values * down * across, turned * across),
                        *(values * down, values * across, turned, turned * down * across),
                    )
                ]
            )
        )

    def _luminance(self, picture: Picture) -> Floats:
        """(H,W), no side above `shrink`."""
        width, height = picture.image.size
        new = (height, width) if self.shrink == "none" else fitted_size(height, width, self.shrink)
        result: Floats = luminance(picture.fitted(*new))
        return result

    def _fitted(self, pixels: Tensor) -> Tensor:
        """(B,3,h,w) whole numbers 0 … 255 of (B,3,H,W), no side above `shrink`."""
        old: tuple[int, int] = (pixels.shape[2], pixels.shape[3])
        new = old if self.shrink == "none" else fitted_size(*old, self.shrink)
        if new == old:
            return pixels
        return torch.stack(
            [resize(channel, *new, "bicubic") for channel in pixels.unbind(1)], dim=1
        )

    def _smooth(self, picture: Tensor) -> Tensor:
        """(B,16,16) of (B,H,W), as one linear operator."""
        height, width = picture.shape[1:]
        transform = torch.from_numpy(pdq_transform()).to(picture)
        down = torch.from_numpy(blurred_points(height, width)).to(picture)
        across = torch.from_numpy(blurred_points(width, height)).to(picture)
        small = down @ picture @ across.T
        return transform @ small @ transform.T


def square_side(bits: int) -> int:
    """h of h² bits. Raises ValueError where `bits` is no square of at least 4."""
    side = math.isqrt(max(bits, 0))
    if side < 2 or side * side != bits:
        raise ValueError(f"expected bits to be a square number from 4 on (16, 64, 256), got {bits}")
    return side


def middle(values: Tensor) -> Tensor:
    """(B,2) the two middle ones of an even number of values, or twice the middle one.

    >>> middle(torch.tensor([[4.0, 1.0, 3.0, 2.0]])).tolist()
    [[2.0, 3.0]]
    """
    count = values.shape[1]
    return values.sort(dim=1).values[:, [(count - 1) // 2, count // 2]]


def dct_matrix(rows: int, size: int, first: int = 0) -> npt.NDArray[np.float64]:
    """(rows,size) cos(π·(first+i)·(2j+1)/(2·size)): frequencies `first` and up of the DCT-II.

    >>> dct_matrix(2, 2).round(4).tolist()
    [[1.0, 1.0], [0.7071, -0.7071]]
    """
    frequency = np.arange(first, first + rows)[:, None]
    angles = math.pi / 2 / size * frequency * (2 * np.arange(size) + 1)
    return np.asarray(np.cos(angles), np.float64)


@functools.cache
def pdq_transform() -> Floats:
    """(16,64) frequencies 1 to 16, orthonormal; only the scale is rounded before the product."""
    scale = np.float64(np.float32(math.sqrt(2 / PDQ.grid)))
    return (scale * dct_matrix(PDQ.side, PDQ.grid, first=1)).astype(np.float32)


def box_width(size: int) -> int:
    """Width of the box filter for a side of `size` pixels: half a cell of the 64×64 grid.

    >>> box_width(128), box_width(512)
    (1, 4)
    """
    return -(-size // (2 * PDQ.grid))


def points(size: int) -> npt.NDArray[np.int64]:
    """(64,) the pixel in the middle of each cell."""
    return ((np.arange(PDQ.grid) + 0.5) * size / PDQ.grid).astype(np.int64)


def box_filter(values: Floats, width: int) -> Floats:
    """(N,M) means over `width` neighbours along the first axis, fewer at the borders."""
    after = (width + 2) // 2 - 1  # neighbours behind
    result: Floats = running_means(np.ascontiguousarray(values), width - 1 - after, after)
    return result


def _grid(values: Floats) -> Floats:
    """(64,64) points of a blurred picture (H,W), with the roundings of the reference."""
    height, width = values.shape
    if height == width == PDQ.grid:
        return values
    for _ in range(2):
        values = box_filter(values.T, box_width(width)).T
        values = box_filter(values, box_width(height))
    return values[points(height)][:, points(width)]


def _frequencies(grid: Floats) -> Floats:
    """(16,16) of (64,64), with the roundings of the reference."""
    result: Floats = both_products(pdq_transform(), np.ascontiguousarray(grid))
    return result


def _above_lower_median(values: Floats) -> Bits:
    """(256,) bits of (16,16), from the last to the first."""
    flat = values.ravel()[::-1]
    return np.asarray(flat > np.sort(flat)[len(flat) // 2 - 1])


def _quality(values: Floats) -> int:
    """0 … 100 of (H,W): the sum of the whole steps between its points, in percent of the range."""
    if min(values.shape) < LEAST_SIDE:
        return 0
    grid = _grid(values)
    steps = (np.abs(np.diff(grid, axis=axis) * np.float32(100) / 255) for axis in (0, 1))
    return min(int(sum(np.trunc(step).sum(dtype=np.int64) for step in steps)) // QUALITY_SCALE, 100)


def blurred_points(size: int, other: int) -> Floats:
    """(64,size) the two passes and the choice of points along one side as a matrix.

    other: the other side; a picture of 64×64 pixels is taken as it is
    """
    identity = np.eye(size, dtype=np.float32)
    if size == other == PDQ.grid:
        return identity
    width = box_width(size)
    return box_filter(box_filter(identity, width), width)[points(size)]
