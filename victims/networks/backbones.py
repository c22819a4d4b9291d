"""Networks from images to features. Normalisation is inside: every one takes (B,3,H,W) in [0,1]."""

from __future__ import annotations

import dataclasses
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from advhash.data.dataset import Split
from advhash.errors import ConfigError, UsageError, nearest
from advhash.storage.documents import reason
from advhash.victims.networks.library import timm
from advhash.victims.networks.pretrained import LITE0, pretrained_network

SMALL = "test_resnet"  # 0.37 M parameters: the default for images of 32 px
PRETRAINED = {  # a preset: learn from photographs in minutes, on features of ImageNet
    "backbone": LITE0,
    "pretrained": True,
    "freeze_backbone": True,
    "augmentation": False,
}

SEEN = 512  # pixels a side: the largest data of our own readers
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Backbone(nn.Module):
    """(B,3,H,W) in [0,1] → (B,F) features: centre, scale, network. Features pass as they are.

    features: F
    frozen: it stays as it is and in evaluation mode; `frozen_features` runs it once over a split
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        features: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        frozen: bool,
    ) -> None:
        super().__init__()
        self.network = network
        self.features = features
        self.frozen = frozen
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

        if frozen:
            self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and not self.frozen)

    def forward(self, images: Tensor) -> Tensor:
        if images.ndim == 2:
            return images
        scaled = (images - self.mean) / self.std
        # 25 % faster on a CPU; the weights stay as they are, so that they can be stored
        features: Tensor = self.network(scaled.contiguous(memory_format=torch.channels_last))
        return features


def frozen_features(backbone: nn.Module, split: Split, device: torch.device) -> Split:
    """The split with the features (N,F) of a frozen backbone in place of its images.

    The split itself where the backbone is not frozen, for then they change, and where they are
    features already.
    """
    frozen = isinstance(backbone, Backbone) and backbone.frozen
    if not frozen or split.tensor("image").ndim == 2:
        return split
    with torch.no_grad():
        features = [
            backbone(batch.inputs["image"].to(device)).cpu() for batch in split.batches(256)
        ]
    inputs = {**split.inputs, "image": torch.cat(features)}
    return dataclasses.replace(split, inputs=inputs, digests={})


def check_frozen(freeze_backbone: bool, augmentation: bool) -> None:
    """Raise ValueError where pictures would have to change and features not."""
    if freeze_backbone and augmentation:
        raise ValueError(
            "expected augmentation=false with freeze_backbone=true: features are computed once"
        )


def build_backbone(
    name: str, *, image_size: int, pretrained: bool = False, frozen: bool = False
) -> Backbone:
    """The network `name`, "cnnf" or any model of timm, without its classifier.

    Nothing is downloaded unless `pretrained=True`; see `pretrained_network`.

    Raises ConfigError for a name that timm lacks or an image size that the network cannot take,
    UsageError where pretrained weights cannot be had.
    """
    if name == "cnnf":
        if pretrained:
            raise UsageError("no pretrained weights of 'cnnf' can be had: use pretrained=false")
        if image_size != 224:
            raise ConfigError(
                f"backbone 'cnnf' takes images of 224 px, got {image_size}: "
                "load the data at that size, or use another backbone"
            )
        return _measured(name, cnnf(), image_size, IMAGENET_MEAN, IMAGENET_STD, frozen)
    library = timm()
    if not library.is_model(name):
        close = nearest(name, ["cnnf", *library.list_models()])
        raise ConfigError(f"unknown backbone {name!r}: {close}Known: cnnf and all models of timm")
    try:
        config = library.get_pretrained_cfg(name)
    except RuntimeError as error:
        raise ConfigError(f"unknown backbone {name!r}: {reason(error)}") from None
    fixed = config is not None and config.fixed_input_size  # a transformer must be told its size
    size: dict[str, Any] = {"img_size": image_size} if fixed else {}
    try:
        create = pretrained_network if pretrained else library.create_model
        network = create(name, num_classes=0, **size)
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        if pretrained:
            raise UsageError(
                f"the pretrained weights of {name!r} cannot be loaded: run once with a network, "
                f"so that timm keeps them, or use pretrained=false ({reason(error)})"
            ) from None
        raise ConfigError(f"backbone {name!r} at {image_size} px: {reason(error)}") from None
    published = network.pretrained_cfg
    return _measured(
        name,
        network,
        image_size,
        published.get("mean", IMAGENET_MEAN),
        published.get("std", IMAGENET_STD),
        frozen,
    )


def cnnf() -> nn.Sequential:
    """CNN-F, also VGG-F: (B,3,224,224) → (B,4096), the output of fc7.

    Chatfield et al., "Return of the Devil in the Details", BMVC 2014, table 1.
    """
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, stride=4), nn.ReLU()),
        nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        *(nn.Conv2d(64, 256, 5, padding=2), nn.ReLU()),
        nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=2),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
        nn.MaxPool2d(3, stride=2),
        nn.Flatten(),
        *(nn.Linear(256 * 6 * 6, 4096), nn.ReLU(), nn.Dropout()),  # fc6
        *(nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout()),  # fc7
    )


def _measured(
    name: str,
    network: nn.Module,
    image_size: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    frozen: bool,
) -> Backbone:
    """The network with its number of features, measured on one image.

    An image of more than `SEEN` pixels a side, which a stranger's card may ask for, has no values
    and takes no memory: torch's meta device, which costs a second to import.
    """
    network.eval()
    parts = dict(chain(network.named_parameters(), network.named_buffers()))
    device = "meta" if image_size > SEEN else next(iter(parts.values())).device
    parts = {part: values.to(device) for part, values in parts.items()}
    image = torch.zeros(1, 3, image_size, image_size, device=device)
    try:
        with torch.no_grad():
            features = functional_call(network, parts, (image,))
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"backbone {name!r} cannot take images of {image_size} px: {reason(error)}"
        ) from None
    network.train()
    return Backbone(network, features.shape[1], mean, std, frozen)
