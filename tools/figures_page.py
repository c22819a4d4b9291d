"""Write the tables of figures in docs/metrics.md again from `reports/vocabulary.py`; `make tables`.

A test compares them.
"""

from __future__ import annotations

from pathlib import Path

from advhash.reports.vocabulary import as_markdown

PAGE = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"
START, END = "<!-- figures: written by tools/figures_page.py -->\n", "<!-- end of figures -->\n"


def written(text: str) -> str:
    """The page with the tables of today."""
    before, _, rest = text.partition(START)
    return f"{before}{START}\n{as_markdown()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
