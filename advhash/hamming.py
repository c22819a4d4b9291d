"""Hamming distances between packed codes, and their histograms."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from advhash.codes import HashCodes

__all__ = ["DistanceHistograms", "distances", "histograms", "nearest", "relevance"]

_CHUNK_PAIRS = 4_000_000


@dataclass(frozen=True)
class DistanceHistograms:
    """For each of N queries, how many database rows lie at each Hamming distance 0..K.

    total, relevant: int64 (N, K+1). All rank metrics follow from these two counts, whatever the
    order of the database; those of database shards add up.
    """

    total: npt.NDArray[np.int64]
    relevant: npt.NDArray[np.int64]


def distances(query: HashCodes, database: HashCodes) -> npt.NDArray[np.uint16]:
    """(N,M) Hamming distances. Raises ValueError where the bits differ.

    >>> distances(HashCodes.pack([[1, 0, 1]]), HashCodes.pack([[1, 1, 0], [1, 0, 1]])).tolist()
    [[2, 0]]
    """
    if query.bits != database.bits:
        raise ValueError(f"expected codes of {database.bits} bits, got {query.bits}")
    result = np.zeros((len(query), len(database)), dtype=np.uint16)
    for word in range(query.words.shape[1]):
        result += np.bitwise_count(query.words[:, None, word] ^ database.words[None, :, word])
    return result


def relevance(
    query_labels: npt.NDArray[np.uint8], database_labels: npt.NDArray[np.uint8]
) -> npt.NDArray[np.bool_]:
    """(N,M): whether query and database row share at least one label.

    Raises ValueError where the number of classes differs.
    """
    if query_labels.shape[1] != database_labels.shape[1]:
        raise ValueError(
            f"expected {database_labels.shape[1]} label columns, got {query_labels.shape[1]}"
        )
    shared = query_labels.astype(np.float32) @ database_labels.astype(np.float32).T
    return np.asarray(shared > 0)


def histograms(
    query: HashCodes,
    database: HashCodes,
    query_labels: npt.NDArray[np.uint8],
    database_labels: npt.NDArray[np.uint8],
) -> DistanceHistograms:
    """Distance histograms of all and of the relevant rows; memory grows with one chunk only."""
    levels = query.bits + 1
    total = np.zeros((len(query), levels), dtype=np.int64)
    relevant = np.zeros_like(total)
    step = max(1, _CHUNK_PAIRS // max(1, len(database)))
    for start in range(0, len(query), step):
        rows = slice(start, min(start + step, len(query)))
        far = distances(query[rows], database).astype(np.int64)
        hit = relevance(query_labels[rows], database_labels)
        count = len(far)
        far += levels * np.arange(count)[:, None]
        total[rows] = np.bincount(far.ravel(), minlength=count * levels).reshape(count, levels)
        relevant[rows] = np.bincount(far[hit], minlength=count * levels).reshape(count, levels)
    return DistanceHistograms(total, relevant)


def nearest(query: HashCodes, database: HashCodes, count: int) -> npt.NDArray[np.int64]:
    """(N,count) database rows by Hamming distance, ties by row."""
    return np.argsort(distances(query, database), axis=1, kind="stable")[:, :count]
