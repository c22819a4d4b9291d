"""A network of somebody else whose last layer gives the bits; it comes with its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset, Modality
from advhash.errors import UsageError
from advhash.registry import VICTIMS
from advhash.victims.base import HashVictim, expect_positive
from advhash.victims.image.pairwise import check_images
from advhash.victims.networks.classifiers import build_classifier

MOST_SCALE = 1e6  # of what is left of float32 beyond it, no gradient is


@VICTIMS.register("hash-layer", source="weights of others, by `advhash import`")
@dataclass(kw_only=True, eq=False, repr=False)
class HashLayer(HashVictim):
    """A network of somebody else with a linear hash layer, e.g. AlexNet; it learns nothing here.

    `relax` gives β·z, z being the outputs of the hash layer: published code says tanh(β·z) of it,
    whose signs are the same. See docs/import.md.

    bits:         K
    architecture: "alexnet", "vgg11" … "vgg19_bn", "densenet161", "torchvision:NAME", "timm:NAME"
    hidden:       widths of the fully connected layers of AlexNet and VGG; none for others
    normalise:    what is done to pixels first: "imagenet", "half" (mean and deviation 0.5), "none"
    image_size:   pixels, from the data
    scale:        β
    """

    settings_decide: ClassVar[bool] = True

    bits: int = 32
    architecture: str = "torchvision:resnet18"
    hidden: tuple[int, ...] = ()
    normalise: str = "imagenet"
    image_size: int = 224
    scale: float = 1.0

    def __post_init__(self) -> None:
        super().__init__()
        expect_positive(bits=self.bits, image_size=self.image_size, scale=self.scale)
        if self.scale > MOST_SCALE:
            raise ValueError(f"expected scale at most {MOST_SCALE:,.0f}, got {self.scale:g}")
        self.bounds = {"image": (0.0, 1.0)}
        self.history = []
        self.network = build_classifier(
            self.architecture,
            bits=self.bits,
            hidden=tuple(self.hidden),
            normalise=self.normalise,
            image_size=self.image_size,
        )

    @classmethod
    def data_arguments(cls, data: Dataset) -> dict[str, object]:
        check_images(data)
        return {"image_size": data.database.tensor("image").shape[-1]}

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        codes: Tensor = self.scale * self.network(inputs)
        return codes

    def fit(self, data: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """Raises UsageError: there is nothing to train it by."""
        raise UsageError(
            "hash-layer comes with weights and is not trained: expected --victim FOLDER of an "
            "imported checkpoint, see `advhash import --help`; dph and others train a backbone"
        )
