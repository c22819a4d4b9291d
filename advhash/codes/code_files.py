"""Files of codes with labels: our own format, and those in which others keep codes.

A `.codes` file can be mapped into memory, so that a gallery need not fit. All numbers are
little-endian:

    offset  size  what
    0       8     "ADVHCODE"
    8       4     version, 1
    12      4     K, bits of a code
    16      8     M, rows
    24      4     C, classes (columns of labels)
    28      4     0: labels are multi-hot; 1: they were class numbers; 2: none, C is 1
    32      32    SHA-256 of everything from offset 64 on
    64      8·M·⌈K/64⌉  code words: bit k of a row is bit k mod 64 of its word ⌊k/64⌋; unused bits 0
    …       8·M·⌈C/64⌉  label words, likewise
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from advhash.codes.forms import (
    AS_RECOGNISED,
    MOST_BITS,
    CodeForm,
    Reading,
    codes_of,
    floats_of,
    recognised,
)
from advhash.codes.labels import (
    Form,
    LabelForm,
    Labels,
    class_numbers,
    digits_of,
    expect_one_meaning,
    read_labels as as_labels,
)
from advhash.codes.packed import HashCodes
from advhash.codes.quantise import Thresholds, above, thresholds
from advhash.codes.stored_rows import (
    LABELS,
    TEXT,
    column_of,
    holds_labels,
    loaded,
    member,
    read_rows,
    reading,
)
from advhash.codes.text_rows import read_table
from advhash.errors import DataError, UsageError
from advhash.storage.files import partial_file

SUFFIX = ".codes"
_MAGIC = b"ADVHCODE"
_HEADER = struct.Struct("<8sIIQII32s")
_VERSION = 1
_ROWS = 1 << 16  # packed and checked at a time
_FORMS: tuple[Form, ...] = ("multi-hot", "class numbers", "none")  # by their number in a header
_STATED: dict[str, LabelForm] = {"multi-hot": "multi-hot", "class numbers": "classes"}


@dataclass(frozen=True)
class LabelledCodes:
    """Codes and labels of N rows, both packed; `path` where both are mapped from it.

    form: how the labels were written; one bit a class they are here
    """

    codes: HashCodes
    labels: HashCodes
    path: Path | None = None
    form: Form = "multi-hot"

    @classmethod
    def unlabelled(cls, codes: HashCodes) -> LabelledCodes:
        """Codes whose relevance lies elsewhere: one class, which no row has."""
        return cls(codes, HashCodes.pack(np.zeros((len(codes), 1), bool)), form="none")

    @property
    def labelled(self) -> Labels:
        return Labels(self.labels, self.form)

    def __post_init__(self) -> None:
        if len(self.codes) != len(self.labels):
            raise DataError(
                f"expected as many labels as codes, got {len(self.labels)} and {len(self.codes)}: "
                "give each code one"
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
    labels of one column are multi-hot too; without labels `codes` alone), `.npy` and `.txt` (codes
    alone, 0 and 1, one row a line). Raises UsageError for another suffix, StorageError.
    """
    expect_suffix(path)
    with partial_file(path) as partial, partial.open("wb") as stream:
        _WRITERS[path.suffix](stream, data)


def expect_suffix(path: Path) -> None:
    """Raise UsageError for a file that `write_codes` would not write, by its name."""
    if path.suffix not in _WRITERS:
        raise UsageError(
            f"expected a file name that ends in {', '.join(_WRITERS)}, got {path.name!r}"
        )


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
    if data.form == "none":
        np.savez_compressed(stream, codes=codes)
    else:
        np.savez_compressed(stream, codes=codes, labels=labels, label_form=np.array("multi-hot"))


def _write_npy(stream: BinaryIO, data: LabelledCodes) -> None:
    np.save(stream, data.codes.unpack().astype(np.uint8), allow_pickle=False)


def _write_text(stream: BinaryIO, data: LabelledCodes) -> None:
    for start in range(0, len(data), _ROWS):
        for row in data.codes[start : start + _ROWS].unpack():
            stream.write(" ".join("1" if bit else "0" for bit in row).encode() + b"\n")


