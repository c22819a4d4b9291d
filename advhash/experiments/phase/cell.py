"""One training of the phase chart: a network, measured at several times, and attacked there."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from advhash.attacks.base import Attack, AttackData
from advhash.budget import Budget
from advhash.codes.metrics import retrieval_average_precision
from advhash.data.dataset import Dataset
from advhash.defenses.detectors.novelty import Novelty
from advhash.measures.encoding import (
    cluster_classes,
    clusters,
    knn_classes,
    logistic_classes,
    redundancy_ratio,
)
from advhash.measures.regimes import flip_labels
from advhash.measures.roc import area_under_roc
from advhash.registry import ATTACKS, VICTIMS
from advhash.shared_labels import first_labels
from advhash.targets import choose_targets
from advhash.victims.neural.neural_code import NeuralCode

OUTCOMES = (
    *("redundancy_train", "redundancy_test", "kmeans_purity", "kmeans_one_to_one"),
    *("knn_accuracy", "logistic_accuracy", "accuracy", "tmap_clean", "tmap", "auroc"),
)
Classes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Attacker:
    """A targeted attack on images: its name and settings, its budget, how many queries it moves."""

    name: str
    settings: dict[str, Any]
    budget: Budget
    queries: int


def train_and_measure(
    data: Dataset,
    settings: dict[str, Any],
    attacker: Attacker,
    *,
    times: tuple[int, ...],
    sample: int,
    noise: float,
    seed: int,
    device: torch.device,
) -> dict[int, dict[str, float]]:
    """OUTCOMES, and `bits`, after each of `times` epochs, 0 being the network at initialisation.

    sample: rows trained on, drawn by the seed, those of a smaller sample among them; repeated so
            that an epoch has as many steps for every sample
    noise:  share of the training labels that are wrong

    Redundancy is that of all training rows whatever the sample, as it grows with their number;
    nearest neighbours and logistic regression know the codes of the sample, with the right labels.
    """
    rows = np.random.default_rng(seed).permutation(data.train_rows.numpy())[:sample]
    sampled = replace(data, train_rows=torch.from_numpy(np.sort(rows)))
    taught = _taught(data, rows, noise, seed)
    victim: NeuralCode = VICTIMS.create("neural-code", settings).to(device)
    figures: dict[int, dict[str, float]] = {}
    for epoch in victim.learn(taught, seed=seed):
        if epoch in times:
            now = copy.deepcopy(victim)
            with torch.random.fork_rng():
                now.keep_bits(sampled.train, seed)
                figures[epoch] = {
                    "bits": float(now.bits),
                    **_encoding(now, data, sampled, seed),
                    **_attacked(now, data, attacker, seed),
                }
    return figures


def _taught(data: Dataset, rows: npt.NDArray[np.int64], noise: float, seed: int) -> Dataset:
    """What the network sees: the sample as often as fills an epoch, some labels wrong."""
    count = len(data.classes)
    labels = data.database.labels.clone()
    wrong = flip_labels(first_labels(labels[rows].numpy()), count, noise, seed)
    changed = wrong != first_labels(labels[rows].numpy())
    labels[rows[changed]] = torch.eye(count, dtype=labels.dtype)[wrong[changed]]
    tiled = torch.from_numpy(np.resize(rows, len(data.train_rows)))
    return replace(data, train_rows=tiled, database=replace(data.database, labels=labels))


def _encoding(victim: NeuralCode, data: Dataset, sampled: Dataset, seed: int) -> dict[str, float]:
    everything, known, test = (
        victim.encode_split(split, "image") for split in (data.train, sampled.train, data.query)
    )
    classes, known_classes = (
        first_labels(split.labels.numpy()) for split in (data.query, sampled.train)
    )
    rows, groups = clusters(test, len(data.classes), seed)
    (guess,) = logistic_classes([test], known, known_classes, seed)
    with torch.no_grad():
        predicted = [
            victim.logits(batch.inputs["image"].to(victim.device)).argmax(dim=1).cpu()
            for batch in data.query.batches(256)
        ]
    figures = {
        "knn_accuracy": knn_classes(test, known, known_classes) == classes,
        "logistic_accuracy": guess == classes,
        "accuracy": torch.cat(predicted).numpy() == classes,
    }
    for name, way in (("purity", False), ("one_to_one", True)):
        named = cluster_classes(groups, classes[rows], one_to_one=way)
        figures[f"kmeans_{name}"] = named == classes[rows]
    return {
        "redundancy_train": redundancy_ratio(everything),
        "redundancy_test": redundancy_ratio(test),
        **{name: float(right.mean()) for name, right in figures.items()},
    }


def _attacked(victim: NeuralCode, data: Dataset, attacker: Attacker, seed: int) -> dict[str, float]:
    codes = victim.database_codes(data, "image")
    seen = AttackData(data, codes, "image", "image")
    batch = data.query.rows(torch.arange(min(attacker.queries, len(data.query))))
    labels = data.database.labels.numpy()
    targets = choose_targets(
        "disjoint", batch.labels.numpy(), labels, seed, rows=batch.index.numpy()
    )
    attack: Attack = ATTACKS.create(attacker.name, attacker.settings)
    attack.fit(victim, seen, attacker.budget, seed=seed)
    moved = attack.perturb(victim, batch, torch.from_numpy(targets), attacker.budget, seed=seed)
    detector = Novelty().fit(victim, data.train, "image")
    scores = [
        detector.score(victim, part, "image").numpy() for part in (moved.batch.to("cpu"), batch)
    ]
    clean = victim.encode(batch.inputs["image"], "image")
    return {
        "tmap_clean": float(retrieval_average_precision(clean, codes, targets, labels).mean()),
        "tmap": float(retrieval_average_precision(moved.codes, codes, targets, labels).mean()),
        "auroc": float(area_under_roc(scores[0], scores[1], 0).value or 0),
    }
