"""Attacks of one forward pass or one addition a query, under the hard budget, beside DHTA.

Bounded ProS-GAN and universal perturbations at L∞ 16/255 and 8/255, and 100-step DHTA at the same
budgets on the same queries. A seed determines victim, attack, targets and intervals. Writes
`benchmarks/bounded.json`, after every run, and prints Markdown. About 40 minutes on one core for
one seed:

    OMP_NUM_THREADS=1 python benchmarks/bounded.py [--seeds 0] [--victims dpsh dlcmh]
        [--eps 16/255 8/255] [--methods prosgan dhta universal]
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
SETTINGS: dict[str, dict[str, Any]] = {"prosgan": {"bounded": True}, "dhta": {}, "universal": {}}
METRICS = ("tmap", "tmap_clean", "tmap_ceiling", "tmap_normalised", "l2", "overrun")


def measure(victim: str, seed: int, method: str, eps: str) -> dict[str, Any]:
    """One run, as the row of the table."""
    config = AttackConfig.build(
        {
            "seed": seed,
            "victim": {"name": victim},
            "attack": {"name": method, **SETTINGS[method]},
            "budget": {"norm": "linf", "eps": eps},
        }
    )
    with tempfile.TemporaryDirectory() as folder, progress_display() as progress:
        record = attack(config, Path(folder) / "run", progress)
    found = {key: record.metrics.get(key) for key in METRICS}
    seconds = {key: record.metrics[key] for key in ("seconds_fit", "seconds_per_image")}
    return {
        "victim": victim,
        "seed": seed,
        "attack": method,
        "budget": record.budget.text,
        "metrics": {key: vars(metric) for key, metric in found.items() if metric},
        "flags": [flag.name for flag in record.flags],
        **{key: metric.value for key, metric in seconds.items() if metric},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; `share` is the normalised t-MAP over that of DHTA in the same cell."""
    lines = [
        "| victim | seed | budget | attack | clean → ceiling | t-MAP | normalised [95 %] "
        "| of DHTA's | fit, s | s/image |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        metrics = row["metrics"]
        cell = (row["victim"], row["seed"], row["budget"])
        rival = [
            other["metrics"]["tmap_normalised"]["value"]
            for other in rows
            if (other["victim"], other["seed"], other["budget"]) == cell
            and other["attack"] == "dhta"
        ]
        normalised = metrics["tmap_normalised"]
        share = f"{normalised['value'] / rival[0]:.2f}" if rival else ""
        lines.append(
            f"| {row['victim']} | {row['seed']} | {row['budget']} | {row['attack']} "
            f"| {metrics['tmap_clean']['value']:.3f} → {metrics['tmap_ceiling']['value']:.3f} "
            f"| {metrics['tmap']['value']:.3f} | {normalised['value']:.3f} "
            f"[{normalised['low']:.3f}, {normalised['high']:.3f}] | {share} "
            f"| {row['seconds_fit']:.0f} | {row['seconds_per_image']:.4f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--victims", nargs="+", default=["dpsh", "dlcmh"])
    parser.add_argument("--eps", nargs="+", default=["16/255", "8/255"])
    parser.add_argument("--methods", nargs="+", default=list(SETTINGS))
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for seed in given.seeds:
        for eps in given.eps:
            for victim in given.victims:
                for method in given.methods:
                    rows.append(measure(victim, seed, method, eps))
                    written = {"environment": environment(), "rows": rows}
                    given.out.write_text(json.dumps(written, indent=1) + "\n", "utf-8")
    print(table(rows))


if __name__ == "__main__":
    main()
