"""Hashes of images."""

from advhash.victims.image.pairwise import (
    DPH,
    DPSH,
    PROSGAN_CODE,
    ImageHashing,
)

__all__ = ["DPH", "DPSH", "PROSGAN_CODE", "ImageHashing"]
