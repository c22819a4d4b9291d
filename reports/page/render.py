"""One self-contained page over any finished runs: no script, no network, safe by mail.

Names, captions and messages come from data sets and from run folders that others may have written:
they are hostile text: Jinja escapes them all, and `directions` isolates them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, UndefinedError
from markupsafe import Markup

from advhash import __version__
from advhash.errors import RunError, StorageError
from advhash.measures.sanity import Flag
from advhash.reports.elements.chapters import TOPICS, Chapter, Statement, covered
from advhash.reports.elements.numbers import FILTERS
from advhash.reports.elements.pictures import Pictures
from advhash.reports.elements.plots import Drawing
from advhash.reports.elements.tables import Column, Table, TableCell, columns, named, row
from advhash.reports.page.directions import isolated
from advhash.reports.page.kinds import chapters
from advhash.storage.files import write_bytes

LEADING = ("examples", "samples")  # topics that stand before what all runs found
ALWAYS = ("flags", "provenance")  # topics that the page itself writes, for all runs at once


@dataclass(frozen=True)
class Page:
    """A page, and its tables and figures in their order, each with the topic that it stands on."""

    html: str
    tables: list[tuple[str, Table]]
    drawings: list[tuple[str, Drawing]]


@dataclass(frozen=True)
class Part:
    """What one chapter says on a topic."""

    name: str
    text: Markup


@dataclass(frozen=True)
class Section:
    """A topic and all that is said on it."""

    topic: str
    heading: str
    parts: list[Part]
    shown: list[Table | Drawing]


@cache
def _templates() -> Environment:
    folder = Path(str(resources.files("advhash.reports")))
    files = {file.name: file for file in folder.rglob("*.html")}  # each beside its chapter

    def source(name: str) -> str:
        return files.get(name, Path(name)).read_text("utf-8")  # a path: of another package

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(source),
    )
    environment.filters.update(FILTERS)
    return environment


class _Show:
    """What macros call to put a table or a figure where they stand; it keeps what they showed."""

    def __init__(self) -> None:
        self.shown: list[Table | Drawing] = []

    def __call__(self, item: Table | Drawing) -> Markup:
        self.shown.append(item)
        parts: Any = _templates().get_template("parts.html").module
        return Markup(parts.table(item) if isinstance(item, Table) else parts.drawing(item))


def _sections(made: Sequence[Chapter], *, foreign: bool) -> list[Section]:
    """The topics on which a chapter has something to say, in order; `foreign` as in `draw`."""
    said = {topic: Section(topic, heading, [], []) for topic, heading in TOPICS.items()}
    for chapter in made:
        show = _Show()
        values = {**chapter.values, "show": show}
        macros = _templates().get_template(chapter.template).make_module(values)
        for topic, section in said.items():
            macro = getattr(macros, topic, None)
            show.shown = section.shown
            try:
                text = macro() if callable(macro) else ""
            except UndefinedError as error:  # valid by its schema, but cut by someone
                if not foreign:
                    raise
                raise RunError(
                    f"expected a whole record, got one that a page cannot show ({chapter.name}: "
                    f"{error}): run it again"
                ) from None
            if text.strip():
                section.parts.append(Part(chapter.name, Markup(text)))  # the macro escaped it
    return [section for topic, section in said.items() if section.parts or topic in ALWAYS]


def _measured(statements: Sequence[Statement]) -> Table | None:
    """How far each attack got, of several runs; None where none of them attacks."""
    known = [(given, given.share) for given in statements if given.share is not None]
    if not known or len(statements) == 1:
        return None
    return Table(
        "How far each attack got",
        "How far each attack got: what it covers of the way from clean queries to the best anchor "
        "code, what it takes of the MAP above chance, or which share of pictures it moves over "
        "the threshold.",
        [*columns("Run", "Verdict"), Column("How far (%)", wide=True)],
        [
            row(
                named(given.label),
                TableCell(given.word.lower()),
                TableCell(f"{100 * share:.1f}", numeric=True, bar=min(max(share, 0.0), 1.0)),
            )
            for given, share in known
        ],
    )


def _flags(made: Sequence[Chapter]) -> list[tuple[Flag, list[str]]]:
    """Each distinct flag with the runs that carry it, the gravest first."""
    distinct: dict[tuple[str, str, str], tuple[Flag, list[str]]] = {}
    for chapter in made:
        for label, flag in chapter.flags:
            key = (flag.level, flag.name, flag.message)
            distinct.setdefault(key, (flag, []))[1].append(label)
    levels = ("error", "warning", "info")
    return sorted(distinct.values(), key=lambda item: levels.index(item[0].level))


def draw(paths: Sequence[Path], *, foreign: bool = True, pictures: bool = True) -> Page:
    """The page of these finished runs; the first of attack runs is their subject.

    paths:   run folders, or files that `advhash detect --out` or `certify --out` wrote
    foreign: whether anyone may have edited them: what does not fit together is their fault then,
             and a bug of ours where this process has just written them
    pictures: whether it shows pictures of the data, which may be private

    Raises RunError.
    """
    if not paths:
        raise RunError("expected at least one run folder, got none")
    shown = Pictures(left_out=not pictures)
    return compose(chapters(paths, shown, foreign=foreign), shown, foreign=foreign)


def compose(
    made: Sequence[Chapter],
    pictures: Pictures,
    *,
    foreign: bool = True,
    title: str = "",
    home: str = "",
) -> Page:
    """The page of chapters, whose pictures these are; `foreign` as in `draw`.

    title: of the page; by default that of its only chapter, or how many runs there are
    home:  a page beside this one that it leads back to

    Raises RunError.
    """
    statements = [statement for chapter in made for statement in chapter.statements]
    datasets = covered([name for chapter in made for name in chapter.datasets], "data sets")
    alone = len(made) == 1
    sections = _sections(made, foreign=foreign)
    measured, show = _measured(statements), _Show()
    led = max(
        (at + 1 for at, section in enumerate(sections) if section.topic in LEADING), default=0
    )
    html = (
        _templates()
        .get_template("page.html")
        .render(
            title=title or (made[0].title if alone else f"{len(statements)} runs on {datasets}"),
            heading=title
            or (made[0].heading if alone else f"What {len(statements)} runs found on {datasets}"),
            statements=statements,
            measured="" if measured is None else show(measured),
            sections=sections,
            leading=sections[led - 1].topic if led else "",
            sources=[source for chapter in made for source in chapter.sources],
            flags=_flags(made),
            deviations=list(
                dict.fromkeys(deviation for chapter in made for deviation in chapter.deviations)
            ),
            attributions=list(
                dict.fromkeys(line for chapter in made for line in chapter.attributions if line)
            ),
            pictures=pictures.css(),
            version=__version__,
            home=home,
        )
    )
    shown = [(section.topic, item) for section in sections[:led] for item in section.shown]
    shown += [("all", item) for item in show.shown]
    shown += [(section.topic, item) for section in sections[led:] for item in section.shown]
    return Page(
        isolated(html),
        [(topic, item) for topic, item in shown if isinstance(item, Table)],
        [(topic, item) for topic, item in shown if isinstance(item, Drawing)],
    )


def page(paths: Sequence[Path]) -> str:
    """The HTML of `draw`. Raises RunError."""
    return draw(paths).html


def render(
    paths: Sequence[Path],
    out: Path,
    *,
    foreign: bool = True,
    pictures: bool = True,
    check: Callable[[Page], None] = lambda drawn: None,
) -> Page:
    """Write the page of these runs to `out`, whole or not at all, and return it; see `draw`.

    check: raises what keeps the page from being written

    Raises RunError: no finished run, a damaged one, a picture outside its folder; StorageError.
    """
    if out.is_dir():
        raise StorageError(
            f"cannot write {out}: it is a folder; name a file, e.g. {out}/report.html"
        )
    drawn = draw(paths, foreign=foreign, pictures=pictures)
    check(drawn)
    write_bytes(out, drawn.html.encode("utf-8", "replace"))
    return drawn
