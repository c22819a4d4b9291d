"""From features to bits: what is learnt from training rows, a centre and perhaps a projection.

All are of one form, u = (x − c)·W with the bits u > 0, so that u itself is the differentiable
surrogate of the code. They differ in what c and W are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advhash.codes import quantise
from advhash.errors import ConfigError
from advhash.registry import QUANTISERS


@dataclass(frozen=True)
class Cut:
    """centre: (D,); projection: (D,K), or None for the identity."""

    centre: Tensor
    projection: Tensor | None = None

    def __call__(self, features: Tensor) -> Tensor:
        """(N,K) real codes of (N,D) features."""
        centred = features - self.centre
        return centred if self.projection is None else centred @ self.projection


class Quantiser(ABC):
    """projects: whether it has a W, and K is free; at_most_features: whether K may not exceed D."""

    projects: ClassVar[bool] = False
    at_most_features: ClassVar[bool] = True
    random: ClassVar[bool] = False

    def check(self, name: str, features: int, bits: int) -> None:
        """Raise ConfigError for a number of bits that D features cannot be cut to.

        name: what it is registered as
        """
        if not self.projects and bits != features:
            raise ConfigError(
                f"quantise={name} makes one bit of each of {features} features: expected no bits, "
                f"got bits={bits}; lsh makes any number, and a victim's dimensions=N keeps the "
                "first N features"
            )
        if self.at_most_features and bits > features:
            raise ConfigError(
                f"quantise={name}: expected at most {features} bits, one a feature, got {bits}; "
                "lsh makes more"
            )

    @abstractmethod
    def fit(self, features: Tensor, bits: int, generator: torch.Generator) -> Cut:
        """What is learnt from (N,D) features of the training rows, for K bits."""

    def fit_labelled(
        self, features: Tensor, labels: Tensor, bits: int, generator: torch.Generator
    ) -> Cut:
        """The same with the labels of these rows, which most leave aside: multi-hot or groups."""
        return self.fit(features, bits, generator)


class Threshold(Quantiser):
    """One bit of each feature, by the threshold that files of embeddings are cut at, too."""

    rule: ClassVar[quantise.Rule]

    def fit(self, features: Tensor, bits: int, generator: torch.Generator) -> Cut:
        limits = quantise.thresholds(features.numpy(), self.rule)
        return Cut(torch.from_numpy(limits).to(features))


@QUANTISERS.register("sign", source="the packed embeddings of sentence-transformers")
class Sign(Threshold):
    """A bit is 1 where its feature is positive: c = 0, nothing is learnt."""

    rule = "sign"


@QUANTISERS.register("mean", source="the centred sign")
class Mean(Threshold):
    """A bit is 1 where its feature is above its mean."""

    rule = "mean"


@QUANTISERS.register("median", source="balanced bits")
class Median(Threshold):
    """A bit is 1 where its feature is above its median: each is 1 in half of the training rows."""

    rule = "median"


@QUANTISERS.register("lsh", source="Charikar, STOC 2002")
class LSH(Quantiser):
    """Signs of random projections of the centred features: W is Gaussian, drawn by the seed."""

    projects = True
    at_most_features = False
    random = True

    def fit(self, features: Tensor, bits: int, generator: torch.Generator) -> Cut:
        drawn = torch.randn(features.shape[1], bits, generator=generator) / features.shape[1] ** 0.5
        return Cut(features.double().mean(dim=0).to(features), drawn.to(features))


@QUANTISERS.register("pca-sign", source="Gong and Lazebnik, CVPR 2011 (PCA direct)")
class PCASign(Quantiser):
    """Signs of the first K principal components."""

    projects = True

    def fit(self, features: Tensor, bits: int, generator: torch.Generator) -> Cut:
        centre, axes = principal_axes(features, bits)
        return Cut(centre.to(features), axes.to(features))


@QUANTISERS.register("itq", source="Gong and Lazebnik, CVPR 2011")
@dataclass(kw_only=True)
class ITQ(Quantiser):
    """Iterative quantisation: K components, rotated as near as can be to their signs.

    From a random rotation R of the projected rows V (N,K), alternates B = sign(V·R) with the R that
    minimises ‖B − V·R‖: the product of the two rotations in the singular value decomposition of
    Vᵀ·B.

    rounds: of the alternation
    """

    projects = True
    random = True
    rounds: int = 50

    def fit(self, features: Tensor, bits: int, generator: torch.Generator) -> Cut:
        centre, axes = principal_axes(features, bits)
        projected = (features.double() - centre) @ axes
        start = torch.randn(bits, bits, generator=generator, dtype=torch.double)
        rotation = torch.linalg.qr(start)[0]
        for _ in range(self.rounds):
            signs = torch.where(projected @ rotation > 0, 1.0, -1.0).double()
            left, _, right = torch.linalg.svd(projected.T @ signs)
            rotation = left @ right
        return Cut(centre.to(features), (axes @ rotation).to(features))


def principal_axes(features: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(D,) mean and (D,count) eigenvectors of the covariance, the largest eigenvalue first.

    Float64. The sign of an axis, which is free, makes its largest entry positive.

    Raises ConfigError where the rows differ in fewer directions than that: the other axes would be
    rounding errors, and their bits noise.
    """
    values = features.double()
    centre = values.mean(dim=0)
    centred = values - centre
    spread, axes = torch.linalg.eigh(centred.T @ centred)
    rounding = max(features.shape) * torch.finfo(features.dtype).eps
    directions = int((spread > rounding**2 * spread.amax()).sum())
    if count > directions:
        raise ConfigError(
            f"the features of the {len(features)} training rows differ in {directions} directions: "
            f"expected at most as many bits, got {count}; set victim.bits, or use lsh"
        )
    axes = axes.flip(1)[:, :count]
    largest = axes.gather(0, axes.abs().argmax(dim=0, keepdim=True))
    return centre, axes * torch.where(largest < 0, -1.0, 1.0)
