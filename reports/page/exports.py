"""The tables of a page as CSV and LaTeX, its figures as SVG and PNG.

All are taken from the page itself, so that a paper shows what the page shows.
"""

from __future__ import annotations

import base64
import csv
import io
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import resvg_py

from advhash.errors import StorageError
from advhash.storage.files import storage_errors, write_bytes

SVG = "data:image/svg+xml;base64,"
SCALE = 2  # pixels of a PNG to one of the page
BOUNDS = re.compile(r"(-?[\d.]+)(?:–| to )(-?[\d.]+)")
NUMBER = re.compile(r"–?|[-+]?[\d.]+(/255)?")  # a figure, or none
LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "−": "$-$",
    "–": "--",
    "∞": r"$\infty$",
    "ε": r"$\varepsilon$",
    "η": r"$\eta$",
    "²": r"\textsuperscript{2}",
    "×": r"$\times$",
    "→": r"$\to$",
    "✓": r"$\checkmark$",
    "✔": r"$\checkmark$",
    "✖": r"$\times$",
    "\N{NO-BREAK SPACE}": "~",
}


@dataclass
class Cell:
    """A cell of a table: its text, and the bounds of an interval in its small print."""

    text: str = ""
    small: str = ""
    span: int = 1

    @property
    def bounds(self) -> tuple[str, str] | None:
        """Both bounds as they are written; None where the small print is no interval."""
        found = BOUNDS.fullmatch(self.small)
        return None if found is None else (found[1], found[2])

    @property
    def told(self) -> str:
        """The text with small print that is no interval."""
        return " ".join(part for part in (self.text, "" if self.bounds else self.small) if part)


@dataclass
class Table:
    """A table of a page: under which topic it stands, what it is called, and its rows."""

    topic: str
    label: str
    caption: str = ""
    head: list[Cell] = field(default_factory=list)
    rows: list[list[Cell]] = field(default_factory=list)


@dataclass(frozen=True)
class Figure:
    """A figure of a page: under which topic it stands, and its SVG."""

    topic: str
    alt: str
    svg: bytes


