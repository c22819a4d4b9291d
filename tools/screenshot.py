"""A picture of the top of a page, by headless Chromium: `make screenshot`.

python tools/screenshot.py runs/demo/report.html docs/images/report.png --height 1500
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

COLOURS = 256  # of the picture: text and charts need no more, and the file is a third as large
LIMIT = 120  # seconds


def screenshot(page: Path, width: int, height: int) -> Image.Image:
    """The first `height` rows of pixels of a page on a screen of `width`.

    Raises RuntimeError where Chromium is missing, fails or takes too long.
    """
    if shutil.which("chromium") is None:
        raise RuntimeError("expected chromium on the path (Debian: apt-get install chromium)")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "page.png"
        command = [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--hide-scrollbars", f"--user-data-dir={folder}/profile",
            f"--window-size={width},{height}", f"--screenshot={file}", page.resolve().as_uri(),
        ]  # fmt: skip
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"chromium gave no picture in {LIMIT} seconds") from None
        if not file.is_file():
            raise RuntimeError(f"chromium gave no picture: {done.stderr[-500:]}")
        with Image.open(io.BytesIO(file.read_bytes())) as picture:
            return picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--width", type=int, default=1200)
    parser.add_argument("--height", type=int, default=1500)
    given = parser.parse_args()
    if not given.page.is_file():
        sys.exit(f"expected a page, got {given.page}: not there; `make demo` makes one")
    try:
        picture = screenshot(given.page, given.width, given.height)
    except RuntimeError as error:
        sys.exit(str(error))
    given.picture.parent.mkdir(parents=True, exist_ok=True)
    picture.save(given.picture, optimize=True)
    sys.stdout.write(f"{given.picture}\n")


if __name__ == "__main__":
    main()
