"""Detectors of adversarial queries: `benchmarks/detectors.json` and the table of the docs.

One `advhash detect --detector all` per method: unbounded ProS-GAN, as published, and DHTA within
L∞ 16/255. The victim is `dpsh` with 32 bits on digits, all seeds 0 unless given.

    OMP_NUM_THREADS=1 python benchmarks/detectors.py [--queries 100] [--methods prosgan dhta]
    python benchmarks/detectors.py --page   # only write the page from the json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from pages import filled

from advhash.experiments.detect.config import DetectConfig
from advhash.experiments.detect.run import Detection
from advhash.experiments.experiment import run
from advhash.storage.files import write_json

OUT = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parent.parent / "docs/defenses/code_detectors.md"
BUDGETS: dict[str, dict[str, Any]] = {"prosgan": {}, "dhta": {"norm": "linf", "eps": "16/255"}}
SHOWN = (
    ("false_alarms", "false alarms"),
    ("detected", "detected"),
    ("detected_randomised", "randomised: detected at exactly 5 %"),
    ("success_and_accepted", "succeeds and accepted, not adaptive"),
    ("accepted_adaptive", "**adaptive**"),
    ("auroc", "AUROC"),
    ("auroc_noise", "against noise"),
)


def figure(metric: dict[str, Any] | None, bold: bool) -> str:
    """A value with its interval, where that has a width; – where there is none."""
    if metric is None:
        return "–"
    value = f"**{metric['value']:.3f}**" if bold else f"{metric['value']:.3f}"
    if metric["low"] is None or metric["low"] == metric["high"]:
        return value
    return f"{value} [{metric['low']:.3f}, {metric['high']:.3f}]"


def table(document: dict[str, Any]) -> str:
    """Markdown, one row a detector, the highest AUROC first."""
    lines = [
        "| detector | " + " | ".join(title for _, title in SHOWN) + " |",
        "|---" * (len(SHOWN) + 1) + "|",
    ]
    rows = {name: found["metrics"] for name, found in document["detectors"].items()}
    for name in sorted(rows, key=lambda one: -rows[one]["auroc"]["value"]):
        cells = [figure(rows[name].get(key), key == "accepted_adaptive") for key, _ in SHOWN]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def written(text: str, found: dict[str, Any]) -> str:
    """The page with the table of each attack between its marks."""
    return filled(text, {method: table(document) for method, document in found["cells"].items()})


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--methods", nargs="+", default=list(BUDGETS), choices=list(BUDGETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    cells = json.loads(given.out.read_text("utf-8"))["cells"] if given.out.exists() else {}
    for method in [] if given.page else given.methods:
        began = time.process_time()
        config = DetectConfig.build(
            {
                "seed": given.seed,
                "victim": {"name": "dpsh", "bits": 32},
                "dataset": {"name": "digits"},
                "detector": {"name": "all"},
                "attack": {"name": method},
                "budget": BUDGETS[method],
                "queries": given.queries,
            }
        )
        with tempfile.TemporaryDirectory() as folder:
            document = run(Detection(), config, Path(folder) / "run.json").document()
        document["cpu_seconds"] = round(time.process_time() - began, 1)
        for found in document["detectors"].values():
            del found["roc"]  # long, and drawn again from the seed
        cells[method] = document
        write_json(given.out, {"command": " ".join(sys.argv), "cells": cells})
        sys.stdout.write(
            f"\n{method}, {document['budget']}, {document['cpu_seconds']} CPU s\n{table(document)}"
        )
    if given.out == OUT:
        PAGE.write_text(written(PAGE.read_text("utf-8"), {"cells": cells}), "utf-8")


if __name__ == "__main__":
    main()
