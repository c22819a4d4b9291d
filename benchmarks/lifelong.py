"""The lifelong protocol on two data sets: `docs/victims/lifelong_measured.md`.

    OMP_NUM_THREADS=1 python benchmarks/lifelong.py            # run what is missing, write the page
    OMP_NUM_THREADS=1 python benchmarks/lifelong.py --page     # only write the page from the json

About 20 minutes of two cores for openmoji, 25 for flickr8k (needs ADVHASH_DATA).
Finished cells lie in the cache, so it can be stopped and started again; wall times are those of
a machine that also runs the other process.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from pages import table

from advhash.experiments.prepare.code_key import code_version
from advhash.reports.lifelong.record import NAMES

ROOT = Path(__file__).parent.parent
OUT = Path(__file__).with_suffix(".json")
PAGE = ROOT / "docs/victims/lifelong_measured.md"
RUNS = {
    "openmoji": ["--dataset", "openmoji", "--set", "rival.epochs=30"],
    "flickr8k": [
        *("--dataset", "flickr8k", "--set", "dataset.size=96"),
        *("--set", "victim.preset=pretrained", "--set", "victim.epochs=15"),
        # Phase 2, chosen on validation: the defaults forget twice as much here.
        *("--set", "victim.samples=1536", "--set", "victim.increment_learning_rate=1e-3"),
        *("--set", "rival.epochs=10", "--set", "lifelong.attacked_seeds=0"),
    ],
}
NAMES = {**NAMES, "dlcmh": f"**{NAMES['dlcmh']}**"}
HEADLINE = {
    "increment_seconds_ratio": "time of an increment / retraining (wall)",
    "increment_cpu_seconds_ratio": "the same, processor time",
    "map_new_gain": "MAP of new queries, gain over frozen networks (relative)",
    "map_new_gain_untrained": "… among rows never trained on",
    "map_new_gain_hashed": "… all rows hashed by the networks",
    "map_new_gain_codes_only": "what assigned codes alone gain, no network trained",
    "map_new_gain_same_time": "MAP of new queries, gain over retraining in the same time",
    "map_new_gain_same_time_untrained": "… among rows never trained on",
    "map_new_gain_same_time_hashed": "… all rows hashed by the networks",
    "map_new_gain_retrain": "MAP of new queries, gain over full retraining",
    "map_new_gain_retrain_untrained": "… among rows never trained on",
    "map_new_gain_retrain_hashed": "… all rows hashed by the networks",
    "map_new_gain_dcmh": "MAP of new queries, gain over DCMH on everything",
    "map_all_gain_same_time": "MAP of all queries, gain over retraining in the same time",
    "map_all_gap": "full retraining ahead on all queries, points of MAP",
    "map_all_gap_untrained": "… among rows never trained on",
    "map_all_gap_hashed": "… all rows hashed by the networks",
    "forgetting_old": "lost by queries of phase 1 among its rows, by the last increment",
    "forgetting_old_binary": "… with binary similarity",
    "forgetting_old_finetune": "… by fine-tuning",
    "forgetting_each": "lost by one increment on all that was known before it",
    "forgetting_old_in_service": "lost by queries of phase 1 in service, new rows there",
    "old_codes_changed": "share of old codes that changed",
    "old_codes_changed_finetune": "… by fine-tuning",
    "retrain_seconds_to_reach": "seconds until retraining has the increment's MAP (hashed codes)",
    "retrain_reached": "share of retrainings that get there",
}
HEAD = """# Measured: the lifelong protocol

