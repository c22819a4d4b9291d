"""Victims that stand in front of another one: what is hashed is not the picture as it came."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from typing import Self, final

import torch
from torch import Tensor

from advhash.codes.packed import HashCodes
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset, Modality
from advhash.errors import UsageError
from advhash.victims.base import HashVictim
from advhash.victims.cross_modal.base import network_codes
from advhash.victims.perceptual.resampling import straight_through


class Wrapped(HashVictim):
    """`victim`, whose pictures are hashed by `hash_images`; other modalities pass as they are.

    Bits, bounds and directions are the victim's. The database is hashed as queries are, except for
    rows whose codes a lifelong victim has stored: those are served as they are.

    Raises UsageError: the victim hashes no images.
    """

    def __init__(self, victim: HashVictim) -> None:
        super().__init__()
        if "image" not in victim.bounds:
            raise UsageError(
                f"{type(self).__name__} changes images: expected a victim of images, got one of "
                f"{', '.join(victim.bounds)}"
            )
        self.victim = victim
        self.bits, self.bounds, self.history = victim.bits, victim.bounds, victim.history
        self.differentiable, self.no_gradient = victim.differentiable, victim.no_gradient
        self.default_database = victim.default_database

    @abstractmethod
    def hash_images(self, images: Tensor) -> Tensor:
        """(B,K) real codes of (B,3,H,W) images in [0,1]; the gradient is the attacker's."""

    @final
    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        if self.is_image(modality):
            return self.hash_images(inputs)
        return self.victim.relax(inputs, modality)

    def is_image(self, modality: Modality) -> bool:
        return self.victim.is_image(modality)

    @property
    def directions(self) -> tuple[str, ...]:
        return self.victim.directions

    def stored_rows(self, data: Dataset) -> Tensor:
        return self.victim.stored_rows(data)

    def rehashed_codes(self, data: Dataset, database: str) -> HashCodes:
        self.check_direction(database)
        if database in self.bounds:
            return self.encode_split(data.database, database)
        return network_codes(self, data.database)[database]

    def database_codes(self, data: Dataset, database: str) -> HashCodes:
        stored = self.stored_rows(data).numpy()
        if stored.all():
            return self.victim.database_codes(data, database)
        codes = self.rehashed_codes(data, database)
        if stored.any():
            codes.words[stored] = self.victim.database_codes(data, database).words[stored]
        return codes

    def fit(self, data: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """The victim is trained already."""
        return self


class Voted(Wrapped):
    """The code of a picture is the bitwise majority of the codes of its views.

    A bit is 1 iff more than half of the views have it: with an even number, a tie gives 0. The
    views are the same at every call, so the code of a picture depends on no other picture.

    `relax` is the mean over the views of sign u (+1 iff u > 0, else −1), u the victim's real code.
    Its gradient is that of the mean of u/(1+|u|), which, unlike tanh, does not underflow where a
    code is far from 0: a vanishing gradient would look like robustness.
    """

    @abstractmethod
    def views(self, images: Tensor) -> Iterator[Tensor]:
        """(B,3,H,W) versions of the images, in the bounds, differentiable; the same each call."""

    @final
    def hash_images(self, images: Tensor) -> Tensor:
        hard, soft = [], []
        for view in self.views(images):
            real = self.victim.relax(view, "image")
            hard.append(torch.where(real > 0, 1.0, -1.0))
            soft.append(real / (1 + real.abs()))
        return straight_through(torch.stack(hard).mean(dim=0), torch.stack(soft).mean(dim=0))