class _Reader(HTMLParser):
    """Collects tables and figures. The page is ours and well-formed; its texts are foreign."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tables: list[Table] = []
        self.figures: list[Figure] = []
        self._topic = self._label = ""
        self._open: Table | None = None
        self._pictures = False
        self._cell: Cell | None = None
        self._into: str | None = None  # where text goes: caption, text, small
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag == "h2":
            self._topic = given.get("id", "")
        elif tag == "div":
            self._label = given.get("aria-label", "")
        elif tag == "table":
            self._open, self._pictures = Table(self._topic, self._label), False
        elif tag == "img":
            self._pictures = True
            if given.get("src", "").startswith(SVG):
                svg = base64.b64decode(given["src"].removeprefix(SVG))
                self.figures.append(Figure(self._topic, given.get("alt", ""), svg))
        elif self._open is not None:
            self._within(tag, given)

    def _within(self, tag: str, given: Mapping[str, str]) -> None:
        assert self._open is not None
        if tag == "caption":
            self._into = "caption"
        elif tag == "tr":
            self._open.rows.append([])
        elif tag in ("td", "th"):
            self._cell = Cell(span=int(given.get("colspan", "1")))
            self._open.rows[-1].append(self._cell)
            self._into = "text"
        elif tag == "small":
            self._into = "small"

    def handle_endtag(self, tag: str) -> None:
        if self._open is None:
            return
        if tag == "small":
            self._into = "text"
        elif tag in ("caption", "td", "th"):
            self._into = None
        elif tag == "thead":
            self._open.head = self._open.rows.pop() if self._open.rows else []
        elif tag == "table":
            if not self._pictures:  # a table of pictures has no text worth a file
                self.tables.append(self._open)
            self._open = None

    def handle_data(self, data: str) -> None:
        if self._open is None or self._into is None:
            return
        text = data.strip("\n")
        if self._into == "caption":
            self._open.caption += text
        elif self._cell is not None:
            setattr(self._cell, self._into, getattr(self._cell, self._into) + text)


def tables_of(html: str) -> list[Table]:
    """Every table of a page but those of pictures."""
    return _Reader(html).tables


def figures_of(html: str) -> list[Figure]:
    """Every figure of a page."""
    return _Reader(html).figures


def _columns(table: Table) -> list[tuple[str, bool]]:
    """The heading of each column, and whether a cell in it has an interval."""
    bounded = {
        place for row in table.rows for place, cell in enumerate(row) if cell.bounds is not None
    }
    return [(cell.told.strip(), place in bounded) for place, cell in enumerate(table.head)]


def to_csv(table: Table) -> str:
    """A table as CSV; an interval becomes two columns, “… low” and “… high”.

    A text that a spreadsheet would run as a formula gets an apostrophe in front.
    """
    columns = _columns(table)
    lines = [
        [
            part
            for name, interval in columns
            for part in ([name, f"{name} low", f"{name} high"] if interval else [name])
        ]
    ]
    for row in table.rows:
        spread = [one for cell in row for one in (cell, *[Cell()] * (cell.span - 1))]
        line = []
        for (_, interval), cell in zip(columns, spread, strict=False):
            line.append(_safe(cell.told))
            line += (cell.bounds or ("", "")) if interval else ()
        lines.append(line)
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(lines)
    return stream.getvalue()


def _safe(text: str) -> str:
    text = text.strip()
    if text[:1] in ("=", "+", "@", "-", "\t", "\r") and not NUMBER.fullmatch(text):
        return f"'{text}"
    return text


def escape_latex(text: str) -> str:
    """Text in which LaTeX sees no command.

    >>> escape_latex("50 % of a_b")
    '50 \\\\% of a\\\\_b'
    """
    return "".join(LATEX.get(sign, sign) for sign in text.strip())


def to_latex(table: Table) -> str:
    """A table for the package booktabs; an interval stands in small print behind its figure."""

    def shown(cell: Cell) -> str:
        text = escape_latex(cell.told)
        if cell.bounds is not None:
            low, high = (escape_latex(bound.replace("-", "−")) for bound in cell.bounds)
            text += rf" {{\scriptsize [{low}, {high}]}}"
        return text if cell.span == 1 else rf"\multicolumn{{{cell.span}}}{{l}}{{{text}}}"

    alignment = "".join(
        "r"
        if all(NUMBER.fullmatch(row[place].text) for row in table.rows if place < len(row))
        else "l"
        for place in range(len(table.head))
    )
    lines = [
        r"% \usepackage{booktabs,amssymb}",
        r"\begin{table}",
        rf"\caption{{{escape_latex(table.caption)}}}",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        " & ".join(shown(cell) for cell in table.head) + r" \\",
        r"\midrule",
        *(" & ".join(shown(cell) for cell in row) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def to_png(svg: bytes) -> bytes:
    """A figure as PNG, twice as fine as on the page, with the font that matplotlib brings."""
    fonts = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf")
    drawn = resvg_py.svg_to_bytes(
        svg_string=svg.decode("utf-8"),
        dpi=96 * SCALE,
        font_dirs=[fonts],
        sans_serif_family="DejaVu Sans",
        font_family="DejaVu Sans",
        skip_system_fonts=True,
    )
    return bytes(drawn)


def write_tables(html: str, folder: Path) -> list[Path]:
    """Write each table of a page as .csv and .tex to a new folder. Raises StorageError."""
    files = {}
    for number, table in enumerate(tables_of(html), start=1):
        name = _name(number, table.topic, table.label)
        files[f"{name}.csv"] = to_csv(table).encode("utf-8")
        files[f"{name}.tex"] = to_latex(table).encode("utf-8")
    return _write(files, folder)


def write_figures(html: str, folder: Path) -> list[Path]:
    """Write each figure of a page as .svg and .png to a new folder. Raises StorageError."""
    files = {}
    for number, figure in enumerate(figures_of(html), start=1):
        name = _name(number, figure.topic, "")
        files[f"{name}.svg"] = figure.svg
        files[f"{name}.png"] = to_png(figure.svg)
    return _write(files, folder)


def _name(number: int, topic: str, label: str) -> str:
    """`03-results-by-direction`: sorted as on the page; only letters of a foreign name are used."""
    words = re.sub(r"[^a-z0-9]+", "-", f"{topic} {label}".lower()).strip("-")
    return f"{number:02d}-{words[:60].rstrip('-')}"


def _write(files: Mapping[str, bytes], folder: Path) -> list[Path]:
    """All files in a new folder, or no folder."""
    if folder.exists():
        raise StorageError(f"expected a new folder, got {folder}, which exists: name another one")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with storage_errors(folder):
            partial.mkdir(parents=True)
        for name, content in files.items():
            write_bytes(partial / name, content)
        with storage_errors(folder):
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return [folder / name for name in files]
