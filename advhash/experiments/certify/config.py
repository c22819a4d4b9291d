"""The tables of `advhash certify`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
)

from advhash.experiments.config import Hardened


class CertifyConfig(Hardened):
    """`advhash certify`: what randomised smoothing certifies of a victim of images.

    sigma, votes: of the smoothing around the victim; None: its own where it is smoothed, else the
        defaults of `smoothing`
    samples, selection, alpha: of the certificate, see `advhash.defenses.wrappers.smoothing.certify`
    radii:      L2, in [0,1] pixels
    within:     T, the Hamming radius that is searched; None: a quarter of the bits
    served_votes, level: of a server that draws its noise anew, see `held_when_served`
    """

    command: Literal["certify"] = "certify"
    database: str | None = None
    queries: int | None = Field(default=100, ge=1)
    sigma: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    votes: int | None = Field(default=None, ge=1)
    samples: int = Field(default=1000, ge=1)
    selection: int = Field(default=100, ge=1)
    alpha: float = Field(default=0.001, gt=0, lt=1)
    radii: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default=[0.25, 0.5, 1.0], min_length=1
    )
    within: int | None = Field(default=None, ge=0)
    served_votes: int = Field(default=101, ge=1)
    level: float = Field(default=0.01, gt=0, lt=1)
