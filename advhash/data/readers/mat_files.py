"""Variables of MATLAB files, of MATLAB 5 (through SciPy) and of MATLAB 7.3 (HDF5, through h5py)."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.io
import scipy.sparse

from advhash.errors import DataError
from advhash.storage.documents import check_unpacked, open_file, reason

HDF5 = b"\x89HDF\r\n\x1a\n"
HDF5_OFFSETS = (0, 512)  # MATLAB puts 512 bytes of its own before it
BYTES = dict.fromkeys(("int8", "uint8", "logical"), 1) | {"int16": 2, "uint16": 2, "char": 4}
CHUNKS = 256 * 2**20  # bytes of unpacked chunks that h5py keeps: rows are read in order


@dataclass(frozen=True)
class Variable:
    """One variable of a MATLAB file.

    read: all of it or, with a number, one slice along the first or the last axis
    reversed: its axes are in the opposite order to MATLAB's
    """

    where: str
    shape: tuple[int, ...]
    read: Callable[..., npt.NDArray[Any]]
    strings: Callable[[], list[str]]
    reversed: bool


@contextmanager
def variables(file: Path) -> Iterator[dict[str, Variable]]:
    """The variables of a MATLAB file by name, open as long as the context. Raises DataError."""
    try:
        with open_file(file) as stream:
            head = stream.read(max(HDF5_OFFSETS) + len(HDF5))
    except OSError as error:
        raise DataError(f"expected a MATLAB file {file}, got: {reason(error)}") from None
    if any(head[start : start + len(HDF5)] == HDF5 for start in HDF5_OFFSETS):
        with _hdf5(file) as variables:
            yield variables
    else:
        yield _matlab5(file)


def _matlab5(file: Path) -> dict[str, Variable]:
    try:
        listed = scipy.io.whosmat(file)
    except Exception as error:  # SciPy's reader raises whatever broken bytes lead it to
        raise DataError(f"expected a MATLAB file {file}, got: {reason(error)}") from None
    return {name: _matlab5_variable(file, name, shape, kind) for name, shape, kind in listed}


def _matlab5_variable(file: Path, name: str, shape: tuple[int, ...], kind: str) -> Variable:
    loading = threading.Lock()  # or each of several threads would load all of it

    @functools.cache
    def whole() -> npt.NDArray[Any]:
        try:
            check_unpacked(math.prod(shape) * BYTES.get(kind, 8))
            array = scipy.io.loadmat(file, variable_names=[name])[name]
        except Exception as error:
            raise DataError(
                f"expected {name} in the MATLAB file {file}, got: {reason(error)}"
            ) from None
        return np.asarray(array.toarray() if scipy.sparse.issparse(array) else array)

    def read(row: int | None = None, axis: int = 0) -> npt.NDArray[Any]:
        with loading:
            values = whole()
        return values if row is None else np.take(values, row, axis)

    def strings() -> list[str]:
        return [str(np.ravel(cell)[0]) if np.size(cell) else "" for cell in whole().ravel()]

    return Variable(f"{file}:{name}", tuple(shape), read, strings, reversed=False)


@contextmanager
def _hdf5(file: Path) -> Iterator[dict[str, Variable]]:
    try:
        import h5py
    except ImportError:
        raise DataError(
            f"expected h5py to read {file} (MATLAB 7.3): pip install 'advhash-toolkit[mat]'"
        ) from None
    try:
        opened = h5py.File(file, "r", rdcc_nbytes=CHUNKS)
    except Exception as error:  # broken bytes lead h5py to any of them
        raise DataError(f"expected a MATLAB 7.3 file {file}, got: {reason(error)}") from None
    with opened:
        try:
            variables = {
                name: _hdf5_variable(opened, f"{file}:{name}", value)
                for name, value in opened.items()
                if isinstance(value, h5py.Dataset) and value.shape is not None
            }
        except Exception as error:
            raise DataError(f"expected a MATLAB 7.3 file {file}, got: {reason(error)}") from None
        yield variables


def _hdf5_variable(opened: Any, where: str, stored: Any) -> Variable:
    def read(row: int | None = None, axis: int = 0) -> npt.NDArray[Any]:
        try:
            # what a file leaves out it need not hold: shapes cost it nothing
            check_unpacked(stored.nbytes if row is None else stored.nbytes // stored.shape[axis])
            if row is None:
                return np.asarray(stored[()])
            return np.asarray(stored[row] if axis == 0 else stored[..., row])
        except Exception as error:
            raise DataError(f"expected whole data in {where}, got: {reason(error)}") from None

    def strings() -> list[str]:
        try:
            check_unpacked(stored.nbytes)
            cells = [opened[cell] for cell in stored[()].ravel()]
            check_unpacked(sum(cell.nbytes for cell in cells))
            return ["".join(map(chr, cell[()].ravel())) for cell in cells]
        except Exception as error:
            raise DataError(
                f"expected a cell array of names in {where}, got: {reason(error)}"
            ) from None

    reversed_ = "MATLAB_class" in stored.attrs
    return Variable(where, tuple(stored.shape), read, strings, reversed=reversed_)
