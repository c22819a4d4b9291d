"""Detectors of adversarial inputs of a hashing victim, by their codes; higher = more anomalous.

What is normal is learnt from clean items of the database: their codes and, for centres, their
labels. Each score is one formula of the code, written so that a gradient passes through it: the
detector sees its value, the adaptive attacker of `adaptive_codes.py` descends the same expression.
Bits are ±1 going forward and tanh(u/s) going backward (straight-through, Bengio et al., 2013),
with s the mean |u| of the item.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from advhash.attacks.base import frozen
from advhash.attacks.gradient.anchors import label_sets, vote
from advhash.attacks.gradient.objectives import soft_code
from advhash.codes.hamming import nearest
from advhash.codes.packed import HashCodes
from advhash.data.dataset import Batch, Dataset, Modality, Split
from advhash.defenses.base import Detector
from advhash.errors import DataError, UsageError
from advhash.registry import DETECTORS
from advhash.shared_labels import are_groups
from advhash.victims.base import HashVictim

BLOCK = 128  # items scored at a time
SMALLEST = 1e-6  # size of a real code below which it counts as this


def straight_through(relaxed: Tensor) -> Tensor:
    """(B,K) ±1 of real codes u, a bit is 1 iff u > 0; its gradient is that of tanh(u/mean|u|).

    >>> straight_through(torch.tensor([[3.0, -0.1, 0.0]])).tolist()
    [[1.0, -1.0, -1.0]]
    """
    size = relaxed.detach().abs().mean(dim=1, keepdim=True).clamp_min(SMALLEST)
    soft = soft_code(relaxed, 1.0, size)
    return torch.where(relaxed > 0, 1.0, -1.0) + (soft - soft.detach())


class CodeDetector(Detector):
    """A score of an input's code. `fit` comes first; it reads clean rows only.

    The adaptive attacker descends `penalty`, which is the score itself with a gradient: every
    detector says so how it is attacked.
    """

    _victim_bits: int | None = None

    def fitted_on(self, data: Dataset) -> Split:
        """The clean rows that `fit` is to see: those of the database."""
        return data.database

    def check(self, victim: HashVictim, clean: Split) -> None:
        """Raise UsageError where it cannot judge the victim, trained or not, by these clean rows.

        Default: it judges all.
        """

    def listed(self, victim: HashVictim) -> bool:
        """Whether a table of all detectors has it for this victim."""
        return True

    def fit(self, victim: HashVictim, clean: Split, modality: Modality) -> Self:
        """Learn what codes of clean rows look like.

        Raises UsageError: the victim lacks the modality; DataError: no rows.
        """
        victim.check_modality(modality)
        if len(clean) == 0:
            raise DataError("a detector is fitted on clean rows: expected at least one, got none")
        self.check(victim, clean)
        self._victim_bits = victim.bits
        self.learn(victim, clean, modality)
        return self

    def score(self, victim: HashVictim, batch: Batch, modality: Modality) -> Tensor:
        """(B,) float32 on the CPU; an item's score does not depend on its batch.

        Raises UsageError before `fit`, and for a victim of other bits or without the modality.
        """
        victim.check_modality(modality)
        if self._victim_bits != victim.bits:
            raise UsageError(
                f"{type(self).__name__}: call fit with clean rows and this victim before score; "
                f"expected codes of {self._victim_bits} bits, got {victim.bits}"
            )
        scores = []
        with frozen(victim), torch.no_grad():
            for inputs in batch.inputs[modality].split(BLOCK):
                part = inputs.to(victim.device)
                relaxed = victim.relax(part, modality)
                scores.append(self.penalty(victim, part, relaxed, modality).float().cpu())
        return torch.cat(scores) if scores else torch.zeros(0)

    @abstractmethod
    def learn(self, victim: HashVictim, clean: Split, modality: Modality) -> None:
        """What `fit` does, after its checks."""

    @abstractmethod
    def penalty(
        self, victim: HashVictim, inputs: Tensor, relaxed: Tensor, modality: Modality
    ) -> Tensor:
        """(B,) the score of inputs (B,…) with real codes (B,K), differentiable in both."""


def real_codes(victim: HashVictim, clean: Split, modality: Modality) -> Tensor:
    """(N,K) real codes of all rows, on the CPU."""
    with frozen(victim), torch.no_grad():
        return torch.cat(
            [
                victim.relax(batch.inputs[modality].to(victim.device), modality).cpu()
                for batch in clean.batches(BLOCK)
            ]
        )


def signs(relaxed: Tensor) -> Tensor:
    """(N,K) ±1."""
    return torch.where(relaxed > 0, 1.0, -1.0)


def label_centres(codes: Tensor, labels: Tensor, least: int) -> Tensor:
    """(S,K) ±1 distinct majority codes, of (N,K) codes with (N,C) labels.

    Of each label set that at least `least` rows carry, and of each class over all rows that have
    it. Raises DataError where no row has a label.
    """
    groups = [
        vote(codes[rows])
        for rows in ((labels == labelled).all(dim=1) for labelled in label_sets(labels))
        if int(rows.sum()) >= least
    ]
    members = labels[:, :0] if are_groups(labels) else labels.bool()
    groups += [vote(codes[rows]) for rows in members.T if bool(rows.any())]
    if not groups:
        raise DataError("majority codes need labels: expected rows with some, got none")
    centres: Tensor = torch.stack(groups).unique(dim=0)
    return centres


def nearest_distance(relaxed: Tensor, table: HashCodes) -> Tensor:
    """(B,) Hamming distance of (B,K) real codes to the nearest of (U,) codes.

    Found by the Hamming kernel; (K − ⟨h, r⟩)/2 to the row found has a gradient.
    """
    rows = nearest(HashCodes.from_relaxed(relaxed.detach()), table, 1)[:, 0]
    chosen = torch.from_numpy(table[rows].signs()).to(relaxed)
    return (relaxed.shape[1] - (straight_through(relaxed) * chosen).sum(dim=1)) / 2


@DETECTORS.register("margin", source="after HashNet's quantisation gap, Cao et al., ICCV 2017")
class Margin(CodeDetector):
    """How near real codes lie to the threshold of their bits: −mean |u_k|/s_k or −min |u_k|/s_k.

    reduce: "mean" over the bits, or "min", the one bit that is nearest to flipping
    side: "low" as above; "high" its negative, for codes pressed further out than clean ones;
        "both" the distance of mean |u|/s (or min) from its median over clean rows

    s_k is the mean |u_k| of clean rows. The mean is the default: an attack that stops once all
    bits are right leaves many of them near 0, and one bit near 0 is common in clean codes.
    """

    def __init__(
        self,
        *,
        reduce: Literal["mean", "min"] = "mean",
        side: Literal["low", "high", "both"] = "low",
    ) -> None:
        if reduce not in ("mean", "min") or side not in ("low", "high", "both"):
            raise ValueError(
                f"expected reduce mean or min and side low, high or both, got {reduce}, {side}"
            )
        self.reduce, self.side = reduce, side
        self._size, self._usual = torch.ones(1), 0.0

    def learn(self, victim: HashVictim, clean: Split, modality: Modality) -> None:
        relaxed = real_codes(victim, clean, modality)
        self._size = relaxed.abs().mean(dim=0).clamp_min(SMALLEST)
        self._usual = self._margin(relaxed).median().item()

    def _margin(self, relaxed: Tensor) -> Tensor:
        margins = relaxed.abs() / self._size.to(relaxed)
        return margins.mean(dim=1) if self.reduce == "mean" else margins.amin(dim=1)

    def penalty(
        self, victim: HashVictim, inputs: Tensor, relaxed: Tensor, modality: Modality
    ) -> Tensor:
        margin = self._margin(relaxed)
        if self.side == "both":
            return (margin - self._usual).abs()
        return -margin if self.side == "low" else margin


@DETECTORS.register("nearest", source="nearest neighbour in Hamming space; control")
class Nearest(CodeDetector):
    """min_r Ham(h, r) over the codes r of the clean database rows: a code that nothing has."""

    def __init__(self) -> None:
        pass

    def learn(self, victim: HashVictim, clean: Split, modality: Modality) -> None:
        codes = signs(real_codes(victim, clean, modality)).unique(dim=0)
        self._table = HashCodes.from_relaxed(codes)

    def highest(self, victim: HashVictim) -> float | None:
        return float(victim.bits)

    def penalty(
        self, victim: HashVictim, inputs: Tensor, relaxed: Tensor, modality: Modality
    ) -> Tensor:
        return nearest_distance(relaxed, self._table)


class _Centres(CodeDetector):
    """What compares with majority codes."""

    least: int

    def learn(self, victim: HashVictim, clean: Split, modality: Modality) -> None:
        codes = signs(real_codes(victim, clean, modality))
        self._table = HashCodes.from_relaxed(label_centres(codes, clean.labels, self.least))
        self._usual = nearest_distance(codes, self._table).median().item()


def expect_least(least: int) -> int:
    """`least` itself. Raises ValueError below 1."""
    if least < 1:
        raise ValueError(f"expected least >= 1, got {least}")
    return least


@DETECTORS.register("centre", source="after HashVFL's class codes, Qiu et al., IEEE TIFS 2024")
class Centre(_Centres):
    """min_c Ham(h, c) over the majority codes c of label sets and of classes: no class's code.

    least: rows that must carry a label set for its majority code to count
    """

    def __init__(self, *, least: int = 5) -> None:
        self.least = expect_least(least)

    def highest(self, victim: HashVictim) -> float | None:
        return float(victim.bits)

    def penalty(
        self, victim: HashVictim, inputs: Tensor, relaxed: Tensor, modality: Modality
    ) -> Tensor:
        return nearest_distance(relaxed, self._table)


@DETECTORS.register("exact", source="advhash: codes of ProS-GAN sit on majority codes")
class Exact(_Centres):
    """Too exactly on a centre: m − min_c Ham(h, c), m the median of clean rows.

    least: as of `centre`
    two_sided: |m − min_c Ham(h, c)| instead: too near and too far are both anomalous

    Targeted attacks aim at the majority code of their target; clean items seldom hit it exactly,
    unless the victim collapses each class to one code: then this score says nothing.
    """

    def __init__(self, *, least: int = 5, two_sided: bool = False) -> None:
        self.least = expect_least(least)
        self.two_sided = two_sided

    def penalty(
        self, victim: HashVictim, inputs: Tensor, relaxed: Tensor, modality: Modality
    ) -> Tensor:
        inside = self._usual - nearest_distance(relaxed, self._table)
        return inside.abs() if self.two_sided else inside


@DETECTORS.register("rarity", source="after k-NN density, Loftsgaarden and Quesenberry, 1965")
class Rarity(CodeDetector):
    """−log((n + 1)/(N + 1)): n of N database codes lie within `radius` bits (add-one smoothing).

    radius: in bits; 0 counts the rows with this very code

    Going backward n counts each code r by sig(radius + ½ − Ham(h, r)).
    """

    def __init__(self, *, radius: int = 2) -> None:
        if radius < 0:
            raise ValueError(f"expected radius >= 0, got {radius}")
        self.radius = radius

    def learn(self, victim: HashVictim, clean: Split, modality: Modality) -> None:
        codes = signs(real_codes(victim, clean, modality))
        self._codes, counts = codes.unique(dim=0, return_counts=True)
        self._counts = counts.float()

    def penalty(
        self, victim: HashVictim, inputs: Tensor, relaxed: Tensor, modality: Modality
    ) -> Tensor:
        codes, counts = self._codes.to(relaxed), self._counts.to(relaxed)
        far = (relaxed.shape[1] - straight_through(relaxed) @ codes.T) / 2
        soft = torch.sigmoid(self.radius + 0.5 - far) @ counts
        hard = (far.detach() < self.radius + 0.5).to(counts) @ counts
        share = (hard + (soft - soft.detach()) + 1) / (counts.sum() + 1)
        score: Tensor = -share.clamp_min(SMALLEST).log()
        return score


@DETECTORS.register("flips", source="after feature squeezing, Xu et al., NDSS 2018")
class Flips(CodeDetector):
    """Share of bits in [0,1] that differ between the code of an image and of a cleaned copy.

    by: "median" (3×3), "gaussian" (3×3, σ 1) or "noise" (uniform, one pattern for all images)
    radius: size of the noise in [0,1] pixels
    seed: of the pattern

    Deviations:
    - the distance of predictions, there L1 of two softmax outputs, is the Hamming distance of codes
    """

    def __init__(
        self,
        *,
        by: Literal["median", "gaussian", "noise"] = "median",
        radius: float = 8 / 255,
        seed: int = 0,
    ) -> None:
        if by not in ("median", "gaussian", "noise") or not 0 < radius <= 1:
            raise ValueError(
                f"expected by median, gaussian or noise and radius in (0, 1], got {by}, {radius}"
            )
        self.by, self.radius, self.seed = by, radius, seed

    def highest(self, victim: HashVictim) -> float | None:
        return 1.0

    def learn(self, victim: HashVictim, clean: Split, modality: Modality) -> None:
        if not victim.is_image(modality):
            raise UsageError(f"flips cleans pictures: expected an image modality, got {modality!r}")

    def cleaned(self, images: Tensor) -> Tensor:
        """(B,3,H,W) in [0,1]."""
        if self.by == "noise":
            generator = torch.Generator().manual_seed(self.seed)
            noise = torch.rand(images.shape[1:], generator=generator).to(images) * 2 - 1
            return (images + self.radius * noise).clamp(0, 1)
        from kornia.filters import gaussian_blur2d, median_blur  # seconds to import

        if self.by == "median":
            padded = F.pad(images, (1, 1, 1, 1), mode="replicate")  # kornia pads with black
            smooth: Tensor = median_blur(padded, 3)[:, :, 1:-1, 1:-1]
            return smooth
        blurred: Tensor = gaussian_blur2d(images, (3, 3), (1.0, 1.0), border_type="replicate")
        return blurred

    def penalty(
        self, victim: HashVictim, inputs: Tensor, relaxed: Tensor, modality: Modality
    ) -> Tensor:
        other = victim.relax(self.cleaned(inputs), modality)
        return (1 - (straight_through(relaxed) * straight_through(other)).mean(dim=1)) / 2
