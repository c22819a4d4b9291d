"""The gradient loop beside torchattacks', and one attack divided among two workers.

`loop`: CPU milliseconds per image and pass, in turns on one victim, one thread, 100 images, the
median of the repeats: the victim's own forward and backward pass; PGD of torchattacks, whose loss
is cross-entropy, in full batches; `mainstay` in float32 and, where the processor computes in it, in
bf16, in the smaller batches that images at rest leave. Passes are those of all images in a batch,
of those at rest that fill it up too. Beside them the seconds that `torch.compile` takes for the victim and what a pass takes then, and what refilling the
batch with queries that wait could save at most: every pass at the price of a full batch.

`workers`: wall seconds and CPU seconds of `advhash attack` from an empty cache of ceilings, the
victim trained already, with one worker process and with two of one thread each; figures must be the
same. The wall is that from the first cell, with the start of the workers, to the last figure. Keep
the machine quiet.

    OMP_NUM_THREADS=1 python benchmarks/loop.py [--groups loop workers] [--victims dpsh dlcmh]
        [--queries 300] [--method autohash]
    python benchmarks/loop.py --page    # only write the page from the json
"""

# ruff: noqa: E501
from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pages import table
from torch import Tensor, nn

from advhash.attacks.base import AttackData, frozen
from advhash.attacks.gradient.precision import computes_bf16
from advhash.budget import Budget
from advhash.data import Batch
from advhash.experiments.config import AttackConfig
from advhash.experiments.prepare.victim import train
from advhash.registry import ATTACKS
from advhash.storage.run_folder import environment
from advhash.targets import choose_targets
from advhash.victims.base import HashVictim

OUT = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parent.parent / "docs/attacks/loop.md"
GROUPS = ("loop", "workers")
BUDGET = Budget("linf", 8 / 255)
COUNT, STEPS = 100, 100
HEAD = """# Measured: the gradient loop

Written by `OMP_NUM_THREADS=1 python benchmarks/loop.py` from `benchmarks/loop.json`. One thread a
process, L∞ 8/255, seed 0, on two hyperthreads with nothing else running.

"""


class Real(nn.Module):
    """The victim's real codes as logits, which torchattacks asks for."""

    def __init__(self, victim: HashVictim) -> None:
        super().__init__()
        self.victim = victim

    def forward(self, images: Tensor) -> Tensor:
        return self.victim.relax(images, "image")


