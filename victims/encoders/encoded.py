"""An encoder of somebody else and a quantiser, as a victim: `--victim timm:NAME`, `hf:FOLDER`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset, Modality, Split
from advhash.errors import ConfigError, DataError
from advhash.measures.sanity import Flag
from advhash.registry import QUANTISERS, VICTIMS
from advhash.victims.base import HashVictim
from advhash.victims.encoders.quantisers import Cut, Quantiser
from advhash.victims.encoders.sources import describe, open_encoder
from advhash.victims.image.pairwise import check_images


class _Fitted(HashVictim):
    """The buffers of what is learnt."""

    centre: Tensor
    projection: Tensor
    one_sided: Tensor


@VICTIMS.register("encoder", source="the encoder's own; its bits by `victim.quantise`")
@dataclass(kw_only=True, eq=False, repr=False)
class Encoded(_Fitted):
    """`timm:NAME`, `hf:FOLDER`: features of somebody else's network, cut to bits.

    Only the cut is learnt, from training rows. Pictures are resized, cropped and normalised
    inside, as the encoder was made for, so that attacks move the picture as it is stored.

    encoder:    `timm:NAME`, or `hf:` and a folder or id of transformers
    quantise:   sign, mean, median, itq, lsh or pca-sign
    bits:       K; by default one a feature
    dimensions: how many of the first features are used; by default all
    pretrained: with the encoder's weights; a checkpoint has its own
    online:     whether the encoder may be fetched from the network
    description: what its files say, see `describe`; it follows from them
    """

    encoder: str
    quantise: str = "mean"
    bits: int | None = None  # type: ignore[assignment]
    dimensions: int | None = None
    pretrained: bool = True
    online: bool = False
    description: str = ""
    settings_decide: ClassVar[bool] = True  # over the preprocessing, which no weight tells
    from_files: ClassVar[frozenset[str]] = frozenset({"description"})

    def __post_init__(self) -> None:
        super().__init__()
        self.bounds = {"image": (0.0, 1.0)}
        self.history = []
        self._quantiser: Quantiser = QUANTISERS.create(self.quantise)
        source = open_encoder(
            self.encoder,
            pretrained=self.pretrained,
            online=self.online,
            description=self.description,
        )
        self._features, self._preprocessing = source.features, source.preprocessing
        self.all_dimensions = source.dimensions
        used = source.dimensions if self.dimensions is None else self.dimensions
        if not 1 <= used <= source.dimensions:
            raise ConfigError(
                f"{self.encoder} has {source.dimensions} features: expected dimensions from 1 to "
                f"that, got {used}"
            )
        self.used, self.bits = used, used if self.bits is None else self.bits
        if self.bits < 1:
            raise ConfigError(f"expected bits above 0, got {self.bits}")
        self._quantiser.check(used, self.bits)
        self.network = source.network.requires_grad_(False).eval()
        self.register_buffer("centre", torch.zeros(used))
        width = self.bits if self._quantiser.projects else 0
        self.register_buffer("projection", torch.zeros(used, width))
        self.register_buffer("one_sided", torch.tensor(False))

    @classmethod
    def data_arguments(cls, data: Dataset) -> dict[str, object]:
        check_images(data)
        return {}

    @classmethod
    def picture_side(cls, settings: Mapping[str, object]) -> int | None:
        if "encoder" not in settings:  # refused with the other settings
            return None
        name, online = str(settings["encoder"]), settings.get("online") is True
        return open_encoder(name, pretrained=False, online=online).preprocessing.crop

    @classmethod
    def source_arguments(cls, settings: Mapping[str, object]) -> dict[str, object]:
        name, pretrained = str(settings["encoder"]), settings["pretrained"] is True
        said = describe(name, pretrained=pretrained, online=settings["online"] is True)
        return {"description": said}

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def features(self, inputs: Tensor) -> Tensor:
        """(B,D) the encoder's features of (B,3,H,W) pictures in [0,1], before the cut."""
        values = self._features(self.network, self._preprocessing(inputs))
        return values[:, : self.used].float()

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        projection = self.projection if self._quantiser.projects else None
        return Cut(self.centre, projection)(self.features(inputs))

    def fit(self, data: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """Learn the cut from the features of the training rows.

        Raises DataError where these are not finite, or where none differs from another.
        """
        check_images(data)
        rows = self.split_features(data.train, progress)
        if not bool(rows.isfinite().all()):
            raise DataError(f"{self.encoder}: expected finite features, got NaN or infinity")
        if bool((rows == rows[0]).all()):
            raise DataError(f"{self.encoder}: expected features that differ, got the same for all")
        assert self.bits is not None  # since the constructor
        cut = self._quantiser.fit(rows, self.bits, torch.Generator().manual_seed(seed))
        self.centre.copy_(cut.centre)
        if cut.projection is not None:
            self.projection.copy_(cut.projection)
        self.one_sided.fill_(bool((rows >= 0).all()))
        return self

    def split_features(self, split: Split, progress: Progress = silent) -> Tensor:
        """(N,D) features of all rows of a split, on the CPU."""
        parts = []
        with torch.no_grad():
            for batch in split.batches(64):
                parts.append(self.features(batch.inputs["image"].to(self.device)).cpu())
                progress("features", sum(map(len, parts)), len(split))
        return torch.cat(parts)

    def flags(self) -> list[Flag]:
        flags = []
        if bool(self.one_sided) and not self.projection.numel() and not bool(self.centre.any()):
            flags.append(
                Flag(
                    "one_sided",
                    "warning",
                    "No feature of the training rows is below 0, as after a ReLU: their signs say "
                    "only which are exactly 0; use quantise=mean.",
                )
            )
        if self.used < self.all_dimensions:
            flags.append(
                Flag(
                    "cut_dimensions",
                    "warning",
                    f"Only the first {self.used} of {self.all_dimensions} features are used: "
                    "unless the model was trained for that (Matryoshka), they are as good as any "
                    "others.",
                )
            )
        return flags
