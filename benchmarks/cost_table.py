"""What each attack costs: passes, queries, seconds per picture, and when training is paid back.

`dpsh` on digits, seed 0, L∞ 16/255, in this process, all pictures in one batch, the median of the
repeats. Passes are counted at the victim: a forward or backward pass of one picture is 1. Writes
`benchmarks/cost_table.json` and docs/attacks/cost.md; about 7 minutes of one core, and 9 more to
train ProS-GAN once:

    OMP_NUM_THREADS=1 python benchmarks/cost_table.py [--queries 100] [--repeats 3]
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from advhash.attacks.base import Attack, AttackData, frozen
from advhash.cli.console import progress_display
from advhash.codes.metrics import Scoring
from advhash.data import Batch, Dataset, Modality, Progress, silent
from advhash.experiments.attack.columns import precisions
from advhash.experiments.attack.perturb import choose_queries
from advhash.experiments.config import AttackConfig
from advhash.experiments.prepare.fit_attack import FittedAttack, fit_attack
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained
from advhash.experiments.prepare.victim import train
from advhash.storage.run_folder import environment
from advhash.targets import choose_targets
from advhash.victims.base import HashVictim

OUT = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parent.parent / "docs/attacks/cost.md"
EPS = "16/255"
METHODS: list[dict[str, Any]] = [
    {"name": "prosgan", "bounded": True},
    {"name": "universal"},
    {"name": "blend"},
    *({"name": "dhta", "steps": steps} for steps in (5, 10, 20, 50, 100)),
    {"name": "mainstay"},
    {"name": "sdha"},
    {"name": "tha"},
    {"name": "autohash"},
    {"name": "nes", "queries": 500},
    {"name": "square", "queries": 500},
]
HEAD = """# What attacks cost

Written by `OMP_NUM_THREADS=1 python benchmarks/cost_table.py` (`make bench`). `dpsh` on digits, 32
bits, seed 0, L∞ 16/255, {queries} queries in one batch, one thread; median of {repeats} runs.
Passes of one picture through the victim; images that rest early are not passed again. *Breaks
even*: pictures after which training and running cost less than `dhta` with the fewest steps that
reach its t-MAP, to the digits shown.

"""


class Counting(HashVictim):
    """A victim that counts the pictures which pass forward and backward."""

    def __init__(self, victim: HashVictim) -> None:
        super().__init__()
        self.victim = victim
        self.bits, self.bounds, self.history = victim.bits, victim.bounds, []
        self.differentiable = victim.differentiable
        self.forward_passes = self.backward_passes = 0

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        codes = self.victim.relax(inputs, modality)
        self.forward_passes += len(inputs)
        if codes.requires_grad:

            def count(gradient: Tensor) -> None:
                self.backward_passes += len(gradient)

            codes.register_hook(count)
        return codes

    def fit(self, data: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        return self


def config(method: dict[str, Any]) -> AttackConfig:
    return AttackConfig.build(
        {
            "victim": {"name": "dpsh"},
            "attack": method,
            "budget": {"norm": "linf", "eps": EPS},
        }
    )


class Sizes(Counting):
    """A victim that notes of how many pictures each pass with a gradient was."""

    def __init__(self, victim: HashVictim) -> None:
        super().__init__(victim)
        self.sizes: list[int] = []

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        if inputs.requires_grad:
            self.sizes.append(len(inputs))
        return super().relax(inputs, modality)


class Bench:
    """A trained victim, queries and targets, the same for all."""

    def __init__(self, queries: int, repeats: int) -> None:
        self.trained: Trained = train(config(METHODS[0]))
        victim, data = self.trained.victim, self.trained.data
        rows = choose_queries(data.query, queries, derive_seed(0, "queries"))
        self.batch: Batch = data.query.rows(rows)
        labels = data.database.labels.numpy()
        chosen = choose_targets(
            "disjoint", self.batch.labels.numpy(), labels, derive_seed(0, "targets")
        )
        self.targets = torch.from_numpy(chosen)
        self.seen = AttackData(data, victim.database_codes(data, "image"), "image", "image")
        self.repeats = repeats

    def fitted(self, method: dict[str, Any]) -> FittedAttack:
        with progress_display() as progress:
            return fit_attack(config(method), self.trained, self.seen, progress)

    def seconds(self, method: dict[str, Any], size: int) -> float:
        """Wall seconds per picture, all pictures in batches of `size`.

        Fitted anew for each repeat: `universal` and `blend` keep what they found for a target.
        """
        taken = []
        for _ in range(self.repeats):
            fitted = self.fitted(method)
            start = time.perf_counter()
            self.attacked(fitted, size)
            taken.append((time.perf_counter() - start) / len(self.batch))
        return statistics.median(taken)

    def bound(self, method: dict[str, Any]) -> dict[str, Any]:
        """CPU seconds of the victim's own passes in the batches of an attack, and one by one.

        sizes: pictures that are still under attack, step by step
        """
        fitted, victim = self.fitted(method), Sizes(self.trained.victim).eval()
        fitted.attack.perturb(victim, self.batch, self.targets, fitted.budget, "image")
        images = self.batch.inputs["image"]

        def passed(sizes: list[int]) -> float:
            start = time.process_time()
            for size in sizes:
                image = images[:size].clone().requires_grad_()
                torch.autograd.grad(victim.victim.relax(image, "image").sum(), image)
            return time.process_time() - start

        def all_queries(size: int) -> float:
            start = time.process_time()
            self.attacked(self.fitted(method), size)
            return time.process_time() - start

        with frozen(victim):
            alone = [1] * sum(victim.sizes)
            passes = [passed(alone) / passed(victim.sizes) for _ in range(3)]
        attacks = [all_queries(1) / all_queries(len(self.batch)) for _ in range(3)]
        return {
            "sizes": victim.sizes,
            "passes": statistics.median(passes),
            "attack": statistics.median(attacks),
        }

    def attacked(self, fitted: FittedAttack, size: int) -> None:
        """All pictures, `size` at a time."""
        batch = self.batch
        for first in range(0, len(batch), size):
            rows = torch.arange(first, min(first + size, len(batch)))
            part = Batch(
                {"image": batch.inputs["image"][rows]}, batch.labels[rows], batch.index[rows]
            )
            fitted.attack.perturb(
                self.trained.victim, part, self.targets[rows], fitted.budget, "image"
            )

    def row(self, method: dict[str, Any]) -> dict[str, Any]:
        fitted = self.fitted(method)
        attack: Attack = fitted.attack
        victim = Counting(self.trained.victim).eval()
        moved = attack.perturb(victim, self.batch, self.targets, fitted.budget, "image")
        found = precisions(
            moved.codes,
            self.seen.codes,
            self.targets.numpy(),
            self.seen.labels.numpy(),
            Scoring(),
        )
        count = len(self.batch)
        return {
            "attack": method,
            "forward": victim.forward_passes / count,
            "backward": victim.backward_passes / count,
            "queries": attack.indicators().get("queries_per_image"),
            "seconds_per_image": self.seconds(method, count),
            "seconds_fit": fitted.seconds,
            "tmap": float(np.mean(found)),
        }


def rival(row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The dhta with the fewest steps that is as strong, to the digits that the table shows."""
    least = round(row["tmap"], 3)
    several = [one for one in rows if one["attack"]["name"] == "dhta"]
    strong = [one for one in several if round(one["tmap"], 3) >= least]
    return min(strong, key=lambda one: int(one["attack"]["steps"]), default=None)


