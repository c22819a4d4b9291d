"""Whether the gradient of a victim tells what a small change of its pictures does to their codes.

A low figure of a gradient attack means robustness only where the gradient is right. On 60 queries,
with a target of other labels each and the majority code b of all its rows, a victim is described by
the margin m = ⟨u, b⟩/(K·mean|u|) of its real codes u, 1 where all K bits are right by the same
amount. A row a victim, medians over the queries:

  margin        m of the clean queries
  slope         what the gradient promises: ε·‖∇m‖₁ at ε = 8/255, the most that a linear m can gain
  kept          m gained by the signed step of 1/255, and of 8/255, over what the gradient promises
  thinnest bit  the least |u|/mean|u| of a query
  zero          share of zeros among the values of the gradient
  error         the largest difference to finite differences along 20 random directions, in float64,
                over the mean size of the slope along them

Prints Markdown; a few seconds per victim on one core:

    OMP_NUM_THREADS=1 python benchmarks/gradients.py zoo:dpsh-digits-32 zoo:csq-digits-32 FOLDER …
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import torch
from torch import Tensor

import advhash as ah
from advhash.attacks.base import AttackData
from advhash.attacks.gradient.anchors import anchor_codes
from advhash.experiments.attack.perturb import choose_queries
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained
from advhash.targets import choose_targets

QUERIES, DIRECTIONS, GREY = 60, 20, 1 / 255
HEAD = ("victim", "margin", "slope", "kept, 1/255", "kept, 8/255", "thinnest bit", "zero", "error")


def row(trained: Trained) -> list[float]:
    """The figures of a victim in the order of `HEAD`, its name left out."""
    data, victim = trained.data, copy.deepcopy(trained.victim).double()
    victim.requires_grad_(False)
    direction = "image" if "image" in victim.directions else victim.directions[0]
    seen = AttackData(data, trained.victim.database_codes(data, direction), direction, "image")
    batch = data.query.rows(choose_queries(data.query, QUERIES, derive_seed(0, "queries")))
    targets = choose_targets(
        "disjoint", batch.labels.numpy(), data.database.labels.numpy(), derive_seed(0, "targets")
    )
    goal = anchor_codes("majority", victim, seen, torch.from_numpy(targets)).double()
    images = batch.inputs["image"].double().requires_grad_()
    relaxed = victim.relax(images, "image")
    scale = relaxed.detach().abs().mean(dim=1, keepdim=True)

    def margin(pictures: Tensor) -> Tensor:
        return (victim.relax(pictures, "image") / scale * goal).mean(dim=1)

    (gradient,) = torch.autograd.grad((relaxed / scale * goal).mean(dim=1).sum(), images)
    images = images.detach()
    with torch.no_grad():
        start, size = margin(images), gradient.abs().flatten(1).sum(dim=1)
        kept = [
            ((margin(images + step * gradient.sign()) - start) / (step * size)).median()
            for step in (GREY, 8 * GREY)
        ]
        return [
            float(value)
            for value in (
                start.median(),
                (8 * GREY * size).median(),
                *kept,
                (relaxed.abs() / scale).amin(dim=1).median(),
                (gradient == 0).double().mean(),
                error(margin, images, gradient),
            )
        ]


def error(margin: Callable[[Tensor], Tensor], images: Tensor, gradient: Tensor) -> Tensor:
    """The largest difference of slopes to finite differences, over the mean size of slopes."""
    generator, reach = torch.Generator().manual_seed(0), 1e-6
    wrong, slopes = [], []
    for _ in range(DIRECTIONS):
        toward = torch.randn(images.shape, generator=generator, dtype=images.dtype)
        slope = (gradient * toward).flatten(1).sum(dim=1)
        ahead, behind = margin(images + reach * toward), margin(images - reach * toward)
        wrong.append(((ahead - behind) / (2 * reach) - slope).abs().max())
        slopes.append(slope.abs().mean())
    return torch.stack(wrong).max() / torch.stack(slopes).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("victims", nargs="+", metavar="CHECKPOINT")
    given = parser.parse_args()
    print("| " + " | ".join(HEAD) + " |")
    print("|---" * len(HEAD) + "|")
    for place in given.victims:
        values = row(ah.load(place))
        shown = [f"{value:.3f}" for value in values[:-1]] + [f"{values[-1]:.0e}"]
        print(f"| `{place}` | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
