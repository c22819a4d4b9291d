"""From codes and pictures to per-query columns, and from columns to metrics with intervals."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.attacks.gradient.channels import Channel, Names, channel, channels
from advhash.codes.hamming import histograms
from advhash.codes.metrics import (
    Scoring,
    average_precision,
    chance_average_precision,
    stable_average_precision,
)
from advhash.codes.packed import HashCodes
from advhash.data.images.mixed import MixedPictures, in_order, to_unit
from advhash.measures.intervals import Metric, mean_metric, ratio_metric
from advhash.measures.reconstruction import structural_similarity
from advhash.shared_labels import Labels
from advhash.victims.base import HashVictim

Floats = npt.NDArray[np.float64]
Columns = dict[str, Floats]
JPEG = ("jpeg75", "jpeg90")
# the average precision that an attack of a goal moves, before and after
PRECISIONS = {"targeted": ("tmap_clean", "tmap"), "untargeted": ("map", "map_adversarial")}


def distance_columns(
    clean: Tensor | MixedPictures, moved: Tensor | MixedPictures, modality: str
) -> Columns:
    """True distances of each of B items in raw units; PSNR (dB) and SSIM for images.

    Pictures of several sizes are measured each at its own.

    PSNR is NaN where nothing moved: it would be infinite. Tokens have no distance but the number
    of changed words: all are NaN.
    """
    if isinstance(clean, MixedPictures):
        assert isinstance(moved, MixedPictures)
        groups = clean.batches(len(clean))
        parts = [
            distance_columns(
                to_unit(clean[rows].stacked()), to_unit(moved[rows].stacked()), modality
            )
            for rows in groups
        ]
        order = in_order(groups)
        return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}
    assert isinstance(moved, Tensor)
    change = (moved - clean).flatten(1).double().cpu()
    square = change.square().mean(dim=1)
    columns = {
        "linf": change.abs().amax(dim=1),
        "l2": change.norm(dim=1),
        "rmse": square.sqrt(),
        "psnr": torch.full_like(square, torch.nan),
        "ssim": torch.full_like(square, torch.nan),
    }
    if not clean.is_floating_point():
        columns = {name: torch.full_like(square, torch.nan) for name in columns}
    if modality == "image":
        columns["psnr"] = torch.where(square > 0, -10 * square.log10(), torch.nan)
        columns["ssim"] = structural_similarity(moved.cpu(), clean.cpu()).double()
    return {name: values.numpy() for name, values in columns.items()}


def distance_metrics(columns: Columns, seed: int) -> dict[str, Metric | None]:
    """Means of the distance columns, of `overrun` and, for text, of `words_changed`."""
    names = ("linf", "l2", "rmse", "psnr", "ssim", "words_changed", "overrun")
    return {name: mean_metric(columns[name], seed) for name in names if name in columns}


def precisions(
    codes: HashCodes,
    database: HashCodes,
    wanted: Labels,
    database_labels: Labels,
    scoring: Scoring,
) -> Floats:
    """(N,) average precision of each code for its (N,C) wanted labels."""
    cut, empty = scoring.top_k, scoring.empty
    if scoring.ties == "stable":
        return stable_average_precision(
            codes, database, wanted, database_labels, top_k=cut, empty=empty
        )
    counts = histograms(codes, database, wanted, database_labels)
    return average_precision(counts, ties=scoring.ties, top_k=cut, empty=empty)


def retrieval_columns(
    clean: HashCodes,
    adversarial: HashCodes,
    database: HashCodes,
    *,
    labels: Labels,
    database_labels: Labels,
    targets: Labels | None,
    ceiling: npt.NDArray[np.float64] | None,
    scoring: Scoring,
) -> Columns:
    """Average precision of each of N queries, clean and attacked, for its own and target labels.

    ceiling: (N,) best average precision of any anchor for the query's target
    """

    def score(codes: HashCodes, wanted: Labels) -> tuple[Floats, Floats]:
        """Average precision of each query, and that of a random order."""
        counts = histograms(codes, database, wanted, database_labels)
        chance = chance_average_precision(
            counts.relevant_rows, len(database), top_k=scoring.top_k, empty=scoring.empty
        )
        return precisions(codes, database, wanted, database_labels, scoring), chance

    clean_score, chance = score(clean, labels)
    columns = {
        "map": clean_score,
        "map_chance": chance,
        "map_adversarial": score(adversarial, labels)[0],
    }
    if targets is not None and ceiling is not None:
        target_score, target_chance = score(adversarial, targets)
        columns |= {
            "tmap": target_score,
            "tmap_chance": target_chance,
            "tmap_clean": score(clean, targets)[0],
            "tmap_ceiling": ceiling,
        }
    return columns


def codec_columns(
    victim: HashVictim,
    moved: Tensor | MixedPictures,
    modality: str,
    database: HashCodes,
    *,
    wanted: Labels,
    database_labels: Labels,
    targeted: bool,
    scoring: Scoring,
    survive: Names = (),
    batch_size: int = 256,
) -> Columns:
    """Average precision of each of N adversarial images after Pillow's JPEG: `tmap_jpeg75` …

    moved:   (N,3,H,W) in [0,1]; every one of JPEG is a column
    wanted:  (N,C) the target's labels where `targeted`, else the query's own, and the columns are
             `map_adversarial_jpeg75` …
    survive: channels that the attack was made for; where there are some, `tmap_survived` is the
             mean over what comes back from each of them
    """

    def after(way: Channel) -> Floats:
        codes = victim.encode_pictures(moved, modality, way, batch_size)
        return precisions(codes, database, wanted, database_labels, scoring)

    name = "tmap" if targeted else "map_adversarial"
    columns = {f"{name}_{way}": after(channel(way)) for way in JPEG}
    ways = channels(survive)
    if ways:
        columns[f"{name}_survived"] = np.mean([after(way) for way in ways], axis=0)
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
    served = [name for name in columns if name.startswith(("served_", "store_"))]
    return result | {name: mean_metric(columns[name], seed) for name in served}
