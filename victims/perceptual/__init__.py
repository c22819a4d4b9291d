"""Perceptual hashes with gradients."""

from advhash.victims.perceptual.hashes import (
    PDQ,
    DHash,
    PerceptualHash,
    PHash,
    dct_matrix,
)

__all__ = ["PDQ", "DHash", "PHash", "PerceptualHash", "dct_matrix"]
