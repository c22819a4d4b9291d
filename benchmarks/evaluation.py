"""The evaluation engine against its peers, on the same data in the same process: `make bench`.

The best of 15 repeats of what takes milliseconds, of 2 or 3 of what takes seconds.

Writes benchmarks/evaluation.json: seconds, ratios, pairs a second, memory for a gallery of ten
million codes, and what the kernel's compilation costs once.
"""

from __future__ import annotations

import json
import os

os.environ["NUMBA_NUM_THREADS"] = "2"  # numba reads it once, when it is imported

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt
import torch
from numba import njit, prange, types
from numba.extending import intrinsic

from advhash.codes import HashCodes
from advhash.codes.hamming import DistanceHistograms, histograms
from advhash.codes.metrics import average_precision
from advhash.storage.run_folder import environment

QUERIES, ROWS, BITS, CLASSES, TOP = 1_000, 100_000, 64, 21, 100
OUT = Path(__file__).with_suffix(".json")
THREADS = 2  # see above
_BLOCK = 4096
LARGE = 10_000_000

GALLERY = r"""
import re, sys, time
import numpy as np
from pathlib import Path
from advhash.codes.code_files import map_codes
from advhash.codes import HashCodes
from advhash.codes.metrics import average_precision
from advhash.codes.sharding import sharded_histograms
gallery = map_codes(Path(sys.argv[1]))
generator = np.random.default_rng(1)
query = HashCodes.pack(generator.random((1000, gallery.codes.bits)) < 0.5)
labels = HashCodes.pack(generator.random((1000, gallery.labels.bits)) < 0.1)
began = time.perf_counter()
(counts,) = sharded_histograms(query, (labels,), gallery)
value = average_precision(counts).mean()
seconds = time.perf_counter() - began
status = Path("/proc/self/status").read_text()
print(value, seconds, int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 2**20)
"""

COMPILE = """
import time
import numpy as np
from advhash.codes import HashCodes
from advhash.codes.hamming import DistanceHistograms, histograms
codes, hot = HashCodes.pack(np.ones((1, 64))), np.ones((1, 1), np.uint8)
began = time.perf_counter()
histograms(codes, codes, hot, hot)
print(time.perf_counter() - began)
"""


