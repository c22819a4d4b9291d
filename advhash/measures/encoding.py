"""How well binary codes encode: whether they tell items apart and gather those of a class.

Redundancy and categorisation as in He, Lei, Ji, Tao, "Neural networks behave as hash encoders",
2021 (arXiv 2101.05490), for codes of any origin; `classes` are class numbers (N,), 0 … C−1.

Deviations:
- logistic regression is multinomial (scikit-learn's default today), not one against one;
- above MOST_VALUES bits in all, K-Means and logistic regression see rows drawn by the seed;
- a tie among neighbours goes to the smallest class number, ties of distance to the first row.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from advhash.codes.hamming import neighbours
from advhash.codes.packed import HashCodes

Classes = npt.NDArray[np.int64]
NEIGHBOURS = 9
MOST_VALUES = 1 << 26  # float32 of K-Means and of logistic regression: 256 MiB
CORRELATED_BITS = 1024  # drawn at most
CHUNK = 4096  # rows unpacked at a time


def redundancy_ratio(codes: HashCodes) -> float:
    """(N − distinct)/N: 0 where every item has a code of its own. It grows with N: state N.

    Raises ValueError for no codes.

    >>> redundancy_ratio(HashCodes.pack([[0, 1], [0, 1], [1, 1], [0, 1]]))
    0.5
    """
    if not len(codes):
        raise ValueError("expected at least one code, got none")
    return (len(codes) - distinct_codes(codes)) / len(codes)


def distinct_codes(codes: HashCodes) -> int:
    """How many codes differ from one another."""
    return len({row.tobytes() for row in np.ascontiguousarray(codes.words)})


def bit_shares(codes: HashCodes) -> npt.NDArray[np.float64]:
    """(K,) the share of ones of each bit."""
    ones = np.zeros(codes.bits, np.int64)
    for start in range(0, len(codes), CHUNK):
        ones += codes[start : start + CHUNK].unpack().sum(axis=0, dtype=np.int64)
    return np.asarray(ones / len(codes))


def bit_correlation(codes: HashCodes, seed: int) -> float | None:
    """Mean |Pearson r| over pairs of bits that vary, of CORRELATED_BITS drawn ones at most.

    None where fewer than two bits vary.

    >>> bit_correlation(HashCodes.pack([[0, 0, 1], [1, 1, 1], [0, 0, 1], [1, 1, 1]]), seed=0)
    1.0
    """
    share = bit_shares(codes)
    varying = np.flatnonzero((share > 0) & (share < 1))
    if len(varying) < 2:
        return None
    if len(varying) > CORRELATED_BITS:
        generator = np.random.default_rng(seed)
        varying = np.sort(generator.choice(varying, CORRELATED_BITS, replace=False))
    products = np.zeros((len(varying), len(varying)))
    for start in range(0, len(codes), CHUNK):
        bits = codes[start : start + CHUNK].unpack()[:, varying].astype(np.float64)
        products += bits.T @ bits
    mean = share[varying]
    spread = np.sqrt(mean * (1 - mean))
    r = (products / len(codes) - np.outer(mean, mean)) / np.outer(spread, spread)
    return float(np.abs(r[np.triu_indices(len(varying), 1)]).mean().clip(0, 1))


@dataclass(frozen=True)
class Separation:
    """Mean Hamming distances over all pairs of different rows, as shares of the K bits.

    within: of one class; between: of two. None where there is no such pair.
    """

    within: float | None
    between: float | None


def separation(codes: HashCodes, classes: Classes) -> Separation:
    """Exact, in one pass: the mean distance of two groups follows from their shares of ones.

    Raises ValueError where the numbers of rows differ.

    >>> codes = HashCodes.pack([[0, 0], [0, 1], [1, 1], [1, 1]])
    >>> separation(codes, np.array([0, 0, 1, 1]))
    Separation(within=0.25, between=0.75)
    """
    _check_rows(codes, classes)
    count = int(classes.max(initial=0)) + 1
    ones, rows = np.zeros((count, codes.bits)), np.zeros(count)
    for start in range(0, len(codes), CHUNK):
        bits = codes[start : start + CHUNK].unpack()
        chunk = classes[start : start + CHUNK]
        for number in np.unique(chunk):
            ones[number] += bits[chunk == number].sum(axis=0)
            rows[number] += (chunk == number).sum()
    within = 2 * (ones * (rows[:, None] - ones)).sum()  # ordered pairs that differ in a bit
    pairs = (rows * (rows - 1)).sum()
    total = 2 * (ones.sum(axis=0) * (rows.sum() - ones.sum(axis=0))).sum()
    others = rows.sum() ** 2 - (rows**2).sum()
    return Separation(
        float(within / pairs / codes.bits) if pairs else None,
        float((total - within) / others / codes.bits) if others else None,
    )


def clusters(codes: HashCodes, count: int, seed: int) -> tuple[Classes, Classes]:
    """K-Means of the bits as 0 and 1, the best of 10 starts: clustered rows, their clusters.

    Fewer clusters than `count` where there are fewer distinct codes.
    """
    from sklearn.cluster import KMeans  # takes a second to import

    rows = _drawn(codes, seed)
    bits = codes[rows].unpack().astype(np.float32)
    count = min(count, distinct_codes(codes[rows]))
    assigned = KMeans(n_clusters=count, n_init=10, random_state=seed % 2**32).fit_predict(bits)
    return rows, assigned.astype(np.int64)


def cluster_classes(assigned: Classes, classes: Classes, *, one_to_one: bool) -> Classes:
    """(N,) the class of each row's cluster; −1 where it has none.

    Its most frequent class, or, one to one, the assignment with the most hits in all (Kuhn 1955;
    Munkres 1957). The share of hits is the purity in the first case, and not below the second's.

    Raises ValueError where the numbers of rows differ.

    >>> assigned, classes = np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 0, 0])
    >>> cluster_classes(assigned, classes, one_to_one=False).tolist()
    [0, 0, 0, 0, 0]
    >>> cluster_classes(assigned, classes, one_to_one=True).tolist()
    [1, 1, 1, 0, 0]
    """
    if len(assigned) != len(classes):
        raise ValueError(f"expected {len(assigned)} classes, got {len(classes)}")
    table = np.zeros((int(assigned.max()) + 1, int(classes.max()) + 1), np.int64)
    np.add.at(table, (assigned, classes), 1)
    if not one_to_one:
        return np.asarray(table.argmax(axis=1)[assigned])
    names = np.full(len(table), -1)
    from scipy.optimize import linear_sum_assignment

    cluster, label = linear_sum_assignment(table, maximize=True)
    names[cluster] = label
    return np.asarray(names[assigned])


def knn_classes(
    query: HashCodes, known: HashCodes, classes: Classes, count: int = NEIGHBOURS
) -> Classes:
    """(N,) the class of most of the `count` nearest known codes by Hamming distance.

    Raises ValueError where bits or rows do not fit.

    >>> known = HashCodes.pack([[0, 0], [0, 1], [1, 1]])
    >>> knn_classes(HashCodes.pack([[0, 0]]), known, np.array([1, 1, 0]), count=2).tolist()
    [1]
    """
    _check_rows(known, classes)
    rows, _ = neighbours(query, known, count)
    return _majority(classes[rows])


def pixel_knn_classes(
    query: npt.NDArray[np.float32], known: npt.NDArray[np.float32], classes: Classes
) -> Classes:
    """The same with 9 neighbours and Euclidean distance between (N,F) and (M,F) values."""
    from sklearn.neighbors import NearestNeighbors

    count = min(NEIGHBOURS, len(known))
    search = NearestNeighbors(n_neighbors=count, algorithm="brute").fit(known)
    return _majority(classes[search.kneighbors(query, return_distance=False)])


def _majority(votes: Classes) -> Classes:
    """(N,) of (N,k) votes; of equally many, the smallest number."""
    counts = np.zeros((len(votes), int(votes.max(initial=0)) + 1), np.int64)
    np.add.at(counts, (np.arange(len(votes))[:, None], votes), 1)
    return np.asarray(counts.argmax(axis=1))


def logistic_classes(
    queries: list[HashCodes], known: HashCodes, classes: Classes, seed: int
) -> list[Classes]:
    """Logistic regression (C = 1) on the bits as 0 and 1: predictions for each set of queries.

    Where all known rows are of one class, that class. Raises ValueError where rows do not fit.
    """
    from sklearn.linear_model import LogisticRegression

    _check_rows(known, classes)
    rows = _drawn(known, seed)
    if len(np.unique(classes[rows])) == 1:
        return [np.full(len(query), classes[rows[0]]) for query in queries]
    model = LogisticRegression(max_iter=300)
    with warnings.catch_warnings():  # of steps that are left to do, of classes with few rows
        warnings.simplefilter("ignore")
        model.fit(known[rows].unpack().astype(np.float32), classes[rows])
    return [_in_chunks(model, query) for query in queries]


def _in_chunks(model: object, query: HashCodes) -> Classes:
    parts = [
        model.predict(query[start : start + CHUNK].unpack().astype(np.float32))  # type: ignore[attr-defined]
        for start in range(0, len(query), CHUNK)
    ]
    return np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)


def simhash(
    values: npt.NDArray[np.float32], centre: npt.NDArray[np.float32], bits: int, seed: int
) -> HashCodes:
    """Signs of K random projections of (N,F) values less a (F,) centre (Charikar, STOC 2002).

    The same seed and number of features give the same hyperplanes.
    """
    planes = np.random.default_rng(seed).standard_normal((values.shape[1], bits), np.float32)
    parts = [
        HashCodes.pack((values[start : start + CHUNK] - centre) @ planes > 0)
        for start in range(0, len(values), CHUNK)
    ]
    return HashCodes.concatenate(parts)


def _drawn(codes: HashCodes, seed: int) -> Classes:
    """Rows that K-Means and logistic regression see, in order: all, or as many as fit."""
    most = max(1, MOST_VALUES // codes.bits)
    if len(codes) <= most:
        return np.arange(len(codes))
    return np.sort(np.random.default_rng(seed).choice(len(codes), most, replace=False))


def _check_rows(codes: HashCodes, classes: Classes) -> None:
    if len(codes) != len(classes):
        raise ValueError(f"expected {len(codes)} classes, got {len(classes)}")
