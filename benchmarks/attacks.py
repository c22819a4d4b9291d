"""Every bounded attack against noise and against nothing: `benchmarks/attacks.json`, a page of docs.

One victim a data set, seed 0, 100 queries, L∞ 8/255, all attacks on the same queries and targets.
Cell by cell, so that it can be stopped and started again: finished cells are kept unless `--again`.
About 15 minutes of one core, and as long again for `--groups adaptive`:

    OMP_NUM_THREADS=1 ADVHASH_DATA=FOLDER python benchmarks/attacks.py
        [--groups attacks adaptive] [--victims dpsh dlcmh cifar10] [--again] [--checkpoints FOLDER]
    python benchmarks/attacks.py --page    # only write the page from the json
"""

# ruff: noqa: E501
from __future__ import annotations

import argparse
import functools
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages import table

from advhash.attacks.base import Attack, AttackData
from advhash.attacks.ensemble import (
    STEPS,
    AutoHash,
    AutoHashUntargeted,
    Ranking,
    RankingUntargeted,
)
from advhash.attacks.gradient.hiding import Mainstay
from advhash.budget import Budget
from advhash.codes import HashCodes
from advhash.codes.metrics import Scoring, chance_average_precision, retrieval_average_precision
from advhash.data import Batch
from advhash.experiments.attack.perturb import choose_queries
from advhash.experiments.config import AttackConfig
from advhash.experiments.prepare.ceiling import target_ceilings
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import cache_identity
from advhash.experiments.prepare.victim import train
from advhash.measures.intervals import mean_metric, paired_difference, ratio_metric
from advhash.registry import ATTACKS
from advhash.storage.run_folder import environment
from advhash.targets import choose_targets
from advhash.victims.base import HashVictim

OUT = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parent.parent / "docs/attacks/measured.md"
GROUPS = ("attacks", "adaptive")
DATA = {"dpsh": "digits", "dlcmh": "openmoji", "cifar10": "cifar10"}
VICTIMS: dict[str, dict[str, Any]] = {
    "dpsh": {"name": "dpsh"},
    "dlcmh": {"name": "dlcmh"},
    "cifar10": {"name": "dpsh", "epochs": 30},  # photographs: needs ADVHASH_DATA
}
BUDGET = Budget("linf", 8 / 255)
QUERIES, FEWER = 100, 30  # FEWER: of the adaptive attack, at ten times the cost of autohash
TARGETED = ("blend", "p2p", "dhta", "tha", "mainstay", "sdha", "autohash")
UNTARGETED = ("hag", "cgat", "mainstay-untargeted", "sdha-untargeted", "autohash-untargeted")
Cell = dict[str, Any]


LONG: dict[str, Any] = {"steps": 4 * STEPS, "restarts": 10, "random_start": True}


class Adaptive(AutoHash):
    """Ten times autohash's steps in ten restarts, all on the relaxed average precision."""

    def members(self) -> Mapping[str, Attack]:
        return {"ranking": Ranking(**LONG)}


class AdaptiveMainstay(AutoHash):
    """The same on the objective of mainstay."""

    def members(self) -> Mapping[str, Attack]:
        return {"mainstay": Mainstay(**LONG)}


class AdaptiveUntargeted(AutoHashUntargeted):
    """The relaxed average precision of the query's own labels, down."""

    def members(self) -> Mapping[str, Attack]:
        return {"ranking": RankingUntargeted(levels=8, **LONG)}


RIVALS: dict[str, dict[str, type[AutoHash]]] = {
    "targeted": {
        "autohash": AutoHash,
        "adaptive": Adaptive,
        "adaptive mainstay": AdaptiveMainstay,
    },
    "untargeted": {"autohash": AutoHashUntargeted, "adaptive": AdaptiveUntargeted},
}


