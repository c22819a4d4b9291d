"""Write every measured page of docs/ again from the committed JSON files; `make tables`.

A script of this folder that takes `--page` writes its page without measuring: all of them are run.
`--check` changes nothing and ends with 1 where a page differs from its figures.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
DOCS = HERE.parent / "docs"


def scripts() -> list[Path]:
    """The scripts that can write their page without measuring."""
    files = sorted(set(HERE.glob("*.py")) - {Path(__file__).resolve()})
    return [file for file in files if 'add_argument("--page"' in file.read_text("utf-8")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    before = {file: file.read_bytes() for file in sorted(DOCS.rglob("*.md"))}
    try:
        for file in scripts():
            subprocess.run([sys.executable, file, "--page"], check=True, stdout=subprocess.DEVNULL)
            print(f"{file.name} wrote its page")
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
