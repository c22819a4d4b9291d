"""One table of figures: complete, and nobody calls a figure by another name."""

from __future__ import annotations

import ast
import html
import json
import re
import runpy
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from report_scene import every_kind
from source_tree import FILES, ROOT, folder_of, named

from advhash.api.result import DISTANCES
from advhash.cli.console import print_rows
from advhash.measures.intervals import Metric
from advhash.reports.headline import HEADLINES, OWN
from advhash.reports.page.kinds import KINDS
from advhash.reports.page.render import draw
from advhash.reports.record import schema_of
from advhash.reports.vocabulary import FIGURES, PLAIN, as_markdown, figure, known, label_of

PAGE = ROOT / "docs/metrics.md"
VOCABULARY = ROOT / "reports/vocabulary.py"
SAYING = ("reports", "experiments", "api", "cli")
TOLD = [file for file in FILES if folder_of(named(file)) in SAYING]
KEPT = {one.name for one in fields(Metric)}
AXES = {"FACTORS"}  # tables of what was varied: `epochs` is an axis there, no figure


def figures_of(document: Any, within: str = "") -> Iterator[str]:
    """The names of all tables of metrics in a document."""
    if isinstance(document, dict):
        for name, part in document.items():
            table = within in ("metrics", "differences") or within.startswith("metrics_by")
            if (table and part is None) or (isinstance(part, dict) and set(part) >= KEPT):
                if table:
                    yield name
            else:
                yield from figures_of(part, "metrics_by/" if name == "metrics_by_direction" else
                                      within if within == "metrics_by/" else name)  # fmt: skip
    elif isinstance(document, list):
        for part in document:
            yield from figures_of(part, within)


def test_a_name_is_that_of_one_entry() -> None:
    names = Counter(one.name for group in FIGURES.values() for one in group)
    assert max(names.values()) == 1
    labels = Counter(one.label for one in PLAIN.values())
    assert [label for label, count in labels.items() if count > 1] == ["MAP clean"]
    assert {one.name for one in PLAIN.values() if one.label == "MAP clean"} == {"map", "map_clean"}


@pytest.mark.parametrize("entry", PLAIN.values(), ids=lambda one: one.name)
def test_an_entry_says_what_its_figure_is(entry: Any) -> None:
    assert entry.sentence[0].isupper() or entry.sentence.startswith(("t-MAP", "(t-MAP"))
    assert entry.sentence.endswith(".")
    assert entry.sentence.count("\n") == 0
    assert "|" not in entry.name + entry.sentence
    assert entry.label.strip()


def test_families_are_filled_in() -> None:
    assert label_of("map_party0_party1_untrained") == "MAP, party0 against party1, untrained rows"
    assert label_of("reidentification_final_code_over_chance").endswith("over chance, final code")
    assert label_of("eta_squared_weight_decay") == "η² of weight decay"
    assert label_of("tmap_own:my_method") == "t-MAP on its own victim: my_method"
    assert known("tmap_nowhere") is None
    assert figure("heads").label == "heads"  # of a package that brings its own kind


def test_every_figure_of_a_record_is_in_the_table(tmp_path: Path) -> None:
    runs = every_kind(tmp_path)
    assert {schema_of(run) for run in runs.values()} == set(KINDS)
    found = set()
    for run in runs.values():
        file = run if run.is_file() else run / "metrics.json"
        found |= set(figures_of(json.loads(file.read_text("utf-8"))))
    assert len(found) > 60
    assert [name for name in sorted(found) if known(name) is None] == []


def literals(tree: ast.Module) -> Iterator[ast.expr]:
    """The expressions of a module but for its docstrings, and for keys, which name no figure."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    skipped = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    skipped |= {
        id(key) for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.expr) and id(node) not in skipped:
            yield node


def written_as(node: ast.expr) -> str | None:
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


@pytest.mark.parametrize("file", TOLD, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_label_is_spelled_anew(file: Path) -> None:
    """A figure has no other name in a table that maps names to words, and its label is no literal.

    Labels of one plain word, such as "gain", are words of the language as well.
    """
    if file == VOCABULARY:
        return
    labels = {one.label for one in PLAIN.values() if not re.fullmatch(r"[a-z]+", one.label)}
    labels |= {one.heading for one in PLAIN.values() if one.heading != one.label}
    tree = ast.parse(file.read_text("utf-8"))
    axes = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in AXES
    }
    for node in literals(tree):
        told = written_as(node)
        assert told not in labels, f"{told!r} at line {node.lineno}"
        if isinstance(node, ast.Dict) and id(node) not in axes:
            pairs = [(written_as(key), written_as(value)) for key, value in
                     zip(node.keys, node.values, strict=True) if key is not None]  # fmt: skip
            anew = [(name, word) for name, word in pairs if name and word and known(name)]
            assert not anew, f"line {node.lineno}: {anew}"


def test_templates_spell_no_label_in_a_heading() -> None:
    labels = {one.label for one in PLAIN.values()} | {one.heading for one in PLAIN.values()}
    for file in (ROOT / "reports").rglob("*.html"):
        heads = re.findall(r"<(?:th|dt)[^>]*>([^<{]+)</", file.read_text("utf-8"))
        assert not {html.unescape(head).strip() for head in heads} & labels, file


def test_the_tables_of_a_page_call_figures_so(tmp_path: Path) -> None:
    headings = {one.heading for one in PLAIN.values()}
    page = draw(list(every_kind(tmp_path).values()))
    shown = {column.label for _, one in page.tables for column in one.columns}
    shown |= {row[0].text for _, one in page.tables for row in one.rows if one.headed}
    assert len(shown & headings) > 60
    old = {"covered", "Normalised", "MAP by chance", "chance", "MAP after the attack", "ceiling"}
    assert not shown & old


def test_the_terminal_prints_label_and_name(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"metric": name, "value": 1} for name in ("tmap_normalised", "psnr", "heads")]
    print_rows(("metric", "value"), rows)
    lines = [re.split(r"  +", line.strip()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["figure", "value", "name"],
        ["t-MAP normalised", "1", "tmap_normalised"],
        ["PSNR (dB)", "1", "psnr"],
        ["heads", "1", "heads"],
    ]
    print_rows(("code", "knn_accuracy"), [{"code": "a", "knn_accuracy": 2}])
    assert capsys.readouterr().out.split()[:2] == ["code", "K-NN"]


def test_the_notebook_shows_figures_of_the_table() -> None:
    leading = [name for one in HEADLINES.values() for name in one.figures]
    assert [name for name in (*leading, *OWN, *DISTANCES) if name not in PLAIN] == []


def test_the_documentation_has_the_table() -> None:
    written = runpy.run_path(str(ROOT / "tools/figures_page.py"))["written"]
    text = PAGE.read_text("utf-8")
    assert text == written(text), "run `make tables`"
    assert as_markdown() in text
