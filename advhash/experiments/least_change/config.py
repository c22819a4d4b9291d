"""The tables of `advhash least-change`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from advhash.experiments.config import OneVictim


class LeastChangeConfig(OneVictim):
    """`advhash certify --victim pdq|phash`: how little can suffice to leave the threshold.

    threshold: in bits, at which two pictures still count as one; None: PDQ's 31 of 256 bits, or as
        many of the bits of another hash
    queries:   how many pictures of the database are judged
    """

    command: Literal["least-change"] = "least-change"
    threshold: int | None = Field(default=None, ge=0)
    queries: int | None = Field(default=100, ge=1)
