"""t-MAP of DHTA with and without transforms in its gradient, before and after the real JPEG codec.

Digits, DPSH, seed 0, L∞ 8/255 and 16/255. Prints Markdown; about 4 minutes on one core:

    OMP_NUM_THREADS=1 python benchmarks/transforms.py [--queries 100] [--steps 100] [--samples 4]
"""

from __future__ import annotations

import argparse

import torch

from advhash.attacks.base import AttackData
from advhash.attacks.gradient.targeted import DHTA
from advhash.budget import Budget
from advhash.codes.metrics import Scoring
from advhash.experiments.attack.columns import codec_columns, precisions
from advhash.experiments.attack.perturb import choose_queries
from advhash.experiments.config import AttackConfig
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.victim import train
from advhash.measures.intervals import mean_metric
from advhash.targets import choose_targets

SETS: tuple[tuple[str, ...], ...] = (
    (),
    ("jpeg",),
    ("resize", "noise"),
    ("resize", "noise", "jpeg"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--samples", type=int, default=4)
    given = parser.parse_args()
    trained = train(
        AttackConfig.build({"seed": 0, "victim": {"name": "dpsh"}, "attack": {"name": "dhta"}})
    )
    victim, data = trained.victim, trained.data
    codes = victim.database_codes(data, "image")
    rows = choose_queries(data.query, given.queries, derive_seed(0, "queries"))
    batch, labels = data.query.rows(rows), data.database.labels.numpy()
    targets = choose_targets("disjoint", batch.labels.numpy(), labels, derive_seed(0, "targets"))
    print("| budget | transforms in the gradient | t-MAP | after JPEG 90 | after JPEG 75 |")
    print("|---|---|---|---|---|")
    for budget in (Budget("linf", 8 / 255), Budget("linf", 16 / 255)):
        for names in SETS:
            samples = given.samples if names else 1
            attack = DHTA(steps=given.steps, transforms=names, samples=samples)
            attack.fit(victim, AttackData(data, codes, "image", "image"), budget)
            result = attack.perturb(victim, batch, torch.from_numpy(targets), budget)
            moved = result.batch.inputs["image"]
            columns = codec_columns(
                victim,
                moved,
                "image",
                codes,
                wanted=targets,
                database_labels=labels,
                targeted=True,
                scoring=Scoring(),
            )
            plain = precisions(result.codes, codes, targets, labels, Scoring())
            shown = []
            for column in (plain, columns["tmap_jpeg90"], columns["tmap_jpeg75"]):
                metric = mean_metric(column, derive_seed(0, "bootstrap"))
                shown.append(f"{metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]")
            print(f"| {budget} | {', '.join(names) or 'none'} | {' | '.join(shown)} |", flush=True)


if __name__ == "__main__":
    main()
