"""Labels of rows in their two forms, and what rows share.

    multi-hot   (N,C) uint8, one column a class
    groups      (N,L) int32, the numbers of the groups that a row belongs to, each once, −1 in the
                places that are left over

Groups are for labels that are too many for a column each: the pictures of one product, the captions
of one picture, the queries that a document answers. Rows are relevant to each other where they
share a label, whichever the form; groups whose numbers are columns say the same as those columns.

Functions take arrays of numpy and, where they say so, tensors of torch: this module needs neither
to know the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from advhash.errors import DataError

if TYPE_CHECKING:
    from torch import Tensor

    AnyLabels = TypeVar("AnyLabels", npt.NDArray[Any], Tensor)
else:
    AnyLabels = TypeVar("AnyLabels")

Labels = npt.NDArray[np.uint8] | npt.NDArray[np.int32]
NO_GROUP = -1
_PAIRS = 1 << 22  # of rows that share a group, in memory at a time
MOST_COLUMNS = 4096  # of labels that a network reads, one input each


def are_groups(labels: Any) -> bool:
    """Whether labels, an array or a tensor, are numbers of groups rather than columns.

    >>> are_groups(np.zeros((2, 1), np.int32)), are_groups(np.zeros((2, 3), np.uint8))
    (True, False)
    """
    return str(getattr(labels, "dtype", "")) in ("int32", "torch.int32")


def as_groups(numbers: npt.ArrayLike) -> npt.NDArray[np.int32]:
    """(N,1) groups of N rows from one number a row. Raises DataError: numbers that do not fit.

    >>> as_groups([3, 0, 3]).tolist()
    [[3], [0], [3]]
    """
    values = np.asarray(numbers)
    most = np.iinfo(np.int32).max
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise DataError(
            f"expected one whole number a row, got {values.dtype} of the shape {values.shape}"
        )
    if values.size and not NO_GROUP <= int(values.min()) <= int(values.max()) < most:
        raise DataError(
            f"expected numbers of groups from 0 to {most - 1}, got {values.min()} to {values.max()}"
        )
    return values.astype(np.int32)[:, None]


def without_labels(labels: AnyLabels) -> AnyLabels:
    """As many rows in the same form, none of which has a label; arrays and tensors."""
    nothing: AnyLabels = labels * 0
    return nothing + NO_GROUP if are_groups(labels) else nothing


def label_counts(labels: AnyLabels) -> AnyLabels:
    """(N,) how many labels each row has; arrays and tensors."""
    counted: AnyLabels = (labels >= 0).sum(-1) if are_groups(labels) else labels.sum(-1)
    return counted


def shared_groups(first: Any, second: Any) -> Any:
    """(A,B) how many groups rows (A,L) and (B,M) share; arrays and tensors.

    >>> shared_groups(np.array([[0, 2]], np.int32), np.array([[2, 0], [1, -1]], np.int32)).tolist()
    [[2, 0]]
    """
    counts: Any = 0
    for own in first.T:
        for other in second.T:
            counts = counts + ((own[:, None] == other[None]) & (own >= 0)[:, None]) * 1
    return counts


def shares(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """(A,B) whether two rows share a label. Raises ValueError: forms or columns that do not fit.

    >>> shares(np.array([[1, 0], [0, 0]], np.uint8), np.array([[1, 1]], np.uint8)).tolist()
    [[True], [False]]
    """
    if are_groups(first) is not are_groups(second):
        raise ValueError("expected labels of one form, got groups and columns")
    if are_groups(first):
        return np.asarray(shared_groups(first, second) > 0)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"expected {second.shape[1]} label columns, got {first.shape[1]}")
    return np.asarray(first.astype(np.float32) @ second.astype(np.float32).T > 0)


def label_sets(labels: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """The distinct non-empty label sets (S,·) of the rows, and how often each occurs.

    Sorted as columns are: groups as their columns would be, so the largest number comes first.

    >>> label_sets(np.array([[4], [7], [4]], np.int32))[0].tolist()
    [[7], [4]]
    """
    if are_groups(labels):
        last = np.iinfo(np.int32).max
        ordered = np.sort(np.where(labels == NO_GROUP, last, labels), axis=1)
        if ordered.shape[1] == 1:  # many times faster than rows of one
            flat, counts = np.unique(ordered[:, 0], return_counts=True)
            sets = flat[:, None]
        else:
            sets, counts = np.unique(ordered, axis=0, return_counts=True)
        sets = np.where(sets == last, NO_GROUP, sets)[::-1].astype(np.int32)
        counts = counts[::-1]
    else:
        sets, counts = np.unique(labels, axis=0, return_counts=True)
    kept = label_counts(sets) > 0
    return sets[kept], counts[kept].astype(np.int64)


def first_labels(labels: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """(N,) the first label of each row, for what takes one class a row; 0 for rows without any.

    >>> first_labels(np.array([[0, 1, 1], [1, 0, 0]], np.uint8)).tolist()
    [1, 0]
    """
    first = labels[:, 0].clip(0) if are_groups(labels) else labels.argmax(axis=1)
    return np.asarray(first, np.int64)


def label_numbers(labels: npt.NDArray[Any]) -> list[int]:
    """The numbers of the columns or groups of one row (·,), ascending."""
    if are_groups(labels):
        return sorted(labels[labels >= 0].tolist())
    return np.flatnonzero(labels).tolist()


def columns(labels: AnyLabels, count: int) -> AnyLabels:
    """Multi-hot labels as they are; groups (N,L) as (N,count) columns; arrays and tensors.

    For a few rows: it is the one place where a row gets a column for each group.
    """
    if not are_groups(labels):
        return labels
    hot: Any = 0
    numbers = np.arange(count, dtype=np.int32)
    for own in labels.T:
        every = numbers if isinstance(own, np.ndarray) else own.new_tensor(numbers)
        hot = hot + (own[:, None] == every[None])
    made: AnyLabels = hot
    return made


class GroupIndex:
    """Finds the rows (M,L) that share a group, by a sorted list of their groups.

    >>> index = GroupIndex(np.array([[7], [5], [7]], np.int32))
    >>> index.pairs(np.array([[5], [7], [6]], np.int32))
    (array([0, 1, 1]), array([1, 0, 2]))
    """

    def __init__(self, owned: npt.NDArray[np.integer[Any]]) -> None:
        flat = owned.reshape(-1)
        order = np.argsort(flat, kind="stable")
        order = order[np.searchsorted(flat[order], 0) :]  # without the places left over
        self._groups = flat[order]
        self._rows = order // max(owned.shape[1], 1)

    def _spans(
        self, wanted: npt.NDArray[np.integer[Any]]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Where the rows of each wanted group begin in the list, and how many there are."""
        first, last = (np.searchsorted(self._groups, wanted, side) for side in ("left", "right"))
        return first, np.where(wanted >= 0, last - first, 0)

    def counts(self, wanted: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
        """(N,) how many rows share a group with each of (N,L) wanted ones."""
        if wanted.shape[1] == 1:
            return np.asarray(self._spans(wanted)[1].sum(axis=1), np.int64)
        counted = [
            np.bincount(places, minlength=stop - start)
            for start, stop, places, _ in self.blocks(wanted)
        ]
        return np.concatenate([np.zeros(0, np.int64), *counted])

    def blocks(
        self, wanted: npt.NDArray[np.integer[Any]]
    ) -> Iterator[tuple[int, int, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """First wanted row, the one behind the last, and `pairs` of these: few pairs at a time."""
        ends = np.cumsum(self._spans(wanted)[1].sum(axis=1))
        start = 0
        while start < len(wanted):
            limit = _PAIRS + (ends[start - 1] if start else 0)
            stop = max(start + 1, int(np.searchsorted(ends, limit, side="right")))
            yield start, stop, *self.pairs(wanted[start:stop])
            start = stop

    def pairs(
        self, wanted: npt.NDArray[np.integer[Any]]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Places in `wanted` (N,L) and the rows that share a group, each pair once, in order."""
        first, counts = self._spans(wanted)
        places = np.repeat(np.arange(len(wanted)), counts.sum(axis=1))
        spans = counts.reshape(-1)
        within = np.arange(int(spans.sum())) - np.repeat(spans.cumsum() - spans, spans)
        rows = self._rows[np.repeat(first.reshape(-1), spans) + within]
        if wanted.shape[1] > 1:  # two groups may lead to one row
            places, rows = np.unique(np.stack([places, rows]), axis=1)
        return places, rows