class Scene:
    """A trained victim with its database, 100 queries and their targets."""

    def __init__(self, name: str, checkpoints: Path | None) -> None:
        tables: dict[str, Any] = {"victim": VICTIMS[name], "dataset": {"name": DATA[name]}}
        if checkpoints:
            tables = {"victim": {"name": str(checkpoints / name)}}
        config = AttackConfig.build({**tables, "attack": {"name": "noise"}})
        trained = train(config)
        self.victim: HashVictim = trained.victim
        database = self.victim.default_database
        codes = self.victim.database_codes(trained.data, database)
        self.data = AttackData(trained.data, codes, database, "image")
        rows = choose_queries(trained.data.query, QUERIES, derive_seed(0, "queries"))
        self.queries = trained.data.query.rows(rows)
        drawn = choose_targets(
            "disjoint",
            self.queries.labels.numpy(),
            self.data.labels.numpy(),
            derive_seed(0, "targets"),
        )
        self.targets = torch.from_numpy(drawn)
        self.identity = cache_identity(trained)

    def score(self, codes: HashCodes, labels: torch.Tensor) -> list[float]:
        found = retrieval_average_precision(
            codes, self.data.codes, labels.numpy(), self.data.labels.numpy()
        )
        return [round(float(value), 6) for value in found]

    def references(self) -> Cell:
        """Unattacked queries, chance and ceiling, of each query."""
        labels, targets = self.queries.labels, self.targets
        clean = self.victim.encode(self.queries.inputs["image"], "image")
        relevant = (labels.int() @ self.data.labels.int().T > 0).sum(dim=1).numpy()
        chance = chance_average_precision(relevant, len(self.data.labels))
        ceiling = target_ceilings(
            self.victim, self.data, targets.numpy(), scoring=Scoring(), identity=self.identity
        )  # fmt: skip
        noise = ATTACKS.create("noise").perturb(
            self.victim, self.queries, None, BUDGET, seed=derive_seed(0, "noise")
        )
        return {
            "map": self.score(clean, labels),
            "map_chance": chance.round(6).tolist(),
            "map_noise": self.score(noise.codes, labels),
            "tmap_clean": self.score(clean, targets),
            "tmap_ceiling": ceiling.round(6).tolist(),
            "tmap_noise": self.score(noise.codes, targets),
        }

    def attacked(self, attack: Attack, count: int = QUERIES) -> Cell:
        attack.fit(self.victim, self.data, BUDGET, seed=derive_seed(0, "attack"))
        some = torch.arange(count)
        queries = Batch(
            {"image": self.queries.inputs["image"][some]},
            self.queries.labels[some],
            self.queries.index[some],
        )
        targeted = attack.goal == "targeted"
        start = time.process_time()
        result = attack.perturb(
            self.victim,
            queries,
            self.targets[some] if targeted else None,
            BUDGET,
            seed=derive_seed(0, "batch 0"),
        )
        seconds = (time.process_time() - start) / count
        labels = self.targets[some] if targeted else queries.labels
        return {
            "goal": attack.goal,
            "scores": self.score(result.codes, labels),
            "seconds": round(seconds, 4),
            "indicators": {name: round(value, 4) for name, value in attack.indicators().items()},
        }


def works(groups: list[str], victims: list[str], checkpoints: Path | None) -> Iterator[Any]:
    """(group, victim, name, work) of every cell."""
    scene = functools.cache(lambda name: Scene(name, checkpoints))
    if "attacks" in groups:
        for victim in victims:
            yield "attacks", victim, "references", lambda v=victim: scene(v).references()
            for name in (*TARGETED, *UNTARGETED):
                yield "attacks", victim, name, lambda v=victim, n=name: scene(v).attacked(ATTACKS.create(n))  # fmt: skip
    if "adaptive" in groups:
        for victim in reversed(victims):
            for goal, attacks in RIVALS.items():
                for label, build in attacks.items():
                    yield "adaptive", victim, f"{goal} {label}", lambda v=victim, b=build: scene(v).attacked(b(), FEWER)  # fmt: skip


def figure(metric: Any, digits: int = 3) -> str:
    if metric.value is None:
        return "–"
    text = f"{metric.value:z.{digits}f}"
    return text if metric.low is None else f"{text} [{metric.low:z.{digits}f}, {metric.high:z.{digits}f}]"  # fmt: skip


