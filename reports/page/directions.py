"""Foreign text on a finished page: it turns nothing round but itself.

Words of scripts that are written from right to left come from data sets, users and strangers; they
are isolated wherever they stand, so that the figures beside them keep their order. Controls, which
would do the same and more, are written out, see `storage.foreign_text`.
"""

from __future__ import annotations

import re

from advhash.storage.foreign_text import visible

LETTERS = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufefe\U00010800-\U00010fff\U0001e800-\U0001efff"
WORDS = re.compile(rf"[{LETTERS}]+(?:[^\w<>&;]+[{LETTERS}]+)*")
MARKUP = re.compile(r"(<title>.*?</title>|<style>.*?</style>|<[^>]*>)", re.DOTALL)
LINES = "\t\n\r"


def isolated(html: str) -> str:
    """The page with `<bdi>` around such words, and with isolating characters where no tag may be.

    >>> isolated("<p title='אב'>אב 8/255</p>").encode("ascii", "backslashreplace").decode()
    "<p title='\\\\u2068\\\\u05d0\\\\u05d1\\\\u2069'><bdi>\\\\u05d0\\\\u05d1</bdi> 8/255</p>"
    """
    shown = visible(html, keep=LINES)
    if WORDS.search(shown) is None:
        return shown
    parts = MARKUP.split(shown)  # text and markup by turns
    parts[::2] = [WORDS.sub(r"<bdi>\g<0></bdi>", text) for text in parts[::2]]
    parts[1::2] = [WORDS.sub("\u2068\\g<0>\u2069", markup) for markup in parts[1::2]]
    return "".join(parts)
