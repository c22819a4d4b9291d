"""Transfer from ensembles: against the best single source, at equal passes through victims.

Four victims that differ in loss, backbone and bits. Each in turn is the target, and the other three
the sources: one by one, and as an ensemble. So neither the target's loss nor its backbone nor its
bits are among the sources. A single source has three times the steps of the ensemble, whose every
gradient is one of three victims. The best single source is chosen, for each half of the queries, on
the other half. Pictures are moved by `dhta` with the settings of METHODS, or made by ProS-GAN. The
seed determines victims, queries and targets.
Writes `benchmarks/ensembles.json`, cell by cell, so that it can be stopped and started again, and
the tables between its marks in `docs/attacks/transfer.md`. About 15 minutes of one core, without
ProS-GAN, which is measured only where it is named:

    OMP_NUM_THREADS=1 python benchmarks/ensembles.py [--queries 100] [--seeds 0]
        [--data cifar10 digits] [--radii 16 8] [--methods "MI, DI" prosgan]
    python benchmarks/ensembles.py --page    # only write the tables from the json
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages import filled

from advhash.budget import Budget
from advhash.codes.metrics import Scoring
from advhash.codes.packed import HashCodes
from advhash.compute.progress import silent
from advhash.data.dataset import Batch
from advhash.experiments.attack.columns import precisions
from advhash.experiments.attack.perturb import choose_queries
from advhash.experiments.config import TrainConfig
from advhash.experiments.prepare.ceiling import target_ceilings
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import cache_identity
from advhash.experiments.prepare.victim import train
from advhash.experiments.transfer.members import Member, joined
from advhash.measures.intervals import (
    Floats,
    mean_metric,
    paired_difference,
    ratio_metric,
    ratio_of_means,
)
from advhash.measures.paired_runs import best_elsewhere
from advhash.registry import ATTACKS
from advhash.storage.run_folder import environment
from advhash.targets import choose_targets

OUT = Path(__file__).with_suffix(".json")
PAGE = OUT.parents[1] / "docs/attacks/transfer.md"
VICTIMS: dict[str, dict[str, Any]] = {
    "dpsh": {"backbone": "test_resnet", "bits": 32},
    "dph": {"backbone": "test_convnext", "bits": 24},
    "hashnet": {"backbone": "test_byobnet", "bits": 48},
    "csq": {"backbone": "test_vit", "bits": 64},
}
DATA: dict[str, dict[str, Any]] = {"cifar10": {"epochs": 8}, "digits": {}}  # settings of victims
RADII = (16, 8)
PASSES = 120  # forward and backward, through one victim, for each query
MOMENTUM = {"rest": False, "momentum": 1.0}
METHODS: dict[str, tuple[int, dict[str, Any]]] = {  # passes per step, settings of dhta
    "as it is": (1, {}),
    "no rest": (1, {"rest": False}),
    "MI": (1, MOMENTUM),
    "MI, DI": (1, {**MOMENTUM, "diversity": 0.7}),
    "NI, SI": (4, {**MOMENTUM, "nesterov": True, "scales": 4}),
    "VMI": (4, {**MOMENTUM, "neighbours": 3}),
}
GAN = "prosgan"
EPOCHS = 10  # of ProS-GAN through an ensemble of three; through a single source three times as many


@functools.cache
def members(data: str, seed: int) -> dict[str, Member]:
    """The victims with their database codes."""
    found = {}
    for name, settings in VICTIMS.items():
        config = TrainConfig.build(
            {
                "seed": seed,
                "victim": {"name": name, **settings, **DATA[data]},
                "dataset": {"name": data},
            }
        )
        trained = train(config)
        codes = trained.victim.database_codes(trained.data, "image")
        found[name] = Member(name, trained, codes, "image")
    return found


def made_for(source: Member, method: str, several: int, budget: Budget, seed: int) -> Any:
    """The attack, fitted. several: 3 for a single source, which has three times the passes."""
    if method == GAN:
        settings: dict[str, Any] = {"bounded": True, "epochs": EPOCHS * several}
        attack = ATTACKS.create(GAN, settings)
    else:
        cost, settings = METHODS[method]
        attack = ATTACKS.create("dhta", {**settings, "steps": PASSES * several // 3 // cost})
    data = source.seen("image")
    return attack.fit(source.trained.victim, data, budget, seed=derive_seed(seed, "attack"))


def measure(data: str, seed: int, radius: int, method: str, queries: int) -> dict[str, Any]:
    """For each target, and over all: every source's normalised t-MAP, and the difference."""
    known, budget = members(data, seed), Budget("linf", radius / 255)
    dataset = next(iter(known.values())).trained.data
    rows = choose_queries(dataset.query, queries, derive_seed(seed, "queries"))
    batch, labels = dataset.query.rows(rows), dataset.database.labels.numpy()
    drawn = derive_seed(seed, "targets")
    wanted = choose_targets("disjoint", batch.labels.numpy(), labels, drawn, rows=rows.numpy())
    targets, boot = torch.from_numpy(wanted), derive_seed(seed, "bootstrap")
    seconds = {"single": 0.0, "ensemble": 0.0}

    def moved(source: Member, several: int) -> torch.Tensor:
        """(N,3,H,W) the queries, made for a source."""
        began = time.process_time()
        attack, parts = made_for(source, method, several, budget, seed), []
        for place in torch.arange(len(rows)).split(100):
            inputs = {"image": batch.inputs["image"][place]}
            part = Batch(inputs, batch.labels[place], batch.index[place])
            chosen = derive_seed(seed, "attack queries")
            made = attack.perturb(source.trained.victim, part, targets[place], budget, seed=chosen)
            parts.append(made.batch.inputs["image"])
        kind = "single" if several > 1 else "ensemble"
        seconds[kind] += (time.process_time() - began) / len(rows)
        return torch.cat(parts)

    def scores(target: Member, images: torch.Tensor) -> Floats:
        victim = target.trained.victim
        codes = HashCodes.concatenate([victim.encode(p, "image") for p in images.split(256)])
        return precisions(codes, target.codes, wanted, labels, Scoring())

    singles = {name: moved(member, 3) for name, member in known.items()}
    cells: dict[str, Any] = {}
    columns: dict[str, list[Floats]] = {}
    for name, target in known.items():
        others = [member for member in known.values() if member is not target]
        ensemble = scores(target, moved(joined(name, others, "image"), 1))
        alone = {other.label: scores(target, singles[other.label]) for other in others}
        floor = scores(target, batch.inputs["image"])
        ceiling = target_ceilings(
            target.trained.victim,
            target.seen("image"),
            wanted,
            scoring=Scoring(),
            identity=cache_identity(target.trained),
            progress=silent,
        )
        best = best_elsewhere(list(alone.values()))
        own = ratio_metric(scores(target, singles[name]), floor, ceiling, boot)
        cells[name] = {
            **judged(ensemble, best, floor, ceiling, boot),
            "own": vars(own),
            "singles": {
                label: vars(ratio_metric(column, floor, ceiling, boot))
                for label, column in alone.items()
            },
        }
        for key, column in (("ensemble", ensemble), ("best", best), ("floor", floor),
                            ("ceiling", ceiling)):  # fmt: skip
            columns.setdefault(key, []).append(column)
    means = {key: np.mean(found, axis=0) for key, found in columns.items()}
    cells["all"] = judged(means["ensemble"], means["best"], means["floor"], means["ceiling"], boot)
    return {
        "targets": cells,
        "queries": len(rows),
        "seconds_per_image": {kind: spent / len(known) for kind, spent in seconds.items()},
    }