_WRITERS = {SUFFIX: _write_own, ".npz": _write_npz, ".npy": _write_npy, ".txt": _write_text}


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
    with reading(path), path.open("rb") as stream:
        octets = stream.read(_HEADER.size)
    if octets[:8] != _MAGIC:
        raise DataError(
            f"{path}: expected a {SUFFIX} file, got another kind: `advhash codes import` makes one"
        )
    if len(octets) < _HEADER.size:
        raise DataError(f"{path}: damaged, as its header is cut off")
    _, version, bits, rows, classes, form, digest = _HEADER.unpack(octets)
    if version != _VERSION:
        raise DataError(f"{path}: expected format version {_VERSION}, got {version}")
    if not 1 <= bits <= MOST_BITS or classes < 1 or form >= len(_FORMS):
        raise DataError(
            f"{path}: damaged, as it states {bits} bits, {classes} classes and labels of form "
            f"{form}"
        )
    return _Header(bits, rows, classes, _FORMS[form], digest)


@dataclass(frozen=True)
class StoredCodes:
    """Codes of N rows as a file holds them, and what else it says of these rows.

    codes:  the bits
    form:   in which form they were stored
    source: what kind of file it is, where its name does not say it, and what made bits of floats
    floats: (N,D) the embeddings that the bits were made of; None: it holds bits
    limits: (D,) the thresholds that made bits of them
    ids:    what the rows are called; None: the file does not say it
    mapped: the rows of a `.codes` file, with the labels in it
    """

    codes: HashCodes
    form: CodeForm = "bits"
    source: str = ""
    floats: npt.NDArray[Any] | None = None
    limits: Thresholds | None = None
    ids: tuple[str, ...] | None = None
    mapped: LabelledCodes | None = None

    def __len__(self) -> int:
        return len(self.codes)

    def has_labels(self, path: Path) -> bool:
        """Whether the file that they were read from has labels of its own. Raises DataError."""
        return holds_labels(path) if self.mapped is None else self.mapped.form != "none"

    def described(self) -> str:
        """In which form which bits were read."""
        behind = f" ({self.source})" if self.source else ""
        return f"{self.form}, {self.codes.bits} bits{behind}"


def read_stored(
    path: Path,
    how: Reading = AS_RECOGNISED,
    *,
    database: StoredCodes | None = None,
    verify: bool = True,
) -> StoredCodes:
    """The codes in a file of any known format and form, labelled or not.

    database: of queries, the rows that they are searched in: theirs are the thresholds of floats

    Raises DataError; UsageError for a quantiser that has no floats to work on.
    """
    if path.suffix.lower() == SUFFIX:
        if how != AS_RECOGNISED:
            raise UsageError(
                f"{path}: a {SUFFIX} file says itself what it holds: leave out --form, --quantise, "
                "--bits and --column"
            )
        mapped = map_codes(path, verify=verify)
        return StoredCodes(mapped.codes, source=f"a {SUFFIX} file", mapped=mapped)
    rows = read_rows(path, how)
    form = recognised(rows, how, path)
    if form != "floats":
        codes = codes_of(rows, form, how.bits, path)
        return StoredCodes(codes, form, rows.source, ids=rows.ids)
    if how.quantise is None:
        raise DataError(f"{path}: floats have no bits: add --quantise sign, mean or median")
    floats = floats_of(rows, how.bits, path)
    if database is None:
        limits = thresholds(floats, how.quantise) if len(floats) else np.zeros(floats.shape[1])
    elif database.limits is None:
        raise DataError(
            f"{path}: expected {database.form} as in the database, got floats: both sides are "
            "quantised, or none"
        )
    else:
        limits = database.limits
    if floats.shape[1] != len(limits):
        raise DataError(
            f"{path}: expected embeddings of {len(limits)} dimensions as in the database, got "
            f"{floats.shape[1]}: encode both by one model"
        )
    codes = HashCodes.pack(above(floats, limits))
    source = ", ".join(part for part in (rows.source, how.quantise) if part)
    return StoredCodes(codes, form, source, floats, limits, rows.ids)


