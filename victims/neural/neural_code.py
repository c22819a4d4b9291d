"""Neural codes: which units of an ordinary classifier fire is a hash code of its input."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advhash.codes.packed import HashCodes
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset, Modality, Split
from advhash.registry import VICTIMS
from advhash.victims.base import HashVictim, expect_positive
from advhash.victims.image.pairwise import check_images
from advhash.victims.networks.backbones import build_backbone
from advhash.victims.neural.activations import Layer, Moments, chosen, layers_of, pattern, recorded
from advhash.victims.training.descent import Descent, augment, random_batches, seeded
from advhash.victims.training.phase import Phase

TINY = 1e-12


class ActivationCode(HashVictim):
    """A victim whose code is the activation pattern of a network: bit = 1 iff a unit fires.

    `relax` gives s·z/σ: what enters the activation, z, over its root mean square σ in the layer
    (over the training rows), times the steepness s. Its sign is the bit, and tanh of it, which
    attacks take, is the steep sigmoid 2/(1 + e^(−2sz/σ)) − 1.

    Bits that are constant over the training rows are dropped, and where more than `most_bits` are
    left, so many are drawn by the seed; `kept` (all units) and `spread` (σ of each layer) are
    buffers, hence in the checkpoint. Before `keep_bits` all units are bits.
    """

    kept: Tensor
    spread: Tensor
    network: nn.Module
    sites: list[Layer]
    layers: str
    steepness: float
    most_bits: int

    def settle(self, image_size: int) -> None:
        """Find the layers of `self.network`. Raises UsageError."""
        expect_positive(steepness=self.steepness, most_bits=self.most_bits)
        training = self.network.training
        self.network.eval()
        grey = torch.zeros(1, 3, image_size, image_size, device=self.device)
        self.sites = chosen(layers_of(self.network, lambda: self.run_network(grey)), self.layers)
        self.network.train(training)
        total = sum(layer.size for layer in self.sites)
        self.register_buffer("kept", torch.ones(total, dtype=torch.bool))
        self.register_buffer("spread", torch.ones(len(self.sites)))
        self.register_load_state_dict_post_hook(_count_after_loading)  # type: ignore[no-untyped-call]
        _count(self)

    def run_network(self, inputs: Tensor) -> Tensor:
        """The network's output; its activations are read on the way."""
        output: Tensor = self.network(inputs)
        return output

    @property
    def units(self) -> list[Tensor]:
        """(k,) for each layer, the units that are bits."""
        parts = self.kept.split([layer.size for layer in self.sites])
        return [part.nonzero()[:, 0] for part in parts]

    @property
    def smooth(self) -> list[str]:
        """Layers of GELU, SiLU and the like: thresholded at 0, where nothing breaks."""
        return [layer.name for layer in self.sites if layer.smooth]

    @property
    def sections(self) -> list[tuple[Layer, slice]]:
        """Each layer and which bits of the code it has."""
        counts = [len(units) for units in self.units]
        ends = [sum(counts[: place + 1]) for place in range(len(counts))]
        return [
            (layer, slice(end - count, end))
            for layer, count, end in zip(self.sites, counts, ends, strict=True)
        ]

    def entering(self, inputs: Tensor) -> list[Tensor]:
        """(B, …) what enters each chosen activation."""
        with recorded(self.network) as outputs:
            self.run_network(inputs)
        return [outputs[layer.name] for layer in self.sites]

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        values = self.entering(inputs)
        scales = self.steepness / self.spread
        return torch.cat(
            [
                layer.flatten(1).index_select(1, units) * scale
                for layer, units, scale in zip(values, self.units, scales, strict=True)
            ],
            dim=1,
        )

    def binarise(self, inputs: Tensor, modality: Modality) -> HashCodes:
        return pattern(self.entering(inputs), self.units)

    def keep_bits(self, train: Split, seed: int) -> None:
        """Drop the bits that are constant over the rows, and measure σ of each layer.

        Where no bit varies all are kept: a collapsed code is flagged, not refused.
        """
        self.eval()
        moments = Moments.over(lambda images: self.entering(images.to(self.device)), train, "image")
        varying = moments.varying
        if not bool(varying.any()):
            varying[:] = True
        units = varying.nonzero()[:, 0]
        if len(units) > self.most_bits:
            order = torch.randperm(len(units), generator=torch.Generator().manual_seed(seed))
            varying[units[order[self.most_bits :]]] = False
        self.kept.copy_(varying)
        self.spread.copy_(torch.tensor(moments.spread).clamp_min(TINY))
        _count(self)


