"""HashVFL: vertical federated learning in which parties send hash codes instead of embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset, Modality, Split
from advhash.data.parties import party_names, party_view, whole_shape
from advhash.data.paths import Reads
from advhash.registry import VICTIMS
from advhash.victims.base import HashVictim, expect_positive
from advhash.victims.federated.class_codes import class_codes
from advhash.victims.federated.ends import Party, Recipe, Server, derived, laplace, play, schedule
from advhash.victims.federated.wire import Kind, Transcript
from advhash.victims.networks.backbones import build_backbone
from advhash.victims.objectives import sign
from advhash.victims.training.descent import seeded
from advhash.victims.training.phase import Phase
from advhash.victims.training.state import UNSAVED

# What seeds are derived from, beside the numbers of the parties, which count from 0.
NOISE, SERVER, SCHEDULE = 10_000, 20_000, 30_000
LEAST_EPSILON = 1e-4  # noise reaches 32.3/ε: see `laplace` and `wire.LARGEST`
REDRAWS = 10_000  # of random class codes, until all rows differ
PAPER = {"backbone": "resnet18", "batch_size": 256, "learning_rate": 1e-3, "bits": 4}


def straight_through(real: Tensor) -> Tensor:
    """±1 forward, the identity backward: ∂L/∂ṽ = ∂L/∂h (HashVFL; Bengio et al., 2013)."""
    return real - real.detach() + sign(real)  # in this order the code is exactly ±1


class Bottom(nn.Module):
    """A party's model: its part of the features → K real values, normalised over the batch.

    shape: (3,H,w) of a strip or (f,) of a group of features
    backbone: of strips, "small" or any model of timm; tables take Linear-ReLU-Linear
    """

    def __init__(
        self, shape: tuple[int, ...], bits: int, *, backbone: str, width: int, batch_norm: bool
    ) -> None:
        super().__init__()
        self.is_image = len(shape) == 3
        if not self.is_image:
            self.network: nn.Module = nn.Sequential(
                nn.Linear(shape[0], width), nn.ReLU(), nn.Linear(width, bits)
            )
        elif backbone == "small":
            high, wide = (-(-side // 4) for side in shape[1:])
            self.network = nn.Sequential(
                *(nn.Conv2d(3, width // 2, 3, stride=2, padding=1), nn.ReLU()),
                *(nn.Conv2d(width // 2, width, 3, stride=2, padding=1), nn.ReLU()),
                nn.Flatten(),
                nn.Linear(width * high * wide, bits),
            )
        else:
            features = build_backbone(backbone, image_size=shape[1])
            self.network = nn.Sequential(features, nn.Linear(features.features, bits))
        # no learnt shift: it would undo the zero mean, hence the balance
        self.norm: nn.Module = nn.BatchNorm1d(bits, affine=False) if batch_norm else nn.Identity()
        self.centred = self.is_image and backbone == "small"

    def forward(self, inputs: Tensor) -> Tensor:
        """(B,3,H,w) in [0,1] or (B,f) → (B,K) ṽ."""
        real: Tensor = self.norm(self.network(2 * inputs - 1 if self.centred else inputs))
        return real


def new_bottom(settings: Mapping[str, Any], seed: int) -> Bottom:
    """A `Bottom` of these arguments; only the seed determines its weights."""
    with seeded(seed):
        return Bottom(**{**settings, "shape": tuple(settings["shape"])})


@VICTIMS.register(
    "hashvfl",
    source="Qiu et al., IEEE TIFS 19:3435–3450, 2024 (arXiv 2212.00325)",
    presets={"paper": PAPER},
)
@dataclass(kw_only=True, eq=False, repr=False)
class HashVFL(HashVictim):
    """Vertical federated hashing: P parties with disjoint columns send codes to a server.

    A party's bottom model f_p gives v_p, batch normalisation ṽ_p, its sign the code h_p of K bits;
    the server's top model predicts the class from all codes. Minimised is the cross-entropy plus
    λ·(1 − cos(h_p, o_y)) averaged over parties, where o_y is a predefined code of class y, the same
    for all parties. Only codes and their gradients cross the wire (`victims/federated/wire.py`).
    `relax` is the ṽ of one party, a modality "party0" …; `predict` is the joint prediction. See
    docs/victims/hashvfl.md.

    bits, parties: K and P
    shape, classes: (3,H,W) or (F,) before the cut, and C; from the data
    widths:        columns of each party, from data that say so; (): all alike, the first ones more
    protection:    "hash"; "laplace", codes with Laplace(0, 2/ε) noise on every bit; "none", the
                   undefended baseline: real v_p, no batch normalisation, cross-entropy only
    epsilon:       ε a bit and message, for "laplace"; see `privacy`
    batch_norm, consistency_weight, penalty: the ablations; λ, and the weight of GreedyHash's
                   mean |ṽ − h|³
    balanced_codes: False draws the class codes as published: random rows that differ
    min_distance:  between class codes; None is max(1, K/4)
    balanced_loss: weigh classes inversely to their frequency in the cross-entropy
    backbone, width, top_width: of bottoms and top

    Deviations:
    - a bit is 1 iff its real value is > 0; the paper has +1 at 0, its code 0;
    - class codes are balanced over classes and `min_distance` apart; published are random rows
      that differ;
    - batch normalisation has no learnt scale and shift: a shift would undo the zero mean;
    - small convolutional bottoms instead of ResNet-18, and Adam with cosine decay instead of a
      tenth of the rate every 10 epochs with optimisers made anew each epoch;
    - the class of a row is the first of its labels; unbalanced tables are met by weights in the
      loss, not by synthetic rows, which would need all features in one place.
    """

    bits: int = 16
    parties: int = 2
    shape: tuple[int, ...]
    classes: int
    widths: tuple[int, ...] = ()
    protection: Literal["hash", "laplace", "none"] = "hash"
    epsilon: float = 1.0
    batch_norm: bool = True
    consistency_weight: float = 1.0
    penalty: float = 0.0
    balanced_codes: bool = True
    min_distance: int | None = None
    balanced_loss: bool = False
    backbone: str = "small"
    width: int = 32
    top_width: int = 16
    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 3e-3
    weight_decay: float = 5e-4

    default_dataset: ClassVar[str] = "digits"
    reads: ClassVar[Reads] = Reads(tuple(frozenset({name}) for name in ("table", "image", "text")))
    default_database = "party0"

    def __post_init__(self) -> None:
        super().__init__()
        expect_positive(
            bits=self.bits,
            parties=self.parties,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            epsilon=self.epsilon,
            width=self.width,
            top_width=self.top_width,
        )
        if min(self.weight_decay, self.consistency_weight, self.penalty) < 0:
            raise ValueError(
                "expected weight_decay, consistency_weight and penalty >= 0, got "
                f"{self.weight_decay:g}, {self.consistency_weight:g}, {self.penalty:g}"
            )
        if self.protection == "laplace" and self.epsilon < LEAST_EPSILON:
            raise ValueError(
                f"expected epsilon >= {LEAST_EPSILON:g} a bit, whose noise the wire still takes, "
                f"got {self.epsilon:g}"
            )
        if self.batch_size < 2:  # a lone row is left out, so every round would be
            raise ValueError("expected batch_size >= 2 for statistics over a batch, got 1")
        if len(self.shape) == 3 and self.backbone == "small" and self.width < 2:
            raise ValueError("expected width >= 2 of the small bottom of images, got 1")
        self.widths = tuple(self.widths)
        if self.widths and (len(self.widths), sum(self.widths)) != (self.parties, self.shape[-1]):
            raise ValueError(
                f"expected widths of {self.parties} parties that add up to {self.shape[-1]} "
                f"columns, got {self.widths}"
            )
        if self.parties > self.shape[-1]:
            raise ValueError(f"expected parties <= {self.shape[-1]} columns, got {self.parties}")
        if self.classes > 2**self.bits:
            raise ValueError(f"expected 2^bits >= {self.classes} classes, got bits={self.bits}")
        self.shape = tuple(self.shape)
        limits = (0.0, 1.0) if len(self.shape) == 3 else (-math.inf, math.inf)
        self.bounds = dict.fromkeys(party_names(self.parties), limits)
        self.history = []
        self.class_codes: Tensor
        self.register_buffer("class_codes", torch.zeros(self.classes, self.bits))
        self.begin(0)

    def begin(self, seed: int) -> None:
        """New weights: each party's, the server's and the class codes have a seed of their own."""
        device = self.class_codes.device
        self.bottoms = nn.ModuleList(
            new_bottom(self.bottom_settings(number), derived(seed, number))
            for number in range(self.parties)
        ).to(device)
        with seeded(derived(seed, SERVER)):
            self.top = nn.Sequential(
                nn.Linear(self.parties * self.bits, self.top_width),
                nn.ReLU(),
                nn.Linear(self.top_width, self.classes),
            ).to(device)
        if device.type != "meta":  # where there are shapes alone
            generator = torch.Generator().manual_seed(derived(seed, SERVER))
            self.class_codes.copy_(self._draw_codes(generator))

    def _draw_codes(self, generator: torch.Generator) -> Tensor:
        if self.balanced_codes:
            least = max(1, self.bits // 4) if self.min_distance is None else self.min_distance
            return class_codes(self.classes, self.bits, min_distance=least, generator=generator)
        for _ in range(REDRAWS):  # as published
            rows = torch.randint(0, 2, (self.classes, self.bits), generator=generator).float()
            if len(rows.unique(dim=0)) == self.classes:
                return 2 * rows - 1
        raise ValueError(
            f"{REDRAWS} draws of {self.classes} random codes of {self.bits} bits all had equal "
            "rows: take more bits, or balanced_codes=true"
        )

    def bottom_settings(self, number: int) -> dict[str, Any]:
        """The arguments of a party's `Bottom`: the first parties get the columns that are left."""
        wide, more = divmod(self.shape[-1], self.parties)
        return {
            "shape": (
                *self.shape[:-1],
                self.widths[number] if self.widths else wide + (number < more),
            ),
            "bits": self.bits,
            "backbone": self.backbone,
            "width": self.width,
            "batch_norm": self.batch_norm and self.protection != "none",
        }

    @classmethod
    def data_arguments(cls, data: Dataset) -> dict[str, object]:
        arguments: dict[str, object] = {
            "shape": whole_shape(data),
            "classes": data.class_count("hashvfl"),
        }
        if data.parties:
            arguments |= {"parties": len(data.parties), "widths": data.parties}
        return arguments

    @classmethod
    def view(cls, data: Dataset, settings: Mapping[str, object]) -> Dataset:
        return party_view(data, int(str(settings["parties"])))

    def query_modality(self, asked: Modality) -> Modality:
        """No party has whole images: "image", which attacks ask for by default, is party 0."""
        return "party0" if asked == "image" else asked

    @property
    def binary(self) -> bool:
        """Whether parties hash what they send."""
        return self.protection != "none"

    def recipe(self) -> Recipe:
        """What parties and server agree on."""
        return Recipe(
            bits=self.bits,
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            kind=Kind.CODES if self.protection == "hash" else Kind.REALS,
            binary=self.binary,
            epsilon=self.epsilon if self.protection == "laplace" else None,
            penalty=self.penalty if self.binary else 0.0,
        )

    def privacy(self) -> dict[str, float]:
        """ε of a whole code sent once, K·ε, and in every epoch, E·K·ε; empty without noise.

        Basic composition over bits and messages; a bit of ±1 changes by 2, hence Laplace(0, 2/ε).
        The batch statistics of normalisation make a code depend on other rows too, which this does
        not count.
        """
        if self.protection != "laplace":
            return {}
        message = self.bits * self.epsilon
        return {"epsilon_message": message, "epsilon_training": message * self.epochs}

    def is_image(self, modality: Modality) -> bool:
        return len(self.shape) == 3

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        """(B,K) ṽ of one party, before the sign."""
        real: Tensor = self.bottoms[int(modality.removeprefix("party"))](inputs)
        return real

    def sent(self, inputs: Mapping[Modality, Tensor], *, seed: int | None = None) -> Tensor:
        """(B,P,K) what the parties send of a batch: ±1, with noise, or real. Keeps the gradient.

        seed: of the noise; without one torch's own generator draws it, anew for each message
        """
        parts = [self.send(inputs[name], name, seed=seed) for name in party_names(self.parties)]
        return torch.stack(parts, dim=1)

    def send(self, inputs: Tensor, modality: Modality, *, seed: int | None = None) -> Tensor:
        """(B,K) what one party sends, see `sent`."""
        real = self.relax(inputs.to(self.device), modality)
        if not self.binary:
            return real
        generator = None
        if seed is not None:
            number = party_names(self.parties).index(modality)
            generator = torch.Generator().manual_seed(derived(seed, number))
        return self.noisy(straight_through(real), generator)

    def noisy(self, codes: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Codes (…,K) as a message carries them: with Laplace noise on every bit, if any is added.

        generator: of the noise; without one torch's own draws it
        """
        if self.protection != "laplace":
            return codes
        return codes + laplace(codes.shape, 2 / self.epsilon, generator).to(codes)

    def decide(self, sent: Tensor) -> Tensor:
        """(B,C) scores of the top model for (B,P,K) what the parties sent."""
        scores: Tensor = self.top(sent.flatten(1))
        return scores

    def predict(self, inputs: Mapping[Modality, Tensor], *, seed: int | None = None) -> Tensor:
        """(B,) the joint prediction: class numbers. seed: of the noise, see `sent`."""
        with torch.no_grad():
            return self.decide(self.sent(inputs, seed=seed)).argmax(dim=1)

    def predict_split(self, split: Split, *, seed: int = 0, batch_size: int = 256) -> Tensor:
        """(N,) the joint prediction of all rows of a split, on the CPU."""
        parts = [
            self.predict(batch.inputs, seed=derived(seed, place)).cpu()
            for place, batch in enumerate(split.batches(batch_size))
        ]
        return torch.cat(parts)

    def fit(
        self,
        data: Dataset,
        *,
        seed: int,
        progress: Progress = silent,
        transcript: Transcript | None = None,
    ) -> Self:
        """Train over the wire, in one process. Same data, settings and seed: same weights.

        data: a view of P parties, or what can be cut into one
        transcript: records every message that crosses; such a training is not resumed, as a
                    transcript of its end alone would say less than it seems to
        """
        data = party_view(data, self.parties)
        self.history = []
        self.begin(seed)
        self.train()
        rounds = self.rounds(data, seed)
        parties, server = self.party_ends(data, rounds, seed), self.server_end(data, rounds)
        each = len(rounds) // self.epochs
        phase = Phase("train", self, progress)
        if transcript is not None:
            phase.state = UNSAVED
        descents = {f"party{party.number}": party.descent for party in parties}
        for epoch in phase.epochs(
            self.epochs,
            descents={**descents, "server": server.descent},
            generator=torch.Generator(),  # the schedule is drawn beforehand
        ):
            done = each * (epoch - 1)
            if server.round < done:  # resumed
                server.round = done
                for party in parties:
                    party.skip(done)
            record = None if transcript is None else transcript.record
            losses = [play(parties, server, record) for _ in range(each)]
            phase.note(loss=sum(losses) / max(each, 1))
        return self.eval()

    def rounds(self, data: Dataset, seed: int) -> list[Tensor]:
        """The public schedule: training rows (of `data.train`) of every round."""
        rows = len(data.train_labels)
        return schedule(rows, self.batch_size, self.epochs, derived(seed, SCHEDULE))

    def party_ends(self, data: Dataset, rounds: list[Tensor], seed: int) -> list[Party]:
        """The parties, each with its own columns of the training rows only."""
        train = data.train
        return [
            Party(
                number,
                bottom,
                train.tensor(name),
                rounds,
                self.recipe(),
                derived(seed, NOISE + number),
            )
            for number, (name, bottom) in enumerate(
                zip(party_names(self.parties), self.bottoms, strict=True)
            )
        ]

    def server_end(self, data: Dataset, rounds: list[Tensor]) -> Server:
        """The server, with the labels of the training rows only."""
        labels = data.train_labels.long().argmax(dim=1)
        weights = None
        if self.balanced_loss:
            counts = torch.bincount(labels, minlength=self.classes).float().clamp_min(1)
            weights = (counts.sum() / (self.classes * counts)).to(self.device)
        return Server(
            self.top,
            self.class_codes,
            labels,
            rounds,
            self.recipe(),
            parties=self.parties,
            consistency_weight=self.consistency_weight if self.binary else 0.0,
            class_weights=weights,
        )
