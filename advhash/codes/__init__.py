"""Codes packed into words, their distances and the metrics of rankings."""

from advhash.codes.packed import (
    HashCodes,
)

__all__ = ["HashCodes"]
