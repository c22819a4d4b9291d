"""What a scan shows: its closest pairs, and pictures beside the least change that gets them past.

The pictures are reduced and kept in the run folder, so that a page can be drawn when the folder of
the user is gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from advhash.codes.hamming import distances
from advhash.data.images.decode import decode_small, printable, quietly
from advhash.experiments.attack.changes import write_change, write_sample
from advhash.experiments.attack.examples import SAMPLES, THUMBNAIL_SIDE
from advhash.experiments.scan.collected import Collected
from advhash.experiments.scan.evasion import EvasionCell
from advhash.experiments.scan.listing import Listing
from advhash.reports.scan import HashFigures, LeastShown, Pair, ShownPair
from advhash.storage.cells import Result

MOST = 12  # pictures on a page
Item = TypeVar("Item")


def in_turns(lists: Sequence[Sequence[Item]]) -> Iterator[Item]:
    """The first of each list, then the second of each, and so on.

    >>> list(in_turns([[1, 2, 3], [10]]))
    [1, 10, 2, 3]
    """
    for place in range(max(map(len, lists), default=0)):
        yield from (each[place] for each in lists if place < len(each))


@dataclass
class Samples:
    """The pictures of one scan, written into its run folder once each."""

    folder: Path
    scanned: Collected
    listing: Listing
    _files: dict[int, str | None] = field(default_factory=dict)

    def pairs(self, hashes: Sequence[HashFigures], count: int) -> list[ShownPair]:
        """The closest pairs of each hash in turn, those first that are not marked as the same.

        A pair of which a picture cannot be shown is left out. Raises StorageError.
        """
        row_of = {
            self.scanned.name(int(row), self.listing): int(row) for row in self.scanned.distinct
        }
        pairs: dict[tuple[str, str], ShownPair] = {}
        for pair in in_turns([sorted(each.nearest, key=_is_marked) for each in hashes]):
            if len(pairs) == count:
                break
            if (pair.first, pair.second) in pairs:
                continue
            rows = (row_of[pair.first], row_of[pair.second])
            files = [file for row in rows if (file := self._file(row)) is not None]
            if len(files) == len(rows):
                pairs[pair.first, pair.second] = ShownPair(
                    first=pair.first,
                    second=pair.second,
                    marked=pair.marked,
                    distances=self._apart(*rows),
                    files=files,
                )
        return list(pairs.values())

    def changes(
        self, hashes: Sequence[HashFigures], cells: Sequence[tuple[EvasionCell, Result]]
    ) -> list[LeastShown]:
        """The pictures that take the least change and the most, of the first hash that has any.

        Raises StorageError.
        """
        for hashing in hashes:
            kept = sorted(
                (
                    (row["l2"], cell.names[row["place"]], row, result.tensors[shown])
                    for cell, result in cells
                    for row in result.document["rows"]
                    if cell.hashing.label == hashing.label
                    and (shown := f"shown {row['place']}") in result.tensors
                ),
                key=lambda each: each[:2],
            )
            if kept:
                return [
                    LeastShown(
                        hash=hashing.label,
                        name=printable(name),
                        distance=row["distance"],
                        linf=row["level"],
                        l2=l2,
                        files=write_change(self.folder, str(number), images),
                    )
                    for number, (l2, name, row, images) in enumerate([*kept[:1], *kept[1:][-1:]])
                ]
        return []

    def _apart(self, first: int, second: int) -> list[int]:
        """Bits between two rows, under each hash."""
        return [
            int(distances(codes[first : first + 1], codes[second : second + 1])[0, 0])
            for codes in self.scanned.codes.values()
        ]

    def _file(self, row: int) -> str | None:
        """The picture of a row, written once; None: gone meanwhile, or not readable as seen."""
        if row not in self._files:
            place = int(self.scanned.files[row])
            name = f"{SAMPLES}/picture-{place:06d}.png"
            try:
                with quietly():
                    small = decode_small(
                        self.listing.root / self.listing.names[place], THUMBNAIL_SIDE
                    )
            except MemoryError:
                raise
            except Exception:  # a decoder that is fed broken bytes can raise anything
                self._files[row] = None
            else:
                image = torch.from_numpy(np.ascontiguousarray(small))
                write_sample(self.folder, name, image)
                self._files[row] = name
        return self._files[row]


def _is_marked(pair: Pair) -> bool:
    return pair.marked
