"""Deep lifelong cross-modal hashing: images and text, categories that arrive one after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import torch
from torch import Tensor, nn

from advhash.codes.packed import HashCodes
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset, Modality, Split, TextKind
from advhash.data.paths import Reads
from advhash.errors import UsageError
from advhash.registry import VICTIMS
from advhash.victims.base import HashVictim, expect_positive
from advhash.victims.cross_modal.code_table import FrozenCodes, table_codes
from advhash.victims.cross_modal.phases import (
    arrivals,
    columns,
    draw_sample,
    learn_increment,
    learn_original,
    network_outputs,
)
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
from advhash.victims.objectives import cosine_label_similarity, shared_label, sign
from advhash.victims.training.descent import Decay, Optimiser, seeded
from advhash.victims.training.state import Phase

PAPER = {  # of images of 224 px, a size that the data set decides
    "bits": 64,
    "backbone": "cnnf",
    "width": 8192,
    "dropout": 0.0,
    "word_dropout": 0.0,
    "normalise_text": False,
    "epochs": 200,
    "batch_size": 128,
    "optimiser": "sgd",
    "decay": "linear",
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "own_weight": 10.0,
    "text_weight": 10.0,
    "quantisation_weight": 1.0,
    "increment_epochs": 200,
    "increment_optimiser": "adam",
    "increment_decay": "exponential",
    "increment_learning_rate": 1e-7,
    "samples": 2000,
    "new_share": 0.0,
    "quantisation_pull": 10.0,
    "augmentation": False,
}
Similarity = Literal["cosine", "binary"]
_ORIGINAL = "original"  # the name of phase 1
SOURCE = "Xu et al., IEEE TCSVT 2024 (arXiv 2304.13357)"


@VICTIMS.register("dlcmh", source=SOURCE, presets={"paper": PAPER, "pretrained": PRETRAINED})
class DLCMH(HashVictim):
    """Deep lifelong cross-modal hashing (DLCMH): the codes of old items stay as they are.

    Phase 1 learns an image, a text and a label network on the original items; then their codes
    are frozen. Each increment brings items of new categories: phase 2 learns their codes bit by
    bit and goes on training both networks against old and new codes. See docs/victims/dlcmh.md.

    classes, text, text_size, database_rows, increments: from the data; for `text` see
        docs/victims/text_encoders.md
    similarity: how labels are compared: by their cosine, or as 1 where they share one (ablation)

    Deviations of every preset:
    - phase 2 has both pair terms, the quantisation over Ω(i) and the balance term squared
    - where image and text disagree on a fused bit, the sum of the real outputs decides
    - the codes frozen after phase 1 come from F, G and H computed once more from clean inputs
    - new codes of both modalities start from one code, not from two unrelated ones
    - no ImageNet weights, unless `pretrained` with a backbone of timm
    Deviations of the defaults only:
    - small networks, dropout, augmentation, unit-length text, AdamW, other weights,
      and a fixed share of the sample is new
    """

    default_dataset = "openmoji"
    reads = Reads((frozenset({"image", "text"}),))
    default_database = "fused"

    seen: Tensor  # (C,) bool: the categories learnt so far

    def __init__(
        self,
        *,
        classes: int,
        text_size: int,
        database_rows: int,
        increments: tuple[tuple[str, ...], ...] = (),
        text: TextKind = "words",
        bits: int = 32,
        similarity: Similarity = "cosine",
        backbone: str = SMALL,
        pretrained: bool = False,
        freeze_backbone: bool = False,
        image_size: int = 32,
        width: int = 512,
        dropout: float = 0.3,
        word_dropout: float = 0.2,
        normalise_text: bool = True,
        epochs: int = 30,
        batch_size: int = 64,
        optimiser: Optimiser = "adamw",
        decay: Decay = "cosine",
        learning_rate: float = 2e-3,
        weight_decay: float = 1e-4,
        own_weight: float = 0.3,
        text_weight: float = 1.0,
        quantisation_weight: float = 0.03,
        increment_epochs: int = 12,
        increment_optimiser: Optimiser = "adamw",
        increment_decay: Decay = "cosine",
        increment_learning_rate: float = 2e-3,
        samples: int = 512,
        new_share: float = 0.3,
        quantisation_pull: float = 600.0,
        balance_weight: float = 1.0,
        augmentation: bool = True,
    ) -> None:
        super().__init__()
        expect_positive(
            bits=bits,
            width=width,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            increment_epochs=increment_epochs,
            increment_learning_rate=increment_learning_rate,
            samples=samples,
        )
        if not 0 <= new_share <= 1:
            raise ValueError(f"expected new_share between 0 and 1, got {new_share}")
        check_frozen(freeze_backbone, augmentation)
        self.classes = classes
        self.text_size = text_size
        self.database_rows = database_rows
        self.increments = increments
        self.text: TextKind = text
        self.bits = bits
        self.similarity: Similarity = similarity
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
        self.own_weight = own_weight  # η
        self.text_weight = text_weight  # γ
        self.quantisation_weight = quantisation_weight  # μ
        self.increment_epochs = increment_epochs
        self.increment_optimiser: Optimiser = increment_optimiser
        self.increment_decay: Decay = increment_decay
        self.increment_learning_rate = increment_learning_rate
        self.samples = samples  # m
        self.new_share = new_share
        self.quantisation_pull = quantisation_pull  # α
        self.balance_weight = balance_weight  # β
        self.augmentation = augmentation
        self.bounds = {"image": (0.0, 1.0), "text": text_bounds(text, text_size)}
        self.history = []
        self._build()

    def _build(self) -> None:
        """New networks and an empty database."""
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
        self.label_network = nn.Sequential(
            nn.Linear(self.classes, self.width),
            nn.ReLU(),
            nn.Dropout(self.dropout),
            code_layer(self.width, self.bits),
        )
        self.stored = FrozenCodes(self.database_rows, self.bits, self.directions)
        self.register_buffer("seen", torch.zeros(self.classes, dtype=torch.bool))

    @classmethod
    def data_arguments(cls, data: Dataset) -> dict[str, object]:
        return {
            **text_arguments(data, "dlcmh"),
            "classes": len(data.classes),
            "database_rows": len(data.database),
            "increments": data.increments,
        }

    def compare(self, first: Tensor, second: Tensor) -> Tensor:
        """S (A,B) in [0,1] of multi-hot labels (A,C) and (B,C)."""
        binary = self.similarity == "binary"
        return (shared_label if binary else cosine_label_similarity)(first, second)

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        codes: Tensor = self.get_submodule(f"{modality}_network")(inputs)
        return codes

    @property
    def directions(self) -> tuple[str, ...]:
        return ("fused", *self.bounds)

    def database_codes(self, data: Dataset, database: str) -> HashCodes:
        """The stored codes where `data` is what this victim learnt; else hashed anew.

        Rows that no increment has brought yet are hashed anew too.
        """
        if database not in self.directions:
            raise UsageError(
                f"expected a direction of the victim ({', '.join(self.directions)}), "
                f"got {database!r}"
            )
        if not self.stored.match(data.fingerprint()):
            return self.rehashed_codes(data, database)
        codes = self.stored.codes(database)
        late = ~self.stored.frozen.cpu()
        if bool(late.any()):
            outputs = network_outputs(self, data.database.take(late.nonzero()[:, 0]))
            codes.words[late.numpy()] = HashCodes.from_relaxed(table_codes(outputs)[database]).words
        return codes

    def rehashed_codes(self, data: Dataset, database: str) -> HashCodes:
        return HashCodes.from_relaxed(table_codes(network_outputs(self, data.database))[database])

    def stored_rows(self, data: Dataset) -> Tensor:
        if not self.stored.match(data.fingerprint()):
            return super().stored_rows(data)
        return self.stored.frozen.cpu()

    def _rows(self, data: Dataset, rows: Tensor) -> Split:
        """Database rows (R,) in memory, as the image network takes them."""
        return frozen_features(self.image_network[0], data.database.take(rows), self.device)

    def _freeze(
        self, items: Split, arrived: Tensor, places: Tensor, learnt: Mapping[Modality, Tensor]
    ) -> None:
        """Store the codes of `items`, the database rows `arrived` (R,), for good.

        Those at `places` (T,) get the ±1 codes (T,K) that were `learnt` for them, the others those
        of the networks.
        """
        outputs = network_outputs(self, items)
        codes = {modality: sign(values) for modality, values in outputs.items()}
        for modality, values in learnt.items():
            codes[modality][places] = values.cpu()
        self.stored.freeze(arrived, table_codes(outputs, codes))

    def fit(self, data: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """Phase 1 on the original items, then one increment for each entry of `increments`.

        Starts from new random weights. Same data, settings and seed: same weights and codes.
        """
        phases = [_ORIGINAL, *(_increment(n + 1) for n in range(len(self.increments)))]
        first = self.training_state.resume(self, phases)
        if first == 0:
            self.fit_original(data, seed=seed, progress=progress)
        for number, new_classes in enumerate(self.increments, start=1):
            if number >= first:
                self.increment(data, new_classes, seed=seed + number, progress=progress)
        return self

    def fit_original(self, data: Dataset, *, seed: int, progress: Progress = silent) -> None:
        """Phase 1: new weights, learnt on the items without a category of `increments`."""
        late = [name for new_classes in self.increments for name in new_classes]
        with seeded(seed):
            device = self.device
            self._build()
            self.to(device)
            self.history = []
            self.stored.belong_to(data.fingerprint())
            self.seen |= ~columns(data, late).to(device)
            arrived, trained = arrivals(data, self.seen, self.stored.frozen)
            items, places = self._rows(data, arrived), torch.searchsorted(arrived, trained)
            learnt = learn_original(
                self,
                items.take(places),
                torch.Generator().manual_seed(seed),
                Phase(_ORIGINAL, self, progress),
            )
            self._freeze(items, arrived, places, learnt)

    def increment(
        self,
        data: Dataset,
        new_classes: tuple[str, ...],
        *,
        seed: int = 0,
        progress: Progress = silent,
    ) -> None:
        """Phase 2: learn the items of new categories; no code stored before changes.

        Items that also carry a category still unknown wait for a later increment.
        """
        if not self.stored.match(data.fingerprint()):
            raise UsageError("expected the data that phase 1 was fitted on, got other data")
        seen = self.seen | columns(data, new_classes).to(self.device)
        arrived, trained = arrivals(data, seen, self.stored.frozen)
        self.seen.copy_(seen)
        known = data.train_rows[self.stored.frozen.cpu()[data.train_rows]]
        number = len({row["phase"] for row in self.history} | {_ORIGINAL})
        generator = torch.Generator().manual_seed(seed)
        sample = draw_sample(len(known), len(trained), self.samples, self.new_share, generator)
        drawn = known[sample[sample < len(known)]]
        with seeded(seed):
            items, places = self._rows(data, arrived), torch.searchsorted(arrived, trained)
            learnt = learn_increment(
                self,
                old=self._rows(data, drawn),
                new=items.take(places),
                labels=data.database.labels[torch.cat([known, trained])],
                known={modality: self.stored.signs(modality, known) for modality in self.bounds},
                sample=sample,
                generator=generator,
                phase=Phase(_increment(number), self, progress),
            )
            self._freeze(items, arrived, places, learnt)


def _increment(number: int) -> str:
    """The name of an increment's phase, the first being 1."""
    return f"increment {number}"
