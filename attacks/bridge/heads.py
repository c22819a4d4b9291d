"""Heads that make a classifier of a hash, so that attacks on classifiers work on its codes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advhash.attacks.gradient.objectives import similarity, soft_code
from advhash.victims.base import HashVictim


class AnchorHead(nn.Module):
    """Two logits (s, −s), where s = ⟨h, goal⟩/K is the agreement of each code with its own goal.

    goals: (B,K) ±1, one for each image: an attack may not cut or reorder the batch
    alpha: h = tanh(α·u/s̄) with s̄ the mean |u| of the clean image

    Every image is of class 1, which it leaves as it comes nearer to its goal. Cross-entropy is
    monotone in s, so that its gradient has the signs of that of `similarity`.
    """

    def __init__(self, victim: HashVictim, clean: Tensor, goals: Tensor, alpha: float) -> None:
        super().__init__()
        self.victim, self.goals, self.alpha = victim, goals, alpha
        self.scale = code_scale(victim, clean)
        self.eval()  # torchattacks gives a model back in the mode that it had

    def forward(self, images: Tensor) -> Tensor:
        """(B,2) of (B,3,H,W)."""
        relaxed = self.victim.relax(plain(images), "image")
        agreement = -similarity(soft_code(relaxed, self.alpha, self.scale), self.goals)
        return torch.stack([agreement, -agreement], dim=1)


class CodeHead(nn.Module):
    """`AnchorHead` on binary codes, for attacks by queries.

    2 is taken off the agreement, so that no image ever changes its class: an attack that drops such
    images from the batch would put the others to the goals of their neighbours.
    """

    def __init__(self, victim: HashVictim, goals: Tensor) -> None:
        super().__init__()
        self.victim, self.goals = victim, goals
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """(B,2) of (B,3,H,W)."""
        agreement = -similarity(own_codes(self.victim, images), self.goals) - 2
        return torch.stack([agreement, -agreement], dim=1)


class PrototypeHead(nn.Module):
    """C logits ⟨h, cᵢ⟩/K of (C,K) ±1 prototypes, one a class: a classifier by the nearest one.

    Nothing in it belongs to one image, so attacks may cut the batch as they like.
    """

    def __init__(self, victim: HashVictim, clean: Tensor, prototypes: Tensor, alpha: float) -> None:
        super().__init__()
        self.victim, self.prototypes, self.alpha = victim, prototypes, alpha
        self.scale = code_scale(victim, clean).mean()
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """(B,C) of (B,3,H,W)."""
        relaxed = self.victim.relax(plain(images), "image")
        return soft_code(relaxed, self.alpha, self.scale) @ self.prototypes.T / self.victim.bits


def own_codes(victim: HashVictim, images: Tensor) -> Tensor:
    """(B,K) ±1 codes of images."""
    return torch.from_numpy(victim.encode(images, "image").signs()).to(images)


def code_scale(victim: HashVictim, clean: Tensor) -> Tensor:
    """(B,1) mean |u| of each clean image."""
    with torch.no_grad():
        return victim.relax(clean, "image").abs().mean(dim=1, keepdim=True).clamp_min(1e-6)


def plain(images: Tensor) -> Tensor:
    """The same images, whose gradient comes back in rows: torchattacks takes views of it."""
    return images.flatten(1).view_as(images)
