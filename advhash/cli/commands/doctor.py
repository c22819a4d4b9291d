"""`advhash doctor`: what is installed, what clashes, where things go."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from importlib.util import find_spec
from typing import Literal

import torch
from packaging.requirements import Requirement

from advhash import __version__
from advhash.storage.cache import cache_root

Finding = dict[str, str]
_FREE = 2 * 2**30  # bytes that training and rendering want
DISTRIBUTION = "advhash-toolkit"
EXTRAS = {  # what users get by each extra; those of developers are not told
    "distributed": "--executor dask:tcp://…",
    "faiss": "codes in faiss index files",
    "hf": "encoders of transformers as victims",
    "mat": "data sets in MATLAB 7.3 files",
    "onnx": "models in ONNX files as victims",
    "perceptual": "the packages that perceptual hashes are compared with",
    "pretrained": "ImageNet weights of EfficientNet-Lite0",
    "sentence": "sentence embeddings of MiniLM",
    "stores": "usearch, SQLite and PostgreSQL with pgvector as stores of codes",
}


def _finding(level: Literal["ok", "warning", "error"], subject: str, message: str) -> Finding:
    return {"level": level, "subject": subject, "message": message}


def examine() -> list[Finding]:
    """All findings, worst ones included; nothing is changed."""
    packages = [_torchattacks(), _requests(), *_extras()]
    return [_advhash(), _name_clash(), *_torch(), *packages, _cache()]


def _advhash() -> Finding:
    return _finding("ok", "advhash", f"{__version__} on Python {sys.version.split()[0]}")


def _name_clash() -> Finding:
    """PyPI's `advhash` is an unrelated GPL package with the same import name."""
    try:
        other = distribution("advhash")
    except PackageNotFoundError:
        return _finding("ok", "name", "no other package called advhash is installed")
    return _finding(
        "error",
        "name",
        f"the unrelated package advhash {other.version} is installed under the same import name: "
        "run `pip uninstall advhash` and install this one again",
    )


def _torch() -> list[Finding]:
    findings = [_finding("ok", "torch", f"{torch.__version__}, {torch.get_num_threads()} threads")]
    if torch.cuda.is_available():
        findings.append(_finding("ok", "gpu", torch.cuda.get_device_name()))
    else:
        findings.append(_finding("ok", "gpu", "none found: everything runs on the CPU"))
    return findings


def _torchattacks() -> Finding:
    line = "pip install --no-deps torchattacks==3.5.1"
    if find_spec("torchattacks") is None:
        return _finding("warning", "torchattacks", f"not installed (optional): {line}")
    return _finding("ok", "torchattacks", version("torchattacks"))


def _requests() -> Finding:
    """torchattacks pins a `requests` with known holes, which it never imports."""
    try:
        installed = version("requests")
    except PackageNotFoundError:
        return _finding("ok", "requests", "not installed, and not needed")
    if tuple(int(part) for part in installed.split(".")[:2]) < (2, 32):
        return _finding(
            "warning",
            "requests",
            f"{installed} is old, probably pulled in by torchattacks: `pip install -U requests`",
        )
    return _finding("ok", "requests", installed)


def _extras() -> list[Finding]:
    """What each extra adds, and whether its packages are there."""
    findings = []
    try:
        listed = [Requirement(text) for text in requires(DISTRIBUTION) or []]
    except PackageNotFoundError:  # run from a checkout that is not installed
        return []
    for extra, adds in EXTRAS.items():
        wanted = [
            need.name
            for need in listed
            if need.marker is not None
            and need.marker.evaluate({"extra": extra})
            and not need.marker.evaluate({"extra": ""})
        ]
        missing = [name for name in wanted if not _has(name)]
        how = f"not installed, adds {adds}: pip install '{DISTRIBUTION}[{extra}]'"
        findings.append(_finding("ok", extra, how if missing else f"installed: {adds}"))
    return findings


def _has(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _cache() -> Finding:
    root = cache_root()
    existing = next(path for path in (root, *root.parents) if path.exists())
    if not os.access(existing, os.W_OK):
        return _finding("error", "cache", f"{root} cannot be written: set ADVHASH_CACHE")
    free = shutil.disk_usage(existing).free
    used = sum(file.stat().st_size for file in root.rglob("*") if file.is_file())
    message = f"{root}: {used / 2**20:.0f} MiB used, {free / 2**30:.1f} GiB free"
    return _finding("ok" if free > _FREE else "warning", "cache", message)
