"""Neural codes on real digits, as the paper draws them, and nearest codes against scikit-learn.

    python benchmarks/encoding.py            # speed: a minute, and `make bench`
    python benchmarks/encoding.py curves     # capacity, time, sample size: some minutes

Writes benchmarks/encoding.json, each part where it was measured.
"""

from __future__ import annotations

import json
import os
import sys

THREADS = 2
os.environ["NUMBA_NUM_THREADS"] = str(THREADS)  # numba reads it once, when it is imported

import re
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from advhash.attacks.base import Attack
from advhash.codes import HashCodes
from advhash.codes.hamming import neighbours
from advhash.data.load import load_dataset
from advhash.experiments.phase.cell import Attacker, train_and_measure
from advhash.registry import ATTACKS, VICTIMS
from advhash.storage.run_folder import environment
from advhash.victims.neural.neural_code import NeuralCode

OUT = Path(__file__).with_suffix(".json")
ROWS, QUERIES, BITS, NEIGHBOURS = 60_000, 10_000, 10_000, 9
PEER_QUERIES = 100
WIDTHS = (3, 5, 10, 15, 25, 40, 60, 100)
TIMES = (0, 1, 3, 6, 10, 20, 30)
SAMPLES = (100, 300, 1000, 3000)
SEEDS = 3

OURS = r"""
import re, sys, time
import numpy as np
from pathlib import Path
from advhash.codes import HashCodes
from advhash.measures.encoding import knn_classes, redundancy_ratio
words = np.load(sys.argv[1])
codes = HashCodes(words, int(sys.argv[2]))
classes = np.arange(len(codes)) % 10
began = time.perf_counter()
ratio = redundancy_ratio(codes)
told = time.perf_counter()
found = knn_classes(codes[: int(sys.argv[3])], codes, classes)
ended = time.perf_counter()
status = Path("/proc/self/status").read_text()
print(told - began, ended - told, int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 2**20, ratio)
"""


def drawn() -> HashCodes:
    """Random codes around 100 centres, an eighth of their bits flipped: as hard as they come."""
    generator = np.random.default_rng(0)
    words = -(-BITS // 64)
    centres = generator.integers(0, 2**64, (100, words), np.uint64)
    flips = np.bitwise_and.reduce(
        [generator.integers(0, 2**64, (ROWS, words), np.uint64) for _ in range(3)]
    )
    rows = centres[generator.integers(0, 100, ROWS)] ^ flips
    rows[:, -1] &= np.uint64((1 << (BITS - 64 * (words - 1))) - 1)
    return HashCodes(rows, BITS)


def speed() -> dict[str, object]:
    """Seconds and memory of ours, in a process of its own; of scikit-learn, scaled."""
    from sklearn.neighbors import NearestNeighbors

    codes = drawn()
    neighbours(codes[:4], codes[:64], 1)  # compiled once, kept on disk
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "words.npy"
        np.save(file, codes.words)
        out = subprocess.run(
            [sys.executable, "-c", OURS, str(file), str(BITS), str(QUERIES)],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
    told, searched, gib, ratio = (float(part) for part in out.split())
    bits = codes.unpack().astype(np.float32)  # the type that its fast path takes
    search = NearestNeighbors(
        n_neighbors=NEIGHBOURS, metric="hamming", algorithm="brute", n_jobs=THREADS
    ).fit(bits)
    began = time.perf_counter()
    far, _ = search.kneighbors(bits[:PEER_QUERIES])
    spent = time.perf_counter() - began
    _, ours = neighbours(codes[:PEER_QUERIES], codes, NEIGHBOURS)
    assert np.array_equal((far * BITS).round().astype(int), ours)
    scaled = spent * QUERIES / PEER_QUERIES
    return {
        "rows": ROWS, "queries": QUERIES, "bits": BITS, "neighbours": NEIGHBOURS,
        "threads": THREADS, "redundancy_ratio": ratio, "redundancy_seconds": told,
        "knn_seconds": searched, "gib": gib, "sklearn_seconds_of_100_queries": spent,
        "sklearn_seconds_scaled": scaled, "times_faster": scaled / searched,
    }  # fmt: skip


def measure(dataset: str, settings: dict[str, object], epochs: int) -> dict[str, object]:
    """Means over seeds: capacity (all rows), time at width 40 and sample size at width 40."""
    data = load_dataset(dataset, settings)
    rows = len(data.train_rows)
    attack: Attack = ATTACKS.create("dhta", {"steps": 20})
    attacker = Attacker("dhta", ATTACKS.settings("dhta", {"steps": 20}), attack.default_budget, 50)

    def figures(width: int, sample: int, times: tuple[int, ...]) -> dict[str, dict[str, object]]:
        base = {**NeuralCode.data_arguments(data), "width": width, "epochs": max(times)}
        found = [
            train_and_measure(
                data, VICTIMS.settings("neural-code", base), attacker, times=times,
                sample=sample, noise=0.0, seed=seed, device=torch.device("cpu"),
            )
            for seed in range(SEEDS)
        ]  # fmt: skip
        print(dataset, width, sample, times, flush=True)
        return {
            str(epoch): {
                name: [round(one[epoch][name], 4) for one in found] for name in found[0][epoch]
            }
            for epoch in times
        }

    last = str(epochs)
    times = tuple(one for one in TIMES if one <= epochs)
    over_time = figures(40, rows, times)
    return {
        "settings": settings,
        "train": rows,
        "test": len(data.query),
        "epochs": epochs,
        "width": {
            str(width): over_time[last] if width == 40 else figures(width, rows, (epochs,))[last]
            for width in WIDTHS
        },
        "time": over_time,
        "sample": {
            **{
                str(sample): figures(40, sample, (epochs,))[last]
                for sample in SAMPLES
                if sample < rows
            },
            str(rows): over_time[last],
        },
    }


def main() -> None:
    part = sys.argv[1] if len(sys.argv) > 1 else "speed"
    document = json.loads(OUT.read_text()) if OUT.exists() else {}
    torch.set_num_threads(1)
    began = time.perf_counter()
    if part == "curves":
        document["digits"] = measure("digits", {"size": 16}, 30)
        document["mnist_t10k"] = measure("mnist_t10k", {"size": 16}, 20)
    else:
        document["speed"] = speed()
        print(json.dumps(document["speed"], indent=1))
    document[f"environment_{part}"] = {
        **environment(),
        "seconds": round(time.perf_counter() - began),
        "cpu": re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())[:1],
    }
    OUT.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
