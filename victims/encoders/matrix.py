"""A matrix that the user brings: what a system multiplies features with before it cuts them.

As NeuralHash does: 96 bits of 128 features, by a matrix in a file of its own.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.codes.stored_rows import PICKLES, loaded, member, reading
from advhash.errors import DataError
from advhash.storage.checkpoint import read_tensors
from advhash.storage.documents import check_archive, read_bytes
from advhash.storage.files import sha256

NEURAL_HASH = (96, 128)  # the matrix behind a header of 128 bytes in a .dat file
HEADER = 128
FORMATS = ".npy, .npz or .safetensors with one array, or NeuralHash's .dat"


def read_matrix(path: Path, features: int) -> Tensor:
    """(P,D) float32: P values, each a product with D features.

    Raises DataError, CheckpointError: no such file, another shape, numbers that are none.
    """
    values = _values(path)
    if values.shape[1] != features:
        turned = "; it is transposed: store its .T" if values.shape[0] == features else ""
        raise DataError(
            f"{path}: expected a matrix (P,{features}) for {features} features, got "
            f"{values.shape}{turned}"
        )
    if not np.isfinite(values).all():
        raise DataError(f"{path}: expected finite numbers, got NaN or infinity")
    return torch.from_numpy(values.astype(np.float32))


def matrix_facts(path: Path) -> str:
    """What a checkpoint and a key need to know of a file: its digest and its rows, as JSON."""
    rows = len(_values(path))
    return json.dumps({"rows": rows, "sha256": sha256(path)}, sort_keys=True)


def _values(path: Path) -> npt.NDArray[np.generic]:
    """The matrix of a file, of whatever shape. Raises DataError, CheckpointError."""
    values = _array(path)
    if values.ndim != 2 or values.dtype.kind not in "fiu" or not values.size:
        raise DataError(
            f"{path}: expected a matrix of numbers, P rows of as many as there are features, got "
            f"{values.dtype} {values.shape}"
        )
    return values


def _array(path: Path) -> npt.NDArray[np.generic]:
    suffix = path.suffix.lower()
    with reading(path):
        if suffix == ".npy":
            return loaded(path, None)
        if suffix == ".npz":
            return member(path, _only(path, check_archive(path)).removesuffix(".npy"))
        if suffix == ".safetensors":
            tensors = read_tensors(path)
            return tensors[_only(path, set(tensors))].float().numpy()
        if suffix == ".dat":
            return _neural_hash(path)
    advice = "; a pickle can run code and is not read" if suffix in PICKLES else ""
    raise DataError(f"{path}: expected a matrix in {FORMATS}{advice}")


def _only(path: Path, names: set[str]) -> str:
    if len(names) != 1:
        listed = ", ".join(sorted(names)[:6]) or "none"
        raise DataError(f"{path}: expected one array, the matrix, got {len(names)} ({listed})")
    return next(iter(names))


def _neural_hash(path: Path) -> npt.NDArray[np.float32]:
    """96 × 128 little-endian float32 behind 128 bytes that say something else."""
    rows, columns = NEURAL_HASH
    size = HEADER + rows * columns * 4
    if path.stat().st_size != size:
        raise DataError(
            f"{path}: expected {size:,} bytes, a header of {HEADER} and {rows}×{columns} float32 "
            f"as in NeuralHash's file, got {path.stat().st_size:,}; store others as .npy"
        )
    content = read_bytes(path, size)
    return np.frombuffer(content, "<f4", offset=HEADER).reshape(rows, columns)
