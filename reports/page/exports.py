"""The tables of a page as CSV and LaTeX, its figures as SVG and PNG.

They are the objects that the page shows, so that a paper shows what the page shows.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import matplotlib
import resvg_py

from advhash.errors import StorageError, UsageError, nearest
from advhash.reports.elements.tables import Table, TableCell
from advhash.reports.elements.verdict import MINUS
from advhash.reports.page.render import Page
from advhash.storage.files import partial_folder, storage_errors, write_bytes
from advhash.storage.foreign_text import visible

Width = Literal["one", "two"]
ENVIRONMENTS = {"one": ("table", r"\columnwidth"), "two": ("table*", r"\textwidth")}
SCALE = 2  # pixels of a PNG to one of the page
NUMBER = re.compile(r"–?|[-−+]?[\d.]+(/255)?")  # a figure, or none
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


def _columns(table: Table) -> list[tuple[str, bool]]:
    """The heading of each column, and whether a cell in it has an interval."""
    bounded = {
        place for row in table.rows for place, cell in enumerate(row) if cell.bounds is not None
    }
    return [(column.label, place in bounded) for place, column in enumerate(table.columns)]


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
        spread = [covered for cell in row for covered in (cell, *[TableCell()] * (cell.span - 1))]
        line = []
        for (_, interval), cell in zip(columns, spread, strict=False):
            line.append(_safe(cell.words))
            line += map(_safe, cell.bounds or ("", "")) if interval else ()
        lines.append(line)
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(lines)
    return stream.getvalue()


def _safe(text: str) -> str:
    """Text for a cell of a CSV file, whose numbers have the hyphen that programs read."""
    text = visible(text.strip(), keep="\t\n\r")
    if NUMBER.fullmatch(text):
        return text.replace(MINUS, "-")
    if text[:1] in ("=", "+", "@", "-", "\t", "\r"):
        return f"'{text}"
    return text


def escape_latex(text: str) -> str:
    """Text in which LaTeX sees no command.

    >>> escape_latex("50 % of a_b")
    '50 \\\\% of a\\\\_b'
    """
    return "".join(LATEX.get(sign, sign) for sign in visible(text.strip(), keep="\n"))


def to_latex(table: Table, label: str = "", width: Width = "one") -> str:
    """A table for the package booktabs; an interval stands in small print behind its figure.

    label: of its \\label; width: over one column of a page or over two, shrunk where it is wider
    """
    environment, room = ENVIRONMENTS[width]

    def shown(cell: TableCell) -> str:
        text = escape_latex(cell.words)
        if cell.bounds is not None:
            low, high = map(escape_latex, cell.bounds)
            text += rf" {{\scriptsize [{low}, {high}]}}"
        return text if cell.span == 1 else rf"\multicolumn{{{cell.span}}}{{l}}{{{text}}}"

    alignment = "".join(
        "r"
        if all(NUMBER.fullmatch(row[place].text) for row in table.rows if place < len(row))
        else "l"
        for place in range(len(table.columns))
    )
    lines = [
        r"% \usepackage{booktabs,amssymb,adjustbox}",
        rf"\begin{{{environment}}}",
        r"\centering",
        rf"\caption{{{escape_latex(table.caption)}}}",
        rf"\label{{tab:{label or _words(table.label)}}}",
        rf"\begin{{adjustbox}}{{max width={room}}}",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        " & ".join(escape_latex(column.label) for column in table.columns) + r" \\",
        r"\midrule",
        *(" & ".join(shown(cell) for cell in row) + r" \\" for row in table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{adjustbox}",
        rf"\end{{{environment}}}",
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


def figures_of(page: Page) -> list[str]:
    """Names of the figures that have a column in a table of a page."""
    named = (column.name for _, table in page.tables for column in table.columns)
    return list(dict.fromkeys(name for name in named if name))


def expect_figures(page: Page, names: Sequence[str]) -> None:
    """Raise UsageError for a figure that no table of the page has."""
    known = figures_of(page)
    if names and not known:
        raise UsageError(
            f"--columns: the tables of these runs have no columns of named figures, got "
            f"{names[0]!r}; leave --columns out, then every table is written whole"
        )
    for name in names:
        if name not in known:
            close = nearest(name, known)
            raise UsageError(
                f"--columns: no table of these runs has {name!r}"
                + (f": {close}Known: " if close else "; known: ")
                + ", ".join(known)
            )


def write_tables(
    page: Page, folder: Path, *, columns: Sequence[str] = (), width: Width = "one"
) -> list[Path]:
    """Write each table of a page as .csv and .tex to a new folder.

    columns: names of figures: their columns alone, and the tables that have one; none: everything
    width:   of the .tex, as `to_latex` has it

    Raises UsageError, see `expect_figures`; StorageError.
    """
    expect_figures(page, columns)
    files = {}
    given: Counter[str] = Counter()
    for number, (topic, whole) in enumerate(page.tables, start=1):
        table = whole.only(columns) if columns else whole
        if table is None:
            continue
        name = _name(number, topic, table.label)
        files[f"{name}.csv"] = to_csv(table).encode("utf-8")
        label = name.partition("-")[2]
        given[label] += 1
        label = name if given[label] > 1 else label  # its number sets the second one apart
        files[f"{name}.tex"] = to_latex(table, label, width).encode("utf-8")
    return _write(files, folder)


def write_figures(page: Page, folder: Path) -> list[Path]:
    """Write each figure of a page as .svg and .png to a new folder. Raises StorageError."""
    files = {}
    for number, (topic, drawing) in enumerate(page.drawings, start=1):
        name = _name(number, topic, "")
        files[f"{name}.svg"] = drawing.svg
        files[f"{name}.png"] = to_png(drawing.svg)
    return _write(files, folder)


def _name(number: int, topic: str, label: str) -> str:
    """`03-results-by-direction`: sorted as on the page; only letters of a foreign name are used."""
    return f"{number:02d}-{_words(f'{topic} {label}')}"


def _words(text: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return words[:60].rstrip("-")


def _write(files: Mapping[str, bytes], folder: Path) -> list[Path]:
    """All files in a new folder, or no folder."""
    if folder.exists():
        raise StorageError(f"expected a new folder, got {folder}, which exists: name another one")
    with storage_errors(folder), partial_folder(folder) as partial:
        for name, content in files.items():
            write_bytes(partial / name, content)
        partial.rename(folder)
    return [folder / name for name in files]
