"""Ways to encode the same pictures, and the figures of each: what `advhash encode` compares."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.codes.packed import HashCodes
from advhash.data.dataset import Split
from advhash.errors import UsageError
from advhash.experiments.encode.config import EncodeConfig
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
from advhash.measures.sanity import Flag
from advhash.registry import VICTIMS
from advhash.reports.encoding import FIGURES, METRICS, Coder
from advhash.victims.base import HashVictim
from advhash.victims.neural.neural_code import ActivationCode, NeuralCode, NeuralCodeOf

__all__ = ["BLOCK", "Encoding", "Sets", "code_metrics", "coders_of", "measured", "measured_pixels"]

Classes = npt.NDArray[np.int64]
Kind = Literal["code", "network", "initial", "simhash"]
BLOCK = 256  # pictures at a time


@dataclass(frozen=True)
class Sets:
    """The same pictures for every coder: (N,3,H,W) in [0,1], training rows as a split.

    Test, noise and moved pictures are equally many; moved is None without an attack.
    """

    train: Split
    train_classes: Classes
    test: Tensor
    test_classes: Classes
    noise: Tensor
    moved: Tensor | None


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


def coders_of(
    trained: Trained, sets: Sets, config: EncodeConfig
) -> tuple[list[tuple[str, Kind, int, Way]], list[Flag]]:
    """The victim's code, the pattern of its network, both at initialisation, SimHash."""
    victim, data, seed = trained.victim, trained.data, config.seed
    name = str(trained.card["name"])
    flags: list[Flag] = []
    found: list[tuple[str, Kind, HashVictim]] = [(name, "code", victim)]
    starts: list[tuple[str, Kind, HashVictim]] = []
    first = _at_initialisation(trained, seed)
    if first is not None:
        starts.append((f"{name} at initialisation", "initial", first))
    else:
        flags.append(
            Flag("no_initial_network", "info", f"{name} is not trained: no code before training.")
        )
    if not isinstance(victim, ActivationCode):
        size = data.database.inputs["image"].shape[-1]
        try:
            inside = NeuralCodeOf(victim, image_size=size, most_bits=config.most_bits).fit(
                data, seed=seed
            )
            found.append((f"{name} network", "network", inside))
            if first is not None:
                start = NeuralCodeOf(first, image_size=size, most_bits=config.most_bits).fit(
                    data, seed=seed
                )
                starts.append((f"{name} network at initialisation", "initial", start))
        except UsageError as error:
            flags.append(Flag("no_neural_code", "info", f"No neural code of {name}: {error}."))
    centre = _pixel_mean(sets.train)
    ways: list[tuple[str, Kind, int, Way]] = [
        (label, kind, one.bits, Encoding(one)) for label, kind, one in [*found, *starts]
    ]
    for label, _, one in found:
        way = _Projected(centre, one.bits, derive_seed(seed, "simhash"))
        text = "SimHash" if len(found) == 1 else f"SimHash, bits of {label}"
        ways.append((text, "simhash", one.bits, way))
    smooth = [one.smooth for *_, one in found if isinstance(one, ActivationCode)]
    if any(smooth):
        flags.append(
            Flag(
                "smooth_activations",
                "info",
                f"{sum(map(len, smooth))} layers have smooth activations (GELU, SiLU …), "
                "thresholded at 0, where nothing breaks.",
            )
        )
    return ways, flags


def _at_initialisation(trained: Trained, seed: int) -> HashVictim | None:
    """The same victim before any training; None where nothing is trained."""
    name = str(trained.card["name"])
    if trained.folder is None or next(trained.victim.parameters(), None) is None:
        return None
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
        rows, found = clusters(codes, groups, boot)
        for name, way in (("purity", False), ("one_to_one", True)):
            right = cluster_classes(found, wanted[rows], one_to_one=way) == wanted[rows]
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
        found = pixel_knn_classes(images.flatten(1).numpy(), known, sets.train_classes)
        metrics[f"knn_accuracy{suffix}"] = mean_metric(found == sets.test_classes, boot)
    return Coder(
        label="pixels",
        kind="pixels",
        bits=None,
        metrics=metrics,
        figures=dict.fromkeys(FIGURES),
    )
