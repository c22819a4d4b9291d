"""The scripts of benchmarks/, as what they define: they import each other as scripts do."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


def load_script(name: str) -> dict[str, Any]:
    """What `benchmarks/NAME` defines, without running it."""
    with patch.object(sys, "path", [str(FOLDER), *sys.path]):
        return runpy.run_path(str(FOLDER / name))
