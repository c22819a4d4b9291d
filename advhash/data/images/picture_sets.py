"""From names, labels and a way to load each picture to the three splits of a data set."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from advhash.data.dataset import Split
from advhash.data.images.rows import Pixels, decode_blocks, image_file, write_images
from advhash.data.splits import Rows

SPLITS = ("database", "validation", "query", "training")
Load = Callable[[int], Pixels]


@dataclass(frozen=True)
class Items:
    """N items before their pictures are read.

    names:  one a row
    labels: (N,C) uint8
    load:   (3,size,size) of a row; called by several threads
    texts:  N strings, or ()
    counts: (N,V) uint8 of the words of the texts, or None
    """

    names: Sequence[str]
    labels: npt.NDArray[np.uint8]
    load: Load
    texts: Sequence[str] = ()
    counts: npt.NDArray[np.uint8] | None = None

    @property
    def searched_only(self) -> npt.NDArray[np.bool_]:
        """(N,) rows without a label or without a known word: neither queries nor trained on."""
        empty: npt.NDArray[np.bool_] = self.labels.sum(1) == 0
        return empty if self.counts is None else empty | (self.counts.sum(1) == 0)


def picture_splits(
    folder: Path, items: Items, rows: Mapping[str, Rows], size: int, where: str
) -> tuple[dict[str, Split], int]:
    """The splits "database", "validation", "query" and, where it has rows of its own, "training".

    And how many queries the database repeats.

    A query is repeated where the database has a picture with the same pixels. Pictures go into
    `folder`, a few at a time. Raises DataError: images that cannot be read.
    """
    parts: dict[str, Split] = {}
    digests = {}
    for name in [each for each in SPLITS if each in rows]:
        taken = rows[name].tolist()

        def load(place: int, taken: list[int] = taken) -> Pixels:
            return items.load(taken[place])

        names = tuple(items.names[row] for row in taken)
        stored = write_images(image_file(folder, name), decode_blocks(names, load, where), size)
        digests[name] = stored.of_row
        inputs = {"image": stored.images}
        if items.counts is not None:
            inputs["text"] = torch.from_numpy(items.counts[taken])
        parts[name] = Split(
            inputs,
            torch.from_numpy(items.labels[taken]),
            names,
            tuple(items.texts[row] for row in taken) if items.texts else (),
            {"image": stored.sha256},
        )
    searched = set(digests["database"])
    return parts, sum(digest in searched for digest in digests["query"])


def card_of_rows(dropped: int, repeated: int) -> tuple[dict[str, object], list[str]]:
    """Entries and warnings of a card about queries that were dropped or are in the database."""
    warnings = []
    if dropped:
        warnings.append(
            f"{dropped} queries without a label (or without a known word) were left out: they "
            "have nothing to find. Published figures may count them as 0."
        )
    if repeated:
        warnings.append(
            f"{repeated} queries have a picture with the same pixels in the database: they find "
            "themselves."
        )
    return {"queries_left_out": dropped, "queries_repeated_in_database": repeated}, warnings
