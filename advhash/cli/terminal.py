"""The one place that writes to the terminal: what strangers wrote shows, and does nothing.

Names, labels, captions, cards and messages may hold escape sequences, which move the cursor or
rename the window, and controls of direction, which turn figures round. All are shown escaped.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from advhash.storage.foreign_text import CONTROLS, visible


def tell(line: str) -> None:
    """A line of results on stdout."""
    sys.stdout.write(visible(line) + "\n")


def remark(line: str) -> None:
    """A line beside the results, on stderr, at once."""
    sys.stderr.write(visible(line) + "\n")
    sys.stderr.flush()


def tell_json(document: Mapping[str, Any]) -> None:
    """A JSON document on stdout; controls that JSON leaves as they are become its own escapes."""
    text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)
    sys.stdout.write(CONTROLS.sub(_escaped, text) + "\n")


def _escaped(match: re.Match[str]) -> str:
    sign = match[0]
    return sign if sign == "\n" else f"\\u{ord(sign):04x}"
