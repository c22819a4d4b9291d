"""A linear head that is trained on frozen features so that the signs rank as relevance does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from advhash.errors import ConfigError
from advhash.registry import QUANTISERS
from advhash.shared_labels import are_groups, shares
from advhash.victims.encoders.quantisers import Cut, Quantiser


@QUANTISERS.register("head", source="in-batch ranking (van den Oord et al., 2018) of sign codes")
@dataclass(kw_only=True)
class Head(Quantiser):
    """Signs of a projection trained to rank rows that share a label first, on frozen features.

    A step draws n pairs of rows that share a label. With u = (x − c)·W of all 2n rows, their codes
    s = sign(u)/√K and S = s·sᵀ·√K/τ, each row i with its partner p lowers

        −log( exp Sᵢₚ / (exp Sᵢₚ + Σ exp Sᵢⱼ) ),  j the rows that share no label with i

    The gradient passes the sign as that of tanh(βu) (Bengio et al., 2013). Adam, with a learning
    rate that falls to 0 along a cosine; W begins Gaussian. c is the mean of the features, which are
    scaled to a distance of 1 from it (root mean square), so that no setting depends on their scale;
    nor does τ on K, as codes at random have a similarity of 0 ± 1/√K.

    steps:         of the training
    pairs:         n, in each step; at most half of the rows
    temperature:   τ
    softness:      β
    learning_rate: at the beginning
    sign:          whether the codes are signs; without it, s = u/|u|: the rival of floats
    """

    projects = True
    at_most_features = False
    random = True
    steps: int = 1000
    pairs: int = 256
    temperature: float = 0.8
    softness: float = 0.03
    learning_rate: float = 0.03
    sign: bool = True

    def fit(self, features: Tensor, bits: int, generator: torch.Generator) -> Cut:
        raise ConfigError("quantise=head learns from labels of the training rows: expected some")

    def fit_labelled(
        self, features: Tensor, labels: Tensor, bits: int, generator: torch.Generator
    ) -> Cut:
        """Raises ConfigError: no two of the rows share a label."""
        marks = labels.numpy()
        draw = _Partners(marks)
        mean = features.mean(dim=0)
        scale = (features - mean).square().sum(dim=1).mean().sqrt()
        given = (features - mean) / scale
        pairs = max(min(self.pairs, len(given) // 2), 1)
        weights = torch.randn(given.shape[1], bits, generator=generator).requires_grad_()
        optimiser = torch.optim.Adam([weights], lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        with torch.enable_grad():
            for _ in range(self.steps):
                rows = draw(pairs, generator)
                loss = self.loss(
                    given[rows] @ weights,
                    torch.from_numpy(shares(marks[rows], marks[rows])),
                )
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
        return Cut(mean, weights.detach() / scale)

    def loss(self, values: Tensor, shared: Tensor) -> Tensor:
        """The loss of (2n,K) u, rows 2i and 2i+1 a pair; shared (2n,2n): who shares a label."""
        if self.sign:
            soft = torch.tanh(self.softness * values)
            values = soft + (torch.where(values > 0, 1.0, -1.0) - soft).detach()
        codes = functional.normalize(values, dim=1)
        rows = torch.arange(len(codes))
        partner = rows ^ 1
        near = codes @ codes.T * (values.shape[1] ** 0.5 / self.temperature)
        left_out = shared.clone()
        left_out[rows, partner] = False  # the partner stays, all others that share a label go
        left_out[rows, rows] = True
        return functional.cross_entropy(near.masked_fill(left_out, -torch.inf), partner)


class _Partners:
    """Draws pairs of rows that share a label. Raises ConfigError: there are none."""

    def __init__(self, labels: npt.NDArray[Any]) -> None:
        if are_groups(labels):
            row, place = np.nonzero(labels >= 0)
            label = labels[row, place]
        else:
            row, label = np.nonzero(labels)
        order = np.argsort(label, kind="stable")
        self._members = row[order]
        _, first, counts = np.unique(label[order], return_index=True, return_counts=True)
        several = counts > 1
        self._first, self._counts = first[several], counts[several]
        if not len(self._first):
            raise ConfigError(
                "quantise=head learns from rows that share a label: expected some among the "
                "training rows, got none; take another quantiser"
            )

    def __call__(self, pairs: int, generator: torch.Generator) -> Tensor:
        """(2·pairs,) rows, two of a label after each other; labels equally often, few twice."""
        count = len(self._first)
        laps = -(-pairs // count)
        chosen = torch.cat([torch.randperm(count, generator=generator) for _ in range(laps)])
        labels = chosen[:pairs].numpy()
        parts = torch.rand(2, pairs, generator=generator).double().numpy()
        counts = self._counts[labels]
        first = (parts[0] * counts).astype(np.int64)
        step = 1 + (parts[1] * (counts - 1)).astype(np.int64)
        places = np.stack([first, (first + step) % counts], axis=1)
        rows = self._members[self._first[labels][:, None] + places]
        return torch.from_numpy(rows.reshape(-1))
