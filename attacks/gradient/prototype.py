"""PrototypeNet: from the labels of a target to a code, and to features that steer a generator."""

from __future__ import annotations

from torch import Tensor, nn


class PrototypeNet(nn.Module):
    """Label set → semantic feature, prototype code in (−1,1)^K, and the label set again.

    Published sizes: hidden 4096, feature 512.
    """

    def __init__(self, classes: int, bits: int, *, hidden: int, feature: int) -> None:
        super().__init__()
        self.feature = nn.Sequential(
            nn.Linear(classes, hidden), nn.ReLU(), nn.Linear(hidden, feature)
        )
        self.hashing = nn.Sequential(nn.Linear(feature, bits), nn.Tanh())
        self.classifier = nn.Sequential(nn.Linear(feature, classes), nn.Sigmoid())

    def forward(self, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B,C) float labels → (B,F) feature, (B,K) code, (B,C) predicted labels in (0,1)."""
        feature = self.feature(labels)
        return feature, self.hashing(feature), self.classifier(feature)
