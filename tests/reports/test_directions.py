"""A page on which nothing of a stranger turns a figure round or acts on who reads its source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from report_scene import MAKERS, NAMES, Tags

from advhash.reports.elements.tables import Column, Table, TableCell
from advhash.reports.page.directions import WORDS, isolated
from advhash.reports.page.exports import to_csv, to_latex
from advhash.reports.page.render import draw
from advhash.storage.foreign_text import CONTROLS

WORD = "שלום"
TURNED = f"\u202e{WORD}\x1b[2J"


@pytest.mark.parametrize(
    ("html", "shown"),
    [
        (f"<p>{WORD} 8/255</p>", f"<p><bdi>{WORD}</bdi> 8/255</p>"),
        (f"<p>{WORD}, {WORD}! 8</p>", f"<p><bdi>{WORD}, {WORD}</bdi>! 8</p>"),
        (f"<p>{WORD} a {WORD}</p>", f"<p><bdi>{WORD}</bdi> a <bdi>{WORD}</bdi></p>"),
        (f"<p>{WORD}&amp;{WORD}</p>", f"<p><bdi>{WORD}</bdi>&amp;<bdi>{WORD}</bdi></p>"),
        (f'<img alt="{WORD} 8">', f'<img alt="\u2068{WORD}\u2069 8">'),
        (f"<title>{WORD}</title>", f"<title>\u2068{WORD}\u2069</title>"),
        (f"<pre>{WORD}\n8</pre>", f"<pre><bdi>{WORD}</bdi>\n8</pre>"),
        ("<p>8/255 \u202e552/8\x1b[2J\x9b</p>", r"<p>8/255 \u202e552/8\x1b[2J\x9b</p>"),
        ("<p>été, 犬, ε = 8/255</p>\n", "<p>été, 犬, ε = 8/255</p>\n"),
    ],
)
def test_words_from_right_to_left_are_isolated(html: str, shown: str) -> None:
    assert isolated(html) == shown


def turned(value: Any) -> Any:
    """Every hostile text of a record, also of directions."""
    if isinstance(value, dict):
        return {key: turned(one) for key, one in value.items()}
    if isinstance(value, list):
        return [turned(one) for one in value]
    if isinstance(value, str) and ("script" in value or value in ("toy", "A victim.")):
        return value + TURNED
    return value


@pytest.mark.parametrize("name", NAMES)
def test_pages_of_every_kind_keep_their_order(name: str, tmp_path: Path) -> None:
    path = MAKERS[name](tmp_path / "run")
    file = path if path.is_file() else path / "metrics.json"
    file.write_text(json.dumps(turned(json.loads(file.read_text("utf-8")))), encoding="utf-8")
    page = draw([path])
    assert WORD in page.html
    assert set(CONTROLS.findall(page.html)) <= {"\n", "\u2068", "\u2069"}
    assert r"\u202e" in page.html
    outside = page.html
    for inside in (rf"<bdi>{WORD}</bdi>", f"\u2068{WORD}\u2069"):
        outside = outside.replace(inside, "")
    assert WORDS.search(outside) is None
    assert "bdi" not in Tags(page.html).text
    for drawing in (one for _, one in page.drawings):
        assert set(CONTROLS.findall(drawing.svg.decode("utf-8"))) <= {"\n"}


def test_exported_tables_show_controls() -> None:
    table = Table("t", "A caption.", [Column("name")], [[TableCell(TURNED)]])
    for text in (to_csv(table), to_latex(table)):
        assert set(CONTROLS.findall(text)) <= {"\n"}
        assert WORD in text
