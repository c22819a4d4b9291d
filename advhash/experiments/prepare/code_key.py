"""The digest of the sources that determine cached results, one for each kind of thing."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

from advhash.victims.training.acceleration import asked_precision

# modules that lie in no folder
GROUND = ("budget", "chance", "errors", "registry", "shared_labels", "targets", "validation")
PREPARED = (  # what determines victims, fitted attacks and ceilings
    *("compute", "storage", "codes", "measures", "data", "functional"),
    *("victims", "attacks", "defenses", "experiments.prepare"),
)


@cache
def code_version(*folders: str) -> str:
    """Digest of torch, timm and all sources that determine a victim, a fitted attack, a ceiling.

    folders: packages of advhash that decide as well, e.g. `experiments.lifelong` over its cells.
    Pages, the command line and the Python API determine nothing that is kept.
    """
    digest = hashlib.sha256(f"torch {torch.__version__} timm {version('timm')}".encode())
    for file in _sources(*folders):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _sources(*folders: str) -> list[Path]:
    files = [_origin(name) for name in GROUND]
    for name in (*PREPARED, *folders):
        files += sorted(_origin(name).parent.rglob("*.py"))
    return files


def _origin(name: str) -> Path:
    spec = find_spec(f"advhash.{name}")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def same_code() -> dict[str, str]:
    """What the workers of a cluster must have in common with who asks them; see `run_tasks`."""
    return {"code": code_version(), "precision": asked_precision()}
