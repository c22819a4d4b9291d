"""MAP of every victim at several code lengths: `docs/victims/table.md`.

Cell by cell, so that it can be stopped and started again: finished cells of
`benchmarks/victim_table.json` are kept, unless `--again`. A victim that cannot read a data set has
no cell there. About 100 minutes of one core with the defaults; cifar10 and
flickr8k are left out where ADVHASH_DATA has them not:

    OMP_NUM_THREADS=1 python benchmarks/victim_table.py [--datasets digits openmoji]
        [--victims dpsh dph hashnet csq dlcmh dcmh] [--bits 16 32 64] [--seed 0] [--again]
    python benchmarks/victim_table.py --page    # only write the page from the json
"""

from __future__ import annotations

import argparse
import json
import time
from itertools import product
from pathlib import Path
from typing import Any

from advhash.cli.console import progress_display
from advhash.errors import DataError
from advhash.experiments.config import TrainConfig
from advhash.experiments.prepare.victim import train
from advhash.storage.run_folder import environment

OUT = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parent.parent / "docs/victims/table.md"
VICTIMS = ["dpsh", "dph", "hashnet", "csq", "dlcmh", "dcmh"]
EPOCHS = {"digits": 12, "openmoji": 60, "cifar10": 30, "flickr8k": 30}  # of image hashes
DATASETS: dict[str, dict[str, object]] = {
    "digits": {},
    "openmoji": {},
    "cifar10": {},
    "flickr8k": {},
}
PRESETS = {"flickr8k": "pretrained"}  # of all victims there
NOTES = {
    "cifar10": "The 20,000 recompressed photographs of `../shared/data`: not comparable with "
    "published figures.",
    "flickr8k": "64 px, `preset=pretrained`: a linear layer (and the text network) over the "
    "features of EfficientNet-Lite0.",
}
IMAGE_HASHES = {"dpsh", "dph", "hashnet", "csq"}
Cell = dict[str, Any]
HEAD = """# Measured: MAP of all victims

Mean average precision of the query split, full ranking, expected ties, with its 95 % BCa interval
over queries. One training a cell, seed {seed}; a seed moves MAP as well, which the intervals do not
show. Default settings except for bits and epochs, and as noted. Without a note the networks start
from random weights. Seconds are CPU time of one thread, figures and checks included, at the longest
code.

Again: `OMP_NUM_THREADS=1 python benchmarks/victim_table.py`, which also writes this page.
`tests/test_measured.py` compares it with `benchmarks/victim_table.json`.
"""


def measure(dataset: str, victim: str, bits: int, seed: int) -> Cell:
    """Train one victim, or take it from the cache. Raises DataError: it cannot read these data."""
    settings: dict[str, object] = {"epochs": EPOCHS[dataset]} if victim in IMAGE_HASHES else {}
    if dataset in PRESETS:
        settings["preset"] = PRESETS[dataset]
    config = TrainConfig.build(
        {
            "seed": seed,
            "dataset": {"name": dataset, **DATASETS[dataset]},
            "victim": {"name": victim, "bits": bits, **settings},
        }
    )
    began = time.process_time()
    with progress_display() as progress:
        trained = train(config, progress)
    card = trained.card
    here: dict[str, Any] = environment()
    return {
        "dataset": dataset,
        "victim": victim,
        "bits": bits,
        "seed": seed,
        "epochs": card["settings"]["epochs"],
        "cpu_seconds": None if trained.cached else round(time.process_time() - began, 1),
        "metrics": card["metrics"],
        "codes": card["codes"],
        "flags": [flag["name"] for flag in card["flags"]],
        "threads": here["threads"],
        "packages": {name: here["packages"][name] for name in ("torch", "timm")},
    }


def page(cells: list[Cell]) -> str:
    """The Markdown page: a table a data set, a row a victim and direction, a column a length."""
    parts = [HEAD.format(seed=cells[0]["seed"])]
    for dataset in [name for name in DATASETS if any(c["dataset"] == name for c in cells)]:
        here = [cell for cell in cells if cell["dataset"] == dataset]
        lengths = sorted({cell["bits"] for cell in here})
        chance = here[0]["metrics"]["map_chance"]["value"]
        note = f" {NOTES[dataset]}" if dataset in NOTES else ""
        parts.append(f"## {dataset}\n\nChance: {chance:.3f}.{note}\n")
        head = ["victim", "query → database", *(f"{bits} bits" for bits in lengths)]
        lines = [[*head, "epochs", "seconds"], ["---"] * (len(head) + 2)]
        for victim in sorted({cell["victim"] for cell in here}, key=place):
            row = {cell["bits"]: cell for cell in here if cell["victim"] == victim}
            longest = row[max(row)]
            seconds = longest["cpu_seconds"]
            lines += [
                [
                    f"`{victim}`",
                    " → ".join(key.split("_")[1:]),
                    *(figure(row[bits]["metrics"][key]) if bits in row else "" for bits in lengths),
                    str(longest["epochs"]),
                    "" if seconds is None else f"{seconds:.0f}",
                ]
                for key in longest["metrics"]
                if key != "map_chance" and not key.endswith("_untrained")
            ]
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n")
    return "\n".join(parts)


def place(victim: str) -> tuple[int, str]:
    return (VICTIMS.index(victim) if victim in VICTIMS else len(VICTIMS), victim)


def figure(metric: dict[str, float]) -> str:
    return f"{metric['value']:.3f} [{metric['low']:.3f}, {metric['high']:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", nargs="+", default=list(DATASETS))
    parser.add_argument("--victims", nargs="+", default=VICTIMS)
    parser.add_argument("--bits", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="measure finished cells again")
    parser.add_argument("--page", action="store_true", help="write the page only")
    given = parser.parse_args()
    cells: list[Cell] = json.loads(OUT.read_text()) if OUT.is_file() else []
    wanted = [] if given.page else list(product(given.datasets, given.victims, given.bits))
    for dataset, victim, bits in wanted:
        name = (dataset, victim, bits, given.seed)
        same = [c for c in cells if (c["dataset"], c["victim"], c["bits"], c["seed"]) == name]
        if same and not given.again:
            continue
        try:
            cell = measure(*name)
        except DataError as error:
            print(f"{victim} on {dataset}: {error}")
            continue
        cells = [c for c in cells if c not in same] + [cell]
        partial = OUT.with_suffix(".partial")
        partial.write_text(json.dumps(cells, indent=1) + "\n")
        partial.replace(OUT)
        value = {k: round(m["value"], 3) for k, m in cell["metrics"].items()}
        print(dataset, victim, bits, value, cell["flags"], flush=True)
    if cells:
        PAGE.write_text(page([cell for cell in cells if cell["seed"] == given.seed]))


if __name__ == "__main__":
    main()
