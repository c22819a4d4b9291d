"""From codes and pictures to per-query columns, and from columns to metrics with intervals."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from advhash.codes import HashCodes
from advhash.hamming import relevance
from advhash.metrics import (
    Empty,
    Ties,
    chance_average_precision,
    retrieval_average_precision,
)
from advhash.stats import Metric, mean_metric, ratio_metric

__all__ = [
    "Columns",
    "distance_columns",
    "distance_metrics",
    "retrieval_columns",
    "retrieval_metrics",
]

Columns = dict[str, npt.NDArray[np.float64]]
Labels = npt.NDArray[np.uint8]


def distance_columns(clean: Tensor, moved: Tensor, modality: str) -> Columns:
    """True distances of each of B items in raw units; PSNR (dB) and SSIM for images.

    PSNR is NaN where nothing moved: it would be infinite.
    """
    change = (moved - clean).flatten(1).double().cpu()
    square = change.square().mean(dim=1)
    columns = {
        "linf": change.abs().amax(dim=1),
        "l2": change.norm(dim=1),
        "rmse": square.sqrt(),
        "psnr": torch.full_like(square, torch.nan),
        "ssim": torch.full_like(square, torch.nan),
    }
    if modality == "image":
        columns["psnr"] = torch.where(square > 0, -10 * square.log10(), torch.nan)
        similarity = structural_similarity_index_measure(
            moved.cpu(), clean.cpu(), data_range=1.0, reduction="none"
        )
        assert isinstance(similarity, Tensor)
        columns["ssim"] = similarity.double()
    return {name: values.numpy() for name, values in columns.items()}


def distance_metrics(columns: Columns, seed: int) -> dict[str, Metric | None]:
    """Means of the distance columns and of `overrun`."""
    names = ("linf", "l2", "rmse", "psnr", "ssim", "overrun")
    return {name: mean_metric(columns[name], seed) for name in names}


def retrieval_columns(
    clean: HashCodes,
    adversarial: HashCodes,
    database: HashCodes,
    *,
    labels: Labels,
    database_labels: Labels,
    targets: Labels | None,
    ceiling: npt.NDArray[np.float64] | None,
    ties: Ties,
    top_k: int | None,
    empty: Empty,
) -> Columns:
    """Average precision of each of N queries, clean and attacked, for its own and target labels.

    ceiling: (N,) best average precision of any anchor for the query's target
    """

    def score(codes: HashCodes, wanted: Labels) -> npt.NDArray[np.float64]:
        return retrieval_average_precision(
            codes, database, wanted, database_labels, ties=ties, top_k=top_k, empty=empty
        )

    def chance(wanted: Labels) -> npt.NDArray[np.float64]:
        relevant = relevance(wanted, database_labels).sum(axis=1)
        return chance_average_precision(relevant, len(database), top_k=top_k, empty=empty)

    columns = {
        "map": score(clean, labels),
        "map_chance": chance(labels),
        "map_adversarial": score(adversarial, labels),
    }
    if targets is not None and ceiling is not None:
        columns |= {
            "tmap": score(adversarial, targets),
            "tmap_chance": chance(targets),
            "tmap_clean": score(clean, targets),
            "tmap_ceiling": ceiling,
        }
    return columns


def retrieval_metrics(columns: Columns, seed: int) -> dict[str, Metric | None]:
    """Means of the retrieval columns; the targeted ones None where there are no targets."""
    plain = ("map", "map_chance", "map_adversarial")
    targeted = ("tmap", "tmap_chance", "tmap_clean", "tmap_ceiling")
    result: dict[str, Metric | None] = {name: mean_metric(columns[name], seed) for name in plain}
    for name in targeted:
        result[name] = mean_metric(columns[name], seed) if name in columns else None
    result["tmap_normalised"] = (
        ratio_metric(columns["tmap"], columns["tmap_clean"], columns["tmap_ceiling"], seed)
        if "tmap" in columns
        else None
    )
    return result
