"""Pairs of pictures that the user marked as the same: they are no false positives."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import numpy.typing as npt

from advhash.errors import DataError
from advhash.storage.documents import read_text, reason

HEADER = ("first", "second")


def read_duplicates(file: Path, rows: Mapping[str, int]) -> list[tuple[int, int]]:
    """Pairs of rows that show the same, each once and closed: what equals one equals all of them.

    file: CSV with columns `first` and `second` of names, such as `pairs.csv` of a scan, from which
          lines of other pairs were taken out; without a header, the first two columns
    rows: by name

    Raises DataError: no such file, a name that is not in the folder.
    """
    try:
        lines = [line for line in csv.reader(read_text(file).splitlines()) if line]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"expected a CSV file of pairs of names in --duplicates, got {file}: {reason(error)}"
        ) from None
    places = (0, 1)
    if lines and set(HEADER) <= set(lines[0]):
        places = (lines[0].index(HEADER[0]), lines[0].index(HEADER[1]))
        lines = lines[1:]
    above: dict[int, int] = {}

    def root(row: int) -> int:
        while above.setdefault(row, row) != row:
            row = above[row]
        return row

    for number, line in enumerate(lines, start=1):
        if len(line) <= max(places):
            raise DataError(f"{file}, pair {number}: expected two names, got {len(line)} columns")
        pair = [line[place] for place in places]
        missing = next((name for name in pair if name not in rows), None)
        if missing is not None:
            raise DataError(
                f"{file}, pair {number}: expected the name of a picture below the folder, got "
                f"{missing[:80]!r}: write names as the page does"
            )
        one, other = (root(rows[name]) for name in pair)
        above[max(one, other)] = min(one, other)
    groups: dict[int, list[int]] = {}
    for row in sorted(above):
        groups.setdefault(root(row), []).append(row)
    return [pair for group in groups.values() for pair in combinations(group, 2)]


def marked_counts(
    pairs: npt.NDArray[np.int64],
    far: npt.NDArray[np.int64],
    edges: npt.NDArray[np.int64],
    bits: int,
) -> npt.NDArray[np.int64]:
    """(G,G,K+1) as `close_pairs.pair_counts`, of the given pairs alone.

    pairs: (P,2) rows, the smaller first; far: (P,) their distances
    """
    groups = len(edges) - 1
    counts = np.zeros((groups, groups, bits + 1), np.int64)
    of_row = np.searchsorted(edges, pairs, side="right") - 1
    np.add.at(counts, (of_row[:, 0], of_row[:, 1], far), 1)
    return counts
