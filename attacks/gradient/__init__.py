"""The gradient family: anchor code × objective × step rule."""

from advhash.attacks.gradient.targeted import (
    DHTA,
    P2P,
    PIXEL,
    STAGES,
    THA,
)

__all__ = ["DHTA", "P2P", "PIXEL", "STAGES", "THA"]
