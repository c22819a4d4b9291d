"""What a victim is worth before any attack: MAP in every direction, and sanity flags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from advhash.codes.hamming import histograms
from advhash.codes.metrics import (
    average_precision,
    chance_average_precision,
    retrieval_average_precision,
)
from advhash.codes.packed import HashCodes
from advhash.data.dataset import Batch, Dataset, Modality
from advhash.measures.encoding import bit_shares, distinct_codes
from advhash.measures.intervals import Metric, mean_metric, rate_metric, single_metric
from advhash.measures.sanity import Flag, check_codes, check_gradient
from advhash.shared_labels import Labels, label_sets
from advhash.victims.base import HashVictim
from advhash.victims.external import ExternalVictim
from advhash.victims.federated.ends import derived
from advhash.victims.federated.hashvfl import HashVFL
from advhash.victims.memory import rows_at_once

TWICE = 512  # rows of the database that are hashed twice, to see whether a victim is random


def code_figures(codes: HashCodes) -> dict[str, float]:
    """How well N codes use their K bits.

    rows, distinct: N, and how many codes differ from one another
    balance: mean over bits of 1 − |2p − 1|, p the share of ones: 1 at best, 0 for constant bits
    entropy: mean over bits of −p·log₂ p − (1−p)·log₂(1−p), 1 at best
    """
    share = bit_shares(codes)
    parts = np.stack([share, 1 - share])
    logs = np.log2(parts, out=np.zeros_like(parts), where=parts > 0)
    return {
        "rows": len(codes),
        "distinct": distinct_codes(codes),
        "balance": float((1 - np.abs(2 * share - 1)).mean()),
        "entropy": float(-(parts * logs).sum(axis=0).mean()),
    }


def victim_metrics(
    victim: HashVictim, data: Dataset, served: Mapping[str, HashCodes], seed: int
) -> dict[str, Metric]:
    """MAP of the query split in every direction, on rows never trained on, and chance.

    A hash that learns nothing, and one that the user brought, have no rows that they trained on.

    served: the codes of the database, by direction
    Of a federation each party by itself, and the accuracy of the joint prediction.
    """
    labels, database_labels = data.query.labels.numpy(), data.database.labels.numpy()
    learnt = victim.learns and not isinstance(victim, ExternalVictim)  # of these rows, here
    untrained = np.setdiff1d(np.arange(len(data.database)), data.train_rows.numpy())
    result: dict[str, Metric] = {}
    for modality in victim.bounds:
        query = victim.encode_split(data.query, modality)
        for database in (modality,) if isinstance(victim, HashVFL) else victim.directions:
            codes = served[database]
            counts = histograms(query, codes, labels, database_labels)
            if not result:
                chance = chance_average_precision(counts.relevant_rows, len(data.database))
                result["map_chance"] = mean_metric(chance, seed)
            name = f"map_{modality}_{database}"
            result[name] = mean_metric(average_precision(counts), seed)
            if len(untrained) and learnt:
                score = retrieval_average_precision(
                    query, codes[untrained], labels, database_labels[untrained]
                )
                result[f"{name}_untrained"] = mean_metric(score, seed)
    if isinstance(victim, HashVFL):
        right = victim.predict_split(data.query) == data.query.labels.argmax(dim=1)
        result["accuracy"] = rate_metric(right.double().numpy(), seed)
        result |= {name: single_metric(value) for name, value in victim.privacy().items()}
    return result


def joint_metrics(
    victim: HashVFL,
    clean: Batch,
    moved: Tensor,
    modality: Modality,
    targets: Labels | None,
    seed: int,
) -> dict[str, Metric]:
    """What one party's moved slices do to the joint prediction.

    moved (N, …) of `modality`; targets (N,C) or None. `joint_success`: predicted as the target
    wants, or, without targets, not as before.
    """
    labels = clean.labels.argmax(dim=1)
    before = victim.predict(clean.inputs, seed=derived(seed, 0)).cpu()
    after = victim.predict({**clean.inputs, modality: moved}, seed=derived(seed, 1)).cpu()
    won = after != before
    if targets is not None:
        won = torch.from_numpy(targets).gather(1, after[:, None])[:, 0] > 0
    columns = {
        "joint_accuracy": before == labels,
        "joint_accuracy_adversarial": after == labels,
        "joint_success": won,
    }
    return {name: rate_metric(column.double().numpy(), seed) for name, column in columns.items()}


def victim_flags(
    victim: HashVictim, data: Dataset, served: Mapping[str, HashCodes] | None = None
) -> list[Flag]:
    """Sanity of a victim before any attack: its codes, its randomness, its gradients.

    served: the codes of the database, by direction, where they were hashed
    """
    flags = victim.flags()
    sets, _ = label_sets(data.database.labels.numpy())
    stored = bool(victim.stored_rows(data).any())  # these are not what it hashes now
    for modality in victim.bounds:
        if served and modality in served and not stored:
            codes = served[modality]
        else:
            codes = victim.encode_split(data.database, modality)
        some = data.database.take(torch.arange(min(TWICE, len(data.database))))
        again = victim.encode_split(some, modality, TWICE)
        raised = check_codes(codes, again, len(sets))
        inputs = data.validation.sample(64).inputs[modality].to(victim.device)
        parts = [
            victim.loss_gradient(part, modality, lambda codes: torch.tanh(codes).square().sum())
            for part in inputs.split(rows_at_once(victim, inputs, modality))
        ]
        relaxed, gradient = (torch.cat(values) for values in zip(*parts, strict=True))
        raised += check_gradient(relaxed, gradient)
        if len(victim.bounds) > 1:
            raised = [replace(flag, message=f"{modality}: {flag.message}") for flag in raised]
        flags += raised
    if not victim.differentiable:
        flags = [flag for flag in flags if flag.name != "vanishing_gradient"]  # for this reason
        flags.append(
            Flag(
                "no_gradient",
                "warning",
                f"The victim gives no gradient ({victim.no_gradient or 'it says so itself'}): "
                "attacks that need one refuse it, which says nothing about its robustness.",
            )
        )
    return flags
