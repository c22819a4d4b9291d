"""The pictures of a page: each distinct one is embedded once, however many examples show it."""

from __future__ import annotations

import base64
import hashlib
import io
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from advhash.errors import RunError
from advhash.reports.record import GAIN, ShownChange
from advhash.reports.vocabulary import GREY_RMS

MAX_SIDE = 160  # pixels: a larger picture is reduced for the page, its file stays as it is
LEFT_OUT = "left-out"  # the class of every picture of a page without pictures
MAX_FILE = 20_000_000  # bytes: no sample of ours comes near it


@dataclass
class Pictures:
    """The pictures of a page: file → CSS class, each distinct picture once.

    left_out: whether the page shows none, so that it can be passed on where pictures may not
    """

    left_out: bool = False
    classes: dict[str, str] = field(default_factory=dict)  # digest → class
    uris: dict[str, str] = field(default_factory=dict)  # class → data URI

    def add(self, folder: Path, name: str | None) -> str | None:
        """The class of a picture inside a run folder; None where there is none to show.

        Raises RunError where the path leaves the folder.
        """
        if name is None:
            return None
        if self.left_out:
            return LEFT_OUT
        root = folder.resolve()
        try:
            file = (root / name).resolve()
        except (OSError, ValueError, RuntimeError):
            return None
        if not file.is_relative_to(root):
            raise RunError(
                f"expected pictures inside the run folder {folder}, got {name!r}, which leaves it: "
                "do not trust this run"
            )
        uri = _data_uri(file)
        if uri is None:
            return None
        digest = hashlib.sha256(uri.encode()).hexdigest()
        if digest not in self.classes:
            self.classes[digest] = f"p{len(self.classes)}"
            self.uris[self.classes[digest]] = uri
        return self.classes[digest]

    def css(self) -> Markup:
        """One rule a picture. Class names and base64 are made here: nothing in them is foreign."""
        rules = (f'.{name}{{background-image:url("{uri}")}}' for name, uri in self.uris.items())
        return Markup("\n".join(rules))


def change_rows(
    folder: Path, pictures: Pictures, changes: Iterable[tuple[ShownChange, Sequence[str]]]
) -> list[dict[str, Any]]:
    """What the macro `changes` shows; nothing where pictures are left out.

    changes: each with what is said of it, a line each
    """
    if pictures.left_out:
        return []
    return [
        {
            "change": change,
            "cells": [pictures.add(folder, file) for file in change.files],
            "lines": lines,
            "gain": GAIN,
            "unit": GREY_RMS,
        }
        for change, lines in changes
    ]


def _data_uri(file: Path) -> str | None:
    """A picture file as data URI; None where it is missing, damaged or no picture."""
    try:
        if not file.is_file() or file.stat().st_size > MAX_FILE:
            return None
        content = file.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=("PNG",)) as opened:
                opened.load()
                if max(opened.size) <= MAX_SIDE:
                    return _base64("png", content)
                small = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Warning):
        return None
    small.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.NEAREST)  # noise must not average out
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=88)
    return _base64("jpeg", buffer.getvalue())


def _base64(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
