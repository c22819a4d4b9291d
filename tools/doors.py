"""The pictures of README's four doors, drawn from run folders.

    python tools/doors.py RUNS

RUNS holds what these commands write, PHOTOS being a folder with a sub-folder for each class:

    advhash attack --victim dpsh --set victim.preset=pretrained --dataset PHOTOS \
        --set dataset.size=128 --method dhta --eps 8/255 --queries 40 --out RUNS/train
    advhash scan PHOTOS --hash pdq,phash,dhash --edited 20 --out RUNS/scan
    advhash invert --victim hashvfl --out RUNS/invert

The curve of planted items comes from `benchmarks/stores.json`. A run that is not there leaves its
picture as it is. Pictures have a ground of their own, so that they are read in light and in dark.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from advhash.reports.elements.plots import (
    COLOURS,
    GRID,
    INK,
    MUTED,
    STYLE,
    following,
    make_logarithmic,
    svg_of,
)
from advhash.reports.inversion.record import InversionRecord
from advhash.reports.poison import CURVES
from advhash.reports.record import Example, Record
from advhash.reports.scan import ScanRecord

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs/images"
DOTS = 150  # an inch of a PNG: its letters are read on a phone, where 720 dots become 360
SHADES = 96  # colours of a PNG
RANK = 3  # of the six examples of a run, the first its strongest and the last its weakest
RETRIEVED = 4
OWN, WANTED = COLOURS[0], COLOURS[1]
RECORDS = 8  # of a party


def save(figure: Figure, name: str) -> Path:
    """The figure as a PNG of few colours."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DOTS)
    file = IMAGES / name
    with Image.open(drawn) as picture:
        few = picture.convert("RGB").quantize(SHADES, dither=Image.Dither.NONE)
        few.save(file, optimize=True)
    return file


def show(axes: Axes, file: Path, title: str = "", colour: str = INK) -> None:
    """A picture in a frame, its title in the colour of the frame."""
    with Image.open(file) as picture:
        axes.imshow(np.asarray(picture.convert("RGB")))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(title, color=colour, labelpad=3)
    for side in axes.spines.values():
        side.set(visible=True, color=colour, linewidth=2 if colour != INK else 0.5)


def train(folder: Path) -> Path:
    """A query and its nearest pictures, before and after an attack."""
    record = Record.read(folder)
    example: Example = record.examples[RANK]
    assert example.clean_picture is not None
    assert example.adversarial_picture is not None
    assert example.target is not None
    own, wanted = ", ".join(example.labels), ", ".join(example.target)
    figure = Figure(figsize=(4.8, 2.8), layout="constrained")
    above, below = figure.subfigures(2, 1)
    for part, query, rows, text in (
        (above, example.clean_picture, example.before, f"A query of class {own} and the nearest"),
        (below, example.adversarial_picture, example.after, f"Attacked toward {wanted}"),
    ):
        part.suptitle(text, fontsize=10, color=INK)
        grid: Sequence[Axes] = part.subplots(1, 1 + RETRIEVED)
        show(grid[0], folder / query, "query")
        for axes, row in zip(grid[1:], rows, strict=False):
            assert row.picture is not None
            colour = OWN if row.relevant else WANTED if row.target_relevant else MUTED
            title = own if row.relevant else wanted if row.target_relevant else "other"
            show(axes, folder / row.picture, title, colour)
    return save(figure, "door_train.png")


def scan(folder: Path) -> Path:
    """False positives of the recommended hash over its threshold, and its closest pair."""
    record = ScanRecord.read(folder)
    (hashing,) = (one for one in record.hashes if one.label == record.recommendation.hash)
    assert hashing.threshold is not None
    curve = [at for at in hashing.curve if at.value > 0]
    figure = Figure(figsize=(4.8, 2.5), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(3, 2))
    axes = left.subplots()
    bits = [at.threshold for at in curve]
    axes.plot(bits, [at.value for at in curve], color=OWN, linewidth=1.5)
    axes.fill_between(
        bits, [at.low for at in curve], [at.high for at in curve], color=OWN, alpha=0.2, linewidth=0
    )
    make_logarithmic(axes)
    axes.axhline(record.false_positives, color=MUTED, linestyle="--", linewidth=1)
    axes.axvline(hashing.threshold, color=WANTED, linestyle=":", linewidth=2)
    axes.annotate(
        f"take {hashing.threshold} ",
        (hashing.threshold, curve[-1].high),
        color=WANTED,
        ha="right",
        va="top",
    )
    axes.set_xlabel(f"threshold of {hashing.label}, of {hashing.bits} bits")
    axes.set_title("false positives per comparison", fontsize=10)
    axes.grid(color=GRID, linewidth=0.8)
    pair = hashing.nearest[0]
    right.suptitle(f"closest pair: {pair.distance} bits", fontsize=10, color=INK)
    for axes, name in zip(right.subplots(1, 2), (pair.first, pair.second), strict=True):
        show(axes, Path(record.folder) / name)
    return save(figure, "door_scan.png")


def embeddings(stored: Path) -> Path:
    """Queries that find a planted item, over the share of planted items, beside natural hubs."""
    curve: dict[str, Any] = json.loads(stored.read_text("utf-8"))["curve"]["floats, ×10"]
    shares = [100 * at["share"] for at in curve["shares"]]
    figure = Figure(figsize=(4.8, 2.5), layout="constrained")
    axes = figure.add_subplot()
    for name, (label, colour, dash) in CURVES.items():
        metrics = [at["metrics"][name] for at in curve["shares"]]
        low, value, high = (
            [100 * metric[key] for metric in metrics] for key in ("low", "value", "high")
        )
        axes.plot(shares, value, dash, color=colour, label=label, marker="o", markersize=4)
        axes.fill_between(shares, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale("log")
    axes.set_xticks(shares, [f"{share:.2g}" for share in shares])
    axes.minorticks_off()
    axes.set_xlabel("items, % of the documents")
    axes.set_ylabel("queries that find one, %")
    axes.legend(frameon=False)
    file = IMAGES / "door_embeddings.svg"
    file.write_bytes(following(svg_of(figure)))
    return file


def federate(folder: Path) -> Path:
    """What a party holds, what an attacker makes of its codes, and of its embeddings."""
    record = InversionRecord.read(folder)
    chosen = next(
        attacker.name
        for world in record.worlds
        for attacker in world.attackers
        if world.name == "codes" and attacker.chosen
    )
    columns = {
        "original": "the party's records",
        f"codes: {chosen}": "made of their codes",
        "class mean": "mean of the class",
        "undefended": "without hashing",
    }
    figure = Figure(figsize=(4.8, 3.6), layout="constrained")
    for line, (column, text) in zip(
        figure.subfigures(len(columns), 1), columns.items(), strict=True
    ):
        line.suptitle(text, fontsize=10, color=INK)
        for axes, row in zip(line.subplots(1, RECORDS), record.pictures, strict=False):
            show(axes, folder / row.files[column])
    return save(figure, "door_federate.png")


DOORS: dict[str, Callable[[Path], Path]] = {"train": train, "scan": scan, "invert": federate}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("runs", type=Path, help="the folder with train, scan and invert")
    runs = parser.parse_args().runs
    with matplotlib.rc_context(STYLE):
        drawn = [draw(runs / name) for name, draw in DOORS.items() if (runs / name).is_dir()]
        drawn.append(embeddings(ROOT / "benchmarks/stores.json"))
    for file in drawn:
        sys.stdout.write(f"{file.relative_to(ROOT)}: {file.stat().st_size / 1000:.0f} kB\n")


if __name__ == "__main__":
    main()
