"""What victims' trainings and attacks take, for `--dry-run` on a machine without history.

Every attack runs once with its defaults on a few queries, in this process; the trainings that
`victim_table.py` measured are read from its results, and the other victims are trained here. What
they took, in processor seconds of one thread, becomes `advhash/experiments/reference_costs.jsonl`,
a line for each training, fit and attack by name. About 6 minutes of one core:

    OMP_NUM_THREADS=1 python benchmarks/reference_costs.py
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from advhash.attacks.base import Attack
from advhash.data.load import load_dataset
from advhash.experiments.attack.run import AttackExperiment
from advhash.experiments.config import AttackConfig
from advhash.experiments.costs import KEPT, REFERENCE
from advhash.experiments.experiment import run
from advhash.registry import ATTACKS

HERE = Path(__file__).resolve().parent
TABLE = HERE.parent / "advhash/experiments" / REFERENCE
QUERIES = 20
TRAINED_HERE = ("hashvfl", "neural-code")


def configs() -> Iterator[dict[str, Any]]:
    """The run that measures each attack, and each victim that no other script does."""
    for victim in TRAINED_HERE:
        yield {"victim": {"name": victim}, "attack": {"name": "noise"}}
    for name in ATTACKS.names():
        attack: type[Attack] = ATTACKS[name].build  # type: ignore[assignment]
        hashed = name in ("collision", "evasion")
        config: dict[str, Any] = {
            "victim": {"name": "phash" if hashed else "dlcmh"},
            "attack": {"name": name},
        }
        if "image" not in attack.modalities:
            config |= {"budget": {"norm": "l0", "eps": "2"}, "protocol": {"query_modality": "text"}}
        elif name != "prosgan":
            config["budget"] = {"eps": "8/255"}
        yield config


def measured(config: dict[str, Any], cache: Path) -> list[list[Any]]:
    """The lines that a run adds to the costs of the cache, their seconds those of the processor.

    A run notes wall seconds; it has one thread, so that both differ only where others work, too.
    """
    kept = cache / KEPT
    before = len(kept.read_text("utf-8").splitlines()) if kept.exists() else 0
    began, spent = time.perf_counter(), time.process_time()
    config["protocol"] = {**config.get("protocol", {}), "queries": QUERIES}
    with tempfile.TemporaryDirectory() as folder:
        run(AttackExperiment(), AttackConfig.build(config), Path(folder) / "run")
    share = min(1.0, (time.process_time() - spent) / (time.perf_counter() - began))
    lines = kept.read_text("utf-8").splitlines()[before:]
    return [[*work, share * seconds] for *work, seconds in map(json.loads, lines)]


def trainings() -> Iterator[list[Any]]:
    """Lines for the victims of `victim_table.py`, on its smaller pictures."""
    rows = len(load_dataset("openmoji").train_labels)
    for row in json.loads((HERE / "victim_table.json").read_text("utf-8")):
        if row["dataset"] == "openmoji" and row["cpu_seconds"]:
            yield ["training", [row["victim"]], row["epochs"] * rows, row["cpu_seconds"]]


def main() -> None:
    rates: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ADVHASH_CACHE"] = folder
        lines = list(trainings())
        for config in configs():
            lines += measured(config, Path(folder))
            print(config["victim"]["name"], config["attack"]["name"], lines[-1], flush=True)
    for kind, names, amount, seconds in lines:
        rates.setdefault((kind, names[0]), []).append(seconds / amount)
    TABLE.write_text(
        "".join(
            json.dumps([kind, [name], 1, float(f"{sum(values) / len(values):.3g}")]) + "\n"
            for (kind, name), values in sorted(rates.items())
        ),
        "utf-8",
    )


if __name__ == "__main__":
    main()
