"""What an epoch of adversarial training costs beside one of plain training, in the same process.

    OMP_NUM_THREADS=1 python benchmarks/defense_cost.py     # 2 minutes; in `make bench`

Writes `benchmarks/defense_cost.json` and prints the ratios; asked: at most inner steps + 2.
"""

from __future__ import annotations

import json
from pathlib import Path

from advhash.attacks.base import AttackData
from advhash.budget import Budget
from advhash.datasets import load_dataset
from advhash.registry import DEFENSES, VICTIMS
from advhash.runs import environment

OUT = Path(__file__).with_suffix(".json")
EPOCHS = 3
PLANS = {
    "saat": {"steps": 7},
    "saat, preset=fast": {"preset": "fast"},
    "cgat": {"steps": 7},
    "atrdh": {"steps": 7},
}


def main() -> None:
    data = load_dataset("digits", {})
    settings = {**VICTIMS["dpsh"].build.data_arguments(data), "epochs": EPOCHS}
    victim = VICTIMS.create("dpsh", settings).fit(data, seed=0)
    plain = seconds(victim.history)
    codes = victim.database_codes(data, "image")
    seen = AttackData(data, codes, "image", "image")
    rows = []
    for name, given in PLANS.items():
        method = name.partition(",")[0]
        defense = DEFENSES.create(method, {**given, "epochs": EPOCHS, "warmup": 0.0})
        history = defense.harden(victim, seen, Budget("linf", 8 / 255)).history
        spent = seconds([row for row in history if row["phase"] == "harden image"])
        rows.append({"defense": name, "ratio": spent / plain, "most": defense.steps + 2})
        print(
            f"{name}: {spent / plain:.1f} times plain training (asked: at most {rows[-1]['most']})"
        )
    written = {"environment": environment(), "plain_seconds": plain, "rows": rows}
    OUT.write_text(json.dumps(written, indent=1) + "\n", "utf-8")


def seconds(history: list[dict[str, float | str]]) -> float:
    """Wall seconds an epoch, the first one left out: it warms up."""
    times = [float(row["seconds"]) for row in history]
    return (times[-1] - times[0]) / (len(times) - 1)


if __name__ == "__main__":
    main()
