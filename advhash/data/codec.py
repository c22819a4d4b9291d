"""Pictures through a real file: Pillow's PNG and JPEG."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def through_codec(images: Tensor, quality: int | None) -> Tensor:
    """(B,3,H,W) [0,1] pictures as they come back from a file: 8 bits a pixel, float32.

    quality: of the JPEG, 1 to 95, with Pillow's defaults else (colour at half the resolution);
             None: a PNG, which loses nothing but what lies between two levels

    >>> (through_codec(torch.full((1, 3, 8, 8), 0.5), None)[0, 0, 0, 0] * 255).round()
    tensor(128.)
    """
    octets = (images.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    settings = {"format": "PNG"} if quality is None else {"format": "JPEG", "quality": quality}
    coded = torch.empty_like(octets)
    for row, pixels in enumerate(octets.permute(0, 2, 3, 1).numpy()):
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, **settings)
        with Image.open(buffer) as image:
            coded[row] = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    return coded.to(images) / 255
