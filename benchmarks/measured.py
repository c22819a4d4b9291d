"""The measured tables of README and docs: every attack of the main job, over seeds.

A seed decides over the victim's training, the attack's training, targets and intervals alike.
Writes `benchmarks/measured.json` and prints Markdown. About 25 minutes on one core:

    OMP_NUM_THREADS=1 python benchmarks/measured.py [--seeds 0 1] [--victims dpsh dlcmh]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from advhash.cli.console import progress_display
from advhash.experiments.attack.run import attack
from advhash.experiments.config import AttackConfig
from advhash.storage.run_folder import environment

OUT = Path(__file__).with_suffix(".json")
ATTACKS: list[tuple[str, dict[str, Any], str | None]] = [
    ("prosgan", {}, None),
    ("prosgan", {}, "8/255"),
    ("prosgan", {}, "16/255"),
    ("dhta", {}, "8/255"),
    ("dhta", {}, "16/255"),
    ("p2p", {}, "8/255"),
]
ABLATIONS: list[tuple[str, dict[str, Any], str | None]] = [
    ("prosgan", {"discriminator": False}, None),
    ("prosgan", {"prototype": "majority"}, None),
]
METRICS = ("map", "map_adversarial", "tmap", "tmap_clean", "tmap_ceiling", "tmap_normalised", "l2")


def run(
    victim: str, seed: int, method: str, settings: dict[str, Any], budget: dict[str, Any]
) -> Any:
    config = AttackConfig.build(
        {
            "seed": seed,
            "victim": {"name": victim},
            "attack": {"name": method, **settings},
            "budget": budget,
        }
    )
    with tempfile.TemporaryDirectory() as folder, progress_display() as progress:
        return attack(config, Path(folder) / "run", progress)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--victims", nargs="+", default=["dpsh", "dlcmh"])
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []

    def note(victim: str, seed: int, name: str, record: Any) -> None:
        metrics = {key: vars(record.metrics[key]) for key in METRICS if record.metrics[key]}
        seconds = {k: record.metrics[k].value for k in ("seconds_fit", "seconds_per_image")}
        rows.append(
            {
                "victim": victim,
                "seed": seed,
                "attack": name,
                "budget": record.budget.text,
                "metrics": metrics,
                "victim_metrics": record.victim.notes["metrics"],
                "victim_seconds": record.victim.notes["seconds"],
                **seconds,
            }
        )
        OUT.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")

    for victim in given.victims:
        for seed in given.seeds:
            for method, settings, eps in ATTACKS + (ABLATIONS if seed == given.seeds[0] else []):
                label = method + "".join(f" {key}={value}" for key, value in settings.items())
                budget = {} if eps is None else {"norm": "linf", "eps": eps}
                record = run(victim, seed, method, settings, budget)
                note(victim, seed, label, record)
                if (method, settings, eps) == ATTACKS[0]:
                    same = {"norm": "l2", "eps": record.metrics["l2"].value}
                    note(victim, seed, "blend", run(victim, seed, "blend", {}, same))
    print("| victim | seed | attack | budget | clean → ceiling | t-MAP | normalised | mean L2 |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        m = row["metrics"]
        low, high = m["tmap_normalised"]["low"], m["tmap_normalised"]["high"]
        print(
            f"| {row['victim']} | {row['seed']} | {row['attack']} | {row['budget']} "
            f"| {m['tmap_clean']['value']:.3f} → {m['tmap_ceiling']['value']:.3f} "
            f"| {m['tmap']['value']:.3f} | {m['tmap_normalised']['value']:.3f} "
            f"[{low:.3f}, {high:.3f}] | {m['l2']['value']:.2f} |"
        )


if __name__ == "__main__":
    main()
