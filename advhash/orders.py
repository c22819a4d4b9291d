"""Orders in which categories arrive: what is known first, and what each increment brings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.data import Dataset
from advhash.errors import DataError

__all__ = ["Order", "arrived_rows", "draw_order", "stage_of"]

Order = tuple[tuple[str, ...], ...]  # the new categories of each increment
IMPLIED = 0.9  # share of the rows of a category that carry another, from which it implies that one
LARGEST = 2.5  # an increment brings at most so many times the share that was asked for


def draw_order(data: Dataset, increments: int, share: float, seed: int) -> Order:
    """Categories drawn for each increment until it brings `share` of the database, at least.

    A category comes with those that imply it, as an increment of fruit would be none where food was
    known before: only categories that imply no other are drawn. One that would bring over 2.5 times
    the share is left with the original data.

    Raises DataError where the categories do not suffice.
    """
    labels = data.database.labels.numpy().astype(bool)
    implied = _implied(labels)
    heads = [column for column in range(labels.shape[1]) if not implied[column].any()]
    wanted = share * len(labels)
    left = np.random.default_rng(seed).permutation(heads).tolist()
    order = []
    for _ in range(increments):
        chosen: list[int] = []
        for head in list(left):
            more = [*chosen, head, *np.flatnonzero(implied[:, head]).tolist()]
            rows = int(labels[:, more].any(axis=1).sum())
            if 0 < rows <= LARGEST * wanted:
                chosen = more
                left.remove(head)
            if chosen and labels[:, chosen].any(axis=1).sum() >= wanted:
                break
        if not chosen or labels[:, chosen].any(axis=1).sum() < wanted:
            raise DataError(
                f"expected categories for {increments} increments of {100 * share:.0f} % of "
                f"{data.name!r} each, got too few: ask for fewer or smaller increments"
            )
        order.append(tuple(data.classes[column] for column in sorted(set(chosen))))
    return tuple(order)


def _implied(labels: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(C,C): whether nearly all rows of category i carry the larger category j."""
    both = labels.T.astype(np.int64) @ labels
    counts = both.diagonal()
    share = both / np.maximum(counts[:, None], 1)
    larger = (counts[None, :] > counts[:, None]) & (counts[:, None] > 0)
    return np.asarray((share >= IMPLIED) & larger)


def stage_of(labels: Tensor, classes: tuple[str, ...], order: Order) -> Tensor:
    """(N,) with which increment a row comes, 0 for the original data: the last of its categories.

    labels: (N,C) multi-hot

    >>> labels = torch.tensor([[1, 0, 0], [1, 1, 0], [0, 1, 1]])
    >>> stage_of(labels, ("cat", "dog", "cow"), (("dog",), ("cow",))).tolist()
    [0, 1, 2]
    """
    stage = torch.zeros(len(labels), dtype=torch.int64)
    for number, names in enumerate(order, start=1):
        new = labels[:, [classes.index(name) for name in names]].bool().any(dim=1)
        stage[new] = number
    return stage


def arrived_rows(data: Dataset, order: Order, stage: int) -> Tensor:
    """The database rows that are there after increment `stage`, in ascending order."""
    stages = stage_of(data.database.labels, data.classes, order)
    return (stages <= stage).nonzero()[:, 0]
