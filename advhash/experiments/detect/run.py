"""`advhash detect`: a detector, clean rows, abnormal rows, and the attacker who knows it."""

from __future__ import annotations

import math
from typing import Any

from advhash.budget import Budget
from advhash.data.dataset import Progress, silent
from advhash.defenses.detectors.federated import (
    CodeDistance,
)
from advhash.errors import UsageError
from advhash.experiments.config import MethodConfig, TrainConfig
from advhash.experiments.detect.config import DetectConfig
from advhash.experiments.detect.federation import adaptive_attack, check, detect_slices
from advhash.experiments.detect.images import check_images, detect_images, judges_codes
from advhash.experiments.prepare.hardened import foresee, prepare
from advhash.registry import ATTACKS, DETECTORS
from advhash.victims.federated.hashvfl import HashVFL

OF_FEDERATIONS, OF_IMAGES = "code-max", "flips"  # the detectors without a name


def detect(config: DetectConfig, progress: Progress = silent) -> dict[str, Any]:
    """The JSON document: figures with intervals, thresholds, the adaptive attacker, the probe.

    Raises AdvhashError.
    """
    given = config.detector
    if config.attack is not None:
        ATTACKS.create(config.attack.name, config.attack.settings)
        if config.inputs is not None:
            raise UsageError("--method makes the abnormal inputs: expected no --inputs")
    if config.other is not None and config.inputs != "ood":
        raise UsageError("--other names the data of --inputs ood: expected no other inputs")
    if given is not None and not judges_codes(given.name):
        _distances(config, given)
    training = _training(config)
    foreseen = foresee(training)  # what it is refused for must not cost a training
    victim, data = foreseen.victim, foreseen.data
    slices = isinstance(victim, HashVFL) if given is None else not judges_codes(given.name)
    chosen = given or MethodConfig(name=OF_FEDERATIONS if slices else OF_IMAGES)
    if slices:
        detector = _distances(config, chosen)
        check(config, detector, victim, data)
        trained = prepare(training, progress, foreseen)
        return detect_slices(config, chosen, detector, trained, progress)
    check_images(config, chosen, victim, data)
    return detect_images(config, chosen, prepare(training, progress, foreseen), progress)


def _distances(config: DetectConfig, given: MethodConfig) -> CodeDistance:
    """The detector of a federation; what it and its attacker refuse must not cost a training."""
    detector = DETECTORS.create(given.name, given.settings)
    if not isinstance(detector, CodeDistance):
        raise UsageError(
            f"--detector: expected one that compares codes of parties, got {given.name}"
        )
    adaptive_attack(config, detector, 0.0)
    config.budget.resolve(Budget("none", math.inf))
    return detector


def _training(config: DetectConfig) -> TrainConfig:
    return TrainConfig.build(
        {
            "seed": config.seed,
            "device": config.device,
            "victim": config.victim.model_dump(),
            "defense": None if config.defense is None else config.defense.model_dump(),
            "defense_budget": config.defense_budget.model_dump(),
            "dataset": config.dataset.model_dump(),
        }
    ).trusting(config.trust_code)
