"""Image hashing: one training loop, and the victims that learn from pairs of images.

A victim is a backbone × a linear head × an objective. `ImageHashing` holds all but the objective;
its subclasses are keyword-only dataclasses, so that each constructor names every setting.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset, Modality
from advhash.errors import DataError
from advhash.registry import VICTIMS
from advhash.victims.base import HashVictim, expect_positive
from advhash.victims.networks.backbones import (
    PRETRAINED,
    SMALL,
    build_backbone,
    check_frozen,
    frozen_features,
)
from advhash.victims.objectives import (
    pairwise_gap,
    pairwise_likelihood,
    quantisation,
    shared_label,
    sign,
)
from advhash.victims.training.descent import Descent, batch_outputs, random_batches, seeded
from advhash.victims.training.phase import Phase

PROSGAN_CODE = {  # how the code of ProS-GAN trains its victims
    "backbone": "vgg11",
    "epochs": 100,
    "batch_size": 32,
    "weight_decay": 1e-5,
    "augmentation": False,
}


@dataclass(kw_only=True, eq=False, repr=False)
class ImageHashing(HashVictim):
    """A backbone and a linear layer of K outputs, trained down `objective`.

    bits:          K
    backbone:      "cnnf" or any model of timm
    pretrained:    load timm's weights
    freeze_backbone: train the linear layer only, on features that are computed once
    image_size:    pixels, from the data
    learning_rate, weight_decay: AdamW with cosine decay after a short warm-up
    augmentation:  rotation 10°, scale 10 %, shift 6 %, contrast 15 %

    Deviations:
    - AdamW with cosine decay and a light augmentation instead of SGD;
    - no ImageNet weights: every network starts from random ones, unless `pretrained`.
    """

    bits: int = 32
    backbone: str = SMALL
    pretrained: bool = False
    freeze_backbone: bool = False
    image_size: int = 32
    epochs: int = 12
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    augmentation: bool = True

    def __post_init__(self) -> None:
        super().__init__()
        expect_positive(
            bits=self.bits,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
        )
        check_frozen(self.freeze_backbone, self.augmentation)
        self.bounds = {"image": (0.0, 1.0)}
        self.history = []
        self.network = self._build()

    def _build(self) -> nn.Sequential:
        features = build_backbone(
            self.backbone,
            image_size=self.image_size,
            pretrained=self.pretrained,
            frozen=self.freeze_backbone,
        )
        return nn.Sequential(features, nn.Linear(features.features, self.bits))

    @classmethod
    def data_arguments(cls, data: Dataset) -> dict[str, object]:
        check_images(data)
        return {"image_size": data.database.tensor("image").shape[-1]}

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        codes: Tensor = self.network(inputs)
        return codes

    @abstractmethod
    def objective(self, codes: Tensor, labels: Tensor) -> Tensor:
        """The scalar to minimise of a batch: real codes (B,K) and its multi-hot labels (B,C)."""

    def begin(self) -> None:
        """Called before the first epoch with torch's generator at the seed: draw what is random."""

    def advance(self, epoch: int) -> None:
        """Called before each epoch, the first one being 0."""

    def fit(self, data: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """Train from new random weights. Same data, settings and seed: same weights."""
        check_images(data)
        with seeded(seed):
            self.network = self._build().to(self.device)
            self.history = []
            self.begin()
            self.train()
            phase = Phase("train", self, progress)
            self._descend(data, torch.Generator().manual_seed(seed), phase)
        self.eval()
        return self

    def _descend(self, data: Dataset, generator: torch.Generator, phase: Phase) -> None:
        train = frozen_features(self.network[0], data.train, self.device)
        labels = train.labels.to(self.device)
        descent = Descent(
            self.parameters(),
            epochs=self.epochs,
            steps=-(-len(train) // self.batch_size),
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
        )

        def loss(rows: Tensor) -> Tensor:
            codes = batch_outputs(self, descent, train, rows, "image", generator)
            return self.objective(codes, labels[rows])

        for epoch in phase.epochs(self.epochs, descents={"all": descent}, generator=generator):
            self.advance(epoch - 1)
            batches = random_batches(len(train), self.batch_size, generator)
            phase.note(loss=descent.epoch(batches, loss))


@VICTIMS.register(
    "dpsh",
    source="Li et al., IJCAI 2016 (arXiv 1511.03855)",
    presets={
        "paper": {
            "backbone": "cnnf",
            "epochs": 150,
            "batch_size": 128,
            "augmentation": False,
        },
        "pretrained": PRETRAINED,
    },
)
@dataclass(kw_only=True, eq=False, repr=False)
class DPSH(ImageHashing):
    """Deep pairwise-supervised hashing: a backbone, a linear head, a pairwise likelihood.

    Minimises −mean[S·θ − log(1+e^θ)] + η·mean (u − sign u)², θ = ⟨u_i, u_j⟩/2, over all pairs of
    a batch, where u (B,K) are its real codes and S = 1 where two rows share a label. See
    docs/victims/dpsh.md.

    quantisation_weight: η

    Deviations:
    - pairs inside a batch; released code pairs the batch with the last codes of all rows, which
      are random at first: on `digits` that reached MAP 0.90 after 25 epochs, not 0.99 after 12;
    - means instead of sums over pairs and bits, so η is on another scale.
    """

    quantisation_weight: float = 0.1

    def objective(self, codes: Tensor, labels: Tensor) -> Tensor:
        return pairwise_likelihood(codes, codes, shared_label(labels, labels)) + (
            self.quantisation_weight * quantisation(codes, sign(codes))
        )


@VICTIMS.register(
    "dph",
    source="Yang et al., IEEE TCYB 2018 (HAG), as trained by the code of ProS-GAN and SAAT",
    presets={"paper": PROSGAN_CODE, "pretrained": PRETRAINED},
)
@dataclass(kw_only=True, eq=False, repr=False)
class DPH(ImageHashing):
    """Deep pairwise hashing: inner products of soft codes meet ±1. The usual victim of attacks.

    Minimises mean (⟨h_i, h_j⟩/K − S_ij)², h = tanh u, over all pairs of a batch, where u (B,K) are
    its real codes and S = 1 where two rows share a label, else −1. `relax` gives u. See
    docs/victims/dph.md. Deep *priority* hashing (Cao et al., MM 2018) is another method.

    Deviations:
    - pairs inside a batch; released code pairs the batch with the last codes of all rows.
    """

    epochs: int = 30

    def objective(self, codes: Tensor, labels: Tensor) -> Tensor:
        soft = torch.tanh(codes)
        return pairwise_gap(soft, soft, shared_label(labels, labels))


def check_images(data: Dataset) -> None:
    """Raise DataError where there are no images."""
    if "image" not in data.modalities:
        raise DataError(
            f"expected a data set with images, got {data.name!r} with {', '.join(data.modalities)}"
        )
