"""The stages of a reconstruction run that cost something: its cells."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.attacks.inversion.code_inversion import CodeInversion
from advhash.attacks.inversion.decoders import decode, fit_decoder, observe
from advhash.compute.progress import Progress
from advhash.data.dataset import Dataset, Split
from advhash.errors import UsageError
from advhash.experiments.attack.perturb import choose_queries
from advhash.experiments.experiment import Place
from advhash.experiments.invert.config import InvertConfig
from advhash.experiments.invert.figures import correct
from advhash.experiments.invert.transcripts import attack_transcript
from advhash.experiments.prepare.code_key import code_version
from advhash.experiments.prepare.planned import PlannedVictim
from advhash.experiments.prepare.seeds import derive_seed
from advhash.experiments.prepare.trained import Trained
from advhash.measures.reconstruction import pixel_distances, reidentified
from advhash.registry import INVERSIONS
from advhash.storage.cache import content_key
from advhash.storage.cells import Result
from advhash.victims.federated.hashvfl import HashVFL

Floats = npt.NDArray[np.float64]
Loss = Literal["mse", "ssim"]
CODE = ("experiments.attack", "experiments.detect", "experiments.invert")
SAMPLES = 400  # attacked inputs at most, unless --queries says otherwise


@dataclass(frozen=True)
class Samples:
    """What is attacked, and what the attacker has.

    rows: (N,) of the query split, which are `attacked`
    """

    rows: Tensor
    attacked: Split
    auxiliary: Split

    @classmethod
    def of(cls, config: InvertConfig, data: Dataset) -> Samples:
        count = config.protocol.queries or SAMPLES
        rows = choose_queries(data.query, count, derive_seed(config.seed, "queries"))
        auxiliary = auxiliary_rows(data, config.attack.settings["auxiliary"])
        return cls(rows, data.query.take(rows), auxiliary)


def auxiliary_rows(data: Dataset, which: str) -> Split:
    """Inputs that the attacker of the query split has. Raises UsageError: none."""
    if which == "database":
        return data.database
    rows = np.setdiff1d(np.arange(len(data.database)), data.train_rows.numpy())
    if not len(rows):
        raise UsageError(
            f"attack.auxiliary: all rows of {data.name!r} are trained on: expected database"
        )
    return data.database.take(rows)


@dataclass(frozen=True, kw_only=True)
class Stage(ABC):
    """A stage with all that determines its figures.

    config:  with every default written out
    victims: names the victim and its undefended twin, see `PlannedVictim.identity`
    """

    config: InvertConfig
    victims: Mapping[str, Any]
    threads: int

    @property
    def key(self) -> str:
        attack, protocol = self.config.attack, self.config.protocol
        return content_key(
            {
                "stage": [type(self).__name__, *self.own],
                "victims": self.victims,
                "attack": [attack.name, attack.settings, INVERSIONS[attack.name].digest],
                "party": protocol.query_modality,
                "queries": protocol.queries,
                "seed": self.config.seed,
                "threads": self.threads,
                "code": code_version(*CODE),
            }
        )

    @property
    @abstractmethod
    def own(self) -> list[Any]:
        """What tells it from other stages of its class, for the key."""

    @abstractmethod
    def compute(self, place: Place) -> Result:
        """Its figures; the parts are "victim" and "twin", the undefended one."""


@dataclass(frozen=True, kw_only=True)
class World(Stage):
    """What every attacker makes of the samples in one world.

    Tensors `found/ATTACKER` (N, …); of the codes also `matched` (N,): see `matching`.
    """

    name: str

    @property
    def own(self) -> list[Any]:
        return [self.name]

    def compute(self, place: Place) -> Result:
        trained: Trained = place.part("twin" if self.name == "undefended" else "victim")
        victim, data, config = trained.victim, trained.data, self.config
        assert isinstance(victim, HashVFL)
        party, settings = config.protocol.query_modality, config.attack.settings
        samples = Samples.of(config, data)
        method, drawn = reconstruct(
            victim,
            settings,
            "codes" if self.name == "codes" else "embeddings",
            samples.auxiliary,
            data.validation,
            samples.attacked,
            party,
            derive_seed(config.seed, "attack"),
            place.progress,
        )
        tensors = {f"found/{name}": inputs for name, inputs in drawn.items()}
        merits = [
            [name, None if np.isnan(merit) else merit] for name, merit in method.merits.items()
        ]
        document: dict[str, Any] = {"merits": merits, "chosen": method.chosen}
        if self.name == "codes":
            draw = derive_seed(config.seed, "candidates")
            matched, document["favoured"] = matching(
                victim, method, data, samples.rows, party, settings, draw
            )
            tensors["matched"] = torch.from_numpy(matched)
        return Result(document, tensors)


@dataclass(frozen=True, kw_only=True)
class ClassDecoder(Stage):
    """What a decoder that is told the class code alone makes of the samples: `found` (N, …)."""

    loss: Loss

    @property
    def own(self) -> list[Any]:
        return [self.loss]

    def compute(self, place: Place) -> Result:
        trained: Trained = place.part("victim")
        victim, data, config = trained.victim, trained.data, self.config
        assert isinstance(victim, HashVFL)
        samples = Samples.of(config, data)
        drawn = class_decoder(
            victim,
            data,
            samples.auxiliary,
            samples.attacked.labels.argmax(dim=1),
            config.protocol.query_modality,
            config.attack.settings,
            config.seed,
            place.progress,
            loss=self.loss,
        )
        return Result({}, {"found": drawn})


@dataclass(frozen=True, kw_only=True)
class TranscriptAttack(Stage):
    """What the messages of the training give away; `label_from_gradients` (n,) of 0/1."""

    @property
    def own(self) -> list[Any]:
        return []

    def compute(self, place: Place) -> Result:
        figures, labels = attack_transcript(place.part("victim"), self.config, place.progress)
        return Result(
            figures.model_dump(mode="json"), {"label_from_gradients": torch.from_numpy(labels)}
        )


@dataclass(frozen=True, kw_only=True)
class Sweep(Stage):
    """Whether victims of other K and P are right on each query: `right`, `right_undefended` (N,).

    planned: the victim, and its twin without a defence
    """

    bits: int
    parties: int
    planned: tuple[PlannedVictim, PlannedVictim]
    identities: tuple[Mapping[str, Any], Mapping[str, Any]]

    @property
    def own(self) -> list[Any]:
        return [self.bits, self.parties, *self.identities]

    def compute(self, place: Place) -> Result:
        columns = []
        for planned in self.planned:
            trained = planned.build(place)
            assert isinstance(trained.victim, HashVFL)
            right = correct(trained.victim, trained.data.query, self.config.seed)
            columns.append(torch.from_numpy(right))
        return Result({}, dict(zip(("right", "right_undefended"), columns, strict=True)))


def reconstruct(
    victim: HashVFL,
    settings: Mapping[str, Any],
    observed: str,
    auxiliary: Split,
    validation: Split,
    attacked: Split,
    party: str,
    seed: int,
    progress: Progress,
) -> tuple[CodeInversion, dict[str, Tensor]]:
    """All attackers, fitted, and what each makes of the attacked inputs (N, …)."""
    method: CodeInversion = INVERSIONS.create("code-inversion", {**settings, "observed": observed})
    method.fit(victim, auxiliary, validation, party, seed=seed, progress=progress)
    sent = observe(victim, attacked, party, method.observed, seed=derive_seed(seed, "attacked"))
    drawn = {
        name: member.reconstruct(victim, sent, party, seed=seed)
        for name, member in method.members.items()
    }
    return method, drawn


def matching(
    victim: HashVFL,
    method: CodeInversion,
    data: Dataset,
    rows: Tensor,
    party: str,
    settings: Mapping[str, Any],
    seed: int,
) -> tuple[Floats, str]:
    """Re-identification without a picture: the candidate whose own code is nearest.

    rows: of the query split, which are attacked; candidates are drawn from the whole split, so that
          chance does not hang on how many are attacked

    Also says which of the two ways the validation rows favour: "matching" or "picture".
    """

    def hits(split: Split, truth: Tensor, pictures: Tensor | None) -> Floats:
        inputs = split.rows(torch.arange(len(split))).inputs[party]
        if pictures is None:
            sent = observe(victim, split, party, "codes", seed=seed)[truth]
            exact = torch.from_numpy(victim.encode(inputs, party).signs())
            far = torch.cdist(sent.double(), exact.double()).round(decimals=6)
        else:
            far = pixel_distances(pictures, inputs)
        return reidentified(
            far, truth, split.labels.argmax(dim=1), candidates=int(settings["candidates"]),
            seed=seed,
        )[0]  # fmt: skip

    held = observe(victim, data.validation, party, "codes", seed=seed)
    drawn = method.reconstruct(victim, held, party, seed=seed)
    every = torch.arange(len(data.validation))
    by_code, by_picture = (
        hits(data.validation, every, pictures).mean() for pictures in (None, drawn)
    )
    return hits(data.query, rows, None), "matching" if by_code > by_picture else "picture"


def class_decoder(
    victim: HashVFL,
    data: Dataset,
    auxiliary: Split,
    labels: Tensor,
    party: str,
    settings: Mapping[str, Any],
    seed: int,
    progress: Progress,
    *,
    loss: Loss = "mse",
) -> Tensor:
    """(N, …) by a decoder that is told the class code alone: what training by itself adds."""
    table = victim.class_codes.cpu()

    def pairs(split: Split) -> tuple[Tensor, Tensor]:
        inputs = split.rows(torch.arange(len(split))).inputs[party]
        return table[split.labels.argmax(dim=1)], inputs

    network = fit_decoder(
        *pairs(auxiliary), *pairs(data.validation), hidden=256,
        epochs=int(settings["decoder_epochs"]), seed=derive_seed(seed, "attack"), progress=progress,
        loss=loss,
    )  # fmt: skip
    return decode(network, table[labels]).clamp(*victim.bounds[party])
