"""Do codes show that a picture is odd? Detectors by codes on what `advhash encode` measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.chance import Chance
from advhash.data.dataset import Batch
from advhash.defenses.base import Detector
from advhash.defenses.detectors.novelty import Confidence, Novelty
from advhash.errors import UsageError
from advhash.experiments.detect.inputs import mixed_images, other_data
from advhash.experiments.encode.coders import BLOCK
from advhash.experiments.encode.config import EncodeConfig
from advhash.experiments.encode.pictures import Sets
from advhash.experiments.experiment import Place
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained
from advhash.measures.roc import area_under_roc
from advhash.measures.sanity import Flag
from advhash.reports.encoding import Detection
from advhash.storage.cells import Result
from advhash.victims.base import HashVictim
from advhash.victims.neural.neural_code import ActivationCode, NeuralCode


@dataclass(frozen=True)
class DetectionCell:
    """What detectors by codes say of the pictures."""

    config: EncodeConfig
    key: str

    def compute(self, place: Place) -> Result:
        rows, flags = detected(place.part("victim"), place.part("sets"), self.config)
        return Result(
            {
                "rows": [row.model_dump(mode="json") for row in rows],
                "flags": [vars(flag) for flag in flags],
            }
        )


def detected(
    trained: Trained, sets: Sets, config: EncodeConfig
) -> tuple[list[Detection], list[Flag]]:
    """AUROC of novelty, by layer as well, and of confidence, on each kind of odd picture."""
    victim, data, boot = trained.victim, trained.data, derive_seed(config.seed, "bootstrap")
    kinds: dict[Literal["adversarial", "mixed", "noise", "ood"], Tensor] = {"noise": sets.noise}
    flags: list[Flag] = []
    if sets.moved is not None:
        kinds["adversarial"] = sets.moved
    try:
        drawn = Chance(derive_seed(config.seed, "mixed images"), np.arange(len(sets.test)))
        kinds["mixed"] = mixed_images(sets.test, sets.test_classes, drawn)
    except UsageError as error:
        flags.append(Flag("no_mixed_inputs", "info", f"{error}."))
    other = other_data(data, tuple(sets.test.shape[1:]), None).query
    strange = other.rows(torch.arange(len(other))).inputs["image"]
    if len(strange):
        kinds["ood"] = strange[: len(sets.test)]
    detectors: dict[str, Detector] = {"novelty of the code": Novelty()}
    if isinstance(victim, NeuralCode):
        detectors["softmax confidence"] = Confidence()
    elif not isinstance(victim, ActivationCode):
        detectors["novelty of the network"] = Novelty(code="network", most_bits=config.most_bits)
    rows: list[Detection] = []
    for name, detector in detectors.items():
        try:
            detector.fit(victim, sets.train, "image")
        except UsageError:  # no activation modules: flagged with the coders
            continue
        normal = _scores(name, detector, victim, sets.test)
        for kind, images in kinds.items():
            scores = _scores(name, detector, victim, images)
            rows += [
                Detection(
                    detector=label,
                    inputs=kind,
                    auroc=area_under_roc(scores[label], normal[label], boot),
                )
                for label in scores
            ]
    return rows, flags


def _scores(
    name: str, detector: Detector, victim: HashVictim, images: Tensor
) -> dict[str, npt.NDArray[np.float32]]:
    """(N,) scores by the detector, and by each layer where there are several."""
    parts: dict[str, list[Tensor]] = {}
    for part in images.split(BLOCK):
        batch = Batch({"image": part}, torch.zeros(len(part), 1), torch.arange(len(part)))
        parts.setdefault(name, []).append(detector.score(victim, batch, "image"))
        layers = detector.by_layer(victim, batch, "image") if isinstance(detector, Novelty) else {}
        for layer, values in layers.items() if len(layers) > 1 else ():
            parts.setdefault(f"{name}, layer {layer}", []).append(values)
    return {label: torch.cat(values).numpy() for label, values in parts.items()}
