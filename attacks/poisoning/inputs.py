"""What planted inputs are made with and for: the attacker's encoder, and clusters of queries."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from advhash.attacks.poisoning.base import Places, Surface
from advhash.codes.vectors import Vectors, unit_rows
from advhash.victims.base import HashVictim
from advhash.victims.encoders.encoded import Encoded


@dataclass(frozen=True)
class Pull:
    """How near items are to the queries of their clusters, by codes or by floats.

    means:   (P,W) of each item's queries: means of their ±1 codes, or of their unit embeddings
    surface: codes or floats
    """

    means: Tensor
    surface: Surface

    @classmethod
    def toward(cls, points: Vectors, places: Places, count: int, surface: Surface) -> Pull:
        """The means of P = `count` clusters.

        points: N queries; places: (N,) the cluster of each
        """
        rows = points.codes.signs() if surface == "codes" else unit_rows(points.floats)
        values, where = torch.from_numpy(rows), torch.from_numpy(places)
        sums = torch.zeros(count, values.shape[1]).index_add_(0, where, values)
        sizes = torch.from_numpy(np.bincount(places, minlength=count)).clamp_min(1)[:, None]
        return cls(sums / sizes, surface)

    def encoder(self, victim: HashVictim) -> HashVictim:
        """What gives the real values that count."""
        return embedder(victim) if self.surface == "floats" else victim

    def left(self, real: Tensor, rows: Tensor) -> Tensor:
        """(B,) mean distance of items `rows` to their queries, from 0: shares of bits, 1 − cosine.

        real: (B,W) real values of `encoder`
        """
        if self.surface == "codes":
            signs = torch.where(real > 0, 1.0, -1.0)
            return (1 - (signs * self.means[rows]).mean(dim=1)) / 2
        return (1 - F.cosine_similarity(real.double(), self.means[rows].double())).float()

    def loss(self, soft: Tensor, rows: Tensor) -> Tensor:
        """(B,) what falls as items come nearer; of codes, `soft` (B,K) are in (−1,1)."""
        if self.surface == "codes":
            return -(soft * self.means[rows]).mean(dim=1)
        return 1 - F.cosine_similarity(soft, self.means[rows])


def embedder(victim: HashVictim) -> HashVictim:
    """A victim whose real codes are the embeddings: an encoder before its cut."""
    return victim.uncut() if isinstance(victim, Encoded) else victim