class Loop:
    """A trained victim with 100 queries and their targets."""

    def __init__(self, name: str) -> None:
        config = {"victim": {"name": name}, "attack": {"name": "noise"}}
        trained = train(AttackConfig.build(config))
        self.victim, data = trained.victim, trained.data
        database = self.victim.default_database
        codes = self.victim.database_codes(data, database)
        self.served = AttackData(data, codes, database, "image")
        self.queries: Batch = data.query.rows(torch.arange(COUNT))
        drawn = choose_targets(
            "disjoint", self.queries.labels.numpy(), data.database.labels.numpy(), 0
        )
        self.targets = torch.from_numpy(drawn)
        self.sizes: list[int] = []

    def passed(self, images: Tensor, network: Callable[[Tensor], Tensor]) -> None:
        """One forward and one backward pass."""
        image = images.clone().requires_grad_()
        torch.autograd.grad(torch.tanh(network(image)).sum(), image)

    def bare(self, network: Callable[[Tensor], Tensor] | None = None, size: int = COUNT) -> float:
        """Milliseconds an image of a pass of `size` images."""
        images = self.queries.inputs["image"][:size]
        used = Real(self.victim) if network is None else network
        with frozen(self.victim):
            self.passed(images, used)
            began = time.process_time()
            for _ in range(10):
                self.passed(images, used)
        return (time.process_time() - began) / 10 / size * 1e3

    def ours(self, precision: str) -> float:
        """Milliseconds an image and pass of an attack whose images come to rest."""
        method = ATTACKS.create("mainstay", {"steps": STEPS, "precision": precision})
        method.fit(self.victim, self.served, BUDGET)
        relax, self.sizes = self.victim.relax, []

        def noted(inputs: Tensor, modality: str) -> Tensor:
            if inputs.requires_grad:
                self.sizes.append(len(inputs))
            return relax(inputs, modality)

        self.victim.relax = noted  # type: ignore[method-assign]
        began = time.process_time()
        method.perturb(self.victim, self.queries, self.targets, BUDGET)
        spent = time.process_time() - began
        del self.victim.relax
        return spent / sum(self.sizes) * 1e3

    def theirs(self) -> float:
        import torchattacks

        attack = torchattacks.PGD(
            Real(self.victim).eval(),
            eps=BUDGET.eps,
            alpha=BUDGET.eps / 10,
            steps=STEPS,
            random_start=False,
        )
        with frozen(self.victim):
            began = time.process_time()
            attack(self.queries.inputs["image"], torch.zeros(COUNT, dtype=torch.long))
            return (time.process_time() - began) / STEPS / COUNT * 1e3

    def compiled(self) -> dict[str, float]:
        network = torch.compile(Real(self.victim))
        with frozen(self.victim):
            began = time.perf_counter()
            self.passed(self.queries.inputs["image"], network)
            first = time.perf_counter() - began
        return {"warm_up_s": round(first, 1), "ms": round(self.bare(network), 4)}

    def refilled(self) -> float:
        """Share of the passes' time that full batches would save, by the price of each size."""
        prices = {size: self.bare(size=size) * size for size in set(self.sizes)}
        spent = sum(prices[size] for size in self.sizes)
        return 1 - sum(self.sizes) / COUNT * prices[COUNT] / spent

    def measured(self, repeats: int) -> dict[str, Any]:
        works: dict[str, Callable[[], float]] = {
            "victim": self.bare,
            "torchattacks": self.theirs,
            "advhash": lambda: self.ours("no"),
        }
        if computes_bf16(self.victim.device):
            works["advhash_bf16"] = lambda: self.ours("bf16")
        taken: dict[str, list[float]] = {name: [] for name in works}
        for _ in range(repeats):
            for name, work in works.items():
                taken[name].append(work())
        self.ours("no")
        return {
            "ms": {name: round(statistics.median(values), 4) for name, values in taken.items()},
            "sizes": self.sizes,
            "refilled_saves": round(self.refilled(), 3),
            "compiled": self.compiled(),
        }


def divided(victim: str, method: str, queries: int, batch: int) -> list[dict[str, Any]]:
    """One attack with one worker and with two, all else equal."""
    runs, figures = [], []
    with tempfile.TemporaryDirectory() as place:
        cache = Path(place) / "cache"
        base = {**os.environ, "OMP_NUM_THREADS": "1", "ADVHASH_CACHE": str(cache)}
        asked = ["--victim", victim, "--method", method, "--eps", "8/255", "-q"]
        asked += ["--queries", str(queries), "--set", f"protocol.batch_size={batch}"]
        command = [sys.executable, "-m", "advhash", "attack", *asked, "--executor", "local"]
        warm = [*command, "--queries", "2", "--seed", "1", "--out", f"{place}/warm"]
        subprocess.run(warm, env=base, check=True, stdout=subprocess.DEVNULL)  # compiles
        trained = [sys.executable, "-m", "advhash", "train", "--victim", victim, "-q"]
        subprocess.run(trained, env=base, check=True, stdout=subprocess.DEVNULL)
        for workers in (1, 2):
            for folder in cache.glob("ceilings"):
                folder.rename(Path(place) / f"ceilings-{workers}")
            out = Path(place) / f"run-{workers}"
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            began = time.perf_counter()
            variables = {**base, "NUMBA_NUM_THREADS": str(workers)}
            subprocess.run(
                [*command, "--out", str(out)], env=variables, check=True, stdout=subprocess.DEVNULL
            )
            wall = time.perf_counter() - began
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            document = json.loads((out / "metrics.json").read_text("utf-8"))
            measured = document["metrics"].items()
            figures.append({name: one for name, one in measured if "seconds" not in name})
            seconds = document["run"]["seconds"]
            known = sum(seconds[name] for name in ("victim", "codes", "fit"))
            runs.append(
                {
                    "workers": workers,
                    "wall": round(wall, 1),
                    "cpu": round(after.ru_utime - before.ru_utime, 1),
                    "stage": round(seconds["all"] - known, 1),
                    "attack": round(seconds["attack"], 1),
                    "metrics": round(seconds["metrics"], 1),
                }
            )
    if figures[0] != figures[1]:
        sys.exit(f"{victim}, {method}: figures differ with the number of workers")
    return [{"victim": victim, "method": method, "queries": queries, "batch": batch, **run} for run in runs]  # fmt: skip


