"""Markdown that scripts of this folder put between the marks of a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def filled(page: str, tables: Mapping[str, str], end: str = "end") -> str:
    """The page with each content between `<!-- NAME -->` and the next `<!-- END -->`.

    Raises SystemExit where a mark is missing: without it the rest of the page would be lost.

    >>> filled("a\\n<!-- t -->\\nold\\n<!-- end -->\\nb\\n", {"t": "new\\n"})
    'a\\n<!-- t -->\\nnew\\n<!-- end -->\\nb\\n'
    """
    for name, content in tables.items():
        before, begun, rest = page.partition(f"<!-- {name} -->\n")
        _, ended, after = rest.partition(f"<!-- {end} -->")
        if not begun or not ended:
            title = page.partition("\n")[0].removeprefix("# ")
            raise SystemExit(f"page {title!r}: expected the marks {name!r} and {end!r}")
        page = before + begun + content + ended + after
    return page


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown.

    >>> print(table(["a", "b"], [["1", "2"]]), end="")
    | a | b |
    | --- | --- |
    | 1 | 2 |
    """
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, ["---"] * len(head), *rows))
