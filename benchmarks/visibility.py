"""How visible unbounded ProS-GAN is for what it reaches, over the weight of the reconstruction.

One row for each data set, generator, weight of the reconstruction and seed: t-MAP, mean L2, mean
SSIM and processor seconds of the training. The generators are "shipped", the defaults; "without
SSIM", the defaults less that term; "plain", which also lacks the condition in the residual blocks;
and "official", the published networks and losses with a rate of 1e-3 and 600 steps of PrototypeNet,
at width 16 ("reduced") and once at the published width, and once as published altogether, which is
three times as long. The seed determines the victim, the attack,
the queries and the targets. Writes `benchmarks/visibility.json`, row by row, so that it can be
stopped and started again, and the table and the figure of `docs/attacks/prosgan_visibility.md`.
Photographs of cifar10 need ADVHASH_DATA. About three hours on one core:

    OMP_NUM_THREADS=1 python benchmarks/visibility.py [--data cifar10] [--seeds 0 1 2]
    python benchmarks/visibility.py --page    # only write the page's parts from the json
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pages import filled

from advhash.attacks.base import AttackData
from advhash.budget import Budget
from advhash.codes.metrics import Scoring
from advhash.experiments.attack.columns import precisions
from advhash.experiments.attack.perturb import choose_queries
from advhash.experiments.config import TrainConfig
from advhash.experiments.prepare.ceiling import target_ceilings
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import cache_identity
from advhash.experiments.prepare.victim import train
from advhash.measures.intervals import mean_metric, ratio_metric
from advhash.measures.reconstruction import structural_similarity
from advhash.registry import ATTACKS
from advhash.storage.run_folder import environment
from advhash.targets import choose_targets

OUT = Path(__file__).with_suffix(".json")
PAGE = OUT.parents[1] / "docs/attacks/prosgan_visibility.md"
FIGURE = OUT.parents[1] / "docs/images/visibility.svg"
VICTIMS: dict[str, dict[str, Any]] = {
    "digits": {"name": "dpsh"},
    "openmoji": {"name": "dlcmh"},
    "cifar10": {"name": "dpsh", "epochs": 30},
}
EPOCHS = {"digits": 30, "openmoji": 30, "cifar10": 3}  # the same for every generator but the last
REDUCED = {
    "preset": "paper",
    "width": 16,
    "discriminator_width": 16,
    "learning_rate": 1e-3,
    "prototype_steps": 600,
}
GENERATORS: dict[str, tuple[dict[str, Any], Any]] = {
    "shipped": ({}, (15, 30, 50, 70, 100)),
    "without SSIM": ({"ssim_weight": 0.0}, (15, 100)),
    "plain": ({"ssim_weight": 0.0, "modulated": False}, (15, 50, 100)),
    "official, reduced": (REDUCED, (15, 30, 50, 100)),
    "official, width 64": (
        {**REDUCED, "width": 64, "discriminator_width": 64},
        {"digits": (50,), "openmoji": (), "cifar10": ()},
    ),
    "official, published length": (  # and rate, batch and steps of PrototypeNet
        {"preset": "paper", "epochs": 100},
        {"digits": (50,), "openmoji": (), "cifar10": ()},
    ),
}
QUERIES = 300
UNBOUNDED = Budget("none", math.inf)


def cells(names: list[str], seeds: list[int]) -> Iterator[tuple[str, str, str, float, int]]:
    """A key, data set, generator, weight and seed for each row; rivals with seed 0 alone."""
    for seed in seeds:
        for generator, (_, weights) in GENERATORS.items():
            for data in names:
                for weight in weights[data] if isinstance(weights, dict) else weights:
                    if generator == "shipped" or seed == 0:
                        key = f"{data}, {generator}, {weight:g}, {seed}"
                        yield key, data, generator, weight, seed


def measure(data_name: str, generator: str, weight: float, seed: int) -> dict[str, Any]:
    given: dict[str, Any] = {"seed": seed, "victim": VICTIMS[data_name]}
    if data_name == "cifar10":
        given["dataset"] = {"name": "cifar10"}
    config = TrainConfig.build(given)
    known = train(config)
    model, data, served = known.victim, known.data, known.victim.default_database
    codes = model.database_codes(data, served)
    seen = AttackData(data, codes, served, "image")
    batch = data.query.rows(choose_queries(data.query, QUERIES, derive_seed(seed, "queries")))
    labels = data.database.labels.numpy()
    wanted = choose_targets("disjoint", batch.labels.numpy(), labels, derive_seed(seed, "targets"))
    settings, _ = GENERATORS[generator]
    settings = {"epochs": EPOCHS[data_name], **settings, "rec_weight": weight}
    attack = ATTACKS.create("prosgan", settings)
    began = time.process_time()
    attack.fit(model, seen, UNBOUNDED, seed=derive_seed(seed, "attack"))
    seconds = time.process_time() - began
    targets = torch.from_numpy(wanted)
    moved = attack.perturb(model, batch, targets, UNBOUNDED, seed=derive_seed(seed, "attack"))
    clean, images = batch.inputs["image"], moved.batch.inputs["image"]
    before = precisions(model.encode(clean, "image"), codes, wanted, labels, Scoring())
    after = precisions(moved.codes, codes, wanted, labels, Scoring())
    best = target_ceilings(model, seen, wanted, scoring=Scoring(), identity=cache_identity(known))
    boot = derive_seed(seed, "bootstrap")
    return {
        "tmap": vars(mean_metric(after, boot)),
        "normalised": vars(ratio_metric(after, before, best, boot)),
        "change": vars(mean_metric(after - before, boot)),
        "l2": vars(mean_metric((images - clean).flatten(1).norm(dim=1).double().numpy(), boot)),
        "ssim": vars(mean_metric(structural_similarity(images, clean).double().numpy(), boot)),
        "tmap_clean": float(before.mean()),
        "tmap_ceiling": float(best.mean()),
        "seconds_fit": seconds,
        "pictures": settings["epochs"] * len(data.train),
    }


def table(rows: dict[str, Any]) -> str:
    """Markdown, a line for each measured row."""
    lines = [
        "| data, victim | seed | generator | weight | clean | t-MAP [95 %] | normalised | mean L2 "
        "| mean SSIM | pictures seen | CPU s of training |",
        "|" + "---|" * 11,
    ]
    for key, data, generator, weight, seed in cells(list(VICTIMS), [0, 1, 2]):
        row = rows.get(key)
        if row is None:
            continue
        tmap = row["tmap"]
        lines.append(
            f"| {data}, {VICTIMS[data]['name']} | {seed} | {generator} | {weight:g} "
            f"| {row['tmap_clean']:.3f} | {tmap['value']:.3f} [{tmap['low']:.3f}, {tmap['high']:.3f}] "  # noqa: E501
            f"| {row['normalised']['value']:.3f} | {row['l2']['value']:.2f} | {row['ssim']['value']:.3f} "  # noqa: E501
            f"| {row['pictures']:,} | {row['seconds_fit']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def draw(rows: dict[str, Any]) -> None:
    """t-MAP over mean L2 and over 1 − mean SSIM, a column a data set, seed 0."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "advhash"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(2, len(VICTIMS), figsize=(10, 6), sharey=True, squeeze=False)
    marks = {"shipped": "o-", "without SSIM": "s--", "plain": "v-.", "official, reduced": "^:"}
    marks |= {"official, width 64": "*", "official, published length": "P"}
    for column, data in enumerate(VICTIMS):
        for line, name in enumerate(("l2", "ssim")):
            axis = axes[line][column]
            for generator, mark in marks.items():
                points = [
                    (
                        row[name]["value"] if name == "l2" else 1 - row[name]["value"],
                        row["tmap"]["value"],
                    )
                    for key, where, which, _, seed in cells([data], [0])
                    if which == generator and (row := rows.get(key)) is not None
                ]
                if points:
                    axis.plot(*zip(*sorted(points), strict=True), mark, label=generator)
            axis.set_xlabel("mean L2" if name == "l2" else "1 − mean SSIM")
            axis.set_title(f"{data}, {VICTIMS[data]['name']}")
            axis.set_ylim(0, 1.02)
            if column == 0:
                axis.set_ylabel("t-MAP")
    axes[0][0].legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(FIGURE, metadata={"Date": None})


def write_page(rows: dict[str, Any]) -> None:
    PAGE.write_text(filled(PAGE.read_text("utf-8"), {"measured": table(rows)}), "utf-8")
    draw(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=list(VICTIMS), choices=list(VICTIMS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--page", action="store_true", help="write the parts of the page only")
    given = parser.parse_args()
    kept: dict[str, Any] = json.loads(OUT.read_text("utf-8")) if OUT.exists() else {"rows": {}}
    for key, *cell in [] if given.page else cells(given.data, given.seeds):
        if key in kept["rows"] or (cell[0] == "cifar10" and not os.environ.get("ADVHASH_DATA")):
            continue
        row = kept["rows"][key] = measure(*cell)  # type: ignore[arg-type]
        kept["environment"] = environment()
        OUT.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
        shown = ", ".join(f"{name} {row[name]['value']:.3f}" for name in ("tmap", "l2", "ssim"))
        print(f"{key}: {shown}, {row['seconds_fit']:.0f} s", flush=True)
    write_page(kept["rows"])


if __name__ == "__main__":
    main()
