"""Pages of every kind in headless Chromium: `make test-browser`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
from report_scene import NAMES, every_kind

from advhash.reports.page.render import render
from advhash.reports.site import write_site

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(bool(browser.absent()), reason=browser.absent()),
]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with browser.chromium() as found:
        yield found


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A page of each kind, and one of all runs."""
    root = tmp_path_factory.mktemp("pages")
    kinds = every_kind(root / "runs")
    found = {name: root / f"{name}.html" for name in (*NAMES, "mixed")}
    for name in NAMES:
        render([kinds[name]], found[name])
    render(list(kinds.values()), found["mixed"])
    index, victim, *_ = write_site([kinds["attack"], kinds["benchmark"]], root / "site")
    return {**found, "site": index, "victim": victim}


@pytest.mark.parametrize("name", [*NAMES, "mixed", "site", "victim"])
def test_a_page_in_the_browser(address: str, pages: dict[str, Path], name: str) -> None:
    seen = asyncio.run(browser.visit(address, pages[name]))
    assert seen.errors == []
    assert seen.requests == []
    assert len(seen.violations) == 4
    assert {view: rules for view, rules in seen.violations.items() if rules} == {}
    assert seen.wide == []
    assert seen.unreached == []


def test_the_browser_would_find_them(address: str, tmp_path: Path) -> None:
    """All that a page of ours must not do."""
    (tmp_path / "bad.html").write_text(
        "<!DOCTYPE html><title>bad</title><body style='background:#fff;color:#ddd'>"
        "<p style='width:900px'>wide and pale</p><img src='http://127.0.0.1:9/x.png'>"
        "<a href='#x' onkeydown='event.preventDefault()'>trap</a><a href='#y'>after it</a>"
        "<script>console.error('bad')</script>"
    )
    seen = asyncio.run(browser.visit(address, tmp_path / "bad.html"))
    assert any("bad" in text for text in seen.errors)
    assert seen.requests == ["http://127.0.0.1:9/x.png"]
    for violations in seen.violations.values():
        found = {text.partition(":")[0] for text in violations}
        assert {"color-contrast", "image-alt", "html-has-lang"} <= found
    assert len(seen.wide) > 1
    assert len(seen.unreached) == 1
    assert "after it" in seen.unreached[0]
