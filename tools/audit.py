"""Ask pip-audit whether a version in requirements.lock has a known hole.

    python tools/audit.py            audit; exit 1 for a hole, 0 where no database answers
    python tools/audit.py --lock     write the versions that are installed here, with the date

Where no database can be reached, the lock itself is the dated note of what was tested.
"""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
PLACE = ROOT / "build" / "audit"  # pip-audit has dependencies of its own, which are none of ours


def verdict(found: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Exit code and lines for what pip-audit printed as JSON."""
    lines, asked = [], 0
    for package in found["dependencies"]:
        asked += "skip_reason" not in package
        for hole in package.get("vulns", []):
            fixed = ", ".join(hole["fix_versions"]) or "none yet"
            lines.append(f"{package['name']} {package['version']}: {hole['id']}, fixed in: {fixed}")
    if lines:
        return 1, lines
    if not asked:
        return 0, [f"no database answered: nothing is known beyond the dated {LOCK.name}"]
    left = len(found["dependencies"]) - asked
    return 0, [f"{asked} packages without a known hole, {left} unknown to the database"]


def audit() -> int:
    """Audit the lock with pip-audit in an environment of its own."""
    if not (PLACE / "bin" / "pip-audit").exists():
        venv.create(PLACE, with_pip=True)
        pip = [str(PLACE / "bin" / "pip"), "install", "--quiet", "pip-audit"]
        if subprocess.run(pip, check=False).returncode:
            sys.stdout.write(f"no package index answered: see the dated {LOCK.name}\n")
            return 0
    command = [str(PLACE / "bin" / "pip-audit"), "--disable-pip", "--no-deps", "--format", "json"]
    done = subprocess.run([*command, "--requirement", LOCK], capture_output=True, text=True)
    try:
        code, lines = verdict(json.loads(done.stdout))
    except ValueError:  # it printed no JSON: the database did not answer at all
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        code, lines = 0, [f"no database answered ({reason}): see the dated {LOCK.name}"]
    sys.stdout.writelines(f"{line}\n" for line in lines)
    return code


def lock() -> int:
    """Write the versions of what is installed beside this Python."""
    freeze = [sys.executable, "-m", "pip", "freeze", "--exclude-editable"]
    versions = subprocess.run(freeze, check=True, capture_output=True, text=True).stdout
    now, python = datetime.now(UTC).date(), sys.version.split()[0]
    head = f"# Tested on {now} with Python {python}; written by `python tools/audit.py --lock`.\n"
    LOCK.write_text(head + versions)
    return 0


if __name__ == "__main__":
    sys.exit(lock() if "--lock" in sys.argv[1:] else audit())
