"""Pillow's grey conversion and its resize, bit for bit, as differentiable operators.

Perceptual hashes are defined on the 8-bit picture that Pillow makes. Its arithmetic is in whole
numbers, which floats hold exactly: what is computed here equals what Pillow gives, and the gradient
is that of the same operator without rounding (straight through).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
import PIL
import torch
from PIL import Image
from torch import Tensor

GREY = (19595, 38470, 7471)  # ITU-R 601: 0.299, 0.587 and 0.114 of 65536
PRECISION = 22  # bits behind the point of a weight
PILLOW = int(PIL.__version__.partition(".")[0])
Filter = Literal["bilinear", "bicubic", "lanczos"]
Pixels = npt.NDArray[np.uint8]


class Picture:
    """One picture of 8 bits a colour, and what hashes take from it, made once for all of them.

    image:  Pillow's, of mode RGB
    hidden: (H,W) where it is wholly transparent, which a hash may take for white; None: nowhere
    """

    def __init__(self, image: Image.Image, hidden: npt.NDArray[np.bool_] | None = None) -> None:
        assert image.mode == "RGB"
        self.image, self.hidden = image, hidden
        self._fitted: dict[tuple[int, int], Pixels] = {}

    @classmethod
    def of(cls, pixels: Pixels) -> Picture:
        """A picture of (H,W,3)."""
        return cls(Image.fromarray(np.ascontiguousarray(pixels)))

    @functools.cached_property
    def pixels(self) -> Pixels:
        """(H,W,3)."""
        return np.asarray(self.image)

    @functools.cached_property
    def grey(self) -> Image.Image:
        return self.image.convert("L")

    def fitted(self, height: int, width: int) -> Pixels:
        """(height,width,3): shrunk or grown by the bicubic filter."""
        if (width, height) == self.image.size:
            return self.pixels
        if (height, width) not in self._fitted:
            small = self.image.resize((width, height), Image.Resampling.BICUBIC)
            self._fitted[height, width] = np.asarray(small)
        return self._fitted[height, width]

    def small_grey(self, height: int, width: int) -> Pixels:
        """(height,width): Pillow's grey picture, shrunk or grown by Lanczos."""
        return np.asarray(self.grey.resize((width, height), Image.Resampling.LANCZOS))


def straight_through(value: Tensor, smooth: Tensor) -> Tensor:
    """`value`, with the gradient of `smooth`.

    >>> x = torch.tensor([1.7], requires_grad=True)
    >>> straight_through(x.floor(), 3 * x).backward(); x.grad
    tensor([3.])
    """
    return value.detach() + (smooth - smooth.detach())  # the bracket is exactly 0


def eight_bit_pixels(images: Tensor) -> Tensor:
    """Images in [0,1] as whole numbers 0 … 255, rounded; the gradient passes."""
    smooth = images * 255
    return straight_through(smooth.round().clamp(0, 255), smooth)


def grey(pixels: Tensor) -> Tensor:
    """(B,H,W) grey of (B,3,H,W) whole numbers 0 … 255: Pillow's `convert("L")`.

    >>> grey(torch.tensor([255.0, 0, 0]).view(1, 3, 1, 1)).item()
    76.0
    """
    red, green, blue = pixels.unbind(1)
    parts = red * GREY[0] + green * GREY[1] + blue * GREY[2]  # below 2²⁴: exact in float32
    return straight_through(((parts + 2**15) / 2**16).floor(), parts / 2**16)


def _sinc(place: float) -> float:
    return math.sin(math.pi * place) / (math.pi * place) if place else 1.0


def _lanczos(place: float) -> float:
    """sinc(x)·sinc(x/3) for −3 ≤ x < 3."""
    return _sinc(place) * _sinc(place / 3) if -3 <= place < 3 else 0.0


def _bicubic(place: float) -> float:
    """Keys' cubic convolution with a = −1/2, for |x| < 2."""
    far = abs(place)
    if far < 1:
        return (1.5 * far - 2.5) * far * far + 1
    return ((-0.5 * far + 2.5) * far - 4) * far + 2 if far < 2 else 0.0


def _bilinear(place: float) -> float:
    """1 − |x| for |x| < 1."""
    return max(1.0 - abs(place), 0.0)


WINDOWS: Mapping[Filter, tuple[Callable[[float], float], float]] = {
    "bilinear": (_bilinear, 1.0),  # and half of its width, in pixels of the smaller picture
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
}


@functools.lru_cache(maxsize=64)
def filter_weights(size: int, new_size: int, name: Filter) -> npt.NDArray[np.int64]:
    """(new_size, size) weights of a filter of Pillow in units of 2⁻²².

    A new pixel is a weighted mean of the pixels within the filter's width around its centre (in new
    pixels, or in old ones where the picture grows), the window cut at the border and normalised.
    """
    window, support = WINDOWS[name]
    scale = size / new_size
    stretch = max(scale, 1.0)
    weights = np.zeros((new_size, size), np.int64)
    for row in range(new_size):
        centre = (row + 0.5) * scale
        first = max(int(centre - support * stretch + 0.5), 0)
        last = min(int(centre + support * stretch + 0.5), size)
        shares = [window((place - centre + 0.5) / stretch) for place in range(first, last)]
        total = sum(shares)
        for place, share in zip(range(first, last), shares, strict=True):
            whole = share / total * 2**PRECISION
            weights[row, place] = int(whole + math.copysign(0.5, whole))
    return weights


def resize(pixels: Tensor, height: int, width: int, name: Filter = "lanczos") -> Tensor:
    """(B,height,width) float64 of (B,H,W) whole numbers 0 … 255: Pillow's `resize` of a channel.

    One axis after the other, rounded and cut to 0 … 255 after each pass: the width first, unless
    `columns_first`. A side that keeps its length is left alone.
    """
    old_height, old_width = pixels.shape[1:]
    pixels = pixels.double()  # sums below 2⁵³: exact
    if columns_first(old_height, old_width, height, width):
        return _resampled(_resampled(pixels.mT, height, name).mT, width, name)
    return _resampled(_resampled(pixels, width, name).mT, height, name).mT


def fitted_size(height: int, width: int, most: int) -> tuple[int, int]:
    """The size that Pillow's `thumbnail((most, most))` gives: the same shape, no side above.

    >>> fitted_size(1004, 1600, 512), fitted_size(300, 512, 512), fitted_size(2000, 3, 512)
    ((321, 512), (300, 512), (512, 1))
    """
    longer, shorter = max(height, width), min(height, width)
    if longer <= most:
        return height, width
    exact = most * shorter / longer
    sides = sorted({max(math.floor(exact), 1), math.ceil(exact)})
    if width <= height:
        return most, min(sides, key=lambda side: abs(width / height - side / most))
    return min(sides, key=lambda side: abs(width / height - most / side)), most


def columns_first(height: int, width: int, new_height: int, new_width: int) -> bool:
    """Whether the installed Pillow changes the height before the width.

    Pillow 13 does so (#9549) where the height loses more than twice as many pixels as the width;
    found by comparing both orders on noise of many sizes, which the tests repeat.
    """
    lost = height - new_height
    return PILLOW >= 13 and lost > 0 and lost > 2 * (width - new_width)


def _resampled(pixels: Tensor, new_size: int, name: Filter) -> Tensor:
    """The last axis at its new size."""
    if pixels.shape[-1] == new_size:
        return pixels
    weights = torch.from_numpy(filter_weights(pixels.shape[-1], new_size, name)).to(pixels)
    smooth = pixels @ weights.T / 2**PRECISION  # division by a power of two: exact
    return straight_through((smooth + 0.5).floor().clamp(0, 255), smooth)
