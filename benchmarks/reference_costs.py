"""What victims' trainings and attacks take, for `--dry-run` on a machine without history.

Each runs once with its defaults and a few queries, in a process of its own. The medians of what
they noted become `advhash/experiments/reference_costs.jsonl`: processor seconds for each training,
fit and attack by name. Writes what is measured beside itself, so that it can be stopped and
started again. About 40 minutes of one core:

    OMP_NUM_THREADS=1 python benchmarks/reference_costs.py [--only NAME ...]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from advhash.attacks.base import Attack
from advhash.experiments.costs import KEPT, REFERENCE
from advhash.registry import ATTACKS, VICTIMS

OUT = Path(__file__).with_suffix(".json")
TABLE = OUT.parents[1] / "advhash/experiments" / REFERENCE
QUERIES = "20"
UNNAMED = {"encoder"}  # of others: their cost is that of the network that the user names
HASHES = ("pdq", "phash", "dhash")


def commands() -> dict[str, list[str]]:
    """The command that measures each victim and attack."""
    found = {
        f"victim {name}": ["attack", "--victim", name, "--method", "noise", "--queries", QUERIES]
        for name in VICTIMS.names()
        if name not in UNNAMED and name not in HASHES
    }
    for name in ATTACKS.names():
        attack: type[Attack] = ATTACKS[name].build  # type: ignore[assignment]
        words = "image" not in attack.modalities
        hashed = name in ("collision", "evasion")
        victim = "phash" if hashed else "dlcmh"
        given = ["attack", "--victim", victim, "--method", name, "--queries", QUERIES]
        if words:
            given += ["--query-modality", "text", "--norm", "l0", "--eps", "2"]
        elif name != "prosgan":
            given += ["--eps", "8/255"]
        found[f"attack {name}"] = given
    return found


def measured(given: list[str], shared: Path) -> list[list[object]]:
    """The lines that a command adds to the costs of a cache, their seconds those of the processor.

    A command notes wall seconds; it has one thread, so that both differ where others work, too.
    """
    environment = {**os.environ, "ADVHASH_CACHE": str(shared), "OMP_NUM_THREADS": "1"}
    kept = shared / KEPT
    began, spent = time.perf_counter(), _spent()
    before = len(kept.read_text("utf-8").splitlines()) if kept.exists() else 0
    with tempfile.TemporaryDirectory() as folder:
        out = ["--out", str(Path(folder) / "run")]
        subprocess.run(
            [sys.executable, "-m", "advhash", *given, *out], env=environment, check=True,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
    lines = kept.read_text("utf-8").splitlines() if kept.exists() else []
    share = min(1.0, (_spent() - spent) / (time.perf_counter() - began))
    noted = [json.loads(line) for line in lines[before:]]
    return [[*work, round(share * seconds, 4)] for *work, seconds in noted]


def _spent() -> float:
    """Processor seconds of the commands that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def write_table(kept: dict[str, list[list[object]]]) -> None:
    """A line for each kind of work and first name: the median of seconds for one unit."""
    rates: dict[tuple[str, str], list[float]] = {}
    for lines in kept.values():
        for kind, names, amount, seconds in lines:
            first = str(names[0])  # type: ignore[index]
            rates.setdefault((str(kind), first), []).append(float(seconds) / float(amount))  # type: ignore[arg-type]
    rows = [
        json.dumps([kind, [name], 1, float(f"{statistics.median(values):.3g}")])
        for (kind, name), values in sorted(rates.items())
    ]
    TABLE.write_text("\n".join(rows) + "\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", help="measure these again, e.g. “attack dhta”")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "reference")
    given = parser.parse_args()
    kept: dict[str, list[list[object]]] = json.loads(OUT.read_text("utf-8")) if OUT.exists() else {}
    for name, command in commands().items():
        if name not in (given.only or []) and (given.only or name in kept):
            continue
        try:
            kept[name] = measured(command, given.cache)
        except subprocess.CalledProcessError as error:
            print(f"{name}: exit code {error.returncode}: {' '.join(command)}", flush=True)
            continue
        OUT.write_text(json.dumps(kept, indent=1) + "\n", "utf-8")
        print(f"{name}: {kept[name]}", flush=True)
    write_table(kept)


if __name__ == "__main__":
    main()
