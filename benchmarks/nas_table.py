"""Train every distinct cell of `advhash.functional.nas` and pack the table that searches look up.

    OMP_NUM_THREADS=1 python benchmarks/nas_table.py                  # what is missing, then pack
    OMP_NUM_THREADS=1 python benchmarks/nas_table.py --vertices 4 --out /tmp/small.json.gz

2,559 cells × (3 trainings and a short one): about 5,000 seconds of processor time, shared by as
many processes as there are cores. Finished cells are appended to `--rows`, so it can be stopped
and started again; seconds are processor time, as cores may be shared with other work.
"""

from __future__ import annotations

import argparse
import functools
import gzip
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from advhash.compute.executor import run_tasks
from advhash.functional.nas import SCHEMA, TABLE, distinct_cells
from advhash.functional.nas_training import TrainingProtocol, trained_cell
from advhash.storage.cache import cache_root

CHUNK = 100  # cells between two writes
PLACE = Path("advhash") / TABLE.name


def row(name: str, protocol: TrainingProtocol) -> dict[str, Any]:
    """One cell, on one thread."""
    torch.set_num_threads(1)
    return {"name": name, **trained_cell(name, protocol)}


def finished(file: Path, protocol: TrainingProtocol) -> dict[str, Any]:
    """The rows of an earlier start under the same protocol; a line cut off by a kill is dropped."""
    rows: dict[str, Any] = {}
    if file.is_file():
        for line in file.read_text("utf-8").splitlines():
            try:
                found = json.loads(line)
            except json.JSONDecodeError:
                continue
            if found.pop("protocol") == json.loads(json.dumps(asdict(protocol))):
                rows[found.pop("name")] = found
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--vertices", type=int, default=5, choices=(3, 4, 5))
    parser.add_argument("--rows", type=Path, default=cache_root() / "nas_rows.jsonl")
    parser.add_argument("--out", type=Path, default=PLACE)
    parser.add_argument("--executor", default="local")
    given = parser.parse_args()
    protocol, cells = TrainingProtocol(), list(distinct_cells(given.vertices))
    rows = finished(given.rows, protocol)
    missing = [name for name in cells if name not in rows]
    given.rows.parent.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(missing), CHUNK):
        chunk = missing[start : start + CHUNK]
        done = run_tasks(given.executor, functools.partial(row, protocol=protocol), chunk)
        with given.rows.open("a", encoding="utf-8") as file:
            file.writelines(
                json.dumps({"protocol": asdict(protocol), **one}) + "\n" for one in done
            )
        rows |= {one.pop("name"): one for one in done}
        sys.stderr.write(f"{start + len(chunk)} of {len(missing)} cells\n")
    table = {
        "schema": SCHEMA,
        "protocol": asdict(protocol),
        "cells": {name: rows[name] for name in cells},
    }
    given.out.write_bytes(gzip.compress(json.dumps(table).encode(), mtime=0))
    sys.stderr.write(f"{len(cells)} cells in {given.out}, {given.out.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
