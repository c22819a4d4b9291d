"""Defences that go on training a victim: what they share."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from advhash.attacks.base import AttackData
from advhash.data.dataset import Batch, Modality, Split
from advhash.defenses.base import Hardening
from advhash.errors import UsageError
from advhash.victims.base import HashVictim, expect_positive
from advhash.victims.federated.hashvfl import HashVFL
from advhash.victims.image.pairwise import ImageHashing
from advhash.victims.objectives import quantisation
from advhash.victims.training.descent import Descent, augment


@dataclass(kw_only=True, eq=False, repr=False)
class Continued(Hardening):
    """Goes on training a victim on its own training rows, changed in some way.

    epochs, batch_size, learning_rate, weight_decay: AdamW with cosine decay
    augmentation: whether images are lightly augmented before they are changed

    L_clean is the objective of an image hash itself. A victim that learns codes along with its
    networks, or with others, keeps them: L_clean pulls tanh u to the code that the row has in the
    database (of a federation, to its class code), so codes that a lifelong victim froze stay right.
    Weights that the victim keeps frozen stay frozen.
    """

    epochs: int = 20
    batch_size: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    augmentation: bool = True

    def __post_init__(self) -> None:
        expect_positive(
            epochs=self.epochs, batch_size=self.batch_size, learning_rate=self.learning_rate
        )

    def check(self, victim: HashVictim) -> None:
        """Raise UsageError: no pictures, no weights to train."""
        if not any(victim.is_image(modality) for modality in victim.bounds):
            raise UsageError(
                f"--defense: expected a victim of images, got one of {', '.join(victim.bounds)}"
            )
        if not any(value.requires_grad for value in victim.parameters()):
            raise UsageError(
                f"this defence needs weights to train: {type(victim).__name__} has none"
            )

    def copied(self, victim: HashVictim, modality: Modality) -> HashVictim:
        """A copy in training mode that keeps the state of the training. Raises UsageError."""
        self.check(victim)
        if not victim.is_image(modality):
            raise UsageError(
                f"this defence moves images: expected a victim of images, got {modality!r}"
            )
        hardened = copy.deepcopy(victim)
        hardened.training_state = victim.training_state
        return hardened.train()

    def descent(self, victim: HashVictim, rows: int) -> Descent:
        """Over the weights that are not frozen, for so many training rows."""
        return Descent(
            [value for value in victim.parameters() if value.requires_grad],
            epochs=self.epochs,
            steps=-(-rows // self.batch_size),
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
        )

    def clean_batch(
        self, train: Split, rows: Tensor, modality: Modality, generator: torch.Generator
    ) -> Batch:
        """Training rows, perhaps augmented, on the 8-bit grid."""
        batch = train.rows(rows)
        images = batch.inputs[modality]
        if self.augmentation and images.shape[2] == images.shape[3]:  # a strip stays as it is
            images = (augment(images, generator) * 255).round() / 255
        return Batch({**batch.inputs, modality: images}, batch.labels, batch.index)


def kept_codes(victim: HashVictim, data: AttackData) -> Tensor | None:
    """(N,K) ±1 codes that the training rows keep; None where the victim has its own objective."""
    if isinstance(victim, ImageHashing):
        return None
    known = data.dataset
    if isinstance(victim, HashVFL):
        return victim.class_codes[known.train_labels.long().argmax(dim=1).to(victim.device)]
    if known.training is not None:
        apart = victim.encode_split(known.training, data.modality)
        return torch.from_numpy(apart.signs()).to(victim.device)
    return torch.from_numpy(data.codes.signs())[known.train_rows].to(victim.device)


def clean_loss(victim: HashVictim, relaxed: Tensor, labels: Tensor, kept: Tensor | None) -> Tensor:
    """The victim's objective of real codes (B,K), or mean (tanh u − b)² to the codes b it keeps."""
    if isinstance(victim, ImageHashing):
        return victim.objective(relaxed, labels)
    assert kept is not None
    return quantisation(torch.tanh(relaxed), kept)
