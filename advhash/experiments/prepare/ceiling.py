"""The ceiling of t-MAP: what the best anchor code known for a target would score.

One value per victim, database and target label set, shared by all methods, so that no method is
flattered by a weak anchor of its own. The anchors' chance is seeded by a constant for that reason.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from advhash.attacks.base import AttackData, frozen
from advhash.attacks.gradient.anchors import anchor_codes, anchors_for
from advhash.codes.metrics import Scoring, retrieval_average_precision
from advhash.codes.packed import HashCodes
from advhash.compute.progress import Progress, silent
from advhash.shared_labels import Labels, label_sets
from advhash.storage.cache import cached, content_key
from advhash.storage.checkpoint import read_tensors, write_tensors
from advhash.victims.base import HashVictim

_SEED = 0
_ROUNDING = 1e-9  # a perfect ranking sums to 1 and a few last bits
_FILE = "ceilings.safetensors"


def target_ceilings(
    victim: HashVictim,
    data: AttackData,
    targets: Labels,
    *,
    scoring: Scoring,
    identity: dict[str, object],
    progress: Progress = silent,
) -> npt.NDArray[np.float64]:
    """(N,) best average precision of any registered anchor for each target (N,C).

    identity: what names victim, data set and code for the cache
    """
    database_labels, anchors = data.labels.numpy(), anchors_for(data)
    sets, _ = label_sets(database_labels)

    def build(folder: Path) -> None:
        scores = []
        wanted = torch.from_numpy(sets)
        for done, name in enumerate(anchors):
            progress(f"ceiling of t-MAP ({data.database} database)", done, len(anchors))
            with frozen(victim):
                codes = anchor_codes(name, victim, data, wanted, seed=_SEED)
            scores.append(
                retrieval_average_precision(
                    HashCodes.from_relaxed(codes),
                    data.codes,
                    sets,
                    database_labels,
                    ties=scoring.ties,
                    top_k=scoring.top_k,
                )
            )
        progress(f"ceiling of t-MAP ({data.database} database)", len(anchors), len(anchors))
        write_tensors(folder / _FILE, {"scores": torch.from_numpy(np.stack(scores))})

    content = {
        "victim": identity,  # not spread: it may have a seed, too
        "database": data.database,
        "anchors": sorted(anchors),
        "ties": scoring.ties,
        "top_k": scoring.top_k,
        "seed": _SEED,
    }

    def read(folder: Path) -> npt.NDArray[np.float64]:
        scores: npt.NDArray[np.float64] = read_tensors(folder / _FILE)["scores"].numpy()
        inside = (scores >= 0) & (scores <= 1 + _ROUNDING)
        if scores.shape != (len(anchors), len(sets)) or not inside.all():
            raise ValueError("expected average precisions of all anchors")
        return np.asarray(scores.max(axis=0).clip(max=1))

    best = cached("ceilings", content_key(content), build, read)  # (S,)
    position = {row.tobytes(): index for index, row in enumerate(sets)}
    return np.asarray([best[position[row.tobytes()]] for row in targets], dtype=np.float64)