def page(found: dict[str, Any]) -> str:
    """The Markdown page."""
    parts = [HEAD]
    loops = found.get("loop", {})
    if loops:
        head = ["victim", "its own passes", "torchattacks PGD", "mainstay", "mainstay, bf16"]
        rows = [[*head, "compiled", "warm-up, s", "refilling saves at most"]]
        for name, loop in loops.items():
            ms, compiled = loop["ms"], loop["compiled"]
            shown = [f"{ms[key]:.3f}" if key in ms else "–" for key in ("victim", "torchattacks", "advhash", "advhash_bf16")]  # fmt: skip
            rows.append([name, *shown, f"{compiled['ms']:.3f}", f"{compiled['warm_up_s']:.0f}", f"{loop['refilled_saves']:.0%}"])  # fmt: skip
        parts += [
            "CPU milliseconds per image and pass, 100 queries in one batch, which images at rest leave in the attack alone:\n\n",
            table(rows[0], rows[1:]),
            "\nImages come to rest one by one. oneDNN compiles kernels for each size of a batch, some "
            "30 a network, and keeps 1,024: with every size from 100 down they were compiled again in "
            "each block, which cost as much as the passes themselves. From 16 on, sizes are multiples "
            "of 8, and images at rest fill them up: no bit of a figure changes, as codes and gradients "
            "of a row are the same in every batch of 16 or more. Below 16 they are not, so a batch "
            "that is refilled with queries that wait would change the last bits of figures; it is "
            "left out, and larger blocks (`protocol.batch_size`) have its gain. `torch.compile` is "
            "left out as well: what a pass takes then, and the seconds before the first one, stand "
            "above.\n",
        ]  # fmt: skip
    runs = found.get("workers", [])
    if runs:
        rows = [["attack", "queries", "batch", "workers", "wall, s", "CPU, s", "of it attack", "share of one worker's wall"]]  # fmt: skip
        alone: dict[tuple[Any, ...], float] = {}
        for run in runs:
            name = (run["victim"], run["method"], run["queries"], run["batch"])
            alone.setdefault(name, run["stage"])
            rows.append([f"{run['method']} on {run['victim']}", str(run["queries"]), str(run["batch"]), str(run["workers"]), f"{run['stage']:.1f}", f"{run['cpu']:.1f}", f"{run['attack']:.1f}", f"{run['stage'] / alone[name]:.2f}"])  # fmt: skip
        beside = " and ".join(
            f"{run['stage'] - run['attack']:.0f} s with `{run['victim']}`"
            for run in runs
            if run["workers"] == 1
        )
        parts += [
            "\n## Two workers\n\n",
            f"`advhash attack --executor local` from the first cell to the last figure, on {found['cores']} "
            "cores, with the victim trained before; CPU seconds are those of the whole command with all its processes. Blocks of "
            "queries and the ceilings of t-MAP are the cells. Figures are the same to the last bit.\n\n",
            table(rows[0], rows[1:]),
            "\nTwo workers do not halve the wall. Each first needs its imports, its victim and its kernels, and one "
            f"process computes the figures: with one worker, all but the attack takes {beside}. Both share one "
            "memory, so the attack itself takes more CPU seconds.\n",
        ]  # fmt: skip
    return "".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=GROUPS)
    parser.add_argument("--victims", nargs="+", default=["dpsh", "dlcmh"])
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--method", default="autohash")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--page", action="store_true", help="write the page only")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(OUT.read_text("utf-8")) if OUT.is_file() else {}
    for victim in [] if given.page else given.victims:
        if "loop" in given.groups:
            found.setdefault("loop", {})[victim] = Loop(victim).measured(given.repeats)
        if "workers" in given.groups:
            runs = divided(victim, given.method, given.queries, given.batch)
            kept = [run for run in found.get("workers", []) if run["victim"] != victim]
            found["workers"] = kept + runs
        found.update(environment=environment(), cores=len(os.sched_getaffinity(0)))
        OUT.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    PAGE.write_text(page(found), "utf-8")


if __name__ == "__main__":
    main()