def best(function: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        function()
        times.append(time.perf_counter() - began)
    return min(times)


def calc_map(
    query: npt.NDArray[np.float32],
    database: npt.NDArray[np.float32],
    query_labels: npt.NDArray[np.generic],
    database_labels: npt.NDArray[np.generic],
) -> float:
    """MAP as published code has it: one argsort of the whole database a query.

    Its speed depends on the type of the labels: int64, as `numpy.loadtxt` and `torch.tensor` give
    them, or float32, the fastest that numpy has.
    """
    total = 0.0
    for code, wanted in zip(query, query_labels, strict=True):
        hit = (wanted @ database_labels.T > 0).astype(np.float32)
        found = int(hit.sum())
        if found == 0:
            continue
        far = 0.5 * (database.shape[1] - code @ database.T)
        places = np.where(hit[np.argsort(far)] == 1)[0] + 1.0
        total += float(np.mean(np.linspace(1, found, found) / places))
    return total / len(query)


@intrinsic
def population(typing, word):
    return types.int64(word), lambda context, builder, signature, values: builder.ctpop(values[0])


@njit(parallel=True, nogil=True)
def popcount_only(query: npt.NDArray[np.uint64], database: npt.NDArray[np.uint64]) -> int:
    """XOR and popcount of every pair, only added up, over blocks that fit in the first cache."""
    total = 0
    for block in prange(-(-len(database) // _BLOCK)):
        rows = database[_BLOCK * block : _BLOCK * (block + 1)]
        part = 0
        for value in query:
            for other in rows:
                part += population(value ^ other)
        total += part
    return total


def torch_histograms(
    query: torch.Tensor, database: torch.Tensor, labels: torch.Tensor, owned: torch.Tensor
) -> DistanceHistograms:
    """±1 product and bincount, 100 queries at a time: what one writes in torch."""
    levels = database.shape[1] + 1
    counts = ([], [])
    for codes, wanted in zip(query.split(100), labels.split(100), strict=True):
        far = ((levels - 1 - codes @ database.T) / 2).long()
        far += levels * torch.arange(len(codes))[:, None]
        for found, rows in zip(counts, (far.flatten(), far[wanted @ owned.T > 0]), strict=True):
            found.append(torch.bincount(rows, minlength=len(codes) * levels).view(-1, levels))
    return DistanceHistograms(*(torch.cat(found).numpy() for found in counts))


def data(bits: int, classes: int) -> tuple[HashCodes, HashCodes, npt.NDArray, npt.NDArray]:
    generator = np.random.default_rng(0)
    density = min(0.1, 4 / classes)
    return (
        HashCodes.pack(generator.random((QUERIES, bits)) < 0.5),
        HashCodes.pack(generator.random((ROWS, bits)) < 0.5),
        (generator.random((QUERIES, classes)) < density).astype(np.uint8),
        (generator.random((ROWS, classes)) < density).astype(np.uint8),
    )


def against_peers() -> dict[str, float]:
    query, database, labels, owned = data(BITS, CLASSES)
    signs = query.signs(), database.signs()
    tensors = [torch.from_numpy(part).float() for part in (*signs, labels, owned)]
    packed = HashCodes.pack(labels), HashCodes.pack(owned)  # as in a .codes file
    index = faiss.IndexBinaryFlat(BITS)
    index.add(database.words.view(np.uint8))
    octets = query.words.view(np.uint8)
    integers, floats = (
        (labels.astype(kind), owned.astype(kind)) for kind in (np.int64, np.float32)
    )
    found: dict[str, float] = {}

    def ours() -> None:
        counts = histograms(query, database, *packed)
        found["map"] = float(average_precision(counts).mean())

    ours()
    popcount_only(query.words[:1, 0], database.words[:, 0])
    seconds = {
        "advhash": best(ours, 15),
        "advhash_packing_labels": best(
            lambda: average_precision(histograms(query, database, labels, owned)), 15
        ),
        "faiss_top_100": best(lambda: index.search(octets, TOP), 15),
        "popcount_only": best(lambda: popcount_only(query.words[:, 0], database.words[:, 0]), 15),
        "torch": best(lambda: average_precision(torch_histograms(*tensors)), 3),
        "calc_map": best(lambda: found.update(calc=calc_map(*signs, *integers)), 2),
        "calc_map_float_labels": best(lambda: calc_map(*signs, *floats), 3),
    }
    assert abs(found["map"] - found["calc"]) < 1e-3, found
    pairs = QUERIES * ROWS
    return {
        **{f"seconds_{name}": value for name, value in seconds.items()},
        **{
            f"times_faster_than_{name}": value / seconds["advhash"]
            for name, value in seconds.items()
            if name != "advhash"
        },
        "pairs_per_second": pairs / seconds["advhash"],
        "pairs_per_second_popcount_only": pairs / seconds["popcount_only"],
    }


def wider() -> dict[str, float]:
    """Seconds a word, relative to one word of code and one of labels."""

    def seconds(bits: int, classes: int) -> float:
        query, database, labels, owned = data(bits, classes)
        packed = HashCodes.pack(labels), HashCodes.pack(owned)
        histograms(query, database, *packed)
        return best(lambda: histograms(query, database, *packed), 7)

    one = seconds(64, 21)
    result = {}
    for bits in (128, 256, 1024):
        result[f"{bits}_bits"] = seconds(bits, 21) / one / (bits / 64)
    for classes in (128, 1024):
        result[f"{classes}_classes"] = seconds(64, classes) / one / (classes / 64)
    return result


def large_gallery() -> dict[str, float]:
    from advhash.codes.code_files import LabelledCodes, write_codes

    generator = np.random.default_rng(2)
    words = generator.integers(0, 2**64, (LARGE, 1), dtype=np.uint64)
    hot = generator.integers(0, 2**64, (LARGE, 1), dtype=np.uint64)
    hot &= generator.integers(0, 2**21, (LARGE, 1), dtype=np.uint64)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "gallery.codes"
        write_codes(file, LabelledCodes(HashCodes(words, 64), HashCodes(hot, 21)))
        del words, hot
        text = subprocess.run(
            [sys.executable, "-c", GALLERY, str(file)], capture_output=True, text=True, check=True
        ).stdout
    value, seconds, memory = (float(word) for word in text.split())
    return {"rows": LARGE, "map": value, "seconds": seconds, "peak_memory_gib": memory}


def compile_once() -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder}
        first, second = (
            float(
                subprocess.run(
                    [sys.executable, "-c", COMPILE],
                    capture_output=True,
                    text=True,
                    check=True,
                    env=environment,
                ).stdout
            )
            for _ in range(2)
        )
    return {"seconds_first_run": first, "seconds_later_runs": second}


def main() -> None:
    torch.set_num_threads(THREADS)
    faiss.omp_set_num_threads(THREADS)
    document = {
        "data": f"{QUERIES} queries × {ROWS} codes × {BITS} bits × {CLASSES} labels, random",
        "threads": THREADS,
        "environment": environment(),
        "peers": against_peers(),
        "seconds_per_word_relative_to_one": wider(),
        "mapped_gallery": large_gallery(),
        "compilation": compile_once(),
    }
    OUT.write_text(json.dumps(document, indent=1) + "\n")
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
