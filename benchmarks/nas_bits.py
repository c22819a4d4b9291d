"""Collisions and splits of cells by bits of the mantissa, over the table or what is trained of it.

    python benchmarks/nas_bits.py                                     # the packaged table
    python benchmarks/nas_bits.py --rows ~/.cache/advhash/nas_rows.jsonl     # while it is trained

Collided: share of cells that share a key with another function. Split: share of functions, of those
that several cells write, with several keys. Printed for losses and for accuracies.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from advhash.functional.nas import CellDomain, read_table
from advhash.functional.nas_training import TrainingProtocol

BITS = (1, 3, 5, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 20, 22, 24)


def trained_rows(file: Path) -> dict[str, Any]:
    """The cells of a file of rows under today's protocol; a line that is being written is left."""
    protocol, cells = json.loads(json.dumps(asdict(TrainingProtocol()))), {}
    for line in file.read_text("utf-8").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if row.pop("protocol") == protocol:
            cells[row.pop("name")] = row
    return {"cells": cells}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", type=Path, default=None)
    parser.add_argument("--rows", type=Path, default=None)
    given = parser.parse_args()
    table = read_table(given.table) if given.rows is None else trained_rows(given.rows)
    for keyed in ("losses", "accuracies"):
        found = CellDomain(table, keyed=keyed).study(BITS)
        sys.stdout.write(f"{keyed} of {len(table['cells'])} cells\n")
        sys.stdout.write(
            "| bits | keys | cells a key | collided | split |\n|---|---|---|---|---|\n"
        )
        for row in found:
            sys.stdout.write(
                f"| {row['bits']:.0f} | {row['keys']:.0f} | {row['cells_per_key']:.2f} | "
                f"{100 * row['collided']:.1f} % | {100 * row['split']:.1f} % |\n"
            )


if __name__ == "__main__":
    main()
