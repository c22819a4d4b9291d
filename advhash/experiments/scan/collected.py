"""What the blocks of a scan found, put together again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from advhash.codes.packed import HashCodes
from advhash.data.images.edits import EDITS
from advhash.experiments.scan.hashes import unpacked
from advhash.experiments.scan.listing import Listing
from advhash.storage.cells import Result

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Collected:
    """The pictures that could be read, in the order of the listing.

    files:   (N,) their places in the listing
    sizes:   (N,2) width and height
    quality: (N,) PDQ's
    digests: (N,16) of their pixels
    codes:   (N,) by label of the hash
    edited:  (M,) rows that were edited; edits: (M·E,) codes by label, picture by picture
    skipped, remarks: by place in the listing
    """

    files: Rows
    sizes: npt.NDArray[np.int32]
    quality: npt.NDArray[np.uint8]
    digests: npt.NDArray[np.uint8]
    codes: Mapping[str, HashCodes]
    edited: Rows
    edits: Mapping[str, HashCodes]
    skipped: Mapping[int, str]
    remarks: Mapping[int, Sequence[str]]
    seconds: Mapping[str, float]

    @classmethod
    def of(cls, results: Sequence[Result]) -> Collected:
        """Collected from the results of `BlockCell`, in order."""
        files: list[Rows] = []
        edited: list[Rows] = []
        skipped: dict[int, str] = {}
        remarks: dict[int, Sequence[str]] = {}
        start = known = 0
        for result in results:
            read = result.tensors["read"].numpy()
            places = np.flatnonzero(read)
            files.append(start + places)
            edited.append(known + np.searchsorted(places, result.tensors["edited"].numpy()))
            skipped |= {start + int(row): why for row, why in result.document["skipped"].items()}
            remarks |= {start + int(row): why for row, why in result.document["remarks"].items()}
            start, known = start + len(read), known + len(places)
        bits: dict[str, int] = results[0].document["bits"]

        def joined(name: str) -> torch.Tensor:
            return torch.cat([result.tensors[name] for result in results])

        return cls(
            files=np.concatenate(files),
            sizes=joined("sizes").numpy(),
            quality=joined("quality").numpy(),
            digests=joined("digests").numpy(),
            codes={
                label: unpacked(joined(f"code {label}"), width) for label, width in bits.items()
            },
            edited=np.concatenate(edited),
            edits={
                label: unpacked(joined(f"edits {label}").flatten(0, 1), width)
                for label, width in bits.items()
            },
            skipped=skipped,
            remarks=remarks,
            seconds={
                name: sum(result.document["seconds"][name] for result in results)
                for name in ("decode", "hash", "edit")
            },
        )

    def __len__(self) -> int:
        return len(self.files)

    def name(self, row: int, listing: Listing) -> str:
        return listing.shown(int(self.files[row]))

    @cached_property
    def distinct(self) -> Rows:
        """Rows whose pixels no earlier row has, in order."""
        if not len(self):
            return np.zeros(0, np.int64)
        return np.sort(np.unique(self.digests, axis=0, return_index=True)[1].astype(np.int64))

    def edit_distances(self, label: str) -> npt.NDArray[np.int64]:
        """(M,E) bits between each edited picture and the picture itself."""
        own = self.codes[label][np.repeat(self.edited, len(EDITS))]
        differ = np.bitwise_count(own.words ^ self.edits[label].words)
        return np.asarray(differ.sum(axis=1, dtype=np.int64)).reshape(-1, len(EDITS))


def reasons(values: Mapping[int, Any]) -> dict[str, int]:
    """How often each reason is given, the most frequent first."""
    counts: dict[str, int] = {}
    for given in values.values():
        for why in [given] if isinstance(given, str) else given:
            counts[why] = counts.get(why, 0) + 1
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))
