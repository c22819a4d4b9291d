"""Predefined class codes: one ±1 row a class, far enough apart, every bit balanced over classes."""

from __future__ import annotations

import torch
from torch import Tensor

RESTARTS = 20
STEPS = 4000  # swaps tried before a new start


def least_distance(codes: Tensor) -> int:
    """The smallest Hamming distance between two rows of (C,K) ±1 codes; K for a single row.

    >>> least_distance(torch.tensor([[1.0, 1.0, 1.0], [1.0, -1.0, -1.0]]))
    2
    """
    count, bits = codes.shape
    far = (bits - codes @ codes.T) / 2 + bits * torch.eye(count)
    return int(min(far.min().item(), bits))


def class_codes(
    classes: int, bits: int, *, min_distance: int, generator: torch.Generator
) -> Tensor:
    """(C,K) of ±1: any two rows at least `min_distance` bits apart, columns balanced.

    Each column has as many +1 as −1, or one more where C is odd. HashVFL (Qiu et al., IEEE TIFS
    2024) redraws random rows until all differ, so neither is promised there. Found by swapping two
    classes in a column as long as no pair of rows gets nearer than it should.

    Raises ValueError: no such codes, or none found; lower `min_distance` or take more bits.
    """
    if not 1 <= min_distance <= bits or classes > 2**bits or classes < 1:
        raise ValueError(
            f"expected 1 <= min_distance <= bits and classes <= 2^bits, got min_distance="
            f"{min_distance}, bits={bits}, classes={classes}"
        )
    # of the pairs of classes, a balanced column parts ⌊C/2⌋·⌈C/2⌉ (Plotkin 1960)
    most = bits * (classes // 2) * -(-classes // 2) / max(classes * (classes - 1) / 2, 1)
    if classes > 1 and min_distance > most:
        raise ValueError(
            f"expected min_distance <= {int(most)} for {classes} codes of {bits} bits, got "
            f"{min_distance}"
        )
    for _ in range(RESTARTS):
        codes = _balanced(classes, bits, generator)
        if _spread(codes, min_distance, generator):
            return codes
    raise ValueError(
        f"found no {classes} balanced codes of {bits} bits at distance {min_distance}: lower "
        "min_distance or take more bits"
    )


def _balanced(classes: int, bits: int, generator: torch.Generator) -> Tensor:
    extra = torch.randint(0, 2, (bits,), generator=generator) * (classes % 2)
    columns = []
    for bit in range(bits):
        ones = classes // 2 + int(extra[bit])
        column = torch.full((classes,), -1.0)
        column[torch.randperm(classes, generator=generator)[:ones]] = 1.0
        columns.append(column)
    return torch.stack(columns, dim=1)


def _lacking(codes: Tensor, least: int) -> Tensor:
    """(C,C) how many bits each pair of rows is too near."""
    count, bits = codes.shape
    far = (bits - codes @ codes.T) / 2
    return (least - far).clamp_min(0) * (1 - torch.eye(count))


def _spread(codes: Tensor, least: int, generator: torch.Generator) -> bool:
    """Swap in place until no pair is too near; False where that does not come about."""
    worst = _lacking(codes, least).square().sum()
    for _ in range(STEPS):
        if worst == 0:
            return True
        near = _lacking(codes, least).nonzero()
        row = near[torch.randint(len(near), (1,), generator=generator)][0, 0]
        bit = torch.randint(codes.shape[1], (1,), generator=generator)[0]
        others = (codes[:, bit] != codes[row, bit]).nonzero().flatten()
        if not len(others):
            continue
        other = others[torch.randint(len(others), (1,), generator=generator)][0]
        swapped = codes.clone()
        swapped[[row, other], bit] = codes[[other, row], bit]
        shortfall = _lacking(swapped, least).square().sum()
        if shortfall <= worst:
            codes.copy_(swapped)
            worst = shortfall
    return bool(worst == 0)
