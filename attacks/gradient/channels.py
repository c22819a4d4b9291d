"""What happens to pictures on their way: files and thumbnails, with a gradient to attack through.

A channel gives what comes back, exactly: files are written and read by Pillow. Its gradient is that
of a model: JPEG's cosine transform, whose roundings pass gradients by how near a value is to the
next level. Attacks descend through it, so that a picture is made for what will be hashed (`survive`
in the gradient family, autohash and ProS-GAN).
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from advhash.compute.progress import Progress, silent
from advhash.data.codec import through_file
from advhash.data.dataset import Dataset, Modality
from advhash.errors import UnknownName, UsageError
from advhash.victims.base import HashVictim

Names = str | Sequence[str]
KNOWN = ("jpeg75", "jpeg75-444", "webp75", "resize50", "blur1")  # one of each kind, for messages
SHAPE = re.compile(r"(jpeg|webp|resize)(\d{1,3})(-444)?|(blur)(\d+(?:\.\d+)?)")
SIDE = 8  # of JPEG's blocks
FREE = 0.2  # share of the gradient that every rounding passes on
# tables K.1 and K.2 of ITU-T T.81, which quality scales
LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113,
    92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, *(99,) * 32,
)  # fmt: skip
TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


@dataclass(frozen=True)
class Channel:
    """A picture's way, by name.

    through: (B,3,H,W) in [0,1] → what comes back, of the same shape, on the 8-bit grid
    model:   the same, nearly, by operations that have a gradient
    """

    name: str
    through: Callable[[Tensor], Tensor]
    model: Callable[[Tensor], Tensor]

    def __call__(self, images: Tensor) -> Tensor:
        """What comes back, exactly, with the gradient of the model."""
        exact = self.through(images.detach())
        if not (torch.is_grad_enabled() and images.requires_grad):
            return exact
        modelled = self.model(images)
        return exact + (modelled - modelled.detach())  # which adds 0


@functools.cache
def channel(name: str) -> Channel:
    """The channel of a name.

    jpegQ, jpegQ-444: Pillow's JPEG of quality 1 to 95, colour at half or at full resolution
    webpQ:            Pillow's lossy WebP of quality 1 to 100; its gradient is that of JPEG's model
    resizeP:          shrunk to P % of its sides, 1 to 99, and enlarged again, both bilinear
    blurS:            a Gaussian of standard deviation S pixels, above 0, at most 10

    Raises UnknownName.
    """
    parts = SHAPE.fullmatch(name)
    if parts is None:
        raise UnknownName("channel", name, KNOWN)
    kind, number = parts[1] or parts[4], float(parts[2] or parts[5])
    least, most = {"jpeg": (1, 95), "webp": (1, 100), "resize": (1, 99), "blur": (0.01, 10)}[kind]
    if not least <= number <= most or (parts[3] and kind != "jpeg"):
        raise UnknownName("channel", name, KNOWN)
    if kind == "resize":
        shrunk = functools.partial(_resized, share=number / 100)
        return Channel(name, _stored(shrunk), shrunk)
    if kind == "blur":
        blurred = functools.partial(_blurred, sigma=number)
        return Channel(name, _stored(blurred), blurred)
    quality, full = int(number), bool(parts[3])
    return Channel(
        name,
        functools.partial(
            through_file,
            kind="JPEG" if kind == "jpeg" else "WEBP",
            quality=quality,
            full_colour=full,
        ),
        functools.partial(jpeg_model, quality=min(quality, 95), full_colour=full),
    )


def channels(names: Names) -> tuple[Channel, ...]:
    """The channels of one name or several; none of "" or (). Raises UnknownName."""
    listed = [names] if isinstance(names, str) else names
    return tuple(channel(name) for name in listed if name)


class Channelled(HashVictim):
    """`victim` behind channels: its real codes are means over what comes back from each of them.

    ways: one or more

    Raises UsageError: no images.
    """

    def __init__(self, victim: HashVictim, ways: Sequence[Channel]) -> None:
        super().__init__()
        if "image" not in victim.bounds:
            raise UsageError(
                f"survive: expected a victim of images, got one of {', '.join(victim.bounds)}"
            )
        self.victim, self.ways = victim, tuple(ways)
        self.bits = victim.bits
        self.bounds = {"image": victim.bounds["image"]}
        self.history = []
        self.differentiable, self.no_gradient = victim.differentiable, victim.no_gradient

    @classmethod
    def behind(cls, names: Names, victim: HashVictim) -> HashVictim:
        """`victim` behind the channels of some names; itself where there are none."""
        ways = channels(names)
        return cls(victim, ways) if ways else victim

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        """(B,K) mean over the channels of the real codes of (B,3,H,W) images."""
        codes = [self.victim.relax(way(inputs), modality) for way in self.ways]
        return torch.stack(codes).mean(dim=0)

    def fit(self, data: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """The victim is trained already."""
        return self


def jpeg_model(images: Tensor, *, quality: int, full_colour: bool = False) -> Tensor:
    """(B,3,H,W) in [0,1] as JPEG leaves them, up to how decoders enlarge colour and round.

    quality:     1 to 95, as libjpeg scales its tables
    full_colour: colour at full resolution, else at half
    """
    height, width = images.shape[2:]
    block = SIDE if full_colour else 2 * SIDE
    margin = (0, -width % block, 0, -height % block)
    mixing = images.new_tensor(TO_YCC)
    planes = torch.einsum("ij,bjhw->bihw", mixing, F.pad(images * 255, margin, mode="replicate"))
    bright = _coded(planes[:, :1] - 128, LUMINANCE, quality) + 128
    colour = planes[:, 1:]
    if full_colour:
        colour = _coded(colour, CHROMINANCE, quality)
    else:
        halved = _coded(F.avg_pool2d(colour, 2), CHROMINANCE, quality)
        colour = F.interpolate(halved, scale_factor=2.0, mode="bilinear", align_corners=False)
    planes = torch.cat([bright, colour], dim=1)
    colours = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(mixing), planes)
    return colours[:, :, :height, :width].clamp(0, 255) / 255


def _coded(planes: Tensor, table: tuple[int, ...], quality: int) -> Tensor:
    """(B,C,H,W) planes with the cosine coefficients of each block rounded to multiples."""
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    steps = ((planes.new_tensor(table) * scale + 50) / 100).floor().clamp(1, 255).view(SIDE, SIDE)
    count, channels, height, width = planes.shape
    blocks = planes.view(count, channels, height // SIDE, SIDE, width // SIDE, SIDE)
    cosines = _cosines().to(planes)
    turned = cosines @ blocks.transpose(3, 4) @ cosines.T
    kept: Tensor = _Rounded.apply(turned / steps) * steps
    return (cosines.T @ kept @ cosines).transpose(3, 4).reshape(planes.shape)


@functools.cache
def _cosines() -> Tensor:
    """(8,8) the orthonormal cosine transform, a row a frequency."""
    frequency, place = torch.arange(SIDE)[:, None], torch.arange(SIDE)
    waves = torch.cos(math.pi * (2 * place + 1) * frequency / (2 * SIDE)) * math.sqrt(2 / SIDE)
    waves[0] = math.sqrt(1 / SIDE)
    return waves


class _Rounded(torch.autograd.Function):
    """Rounding with the gradient FREE + (1 − FREE)·3·(2d)², d ≤ ½ the distance to the level.

    A value between two levels is soon on the other one, a value at a level stays there: passing the
    gradient of both alike, the perturbation is spent on coefficients that no file keeps.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return values.round()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        values: Tensor = ctx.saved_tensors[0]
        distance = 2 * (values - values.round())
        return gradient * (FREE + (1 - FREE) * 3 * distance.square())


def _stored(made: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same on the 8-bit grid, as a program that stores the picture has it."""
    return lambda images: (made(images) * 255).round().clamp(0, 255) / 255


def _resized(images: Tensor, share: float) -> Tensor:
    """Shrunk to a share of its sides and enlarged again."""
    height, width = images.shape[2:]
    small = max(1, round(height * share)), max(1, round(width * share))
    shrunk = F.interpolate(images, list(small), mode="bilinear", antialias=True)
    return F.interpolate(shrunk, [height, width], mode="bilinear", antialias=True)


def _blurred(images: Tensor, sigma: float) -> Tensor:
    """Under a Gaussian; the border repeats."""
    from kornia.filters import gaussian_blur2d  # seconds to import

    side = 2 * min(math.ceil(3 * sigma), min(images.shape[2:]) - 1) + 1
    blurred: Tensor = gaussian_blur2d(images, (side, side), (sigma, sigma), border_type="replicate")
    return blurred
