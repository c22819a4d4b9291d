"""Objectives of attacks on hashing as pure functions, each with its source.

h (B,K) in (−1,1) is a relaxed code, b or p (B,K) in ±1 the code to reach.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from advhash.data import Split
from advhash.victims.base import HashVictim

__all__ = [
    "hash_term",
    "hash_term_tmm",
    "lsgan",
    "prototype_loss",
    "reconstruction",
    "similarity",
    "soft_code",
    "typical_size",
]


def soft_code(relaxed: Tensor, alpha: float, scale: Tensor) -> Tensor:
    """h = tanh(α·u/s): (B,K) real codes u into (−1,1), their sign kept.

    HAG (Yang et al., IEEE Trans. Cybernetics 2018) with s = 1; `scale` (B,1) or (1,1) > 0 is the
    usual size of u, so that α means the same for victims whose codes are unbounded.
    """
    return torch.tanh(alpha * relaxed / scale)


def typical_size(victim: HashVictim, split: Split) -> Tensor:
    """(1,1) mean |u| of the real codes of at most 512 images: a scale for `soft_code`."""
    images = split.rows(torch.arange(min(512, len(split)))).inputs["image"]
    with torch.no_grad():
        sizes = [victim.relax(part.to(victim.device), "image").abs() for part in images.split(128)]
    return torch.cat(sizes).mean().clamp_min(1e-6).view(1, 1)


def similarity(codes: Tensor, anchors: Tensor) -> Tensor:
    """(B,) −⟨h, b⟩/K in (−1,1), to be minimised.

    DHTA (Bai et al., ECCV 2020).
    """
    return -(codes * anchors).mean(dim=1)


def hash_term(codes: Tensor, anchors: Tensor) -> Tensor:
    """1 − mean(h∘p), in (0,2): ProS-GAN (Wang et al., CVPR 2021)."""
    return 1 - (codes * anchors).mean()


def hash_term_tmm(codes: Tensor, anchors: Tensor) -> Tensor:
    """mean (1 − h∘p)², in (0,4): ProS-GAN's journal version (IEEE TMM 2022).

    Unlike `hash_term` it presses hardest on the bits that are most wrong.
    """
    return ((1 - codes * anchors) ** 2).mean()


def reconstruction(moved: Tensor, clean: Tensor) -> Tensor:
    """MSE of two (B,3,H,W) [0,1] images, measured on [−1,1] as ProS-GAN does: 4 × the MSE here."""
    return 4 * F.mse_loss(moved, clean)


def lsgan(prediction: Tensor, labels: Tensor, *, real: bool) -> Tensor:
    """mean ([y, r] − D(x))² over C+1 outputs, r = 0 for real and 1 for fake images (ProS-GAN).

    prediction (B,C+1); labels (B,C) multi-hot.
    """
    flag = torch.full((len(labels), 1), 0.0 if real else 1.0, device=prediction.device)
    return F.mse_loss(prediction, torch.cat([labels.to(prediction.dtype), flag], dim=1))


def prototype_loss(
    codes: Tensor,
    predicted: Tensor,
    targets: Tensor,
    database: Tensor,
    similar: Tensor,
    *,
    scale: float = 0.5,
    positive_share: float | None = None,
) -> Tensor:
    """PrototypeNet: −Σ[S·θ − log(1+e^θ)]/(N·B) + MSE(l̂, l) + ‖sign h − h‖²/(10⁴·B).

    codes (B,K) in (−1,1), predicted (B,C) in (0,1), targets (B,C) multi-hot, database (N,K) ±1,
    similar (B,N) of 0/1. θ = scale·h·Bᵀ. ProS-GAN (Wang et al., CVPR 2021), where scale is 1/2
    and every pair weighs the same; with a `positive_share` the similar rows of each target have
    this share of its weight, however few they are.
    """
    theta = scale * codes @ database.T
    pairs = F.softplus(theta) - similar * theta
    if positive_share is not None:
        found = similar.sum(dim=1, keepdim=True)
        positive = similar * positive_share / found.clamp_min(1)
        negative = (1 - similar) * (1 - positive_share) / (len(database) - found).clamp_min(1)
        pairs = pairs * (positive + negative) * len(database)
    signs = torch.where(codes.detach() > 0, 1.0, -1.0)
    gap = ((signs - codes) ** 2).sum() / (1e4 * len(codes))
    return pairs.mean() + F.mse_loss(predicted, targets.to(predicted.dtype)) + gap
