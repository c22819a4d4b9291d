"""The examples run, are notebooks, and draw the pictures of the gallery."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
GALLERY = ROOT / "docs/images/gallery"


def test_examples_are_notebooks() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its dependencies
        import jupytext
    assert len(EXAMPLES) >= 3
    for file in EXAMPLES:
        kinds = [cell.cell_type for cell in jupytext.read(file).cells]
        assert kinds[0] == "markdown"
        assert kinds.count("code") >= 3


def test_the_gallery_shows_every_example_and_stays_small() -> None:
    page = (ROOT / "docs/gallery.md").read_text("utf-8")
    for file in EXAMPLES:
        assert f"../examples/{file.name}" in page
        assert f"images/gallery/{file.stem}.png" in page
    pictures = list(GALLERY.iterdir())
    assert {picture.stem for picture in pictures} == {file.stem for file in EXAMPLES}
    assert sum(picture.stat().st_size for picture in pictures) <= 300_000


@pytest.mark.slow
@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_an_example_runs_and_draws_its_picture(file: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "ADVHASH_GALLERY": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, file], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / f"{file.stem}.png") as picture:
        assert min(picture.size) > 100
