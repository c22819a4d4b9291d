"""Objectives of hashing models as pure functions, each with its source."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from advhash.shared_labels import are_groups, label_counts, shared_groups


def sign(codes: Tensor) -> Tensor:
    """±1 as HashCodes has it: +1 iff > 0, never 0. Carries no gradient."""
    return torch.where(codes.detach() > 0, 1.0, -1.0)


def shared_label(first: Tensor, second: Tensor) -> Tensor:
    """(A,B) float of 0/1: whether two rows, multi-hot or of groups, share a label."""
    return (shared_counts(first, second) > 0).float()


def shared_counts(first: Tensor, second: Tensor) -> Tensor:
    """(A,B) float: how many labels two rows share."""
    if are_groups(first):
        counts: Tensor = shared_groups(first, second)
        return counts.float()
    return first.float() @ second.float().T


def cosine_label_similarity(first: Tensor, second: Tensor) -> Tensor:
    """(A,B) in [0,1]: ⟨l_i, l_j⟩/(‖l_i‖‖l_j‖), 0 for rows without a label.

    DLCMH (Xu et al., IEEE TCSVT 2024).
    """
    if are_groups(first):
        sizes = (label_counts(first)[:, None] * label_counts(second)).float().sqrt()
        return shared_counts(first, second) / sizes.clamp_min(1)
    return F.normalize(first.float(), dim=1) @ F.normalize(second.float(), dim=1).T


def label_overlap(first: Tensor, second: Tensor) -> Tensor:
    """(A,B) in [0,1]: |l_i ∩ l_j| / |l_i ∪ l_j|, 0 for rows without a label.

    HashNet (Cao et al., ICCV 2017).
    """
    both = shared_counts(first, second)
    either = label_counts(first).float()[:, None] + label_counts(second).float() - both
    return both / either.clamp_min(1)


def pairwise_likelihood(codes: Tensor, others: Tensor, similar: Tensor) -> Tensor:
    """−mean[ S·θ − log(1+e^θ) ], θ = ⟨u, v⟩/2.

    DPSH (Li et al., IJCAI 2016). codes (A,K), others (B,K) real; similar (A,B) of 0/1.
    """
    theta = codes @ others.T / 2
    return (F.softplus(theta) - similar * theta).mean()


def pairwise_gap(codes: Tensor, others: Tensor, similar: Tensor) -> Tensor:
    """mean (⟨h_i, g_j⟩/K − (2·S_ij − 1))².

    Deep pairwise hashing (Yang et al., IEEE TCYB 2018), the "DPH" of the code of ProS-GAN and SAAT.
    codes (A,K), others (B,K) in [−1,1]; similar (A,B) of 0/1.
    """
    return torch.mean((codes @ others.T / codes.shape[1] - (2 * similar - 1)) ** 2)


def weighted_likelihood(codes: Tensor, others: Tensor, overlap: Tensor, alpha: float) -> Tensor:
    """mean w_ij·[ log(1+e^θ) − S_ij·θ ], θ = α·⟨h_i, g_j⟩.

    S_ij = 1 where the overlap c_ij is above 0; w_ij = c_ij·N/N₁ there and N/N₀ elsewhere, with N
    pairs, N₁ of them similar and N₀ not. HashNet (Cao et al., ICCV 2017). codes (A,K), others (B,K)
    real; overlap (A,B) in [0,1], see `label_overlap`.
    """
    similar = overlap > 0
    positive = similar.sum().clamp_min(1)
    negative = (~similar).sum().clamp_min(1)
    weight = overlap.numel() * torch.where(similar, overlap / positive, 1 / negative)
    theta = alpha * codes @ others.T
    return (weight * (F.softplus(theta) - similar.float() * theta)).mean()


def centroids(labels: Tensor, centres: Tensor, ties: Tensor) -> Tensor:
    """(B,K) of ±1: the majority of the centres of each row's labels, bit by bit.

    CSQ (Yuan et al., CVPR 2020). labels (B,C) multi-hot; centres (C,K) of ±1; ties (K,) of ±1: the
    bits where the votes are equal, so the whole code of a row without a label.
    """
    votes = labels.float() @ centres
    return torch.where(votes == 0, ties, sign(votes))


def central_similarity(codes: Tensor, aims: Tensor) -> Tensor:
    """−mean[ c·log h + (1−c)·log(1−h) ], h = (tanh u + 1)/2 and c = (aim + 1)/2.

    CSQ (Yuan et al., CVPR 2020). codes u (B,K) real; aims (B,K) of ±1. h is the logistic function
    of 2u, so nothing overflows.
    """
    return F.binary_cross_entropy_with_logits(2 * codes, (aims + 1) / 2)


def log_cosh_quantisation(codes: Tensor) -> Tensor:
    """mean log cosh(|2h − 1| − 1) = mean log cosh(|tanh u| − 1), of (B,K) real codes u.

    CSQ (Yuan et al., CVPR 2020): a smooth distance of the soft code to ±1.
    """
    return torch.log(torch.cosh(torch.tanh(codes).abs() - 1)).mean()


def quantisation(codes: Tensor, signs: Tensor) -> Tensor:
    """Q: mean squared gap between real codes (B,K) and their ±1 codes (DPSH, DLCMH)."""
    return torch.mean((codes - signs) ** 2)


def similarity_gap(codes: Tensor, others: Tensor, similarity: Tensor) -> Tensor:
    """MS: mean (relu(cos(u_i, v_j)) − S_ij)².

    DLCMH, phase 1. codes (A,K), others (B,K) real; similarity (A,B) in [0,1].
    """
    cosine = F.normalize(codes, dim=1) @ F.normalize(others, dim=1).T
    return torch.mean((F.relu(cosine) - similarity) ** 2)


def inner_product_gap(codes: Tensor, signs: Tensor, similarity: Tensor) -> Tensor:
    """Σ_ij (K·S_ij − ⟨u_i, b_j⟩)².

    DLCMH, phase 2, and its ancestor DIHN (Wu et al., CVPR 2019). codes (A,K) real, signs (B,K) of
    ±1, similarity (A,B) in [0,1].
    """
    return torch.sum((codes.shape[1] * similarity - codes @ signs.T) ** 2)


def cross_modal_hashing(
    codes: Tensor,
    others: Tensor,
    similar: Tensor,
    signs: Tensor,
    rest: Tensor,
    *,
    quantisation_weight: float,
    balance_weight: float,
) -> Tensor:
    """DCMH (Jiang and Li, CVPR 2017), one modality's part, divided by B·N.

    (1/BN)·[ Σ_ij (log(1+e^θ_ij) − S_ij·θ_ij) + γ·Σ_i ‖b_i − f_i‖² + η·‖Σ_i f_i + r‖² ],
    θ_ij = ⟨f_i, g_j⟩/2

    codes f (B,K) real; others g (N,K): the other modality's outputs for all N items, constants;
    similar (B,N) of 0/1; signs (B,K) of ±1: the common code of each row; rest r (K,): the sum of
    this modality's last outputs for the items outside the batch.
    """
    theta = codes @ others.T / 2
    total = (
        torch.sum(F.softplus(theta) - similar * theta)
        + quantisation_weight * torch.sum((signs - codes) ** 2)
        + balance_weight * torch.sum((codes.sum(dim=0) + rest) ** 2)
    )
    return total / similar.numel()


def balance(codes: Tensor) -> Tensor:
    """‖Uᵀ1‖²: 0 where every bit of (B,K) real codes is balanced over the batch.

    Squared: the linear sum in the code released for DLCMH has no lower bound.
    """
    return torch.sum(codes.sum(dim=0) ** 2)


def discrete_codes(signs: Tensor, outputs: Tensor, similarity: Tensor, pull: Tensor) -> Tensor:
    """One sweep of discrete cyclic coordinate descent: (N,K) ±1 codes, bit after bit.

    Never increases ‖K·S − Z Bᵀ‖² + ‖P − B‖² over B (N,K) of ±1: with all bits but k fixed, the best
    bit is the sign of (K·Sᵀ Z + P)_k − B_{−k} Z_{−k}ᵀ z_k; where that is 0, the old bit stays.
    DLCMH, phase 2, with P = α·Ẑ.

    signs (N,K) of ±1: the codes before; outputs Z (M,K) real; similarity S (M,N); pull P (N,K).
    """
    width = signs.shape[1]
    wanted = width * similarity.T @ outputs + pull  # (N,K)
    gram = outputs.T @ outputs  # (K,K)
    codes = signs.clone()
    for bit in range(width):
        others = codes @ gram[:, bit] - codes[:, bit] * gram[bit, bit]
        value = wanted[:, bit] - others
        codes[:, bit] = torch.where(value == 0, codes[:, bit], sign(value))
    return codes


def lifelong_hashing(
    codes: Tensor,
    old: Tensor,
    new: Tensor,
    similarity: Tensor,
    own: Tensor,
    *,
    pull: float,
    balance_weight: float,
) -> Tensor:
    """DLCMH, phase 2: both pair terms, quantisation and balance, divided by B·N.

    (1/BN)·[ Σ_{j old} (K·S_ij − ⟨u_i, b_j⟩)² + Σ_{j new} (K·S_ij − ⟨u_i, b_j⟩)²
             + α·Σ_i ‖b_Ω(i) − u_i‖² + β·‖Uᵀ1‖² ]

    codes u (B,K) real; old (O,K) and new (N−O,K) of ±1; similarity (B,N), old columns first;
    own (B,K): the ±1 code of each row itself, b_Ω(i).
    """
    similar_old, similar_new = similarity.split([len(old), len(new)], dim=1)
    total = (
        inner_product_gap(codes, old, similar_old)
        + inner_product_gap(codes, new, similar_new)
        + pull * torch.sum((own - codes) ** 2)
        + balance_weight * balance(codes)
    )
    return total / similarity.numel()
