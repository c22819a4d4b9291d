"""Deep cross-modal hashing: images and text in one space of codes, learnt all at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from advhash.codes.packed import HashCodes
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset, Modality, Split, TextKind
from advhash.data.paths import Reads
from advhash.errors import UsageError
from advhash.registry import VICTIMS
from advhash.victims.base import HashVictim, expect_positive
from advhash.victims.cross_modal.code_table import table_codes
from advhash.victims.cross_modal.phases import network_outputs
from advhash.victims.networks.backbones import (
    PRETRAINED,
    SMALL,
    build_backbone,
    check_frozen,
    frozen_features,
)
from advhash.victims.networks.text_encoders import (
    code_layer,
    text_arguments,
    text_bounds,
    text_encoder,
)
from advhash.victims.objectives import cross_modal_hashing, shared_label, sign
from advhash.victims.training.descent import (
    Decay,
    Descent,
    Optimiser,
    batch_outputs,
    random_batches,
    seeded,
)
from advhash.victims.training.state import Phase

PAPER = {  # of images of 224 px, a size that the data set decides
    "bits": 64,
    "backbone": "cnnf",
    "width": 8192,
    "dropout": 0.0,
    "word_dropout": 0.0,
    "normalise_text": False,
    "epochs": 500,
    "batch_size": 128,
    "optimiser": "sgd",
    "decay": "linear",
    "learning_rate": 10**-1.5,
    "weight_decay": 0.0,
    "quantisation_weight": 1.0,
    "balance_weight": 1.0,
    "augmentation": False,
}


@VICTIMS.register(
    "dcmh",
    source="Jiang and Li, CVPR 2017",
    presets={"paper": PAPER, "pretrained": PRETRAINED},
)
class DCMH(HashVictim):
    """Deep cross-modal hashing (DCMH): the likelihood of image-text pairs that share a label.

    An image and a text network are trained in turn; after both, each training item gets one code
    for both modalities. A database is hashed by the networks: nothing is stored. What is new
    needs training anew, so this is the rival of a lifelong victim. See docs/victims/dcmh.md.

    text, text_size, image_size: from the data; see docs/victims/text_encoders.md
    quantisation_weight, balance_weight: γ and η

    Deviations of every preset:
    - an epoch draws each item once, where the code draws batches afresh
    - the learning rate falls step by step, and the hidden text layer begins as torch's do
    - no ImageNet weights, unless `pretrained` with a backbone of timm
    - the fused code, of an item with both modalities, is sign(F+G) as in dlcmh
    Deviations of the defaults only:
    - small networks, dropout, augmentation, unit-length text, AdamW with cosine decay, a smaller η
    """

    default_dataset = "openmoji"
    reads = Reads((frozenset({"image", "text"}),))
    default_database = "fused"

    def __init__(
        self,
        *,
        text_size: int,
        text: TextKind = "words",
        bits: int = 32,
        backbone: str = SMALL,
        pretrained: bool = False,
        freeze_backbone: bool = False,
        image_size: int = 32,
        width: int = 512,
        dropout: float = 0.3,
        word_dropout: float = 0.2,
        normalise_text: bool = True,
        epochs: int = 60,
        batch_size: int = 64,
        optimiser: Optimiser = "adamw",
        decay: Decay = "cosine",
        learning_rate: float = 1e-2,
        weight_decay: float = 1e-4,
        quantisation_weight: float = 1.0,
        balance_weight: float = 0.001,
        augmentation: bool = True,
    ) -> None:
        super().__init__()
        expect_positive(
            bits=bits, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate
        )
        check_frozen(freeze_backbone, augmentation)
        self.text_size = text_size
        self.text: TextKind = text
        self.bits = bits
        self.backbone = backbone
        self.pretrained = pretrained
        self.freeze_backbone = freeze_backbone
        self.image_size = image_size
        self.width = width
        self.dropout = dropout
        self.word_dropout = word_dropout
        self.normalise_text = normalise_text
        self.epochs = epochs
        self.batch_size = batch_size
        self.optimiser: Optimiser = optimiser
        self.decay: Decay = decay
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.quantisation_weight = quantisation_weight  # γ
        self.balance_weight = balance_weight  # η
        self.augmentation = augmentation
        self.bounds = {"image": (0.0, 1.0), "text": text_bounds(text, text_size)}
        self.history = []
        self._build()

    def _build(self) -> None:
        """New networks."""
        features = build_backbone(
            self.backbone,
            image_size=self.image_size,
            pretrained=self.pretrained,
            frozen=self.freeze_backbone,
        )
        self.image_network = nn.Sequential(features, code_layer(features.features, self.bits))
        self.text_network = text_encoder(
            self.text,
            text_size=self.text_size,
            bits=self.bits,
            width=self.width,
            dropout=self.dropout,
            word_dropout=self.word_dropout,
            normalise_text=self.normalise_text,
        )

    @classmethod
    def data_arguments(cls, data: Dataset) -> dict[str, object]:
        return text_arguments(data, "dcmh")

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        codes: Tensor = self.get_submodule(f"{modality}_network")(inputs)
        return codes

    @property
    def directions(self) -> tuple[str, ...]:
        return ("fused", *self.bounds)

    def database_codes(self, data: Dataset, database: str) -> HashCodes:
        """Codes of the networks: of one modality, or of both together."""
        if database not in self.directions:
            raise UsageError(
                f"expected a direction of the victim ({', '.join(self.directions)}), "
                f"got {database!r}"
            )
        return HashCodes.from_relaxed(table_codes(network_outputs(self, data.database))[database])

    def fit(self, data: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """Train from new random weights. Same data, settings and seed: same weights."""
        text_arguments(data, "dcmh")  # refuses data without one of the modalities
        with seeded(seed):
            device = self.device
            self._build()
            self.to(device)
            self.history = []
            items = frozen_features(self.image_network[0], data.train, device)
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