def _count(victim: ActivationCode) -> None:
    # on the meta device, where values are none, all units are bits, as before any training
    victim.bits = victim.kept.numel() if victim.kept.is_meta else int(victim.kept.sum())


def _count_after_loading(victim: nn.Module, _: object) -> None:
    assert isinstance(victim, ActivationCode)
    _count(victim)


@VICTIMS.register(
    "neural-code",
    source="He, Lei, Ji, Tao, 2021 (arXiv 2101.05490)",
    presets={
        "paper": {"width": 100, "epochs": 200},
        "cnn": {"backbone": "cnn", "width": 16, "depth": 3},
    },
)
@dataclass(kw_only=True, eq=False, repr=False)
class NeuralCode(ActivationCode):
    """A classifier trained by cross-entropy; its code is which of its units fire (neural code).

    K follows from the network: the units of the chosen layers that are not constant over the
    training rows, at most `most_bits`. `logits` are the classifier's. See `ActivationCode` and
    docs/victims/neural_code.md.

    classes, image_size: from the data
    backbone:  "mlp", "cnn" or any model of timm, whose weights `pretrained` loads
    width, depth: units of a hidden layer and their number; of "cnn", channels and stages
    layers:    "all", "last" or names, e.g. "2,5" or "*.act1"; `sites` has them all
    most_bits: kept at most; search and metrics need a counter for each distance 0 … K
    steepness: s
    epochs:    0 leaves the network as it is at initialisation
    learning_rate, weight_decay: Adam with L2, the rate falling by 5 % an epoch, so that a training
               of few epochs is the beginning of a longer one

    Deviations:
    - bits are dropped that are constant over the training rows; published are those constant over
      training and test rows together, which lets queries determine the code;
    - the rate falls by 5 % an epoch instead of to a tenth every 20, and training never stops early;
    - a row with m labels has the target 1/m for each of them;
    - gates (sigmoid, tanh) are no layers.
    """

    classes: int
    image_size: int = 32
    backbone: str = "mlp"
    pretrained: bool = False
    width: int = 100
    depth: int = 1
    layers: str = "all"
    most_bits: int = 8192
    steepness: float = 1.0
    epochs: int = 30
    batch_size: int = 64
    learning_rate: float = 1e-2
    weight_decay: float = 1e-6
    augmentation: bool = False

    def __post_init__(self) -> None:
        super().__init__()
        expect_positive(
            classes=self.classes,
            width=self.width,
            depth=self.depth,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
        )
        if self.epochs < 0 or self.weight_decay < 0:
            raise ValueError(
                f"expected epochs and weight_decay of at least 0, got {self.epochs} and "
                f"{self.weight_decay}"
            )
        self.bounds = {"image": (0.0, 1.0)}
        self.history = []
        self.network = self._build()
        self.settle(self.image_size)

    def _build(self) -> nn.Sequential:
        if self.backbone == "mlp":
            size = 3 * self.image_size**2
            body: nn.Module = multilayer(size, self.width, self.depth)
            features = self.width
        elif self.backbone == "cnn":
            body, features = convolutional(self.width, self.depth), self.width << (self.depth - 1)
        else:
            body = build_backbone(
                self.backbone, image_size=self.image_size, pretrained=self.pretrained
            )
            features = body.features
        return nn.Sequential(body, nn.Linear(features, self.classes))

    @classmethod
    def data_arguments(cls, data: Dataset) -> dict[str, object]:
        check_images(data)
        size = data.database.tensor("image").shape[-1]
        return {"classes": data.class_count("neural code"), "image_size": size}

    def logits(self, images: Tensor) -> Tensor:
        """(B,C) of (B,3,H,W) images in [0,1]: softmax of them is the prediction."""
        return self.run_network(images)

    def fit(self, data: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """Train from new weights, then drop constant bits. Same data, settings, seed: same code."""
        for _ in self.learn(data, seed=seed, progress=progress):
            pass
        self.keep_bits(data.train, seed)
        return self

    def learn(self, data: Dataset, *, seed: int, progress: Progress = silent) -> Iterator[int]:
        """Train from new weights; 0 is yielded before, the number of each epoch after it.

        In between the caller may copy the network, not change it. The bits are those of an
        untrained network until `keep_bits`.
        """
        check_images(data)
        train = data.train
        targets = train.labels.float().to(self.device)
        targets /= targets.sum(dim=1, keepdim=True).clamp_min(1)
        generator = torch.Generator().manual_seed(seed)
        with seeded(seed):
            self.network = self._build().to(self.device)
            self.history = []
            descent = Descent(
                self.network.parameters(),
                epochs=self.epochs,
                steps=-(-len(train) // self.batch_size),
                learning_rate=self.learning_rate,
                weight_decay=self.weight_decay,
                optimiser="adam",
                decay="exponential",
            )

            def loss(rows: Tensor) -> Tensor:
                def scores(part: slice) -> Tensor:
                    images = train.rows(rows[part]).inputs["image"]
                    if self.augmentation:
                        images = augment(images, generator, batch=len(rows), part=part)
                    return self.logits(images.to(self.device))

                return F.cross_entropy(descent.outputs(len(rows), scores), targets[rows])

            phase = Phase("train", self, progress)
            yield 0
            for epoch in phase.epochs(self.epochs, descents={"all": descent}, generator=generator):
                self.train()
                batches = random_batches(len(train), self.batch_size, generator)
                phase.note(loss=descent.epoch(batches, loss))
                yield epoch
        self.eval()


class NeuralCodeOf(ActivationCode):
    """The activation pattern of the network inside another victim of images, as it is trained.

    Nothing is trained and nothing registered: `advhash encode` and detectors look through it at
    the same network that made the K-bit code. `fit` drops constant bits.

    victim: a hash with activation modules on the way from image to code
    layers, most_bits, steepness: see `NeuralCode`

    Raises UsageError: a victim without images or without such modules.
    """

    def __init__(
        self,
        victim: HashVictim,
        *,
        image_size: int,
        layers: str = "all",
        most_bits: int = 8192,
        steepness: float = 1.0,
    ) -> None:
        super().__init__()
        victim.check_modality("image")
        self.network = victim
        self.layers, self.most_bits, self.steepness = layers, most_bits, steepness
        self.bounds = {"image": victim.bounds["image"]}
        self.history = []
        self.settle(image_size)
        self.to(victim.device)

    def run_network(self, inputs: Tensor) -> Tensor:
        assert isinstance(self.network, HashVictim)
        return self.network.relax(inputs, "image")

    def fit(self, data: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """Drop the bits that are constant over the training rows."""
        self.keep_bits(data.train, seed)
        return self


def multilayer(size: int, width: int, depth: int) -> nn.Sequential:
    """[linear – batch norm – ReLU] × depth on `size` values in [0,1], each of `width` units."""
    parts: list[nn.Module] = [nn.Flatten()]
    for _ in range(depth):
        parts += [nn.Linear(size, width), nn.BatchNorm1d(width), nn.ReLU()]
        size = width
    return nn.Sequential(*parts)


def convolutional(width: int, depth: int) -> nn.Sequential:
    """[3×3 convolution – batch norm – ReLU – halved] × depth, then the mean over places.

    `width` channels, twice as many after each halving.
    """
    parts: list[nn.Module] = []
    channels = 3
    for place in range(depth):
        wide = width << place
        parts += [
            nn.Conv2d(channels, wide, 3, padding=1, bias=False),
            *(nn.BatchNorm2d(wide), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
        ]
        channels = wide
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten())
