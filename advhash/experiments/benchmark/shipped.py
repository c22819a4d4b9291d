"""Suites by their names: those that come with the package, and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from advhash.errors import UsageError, nearest
from advhash.experiments.config_text import read_toml
from advhash.storage.places import user_path

SHIPPED = Path(__file__).with_name("suites")


def shipped_suites() -> list[str]:
    """Names of the suites that come with the package."""
    return sorted(file.stem for file in SHIPPED.glob("*.toml"))


def load_suite(name: str) -> dict[str, Any]:
    """The tables of a suite: one that is shipped, or a file. Raises UsageError, ConfigError."""
    if name in shipped_suites():
        return read_toml(SHIPPED / f"{name}.toml")
    file = user_path(name)
    if not file.is_file():
        got = "a folder" if file.is_dir() else "no such file"
        raise UsageError(
            f"--suite: expected a file or one of {', '.join(shipped_suites())}, got {name!r}: "
            f"{nearest(name, shipped_suites())}{got}"
        )
    return read_toml(file)
