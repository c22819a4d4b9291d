"""Files of codes with labels: our own format, and NumPy and text files from anyone's model.

A `.codes` file can be mapped into memory, so that a gallery need not fit. All numbers are
little-endian:

    offset  size  what
    0       8     "ADVHCODE"
    8       4     version, 1
    12      4     K, bits of a code
    16      8     M, rows
    24      4     C, classes (columns of labels)
    28      4     0: labels are multi-hot; 1: they were class numbers
    32      32    SHA-256 of everything from offset 64 on
    64      8·M·⌈K/64⌉  code words: bit k of a row is bit k mod 64 of its word ⌊k/64⌋; unused bits 0
    …       8·M·⌈C/64⌉  label words, likewise
"""

from __future__ import annotations

import hashlib
import os
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from advhash.codes.labels import (
    Form,
    LabelForm,
    Labels,
    digits_of,
    read_labels as as_labels,
    text_labels,
)
from advhash.codes.packed import HashCodes
from advhash.codes.text_rows import read_table
from advhash.errors import DataError, UsageError
from advhash.storage.files import storage_errors

SUFFIX = ".codes"
_MAGIC = b"ADVHCODE"
_HEADER = struct.Struct("<8sIIQII32s")
_VERSION = 1
_ROWS = 1 << 16  # packed and checked at a time
_MOST_BITS = 1024
# what NumPy and zipfile were seen to raise on damaged files; a missing file is told apart before
_UNREADABLE = (
    *(ValueError, TypeError, AttributeError, EOFError, RuntimeError, SyntaxError),
    *(OverflowError, struct.error, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
_TEXT = (".txt", ".csv", ".tsv")
_FORMS: tuple[Form, ...] = ("multi-hot", "class numbers")  # by their number in a header
_STATED: dict[str, LabelForm] = {"multi-hot": "multi-hot", "class numbers": "classes"}
_FORMATS = f"{SUFFIX}, .npz (arrays `codes` and `labels`), .npy, or text (.txt, .csv, .tsv)"


@dataclass(frozen=True)
class LabelledCodes:
    """Codes and labels of N rows, both packed; `path` where both are mapped from it.

    form: how the labels were written; one bit a class they are here
    """

    codes: HashCodes
    labels: HashCodes
    path: Path | None = None
    form: Form = "multi-hot"

    @property
    def labelled(self) -> Labels:
        return Labels(self.labels, self.form)

    def __post_init__(self) -> None:
        if len(self.codes) != len(self.labels):
            raise DataError(
                f"expected as many labels as codes, got {len(self.labels)} and {len(self.codes)}"
            )

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: slice) -> LabelledCodes:
        return LabelledCodes(self.codes[rows], self.labels[rows], form=self.form)

    def fitted(self, database: LabelledCodes) -> LabelledCodes:
        """These rows, as queries, with the classes of the database; see `Labels.fitted`."""
        labels = self.labelled.fitted(database.labelled, "queries").hot
        return self if labels is self.labels else LabelledCodes(self.codes, labels, form=self.form)


@dataclass(frozen=True)
class _Header:
    bits: int
    rows: int
    classes: int
    form: Form
    digest: bytes

    @property
    def widths(self) -> tuple[int, int]:
        return -(-self.bits // 64), -(-self.classes // 64)


def write_codes(path: Path, data: LabelledCodes) -> None:
    """Write codes and labels to `path`, whole or not at all, in the format of its suffix.

    `.codes` (ours), `.npz` (uint8 arrays `codes` and `labels`, and `label_form`, which says that
    labels of one column are multi-hot too), `.npy` and `.txt` (codes alone, 0 and 1, one row a
    line). Raises UsageError for another suffix, StorageError.
    """
    writers = {SUFFIX: _write_own, ".npz": _write_npz, ".npy": _write_npy, ".txt": _write_text}
    if path.suffix not in writers:
        raise UsageError(
            f"expected a file name that ends in {', '.join(writers)}, got {path.name!r}"
        )
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with storage_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as stream:
                writers[path.suffix](stream, data)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def _write_own(stream: BinaryIO, data: LabelledCodes) -> None:
    digest = hashlib.sha256()
    stream.write(bytes(_HEADER.size))
    for words in (data.codes.words, data.labels.words):
        for start in range(0, len(words), _ROWS):
            octets = words[start : start + _ROWS].astype("<u8").tobytes()
            digest.update(octets)
            stream.write(octets)
    stream.seek(0)
    sizes = (data.codes.bits, len(data), data.labels.bits, _FORMS.index(data.form))
    stream.write(_HEADER.pack(_MAGIC, _VERSION, *sizes, digest.digest()))


def _write_npz(stream: BinaryIO, data: LabelledCodes) -> None:
    codes, labels = (part.unpack().astype(np.uint8) for part in (data.codes, data.labels))
    np.savez_compressed(stream, codes=codes, labels=labels, label_form=np.array("multi-hot"))


def _write_npy(stream: BinaryIO, data: LabelledCodes) -> None:
    np.save(stream, data.codes.unpack().astype(np.uint8), allow_pickle=False)


def _write_text(stream: BinaryIO, data: LabelledCodes) -> None:
    for start in range(0, len(data), _ROWS):
        for row in data.codes[start : start + _ROWS].unpack():
            stream.write(" ".join("1" if bit else "0" for bit in row).encode() + b"\n")


def map_codes(path: Path, *, verify: bool = True) -> LabelledCodes:
    """The rows of a `.codes` file, mapped into memory.

    verify: read the file once and compare its checksum; False where this was done before

    Raises DataError: no such file, another format, damaged.
    """
    header = _read_header(path)
    code_width, label_width = header.widths
    expected = _HEADER.size + 8 * header.rows * (code_width + label_width)
    size = path.stat().st_size
    if size != expected:
        raise DataError(f"{path}: expected {expected} bytes for {header.rows} rows, got {size}")
    code_size = 8 * header.rows * code_width
    codes = _mapped(path, _HEADER.size, header.rows, code_width)
    labels = _mapped(path, _HEADER.size + code_size, header.rows, label_width)
    if verify:
        digest = hashlib.sha256()
        for words, bits in ((codes, header.bits), (labels, header.classes)):
            unused = ~np.uint64(0) << np.uint64(bits % 64) if bits % 64 else np.uint64(0)
            for start in range(0, header.rows, _ROWS):
                part = words[start : start + _ROWS]
                digest.update(part.astype("<u8", copy=False).tobytes())
                if (part[:, -1] & unused).any():
                    raise DataError(f"{path}: damaged, as unused bits of a word are not 0")
        if digest.digest() != header.digest:
            raise DataError(f"{path}: damaged, as its checksum differs; write it again")
    return LabelledCodes(
        HashCodes(codes, header.bits), HashCodes(labels, header.classes), path, header.form
    )


def _mapped(path: Path, offset: int, rows: int, width: int) -> npt.NDArray[np.uint64]:
    if rows == 0:
        return np.zeros((0, width), np.uint64)
    # copy-on-write, never written: numba compiles anew for an array that is read-only
    words = np.memmap(path, dtype="<u8", mode="c", offset=offset, shape=(rows, width))
    return np.asarray(words).astype(np.uint64, copy=False)


def checksum(path: Path) -> str:
    """The checksum that the header of a `.codes` file states, in hexadecimal. Raises DataError."""
    return _read_header(path).digest.hex()


def _read_header(path: Path) -> _Header:
    with _reading(path), path.open("rb") as stream:
        octets = stream.read(_HEADER.size)
    if octets[:8] != _MAGIC:
        raise DataError(f"{path}: expected a {SUFFIX} file (`advhash codes import` makes one)")
    if len(octets) < _HEADER.size:
        raise DataError(f"{path}: damaged, as its header is cut off")
    _, version, bits, rows, classes, form, digest = _HEADER.unpack(octets)
    if version != _VERSION:
        raise DataError(f"{path}: expected format version {_VERSION}, got {version}")
    if not 1 <= bits <= _MOST_BITS or classes < 1 or form >= len(_FORMS):
        raise DataError(
            f"{path}: damaged, as it states {bits} bits, {classes} classes and labels of form "
            f"{form}"
        )
    return _Header(bits, rows, classes, _FORMS[form], digest)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what can be wrong with a file as such into one DataError line."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"expected a file, got {path}: not there") from None
    except IsADirectoryError:
        raise DataError(f"expected a file, got the folder {path}") from None
    except PermissionError:
        raise DataError(f"cannot read {path}: no permission") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {_line(error)}") from None
    except MemoryError:
        raise DataError(f"{path}: does not fit in memory; use a {SUFFIX} file") from None


def read_codes(
    path: Path, labels: Path | None = None, *, label_form: LabelForm = "auto", verify: bool = True
) -> LabelledCodes:
    """Codes and labels from a file of any known format.

    labels: a file with the labels, needed where `path` has none; see `read_labels`

    Codes are (N,K) of 0 and 1 or of −1 and 1, 1 ≤ K ≤ 1024. Raises DataError.
    """
    if path.suffix.lower() == SUFFIX:
        mapped = map_codes(path, verify=verify)
        if labels is None:
            _expect_form(path, mapped.form, label_form)
            return mapped
        codes = mapped.codes
    else:
        codes = _pack(path, _read_array(path, "codes"))
        if codes.bits > _MOST_BITS:
            raise DataError(f"{path}: expected at most {_MOST_BITS} bits, got {codes.bits}")
        if labels is None and path.suffix.lower() != ".npz":
            raise DataError(
                f"{path}: has codes alone; expected a second file with their labels: --labels "
                "FILE, of a database --database-labels FILE"
            )
    labelled = read_labels(labels or path, label_form)
    return LabelledCodes(codes, labelled.hot, form=labelled.form)


def read_labels(path: Path, form: LabelForm = "auto") -> Labels:
    """The labels of a file: array `labels` of an .npz, .npy, text, or a `.codes` file.

    form: what they are; "auto": one column is class numbers, several are multi-hot, and what our
          own files state holds

    Raises DataError.
    """
    suffix = path.suffix.lower()
    if suffix == SUFFIX:
        mapped = map_codes(path)
        _expect_form(path, mapped.form, form)
        return mapped.labelled
    if suffix in _TEXT:
        with _reading(path), path.open(encoding="utf-8-sig", errors="replace") as stream:
            return text_labels(read_table(stream, path, digits=digits_of(form)), form, path)
    array = _read_array(path, "labels")
    if suffix == ".npz" and form == "auto":
        form = _stated_form(path)
    return as_labels(array, form, path)


def _expect_form(path: Path, form: Form, asked: LabelForm) -> None:
    """Raise DataError where a file of ours holds labels that are not of the form asked for."""
    if asked not in ("auto", _STATED[form]):
        raise DataError(f"{path}: its labels were {form}, expected {asked}: import it again")


def _stated_form(path: Path) -> LabelForm:
    """What an .npz that we wrote says of its labels."""
    try:
        stated = _member(path, "label_form")
    except DataError:
        return "auto"
    return _STATED.get(str(stated), "auto")


def _read_array(path: Path, name: str) -> npt.NDArray[np.generic]:
    with _reading(path):
        if path.suffix.lower() == ".npy":
            return _loaded(path, "r")
        if path.suffix.lower() == ".npz":
            return _member(path, name)
        if path.suffix.lower() in _TEXT:
            return _text_codes(path)
    raise DataError(f"{path}: expected {_FORMATS}")


def _loaded(path: Path, mode: str | None) -> npt.NDArray[np.generic]:
    try:
        array = np.load(path, mmap_mode=mode, allow_pickle=False)  # type: ignore[arg-type]
    except _UNREADABLE as error:
        raise DataError(f"{path}: not an array that NumPy reads ({_line(error)})") from None
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: expected one array, got an archive; name it .npz")
    return array


def _member(path: Path, name: str) -> npt.NDArray[np.generic]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            if name not in archive:
                held = ", ".join(archive.files) or "none"
                raise DataError(f"{path}: expected an array named {name!r}, got {held}")
            array: npt.NDArray[np.generic] = archive[name]
            return array
    except _UNREADABLE as error:
        raise DataError(f"{path}: not an archive that NumPy reads ({_line(error)})") from None


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _text_codes(path: Path) -> npt.NDArray[np.generic]:
    """Rows of −1, 0 and 1 as numbers in any form, or of 0 and 1 with nothing between."""
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        table = read_table(stream, path, expected="0, 1 or -1")
    wrong = ~np.isin(table.values, (-1, 0, 1))
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        raise DataError(
            f"{path}, line {table.lines[row]}: expected 0, 1 or -1, got "
            f"'{table.values[row, column]:g}'"
        )
    return table.values.astype(np.int8)


def _pack(path: Path, array: npt.NDArray[np.generic]) -> HashCodes:
    """Codes (N,K) of 0 and 1 or −1 and 1 as packed bits."""
    if array.size == 0 and (array.ndim < 2 or not len(array)):
        array = array.reshape(0, 1)  # an empty file: refused where rows are needed
    if array.ndim != 2 or array.shape[1] == 0:
        raise DataError(f"{path}: expected codes (N, columns), got shape {array.shape}")
    if array.dtype.kind not in "biuf":
        raise DataError(f"{path}: expected numbers as codes, got {array.dtype}")
    _check_two_values(path, array)
    parts = [
        HashCodes.pack(np.asarray(array[start : start + _ROWS]) > 0)
        for start in range(0, len(array), _ROWS)
    ]
    return HashCodes.concatenate(parts) if parts else HashCodes.pack(array)


def _check_two_values(path: Path, array: npt.NDArray[np.generic]) -> None:
    """Raise DataError where codes have a third value."""
    seen: set[float] = set()
    for start in range(0, len(array), _ROWS):
        part = np.asarray(array[start : start + _ROWS])
        wrong = ~np.isin(part, (-1, 0, 1))
        if wrong.any():
            row, column = np.argwhere(wrong)[0].tolist()
            raise DataError(
                f"{path}: expected codes of 0 and 1 or of -1 and 1, got {part[row, column]} "
                f"in row {start + row}, column {column}"
            )
        seen |= set(np.unique(part).tolist())
    if {-1, 0} <= seen:
        raise DataError(
            f"{path}: expected two values, got -1, 0 and 1: sign(0) is no bit; decide it first"
        )
