"""Distance histograms over a gallery that is cut into shards: they add up to the last bit."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

from advhash.codes.code_files import LabelledCodes, checksum, map_codes
from advhash.codes.hamming import DistanceHistograms, histograms
from advhash.codes.packed import HashCodes
from advhash.compute.executor import run_tasks
from advhash.compute.progress import Progress, silent
from advhash.errors import DataError


@dataclass(frozen=True)
class Shard:
    """Rows start … stop−1 of a gallery: of a mapped file, which workers open, or carried along."""

    source: Path | LabelledCodes
    start: int
    stop: int
    checksum: str = ""

    def rows(self) -> LabelledCodes:
        """Raises DataError where a worker sees no such file, or another one under its name."""
        if isinstance(self.source, LabelledCodes):
            return self.source
        if checksum(self.source) != self.checksum:
            raise DataError(
                f"{self.source} has changed, or is another file on this worker's machine"
            )
        return map_codes(self.source, verify=False)[self.start : self.stop]


def cut(gallery: LabelledCodes, shards: int) -> list[Shard]:
    """At most `shards` shards of nearly equal size, none of them empty.

    Raises ValueError where `shards` is below 1.
    """
    if shards < 1:
        raise ValueError(f"expected at least 1 shard, got {shards}")
    count = max(1, min(shards, len(gallery)))
    edges = [len(gallery) * part // count for part in range(count + 1)]
    spans = list(pairwise(edges))
    if gallery.path is None:
        return [Shard(gallery[start:stop], start, stop) for start, stop in spans]
    path, digest = gallery.path.resolve(), checksum(gallery.path)
    return [Shard(path, start, stop, digest) for start, stop in spans]


def _count(
    queries: tuple[HashCodes, tuple[HashCodes, ...]], shard: Shard
) -> tuple[DistanceHistograms, ...]:
    codes, wanted = queries
    rows = shard.rows()
    return tuple(histograms(codes, rows.codes, labels, rows.labels) for labels in wanted)


def sharded_histograms(
    query: HashCodes,
    wanted: tuple[HashCodes, ...],
    gallery: LabelledCodes,
    *,
    shards: int = 1,
    executor: str = "inline",
    progress: Progress = silent,
) -> tuple[DistanceHistograms, ...]:
    """The histograms of (N) query codes over the whole gallery, for each of several labellings.

    wanted: packed labels (N,C) that determine relevance: the queries' own, those of their targets

    The same to the last bit for every number of shards and every executor. Raises what
    `advhash.compute.executor.run_tasks` raises.
    """
    tasks = cut(gallery, shards)
    parts = run_tasks(
        executor, partial(_count, (query, wanted)), tasks, stage="shards", progress=progress
    )
    return tuple(DistanceHistograms.add(column) for column in zip(*parts, strict=True))
