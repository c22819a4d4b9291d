"""One self-contained page over any finished runs: no script, no network, safe by mail.

Names, captions and messages come from data sets and from run folders that others may have written:
they are hostile text, and Jinja escapes them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined, UndefinedError
from markupsafe import Markup

from advhash import __version__
from advhash.errors import RunError, StorageError
from advhash.measures.sanity import Flag
from advhash.reports.elements.chapters import TOPICS, Chapter, covered
from advhash.reports.elements.numbers import FILTERS
from advhash.reports.elements.pictures import Pictures
from advhash.reports.page.kinds import chapters
from advhash.storage.files import write_bytes

ALWAYS = ("flags", "provenance")  # topics that the page itself writes, for all runs at once


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


def _sections(found: Sequence[Chapter]) -> list[Section]:
    """The topics on which a chapter has something to say, in their order."""
    said: dict[str, list[Part]] = {topic: [] for topic in TOPICS}
    for chapter in found:
        macros = _templates().get_template(chapter.template).make_module(dict(chapter.values))
        for topic, parts in said.items():
            macro = getattr(macros, topic, None)
            try:
                text = macro() if callable(macro) else ""
            except UndefinedError as error:  # valid by its schema, but cut by someone
                raise RunError(
                    f"expected a whole record, got one that a page cannot show ({chapter.name}: "
                    f"{error}): run it again"
                ) from None
            if text.strip():
                parts.append(Part(chapter.name, Markup(text)))  # escaped by the macro itself
    return [
        Section(topic, TOPICS[topic], parts)
        for topic, parts in said.items()
        if parts or topic in ALWAYS
    ]


def _flags(found: Sequence[Chapter]) -> list[tuple[Flag, list[str]]]:
    """Each distinct flag with the runs that carry it, the gravest first."""
    distinct: dict[tuple[str, str, str], tuple[Flag, list[str]]] = {}
    for chapter in found:
        for label, flag in chapter.flags:
            key = (flag.level, flag.name, flag.message)
            distinct.setdefault(key, (flag, []))[1].append(label)
    levels = ("error", "warning", "info")
    return sorted(distinct.values(), key=lambda item: levels.index(item[0].level))


def page(paths: Sequence[Path]) -> str:
    """The page of these finished runs; the first of attack runs is their subject.

    paths: run folders, or files that `advhash detect --out` or `certify --out` wrote
    Raises RunError.
    """
    if not paths:
        raise RunError("expected at least one run folder, got none")
    pictures = Pictures()
    found = chapters(paths, pictures)
    told = [one for chapter in found for one in chapter.told]
    datasets = covered([name for chapter in found for name in chapter.datasets], "data sets")
    alone = len(found) == 1
    return (
        _templates()
        .get_template("page.html")
        .render(
            title=found[0].title if alone else f"{len(told)} runs on {datasets}",
            heading=found[0].heading if alone else f"What {len(told)} runs found on {datasets}",
            told=told,
            sections=_sections(found),
            sources=[one for chapter in found for one in chapter.sources],
            flags=_flags(found),
            deviations=list(dict.fromkeys(one for chapter in found for one in chapter.deviations)),
            attributions=list(
                dict.fromkeys(line for chapter in found for line in chapter.attributions if line)
            ),
            pictures=pictures.css(),
            version=__version__,
        )
    )


def render(paths: Sequence[Path], out: Path) -> str:
    """Write the page of these runs to `out`, whole or not at all, and return it.

    Raises RunError: no finished run, a damaged one, a picture outside its folder; StorageError.
    """
    if out.is_dir():
        raise StorageError(
            f"cannot write {out}: it is a folder; name a file, e.g. {out}/report.html"
        )
    html = page(paths)
    write_bytes(out, html.encode("utf-8", "replace"))
    return html
