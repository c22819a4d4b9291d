"""What is left of an attack after a file: plain, and made to survive it (`attack.survive`).

Per victim, budget and method one row for each set of channels, judged as the picture is and after
files that the attack was made for or never saw; beside them the gradient attacks through random
smooth JPEGs (`attack.transforms`), and ProS-GAN's bounded generator with ten steps of refinement,
made to survive JPEG 75, seed 0. The seed determines victim, queries and targets. Once, with seed
0 and a third of the queries, at 128 pixels: `dpsh` on Flickr8k, which needs ADVHASH_DATA.
Writes `benchmarks/survive.json`, cell by cell, so that it can be stopped and started again, and the
table between its marks in `docs/attacks/survive.md`. With 300 queries about 50 minutes on one core:

    OMP_NUM_THREADS=1 python benchmarks/survive.py [--queries 300] [--seeds 0 1]
    python benchmarks/survive.py --page    # only write the table from the json
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from pages import filled
from torch import Tensor

from advhash.attacks.base import AttackData
from advhash.attacks.gradient.channels import channel
from advhash.budget import Budget
from advhash.codes.metrics import Scoring
from advhash.codes.packed import HashCodes
from advhash.compute.progress import silent
from advhash.experiments.attack.columns import precisions
from advhash.experiments.attack.perturb import choose_queries
from advhash.experiments.config import TrainConfig
from advhash.experiments.prepare.ceiling import target_ceilings
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained, cache_identity
from advhash.experiments.prepare.victim import train
from advhash.measures.intervals import mean_metric, ratio_metric
from advhash.registry import ATTACKS
from advhash.storage.run_folder import environment
from advhash.targets import choose_targets

OUT = Path(__file__).with_suffix(".json")
PAGE = OUT.parents[1] / "docs/attacks/survive.md"
LARGE = "dpsh, flickr8k at 128 px"
VICTIMS: dict[str, dict[str, Any]] = {
    "dpsh": {"victim": {"name": "dpsh"}},
    "dlcmh": {"victim": {"name": "dlcmh"}},
    LARGE: {"victim": {"name": "dpsh"}, "dataset": {"name": "flickr8k", "size": 128}},
}
RADII = (8, 16)
GAN = "prosgan"
METHODS: dict[str, dict[str, Any]] = {
    "dhta": {},
    "sdha": {},
    "autohash": {},
    GAN: {"bounded": True, "refine": 10},
}
SETS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "jpeg75": {"survive": ("jpeg75",)},
    "jpeg60, jpeg75, jpeg90, webp75": {"survive": ("jpeg60", "jpeg75", "jpeg90", "webp75")},
    "random JPEG, 1 draw": {"transforms": ("jpeg",)},
    "random JPEG, 4 draws": {"transforms": ("jpeg",), "samples": 4},
}
Way = Callable[[Tensor], Tensor]


def twice(images: Tensor) -> Tensor:
    return channel("jpeg75")(channel("jpeg75")(images))


JUDGES: dict[str, Way] = {
    "as it is": lambda images: images,
    "JPEG 75": channel("jpeg75"),
    "JPEG 60": channel("jpeg60"),
    "JPEG 90": channel("jpeg90"),
    "JPEG 75, 4:4:4": channel("jpeg75-444"),
    "WebP 75": channel("webp75"),
    "JPEG 75 twice": twice,
}


@functools.cache
def trained(victim: str, seed: int) -> Trained:
    return train(TrainConfig.build({"seed": seed, **VICTIMS[victim]}))


def measure(
    victim: str, seed: int, radius: int, method: str, made: dict[str, Any], queries: int
) -> dict[str, Any]:
    """Metrics of one attack, a pair of t-MAP and normalised t-MAP for each judge."""
    known = trained(victim, seed)
    model, data, served = known.victim, known.data, known.victim.default_database
    codes, budget = model.database_codes(data, served), Budget("linf", radius / 255)
    seen = AttackData(data, codes, served, "image")
    batch = data.query.rows(choose_queries(data.query, queries, derive_seed(seed, "queries")))
    labels = data.database.labels.numpy()
    drawn = derive_seed(seed, "targets")
    wanted = choose_targets("disjoint", batch.labels.numpy(), labels, drawn)
    ceiling = target_ceilings(
        model, seen, wanted, scoring=Scoring(), identity=cache_identity(known), progress=silent
    )
    attack = ATTACKS.create(method, {**METHODS[method], **made})
    attack.fit(model, seen, budget, seed=derive_seed(seed, "attack"))
    boot, began = derive_seed(seed, "bootstrap"), time.process_time()
    parts, targets = [], torch.from_numpy(wanted)
    for rows in torch.arange(len(batch.labels)).split(100):
        inputs = {"image": batch.inputs["image"][rows]}
        part = type(batch)(inputs, batch.labels[rows], batch.index[rows])
        moved = attack.perturb(model, part, targets[rows], budget, seed=derive_seed(seed, "attack"))
        parts.append(moved.batch.inputs["image"])
    seconds, images = time.process_time() - began, torch.cat(parts)

    def score(way: Way, pictures: Tensor) -> Any:
        found = HashCodes.concatenate([model.encode(way(p), "image") for p in pictures.split(256)])
        return precisions(found, codes, wanted, labels, Scoring())

    clean = score(JUDGES["as it is"], batch.inputs["image"])
    judged = {name: score(way, images) for name, way in JUDGES.items()}
    return {
        "tmap": {name: vars(mean_metric(column, boot)) for name, column in judged.items()},
        "normalised": {
            name: vars(ratio_metric(column, clean, ceiling, boot))
            for name, column in judged.items()
        },
        "tmap_clean": float(clean.mean()),
        "tmap_ceiling": float(ceiling.mean()),
        "seconds_per_image": seconds / len(images),
        "queries": len(images),
    }


def cells(seeds: list[int]) -> Iterator[tuple[str, tuple[str, int, int, str, str]]]:
    for seed in seeds:
        for victim in VICTIMS:
            for radius in RADII:
                for method in METHODS:
                    for name, made in SETS.items():
                        if "transforms" in made and method == "autohash":
                            continue  # which takes none
                        if victim == LARGE and (seed or name not in ("nothing", "jpeg75")):
                            continue
                        if method == GAN and (seed or victim == LARGE or name != "jpeg75"):
                            continue  # its training takes minutes
                        key = victim, seed, radius, method, name
                        yield ", ".join(str(part) for part in key), key


def table(found: dict[str, Any]) -> str:
    """Markdown: normalised t-MAP with its interval behind each judge."""
    titles = ["victim", "seed", "L∞", "attack", "made to survive", *JUDGES, "CPU s per image"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for name, (victim, seed, radius, method, survive) in cells([0, 1]):
        cell = found["cells"].get(name)
        if cell is None:
            continue
        shown = [
            f"{m['value']:.3f} [{m['low']:.3f}, {m['high']:.3f}]"
            if judge in ("as it is", "JPEG 75")
            else f"{m['value']:.3f}"
            for judge, m in cell["normalised"].items()
        ]
        shown_as = f"{method}, refine=10" if method == GAN else method
        first = [victim, str(seed), f"{radius}/255", shown_as, survive]
        lines.append(" | ".join(["|", *first, *shown, f"{cell['seconds_per_image']:.3f} |"])
                     .replace("| | ", "| "))  # fmt: skip
    return "\n".join(lines) + "\n"


def write_page(found: dict[str, Any]) -> None:
    PAGE.write_text(filled(PAGE.read_text("utf-8"), {"measured": table(found)}), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--again", action="store_true", help="measure finished cells again")
    parser.add_argument("--page", action="store_true", help="write the table only")
    given = parser.parse_args()
    kept = OUT.exists() and (given.page or not given.again)
    found: dict[str, Any] = json.loads(OUT.read_text("utf-8")) if kept else {"cells": {}}
    for name, (victim, seed, radius, method, survive) in [] if given.page else cells(given.seeds):
        if victim == LARGE and not os.environ.get("ADVHASH_DATA"):
            continue
        if name not in found["cells"]:
            queries = given.queries // 3 if victim == LARGE else given.queries
            found["cells"][name] = measure(victim, seed, radius, method, SETS[survive], queries)
            found["environment"] = environment()
            OUT.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
            m = found["cells"][name]["normalised"]
            print(name, *(f"{judge} {m[judge]['value']:.3f}" for judge in JUDGES), sep=" | ",
                  flush=True)  # fmt: skip
    write_page(found)


if __name__ == "__main__":
    main()
