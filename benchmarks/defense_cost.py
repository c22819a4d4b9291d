"""What an epoch of adversarial training costs beside one of plain training, in the same process.

    OMP_NUM_THREADS=1 python benchmarks/defense_cost.py     # 2 minutes; in `make bench`

CPU seconds of as many epochs as `atrdh` keeps a PrototypeNet, its fit among them. Writes
`benchmarks/defense_cost.json` and prints the ratios; asked: at most inner steps + 2.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

from advhash.attacks.base import AttackData
from advhash.budget import Budget
from advhash.data.load import load_dataset
from advhash.registry import DEFENSES, VICTIMS
from advhash.storage.run_folder import environment
from advhash.victims.base import HashVictim

OUT = Path(__file__).with_suffix(".json")
EPOCHS = 5  # `refresh` of atrdh
BALL = Budget("linf", 8 / 255)
PLANS = {
    "saat": {"steps": 7},
    "saat, preset=fast": {"preset": "fast"},
    "cgat": {"steps": 7},
    "atrdh": {"steps": 7},
}


def main() -> None:
    data = load_dataset("digits", {})
    settings = {**VICTIMS["dpsh"].build.data_arguments(data), "epochs": EPOCHS}
    VICTIMS.create("dpsh", {**settings, "epochs": 1}).fit(data, seed=0)  # warms up
    victim: HashVictim = VICTIMS.create("dpsh", settings)
    plain = seconds(lambda: victim.fit(data, seed=0))
    codes = victim.database_codes(data, "image")
    seen = AttackData(data, codes, "image", "image")
    rows = []
    for name, given in PLANS.items():
        method = name.partition(",")[0]
        defense = DEFENSES.create(method, {**given, "epochs": EPOCHS, "warmup": 0.0})
        spent = seconds(lambda one=defense: one.harden(victim, seen, BALL))
        rows.append({"defense": name, "ratio": spent / plain, "most": defense.steps + 2})
        print(
            f"{name}: {spent / plain:.1f} times plain training (asked: at most {rows[-1]['most']})"
        )
    written = {"environment": environment(), "plain_seconds": plain, "rows": rows}
    OUT.write_text(json.dumps(written, indent=1) + "\n", "utf-8")


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds an epoch."""
    began = time.process_time()
    work()
    return (time.process_time() - began) / EPOCHS


if __name__ == "__main__":
    main()
