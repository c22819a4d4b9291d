"""Gradient steps from ProS-GAN's picture beside as many steps from the query, under a hard budget.

`prosgan` with `bounded=true` and `refine` N takes N forward and backward passes of the victim from
its generator's picture. Beside it stand dhta, mainstay and sdha with as many passes, the step of
each chosen among five on validation rows; the best of the three there is the rival. Also: what the
generator's training costs, and after how many pictures it is paid back against the cheapest of
these gradient attacks that reaches as much (one training a data set, at 8/255 and with the first
seed). A second table says what one generator for all radii
from 2/255 to 16/255 (`radii`) reaches without passes. Writes `benchmarks/refine.json`, a row for
each victim, radius and number of passes, so that it can be stopped and started again, and the
tables in `docs/attacks/prosgan.md`. The seed determines victim, attack, queries and targets. About
an hour on one core for one seed; cifar10 needs ADVHASH_DATA:

    OMP_NUM_THREADS=1 python benchmarks/refine.py [--seeds 0] [--data digits openmoji cifar10]
    python benchmarks/refine.py --page    # only write the tables from the json
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pages import filled

from advhash.attacks.base import Attack, AttackData
from advhash.budget import Budget
from advhash.codes.metrics import Scoring
from advhash.data.dataset import Batch
from advhash.experiments.attack.columns import precisions
from advhash.experiments.attack.perturb import choose_queries
from advhash.experiments.config import AttackConfig
from advhash.experiments.prepare.ceiling import target_ceilings
from advhash.experiments.prepare.fit_attack import FittedAttack, fit_attack
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained, cache_identity
from advhash.experiments.prepare.victim import train
from advhash.measures.intervals import mean_metric, ratio_metric
from advhash.registry import ATTACKS
from advhash.storage.run_folder import environment
from advhash.targets import choose_targets

OUT = Path(__file__).with_suffix(".json")
PAGE = OUT.parents[1] / "docs/attacks/prosgan.md"
VICTIMS: dict[str, dict[str, Any]] = {
    "digits": {"victim": {"name": "dpsh"}},
    "openmoji": {"victim": {"name": "dlcmh"}},
    "cifar10": {
        "victim": {"name": "dpsh", "epochs": 30},
        "dataset": {"name": "cifar10"},
        "attack": {"epochs": 30},  # as many pictures as 120 epochs of digits
    },
}
RADII = (8, 16)
SERVED = (2, 4, 8, 16)  # by one generator
PASSES = (0, 1, 3, 10)
LONGER = (30, 100)  # passes of gradient attacks alone, for what training is paid back against
RIVALS = ("dhta", "mainstay", "sdha")
STEPS = (1.0, 0.5, 0.25, 0.1, 0.05)  # of the radius
QUERIES = 300


class Judge:
    """A victim, rows to attack with their targets, and what they reach."""

    def __init__(self, known: Trained, rows: Batch, seed: int) -> None:
        self.model, self.rows, self.seed = known.victim, rows, seed
        served = self.model.default_database
        self.codes = self.model.database_codes(known.data, served)
        self.seen = AttackData(known.data, self.codes, served, "image")
        self.labels = known.data.database.labels.numpy()
        drawn = derive_seed(seed, "targets")
        self.wanted = choose_targets("disjoint", rows.labels.numpy(), self.labels, drawn)
        self.clean = self._precision(self.model.encode(rows.inputs["image"], "image"))
        self.ceiling = target_ceilings(
            self.model, self.seen, self.wanted, scoring=Scoring(), identity=cache_identity(known)
        )

    def _precision(self, codes: Any) -> Any:
        return precisions(codes, self.codes, self.wanted, self.labels, Scoring())

    def reached(self, attack: Attack, budget: Budget) -> tuple[Any, float]:
        """(N,) t-AP of each query, and processor seconds per picture."""
        began = time.process_time()
        moved = attack.perturb(
            self.model, self.rows, torch.from_numpy(self.wanted), budget,
            seed=derive_seed(self.seed, "attack"),
        )  # fmt: skip
        return self._precision(moved.codes), (time.process_time() - began) / len(self.wanted)

    def normalised(self, reached: Any) -> dict[str, Any]:
        boot = derive_seed(self.seed, "bootstrap")
        return vars(ratio_metric(reached, self.clean, self.ceiling, boot))


def tuned(passes: int, tune: Judge, judge: Judge, budget: Budget) -> dict[str, Any]:
    """The gradient attack and step that reach most on the rows to tune on, judged on the others."""
    best: tuple[float, str, float] = (-1.0, "", 0.0)
    for name in RIVALS:
        for step in STEPS if passes <= max(PASSES) else STEPS[2:]:
            attack = ATTACKS.create(name, {"steps": passes, "step": step})
            attack.fit(tune.model, tune.seen, budget)
            best = max(best, (float(tune.reached(attack, budget)[0].mean()), name, step))
    attack = ATTACKS.create(best[1], {"steps": passes, "step": best[2]})
    reached, seconds = judge.reached(attack.fit(judge.model, judge.seen, budget), budget)
    return {"attack": best[1], "step": best[2], "reached": reached.tolist(), "seconds": seconds,
            "normalised": judge.normalised(reached)}  # fmt: skip


def prepared(data_name: str, seed: int, radius: int, **more: Any) -> tuple[Any, ...]:
    """Config, victim with its data, and the two judges: on queries and on rows to tune on."""
    given = VICTIMS[data_name]
    made = {"name": "prosgan", "bounded": True, **given.get("attack", {}), **more}
    budget = {"norm": "linf", "eps": f"{radius}/255"}
    config = AttackConfig.build({**given, "seed": seed, "attack": made, "budget": budget})
    known = train(config)
    data = known.data
    judge = Judge(known, data.query.rows(
        choose_queries(data.query, QUERIES, derive_seed(seed, "queries"))), seed)  # fmt: skip
    rows = torch.arange(min(QUERIES, len(data.validation)))
    tune = Judge(known, data.validation.rows(rows), seed)
    return config, known, judge, tune


def measure(data_name: str, seed: int, radius: int) -> dict[str, Any]:
    budget = Budget("linf", radius / 255)
    config, known, judge, tune = prepared(data_name, seed, radius)
    fitted: FittedAttack = fit_attack(config, known, judge.seen)
    row: dict[str, Any] = {"passes": {}}
    rivals = {passes: tuned(passes, tune, judge, budget) for passes in (*PASSES[1:], *LONGER)}
    boot = derive_seed(seed, "bootstrap")
    for passes in PASSES:
        attack = ATTACKS.create("prosgan", {"bounded": True, "refine": passes})
        attack.restore(known.victim, judge.seen, fitted.attack.state())
        reached, seconds = judge.reached(attack, budget)
        rival = rivals.get(passes)
        cheaper = [
            other["seconds"] - seconds
            for other in rivals.values()
            if np.mean(other["reached"]) >= reached.mean()
        ]
        saved = min(cheaper, default=None)
        row["passes"][str(passes)] = {
            "normalised": judge.normalised(reached),
            "seconds": seconds,
            "ahead": None if rival is None else vars(
                mean_metric(reached - np.array(rival["reached"]), boot)
            ),
            "saved": saved,  # processor seconds per picture
        }  # fmt: skip
    row["rivals"] = {
        str(passes): {key: value for key, value in rival.items() if key != "reached"}
        for passes, rival in rivals.items()
    }
    return row


def measure_training(data_name: str, seed: int) -> float:
    """Processor seconds of one fit, which the cache does not answer."""
    _, known, judge, _ = prepared(data_name, seed, RADII[0])
    made = {"bounded": True, **VICTIMS[data_name].get("attack", {})}
    began = time.process_time()
    ATTACKS.create("prosgan", made).fit(known.victim, judge.seen, Budget("linf", RADII[0] / 255))
    return time.process_time() - began


def measure_served(data_name: str, seed: int) -> dict[str, Any]:
    """What one generator reaches at each of SERVED, without passes."""
    ends = (f"{SERVED[0]}/255", f"{SERVED[-1]}/255")
    config, known, judge, _ = prepared(data_name, seed, SERVED[-1], radii=ends)
    fitted = fit_attack(config, known, judge.seen)
    reached = {
        str(radius): judge.normalised(judge.reached(fitted.attack, Budget("linf", radius / 255))[0])
        for radius in SERVED
    }
    return {"reached": reached}


def interval(metric: dict[str, Any]) -> str:
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def table(rows: dict[str, Any], training: dict[str, float]) -> str:
    lines = [
        "| data, seed, L∞ | passes | prosgan, refined | best gradient attack, step | reaches "
        "| t-MAP ahead [95 %] | training, CPU s | paid back after |",
        "|" + "---|" * 8,
    ]
    order = [f"{data}, {seed}, {r}/255" for data in VICTIMS for seed in range(3) for r in RADII]
    for key, row in sorted(rows.items(), key=lambda kept: order.index(kept[0])):
        spent = training[key.partition(",")[0]]
        for passes, part in row["passes"].items():
            rival = row["rivals"].get(passes)
            named = "–" if rival is None else f"{rival['attack']}, {rival['step']:g}"
            saved = part["saved"]
            paid = f"{spent / saved:,.0f}" if saved is not None and saved > 0 else "never"
            lines.append(
                f"| {key} | {passes} | {interval(part['normalised'])} | {named} "
                f"| {'–' if rival is None else interval(rival['normalised'])} "
                f"| {'–' if part['ahead'] is None else interval(part['ahead'])} "
                f"| {spent:.0f} | {paid} |"
            )
    return "\n".join(lines) + "\n"


def served_table(rows: dict[str, Any], alone: dict[str, Any]) -> str:
    lines = [
        "| data, seed | " + " | ".join(f"{r}/255" for r in SERVED)
        + " | a generator of its own at 8/255, 16/255 |",
        "|" + "---|" * (len(SERVED) + 2),
    ]  # fmt: skip
    for key, row in rows.items():
        own = [alone.get(f"{key}, {radius}/255") for radius in RADII]
        lines.append(
            f"| {key} | "
            + " | ".join(interval(row["reached"][str(radius)]) for radius in SERVED)
            + " | "
            + ", ".join(
                "–" if one is None else f"{one['passes']['0']['normalised']['value']:.3f}"
                for one in own
            )
            + " |"
        )
    return "\n".join(lines) + "\n"


def write_page(kept: dict[str, Any]) -> None:
    refined = table(kept["rows"], kept["training"])
    parts = {"refined": refined, "served": served_table(kept["served"], kept["rows"])}
    PAGE.write_text(filled(PAGE.read_text("utf-8"), parts), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--data", nargs="+", default=list(VICTIMS), choices=VICTIMS)
    parser.add_argument("--page", action="store_true", help="only write the tables")
    given = parser.parse_args()
    kept: dict[str, Any] = {"rows": {}, "served": {}, "training": {}}
    if OUT.exists():
        kept |= json.loads(OUT.read_text("utf-8"))

    def keep(group: str, key: str, measured: Callable[[], Any]) -> None:
        if given.page or key in kept[group]:
            return
        kept[group][key] = measured()
        kept["environment"] = environment()
        OUT.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
        print(group, key, json.dumps(kept[group][key])[:400], flush=True)

    for seed, data in itertools.product(given.seeds, given.data):
        if data == "cifar10" and not os.environ.get("ADVHASH_DATA"):
            continue
        keep("training", data, functools.partial(measure_training, data, seed))
        for radius in RADII:
            keep(
                "rows", f"{data}, {seed}, {radius}/255",
                functools.partial(measure, data, seed, radius),
            )  # fmt: skip
        keep("served", f"{data}, {seed}", functools.partial(measure_served, data, seed))
    write_page(kept)


if __name__ == "__main__":
    main()
