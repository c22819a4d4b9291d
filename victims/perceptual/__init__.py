"""Perceptual hashes with gradients."""

from advhash.victims.perceptual.block_means import AHash, BlockHash, WHash
from advhash.victims.perceptual.hashes import (
    PDQ,
    DHash,
    PerceptualHash,
    PHash,
    dct_matrix,
)

__all__ = [
    "PDQ",
    "AHash",
    "BlockHash",
    "DHash",
    "PHash",
    "PerceptualHash",
    "WHash",
    "dct_matrix",
]