Written by `OMP_NUM_THREADS=1 python benchmarks/lifelong.py`, which keeps the figures in
`benchmarks/lifelong.json`; `tests/test_measured.py` compares them with this page. Query split, full
ranking, expected ties; seed 0 draws orders, seeds, bootstrap. Intervals are 95 % ones over orders,
seeds and queries (percentiles of a bootstrap that draws queries once for all), too narrow where
orders and seeds are what varies. What each figure means:
[lifelong learning](../lifelong.md).
"""


def figure(metric: dict[str, Any] | None, factor: float = 100, digits: int = 1) -> str:
    if metric is None or metric["value"] is None:
        return "–"
    value, low, high = (metric[name] for name in ("value", "low", "high"))
    text = f"{factor * value:.{digits}f}"
    if low is None or metric["n"] < 2:
        return text
    return f"{text} [{factor * low:.{digits}f}, {factor * high:.{digits}f}]"


def section(name: str, found: dict[str, Any]) -> str:
    protocol, metrics = found["protocol"], found["metrics"]
    last = len(protocol["rows"][0]) - 1
    cells = {(r["method"], r["stage"], r["group"], r["view"]): r["metric"] for r in found["table"]}
    seconds = {(r["method"], r["stage"]): r for r in found["times"]}
    parts = [
        f"## {name}\n",
        f"`advhash lifelong --victim dlcmh {' '.join(RUNS[name])}`: "
        f"{len(protocol['orders'])} orders × {len(protocol['seeds'])} seeds, {last} increments, "
        f"{protocol['threads']} thread.\n",
        table(
            ["figure", "value"],
            [
                [text, figure(metrics[key], *_units(key))]
                for key, text in HEADLINE.items()
                if key in metrics
            ],
        ),
        "MAP in percent, mean of image → text and text → image:\n",
        table(
            ["method", *(f"{group}, {stage}" for stage, group in _columns(last))],
            [
                [
                    text,
                    *(
                        figure(cells.get((method, s, group, "served")))
                        for s, group in _columns(last)
                    ),
                ]
                for method, text in NAMES.items()
            ],
        ),
        "MAP of new queries in percent, by what the database holds (served codes stand above):\n",
        table(
            ["method", *(f"{view}, {stage}" for stage, view in _views(last))],
            [
                [text, *(figure(cells.get((method, s, "new", view))) for s, view in _views(last))]
                for method, text in NAMES.items()
                if method != "chance"
            ],
        ),
        "Seconds of training and hashing, wall (processor):\n",
        table(
            ["method", *(f"increment {stage}" for stage in range(1, last + 1)), "epochs"],
            [
                [
                    text,
                    *(_time(seconds.get((method, stage))) for stage in range(1, last + 1)),
                    f"{seconds[method, last]['epochs']:.1f}",
                ]
                for method, text in NAMES.items()
                if (method, last) in seconds
            ],
        ),
    ]
    if found["robustness"]:
        parts += [
            "ProS-GAN without a bound, image queries of phase 1 against the fused database; "
            "t-MAP in percent:\n",
            table(
                ["after increment", "fitted in phase 1", "fitted anew", "clean queries", "chance"],
                [
                    [str(stage), *(figure(_attacked(found, *way)) for way in _ways(stage))]
                    for stage in range(last + 1)
                ],
            ),
        ]
    orders = [
        [str(number), "; ".join(", ".join(names) for names in order), str(queries[1:])]
        for number, (order, queries) in enumerate(
            zip(protocol["orders"], protocol["queries"], strict=True)
        )
    ]
    parts.append(table(["order", "new categories of each increment", "new queries"], orders))
    return "\n".join(parts)


def _units(key: str) -> tuple[float, int]:
    return (1.0, 1) if key == "retrain_seconds_to_reach" else (100.0, 1)


def _columns(last: int) -> list[tuple[int, str]]:
    return [
        (0, "all"),
        *((s, group) for s in range(1, last + 1) for group in ("all", "old", "new", "first")),
    ]


def _views(last: int) -> list[tuple[int, str]]:
    return [(stage, view) for stage in range(1, last + 1) for view in ("untrained", "hashed")]


def _time(row: dict[str, Any] | None) -> str:
    if row is None:
        return "–"
    return f"{row['seconds']['value']:.1f} ({row['cpu_seconds']['value']:.1f})"


def _ways(stage: int) -> list[tuple[int, str, str]]:
    return [
        (stage, "stale", "tmap"),
        (stage, "fresh", "tmap"),
        (stage, "fresh", "tmap_clean"),
        (stage, "fresh", "tmap_chance"),
    ]


def _attacked(found: dict[str, Any], stage: int, attack: str, name: str) -> dict[str, Any] | None:
    for row in found["robustness"]:
        if (row["stage"], row["attack"]) == (stage, attack):
            metric: dict[str, Any] = row[name]
            return metric
    return None


def collect(folder: Path) -> dict[str, Any]:
    record = json.loads((folder / "metrics.json").read_text())
    kept = ("metrics", "times", "robustness", "protocol", "flags")
    rows = [row for row in record["table"] if row["direction"] == "mean"]
    environment = json.loads((folder / "env.json").read_text())
    return {**{name: record[name] for name in kept}, "table": rows, "environment": environment}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", nargs="+", default=list(RUNS))
    parser.add_argument("--page", action="store_true", help="write the page only")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs", help="where the runs lie")
    given = parser.parse_args()
    found = json.loads(OUT.read_text()) if OUT.is_file() else {}
    for name in [] if given.page else given.datasets:
        folder = given.runs / f"lifelong-{name}-{code_version()[:12]}"  # of other code: another run
        if not (folder / "metrics.json").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            command = ["lifelong", "--victim", "dlcmh", *RUNS[name], "--executor", "local"]
            subprocess.run(
                [sys.executable, "-m", "advhash", *command, "--out", str(folder)], check=True
            )
        found[name] = collect(folder)
    OUT.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page(found))


def page(found: dict[str, Any]) -> str:
    return "\n".join([HEAD, *(section(name, found[name]) for name in RUNS if name in found)])


if __name__ == "__main__":
    main()
