"""Detectors of abnormal inputs, and the attackers who know them."""

from advhash.defenses.detectors.federated import (
    PROBE_BITS,
    CodeBetween,
    CodeDistance,
    CodeMax,
    CodeSum,
    any_code_accepted,
    enumerated,
    replay_scores,
)

__all__ = [
    "PROBE_BITS",
    "CodeBetween",
    "CodeDistance",
    "CodeMax",
    "CodeSum",
    "any_code_accepted",
    "enumerated",
    "replay_scores",
]
