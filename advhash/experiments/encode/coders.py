"""Ways to encode the same pictures, and the figures of each: what `advhash encode` compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.codes.packed import HashCodes
from advhash.data.dataset import Split
from advhash.errors import UsageError
from advhash.experiments.encode.config import EncodeConfig
from advhash.experiments.encode.pictures import Classes, Sets
from advhash.experiments.experiment import Place
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained
from advhash.experiments.prepare.worth import code_figures
from advhash.measures.encoding import (
    bit_correlation,
    cluster_classes,
    clusters,
    knn_classes,
    logistic_classes,
    pixel_knn_classes,
    redundancy_ratio,
    separation,
    simhash,
)
from advhash.measures.intervals import Metric, mean_metric
from advhash.registry import VICTIMS
from advhash.reports.encoding import FIGURES, METRICS, Coder, Site
from advhash.storage.cells import Result
from advhash.victims.base import HashVictim
from advhash.victims.neural.neural_code import ActivationCode, NeuralCode, NeuralCodeOf

Kind = Literal["code", "network", "initial", "simhash", "pixels"]
Slot = Literal[
    "code",
    "network",
    "code at initialisation",
    "network at initialisation",
    "simhash of the code",
    "simhash of the network",
    "pixels",
]
BLOCK = 256  # pictures at a time


@dataclass(frozen=True)
class Encoding:
    """Images → codes by a victim, in batches."""

    victim: HashVictim

    def __call__(self, images: Tensor) -> HashCodes:
        return HashCodes.concatenate(
            [self.victim.encode(part, "image") for part in images.split(BLOCK)]
        )


@dataclass(frozen=True)
class _Projected:
    """Images → SimHash of their pixels, centred as the training pictures are."""

    centre: npt.NDArray[np.float32]
    bits: int
    seed: int

    def __call__(self, images: Tensor) -> HashCodes:
        return simhash(images.flatten(1).numpy(), self.centre, self.bits, self.seed)


Way = Callable[[Tensor], HashCodes]


@dataclass(frozen=True)
class CoderCell:
    """One way to encode the pictures, and the figures of it.

    slot: the victim's code, the pattern of its network, both at initialisation, SimHash of as many
          bits as either has, or no code at all
    """

    slot: Slot
    config: EncodeConfig
    key: str

    def compute(self, place: Place) -> Result:
        """The `coder`, or None and `why` there is none; with the layers of a neural code."""
        trained, sets = place.part("victim"), place.part("sets")
        boot = derive_seed(self.config.seed, "bootstrap")
        if self.slot == "pixels":
            return Result({"coder": measured_pixels(sets, boot).model_dump(mode="json")})
        try:
            victim = _coding(self.slot, trained, self.config)
        except UsageError as error:
            return Result({"coder": None, "why": str(error)})
        label, kind = label_of(self.slot, trained.called)
        way: Way = Encoding(victim)
        if kind == "simhash":
            seed = derive_seed(self.config.seed, "simhash")
            way = _Projected(_pixel_mean(sets.train), victim.bits, seed)
        coder = measured(label, kind, victim.bits, way, sets, boot)
        neural = victim if isinstance(victim, ActivationCode) else None
        return Result(
            {
                "coder": coder.model_dump(mode="json"),
                "sites": [] if neural is None else _sites(neural),
                "smooth": 0 if neural is None else len(neural.smooth),
            }
        )


def slots_of(victim: HashVictim, *, trained: bool) -> list[Slot]:
    """The ways to encode pictures beside a victim, in the order of the table.

    victim: before training or after it; trained: whether it was drawn before and then trained
    """
    inside = not isinstance(victim, ActivationCode)
    both: list[tuple[Slot, bool]] = [
        ("code", True),
        ("network", inside),
        ("code at initialisation", trained),
        ("network at initialisation", trained and inside),
        ("simhash of the code", True),
        ("simhash of the network", inside),
        ("pixels", True),
    ]
    return [slot for slot, there in both if there]


def label_of(slot: Slot, name: str) -> tuple[str, Kind]:
    """What the table calls a code of the victim of this name, and its kind."""
    labels: dict[Slot, tuple[str, Kind]] = {
        "code": (name, "code"),
        "network": (f"{name} network", "network"),
        "code at initialisation": (f"{name} at initialisation", "initial"),
        "network at initialisation": (f"{name} network at initialisation", "initial"),
        "simhash of the code": (f"SimHash, bits of {name}", "simhash"),
        "simhash of the network": (f"SimHash, bits of {name} network", "simhash"),
        "pixels": ("pixels", "pixels"),
    }
    return labels[slot]


def _coding(slot: Slot, trained: Trained, config: EncodeConfig) -> HashVictim:
    """The victim whose code, or whose number of bits, a slot takes.

    Raises UsageError: it has no neural code.
    """
    victim, data, seed = trained.victim, trained.data, config.seed
    if slot.endswith("initialisation"):
        victim = _at_initialisation(trained, seed)
    if "network" not in slot:
        return victim
    size = data.database.tensor("image").shape[-1]
    return NeuralCodeOf(victim, image_size=size, most_bits=config.most_bits).fit(data, seed=seed)


def _sites(victim: ActivationCode) -> list[dict[str, Any]]:
    return [
        Site(
            name=layer.name, size=layer.size, kept=part.stop - part.start, smooth=layer.smooth
        ).model_dump()
        for layer, part in victim.sections
    ]


def _at_initialisation(trained: Trained, seed: int) -> HashVictim:
    """The same victim before any training."""
    name = str(trained.card["name"])
    settings = {**trained.card["settings"]}
    if isinstance(trained.victim, NeuralCode):
        settings["epochs"] = 0
    drawn = derive_seed(seed, "victim")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(drawn)
        first: HashVictim = VICTIMS.create(name, settings).to(trained.victim.device)
    if isinstance(first, NeuralCode):
        first.fit(trained.data, seed=drawn)
    return first.eval()


def _pixel_mean(train: Split) -> npt.NDArray[np.float32]:
    total = sum(batch.inputs["image"].flatten(1).sum(0) for batch in train.batches(BLOCK))
    assert isinstance(total, Tensor)
    mean: npt.NDArray[np.float32] = (total / len(train)).numpy()
    return mean


def measured(label: str, kind: Kind, bits: int, way: Way, sets: Sets, boot: int) -> Coder:
    known = HashCodes.concatenate(
        [way(batch.inputs["image"]) for batch in sets.train.batches(BLOCK)]
    )
    test, noise = way(sets.test), way(sets.noise)
    moved = None if sets.moved is None else way(sets.moved)
    metrics = code_metrics(
        known, sets.train_classes, test, sets.test_classes, boot, noise=noise, moved=moved
    )
    apart = separation(known, sets.train_classes)
    figures: dict[str, float | None] = {
        **code_figures(known),
        "correlation": bit_correlation(known, boot),
        "within": apart.within,
        "between": apart.between,
    }
    return Coder(label=label, kind=kind, bits=bits, metrics=metrics, figures=figures)


def code_metrics(
    known: HashCodes,
    known_classes: Classes,
    test: HashCodes,
    classes: Classes,
    boot: int,
    *,
    noise: HashCodes | None = None,
    moved: HashCodes | None = None,
) -> dict[str, Metric | None]:
    """Redundancy and categorisation, see `reports.encoding.Coder`; boot: seed of the bootstrap."""
    equal = np.random.default_rng(boot).permutation(len(known))[: len(test)]
    metrics: dict[str, Metric | None] = {
        **dict.fromkeys(METRICS),
        "redundancy_train": _ratio(known),
        "redundancy_train_equal": _ratio(known[np.sort(equal)]),
        "redundancy_test": _ratio(test),
        "redundancy_random": None if noise is None else _ratio(noise),
        "redundancy_adversarial": None if moved is None else _ratio(moved),
    }
    groups = int(max(known_classes.max(), classes.max())) + 1
    for suffix, codes, wanted in (("", test, classes), ("_train", known, known_classes)):
        rows, assigned = clusters(codes, groups, boot)
        for name, way in (("purity", False), ("one_to_one", True)):
            right = cluster_classes(assigned, wanted[rows], one_to_one=way) == wanted[rows]
            metrics[f"kmeans_{name}{suffix}"] = mean_metric(right, boot)
    asked = {"": test} if moved is None else {"": test, "_adversarial": moved}
    predicted = logistic_classes(list(asked.values()), known, known_classes, boot)
    for (suffix, codes), guess in zip(asked.items(), predicted, strict=True):
        nearest = knn_classes(codes, known, known_classes)
        metrics[f"knn_accuracy{suffix}"] = mean_metric(nearest == classes, boot)
        metrics[f"logistic_accuracy{suffix}"] = mean_metric(guess == classes, boot)
    return metrics


def _ratio(codes: HashCodes) -> Metric:
    return Metric(value=redundancy_ratio(codes), n=len(codes))


def measured_pixels(sets: Sets, boot: int) -> Coder:
    known = np.concatenate(
        [batch.inputs["image"].flatten(1).numpy() for batch in sets.train.batches(BLOCK)]
    )
    asked = {"": sets.test} if sets.moved is None else {"": sets.test, "_adversarial": sets.moved}
    metrics: dict[str, Metric | None] = dict.fromkeys(METRICS)
    for suffix, images in asked.items():
        nearest = pixel_knn_classes(images.flatten(1).numpy(), known, sets.train_classes)
        metrics[f"knn_accuracy{suffix}"] = mean_metric(nearest == sets.test_classes, boot)
    return Coder(
        label="pixels",
        kind="pixels",
        bits=None,
        metrics=metrics,
        figures=dict.fromkeys(FIGURES),
    )
