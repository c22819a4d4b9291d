"""Deep cross-modal hashing: images and text in one space of codes, learnt all at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset, Modality, Split
from advhash.registry import VICTIMS
from advhash.victims.cross_modal.base import PUBLISHED, CrossModalHashing
from advhash.victims.networks.backbones import PRETRAINED, frozen_features
from advhash.victims.objectives import cross_modal_hashing, shared_label, sign
from advhash.victims.training.descent import Descent, batch_outputs, random_batches, seeded
from advhash.victims.training.phase import Phase

PAPER = {**PUBLISHED, "epochs": 500, "learning_rate": 10**-1.5, "balance_weight": 1.0}


@VICTIMS.register(
    "dcmh",
    source="Jiang and Li, CVPR 2017",
    presets={"paper": PAPER, "pretrained": PRETRAINED},
)
@dataclass(kw_only=True, eq=False, repr=False)
class DCMH(CrossModalHashing):
    """Deep cross-modal hashing (DCMH): the likelihood of image-text pairs that share a label.

    An image and a text network are trained in turn; after both, each training item gets one code
    for both modalities. A database is hashed by the networks: nothing is stored. What is new
    needs training anew, so this is the rival of a lifelong victim. See docs/victims/dcmh.md.

    quantisation_weight, balance_weight: γ and η

    Deviations of every preset:
    - an epoch draws each item once, where the code draws batches afresh
    - the learning rate falls step by step, and the hidden text layer begins as torch's do
    - no ImageNet weights, unless `pretrained` with a backbone of timm
    - the fused code, of an item with both modalities, is sign(F+G) as in dlcmh
    Deviations of the defaults only:
    - small networks, dropout, augmentation, unit-length text, AdamW with cosine decay, a smaller η
    """

    epochs: int = 60
    learning_rate: float = 1e-2
    quantisation_weight: float = 1.0
    balance_weight: float = 0.001

    def fit(self, data: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """Train from new random weights. Same data, settings and seed: same weights."""
        self.data_arguments(data)  # refuses data without one of the modalities
        with seeded(seed):
            self.begin()
            items = frozen_features(self.image_network[0], data.train, self.device)
            self.train()
            self._descend(items, torch.Generator().manual_seed(seed), progress)
        self.eval()
        return self

    def _descend(self, items: Split, generator: torch.Generator, progress: Progress) -> None:
        """Each epoch the image network, the text network, then B = sign(F + G)."""
        labels = items.labels.to(self.device)
        outputs = {
            modality: torch.randn(len(items), self.bits, device=self.device)
            for modality in self.bounds
        }  # F and G
        codes = sign(outputs["image"] + outputs["text"])  # B

        def modality_loss(modality: Modality, own: Tensor, other: Tensor) -> Callable[..., Tensor]:
            def loss(rows: Tensor) -> Tensor:
                batch = batch_outputs(self, descents[modality], items, rows, modality, generator)
                own[rows] = batch.detach()
                return cross_modal_hashing(
                    batch,
                    other,
                    shared_label(labels[rows], labels),
                    codes[rows],
                    own.sum(dim=0) - own[rows].sum(dim=0),
                    quantisation_weight=self.quantisation_weight,
                    balance_weight=self.balance_weight,
                )

            return loss

        losses = {
            "image": modality_loss("image", outputs["image"], outputs["text"]),
            "text": modality_loss("text", outputs["text"], outputs["image"]),
        }
        descents = {
            modality: Descent(
                self.get_submodule(f"{modality}_network").parameters(),
                epochs=self.epochs,
                steps=-(-len(items) // self.batch_size),
                learning_rate=self.learning_rate,
                weight_decay=self.weight_decay,
                optimiser=self.optimiser,
                decay=self.decay,
            )
            for modality in losses
        }
        tensors = {**outputs, "codes": codes}
        phase = Phase("train", self, progress)
        for _ in phase.epochs(self.epochs, descents=descents, generator=generator, tensors=tensors):
            figures = {}
            for modality, loss in losses.items():
                batches = random_batches(len(items), self.batch_size, generator)
                figures[modality] = descents[modality].epoch(batches, loss)
            codes.copy_(sign(outputs["image"] + outputs["text"]))
            phase.note(**figures)
