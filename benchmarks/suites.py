"""Suites: how long they take on one worker and on two, and how a page of 10,000 cells opens.

Each suite runs once with each number of workers (one torch thread each), all from an empty cache,
so trainings count; figures must be the same. The page is that of `smoke` with its rows and cells
repeated under other names; it is opened by headless Chromium, drawn and closed. Keep the machine
quiet: seconds are of the wall. `small` takes three quarters of an hour for both, the rest five
minutes:

    python benchmarks/suites.py [--suites smoke small] [--workers 1 2]
    python benchmarks/suites.py --page    # only write the page from the json
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from advhash.reports.benchmark import BenchmarkRecord
from advhash.reports.page.render import render
from advhash.storage.run_folder import environment

OUT = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parent.parent / "docs/benchmark_measured.md"
CELLS = 10_000
FIGURES = ("map", "map_adversarial", "tmap", "tmap_clean", "l2")
HEAD = """# Measured: suites

Written by `python benchmarks/suites.py`, which keeps the figures in `benchmarks/suites.json`.
Seconds of the wall on {cores} cores ({machine}), each run from an empty cache, trainings included,
one torch thread a worker.

| suite | cells | workers | seconds | share of one worker's time | failed |
| --- | --- | --- | --- | --- | --- |
"""


def run_suite(name: str, workers: int, folder: Path) -> dict[str, Any]:
    """One run from an empty cache, and the figures of its cells."""
    variables = {
        **os.environ,
        "ADVHASH_CACHE": str(folder / "cache"),
        "NUMBA_NUM_THREADS": str(workers),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "advhash", "benchmark", "--suite", name, "-q"]
    began = time.perf_counter()
    subprocess.run(
        [*command, "--executor", "local", "--out", str(folder / "run")], env=variables, check=True
    )
    seconds = time.perf_counter() - began
    record = BenchmarkRecord.read(folder / "run")
    return {
        "workers": workers,
        "seconds": round(seconds, 1),
        "cells": len(record.cells),
        "failed": len(record.failed),
        "figures": {
            cell.key: {key: cell.figures.get(key) for key in FIGURES} for cell in record.cells
        },
    }


def enlarged(record: BenchmarkRecord, folder: Path) -> Path:
    """A run folder with the cells and rows of a suite, repeated to `CELLS` under other names."""
    copies = -(-CELLS // len(record.cells))
    names = [f" copy {number}" for number in range(copies)]
    large = record.model_copy(
        update={
            "cells": [
                cell.model_copy(
                    update={"key": f"{cell.key}{name}", "victim": f"{cell.victim}{name}"}
                )
                for name in names
                for cell in record.cells
            ],
            "rows": [
                row.model_copy(update={"victim": f"{row.victim}{name}"})
                for name in names
                for row in record.rows
            ],
        }
    )
    folder.mkdir()
    (folder / "metrics.json").write_text(large.dumps(), "utf-8")
    return folder


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return round(time.perf_counter() - began, 2)


def opened(page: str) -> float:
    """Seconds from the start of the browser to its end, the page drawn in between."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            f"--user-data-dir={folder}/profile", "--window-size=1200,2000",
            f"--screenshot={folder}/page.png", page,
        ]  # fmt: skip
        return timed(lambda: subprocess.run(command, check=True, capture_output=True))


def large_page(record: BenchmarkRecord) -> dict[str, Any]:
    """Size and seconds of a page with `CELLS` cells."""
    with tempfile.TemporaryDirectory() as place:
        folder = enlarged(record, Path(place) / "run")
        page = folder / "report.html"
        written = timed(lambda: render([folder], page))
        return {
            "cells": len(BenchmarkRecord.read(folder).cells),
            "bytes": page.stat().st_size,
            "seconds_written": written,
            "seconds_opened": opened(page.as_uri()),
            "seconds_empty_page": opened("about:blank"),
        }


def page(found: dict[str, Any]) -> str:
    """The Markdown page."""
    cores = found["cores"]
    lines = [HEAD.format(cores=cores, machine=found["environment"]["machine"])]
    for name, runs in found["suites"].items():
        alone = [run["seconds"] for run in runs if run["workers"] == 1]
        for run in sorted(runs, key=lambda one: int(one["workers"])):
            cells = [
                *(f"`{name}`", str(run["cells"]), str(run["workers"]), f"{run['seconds']:.0f}"),
                f"{run['seconds'] / alone[0]:.2f}" if alone else "–",
                str(run["failed"]),
            ]
            lines.append("| " + " | ".join(cells) + " |\n")
    if any(len(runs) > 1 for runs in found["suites"].values()):
        lines.append("\nFigures of the cells are the same with one worker and with two.\n")
    large = found.get("page")
    if large:
        size, written, drawn, empty = (
            large[key]
            for key in ("bytes", "seconds_written", "seconds_opened", "seconds_empty_page")
        )
        lines.append(
            f"\nA page of {large['cells']:,} cells has {size / 1e6:.1f} MB (asked: under 20), "
            f"written in {written:.1f} s. Chromium starts, opens it, draws it and ends in "
            f"{drawn:.1f} s (asked: under 10), with an empty page in {empty:.1f} s.\n"
        )
    return "".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suites", nargs="+", default=["smoke", "small"])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    found: dict[str, Any] = json.loads(OUT.read_text("utf-8")) if OUT.exists() else {"suites": {}}
    for name in [] if given.page else given.suites:
        runs = []
        for workers in given.workers:
            with tempfile.TemporaryDirectory() as folder:
                runs.append(run_suite(name, workers, Path(folder)))
                if name == "smoke" and shutil.which("chromium"):
                    found["page"] = large_page(BenchmarkRecord.read(Path(folder) / "run"))
        figures = [run.pop("figures") for run in runs]
        if any(one != figures[0] for one in figures):
            sys.exit(f"{name}: figures differ with the number of workers")
        found["suites"][name] = runs
        found.update(environment=environment(), cores=len(os.sched_getaffinity(0)))
        OUT.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    PAGE.write_text(page(found), "utf-8")


if __name__ == "__main__":
    main()
