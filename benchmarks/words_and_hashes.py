"""Attacks on words and on perceptual hashes: the tables of docs/attacks/text.md and collision.md.

Writes `benchmarks/words_and_hashes.json`, cell by cell: what stands there is not measured again.
With every victim in the cache about 20 minutes on one core; prints Markdown.

    OMP_NUM_THREADS=1 python benchmarks/words_and_hashes.py [--only text collision loss]
        [--words dlcmh --tokens CHECKPOINT]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from advhash.experiments.attack.run import attack
from advhash.experiments.config import AttackConfig
from advhash.storage.run_folder import environment

OUT = Path(__file__).with_suffix(".json")
TEXT = ("map", "map_adversarial", "tmap_clean", "tmap", "tmap_normalised", "words_changed")
POINT = ("threshold_bits", "false_positives", "bits_clean", "bits_adversarial", "ssim")
PARTS = ("_clean", "", "_png", "_jpeg90", "_jpeg75", "_clean_pdq", "_pdq")
RATES = tuple(f"{name}_rate{part}" for name in ("evasion", "collision") for part in PARTS)
Cell = tuple[str, dict[str, Any]]


def text_cells(victims: dict[str, str]) -> list[Cell]:
    """Every attack on words, for each kind of text, with 1 to 3 words of 100 queries."""
    cells = []
    for kind, victim in victims.items():
        for words in (2, 1, 3):
            for method, settings in (
                ("token-noise", {}),
                ("hotflip", {}),
                ("hotflip", {"label_words": True}),
                ("hotflip-untargeted", {}),
            ):
                config = {
                    "victim": {"name": victim},
                    "attack": {"name": method, **settings},
                    "dataset": {"name": "openmoji", "text": kind},
                    "budget": {"norm": "l0", "eps": words},
                    "protocol": {
                        "query_modality": "text",
                        "queries": 100,
                        "noise_control": False,
                    },
                }
                label = method + "".join(f" {key}={value}" for key, value in settings.items())
                cells.append((f"text {kind}, {label}, {words}", config))
    return cells


def hash_cells(losses: tuple[str, ...]) -> list[Cell]:
    """Collision and evasion of the three hashes under two budgets."""
    cells = []
    for eps in ("8/255", "16/255"):
        for victim in ("dhash", "pdq", "phash"):
            for method in ("evasion", "collision"):
                for loss in losses:
                    config = {
                        "victim": {"name": victim},
                        "attack": {"name": method, "loss": loss},
                        "budget": {"eps": eps},
                        "protocol": {"queries": 60, "noise_control": False},
                    }
                    cells.append((f"{victim}, {method} {loss}, {eps}", config))
    return cells


def measure(config: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        record = attack(AttackConfig.build(config), Path(folder) / "run")
    found = {name: record.metrics.get(name) for name in (*TEXT, *POINT, *RATES)}
    return {name: vars(metric) for name, metric in found.items() if metric is not None}


def shown(metric: dict[str, Any] | None, digits: int = 3) -> str:
    if metric is None or metric["value"] is None:
        return "–"
    interval = f" [{metric['low']:.2f}, {metric['high']:.2f}]" if metric["low"] is not None else ""
    return f"{metric['value']:.{digits}f}{interval}"


def known() -> dict[str, Any]:
    """What was measured so far."""
    return dict(json.loads(OUT.read_text())) if OUT.exists() else {"cells": {}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=["text", "collision", "loss"])
    parser.add_argument("--words", default="dlcmh", help="victim of texts as counts of words")
    parser.add_argument("--tokens", default="dlcmh", help="victim of texts as tokens")
    given = parser.parse_args()
    cells: list[Cell] = []
    if "collision" in given.only:
        cells += hash_cells(("tanh",))
    if "text" in given.only:
        cells += text_cells({"words": given.words, "tokens": given.tokens})
    if "loss" in given.only:
        cells += hash_cells(("hinge",))
    for name, config in cells:
        if name not in known()["cells"]:
            found = measure(config)
            now = known()  # another process may have measured in the meantime
            now["cells"][name], now["environment"] = found, environment()
            OUT.write_text(json.dumps(now, indent=1) + "\n")
        metrics = known()["cells"][name]
        names = [key for key in (*TEXT, *POINT, *RATES) if key in metrics]
        figures = ", ".join(f"{key} {shown(metrics[key])}" for key in names)
        print(f"- {name}: {figures}", flush=True)


if __name__ == "__main__":
    main()
