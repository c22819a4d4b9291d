"""Several radii in one `--eps`."""

from __future__ import annotations

import math

from advhash.budget import parse_eps
from advhash.errors import ConfigError


def split_eps(text: str | None) -> list[str]:
    """The parts of `--eps`: none, one, or several that differ, in ascending order.

    >>> split_eps("8/255, 2/255")
    ['2/255', '8/255']

    Raises ConfigError: an empty part, one twice, `none` among others.
    """
    if text is None:
        return []
    parts = [part.strip() for part in text.split(",")]
    values = [parse_eps(part) for part in parts]
    if len(parts) > 1 and (len(set(values)) < len(values) or math.inf in values):
        raise ConfigError(f"--eps: expected different radii without none, got {text!r}")
    return [part for _, part in sorted(zip(values, parts, strict=True))]
