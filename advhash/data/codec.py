"""Pictures through a real file: Pillow's PNG, JPEG and WebP."""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

FileKind = Literal["PNG", "JPEG", "WEBP"]


def through_codec(images: Tensor, quality: int | None) -> Tensor:
    """(B,3,H,W) [0,1] pictures as they come back from a file: 8 bits a pixel, float32.

    quality: of the JPEG, 1 to 95, with Pillow's defaults else (colour at half the resolution);
             None: a PNG, which loses nothing but what lies between two levels

    >>> (through_codec(torch.full((1, 3, 8, 8), 0.5), None)[0, 0, 0, 0] * 255).round()
    tensor(128.)
    """
    if quality is None:
        return through_file(images, "PNG")
    return through_file(images, "JPEG", quality=quality)


def through_file(
    images: Tensor, kind: FileKind, *, quality: int | None = None, full_colour: bool = False
) -> Tensor:
    """(B,3,H,W) [0,1] pictures as they come back from a file of Pillow's: 8 bits a pixel, float32.

    quality:     of a JPEG (1 to 95) or a lossy WebP (1 to 100)
    full_colour: whether a JPEG keeps colour at full resolution (4:4:4), else at half (4:2:0)
    """
    octets = (images.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    settings: dict[str, object] = {} if quality is None else {"quality": quality}
    if kind == "JPEG":
        settings["subsampling"] = "4:4:4" if full_colour else "4:2:0"
    coded = torch.empty_like(octets)
    for row, pixels in enumerate(octets.permute(0, 2, 3, 1).numpy()):
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format=kind, **settings)
        with Image.open(buffer) as image:
            coded[row] = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    return coded.to(images) / 255
