"""Write README and every measured page of docs/ again from the committed JSON files; `make tables`.

A script of this folder that takes `--page` writes its page without measuring: all of them are run.
Beneath the title of each page that `measured_at.toml` lists stands the commit of its figures.
`--check` changes nothing and ends with 1 where a page differs from its figures.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"


def scripts() -> list[Path]:
    """The scripts that can write their page without measuring."""
    files = sorted(set(HERE.glob("*.py")) - {Path(__file__).resolve()})
    return [file for file in files if 'add_argument("--page"' in file.read_text("utf-8")]


def pages() -> list[Path]:
    """Every page that a script or a head may change."""
    return [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))]


OPENING = "Figures measured at commit"
MOVED = (
    " Since then the random numbers of each query come from the seed and that query alone: figures "
    "of randomised attacks and of drawn targets move when they are measured again."
)


def headed(
    text: str, commits: list[str], draws_changed: bool = False, changed: str = "", anew: str = ""
) -> str:
    """A page with the line that says where its figures come from, beneath its title."""
    title, *rest = text.split("\n")
    if rest[1:2] and rest[1].startswith(OPENING):
        rest = rest[2:]
    *others, last = (f"`{commit}`" for commit in commits)
    named = f"s {', '.join(others)} and {last}" if others else f" {last}"
    again = f" Measured anew since: {anew}." if anew else ""
    other = f" Since then {changed}." if changed else ""
    line = f"{OPENING}{named}.{MOVED if draws_changed else ''}{other}{again}"
    return "\n".join([title, "", line, *rest])


def write_heads() -> None:
    """Put its line on every page of `measured_at.toml`."""
    pages = tomllib.loads((HERE / "measured_at.toml").read_text("utf-8"))
    for name, given in pages.items():
        page = DOCS / name
        text = page.read_text("utf-8")
        page.write_text(headed(text, **given), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    before = {file: file.read_bytes() for file in pages()}
    try:
        for file in scripts():
            subprocess.run([sys.executable, file, "--page"], check=True, stdout=subprocess.DEVNULL)
            print(f"{file.name} wrote its page")
        write_heads()
        changed = [file for file in before if file.read_bytes() != before[file]]
    finally:
        if given.check:
            for file, content in before.items():
                if file.read_bytes() != content:
                    file.write_bytes(content)
    for file in changed:
        print(f"{file.relative_to(DOCS.parent)} {'differs from' if given.check else 'follows'} "
              "its figures")  # fmt: skip
    if given.check and changed:
        sys.exit(1)


if __name__ == "__main__":
    main()
