"""Black-box evasion of pdq as a surface: the tables of docs/attacks/black_box_hashes.md.

Photographs of `clothing_photos`, drawn by the seed, at 128 pixels; attacks that see hashes alone,
for each number of queries and each L∞; thresholds are counted on the same results, since the
attacks move a hash as far as they can. Beside them the linear map of the hash, which is public and
asks nothing. Figures go to `benchmarks/black_box_hashes.json`, tables between the page's marks.

    ADVHASH_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/black_box_hashes.py
    python benchmarks/black_box_hashes.py --page    # only write the page; else 10 minutes

What is done stays in the JSON file, and the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages import filled, table
from PIL import Image

from advhash.budget import Budget
from advhash.codes.hamming import distances
from advhash.data.dataset import Batch
from advhash.measures.intervals import mean_metric, rate_metric
from advhash.registry import ATTACKS
from advhash.victims.perceptual.hashes import PDQ
from advhash.victims.perceptual.resampling import Picture
from advhash.victims.perceptual.stored_change import least_stored_level, map_of

ROOT = Path(__file__).parent.parent
OUT = Path(__file__).with_suffix(".json")
PAGE = ROOT / "docs/attacks/black_box_hashes.md"
SEED, PHOTOGRAPHS, SIDE = 0, 40, 128
METHODS = ("square-untargeted", "nes-untargeted")
QUERIES = (100, 300, 1000)
LEVELS = (4, 8, 16, 32, 64)  # L∞ in grey levels
MAP_LEVELS = (1, 2, 3, 4, 6, 8)
THRESHOLDS = (31, 62, 90)
Rows = list[dict[str, Any]]


def photographs() -> torch.Tensor:
    """(N,3,128,128) in [0,1]."""
    files = sorted((Path(os.environ["ADVHASH_DATA"]) / "clothing_photos").rglob("*.jpg"))
    drawn = np.random.default_rng(SEED).permutation(len(files))[:PHOTOGRAPHS]
    images = []
    for place in drawn:
        image = Image.open(files[place]).convert("RGB")
        image = image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        images.append(torch.from_numpy(np.array(image)).permute(2, 0, 1))
    return torch.stack(images).float() / 255


def asked(images: torch.Tensor, method: str, queries: int, level: int) -> dict[str, Any]:
    """How far hashes were moved by one attack."""
    victim, began = PDQ(), time.process_time()
    attack = ATTACKS.create(method, {"queries": queries})
    batch = Batch(
        {"image": images}, torch.zeros(len(images), 1, dtype=torch.uint8), torch.arange(len(images))
    )
    result = attack.perturb(victim, batch, None, Budget("linf", level / 255), "image")
    seconds = (time.process_time() - began) / len(images)
    bits = distances(victim.encode(images, "image"), result.codes).diagonal()
    moved = result.batch.inputs["image"]
    rms = 255 * (moved - images).flatten(1).square().mean(dim=1).sqrt()
    return {
        "method": method,
        "queries": queries,
        "level": level,
        "bits": bits.tolist(),
        "rms": vars(mean_metric(rms.numpy(), SEED)),
        "seconds": round(seconds, 3),
    }


def mapped(images: torch.Tensor) -> Rows:
    """The least level at which the public map takes each picture out, by threshold."""
    victim, linear = PDQ(), map_of(PDQ(), SIDE, SIDE)
    rows = []
    for threshold in THRESHOLDS:
        least: list[int | None] = []
        for image in images:
            pixels = (255 * image).round().byte().permute(1, 2, 0).contiguous().numpy()
            moved = least_stored_level(victim, linear, pixels, threshold, MAP_LEVELS)
            if moved is None:
                least.append(None)
                continue
            own, after = (victim.bits_of(Picture.of(each)) for each in (pixels, moved))
            assert (own != after).sum() > threshold
            least.append(int(np.abs(moved.astype(int) - pixels).max()))
        rows.append({"threshold": threshold, "least": least})
    return rows


def rate(outcomes: list[bool]) -> str:
    """A share in percent with its exact interval."""
    metric = rate_metric(outcomes, SEED)
    low, high = 100 * (metric.low or 0), 100 * (metric.high or 0)
    return f"{100 * (metric.value or 0):.0f} [{low:.0f}, {high:.0f}]"


def tables(figures: dict[str, Any]) -> dict[str, list[list[str]]]:
    """The tables of the page by their marks, heads first."""
    made: dict[str, list[list[str]]] = {}
    for threshold in THRESHOLDS:
        lines = [["method", "queries", *(f"L∞ {level}" for level in LEVELS)]]
        for method in METHODS:
            for queries in QUERIES:
                cells = {
                    row["level"]: rate([bits > threshold for bits in row["bits"]])
                    for row in figures["asked"]
                    if (row["method"], row["queries"]) == (method, queries)
                }
                name = f"`{method.removesuffix('-untargeted')}`"
                lines.append([name, f"{queries:,}", *(cells.get(level, "–") for level in LEVELS)])
        made[f"threshold {threshold}"] = lines
    lines = [["threshold", *(f"L∞ {level}" for level in MAP_LEVELS)]]
    for row in figures["mapped"]:
        known = [np.inf if level is None else level for level in row["least"]]
        shares = (rate([least <= level for least in known]) for level in MAP_LEVELS)
        lines.append([str(row["threshold"]), *shares])
    made["map"] = lines
    return made


def written(text: str, figures: dict[str, Any]) -> str:
    """The page with each table between `<!-- NAME -->` and `<!-- end -->` written anew."""
    made = {name: table(head, rows) for name, (head, *rows) in tables(figures).items()}
    return filled(text, made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    figures: dict[str, Any] = {"asked": [], "mapped": []}
    if OUT.exists():
        figures = json.loads(OUT.read_text("utf-8"))
    if not given.page:
        torch.set_num_threads(1)
        images = photographs()
        done = {(row["method"], row["queries"], row["level"]) for row in figures["asked"]}
        figures["mapped"] = figures["mapped"] or mapped(images)
        OUT.write_text(json.dumps(figures) + "\n", "utf-8")
        for queries in QUERIES:
            for method in METHODS:
                for level in LEVELS:
                    if (method, queries, level) not in done:
                        row = asked(images, method, queries, level)
                        figures["asked"].append(row)
                        OUT.write_text(json.dumps(figures) + "\n", "utf-8")
                        print(
                            method,
                            queries,
                            level,
                            np.median(row["bits"]),
                            row["seconds"],
                            flush=True,
                        )
    PAGE.write_text(written(PAGE.read_text("utf-8"), figures), "utf-8")


if __name__ == "__main__":
    main()
