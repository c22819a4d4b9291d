"""How well a generator does on rows of the validation split, which determine settings."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from advhash.attacks.base import AttackData
from advhash.codes.metrics import retrieval_average_precision
from advhash.codes.packed import HashCodes
from advhash.errors import UsageError
from advhash.targets import choose_targets
from advhash.victims.base import HashVictim

VALIDATION_ROWS = 96


def split_sets(sets: Tensor, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """The (S,C) label sets to train on, and those held out: a share of all, drawn by the seed.

    Raises UsageError where a share above 0 holds out none, or leaves none.
    """
    count = round(share * len(sets))
    if share and not 0 < count < len(sets):
        raise UsageError(
            f"held_out: expected a share that holds out some of the {len(sets)} label sets and "
            f"leaves some, got {share}, which makes {count}"
        )
    order = torch.randperm(len(sets), generator=torch.Generator().manual_seed(seed)).to(sets.device)
    held, kept = order[:count].sort().values, order[count:].sort().values
    return sets[kept], sets[held]


def validated(
    victim: HashVictim,
    data: AttackData,
    sets: Tensor,
    move: Callable[[Tensor, Tensor], Tensor],
    aim: Callable[[Tensor], Tensor],
) -> dict[str, float]:
    """t-MAP, mean Hamming distance to the code aimed at, and RMSE, of at most 96 validation rows.

    Targets are uniform over the (S,C) label sets, as published.

    move: (B,3,H,W) images and (B,C) targets → moved images
    aim:  (B,C) targets → (B,K) codes
    """
    batch = data.dataset.validation.rows(
        torch.arange(min(VALIDATION_ROWS, len(data.dataset.validation)))
    ).to(victim.device)
    labels = data.labels.numpy()
    wanted = choose_targets("uniform", batch.labels.cpu().numpy(), sets.cpu().numpy(), seed=0)
    targets = torch.from_numpy(wanted).to(victim.device)
    images, codes = batch.inputs["image"], aim(targets)
    with torch.no_grad():
        moved = move(images, targets)
        relaxed = victim.relax(moved, "image")
    precision = retrieval_average_precision(
        HashCodes.from_relaxed(relaxed), data.codes, wanted, labels
    )
    return {
        "validation_tmap": float(precision.mean()),
        "validation_hamming": ((relaxed > 0) != (codes > 0)).sum(dim=1).float().mean().item(),
        "validation_rmse": (moved - images).square().mean().sqrt().item(),
    }
