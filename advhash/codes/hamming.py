"""Hamming distances between packed codes, and their histograms."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from advhash.codes.packed import HashCodes
from advhash.compute.cores import usable_cores
from advhash.shared_labels import GroupIndex, are_groups, shared_groups

if TYPE_CHECKING:
    from torch import Tensor

# (N,C) multi-hot, as they are or packed; or (N,L) groups
Labels = npt.NDArray[np.uint8] | npt.NDArray[np.int32] | HashCodes

_QUERIES = 1024  # counted at a time: their histograms are held once a thread
_COUNTED_ROWS = 1 << 30  # at most, in one call of the kernel: a count has half a word
_TENSOR_PAIRS = 16_000_000  # pairs in memory at a time where codes are tensors
_FAR_PAIRS = 1 << 20  # whose distances are taken at a time


@dataclass(frozen=True)
class DistanceHistograms:
    """For each of N queries, how many database rows lie at each Hamming distance 0..K.

    total, relevant: int64 (N, K+1). All rank metrics follow from these two counts, whatever the
    order of the database; those of database shards add up.
    """

    total: npt.NDArray[np.int64]
    relevant: npt.NDArray[np.int64]

    @classmethod
    def add(cls, parts: Iterable[DistanceHistograms]) -> DistanceHistograms:
        """The histograms of the union of database shards. Raises ValueError for no shard at all."""
        blocks = list(parts)
        if not blocks:
            raise ValueError("expected the histograms of at least one shard, got none")
        return cls(
            np.sum([part.total for part in blocks], axis=0),
            np.sum([part.relevant for part in blocks], axis=0),
        )

    @property
    def rows(self) -> int:
        """Database rows that were counted."""
        return int(self.total[0].sum()) if len(self.total) else 0

    @property
    def relevant_rows(self) -> npt.NDArray[np.int64]:
        """(N,) relevant database rows of each query."""
        return np.asarray(self.relevant.sum(axis=1))


def distances(query: HashCodes, database: HashCodes) -> npt.NDArray[np.uint16]:
    """(N,M) Hamming distances. Raises ValueError where the bits differ or are above 65,535.

    >>> distances(HashCodes.pack([[1, 0, 1]]), HashCodes.pack([[1, 1, 0], [1, 0, 1]])).tolist()
    [[2, 0]]
    """
    if query.bits != database.bits:
        raise ValueError(f"expected codes of {database.bits} bits, got {query.bits}")
    if query.bits > np.iinfo(np.uint16).max:
        raise ValueError(f"expected at most 65,535 bits, got {query.bits}: see `neighbours`")
    result = np.zeros((len(query), len(database)), dtype=np.uint16)
    for word in range(query.words.shape[1]):
        result += np.bitwise_count(query.words[:, None, word] ^ database.words[None, :, word])
    return result


def pair_distances(
    query: HashCodes,
    database: HashCodes,
    queries: npt.NDArray[np.int64],
    rows: npt.NDArray[np.int64],
) -> npt.NDArray[np.int64]:
    """(P,) Hamming distances of pairs, given by their places on both sides.

    >>> codes = HashCodes.pack([[1, 0], [0, 1]])
    >>> pair_distances(codes, codes, np.array([0, 0]), np.array([0, 1])).tolist()
    [0, 2]
    """
    far = np.zeros(len(rows), np.int64)
    for start in range(0, len(rows), _FAR_PAIRS):
        part = slice(start, start + _FAR_PAIRS)
        differ = query.words[queries[part]] ^ database.words[rows[part]]
        far[part] = np.bitwise_count(differ).sum(axis=1, dtype=np.int64)
    return far


@overload
def histograms(
    query: HashCodes, database: HashCodes, query_labels: Labels, database_labels: Labels
) -> DistanceHistograms: ...
@overload
def histograms(
    query: Tensor, database: Tensor, query_labels: Tensor, database_labels: Tensor
) -> DistanceHistograms: ...
def histograms(
    query: HashCodes | Tensor,
    database: HashCodes | Tensor,
    query_labels: Labels | Tensor,
    database_labels: Labels | Tensor,
) -> DistanceHistograms:
    """Distance histograms of all and of the relevant database rows, exact, in little memory.

    Packed codes are counted by the kernel in `bit_slices`, on all cores. Tensors (N,K) and (M,K)
    of real codes (bit = 1 iff > 0) with labels (N,C), (M,C) are counted where they are, such as on
    a GPU. Rows are relevant where they share a label with the query: multi-hot ones, or groups
    (N,L), (M,L), of which no column is made. The database may be mapped from a file.

    Raises ValueError where bits, label columns or numbers of rows do not fit, or a code is NaN.

    >>> query, database = HashCodes.pack([[1, 0]]), HashCodes.pack([[1, 1], [0, 1], [1, 1]])
    >>> hot = np.array([[1, 0], [0, 1], [0, 1]], dtype=np.uint8)
    >>> counts = histograms(query, database, hot[:1], hot)
    >>> counts.total.tolist(), counts.relevant.tolist()
    ([[0, 2, 1]], [[0, 1, 0]])
    """
    if isinstance(query, HashCodes):
        assert isinstance(database, HashCodes)
        if are_groups(query_labels) or are_groups(database_labels):
            return _group_histograms(query, database, query_labels, database_labels)
        return _packed_histograms(query, database, packed(query_labels), packed(database_labels))
    assert not isinstance(database, HashCodes)
    return _tensor_histograms(query, database, query_labels, database_labels)


def _packed_histograms(
    query: HashCodes, database: HashCodes, wanted: HashCodes, owned: HashCodes
) -> DistanceHistograms:
    if query.bits != database.bits:
        raise ValueError(f"expected codes of {database.bits} bits, got {query.bits}")
    _check_labels((len(wanted), wanted.bits), (len(owned), owned.bits), len(query), len(database))
    total = np.zeros((len(query), query.bits + 1), dtype=np.int64)
    relevant = np.zeros_like(total)
    if len(database):
        for start in range(0, len(query), _QUERIES):
            chunk = slice(start, start + _QUERIES)
            _count(query[chunk], database, wanted[chunk], owned, total[chunk], relevant[chunk])
    return DistanceHistograms(total, relevant)


def _group_histograms(
    query: HashCodes, database: HashCodes, wanted: Any, owned: Any
) -> DistanceHistograms:
    """All rows by the kernel, those of a shared group pair by pair: a block of pairs in memory."""
    if not (are_groups(wanted) and are_groups(owned)):
        raise ValueError("expected labels of one form, got groups and columns")
    _check_labels((len(wanted), 1), (len(owned), 1), len(query), len(database))
    nothing = (HashCodes.pack(np.zeros((len(side), 1), bool)) for side in (query, database))
    total = _packed_histograms(query, database, *nothing).total
    relevant = np.zeros_like(total)
    for start, stop, queries, rows in GroupIndex(owned).blocks(wanted):
        places = queries * total.shape[1] + pair_distances(query, database, queries + start, rows)
        counted = np.bincount(places, minlength=(stop - start) * total.shape[1])
        relevant[start:stop] = counted.reshape(stop - start, -1)
    return DistanceHistograms(total, relevant)


def packed(labels: Any) -> HashCodes:
    """Multi-hot labels (N,C), packed unless they are already."""
    return labels if isinstance(labels, HashCodes) else HashCodes.pack(labels)


def _check_labels(
    query: tuple[int, ...], database: tuple[int, ...], queries: int, rows: int
) -> None:
    if query[1] != database[1]:
        raise ValueError(f"expected {database[1]} label columns, got {query[1]}")
    for name, count, expected in (("query", query[0], queries), ("database", database[0], rows)):
        if count != expected:
            raise ValueError(f"expected {expected} rows of {name} labels, got {count}")


def _count(
    query: HashCodes,
    database: HashCodes,
    query_labels: HashCodes,
    database_labels: HashCodes,
    total: npt.NDArray[np.int64],
    relevant: npt.NDArray[np.int64],
) -> None:
    """Add to the histograms of the queries: blocks of database rows shared out among threads."""
    available = usable_cores()  # before numba, which fails on a bad setting in its own words
    from advhash.codes import bit_slices

    words = np.ascontiguousarray(database.words).view(np.int64)
    labels = np.ascontiguousarray(database_labels.words).view(np.int64)
    blocks = -(-len(words) // (64 * bit_slices.BLOCK_WORDS))
    threads = min(available, blocks)
    parts = max(threads, -(-len(words) // _COUNTED_ROWS))
    chosen = bit_slices.query_rows(query.unpack(), query_labels.unpack())
    edges = [blocks * part // parts for part in range(parts + 1)]

    def run(part: int) -> npt.NDArray[np.int64]:
        counts = np.zeros_like(total)
        scratch = bit_slices.Scratch.allocate(query.bits, words.shape[1], labels.shape[1])
        bit_slices.add_histograms(
            words, labels, *chosen, edges[part], edges[part + 1], scratch, counts
        )
        return counts

    with ThreadPoolExecutor(threads) as pool:
        for counts in pool.map(run, range(parts)):
            total += counts & ((1 << bit_slices.HALF) - 1)
            relevant += counts >> bit_slices.HALF


def _tensor_histograms(
    query: Tensor, database: Tensor, query_labels: Any, database_labels: Any
) -> DistanceHistograms:
    """Distances by a product of ±1 codes: (K − ⟨a, b⟩)/2, exact in float32."""
    import torch  # here, since codes in files need none

    bits = database.shape[1]
    if query.shape[1] != bits:
        raise ValueError(f"expected codes of {bits} bits, got {query.shape[1]}")
    grouped = are_groups(query_labels)
    if grouped is not are_groups(database_labels):
        raise ValueError("expected labels of one form, got groups and columns")
    shapes = (tuple(query_labels.shape), tuple(database_labels.shape))
    if grouped:
        shapes = ((len(query_labels), 1), (len(database_labels), 1))
    _check_labels(*shapes, len(query), len(database))
    if bool(query.isnan().any()) or bool(database.isnan().any()):
        raise ValueError("expected real codes, got NaN: the model that made them is broken")
    levels = bits + 1
    signs = torch.where(database > 0, 1.0, -1.0)
    owned = database_labels if grouped else database_labels.float()
    parts = []
    for chunk, wanted in zip(
        query.split(max(1, _TENSOR_PAIRS // max(1, len(database)))),
        query_labels.split(max(1, _TENSOR_PAIRS // max(1, len(database)))),
        strict=True,
    ):
        far = ((bits - torch.where(chunk > 0, 1.0, -1.0) @ signs.T) / 2).round().long()
        far += levels * torch.arange(len(chunk), device=far.device)[:, None]
        hit = (shared_groups(wanted, owned) if grouped else wanted.to(owned) @ owned.T) > 0
        size = len(chunk) * levels
        parts.append(
            [
                torch.bincount(rows, minlength=size).view(-1, levels).cpu().numpy()
                for rows in (far.flatten(), far[hit])
            ]
        )
    total, relevant = (
        np.concatenate([np.zeros((0, levels), np.int64), *(part[kind] for part in parts)])
        for kind in (0, 1)
    )
    return DistanceHistograms(total, relevant)


def nearest(query: HashCodes, database: HashCodes, count: int) -> npt.NDArray[np.int64]:
    """(N, min(count, M)) database rows by Hamming distance, ties by row, which no library promises.

    Raises ValueError where the bits differ.

    >>> nearest(HashCodes.pack([[1, 1]]), HashCodes.pack([[0, 0], [1, 0], [1, 1], [0, 1]]), 3)
    array([[2, 1, 3]])
    """
    return neighbours(query, database, count)[0]


def neighbours(
    query: HashCodes, database: HashCodes, count: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The rows of `nearest` and their distances, both (N, min(count, M)); exact, on all cores.

    No matrix of distances is held: memory is that of the codes.

    Raises ValueError where the bits differ.

    >>> far = HashCodes.pack([[0, 0], [1, 0], [1, 1], [0, 1]])
    >>> neighbours(HashCodes.pack([[1, 1]]), far, 2)[1]
    array([[0, 1]])
    """
    if query.bits != database.bits:
        raise ValueError(f"expected codes of {database.bits} bits, got {query.bits}")
    count = min(count, len(database))
    cores = usable_cores()  # before numba, which fails on a bad setting in its own words
    from advhash.codes import popcounts

    step = popcounts.QUERIES
    groups = -(-len(query) // step)
    rows = np.zeros((groups * step, count), np.int64)
    far = np.full_like(rows, np.iinfo(np.int64).max)
    if count and groups:
        whole = np.zeros((groups * step, query.words.shape[1]), np.uint64)
        whole[: len(query)] = query.words
        asked, known = popcounts.padded(whole), popcounts.padded(database.words)
        threads = min(cores, groups)
        edges = [step * (groups * part // threads) for part in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            parts = [
                pool.submit(popcounts.keep_nearest, asked, known, first, last, far, rows)
                for first, last in pairwise(edges)
            ]
            for part in parts:
                part.result()
    return rows[: len(query)], far[: len(query)]
