"""Labels as they come: class numbers, or one column a class. Which they are is decided here.

One column of whole numbers is class numbers, 0 and 1 too; multi-hot labels have two columns or
more. A single class that rows have or have not, as one column, is read where the form is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from advhash.codes.packed import HashCodes
from advhash.codes.text_rows import TextTable, is_ambiguous
from advhash.errors import DataError

LabelForm = Literal["auto", "classes", "multi-hot"]  # as asked for
Form = Literal["class numbers", "multi-hot", "none"]  # as read; none: there are no labels
MOST_CLASSES = 1 << 20
ROWS = 1 << 16  # checked and packed at a time


@dataclass(frozen=True)
class Labels:
    """Labels of N rows, one bit a class, and in which form they were written."""

    hot: HashCodes
    form: Form

    def __len__(self) -> int:
        return len(self.hot)

    def fitted(self, database: Labels, whose: str) -> Labels:
        """These labels, of queries, with as many classes as those of the database.

        Class numbers reach as far as the largest: classes that no row of the database has are cut
        off, others added. Raises DataError where columns of multi-hot labels do not fit.
        """
        own, wanted = self.hot.bits, database.hot.bits
        if own == wanted:
            return self
        fits = {
            "class numbers": own < wanted or database.form == "class numbers",
            "multi-hot": own > wanted and database.form == "class numbers",
        }
        if not fits[self.form]:
            raise DataError(
                f"expected {wanted} label columns of the {whose} as in the database, got {own} "
                f"({self.form}; the database has {database.form})"
            )
        bits = self.hot.unpack()[:, :wanted]
        return Labels(
            HashCodes.pack(np.pad(bits, ((0, 0), (0, wanted - bits.shape[1])))), self.form
        )


def form_of(shape: tuple[int, ...], asked: LabelForm, where: object) -> Form:
    """Which form labels of this shape have. Raises DataError: neither, or not the one asked for."""
    if len(shape) not in (1, 2) or 0 in shape[1:]:
        raise DataError(
            f"{where}: expected labels (N,) of class numbers or (N,C), one column a class, got the "
            f"shape {shape}"
        )
    columns = shape[1] if len(shape) == 2 else 1
    if asked == "classes" and columns > 1:
        raise DataError(f"{where}: expected class numbers in one column, got {columns} columns")
    if asked == "auto":
        return "multi-hot" if columns > 1 else "class numbers"
    return "class numbers" if asked == "classes" else "multi-hot"


def read_labels(
    labels: npt.NDArray[Any],
    asked: LabelForm,
    where: object,
    lines: npt.NDArray[np.int64] | None = None,
) -> Labels:
    """Labels (N,) or (N,C) packed, block by block.

    lines: where each row stands in a text, for messages

    Raises DataError: another shape, a value that is no class number, or neither 0 nor 1.
    """
    numbers = class_numbers(labels, asked, where, lines)
    if numbers is None:
        table = labels if labels.ndim == 2 else labels[:, None]
        parts = [_bits(part, start, where, lines) for start, part in _blocks(table)]
        return Labels(HashCodes.concatenate(parts) if parts else HashCodes.pack(table), "multi-hot")
    classes = 1 + int(numbers.max(initial=0))
    packed = [HashCodes.pack(hot) for hot in _one_hot(numbers, classes)]
    empty = HashCodes.pack(np.zeros((0, classes)))
    return Labels(HashCodes.concatenate(packed) if packed else empty, "class numbers")


def class_numbers(
    labels: npt.NDArray[Any],
    asked: LabelForm,
    where: object,
    lines: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.int64] | None:
    """(N,) class numbers, checked; None: the labels are multi-hot. Raises DataError as above."""
    form = form_of(labels.shape, asked, where)
    if labels.dtype.kind not in "biuf":
        raise DataError(f"{where}: expected numbers as labels, got {labels.dtype}")
    if form == "multi-hot":
        return None
    column = labels.reshape(-1)
    parts = [_class_numbers(part, start, where, lines) for start, part in _blocks(column)]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def text_labels(table: TextTable, asked: LabelForm, where: object) -> Labels:
    """Labels from a text that was read with `digits=None`, or True where multi-hot is asked for.

    Raises DataError.
    """
    expect_one_meaning(table, asked, where)
    return read_labels(table.values, asked, where, table.lines)


def expect_one_meaning(table: TextTable, asked: LabelForm, where: object) -> None:
    """Raise DataError where words like 10 and 11 of a text may be class numbers or bits."""
    if asked == "auto" and is_ambiguous(table):
        raise DataError(
            f"{where}: expected class numbers, or 0 and 1 with blanks between, got "
            f"{table.values[0, 0]:.0f} and the like, which may be either: say so by the label form "
            "(classes or multi-hot)"
        )


def digits_of(asked: LabelForm) -> bool | None:
    """How `text_rows.read_table` reads words of 0 and 1 that are labels."""
    return {"auto": None, "classes": False, "multi-hot": True}[asked]


def widened(hot: npt.NDArray[Any], classes: int) -> npt.NDArray[Any]:
    """(N,C) with columns of zeros added on the right, up to `classes`."""
    return np.pad(hot, ((0, 0), (0, classes - hot.shape[1])))


def _blocks(values: npt.NDArray[Any]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    for start in range(0, len(values), ROWS):
        yield start, np.asarray(values[start : start + ROWS])


def _refused(
    expected: str,
    value: Any,
    where: object,
    place: tuple[int, int | None],
    lines: npt.NDArray[np.int64] | None,
) -> DataError:
    """The error about one value: by its line in a text, by its row and column in an array."""
    row, column = place
    behind = "" if column is None else f", column {column}"
    if lines is None:
        return DataError(f"{where}: expected {expected}, got {value} in row {row}{behind}")
    return DataError(f"{where}, line {lines[row]}: expected {expected}, got {value:g}")


def _bits(
    part: npt.NDArray[Any], start: int, where: object, lines: npt.NDArray[np.int64] | None
) -> HashCodes:
    wrong = ~((part == 0) | (part == 1))
    if wrong.any():
        row, column = np.argwhere(wrong)[0].tolist()
        expected = "labels 0 and 1, one column a class"
        raise _refused(expected, part[row, column], where, (start + row, column), lines)
    return HashCodes.pack(part != 0)


def _class_numbers(
    part: npt.NDArray[Any], start: int, where: object, lines: npt.NDArray[np.int64] | None
) -> npt.NDArray[np.int64]:
    with np.errstate(invalid="ignore"):
        wrong = ~((part >= 0) & (part < MOST_CLASSES) & (np.floor(part) == part))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        expected = (
            f"class numbers from 0 to {MOST_CLASSES - 1} (or a column of 0 and 1 for each class)"
        )
        raise _refused(expected, part[row], where, (start + row, None), lines)
    return part.astype(np.int64)


def _one_hot(numbers: npt.NDArray[np.int64], classes: int) -> Iterator[npt.NDArray[np.bool_]]:
    """(B,C) bits of class numbers, few enough rows at a time for any count of classes."""
    step = max(1, (ROWS << 10) // classes)
    for start in range(0, len(numbers), step):
        part = numbers[start : start + step]
        hot = np.zeros((len(part), classes), bool)
        hot[np.arange(len(part)), part] = True
        yield hot
