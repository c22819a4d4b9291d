"""Hubs: items that lie near many queries at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import itemgetter
from typing import ClassVar, Literal, Self, cast

import numpy as np
import numpy.typing as npt

from advhash.attacks.poisoning.base import (
    Floats,
    Places,
    Planted,
    Poisoning,
    Seen,
    Surface,
    vectors_of_codes,
)
from advhash.attacks.poisoning.judges import Judges, halves
from advhash.codes.hamming import neighbours
from advhash.codes.packed import HashCodes
from advhash.codes.vectors import Vectors, unit_rows
from advhash.registry import POISONINGS

JUDGED = 1000  # known queries that judge, where there are twice as many and more


@dataclass(frozen=True)
class Clusters:
    """N points in clusters.

    rows:    (N,) of the known queries, or of the corpus
    points:  their vectors
    places:  (N,) the cluster of each
    centres: majority codes, or (C,D) means of length 1
    """

    rows: Places
    points: Vectors
    places: Places
    centres: HashCodes | Floats

    @property
    def surface(self) -> Surface:
        return "codes" if isinstance(self.centres, HashCodes) else "floats"


@dataclass(kw_only=True)
class Clustered(Poisoning):
    """One item for each cluster of queries.

    Centres of codes are majority codes under the Hamming distance, centres of floats are means
    under the cosine: k-means++ begins both, and both have the same rounds.

    knows:   queries, or the corpus alone, of which `sample` rows are taken for queries
    surface: what is clustered; auto: what more queries find vectors by, as the search ranks. Each
        half of the queries makes such vectors, as many as are planted or one of two queries, and
        the other half judges them by exact search; where both reach as many, what ranks in the end
        is clustered
    rounds:  of assigning and averaging
    sample:  rows of the corpus
    """

    knows: Literal["queries", "corpus"] = "queries"
    surface: Literal["auto", "codes", "floats"] = "auto"
    rounds: int = 25
    sample: int = 20_000

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.sample < 1:
            raise ValueError(
                f"expected rounds and sample above 0, got {self.rounds} and {self.sample}"
            )

    def most(self, known: int, documents: int, own: int) -> int:
        return known if self.knows == "queries" else min(self.sample, documents)

    def settled(self, seen: Seen, count: int, seed: int) -> Self:
        if self.surface != "auto":
            return self
        points, _ = self._queries(seen, np.random.default_rng(seed))
        reached: dict[Surface, int] = dict.fromkeys((seen.ranks, "codes", "floats"), 0)
        for side, other in halves(len(points)) if len(points) > 1 else ():
            asked = other[:: max(1, len(other) // JUDGED)]
            judges = Judges.of(points[asked], seen, held=self.knows == "corpus")
            tried = min(count, max(1, len(side) // 2))  # one query alone has one centre, by both
            for surface in reached:
                made = self._clustered(points[side], side, surface, tried, seed)
                reached[surface] += int(judges.finds(self.items(made, seen)).any(axis=0).sum())
        return replace(self, surface=max(reached.items(), key=itemgetter(1))[0])

    def clusters(self, seen: Seen, count: int, seed: int) -> Clusters:
        """As many clusters as items, of known queries or of the corpus."""
        points, rows = self._queries(seen, np.random.default_rng(seed))
        surface = self.settled(seen, count, seed).surface
        return self._clustered(points, rows, cast(Surface, surface), count, seed)

    def items(self, made: Clusters, seen: Seen) -> Vectors:
        """A vector for each centre, of the length of embeddings."""
        if not isinstance(made.centres, HashCodes):
            return seen.vectors(np.asarray(seen.length * made.centres, np.float32))
        begun = _means(unit_rows(made.points.floats), made.places, len(made.centres))
        return seen.vectors(vectors_of_codes(made.centres, begun, seen.cut, seen.length))

    def _queries(self, seen: Seen, generator: np.random.Generator) -> tuple[Vectors, Places]:
        """What is clustered, and its rows of the known queries or of the corpus."""
        if self.knows == "queries":
            return seen.known, np.arange(len(seen.known))
        rows = np.sort(generator.permutation(len(seen.corpus))[: self.sample])
        return seen.corpus[rows], rows

    def _clustered(
        self, points: Vectors, rows: Places, surface: Surface, count: int, seed: int
    ) -> Clusters:
        generator = np.random.default_rng(seed)
        if surface == "codes":
            codes, places = code_centres(points.codes, count, self.rounds, generator)
            return Clusters(rows, points, places, codes)
        means = float_centres(points.floats, count, self.rounds, generator)
        return Clusters(rows, points, (unit_rows(points.floats) @ means.T).argmax(axis=1), means)


@POISONINGS.register("hubs", source="k-means over known queries, by codes or by floats")
@dataclass(kw_only=True)
class Hubs(Clustered):
    """The centres of clusters of known queries, which unseen queries of their kind find.

    knows, surface, rounds, sample: see `Clustered`
    pairs: one vector, whose code follows; free: the majority code beside the mean vector, which
        may be found by fewer queries than the code of that vector
    """

    knowledge: ClassVar[tuple[str, ...]] = (
        "queries of the same kind",
        "the encoder",
        "the quantiser",
    )
    pairs: Literal["one", "free"] = "one"

    @property
    def free_pairs(self) -> bool:
        return self.pairs == "free"

    def items(self, made: Clusters, seen: Seen) -> Vectors:
        if not self.free_pairs:
            return super().items(made, seen)
        if isinstance(made.centres, HashCodes):
            majority, count = made.centres, len(made.centres)
            directions = _means(unit_rows(made.points.floats), made.places, count)
        else:
            directions, own = made.centres, super().items(made, seen).codes
            majority = majorities(made.points.codes, made.places, len(own), own)
        floats = np.asarray(seen.length * directions, np.float32)
        return Vectors(majority, floats, majority.signs())

    def plant(self, seen: Seen, count: int, seed: int) -> Planted:
        made = self.clusters(seen, count, seed)
        return Planted(self.items(made, seen), surface=made.surface)


@POISONINGS.register("centroid", source="the published one-vector form of hubness attacks")
@dataclass(kw_only=True)
class Centroid(Poisoning):
    """One item: the mean of all known queries."""

    knowledge: ClassVar[tuple[str, ...]] = ("queries of the same kind", "the encoder")
    single: ClassVar[bool] = True

    def plant(self, seen: Seen, count: int, seed: int) -> Planted:
        mean = unit_rows(seen.known.floats).mean(axis=0, keepdims=True)
        return Planted(seen.vectors(np.asarray(seen.length * unit_rows(mean), np.float32)))


def code_centres(
    codes: HashCodes, count: int, rounds: int, generator: np.random.Generator
) -> tuple[HashCodes, Places]:
    """K-means of codes: `count` majority codes, and the centre of each of the N codes.

    A cluster that loses all its codes begins anew at the code that is farthest from its centre.
    """
    centres = codes[_beginnings(codes, count, generator)]
    places = np.zeros(len(codes), np.int64)
    for _ in range(rounds):
        nearest, far = neighbours(codes, centres, 1)
        before, places = places, nearest[:, 0]
        centres = majorities(codes, places, count, centres)
        empty = np.setdiff1d(np.arange(count), places)
        if len(empty):
            words = centres.words.copy()
            words[empty] = codes.words[np.argsort(-far[:, 0], kind="stable")[: len(empty)]]
            centres = HashCodes(words, codes.bits)
        elif np.array_equal(before, places):
            break
    return centres, places


def majorities(codes: HashCodes, places: Places, count: int, otherwise: HashCodes) -> HashCodes:
    """The majority code of the codes at each place; of none, that of `otherwise`."""
    sums = np.zeros((count, codes.bits), np.int64)
    ordered = np.argsort(places, kind="stable")
    starts = np.searchsorted(places[ordered], np.arange(count + 1))
    bits = otherwise.unpack()
    for place in range(count):
        rows = ordered[starts[place] : starts[place + 1]]
        if len(rows):
            sums[place] = codes[rows].unpack().sum(axis=0)
            bits[place] = 2 * sums[place] > len(rows)
    return HashCodes.pack(bits)


def float_centres(rows: Floats, count: int, rounds: int, generator: np.random.Generator) -> Floats:
    """K-means of directions: `count` vectors (count,D) of length 1 under the cosine."""
    units = unit_rows(rows)
    centres = units[_float_beginnings(units, count, generator)]
    places = np.zeros(len(units), np.int64)
    for _ in range(rounds):
        near = units @ centres.T
        before, places = places, near.argmax(axis=1)
        centres = _means(units, places, count)
        empty = np.setdiff1d(np.arange(count), places)
        if len(empty):
            centres[empty] = units[np.argsort(near.max(axis=1), kind="stable")[: len(empty)]]
        elif np.array_equal(before, places):
            break
    return np.asarray(centres, np.float32)


def _means(units: Floats, places: Places, count: int) -> Floats:
    sums = np.zeros((count, units.shape[1]), np.float32)
    np.add.at(sums, places, units)
    return unit_rows(sums)


def _beginnings(codes: HashCodes, count: int, generator: np.random.Generator) -> Places:
    """Rows of k-means++: each is drawn by the squared distance to the nearest before."""
    chosen = [int(generator.integers(len(codes)))]
    far = np.full(len(codes), np.inf)
    while len(chosen) < count:
        last = codes.words[chosen[-1]] ^ codes.words
        far = np.minimum(far, np.bitwise_count(last).sum(axis=1, dtype=np.int64) ** 2.0)
        chosen.append(_drawn(far, chosen, generator))
    return np.array(chosen)


def _float_beginnings(units: Floats, count: int, generator: np.random.Generator) -> Places:
    chosen = [int(generator.integers(len(units)))]
    far = np.full(len(units), np.inf)
    while len(chosen) < count:
        far = np.minimum(far, np.maximum(2 - 2 * (units @ units[chosen[-1]]), 0))
        chosen.append(_drawn(far, chosen, generator))
    return np.array(chosen)


def _drawn(
    weights: npt.NDArray[np.float64], chosen: list[int], generator: np.random.Generator
) -> int:
    """A row by its weight, none of those chosen; any of the others where all weights are 0."""
    weights = weights.copy()
    weights[chosen] = 0
    if not weights.sum() > 0:
        weights[:] = 1
        weights[chosen] = 0
    return int(generator.choice(len(weights), p=weights / weights.sum()))
