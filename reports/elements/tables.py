"""Tables as objects: a page, CSV and LaTeX print the same ones.

A chapter makes them, its template says where on the page they stand (`{{ show(table) }}`), and
whatever was shown is what `advhash report --tables` writes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from advhash.measures.intervals import Metric
from advhash.reports.elements.numbers import as_bounds, as_chance, as_number, as_points
from advhash.reports.elements.verdict import MINUS
from advhash.reports.vocabulary import figure

Item = TypeVar("Item")


@dataclass(frozen=True)
class TableCell:
    """A cell of a table.

    bounds:  of a 95 % interval, as they are written: small print on a page, columns of a CSV file
    note:    small print that is no interval
    span:    columns that it covers
    numeric: a figure, whose digits stand below each other
    bar:     a share that a page draws above the text, from 0 to 1
    detail:  what a page unfolds below the text, its heading first; files leave it out
    link:    a page beside this one that the text leads to; files leave it out
    """

    text: str = ""
    bounds: tuple[str, str] | None = None
    note: str = ""
    span: int = 1
    numeric: bool = False
    style: Literal["", "strong", "soft", "code"] = ""
    bar: float | None = None
    detail: tuple[str, str] | None = None
    link: str = ""

    @property
    def small(self) -> str:
        """Its small print on a page."""
        if self.bounds is None:
            return self.note
        return (" to " if self.bounds[0].startswith(MINUS) else "–").join(self.bounds)

    @property
    def words(self) -> str:
        """The text with its note."""
        return " ".join(part.strip() for part in (self.text, self.note) if part.strip())


@dataclass(frozen=True)
class Column:
    """The heading of a column; wide: it holds words, which want room; name: of its figure."""

    label: str
    wide: bool = False
    name: str = ""


@dataclass(frozen=True)
class Table:
    """A table of a page.

    label:  what it is called, to who cannot see it and in the name of its file
    rows:   cells of each; together they span all columns
    headed: whether the first cell of a row is its heading
    chosen: places of rows that stand out
    """

    label: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[TableCell]]
    headed: bool = True
    chosen: Collection[int] = field(default_factory=tuple)

    def only(self, names: Collection[str]) -> Table | None:
        """The table with the columns of these figures behind its first one; None where it has none.

        A cell that spans several columns is repeated in those that are left.
        """
        kept = [place for place, column in enumerate(self.columns) if column.name in names]
        if not kept:
            return None
        rows = []
        for cells in self.rows:
            spread = [replace(cell, span=1) for cell in cells for _ in range(cell.span)]
            rows.append([spread[place] for place in (0, *kept)])
        return replace(self, columns=[self.columns[place] for place in (0, *kept)], rows=rows)


def columns(*labels: str) -> list[Column]:
    """Columns of which none is wide."""
    return [Column(label) for label in labels]


def of_figures(*names: str) -> list[Column]:
    """A column a figure, headed as the vocabulary has it."""
    return [Column(figure(name).heading, name=name) for name in names]


def extremes(items: Sequence[Item], most: int, *, kinds: tuple[str, str]) -> list[tuple[str, Item]]:
    """The first and the last `most` items, each with its kind; all of them once where they overlap.

    >>> extremes("abcde", 2, kinds=("first", "last"))
    [('first', 'a'), ('first', 'b'), ('last', 'e'), ('last', 'd')]
    >>> extremes("abc", 2, kinds=("first", "last"))
    [('all', 'a'), ('all', 'b'), ('all', 'c')]
    """
    if len(items) <= 2 * most:
        return [("all", item) for item in items]
    first, last = kinds
    return [
        *((first, item) for item in items[:most]),
        *((last, item) for item in items[::-1][:most]),
    ]


def titled(name: str) -> TableCell:
    """What heads the row of a figure."""
    return TableCell(figure(name).heading)


def named(text: str, note: str = "") -> TableCell:
    """A name from data or from the user."""
    return TableCell(text, note=note)


def number(text: object) -> TableCell:
    """A figure that is written already."""
    return TableCell(str(text), numeric=True)


def points(metric: Metric | None) -> TableCell:
    """A share in percent with its interval."""
    return TableCell(as_points(metric), as_bounds(metric, 1, 100), numeric=True)


def value(metric: Metric | None, digits: int = 3) -> TableCell:
    """A figure that is no share, with its interval."""
    return TableCell(as_number(metric, digits), as_bounds(metric, digits), numeric=True)


def chance(p: float | None) -> TableCell:
    """A p-value."""
    return number(as_chance(p))


def row(*cells: TableCell | Iterable[TableCell]) -> list[TableCell]:
    """A row of cells and of runs of cells."""
    return [cell for part in cells for cell in ([part] if isinstance(part, TableCell) else part)]
