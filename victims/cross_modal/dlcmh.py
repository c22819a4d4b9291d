"""Deep lifelong cross-modal hashing: images and text, categories that arrive one after another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from advhash.codes.packed import HashCodes
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset, Modality, Split
from advhash.errors import UsageError
from advhash.registry import VICTIMS
from advhash.victims.base import expect_positive
from advhash.victims.cross_modal.base import PUBLISHED, network_codes, network_outputs
from advhash.victims.cross_modal.code_table import FrozenCodes, table_codes
from advhash.victims.cross_modal.lifelong_networks import LifelongNetworks
from advhash.victims.cross_modal.phases import (
    arrivals,
    columns,
    draw_sample,
    learn_increment,
    learn_original,
)
from advhash.victims.networks.backbones import PRETRAINED, frozen_features
from advhash.victims.objectives import sign
from advhash.victims.training.descent import seeded
from advhash.victims.training.phase import Phase, resume

PAPER = {
    **PUBLISHED,
    "epochs": 200,
    "learning_rate": 1e-3,
    "own_weight": 10.0,
    "text_weight": 10.0,
    "increment_epochs": 200,
    "increment_optimiser": "adam",
    "increment_decay": "exponential",
    "increment_learning_rate": 1e-7,
    "samples": 2000,
    "new_share": 0.0,
    "quantisation_pull": 10.0,
}
_ORIGINAL = "original"  # the name of phase 1
SOURCE = "Xu et al., IEEE TCSVT 2024 (arXiv 2304.13357)"


@VICTIMS.register("dlcmh", source=SOURCE, presets={"paper": PAPER, "pretrained": PRETRAINED})
@dataclass(kw_only=True, eq=False, repr=False)
class DLCMH(LifelongNetworks):
    """Deep lifelong cross-modal hashing (DLCMH): the codes of old items stay as they are.

    Phase 1 learns an image, a text and a label network on the original items; then their codes
    are frozen. Each increment brings items of new categories: phase 2 learns their codes bit by
    bit and goes on training both networks against old and new codes. See docs/victims/dlcmh.md.

    database_rows, increments: from the data
    samples:   m, the items that an increment is trained on
    new_share: the least share of them that is new, as far as there are enough

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

    database_rows: int
    increments: tuple[tuple[str, ...], ...] = ()
    samples: int = 512
    new_share: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_positive(samples=self.samples)
        if not 0 <= self.new_share <= 1:
            raise ValueError(f"expected new_share between 0 and 1, got {self.new_share}")

    def _build(self) -> None:
        """New networks and an empty database."""
        super()._build()
        self.stored = FrozenCodes(self.database_rows, self.bits, self.directions)
        self.seen: Tensor  # (C,) bool: the categories learnt so far
        self.register_buffer("seen", torch.zeros(self.classes, dtype=torch.bool))

    @classmethod
    def data_arguments(cls, data: Dataset) -> dict[str, object]:
        return {
            **super().data_arguments(data),
            "classes": data.class_count("dlcmh"),
            "database_rows": len(data.database),
            "increments": data.increments,
        }

    def database_codes(self, data: Dataset, database: str) -> HashCodes:
        """The stored codes where `data` is what this victim learnt; else hashed anew.

        Rows that no increment has brought yet are hashed anew too.
        """
        self.check_direction(database)
        if not self.stored.match(data.fingerprint()):
            return self.rehashed_codes(data, database)
        codes = self.stored.codes(database)
        late = ~self.stored.frozen.cpu()
        if bool(late.any()):
            items = data.database.take(late.nonzero()[:, 0])
            codes.words[late.numpy()] = network_codes(self, items)[database].words
        return codes

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
        first = resume(self, phases)
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
            self.begin()
            self.stored.belong_to(data.fingerprint())
            self.seen |= ~columns(data, late).to(self.device)
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
