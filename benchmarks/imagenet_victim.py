"""No toy: EfficientNet-Lite0 with ImageNet weights at 224 px as `dpsh`, under three attacks.

Hashing Flickr8k's photographs (enlarged from 128 px), 32 bits: a linear layer learnt on the
features of the pretrained network. 100 queries, seed 0: `dhta` and `mainstay` (100 steps) at L∞
4/255 and 8/255, bounded ProS-GAN at 16/255. Finished cells of the json are kept. Needs
ADVHASH_DATA and the extra `pretrained`; about two hours of one core:

    OMP_NUM_THREADS=1 ADVHASH_DATA=FOLDER python benchmarks/imagenet_victim.py
    python benchmarks/imagenet_victim.py --page    # only write the page from the json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from advhash.cli.console import progress_display
from advhash.experiments.attack.run import attack
from advhash.experiments.config import AttackConfig
from advhash.storage.run_folder import environment

OUT = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parent.parent / "docs/attacks/imagenet_victim.md"
VICTIM = {"name": "dpsh", "preset": "pretrained", "epochs": 30}
DATA = {"name": "flickr8k", "size": 224}
PROSGAN = {"bounded": True, "epochs": 4, "batch_size": 24}
CELLS: list[tuple[dict[str, Any], str]] = [
    *(({"name": name}, eps) for eps in ("8/255", "4/255") for name in ("dhta", "mainstay")),
    ({"name": "prosgan", **PROSGAN}, "16/255"),
]
SHOWN = ("tmap_clean", "tmap_chance", "tmap_ceiling", "tmap", "tmap_normalised", "tmap_jpeg75")
HEAD = """# Measured: a pretrained network at 224 px

Written by `OMP_NUM_THREADS=1 ADVHASH_DATA=FOLDER python benchmarks/imagenet_victim.py`, which
keeps the figures in `benchmarks/imagenet_victim.json`. `dpsh` with EfficientNet-Lite0 (ImageNet
weights, frozen; the linear layer learnt, 30 epochs), 32 bits, Flickr8k at 224 px (enlarged from
128), seed 0, 100 queries, targets disjoint from the query's labels. Percent, 95 % BCa intervals
over queries; *JPEG* after a round trip at quality 75. ProS-GAN has 4 epochs instead of its 120, for
time. Equal figures of an attack at both radii: the anchors are reached at the smaller one already,
and an image that reached its anchor rests; a third radius would give them again.

"""


def measure(method: dict[str, Any], eps: str) -> dict[str, Any]:
    """One run, as the row of the table."""
    config = AttackConfig.build(
        {
            "victim": VICTIM,
            "dataset": DATA,
            "attack": method,
            "budget": {"norm": "linf", "eps": eps},
            "protocol": {"queries": 100, "batch_size": 25},
        }
    )
    with tempfile.TemporaryDirectory() as folder, progress_display() as progress:
        record = attack(config, Path(folder) / "run", progress)
    keys = (*SHOWN, "map", "psnr", "ssim", "seconds_fit", "seconds_per_image")
    return {
        "attack": method,
        "eps": eps,
        "metrics": {key: vars(m) for key in keys if (m := record.metrics.get(key)) is not None},
        "flags": [flag.name for flag in record.flags],
        "victim_seconds": record.victim.notes.get("seconds"),
    }


def page(rows: list[dict[str, Any]]) -> str:
    """The Markdown page."""

    def figure(row: dict[str, Any], name: str) -> str:
        metric = row["metrics"].get(name)
        if metric is None or metric["value"] is None:
            return "–"
        text = f"{100 * metric['value']:.1f}"
        if metric["low"] is None:
            return text
        return f"{text} [{100 * metric['low']:.1f}, {100 * metric['high']:.1f}]"

    head = ["attack", "L∞", "t-MAP clean", "chance", "ceiling", "t-MAP", "normalised", "JPEG"]
    head += ["PSNR, dB", "fit, s", "s/image"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        seconds = [row["metrics"][key]["value"] for key in ("seconds_fit", "seconds_per_image")]
        lines.append(
            [
                *(f"`{row['attack']['name']}`", row["eps"]),
                *(figure(row, name) for name in SHOWN[:1]),
                *(figure(row, name) for name in SHOWN[1:]),
                f"{row['metrics']['psnr']['value']:.1f}",
                *(f"{seconds[0]:.0f}", f"{seconds[1]:.2f}"),
            ]
        )
    clean = figure(rows[0], "map")
    return (
        HEAD
        + f"MAP of clean queries: {clean}.\n\n"
        + "\n".join("| " + " | ".join(line) + " |" for line in lines)
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    found = json.loads(OUT.read_text("utf-8")) if OUT.exists() else {"rows": []}
    rows = found["rows"]
    done = [(row["attack"], row["eps"]) for row in rows]
    for method, eps in [] if given.page else [cell for cell in CELLS if cell not in done]:
        rows.append(measure(method, eps))
        written = {"environment": environment(), "rows": rows}
        OUT.write_text(json.dumps(written, indent=1) + "\n", "utf-8")
    PAGE.write_text(page(rows), "utf-8")


if __name__ == "__main__":
    main()
