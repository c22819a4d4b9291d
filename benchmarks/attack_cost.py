"""Cost of ProS-GAN against DHTA: seconds per image, and when the generator's training is paid back.

Both run in this process, on the same victim, queries, targets and batch size, in turns; the median
of the repeats counts. Writes `benchmarks/attack_cost.json`.

    python benchmarks/attack_cost.py [--victim dlcmh] [--repeats 3] [--batch 100]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path

import torch

from advhash.attacks.base import AttackData
from advhash.cli.console import progress_display
from advhash.experiments.config import AttackConfig
from advhash.experiments.prepare.fit_attack import FittedAttack, fit_attack
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained
from advhash.experiments.prepare.victim import train
from advhash.storage.run_folder import environment
from advhash.targets import choose_targets

OUT = Path(__file__).with_suffix(".json")
METHODS = {"prosgan": {}, "dhta": {"norm": "linf", "eps": "8/255"}}


def config(victim: str, method: str) -> AttackConfig:
    return AttackConfig.build(
        {"victim": {"name": victim}, "attack": {"name": method}, "budget": METHODS[method]}
    )


def seconds(trained: Trained, fitted: FittedAttack, targets: torch.Tensor, batch: int) -> float:
    """Wall seconds per image over all queries."""
    split, victim = trained.data.query, trained.victim
    if victim.device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for first in range(0, len(split), batch):
        rows = torch.arange(first, min(first + batch, len(split)))
        fitted.attack.perturb(victim, split.rows(rows), targets[rows], fitted.budget, "image")
    if victim.device.type == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / len(split)


def measure(name: str, repeats: int, batch: int) -> dict[str, object]:
    with progress_display() as progress:
        trained = train(config(name, "dhta"), progress)
        data, database = trained.data, trained.victim.default_database
        seen = AttackData(data, trained.victim.database_codes(data, database), database, "image")
        fitted = {
            method: fit_attack(config(name, method), trained, seen, progress) for method in METHODS
        }
    targets = torch.from_numpy(
        choose_targets(
            "disjoint",
            data.query.labels.numpy(),
            data.database.labels.numpy(),
            derive_seed(0, "targets"),
        )
    )
    taken: dict[str, list[float]] = {method: [] for method in METHODS}
    for _ in range(repeats):
        for method in METHODS:
            taken[method].append(seconds(trained, fitted[method], targets, batch))
    per_image = {method: statistics.median(values) for method, values in taken.items()}
    saved = per_image["dhta"] - per_image["prosgan"]
    fit = fitted["prosgan"].seconds
    return {
        "victim": name,
        "dataset": data.name,
        "queries": len(data.query),
        "batch": batch,
        "repeats": repeats,
        "seconds_per_image": per_image,
        "seconds_per_image_all": taken,
        "ratio_dhta_over_prosgan": per_image["dhta"] / per_image["prosgan"],
        "seconds_fit_prosgan": fit,
        "break_even_images": math.ceil(fit / saved) if saved > 0 else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--victim", nargs="+", default=["dpsh", "dlcmh"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=100)
    given = parser.parse_args()
    results = [measure(name, given.repeats, given.batch) for name in given.victim]
    OUT.write_text(json.dumps({"environment": environment(), "results": results}, indent=1) + "\n")
    for result in results:
        per_image = result["seconds_per_image"]
        print(f"{result['victim']} on {result['dataset']}: {per_image} seconds per image,")
        print(f"  DHTA / ProS-GAN = {result['ratio_dhta_over_prosgan']:.1f},")
        print(f"  ProS-GAN's {result['seconds_fit_prosgan']:.0f} s of training are paid back after")
        print(f"  {result['break_even_images']} images")


if __name__ == "__main__":
    main()
