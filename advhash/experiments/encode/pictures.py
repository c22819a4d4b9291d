"""The pictures that every code is measured on: training, test, noise, and moved by an attack."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.attacks.base import AttackData
from advhash.data.dataset import Split
from advhash.data.images.mixed import as_tensor
from advhash.experiments.attack.perturb import attack_queries, choose_queries
from advhash.experiments.attack.record import attack_info, budget_info
from advhash.experiments.config import AttackConfig
from advhash.experiments.encode.config import EncodeConfig
from advhash.experiments.experiment import Place
from advhash.experiments.prepare.fit_attack import fit_attack
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.served import database_codes
from advhash.experiments.prepare.trained import Trained
from advhash.shared_labels import first_labels
from advhash.storage.cells import CellStore, Result

Classes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Sets:
    """The same pictures for every coder: (N,3,H,W) in [0,1], training rows as a split.

    Test, noise and moved pictures are equally many; moved is None without an attack.
    """

    train: Split
    train_classes: Classes
    test: Tensor
    test_classes: Classes
    noise: Tensor
    moved: Tensor | None


@dataclass(frozen=True)
class MovedPictures:
    """The test pictures as the attack moves them: a cell, and a part of all the other cells.

    Tensor `moved` (N,3,H,W); the document tells of the attack and its budget.

    config: with every default written out
    """

    config: AttackConfig
    key: str

    def build(self, place: Place) -> Result:
        store = CellStore("encode", self.key)
        return store.result(lambda: self.compute(place.at(store)))

    def compute(self, place: Place) -> Result:
        trained: Trained = place.part("victim")
        config, database = self.config, str(self.config.protocol.database)
        codes = database_codes(trained, database)
        seen = AttackData(trained.data, codes, database, "image")
        fitted = fit_attack(config, trained, seen, place.progress)
        outcome = attack_queries(place.piece, config, trained, fitted, place.progress)
        info = attack_info(config.attack.name, fitted, outcome)
        budget = budget_info(fitted.budget, eight_bit=config.budget.eight_bit)
        document = {
            "attack": info.model_dump(mode="json"),
            "budget": budget.model_dump(mode="json"),
        }
        return Result(document, {"moved": as_tensor(outcome.moved)})


@dataclass(frozen=True)
class PlannedSets:
    """All pictures; `moved`: whether the part of this name is among them."""

    config: EncodeConfig
    moved: bool

    def build(self, place: Place) -> Sets:
        data, seed = place.part("victim").data, self.config.seed
        rows = choose_queries(data.query, self.config.queries, derive_seed(seed, "queries"))
        batch, train = data.query.rows(rows), data.train
        test = batch.inputs["image"]
        generator = torch.Generator().manual_seed(derive_seed(seed, "noise images"))
        return Sets(
            train=train,
            train_classes=first_labels(train.labels.numpy()),
            test=test,
            test_classes=first_labels(batch.labels.numpy()),
            noise=torch.rand(test.shape, generator=generator),
            moved=place.part("moved").tensors["moved"] if self.moved else None,
        )