def victim_part(victim: str, cells: dict[str, Cell]) -> list[str]:
    """The two tables of a victim."""
    facts = {name: np.array(values) for name, values in cells["references"].items()}
    title = f"{DATA[victim]}, {VICTIMS[victim]['name']}"
    parts = []
    targeted, untargeted = [], []
    for name in (*TARGETED, *UNTARGETED):
        if name not in cells:
            continue
        cell = cells[name]
        score = np.array(cell["scores"])
        aimed = cell["goal"] == "targeted"
        noise, clean = (facts["tmap_noise"], facts["tmap_clean"]) if aimed else (facts["map_noise"], facts["map"])  # fmt: skip
        row = [name, figure(mean_metric(score, 0))]
        if aimed:
            row.append(figure(ratio_metric(score, clean, facts["tmap_ceiling"], 0)))
        row += [figure(paired_difference(score, noise, 0)), figure(paired_difference(score, clean, 0))]  # fmt: skip
        rival = "mainstay" if aimed else "mainstay-untargeted"
        row.append("" if name == rival or rival not in cells else figure(paired_difference(score, np.array(cells[rival]["scores"]), 0)))  # fmt: skip
        row.append(f"{cell['seconds']:.3f}")
        (targeted if aimed else untargeted).append(row)
    means = {name: f"{values.mean():.3f}" for name, values in facts.items()}
    parts += [
        f"## Targeted: {title}\n",
        f"t-MAP of the unattacked queries {means['tmap_clean']}, of noise {means['tmap_noise']}, ceiling {means['tmap_ceiling']}.\n",
        table(["", "t-MAP", "normalised", "less noise", "less unattacked", "less mainstay", "CPU s per query"], targeted),
        f"## Untargeted: {title}\n",
        f"MAP of the unattacked queries {means['map']}, of noise {means['map_noise']}, by chance {means['map_chance']}. Lower is stronger.\n",
        table(["", "MAP", "less noise", "less unattacked", "less mainstay-untargeted", "CPU s per query"], untargeted),
    ]  # fmt: skip
    signs = [
        [name, *(f"{cells[name]['indicators'].get(key, 0):.2f}" for key in ("zero_gradient", "saturated", "stalled"))]
        for name in (*TARGETED, *UNTARGETED)
        if name in cells and any(cells[name]["indicators"].get(key, 0) > 0 for key in ("zero_gradient", "saturated", "stalled"))
    ]  # fmt: skip
    if signs:
        parts += ["Failure indicators above 0 (shares of queries, of bits for `saturated`):\n", table(["", "zero gradient", "saturated", "stalled"], signs)]  # fmt: skip
    for name in ("autohash", "autohash-untargeted"):
        if name in cells:
            kept = {key.removeprefix("kept_"): value for key, value in cells[name]["indicators"].items() if key.startswith("kept_")}  # fmt: skip
            parts.append(f"{name} kept the result of " + ", ".join(f"{member} on {share:.0%}" for member, share in kept.items()) + " of the queries.\n")  # fmt: skip
    return parts


def page(cells: dict[str, Any]) -> str:
    parts = [HEAD]
    for victim, found in cells.get("attacks", {}).items():
        if "references" in found:
            parts += victim_part(victim, found)
    rows = []
    for victim, found in cells.get("adaptive", {}).items():
        for goal, attacks in RIVALS.items():
            for label in attacks:
                pair = [found.get(f"{goal} {name}") for name in ("autohash", label)]
                if label != "autohash" and None not in pair:
                    scores = [np.array(cell["scores"]) for cell in pair]
                    rows.append([f"{DATA[victim]}, {VICTIMS[victim]['name']}, {goal}", "mainstay" if label.endswith("mainstay") else "ranking", *(figure(mean_metric(s, 0)) for s in scores), figure(paired_difference(*scores, 0), 4)])  # fmt: skip
    if rows:
        parts += [
            "## autohash against ten times its compute\n",
            f"The first {FEWER} of the queries. Adaptive: {4 * STEPS} steps of one objective in each of 10 restarts from random starts, every iterate judged by average precision: 4,000 passes per query for autohash's 400.\n",
            table(["", "objective", "autohash", "adaptive", "autohash less adaptive"], rows),
        ]  # fmt: skip
    return "\n".join(parts)


HEAD = """# Measured: bounded attacks

Written by `benchmarks/attacks.py` from `benchmarks/attacks.json`. L∞ 8/255, default settings, seed 0 of
victim, attack and targets, 100 queries, the same for all; targets disjoint from the query's labels.
Intervals are 95 % over queries (BCa); differences are paired. The seconds are of one busy core.
Again: `OMP_NUM_THREADS=1 python benchmarks/attacks.py`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=GROUPS)
    present = [name for name in DATA if name != "cifar10" or os.environ.get("ADVHASH_DATA")]
    parser.add_argument("--victims", nargs="+", default=present, choices=DATA)
    parser.add_argument("--checkpoints", type=Path, help="folder of trained victims, by name")
    parser.add_argument("--again", action="store_true", help="measure finished cells again")
    parser.add_argument("--page", action="store_true", help="write the page only")
    given = parser.parse_args()
    torch.set_num_threads(1)
    cells: dict[str, Any] = json.loads(OUT.read_text()) if OUT.is_file() else {}
    for group, victim, name, work in [] if given.page else works(given.groups, given.victims, given.checkpoints):  # fmt: skip
        if name in cells.get(group, {}).get(victim, {}) and not given.again:
            continue
        cells.setdefault(group, {}).setdefault(victim, {})[name] = work()
        cells["environment"] = environment()
        partial = OUT.with_suffix(".partial")
        partial.write_text(json.dumps(cells, indent=1) + "\n")
        partial.replace(OUT)
        print(group, victim, name, flush=True)
    PAGE.write_text(page(cells))


if __name__ == "__main__":
    main()
