"""Objectives of attacks on hashing as pure functions, each with its source.

h (B,K) in (−1,1) is a relaxed code, b or p (B,K) in ±1 the code to reach.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from advhash.data.dataset import Split
from advhash.victims.base import HashVictim


def soft_code(relaxed: Tensor, alpha: float, scale: Tensor) -> Tensor:
    """h = tanh(α·u/s): (B,K) real codes u into (−1,1), their sign kept.

    HAG (Yang et al., IEEE Trans. Cybernetics 2018) with s = 1; `scale` (B,1) or (1,1) > 0 is the
    usual size of u, so that α means the same for victims whose codes are unbounded.
    """
    return torch.tanh(alpha * relaxed / scale)


def typical_size(victim: HashVictim, split: Split) -> Tensor:
    """(1,1) mean |u| of the real codes of at most 512 images: a scale for `soft_code`."""
    images = split.sample(512).inputs["image"]
    with torch.no_grad():
        sizes = [victim.relax(part.to(victim.device), "image").abs() for part in images.split(128)]
    return torch.cat(sizes).mean().clamp_min(1e-6).view(1, 1)


def similarity(codes: Tensor, anchors: Tensor) -> Tensor:
    """(B,) −⟨h, b⟩/K in (−1,1), to be minimised.

    DHTA (Bai et al., ECCV 2020).
    """
    return -(codes * anchors).mean(dim=1)


def hamming_hiding(codes: Tensor, own: Tensor, *, weight: float = 1.0) -> Tensor:
    """(B,) (⟨w∘h, h₀⟩/Σw + 1)² + β·(mean w∘h)²: HAG (Yang et al., IEEE Trans. Cybernetics 2018).

    codes (B,K) h in (−1,1); own (B,K) h₀ in (−1,1), the soft code of the clean image; β = `weight`.
    w is 1 where |h − sign h₀| < 1.5 and 0 where the bit is flipped already. From 0 to 4 + β.
    """
    sign = torch.where(own > 0, 1.0, -1.0)
    open_bits = ((codes - sign).abs() < 1.5).to(codes)
    masked = open_bits * codes
    agreement = (masked * own).sum(dim=1) / (open_bits.sum(dim=1) + 1e-8)
    return (agreement + 1) ** 2 + weight * masked.mean(dim=1) ** 2


def unsettled(codes: Tensor, anchors: Tensor) -> Tensor:
    """(B,) mean of (s + 2)·s over the bits with s = −h∘b > −1/2, in [−3/4, 3]: the mainstay attack.

    SAAT (Yuan et al., IEEE TIFS 2023). It presses hardest on the most wrong bits (the slope is
    2s + 2) and not at all on those that are right by a margin. 0 where all of them are.
    """
    wrong = -codes * anchors
    kept = (wrong > -0.5).to(codes)
    return (kept * (wrong + 2) * wrong).sum(dim=1) / kept.sum(dim=1).clamp_min(1)


def surrogate_distance(
    codes: Tensor, others: Tensor, weight: Tensor, *, sharpness: float, power: float, far: bool
) -> Tensor:
    """(B,) mean over codes r of d̃(h, r)·d(h, r)^power: SDHA (Lu et al., ICMR 2021), a ± of it.

    codes (B,K) h in (−1,1); others (U,K) ±1; weight (B,U) ≥ 0 of each r, 0 where no r counts; d is
    the Hamming distance of the bits, without gradient. With σ = `sharpness` the relaxed d̃ is

    far:     Σ ½|h − r|·sig(σhr) + 1 − sig(σhr), to be maximised (untargeted; σ 5, power −½)
    not far: Σ ½|h − r|·sig(−σhr), to be minimised (targeted; σ 10, power 0.3)

    Of each bit d̃ takes one of two values, as r is 1 or −1, so one product of matrices serves all r.
    """

    def bit(sign: float) -> Tensor:
        half = 0.5 * (codes - sign).abs()
        right = torch.sigmoid(sharpness * sign * codes)
        return half * right + 1 - right if far else half * (1 - right)

    above, below = bit(1.0), bit(-1.0)
    soft = ((above + below).sum(dim=1, keepdim=True) + (above - below) @ others.T) / 2
    signs = torch.where(codes.detach() > 0, 1.0, -1.0)
    hard = (codes.shape[1] - signs @ others.T) / 2
    weighted: Tensor = (weight * soft * (hard + 1e-8) ** power).sum(dim=1)
    return weighted / weight.sum(dim=1).clamp_min(1e-8)


def ranking_precision(
    codes: Tensor, database: Tensor, relevant: Tensor, counts: Tensor, *, levels: int
) -> Tensor:
    """(B,) relaxed average precision in (0,1): FastAP (Cakir et al., CVPR 2019).

    codes (B,K) in (−1,1); database (U,K) ±1 distinct codes; relevant (B,U) and counts (U,) how many
    rows that count, and how many rows in all, have each. Distances (K − ⟨h, r⟩)/2 are shared out
    linearly among `levels` + 1 levels; AP = Σ h⁺·H⁺/H over R relevant rows, of a level's relevant
    rows h⁺ and the rows H, H⁺ up to its middle. 0 where no row counts.

    Deviations:
    - the middle of a level, where FastAP takes its end, as ties are in any order
    """
    width = codes.shape[1] / levels
    place = (codes.shape[1] - codes @ database.T) / 2 / width
    lower = place.detach().floor().clamp(0, levels - 1).long()
    upper_share = place - lower

    def histogram(rows: Tensor) -> Tensor:
        empty = torch.zeros(len(codes), levels + 1, device=codes.device)
        return empty.scatter_add(1, lower, rows * (1 - upper_share)).scatter_add(
            1, lower + 1, rows * upper_share
        )

    hits, rows = histogram(relevant), histogram(counts.expand_as(relevant))
    hits_before = hits.cumsum(dim=1) - hits / 2 + 0.5
    rows_before = rows.cumsum(dim=1) - rows / 2 + 0.5
    precision: Tensor = (hits * hits_before / rows_before).sum(dim=1)
    return precision / relevant.sum(dim=1).clamp_min(1)


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
        relevant = similar.sum(dim=1, keepdim=True)
        positive = similar * positive_share / relevant.clamp_min(1)
        negative = (1 - similar) * (1 - positive_share) / (len(database) - relevant).clamp_min(1)
        pairs = pairs * (positive + negative) * len(database)
    signs = torch.where(codes.detach() > 0, 1.0, -1.0)
    gap = ((signs - codes) ** 2).sum() / (1e4 * len(codes))
    return pairs.mean() + F.mse_loss(predicted, targets.to(predicted.dtype)) + gap


def circle_loss(codes: Tensor, database: Tensor, similar: Tensor) -> Tensor:
    """PrototypeNet of THA (Wang et al., SIGIR 2021): logΣexp(aₙ·s) + logΣexp(−aₚ·s), over B.

    codes (B,K) in (−1,1), database (N,K) ±1, similar (B,N) of 0/1; s = ⟨h, b⟩/K of every pair, the
    first sum over dissimilar pairs and the second over similar ones, with aₙ = s + 2 and aₚ = 2 − s
    without gradient. Plus ‖sign h − h‖²/(10⁴·B), as in `prototype_loss`.
    """
    score = codes @ database.T / codes.shape[1]
    fixed = score.detach()
    push = (fixed + 2) * score
    pull = (fixed - 2) * score
    apart, together = push[similar == 0], pull[similar > 0]
    pairs = sum(side.logsumexp(dim=0) for side in (apart, together) if len(side))
    signs = torch.where(codes.detach() > 0, 1.0, -1.0)
    gap = ((signs - codes) ** 2).sum() / (1e4 * len(codes))
    return pairs / len(codes) + gap
