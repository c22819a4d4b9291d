"""Gradient steps from ProS-GAN's picture beside as many steps from the query, under a hard budget.

`prosgan` with `bounded=true` and `refine` N takes N forward and backward passes of the victim from
its generator's picture. Beside it stand dhta, mainstay and sdha with as many passes, the step of
each chosen among five on validation rows; the best of the three there is the rival. Also: what the
generator's training costs, and after how many pictures it is paid back against the cheapest of
these gradient attacks that reaches as much. Writes `benchmarks/refine.json`, a row for each victim,
radius and number of passes, so that it can be stopped and started again, and the table in
`docs/attacks/prosgan.md`. The seed determines victim, attack, queries and targets. About 40 minutes
on one core for one seed:

    OMP_NUM_THREADS=1 python benchmarks/refine.py [--seeds 0] [--victims dpsh dlcmh]
    python benchmarks/refine.py --page    # only write the table from the json
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from advhash.attacks.base import Attack, AttackData
from advhash.budget import Budget
from advhash.codes.metrics import Scoring
from advhash.data.dataset import Batch
from advhash.experiments.attack.columns import precisions
from advhash.experiments.attack.perturb import choose_queries
from advhash.experiments.config import AttackConfig
from advhash.experiments.prepare.ceiling import target_ceilings
from advhash.experiments.prepare.fit_attack import FittedAttack, fit_attack
from advhash.experiments.prepare.planned import PlannedVictim
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained
from advhash.experiments.prepare.victim import train
from advhash.measures.intervals import mean_metric, ratio_metric
from advhash.registry import ATTACKS
from advhash.storage.run_folder import environment
from advhash.targets import choose_targets

OUT = Path(__file__).with_suffix(".json")
PAGE = OUT.parents[1] / "docs/attacks/prosgan.md"
RADII = (8, 16)
PASSES = (0, 1, 3, 10)
LONGER = (30, 100)  # passes of gradient attacks alone, for what training is paid back against
RIVALS = ("dhta", "mainstay", "sdha")
STEPS = (1.0, 0.5, 0.25, 0.1, 0.05)  # of the radius
QUERIES = 300


class Judge:
    """A victim, rows to attack with their targets, and what they reach."""

    def __init__(self, known: Trained, identity: dict[str, object], rows: Batch, seed: int) -> None:
        self.model, self.rows, self.seed = known.victim, rows, seed
        served = self.model.default_database
        self.codes = self.model.database_codes(known.data, served)
        self.seen = AttackData(known.data, self.codes, served, "image")
        self.labels = known.data.database.labels.numpy()
        drawn = derive_seed(seed, "targets")
        self.wanted = choose_targets("disjoint", rows.labels.numpy(), self.labels, drawn)
        self.clean = self._precision(self.model.encode(rows.inputs["image"], "image"))
        self.ceiling = target_ceilings(
            self.model, self.seen, self.wanted, scoring=Scoring(), identity=identity
        )

    def _precision(self, codes: Any) -> Any:
        return precisions(codes, self.codes, self.wanted, self.labels, Scoring())

    def reached(self, attack: Attack, budget: Budget) -> tuple[Any, float]:
        """(N,) t-AP of each query, and processor seconds a picture."""
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


def measure(victim: str, seed: int, radius: int) -> dict[str, Any]:
    budget = Budget("linf", radius / 255)
    made = {"name": "prosgan", "bounded": True}
    config = AttackConfig.build(
        {
            "seed": seed, "victim": {"name": victim}, "attack": made,
            "budget": {"norm": "linf", "eps": f"{radius}/255"},
        }
    )  # fmt: skip
    known, identity = train(config), PlannedVictim.of(config).identity
    data = known.data
    judge = Judge(known, identity, data.query.rows(
        choose_queries(data.query, QUERIES, derive_seed(seed, "queries"))), seed)  # fmt: skip
    rows = torch.arange(min(QUERIES, len(data.validation)))
    tune = Judge(known, identity, data.validation.rows(rows), seed)
    fitted: FittedAttack = fit_attack(config, known, judge.seen)
    row: dict[str, Any] = {"seconds_fit": fitted.seconds, "passes": {}}
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
        saved = min(cheaper, default=float("nan"))
        row["passes"][str(passes)] = {
            "normalised": judge.normalised(reached),
            "seconds": seconds,
            "ahead": None if rival is None else vars(
                mean_metric(reached - np.array(rival["reached"]), boot)
            ),
            "paid_back_after": fitted.seconds / saved if saved > 0 else None,
        }  # fmt: skip
    row["rivals"] = {
        str(passes): {key: value for key, value in rival.items() if key != "reached"}
        for passes, rival in rivals.items()
    }
    return row


def interval(metric: dict[str, Any]) -> str:
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def table(rows: dict[str, Any]) -> str:
    lines = [
        "| victim, seed, L∞ | passes | prosgan, refined | best gradient attack, step | reaches "
        "| t-MAP ahead [95 %] | training, CPU s | paid back after |",
        "|" + "---|" * 8,
    ]
    for key, row in rows.items():
        for passes, part in row["passes"].items():
            rival = row["rivals"].get(passes)
            named = "–" if rival is None else f"{rival['attack']}, {rival['step']:g}"
            paid = part["paid_back_after"]
            lines.append(
                f"| {key} | {passes} | {interval(part['normalised'])} | {named} "
                f"| {'–' if rival is None else interval(rival['normalised'])} "
                f"| {'–' if part['ahead'] is None else interval(part['ahead'])} "
                f"| {row['seconds_fit']:.0f} | {'never' if paid is None else f'{paid:,.0f}'} |"
            )
    return "\n".join(lines) + "\n"


def write_page(rows: dict[str, Any]) -> None:
    before, begun, rest = PAGE.read_text("utf-8").partition("<!-- refined -->\n")
    _, ended, after = rest.partition("<!-- end -->")
    PAGE.write_text(before + begun + table(rows) + ended + after, "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--victims", nargs="+", default=["dpsh", "dlcmh"])
    parser.add_argument("--page", action="store_true", help="only write the table")
    given = parser.parse_args()
    kept: dict[str, Any] = json.loads(OUT.read_text("utf-8")) if OUT.exists() else {"rows": {}}
    for seed in [] if given.page else given.seeds:
        for victim in given.victims:
            for radius in RADII:
                key = f"{victim}, {seed}, {radius}/255"
                if key in kept["rows"]:
                    continue
                kept["rows"][key] = measure(victim, seed, radius)
                kept["environment"] = environment()
                OUT.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
                print(table({key: kept["rows"][key]}), flush=True)
    write_page(kept["rows"])


if __name__ == "__main__":
    main()
