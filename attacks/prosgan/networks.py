"""The networks of ProS-GAN (Wang et al., CVPR 2021), and the schedules that train them.

Built from the published layer sizes, which the arguments scale down. Images are in [0,1] outside
and in [−1,1] inside. Instance normalisation only: an image's result does not depend on its batch.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from advhash.budget import Norm

Decay = Literal["cosine", "linear"]


def _normed(layer: nn.Module, channels: int) -> list[nn.Module]:
    return [layer, nn.InstanceNorm2d(channels), nn.ReLU()]


def _up(channels: int) -> list[nn.Module]:
    """Twice the side, half the channels."""
    layer = nn.ConvTranspose2d(channels, channels // 2, 4, stride=2, padding=1, bias=False)
    return _normed(layer, channels // 2)


class ResidualBlock(nn.Module):
    """x + IN(conv(ReLU(IN(conv x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            *_normed(nn.Conv2d(channels, channels, 3, padding=1, bias=False), channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, values: Tensor) -> Tensor:
        change: Tensor = self.main(values)
        return values + change


class Generator(nn.Module):
    """Image and condition → adversarial image.

    condition: width of the condition, the feature of the target's label set
    size:      side of the images; others are padded inside
    width:     channels of the first layer; each of `downs` halvings of the side doubles them
    blocks:    residual blocks, half of them in the encoder
    lifts:     doublings from the condition's first map to the full map
    shrink:    the network works on the image folded by this factor (pixel unshuffle)
    residual:  add the output to the image, from 0 at first; else it is the image, as published
    modulated: the condition also scales and shifts the channels before each residual block (FiLM:
               Perez et al., AAAI 2018), and the output is not squashed by tanh
    offset:    the condition also has a linear map of its own to the output: a learnt universal
               perturbation per target, which the rest adapts to the image

    Published: width 64, downs 2, blocks 6, lifts 4, shrink 1, the others False.
    """

    def __init__(
        self,
        condition: int,
        size: int,
        *,
        width: int,
        downs: int,
        blocks: int,
        lifts: int,
        shrink: int,
        residual: bool,
        modulated: bool = False,
        offset: bool = False,
    ) -> None:
        super().__init__()
        self.shrink, self.residual, self.modulated = shrink, residual, modulated
        unit = shrink * 2 ** max(downs, lifts)
        self.padded = -(-size // unit) * unit
        first = 8 * 2**lifts  # channels of the condition's first map
        self.start = (first, *[self.padded // shrink // 2**lifts] * 2)
        self.spread = nn.Sequential(
            nn.Linear(condition, self.start[0] * self.start[1] * self.start[2]), nn.ReLU()
        )
        maps = [layer for lift in range(lifts) for layer in _up(first // 2**lift)]
        self.condition = nn.Sequential(*maps, nn.Conv2d(8, 3, 3, padding=1, bias=False))
        pixels = 3 * shrink**2
        encoder = _normed(nn.Conv2d(3 + pixels, width, 7, padding=3), width)
        for down in range(downs):
            wider = width * 2 ** (down + 1)
            encoder += _normed(nn.Conv2d(wider // 2, wider, 4, stride=2, padding=1), wider)
        deep = width * 2**downs
        trunk = [ResidualBlock(deep) for _ in range(blocks)]
        decoder = [layer for down in range(downs) for layer in _up(deep // 2**down)]
        self.trunk = nn.Sequential(*encoder, *trunk, *decoder)
        self.out = nn.Conv2d(width + pixels, pixels, 3, padding=1, bias=False)
        if residual:
            nn.init.zeros_(self.out.weight)
        if modulated:
            scales = [nn.Linear(condition, 2 * deep) for _ in range(blocks)]
            self.modulations = nn.ModuleList(scales)
        self.offset = nn.Linear(condition, 3 * self.padded**2) if offset else None
        if modulated:
            for layer in scales:
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        if self.offset is not None:
            nn.init.zeros_(self.offset.weight)
            nn.init.zeros_(self.offset.bias)

    def forward(self, images: Tensor, condition: Tensor) -> Tensor:
        """(B,3,H,W) in [0,1], (B,F) → (B,3,H,W); with `residual` not yet clipped to [0,1].

        With `modulated` the change is not limited at all: see `within`.
        """
        height, width = images.shape[2:]
        margin = (0, self.padded - width, 0, self.padded - height)
        padded = F.pad(images, margin, mode="replicate")
        folded = F.pixel_unshuffle(2 * padded - 1, self.shrink)
        maps = self.condition(self.spread(condition).unflatten(1, self.start))
        decoded = self._decode(torch.cat([maps, folded], dim=1), condition)
        out = F.pixel_shuffle(self.out(torch.cat([decoded, folded], dim=1)), self.shrink)
        if self.offset is not None:
            out = out + self.offset(condition).view_as(out)
        if not self.modulated:
            out = torch.tanh(out)
        moved: Tensor = padded + out if self.residual else (out + 1) / 2
        return moved[:, :, :height, :width]

    def _decode(self, values: Tensor, condition: Tensor) -> Tensor:
        """The trunk, its residual blocks under the condition where `modulated`."""
        block = 0
        for layer in self.trunk:
            if self.modulated and isinstance(layer, ResidualBlock):
                scale, shift = self.modulations[block](condition)[:, :, None, None].chunk(2, dim=1)
                values, block = values * (1 + scale) + shift, block + 1
            values = layer(values)
        return values


class Discriminator(nn.Module):
    """(B,3,H,W) in [0,1] → (B,C+1): predicted labels, and 0 for real or 1 for fake.

    Strided convolutions under spectral normalisation. Published: width 64, depth 5.
    """

    def __init__(self, classes: int, size: int, *, width: int, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for level in range(min(depth, size.bit_length() - 1)):  # down to one value at most
            wider = width * 2**level
            layers += [
                spectral_norm(nn.Conv2d(channels, wider, 4, stride=2, padding=1)),
                nn.LeakyReLU(0.01),
            ]
            channels, size = wider, size // 2
        self.main = nn.Sequential(*layers, nn.Conv2d(channels, classes + 1, size, bias=False))

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.main(2 * images - 1)
        return scores.flatten(1)


def multiply_adds(network: nn.Module, *inputs: Tensor) -> int:
    """Multiplications of the weights of a network's convolutions and linear layers for an input.

    Network and inputs may be on torch's meta device: then nothing is computed.
    """
    total = 0

    def count(layer: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> None:
        nonlocal total
        places = given[0] if isinstance(layer, nn.ConvTranspose2d) else made
        weight = layer.weight
        assert isinstance(weight, Tensor)
        total += weight.numel() * places[:, 0].numel()

    layers = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    hooks = [
        module.register_forward_hook(count)
        for module in network.modules()
        if isinstance(module, layers)
    ]
    try:
        with torch.no_grad():
            network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return total


def descend(optimiser: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step of the optimiser, whose gradients of other losses are dropped first."""
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def decayed(decay: Decay, done: float) -> float:
    """Factor of the learning rate after the share `done` of the steps."""
    if decay == "linear":
        return min(1.0, 2 * (1 - done))
    return (1 + math.cos(math.pi * done)) / 2


def risen(warmup: float, done: float) -> float:
    """Factor of the reconstruction weight: from 0.1 to 1 over the share `warmup` of the steps."""
    return 1.0 if done >= warmup else 0.1 + 0.9 * done / warmup


def within(clean: Tensor, raw: Tensor, norm: Norm, radius: float | Tensor) -> Tensor:
    """The generator's image `raw`, drawn into the ball of "linf" or "l2" around the clean one.

    radius: of all images, or (B,1,1,1), of each

    The change raw − clean counts in radii: it is multiplied by the radius, in L2 divided by
    1 + its length (which leaves a gradient where it is 0), and clipped to ball and [0,1]. Where it
    is clipped, the gradient passes that leads back inside, and no other: else pixels beyond the
    bound, or white ones to be brightened, would never move again.
    """
    change = radius * (raw - clean)
    low, high = -clean, 1 - clean
    if norm == "l2":
        length: Tensor = torch.linalg.vector_norm((raw - clean).flatten(1), dim=1)
        change = change / (1 + length).view(-1, *[1] * (raw.dim() - 1))
    else:
        low, high = low.clamp_min(-radius), high.clamp_max(radius)
    start = change.detach()
    clipped = change + (start.clamp(low, high) - start)
    if clipped.requires_grad:
        clipped.register_hook(
            lambda slope: slope * (((start < high) | (slope > 0)) & ((start > low) | (slope < 0)))
        )
    return clean + clipped