def judged(
    ensemble: Floats, best: Floats, floor: Floats, ceiling: Floats, seed: int
) -> dict[str, Any]:
    """Normalised t-MAP of both, and their difference: of t-MAP, and as a share of its range."""
    return {
        "floor": vars(mean_metric(floor, seed)),
        "ceiling": vars(mean_metric(ceiling, seed)),
        "ensemble": vars(ratio_metric(ensemble, floor, ceiling, seed)),
        "best_single": vars(ratio_metric(best, floor, ceiling, seed)),
        "difference": vars(paired_difference(ensemble, best, seed)),
        "difference_normalised": vars(ratio_of_means(ensemble - best, ceiling - floor, seed)),
    }


def cells(
    seeds: Iterable[int], sets: Iterable[str], radii: Iterable[int], methods: Iterable[str]
) -> Iterator[tuple[str, tuple[str, int, int, str]]]:
    for seed, data, radius, method in itertools.product(seeds, sets, radii, methods):
        key = data, seed, radius, method
        yield ", ".join(str(part) for part in key), key


def shown(metric: Mapping[str, Any]) -> str:
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def tables(found: dict[str, Any]) -> str:
    """Markdown: over all targets, a row a method; then every target of two of the methods."""
    titles = ("data", "seed", "L∞", "made by", "ensemble of three", "best single of three",
              "difference", "CPU s per image: ensemble, single")  # fmt: skip
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    every = list(cells([0, 1, 2], DATA, RADII, [*METHODS, GAN]))
    for name, (data, seed, radius, method) in every:
        cell = found["cells"].get(name)
        if cell is None:
            continue
        over, spent = cell["targets"]["all"], cell["seconds_per_image"]
        made = GAN if method == GAN else f"dhta, {method}"
        lines.append(
            f"| {data} | {seed} | {radius}/255 | {made} | {over['ensemble']['value']:.3f} | "
            f"{over['best_single']['value']:.3f} | {shown(over['difference_normalised'])} | "
            f"{spent['ensemble']:.2f}, {spent['single']:.2f} |"
        )
    titles = ("data", "seed", "L∞", "made by", "judged on", "floor → ceiling", "itself",
              "each other one alone", "ensemble of these", "difference")  # fmt: skip
    lines += ["", "| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for name, (data, seed, radius, method) in every:
        cell = found["cells"].get(name)
        if cell is None or method not in ("MI, DI", GAN):
            continue
        for target, one in cell["targets"].items():
            if target == "all":
                continue
            alone = ", ".join(f"{key} {m['value']:.3f}" for key, m in one["singles"].items())
            made = GAN if method == GAN else f"dhta, {method}"
            lines.append(
                f"| {data} | {seed} | {radius}/255 | {made} | {target} | "
                f"{one['floor']['value']:.3f} → {one['ceiling']['value']:.3f} | "
                f"{one['own']['value']:.3f} | {alone} | {one['ensemble']['value']:.3f} | "
                f"{shown(one['difference_normalised'])} |"
            )
    return "\n".join(lines) + "\n"


def write_page(found: dict[str, Any]) -> None:
    PAGE.write_text(filled(PAGE.read_text("utf-8"), {"ensembles": tables(found)}), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    present = [name for name in DATA if name != "cifar10" or os.environ.get("ADVHASH_DATA")]
    parser.add_argument("--data", nargs="+", choices=DATA, default=present)
    parser.add_argument("--radii", type=int, nargs="+", choices=RADII, default=RADII)
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, GAN], default=list(METHODS))
    parser.add_argument("--again", action="store_true", help="measure finished cells again")
    parser.add_argument("--page", action="store_true", help="write the tables only")
    given = parser.parse_args()
    kept = OUT.exists() and (given.page or not given.again)
    found: dict[str, Any] = json.loads(OUT.read_text("utf-8")) if kept else {"cells": {}}
    wanted = cells(given.seeds, given.data, given.radii, given.methods)
    for name, key in [] if given.page else wanted:
        if name not in found["cells"]:
            found["cells"][name] = measure(*key, given.queries)
            found["environment"] = environment()
            OUT.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
            over = found["cells"][name]["targets"]["all"]
            print(name, f"ensemble {over['ensemble']['value']:.3f}",
                  f"best single {over['best_single']['value']:.3f}",
                  f"difference {shown(over['difference_normalised'])}", sep=" | ",
                  flush=True)  # fmt: skip
    write_page(found)


if __name__ == "__main__":
    main()
