"""Digits, few enough for a training in a test, and what attacks and victims reach on them."""

from __future__ import annotations

import numpy as np
import torch

from advhash.attacks.base import AttackData
from advhash.attacks.gradient.targeted import DHTA
from advhash.budget import Budget
from advhash.codes import HashCodes
from advhash.codes.metrics import retrieval_average_precision
from advhash.data import Dataset
from advhash.data.load import load_dataset
from advhash.targets import choose_targets
from advhash.victims.base import HashVictim


def few_digits(rows: int, trained: int, queries: int | None = None) -> Dataset:
    """The first rows of the database, the first of these trained on, and the first queries."""
    full = load_dataset("digits", {"size": 16})
    query = full.query if queries is None else full.query.take(torch.arange(queries))
    return Dataset(
        full.name, full.settings, full.database.take(torch.arange(rows)), torch.arange(trained),
        full.validation, query, full.classes,
    )  # fmt: skip


def served_images(victim: HashVictim, data: Dataset) -> AttackData:
    """What an attacker of images sees of the database."""
    return AttackData(data, victim.database_codes(data, "image"), "image", "image")


def direction_ap(victim: HashVictim, data: Dataset, query: str, database: str) -> float:
    """MAP of the query split in one direction."""
    return float(
        retrieval_average_precision(
            victim.encode_split(data.query, query),
            victim.database_codes(data, database),
            data.query.labels.numpy(),
            data.database.labels.numpy(),
        ).mean()
    )


def dhta_gain(victim: HashVictim, data: Dataset) -> float:
    """What 20 steps of DHTA under 32/255 add to the t-MAP of 20 queries."""
    served = served_images(victim, data)
    batch = data.query.rows(torch.arange(20))
    labels = data.database.labels.numpy()
    targets = choose_targets("disjoint", batch.labels.numpy(), labels, seed=0)
    budget = Budget("linf", 32 / 255)
    attack = DHTA(steps=20).fit(victim, served, budget)
    moved = attack.perturb(victim, batch, torch.from_numpy(targets), budget)

    def precisions(codes: HashCodes) -> np.ndarray:
        return retrieval_average_precision(codes, served.codes, targets, labels)

    clean = victim.encode(batch.inputs["image"], "image")
    return float(precisions(moved.codes).mean()) - float(precisions(clean).mean())
