"""What an encoder does to a picture before its network: Pillow's resize, a crop, a normalisation.

The result equals Pillow's to the bit on 8-bit pictures; the gradient is that of the same resize
without rounding, so that an attacker moves the picture as it is stored.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from advhash.victims.perceptual.resampling import Filter, eight_bit_pixels, resize


@dataclass(frozen=True)
class Preprocessing:
    """The shorter side to `side` pixels, the middle `crop` × `crop` pixels, (x − mean)/std.

    filter:   of Pillow's resize
    squashed: both sides become `side`, whatever the shape
    halves:   where the middle is that lies between two pixels: at the even one, as torchvision has
              it, or at the lower one, as transformers has it
    """

    crop: int
    side: int
    filter: Filter
    mean: tuple[float, ...]
    std: tuple[float, ...]
    squashed: bool = False
    halves: Literal["even", "lower"] = "even"

    def __call__(self, images: Tensor) -> Tensor:
        """(B,3,crop,crop) of (B,3,H,W) in [0,1]."""
        height, width = self.resized(*images.shape[2:])
        pixels = eight_bit_pixels(images)
        if (height, width) != tuple(images.shape[2:]):
            drawn = resize(pixels.flatten(0, 1), height, width, self.filter)
            pixels = drawn.unflatten(0, images.shape[:2]).to(images.dtype)
        pixels = self._middle(pixels)
        mean = images.new_tensor(self.mean).view(1, -1, 1, 1)
        std = images.new_tensor(self.std).view(1, -1, 1, 1)
        return (pixels / 255 - mean) / std

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """The size before the crop, as torchvision's Resize of one number gives it."""
        if self.squashed:
            return self.side, self.side
        shorter, longer = min(height, width), max(height, width)
        stretched = int(self.side * longer / shorter)
        return (self.side, stretched) if height <= width else (stretched, self.side)

    def _middle(self, pixels: Tensor) -> Tensor:
        """The middle crop × crop pixels: black beyond the border."""
        (height, width), crop = pixels.shape[2:], self.crop
        if height < crop or width < crop:
            left, top = max(crop - width, 0) // 2, max(crop - height, 0) // 2
            right, bottom = max(crop - width + 1, 0) // 2, max(crop - height + 1, 0) // 2
            pixels = torch.nn.functional.pad(pixels, (left, right, top, bottom))
            height, width = pixels.shape[2:]
        middle = round if self.halves == "even" else math.floor
        top, left = middle((height - crop) / 2), middle((width - crop) / 2)
        return pixels[:, :, top : top + crop, left : left + crop]
