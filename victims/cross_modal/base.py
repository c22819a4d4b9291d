"""Cross-modal hashing: an image and a text network whose codes lie in one space.

`CrossModalHashing` holds the settings and the networks; its subclasses are keyword-only dataclasses
that add how they train. What the two networks make of a database is the same for all victims.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advhash.codes.packed import HashCodes
from advhash.data.dataset import Dataset, Modality, Split, TextKind
from advhash.data.paths import Reads
from advhash.victims.base import HashVictim, expect_positive
from advhash.victims.cross_modal.code_table import table_codes
from advhash.victims.networks.backbones import SMALL, build_backbone, check_frozen
from advhash.victims.networks.text_encoders import (
    code_layer,
    text_arguments,
    text_bounds,
    text_encoder,
)
from advhash.victims.training.descent import Decay, Optimiser

PUBLISHED = {  # what dcmh and dlcmh share; of images of 224 px, a size that the data set decides
    "bits": 64,
    "backbone": "cnnf",
    "width": 8192,
    "dropout": 0.0,
    "word_dropout": 0.0,
    "normalise_text": False,
    "batch_size": 128,
    "optimiser": "sgd",
    "decay": "linear",
    "weight_decay": 0.0,
    "quantisation_weight": 1.0,
    "augmentation": False,
}


@dataclass(kw_only=True, eq=False, repr=False)
class CrossModalHashing(HashVictim):
    """A network of images and one of texts, each of K outputs; a fused code is sign(F+G).

    text, text_size, image_size: from the data; for `text` see docs/victims/text_encoders.md
    bits:           K
    backbone:       of the images: "cnnf" or any model of timm
    pretrained:     load timm's weights
    freeze_backbone: train a linear layer only, on features of the images that are computed once
    width, dropout: of hidden layers; see `text_encoder`
    word_dropout:   share of the words that are dropped while training
    normalise_text: bring counts to unit length
    optimiser, decay, learning_rate, weight_decay: see `Descent`
    quantisation_weight: of the distance between the real codes and the binary ones
    balance_weight: of the sum of each bit over the items
    augmentation:   of the images: rotation 10°, scale 10 %, shift 6 %, contrast 15 %
    """

    default_dataset = "openmoji"
    reads = Reads((frozenset({"image", "text"}),))
    default_database = "fused"

    text_size: int
    text: TextKind = "words"
    bits: int = 32
    backbone: str = SMALL
    pretrained: bool = False
    freeze_backbone: bool = False
    image_size: int = 32
    width: int = 512
    dropout: float = 0.3
    word_dropout: float = 0.2
    normalise_text: bool = True
    epochs: int
    batch_size: int = 64
    optimiser: Optimiser = "adamw"
    decay: Decay = "cosine"
    learning_rate: float
    weight_decay: float = 1e-4
    quantisation_weight: float
    balance_weight: float
    augmentation: bool = True

    def __post_init__(self) -> None:
        super().__init__()
        expect_positive(
            bits=self.bits,
            width=self.width,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
        )
        check_frozen(self.freeze_backbone, self.augmentation)
        self.bounds = {"image": (0.0, 1.0), "text": text_bounds(self.text, self.text_size)}
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

    def begin(self) -> None:
        """New networks where the old ones were, and an empty history."""
        device = self.device
        self._build()
        self.to(device)
        self.history = []

    @classmethod
    def data_arguments(cls, data: Dataset) -> dict[str, object]:
        return text_arguments(data, cls.__name__.lower())

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        codes: Tensor = self.get_submodule(f"{modality}_network")(inputs)
        return codes

    @property
    def directions(self) -> tuple[str, ...]:
        return ("fused", *self.bounds)

    def database_codes(self, data: Dataset, database: str) -> HashCodes:
        """Codes of the networks: of one modality, or of both together."""
        return self.rehashed_codes(data, database)

    def rehashed_codes(self, data: Dataset, database: str) -> HashCodes:
        self.check_direction(database)
        return network_codes(self, data.database)[database]


def network_outputs(victim: HashVictim, items: Split) -> dict[Modality, Tensor]:
    """(N,K) real codes of all items, of both modalities, without dropout; on the CPU."""
    training = victim.training
    victim.eval()
    parts: dict[Modality, list[Tensor]] = {modality: [] for modality in victim.bounds}
    with torch.no_grad():
        for batch in items.batches(256):
            for modality, part in parts.items():
                inputs = batch.inputs[modality].to(victim.device)
                part.append(victim.relax(inputs, modality).cpu())
    victim.train(training)
    return {modality: torch.cat(part) for modality, part in parts.items()}


def network_codes(victim: HashVictim, items: Split) -> dict[str, HashCodes]:
    """Codes of all items by the networks: "image", "text" and "fused"."""
    signs = table_codes(network_outputs(victim, items))
    return {table: HashCodes.from_relaxed(values) for table, values in signs.items()}