def read_codes(
    path: Path,
    labels: Path | None = None,
    *,
    label_form: LabelForm = "auto",
    verify: bool = True,
    how: Reading = AS_RECOGNISED,
) -> LabelledCodes:
    """Codes and labels from a file of any known format.

    labels: a file with the labels, needed where `path` has none; see `read_labels`
    how:    what the user says of the codes; by default they are recognised

    Raises DataError, UsageError.
    """
    return with_labels(path, read_stored(path, how, verify=verify), labels, label_form)


def with_labels(
    path: Path, stored: StoredCodes, labels: Path | None, label_form: LabelForm
) -> LabelledCodes:
    """What was read from `path`, with the labels of a second file, or its own. Raises DataError."""
    if labels is None and stored.mapped is not None and stored.mapped.form != "none":
        _expect_form(path, stored.mapped.form, label_form)
        return stored.mapped
    if labels is None and path.suffix.lower() != ".npz" and not stored.has_labels(path):
        raise DataError(
            f"{path}: has codes alone, which do not say what is relevant; expected a second file "
            "with their labels: --labels FILE for queries, --database-labels FILE for a database "
            "(`advhash eval` takes --relevance FILE as well, and two files of floats alone)"
        )
    labelled = read_labels(labels or path, label_form)
    if len(labelled) != len(stored):
        raise DataError(
            f"expected as many labels as codes, got {len(labelled)} in {labels or path} and "
            f"{len(stored)} in {path}: give each code one, in the order of the codes"
        )
    return LabelledCodes(stored.codes, labelled.hot, form=labelled.form)


def read_labels(path: Path, form: LabelForm = "auto") -> Labels:
    """The labels of a file: array `labels` of an .npz, .npy, text, or a `.codes` file.

    form: what they are; "auto": one column is class numbers, several are multi-hot, and what our
          own files state holds

    Raises DataError.
    """
    if path.suffix.lower() == SUFFIX:
        mapped = map_codes(path)
        _expect_form(path, mapped.form, form)
        return mapped.labelled
    return as_labels(*_label_values(path, form))


def read_class_numbers(path: Path, form: LabelForm = "auto") -> npt.NDArray[np.int64] | None:
    """The class numbers (N,) of a file; None: it has a column a class. Raises DataError."""
    if path.suffix.lower() == SUFFIX:
        return None
    return class_numbers(*_label_values(path, form))


def _label_values(
    path: Path, form: LabelForm
) -> tuple[npt.NDArray[Any], LabelForm, Path, npt.NDArray[np.int64] | None]:
    """What is read as labels: the values, their form as far as known, where, and their lines."""
    suffix = path.suffix.lower()
    if suffix in TEXT:
        with reading(path), path.open(encoding="utf-8-sig", errors="replace") as stream:
            table = read_table(stream, path, digits=digits_of(form))
        expect_one_meaning(table, form, path)
        return table.values, form, path, table.lines
    if suffix == ".npy":
        with reading(path):
            array = loaded(path, "r")
    else:
        array = column_of(path, LABELS)
    if suffix == ".npz" and form == "auto":
        form = _stated_form(path)
    return array, form, path, None


def _expect_form(path: Path, form: Form, asked: LabelForm) -> None:
    """Raise DataError where a file of ours holds no labels of the form asked for."""
    if form == "none":
        raise DataError(f"{path}: has codes alone: import it again with --labels FILE")
    if asked not in ("auto", _STATED[form]):
        raise DataError(f"{path}: its labels were {form}, expected {asked}: import it again")


def _stated_form(path: Path) -> LabelForm:
    """What an .npz that we wrote says of its labels."""
    try:
        stated = member(path, "label_form")
    except DataError:
        return "auto"
    return _STATED.get(str(stated), "auto")