def break_even(row: dict[str, Any], rows: list[dict[str, Any]]) -> int | None:
    """Pictures from which on training pays, against that dhta."""
    other = rival(row, rows)
    if other is None or row["seconds_fit"] < 1:
        return None
    saved = other["seconds_per_image"] - row["seconds_per_image"]
    return math.ceil(row["seconds_fit"] / saved) if saved > 0 else None


def page(found: dict[str, Any]) -> str:
    rows = found["rows"]
    head = ["attack", "t-MAP", "forward", "backward", "queries", "s/picture", "fit, s"]
    lines = [[*head, "breaks even"], ["---"] * (len(head) + 1)]
    for row in rows:
        settings = [f"{key}={value}" for key, value in row["attack"].items() if key != "name"]
        even = break_even(row, rows)
        lines.append(
            [
                f"`{'+'.join([row['attack']['name'], *settings])}`",
                f"{row['tmap']:.3f}",
                f"{row['forward']:.1f}",
                f"{row['backward']:.1f}",
                "–" if row["queries"] is None else f"{row['queries']:.0f}",
                f"{row['seconds_per_image']:.4f}",
                f"{row['seconds_fit']:.0f}",
                "–" if even is None else f"{even:,}",
            ]
        )
    single = found["batched"]
    equal = ""
    for row in rows:
        other = rival(row, rows)
        if row["attack"]["name"] == "prosgan" and other is not None:
            equal = (
                f"\n\nFor its t-MAP bounded ProS-GAN takes {row['seconds_per_image']:.4f} s a "
                f"picture, and {row['seconds_fit']:.0f} s once; `dhta` takes "
                f"{other['attack']['steps']} steps and {other['seconds_per_image']:.4f} s a "
                "picture."
            )
    return (
        HEAD.format(**found)
        + "\n".join("| " + " | ".join(line) + " |" for line in lines)
        + equal
        + "\n\nMeasured once more, `dhta` of 100 steps takes "
        f"{single['batch']:.4f} s a picture in a batch of {found['queries']} and "
        f"{single['one']:.4f} s one at a time: it is **{single['ratio']:.1f} times** faster in a "
        "batch.\n" + network(found)
    )


def network(found: dict[str, Any]) -> str:
    """What batches can gain: the victim's own passes, and more queries at once."""
    some, more = found["bound"], found["bound_all"]
    return (
        f"\nPictures that reached their anchor leave the batch: {some['sizes'][0]} are passed at "
        f"first, {some['sizes'][-1]} at last. In CPU time the victim's own passes over these "
        f"batches are {some['passes']:.1f} times faster than one picture at a time, the attack is "
        f"{some['attack']:.1f} times faster: the small batches of the end, not the attack's own "
        f"work, are what is lost. With {more['sizes'][0]} queries in one batch it is "
        f"{more['attack']:.1f} times.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--page", action="store_true", help="write the page only")
    given = parser.parse_args()
    if given.page:
        PAGE.write_text(page(json.loads(OUT.read_text("utf-8"))), "utf-8")
        return
    bench = Bench(given.queries, given.repeats)
    batch = bench.seconds({"name": "dhta"}, given.queries)
    one = bench.seconds({"name": "dhta"}, 1)
    found = {
        "environment": environment(),
        "queries": given.queries,
        "repeats": given.repeats,
        "batched": {"batch": batch, "one": one, "ratio": one / batch},
        "bound": bench.bound({"name": "dhta"}),
        "bound_all": Bench(3 * given.queries, 1).bound({"name": "dhta"}),
        "rows": [bench.row(method) for method in METHODS],
    }
    OUT.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    PAGE.write_text(page(found), "utf-8")
    print(page(found))


if __name__ == "__main__":
    main()
