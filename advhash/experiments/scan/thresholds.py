"""All pairs of the pictures of a scan, counted; and with that the threshold of each hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from advhash.codes.close_pairs import pair_counts
from advhash.experiments.experiment import Place
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.scan.blocks import BlockCell
from advhash.experiments.scan.collected import Collected
from advhash.experiments.scan.duplicates import marked_counts
from advhash.measures.false_positives import Rates, false_positive_rates, group_edges
from advhash.storage.cells import CellStore, Result

PART = "thresholds"


@dataclass(frozen=True)
class ThresholdsCell:
    """Counts of all pairs, and a threshold for each hash: a cell, and a part of what needs it.

    blocks:  of the pictures
    given:   thresholds of the user by label
    marked:  pairs of places in the listing that show the same
    rate:    that the interval of false positives may reach where no threshold is given
    """

    blocks: tuple[BlockCell, ...]
    given: tuple[tuple[str, int], ...]
    marked: tuple[tuple[int, int], ...]
    rate: float
    seed: int
    key: str

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(block.part_name for block in self.blocks)

    def build(self, place: Place) -> Result:
        store = CellStore("scan", self.key)
        return store.result(lambda: self.compute(place.at(store)))

    def compute(self, place: Place) -> Result:
        """Tensors "counts LABEL", "marked LABEL" (G,G,K+1) of the distinct pictures.

        The document has the threshold of each hash: that of the user, else the largest whose whole
        interval of false positives is at most the rate, else the largest whose estimate is; None
        where there is none.
        """
        scanned = Collected.of([place.part(block.part_name) for block in self.blocks])
        edges, pairs = distinct_edges(scanned), marked_rows(scanned, self.marked)
        tensors, thresholds = {}, {}
        for done, (label, codes) in enumerate(scanned.codes.items()):
            place.progress("pairs", done, len(scanned.codes))
            own = codes[scanned.distinct]
            counts = pair_counts(own, edges)
            words = own.words[pairs[:, 0]] ^ own.words[pairs[:, 1]]
            far = np.bitwise_count(words).sum(axis=1, dtype=np.int64)
            marked = marked_counts(pairs, far, edges, own.bits)
            tensors[f"counts {label}"] = torch.from_numpy(counts)
            tensors[f"marked {label}"] = torch.from_numpy(marked)
            rates = false_positive_rates(counts - marked, edges, self._boot)
            certain = rates.threshold(self.rate)
            estimate = rates.estimate(self.rate) if certain is None else certain
            thresholds[label] = dict(self.given).get(label, estimate)
        place.progress("pairs", len(scanned.codes), len(scanned.codes))
        return Result({"thresholds": thresholds}, tensors)

    @property
    def _boot(self) -> int:
        return derive_seed(self.seed, "bootstrap")

    def rates(self, result: Result, label: str, edges: Any, *, marked: bool) -> Rates:
        """Rates with or without the pairs that were marked as the same."""
        counts = result.tensors[f"counts {label}"].numpy()
        if not marked:
            counts = counts - result.tensors[f"marked {label}"].numpy()
        return false_positive_rates(counts, edges, self._boot)


def distinct_edges(scanned: Collected) -> npt.NDArray[np.int64]:
    """The groups of the distinct pictures: neighbours by name, which are often of one kind."""
    return group_edges(len(scanned.distinct))


def marked_rows(scanned: Collected, marked: tuple[tuple[int, int], ...]) -> npt.NDArray[np.int64]:
    """(P,2) rows among the distinct pictures of pairs of places in the listing, each once.

    A picture with the pixels of an earlier one stands for that; pairs of which one picture could
    not be read, or both are one, are left out.
    """
    row_of = {int(file): row for row, file in enumerate(scanned.files)}
    first: Mapping[bytes, int] = {
        scanned.digests[row].tobytes(): place for place, row in enumerate(scanned.distinct)
    }
    pairs = set()
    for pair in marked:
        if all(file in row_of for file in pair):
            one, other = (first[scanned.digests[row_of[file]].tobytes()] for file in pair)
            if one != other:
                pairs.add((min(one, other), max(one, other)))
    return np.array(sorted(pairs), np.int64).reshape(-1, 2)
