"""Sphinx configuration; `make docs` builds with warnings as errors."""

from __future__ import annotations

import re
from typing import Any

from advhash import __version__

project = "advhash"
author = "The advhash developers"
copyright = "2026, the advhash developers"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # links to headings, as GitHub names them
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
html_theme = "furo"
html_static_path: list[str] = []
smartquotes = False
toc_object_entries = False  # contents name pages, not each function of the API
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
suppress_warnings = ["ref.python"]  # names such as `Batch` that two modules export

CODE = re.compile(r"``?(.+?)``?")
NAMED = re.compile(r"^[\w`][\w`, +()*\[\]…/.-]*: ")
BULLET = re.compile(r"^ *- ")


def prose(line: str) -> str:
    """A line of a docstring as reStructuredText: code stays, nothing else is markup."""
    parts = CODE.split(line)  # text, code, text, …
    return "".join(
        f"``{part}``" if place % 2 else re.sub(r"([\\*|_`])", r"\\\1", part)
        for place, part in enumerate(parts)
    )


def paragraph(lines: list[str]) -> list[str]:
    """Plain text, a list, aligned arguments or an example, as reStructuredText."""
    if lines[0].lstrip().startswith(">>>"):
        return lines
    if lines[0].startswith("    "):
        return ["::", "", *lines]
    first = next((place for place, line in enumerate(lines) if BULLET.match(line)), None)
    if first:
        return [*paragraph(lines[:first]), "", *paragraph(lines[first:])]
    if first == 0:
        return [prose(line) if BULLET.match(line) else "  " + prose(line.strip()) for line in lines]
    if any(line.startswith(" ") or NAMED.match(line) for line in lines):
        return [
            f"| {line[: len(line) - len(line.lstrip())]}{prose(line.lstrip())}" for line in lines
        ]
    return [prose(line) for line in lines]


def to_markup(
    app: Any, what: str, name: str, owner: object, options: Any, lines: list[str]
) -> None:
    """Docstrings are plain text for readers of the source: see ARCHITECTURE.md."""
    found: list[str] = []
    for block in re.split(r"\n\s*\n", "\n".join(lines).strip("\n")):
        found += [*paragraph(block.split("\n")), ""]
    lines[:] = found


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", to_markup)
