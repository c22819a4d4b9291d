"""Text of strangers, for eyes: signs that act instead of being seen are written out.

They are the control characters, among them the escape that begins a terminal's commands, the
separators of lines and paragraphs, halves of characters (bytes of names that are not UTF-8), and
the controls of direction, which show 8/255 as 552/8.
"""

from __future__ import annotations

import re

DIRECTIONS = "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
CONTROLS = re.compile(rf"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff{DIRECTIONS}]")
BYTES = range(0xDC80, 0xDD00)  # what Python makes of bytes that are not UTF-8


def visible(text: str, keep: str = "") -> str:
    r"""Text on one line in which nothing acts; `keep`: control characters that are left.

    >>> visible("\x1b[2Jred\u202e552/8\n"), visible("dog \udcff 8/255 ∞"), visible("a\nb", "\n")
    ('\\x1b[2Jred\\u202e552/8\\n', 'dog \\xff 8/255 ∞', 'a\nb')
    """
    return CONTROLS.sub(lambda match: match[0] if match[0] in keep else _written(match[0]), text)


def _written(sign: str) -> str:
    if ord(sign) in BYTES:
        return f"\\x{ord(sign) - 0xDC00:02x}"
    return sign.encode("unicode_escape").decode("ascii")
