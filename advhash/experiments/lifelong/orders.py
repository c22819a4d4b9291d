"""Orders in which categories arrive: what is known first, and what each increment brings."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.data.dataset import Dataset
from advhash.errors import DataError

Order = tuple[tuple[str, ...], ...]  # the new categories of each increment
IMPLIED = 0.9  # share of the rows of a category that carry another, from which it implies that one
LARGEST = 2.5  # an increment brings at most so many times the share that was asked for


def draw_orders(data: Dataset, count: int, increments: int, share: float, seed: int) -> list[Order]:
    """Orders of categories: what is drawn for each increment until it brings `share` of the
    database, at least.

    A category comes with those that imply it, as an increment of fruit would be none where food was
    known before: only categories that imply no other are drawn. One that would bring over 2.5 times
    the share is left with the original data. Categories that an earlier order drew come last, so
    that orders differ as far as the categories allow.

    Raises DataError where the categories do not suffice.
    """
    labels = data.database.labels.numpy().astype(bool)
    implied = _implied(labels)
    heads = [column for column in range(labels.shape[1]) if not implied[column].any()]
    generator = np.random.default_rng(seed)
    drawn: dict[int, int] = dict.fromkeys(heads, 0)  # how often
    orders: list[Order] = []
    for _ in range(count):
        shuffled = generator.permutation(heads).tolist()
        queue = sorted(shuffled, key=lambda head: drawn[head])  # stable: in random order
        order, taken = [], set[int]()
        for _ in range(increments):
            chosen = _increment(labels, implied, queue, taken, share * len(labels))
            if not chosen:
                raise DataError(
                    f"expected categories for {increments} increments of {100 * share:.0f} % of "
                    f"{data.name!r} each, got too few: ask for fewer or smaller increments"
                )
            taken |= chosen
            order.append(tuple(data.classes[column] for column in sorted(chosen)))
        for head in taken & set(heads):
            drawn[head] += 1
        orders.append(tuple(order))
    return orders


def _increment(
    labels: npt.NDArray[np.bool_],
    implied: npt.NDArray[np.bool_],
    queue: list[int],
    taken: set[int],
    wanted: float,
) -> set[int]:
    """Columns from the front of the queue that bring `wanted` rows; none where they do not."""
    chosen: set[int] = set()
    for head in queue:
        more = {head, *np.flatnonzero(implied[:, head]).tolist()} - taken
        if head in taken | chosen:
            continue
        rows = labels[:, sorted(chosen | more)].any(axis=1).sum()
        if 0 < rows <= LARGEST * wanted:
            chosen |= more
            if rows >= wanted:
                return chosen
    return set()


def _implied(labels: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """(C,C): whether category i implies the larger j: nearly all of its rows carry j."""
    both = labels.T.astype(np.int64) @ labels
    counts = both.diagonal()
    share = both / np.maximum(counts[:, None], 1)
    larger = (counts[None, :] > counts[:, None]) & (counts[:, None] > 0)
    implied = (share >= IMPLIED) & larger
    for _ in counts:  # what is implied by what is implied
        implied |= implied.astype(np.int64) @ implied > 0
    return np.asarray(implied)


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
