"""Perceptual hashes that compare means of parts of a picture: ahash, whash and blockhash."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.data.dataset import Modality
from advhash.registry import VICTIMS
from advhash.victims.perceptual.hashes import (
    Bits,
    PerceptualHash,
    middle,
    square_side,
)
from advhash.victims.perceptual.kernels import shared_out
from advhash.victims.perceptual.resampling import (
    Picture,
    Pixels,
    eight_bit_pixels,
    grey,
    resize,
    straight_through,
)

Floats = npt.NDArray[np.float64]
HAAR = 0.7071067811865476  # √½, both taps of the low pass
BANDS = 4  # of blockhash, each with a median of its own


@VICTIMS.register("ahash", source="Krawetz, hackerfactor.com 2011, as in imagehash 4.3")
class AHash(PerceptualHash):
    """Average hash: whether a pixel of a tiny grey picture is lighter than their mean.

    bits: a square number h²; the picture is resized to h×h pixels

    `relax` gives pixel − mean, in [−1,1].
    """

    def __init__(self, *, bits: int = 64) -> None:
        super().__init__(bits)
        self.side = square_side(bits)

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        values = resize(grey(eight_bit_pixels(inputs)), self.side, self.side).flatten(1)
        return ((values - values.mean(dim=1, keepdim=True)) / 255).float()

    def bits_of(self, picture: Picture) -> Bits:
        small = picture.small_grey(self.side, self.side)
        return np.asarray(small > small.mean()).ravel()


@VICTIMS.register("whash", source="Petrov, fullstackml.com 2016, as in imagehash 4.3, Haar")
class WHash(PerceptualHash):
    """Wavelet hash: the low pass of a grey picture after Haar's transform, above its median or not.

    bits: a square number h², h a power of two

    The picture is resized to the largest power of two that its shorter side holds, at least h. The
    low pass holds the means of h×h blocks, without the mean of the picture. `relax` gives mean −
    median, in [−1,1].
    """

    def __init__(self, *, bits: int = 64) -> None:
        super().__init__(bits)
        self.side = square_side(bits)
        if self.side & (self.side - 1):
            raise ValueError(
                f"expected bits to be the square of a power of two (16, 64, 256), got {bits}"
            )

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        size = self._size(*inputs.shape[2:])
        pixels = resize(grey(eight_bit_pixels(inputs)), size, size)
        part = size // self.side
        smooth = pixels.unflatten(2, (self.side, part)).unflatten(1, (self.side, part))
        smooth = smooth.mean(dim=(2, 4)).flatten(1) / 255
        whole = pixels.detach().cpu().numpy().astype(np.uint8)
        exact = torch.from_numpy(np.stack([self._low_pass(picture) for picture in whole]) / part)
        values = straight_through(exact.to(smooth), smooth)
        return (values - middle(values).mean(dim=1, keepdim=True)).float()

    def bits_of(self, picture: Picture) -> Bits:
        """Whole sums decide, unless both middle ones are equal: then roundings do."""
        size = self._size(*picture.image.size)
        small = picture.small_grey(size, size)
        part = size // self.side
        sums = small.reshape(self.side, part, self.side, part).sum((1, 3), np.int64).ravel()
        low, high = np.sort(sums)[len(sums) // 2 - 1 :][:2]
        if low < high:
            return np.asarray(2 * sums > low + high)
        values = self._low_pass(small)
        return np.asarray(values > np.median(values))

    def _size(self, height: int, width: int) -> int:
        return max(1 << (min(height, width).bit_length() - 1), self.side)

    def _low_pass(self, pixels: Pixels) -> Floats:
        """(K,) of (size,size): h×h low frequencies, the lowest set to 0, as its filters round."""
        values = pixels / 255.0
        details = []
        while len(values) > 1:
            values, *detail = _halved(values)
            details.append(detail)
        values = values * 0
        for detail in reversed(details):
            values = _doubled(values, *detail)
        while len(values) > self.side:
            values = _halved(values)[0]
        return values.ravel()


@VICTIMS.register("blockhash", source="Yang et al., IIH-MSP 2006, as in phash-blockhashio 0.1.4")
class BlockHash(PerceptualHash):
    """Block mean value hash: whether a block of the picture is lighter than the median of its band.

    bits: a square number h², h divisible by 4; the picture is cut into h×h blocks, and a pixel
        between two blocks is shared out

    Values are sums of red, green and blue; there are four bands of h/4 rows of blocks. A block as
    light as the median is 1 in the light half of the range alone; where a picture is transparent it
    is white. `relax` gives the mean of a block
    minus the median, in [−1,1].
    """

    def __init__(self, *, bits: int = 256) -> None:
        super().__init__(bits)
        self.side = square_side(bits)
        if self.side % BANDS:
            raise ValueError(
                f"expected bits to be the square of a multiple of 4 (16, 64, 256), got {bits}"
            )

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        pixels = eight_bit_pixels(inputs).double()
        sums = pixels.sum(dim=1)
        height, width = sums.shape[1:]
        down, across = (torch.from_numpy(self._matrix(size)).to(sums) for size in (height, width))
        smooth = (down @ sums @ across.T).flatten(1)
        whole = pixels.detach().byte().permute(0, 2, 3, 1).cpu().numpy()
        exact = torch.from_numpy(np.stack([self._blocks(picture) for picture in whole]))
        values = straight_through(exact.to(smooth), smooth)
        bands = values.unflatten(1, (BANDS, -1))
        medians = middle(bands.flatten(0, 1)).mean(dim=1).view(-1, BANDS, 1)
        light = (medians > self._half(height, width)).to(values)
        most = 3 * 255 * height * width / self.bits
        relaxed: Tensor = ((bands - medians + light) / most).flatten(1).float()
        return relaxed

    def bits_of(self, picture: Picture) -> Bits:
        width, height = picture.image.size
        pixels = picture.pixels
        if picture.hidden is not None:
            pixels = np.where(picture.hidden[..., None], np.uint8(255), pixels)
        bands = self._blocks(pixels).reshape(BANDS, -1)
        medians = np.median(bands, axis=1, keepdims=True)
        return np.asarray(bands - medians + (medians > self._half(height, width)) > 0).ravel()

    def _blocks(self, pixels: Pixels) -> Floats:
        """(K,) of (H,W,3)."""
        height, width, _ = pixels.shape
        (places, weights), (columns, shares) = self._shares(height), self._shares(width)
        blocks: Floats = shared_out(
            np.ascontiguousarray(pixels), places, weights, columns, shares, self.side
        )
        return blocks.ravel()

    def _half(self, height: int, width: int) -> float:
        """Half of what a white block sums to, as the reference counts it."""
        return float(height / self.side * (width / self.side) * 256 * 3 / 2)

    def _shares(self, size: int) -> tuple[npt.NDArray[np.int64], Floats]:
        """(size,2) blocks that each row or column touches, and (size,2) its shares in them."""
        places = np.zeros((size, 2), np.int64)
        weights = np.zeros((size, 2))
        part = size / self.side
        for place in range(size):
            if size % self.side == 0:
                places[place], weights[place] = place // (size // self.side), (1, 0)
                continue
            behind, whole = math.modf((place + 1) % part)
            first = int(place // part)
            inside = whole > 0 or place + 1 == size
            places[place] = first, first if inside else int(-(-place // part))
            weights[place] = 1 - behind, behind
        return places, weights

    def _matrix(self, size: int) -> Floats:
        """(h,size) the shares of every row or column in every block."""
        places, weights = self._shares(size)
        matrix = np.zeros((self.side, size))
        for part in range(2):
            np.add.at(matrix, (places[:, part], np.arange(size)), weights[:, part])
        return matrix


def _halved(values: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """One step of Haar's transform of (2n,2n): the low pass and three high passes, (n,n) each."""
    low, high = _split(values)
    (low_low, low_high), (high_low, high_high) = _split(low.T), _split(high.T)
    return low_low.T, low_high.T, high_low.T, high_high.T


def _split(values: Floats) -> tuple[Floats, Floats]:
    """The low and the high pass along the first axis."""
    first, second = values[::2] * HAAR, values[1::2] * HAAR
    return second + first, first - second


def _doubled(low: Floats, low_high: Floats, high_low: Floats, high_high: Floats) -> Floats:
    """The inverse of `_halved`."""
    return _merged(_merged(low.T, low_high.T).T, _merged(high_low.T, high_high.T).T)


def _merged(low: Floats, high: Floats) -> Floats:
    """The inverse of `_split`."""
    result = np.empty((2 * len(low), low.shape[1]))
    result[::2], result[1::2] = low * HAAR + high * HAAR, low * HAAR - high * HAAR
    return result
