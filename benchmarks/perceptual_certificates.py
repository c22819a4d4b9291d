"""How little can suffice for pdq and phash: the tables of docs/victims/certificates.md.

Photographs of `clothing_photos`, drawn by the seed, resized by Pillow's bicubic filter or as they
are; then rounded changes of many shapes and sizes that no bound may lie above. Figures go to
`benchmarks/perceptual_certificates.json`, tables between the marks of the page.

    ADVHASH_DATA=../shared/data OMP_NUM_THREADS=1 python benchmarks/perceptual_certificates.py
    python benchmarks/perceptual_certificates.py --page    # only write the page; else 5 minutes
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pages import filled, table
from PIL import Image

from advhash.experiments.least_change.run import judged, least_change_figures
from advhash.measures.intervals import rate_metric
from advhash.registry import VICTIMS
from advhash.storage.run_folder import environment
from advhash.victims.perceptual.certificates import least_l2, linear_hash
from advhash.victims.perceptual.hashes import PerceptualHash
from advhash.victims.perceptual.resampling import Picture

ROOT = Path(__file__).parent.parent
OUT = Path(__file__).with_suffix(".json")
PAGE = ROOT / "docs/victims/certificates.md"
SEED, PHOTOGRAPHS = 0, 10
THRESHOLDS = {"pdq": 31, "phash": 10}
SIDES: dict[str, tuple[int | None, ...]] = {  # None: as they are stored
    "pdq": (64, 128, 200, 256, 375, None),
    "phash": (64, 128, 256, None),
}
TRIED = {"pdq": (64, 128), "phash": (64, 128)}  # sides of the pictures that are moved
PICTURES, TRIALS = 50, 100  # for each hash and side
Pixels = npt.NDArray[np.uint8]


def photographs(count: int) -> list[Path]:
    """Files of the set, drawn by the seed."""
    folder = Path(os.environ["ADVHASH_DATA"]) / "clothing_photos"
    files = sorted(folder.rglob("*.jpg"))
    drawn = np.random.default_rng(SEED).permutation(len(files))[:count]
    return [files[place] for place in drawn]


def pixels_of(file: Path, side: int | None) -> Pixels:
    image = Image.open(file).convert("RGB")
    if side is not None:
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    return np.array(image)


def sized(name: str, side: int | None) -> dict[str, Any]:
    """Figures of the photographs at one size."""
    victim: PerceptualHash = VICTIMS.create(name)
    rows, began = [], time.process_time()
    for file in photographs(PHOTOGRAPHS):
        pixels = pixels_of(file, side)
        linear = linear_hash(victim, *pixels.shape[:2])
        rows.append(judged(victim, linear, pixels, THRESHOLDS[name]))
    return {
        "hash": name,
        "side": side,
        "seconds": round((time.process_time() - began) / len(rows), 3),
        **least_change_figures(rows, victim.bits, SEED),
        "rows": rows,
    }


def moved(name: str, side: int) -> dict[str, Any]:
    """Rounded changes at random: how many leave, and how long those are beside the bounds."""
    victim: PerceptualHash = VICTIMS.create(name)
    threshold, generator = THRESHOLDS[name], np.random.default_rng(SEED + side)
    linear = linear_hash(victim, side, side)
    against: list[float] = []  # L2 over the bound of the hash as it runs, where that is not 0
    unrounded: list[float] = []  # over that of the map without roundings
    trials = 0
    for file in photographs(PICTURES):
        pixels = pixels_of(file, side)
        own = victim.bits_of(Picture.of(pixels))
        answer = least_l2(linear, own, pixels, threshold)
        assert answer is not None
        for _ in range(TRIALS):
            trials += 1
            scale = generator.uniform(0.9, 4)
            noise = generator.normal(size=pixels.shape) * generator.choice([0, 0.1, 0.3, 1])
            change = (pixels + scale * answer.change + noise).round().clip(0, 255)
            length = float(np.linalg.norm(change - pixels))
            out = (victim.bits_of(Picture.of(change.astype(np.uint8))) != own).sum() > threshold
            if out:
                unrounded.append(length / answer.bound)
                if answer.real:
                    against.append(length / answer.real)
    below = np.array(against) < 1
    return {
        "hash": name,
        "side": side,
        "trials": trials,
        "out": len(unrounded),
        "proven": len(against),
        "least_over_real": min(against, default=None),
        "least_over_bound": min(unrounded, default=None),
        "below_real": vars(rate_metric(below, SEED)) if len(against) else None,
        "below_bound": vars(rate_metric(np.array(unrounded) < 1, SEED)),
    }


def with_interval(metric: dict[str, Any], digits: int) -> str:
    low, high = metric["low"], metric["high"]
    text = f"{metric['value']:.{digits}f}"
    return text if low is None else f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def with_most(row: dict[str, Any], name: str, digits: int) -> str:
    most = row["spread"][name]["most"]
    return f"{with_interval(row['metrics'][name], digits)}; {most:.{digits}f}"


def tables(figures: dict[str, Any]) -> dict[str, list[list[str]]]:
    """The tables of the page by their marks, heads first."""
    sizes = [
        [
            *("hash, side", "bound, median (grey levels rms)", "reached / bound, median; most"),
            *("8 bits / bound, median; most", "bound as it runs / bound, median"),
            "CPU seconds per picture",
        ]
    ]
    for row in figures["sizes"]:
        sizes.append(
            [
                f"{row['hash']}, {row['side'] or 'as stored'}",
                with_interval(row["metrics"]["least_change_bound"], 2),
                with_most(row, "attack_over_bound", 3),
                with_most(row, "stored_over_bound", 2),
                with_interval(row["metrics"]["real_over_bound"], 2),
                f"{row['seconds']:.1f}",
            ]
        )
    trials = [
        [
            *("hash, side", "trials", "that leave", "least L2 / bound as it runs"),
            *("shorter than it", "least L2 / bound", "shorter than it"),
        ]
    ]
    for row in figures["trials"]:
        proven = row["below_real"]
        trials.append(
            [
                f"{row['hash']}, {row['side']}",
                f"{row['trials']:,}",
                f"{row['out']:,}",
                "vacuous" if proven is None else f"{row['least_over_real']:.2f}",
                "–" if proven is None else counted(proven),
                f"{row['least_over_bound']:.2f}",
                counted(row["below_bound"]),
            ]
        )
    return {"sizes": sizes, "trials": trials}


def counted(rate: dict[str, Any]) -> str:
    """How many of how many, with the upper end of the exact interval of the share."""
    count = round(rate["value"] * rate["n"])
    return f"{count} of {rate['n']:,} (at most {100 * rate['high']:.2f} %)"


def written(text: str, figures: dict[str, Any]) -> str:
    """The page with each table between `<!-- NAME -->` and `<!-- end -->` written anew."""
    made = {name: table(head, rows) for name, (head, *rows) in tables(figures).items()}
    return filled(text, made)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true")
    if not parser.parse_args().page:
        figures: dict[str, Any] = {"environment": environment(), "sizes": [], "trials": []}
        for name, sides in SIDES.items():
            for side in sides:
                figures["sizes"].append(sized(name, side))
                print(name, side, flush=True)
        for name, tried in TRIED.items():
            for at in tried:
                figures["trials"].append(moved(name, at))
                print(name, at, "moved", flush=True)
        OUT.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    figures = json.loads(OUT.read_text("utf-8"))
    PAGE.write_text(written(PAGE.read_text("utf-8"), figures), "utf-8")


if __name__ == "__main__":
    main()
