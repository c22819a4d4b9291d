"""A small table of texts of three classes, for runs that need some."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

TOPICS = {
    "animals": ("dog", "cat", "bird"),
    "places": ("park", "house", "snow"),
    "people": ("man", "woman", "ball"),
}
COMMON = ("the", "a", "big", "small", "red", "runs", "sleeps", "sings", "plays", "in", "on")


def write_texts(file: Path, rows: int = 90) -> Path:
    """The file, a CSV with the columns text and label."""
    generator = np.random.default_rng(0)
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("text", "label"))
        for row in range(rows):
            label = list(TOPICS)[row % len(TOPICS)]
            chosen = [*generator.choice(TOPICS[label], 2), *generator.choice(COMMON, 4)]
            writer.writerow((" ".join(generator.permutation(chosen).tolist()), label))
    return file
