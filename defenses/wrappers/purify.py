"""Purification: pictures are changed before they are hashed, in the hope of losing an attack.

Nothing is trained. The value of `relax` is that of the real purifier, and its gradient a path that
the attacker can descend (BPDA, Athalye et al., ICML 2018): every attack on the wrapped victim is
adaptive. See docs/defenses/purification.md.
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Iterator

import kornia.filters
import torch
import torch.nn.functional as F
from kornia.enhance import jpeg_codec_differentiable
from torch import Tensor

from advhash.data.codec import through_codec
from advhash.defenses.base import Wrapping
from advhash.defenses.wrappers.wrapped import Voted, Wrapped
from advhash.registry import DEFENSES
from advhash.victims.base import HashVictim, expect_positive
from advhash.victims.perceptual.resampling import straight_through


class Purification(Wrapping):
    """A change of pictures that stands before a victim."""

    @abstractmethod
    def purify(self, images: Tensor) -> Tensor:
        """(B,3,H,W) in [0,1], purified, each by itself; with the gradient of the attacker."""

    def wrap(self, victim: HashVictim) -> HashVictim:
        return Purified(victim, self)


class Purified(Wrapped):
    """`victim` behind a purification. Raises UsageError: the victim hashes no images."""

    def __init__(self, victim: HashVictim, purification: Purification) -> None:
        super().__init__(victim)
        self.purification = purification

    def hash_images(self, images: Tensor) -> Tensor:
        return self.victim.relax(self.purification.purify(images), "image")


@DEFENSES.register("jpeg", source="Dziugaite et al., arXiv 1608.00853; Guo et al., ICLR 2018")
class JPEG(Purification):
    """Pictures through Pillow's real JPEG. The gradient is that of kornia's, with smooth roundings.

    quality: 1 to 95, Pillow's scale

    The identity in its place attacks far less: it knows nothing of what JPEG throws away.
    """

    def __init__(self, *, quality: int = 75) -> None:
        if not 1 <= quality <= 95:
            raise ValueError(f"expected quality in 1 … 95, got {quality}")
        self.quality = quality

    def purify(self, images: Tensor) -> Tensor:
        real = through_codec(images, self.quality)
        if not (torch.is_grad_enabled() and images.requires_grad):
            return real
        quality = torch.full((len(images),), float(self.quality), device=images.device)
        smooth: Tensor = jpeg_codec_differentiable(images, quality)
        return straight_through(real, smooth)


@DEFENSES.register("bit-depth", source="Xu et al., NDSS 2018 (feature squeezing)")
class BitDepth(Purification):
    """Each colour rounded to 2^depth levels. The gradient passes as if it were the identity.

    depth: bits a colour, 1 to 8

    >>> BitDepth(depth=1).purify(torch.tensor([0.2, 0.49, 0.51])).tolist()
    [0.0, 0.0, 1.0]
    """

    def __init__(self, *, depth: int = 4) -> None:
        if not 1 <= depth <= 8:
            raise ValueError(f"expected depth in 1 … 8, got {depth}")
        self.depth = depth

    def purify(self, images: Tensor) -> Tensor:
        top = 2**self.depth - 1
        return straight_through((images * top).round() / top, images)


@DEFENSES.register("smooth", source="Xu et al., NDSS 2018 (feature squeezing)")
class MedianBlur(Purification):
    """Each pixel becomes the median of its neighbourhood, colour by colour; the border repeats.

    kernel_size: pixels a side, odd

    The gradient is the median's own: it goes to the pixel that was chosen.
    """

    def __init__(self, *, kernel_size: int = 3) -> None:
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ValueError(f"expected an odd kernel_size from 3 on, got {kernel_size}")
        self.kernel_size = kernel_size

    def purify(self, images: Tensor) -> Tensor:
        margin = self.kernel_size // 2
        height, width = images.shape[2:]
        framed = F.pad(images, (margin,) * 4, mode="replicate")
        blurred: Tensor = kornia.filters.median_blur(framed, self.kernel_size)
        return blurred[:, :, margin : margin + height, margin : margin + width]


@functools.lru_cache(maxsize=64)
def crop_boxes(
    count: int, area: float, seed: int, height: int, width: int
) -> tuple[tuple[slice, slice], ...]:
    """Rows and columns of `count` windows of the picture's shape, `area` to 1 of its area."""
    generator = torch.Generator().manual_seed(seed)
    boxes = []
    for share, down, across in torch.rand(count, 3, generator=generator).tolist():
        side = math.sqrt(area + (1 - area) * share)
        tall, wide = max(1, round(side * height)), max(1, round(side * width))
        top, left = int(down * (height - tall + 1)), int(across * (width - wide + 1))
        boxes.append((slice(top, top + tall), slice(left, left + wide)))
    return tuple(boxes)


class VotedCrops(Voted):
    """`victim` on windows of a picture, resized to its size; the majority decides each bit."""

    def __init__(self, victim: HashVictim, *, crops: int, area: float, seed: int) -> None:
        super().__init__(victim)
        self.crops, self.area, self.seed = crops, area, seed

    def views(self, images: Tensor) -> Iterator[Tensor]:
        size = images.shape[2:]
        for rows, columns in crop_boxes(self.crops, self.area, self.seed, *size):
            window = images[:, :, rows, columns]
            yield F.interpolate(window, list(size), mode="bilinear", antialias=True)


@DEFENSES.register("crop-vote", source="advhash, after Guo et al., ICLR 2018 (crop ensembles)")
class CropVote(Wrapping):
    """Each bit is the majority of that bit over the codes of random crops.

    crops: number of windows; odd, so that no bit can tie
    area:  the smallest window, as a share of the picture's area
    seed:  draws the windows, once: they are the same for every picture, and the attacker knows them

    Deviations:
    - classifiers average class probabilities over crops that are drawn anew; here bits are voted,
      over windows that stay, so that a picture has one code
    """

    def __init__(self, *, crops: int = 9, area: float = 0.7, seed: int = 0) -> None:
        expect_positive(crops=crops, area=area)
        if area > 1:
            raise ValueError(f"expected area in (0, 1], got {area:g}")
        self.crops, self.area, self.seed = crops, area, seed

    def wrap(self, victim: HashVictim) -> HashVictim:
        return VotedCrops(victim, crops=self.crops, area=self.area, seed=self.seed)
