"""Networks of others with a hash layer in the place of their classifier.

AlexNet and VGG are built here from the tables of their papers, with fully connected layers of any
width; all others come from torchvision or timm. Normalisation is inside, and may be none.
"""

from __future__ import annotations

import importlib
import itertools
from typing import Any

import torch
from torch import Tensor, nn

from advhash.errors import ConfigError, nearest
from advhash.storage.documents import reason
from advhash.victims.networks.backbones import IMAGENET_MEAN, IMAGENET_STD
from advhash.victims.networks.library import timm

Triple = tuple[float, float, float]
SIDE = {"alexnet": 6, "vgg": 7}  # of the pictures that the fully connected layers see
FEATURES = {"alexnet": 256 * 6 * 6, "vgg": 512 * 7 * 7}
VGG = {  # convolutions between two poolings, of 64, 128, 256, 512 and 512 channels
    "vgg11": (1, 1, 2, 2, 2),
    "vgg13": (2, 2, 2, 2, 2),
    "vgg16": (2, 2, 3, 3, 3),
    "vgg19": (2, 2, 4, 4, 4),
}
OWN = ("alexnet", *VGG, *(f"{name}_bn" for name in VGG))
DENSE = "densenet161"  # of CgAT, which leaves out the ReLU that torchvision ends with
DENSE_FEATURES = 2208
NORMALISATIONS: dict[str, tuple[Triple, Triple]] = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}


class Convolutional(nn.Module):
    """Convolutions, then fully connected layers: AlexNet and VGG below their last layer."""

    def __init__(self, name: str, hidden: tuple[int, ...]) -> None:
        super().__init__()
        family = name if name == "alexnet" else "vgg"
        self.features = alexnet_features() if name == "alexnet" else vgg_features(name)
        self.pool = nn.AdaptiveAvgPool2d(SIDE[family])
        widths = (FEATURES[family], *hidden)
        pairs = itertools.pairwise(widths)
        self.hidden = nn.ModuleList(nn.Linear(below, above) for below, above in pairs)

    def forward(self, images: Tensor) -> Tensor:
        values: Tensor = self.pool(self.features(images)).flatten(1)
        for layer in self.hidden:
            values = nn.functional.relu(layer(values))
        return values


class Dense(nn.Module):
    """(B,3,H,W) → (B,2208): DenseNet-161 up to its last normalisation, the mean of all places."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torchvision_network(DENSE).get_submodule("features")

    def forward(self, images: Tensor) -> Tensor:
        maps = self.features(images)
        return nn.functional.avg_pool2d(maps, maps.shape[2:]).flatten(1)


class Classifier(nn.Module):
    """(B,3,H,W) in [0,1] → (B,K): centre, scale, a network, its last layer."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, features: int, bits: int, normalise: str) -> None:
        super().__init__()
        mean, std = NORMALISATIONS[normalise]
        self.backbone = backbone
        self.hash_layer = nn.Linear(features, bits)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.codes((images - self.mean) / self.std)

    def codes(self, pictures: Tensor) -> Tensor:
        """(B,K) of pictures that are normalised already."""
        codes: Tensor = self.hash_layer(self.backbone(pictures).flatten(1))
        return codes


def build_classifier(
    architecture: str, *, bits: int, hidden: tuple[int, ...], normalise: str, image_size: int
) -> Classifier:
    """A network with random weights. Nothing is downloaded.

    architecture: one of `OWN`, `DENSE`, "torchvision:NAME" or "timm:NAME"
    hidden:       widths of the fully connected layers of `OWN`; others have none

    Raises ConfigError.
    """
    if normalise not in NORMALISATIONS:
        known = ", ".join(NORMALISATIONS)
        raise ConfigError(f"expected normalise as one of {known}, got {normalise!r}")
    if architecture in OWN:
        if not hidden or min(hidden) < 1:
            raise ConfigError(f"expected widths above 0 in hidden of {architecture}, got {hidden}")
        return Classifier(Convolutional(architecture, hidden), hidden[-1], bits, normalise)
    if hidden:
        raise ConfigError(f"expected no hidden widths of {architecture!r}, got {hidden}")
    if architecture == DENSE:
        return Classifier(Dense(), DENSE_FEATURES, bits, normalise)
    library, _, name = architecture.partition(":")
    if library not in ("torchvision", "timm") or not name:
        raise ConfigError(
            f"unknown architecture {architecture!r}: {nearest(architecture, [*OWN, DENSE])}Known: "
            f"{', '.join([*OWN, DENSE])}, torchvision:NAME and timm:NAME"
        )
    build = _of_torchvision if library == "torchvision" else _of_timm
    try:
        backbone, features = build(name, image_size)
    except (RuntimeError, ValueError, TypeError, AssertionError, AttributeError) as error:
        raise ConfigError(f"architecture {architecture!r}: {reason(error)}") from None
    return Classifier(backbone, features, bits, normalise)


def last_linear(network: nn.Module) -> str:
    """The name of the last linear layer. Raises ValueError: there is none."""
    names = [name for name, part in network.named_modules() if isinstance(part, nn.Linear)]
    if not names:
        raise ValueError("no linear layer at its end, which could be a hash layer")
    return str(names[-1])


def torchvision_network(name: str) -> nn.Module:
    """A classifier of torchvision with random weights. Raises ConfigError: no such one."""
    timm()  # imports torchvision without torch's compiler
    models: Any = importlib.import_module("torchvision.models")
    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(f"torchvision has no classifier {name!r}: {nearest(name, known)}")
    old = name in ("googlenet", "inception_v3")  # which warn of what they will not do any more
    extra = {"aux_logits": False, "init_weights": False} if old else {}
    network: nn.Module = models.get_model(name, weights=None, **extra)
    return network


def _of_torchvision(name: str, image_size: int) -> tuple[nn.Module, int]:
    network = torchvision_network(name)
    place = last_linear(network)
    layer = network.get_submodule(place)
    assert isinstance(layer, nn.Linear)
    network.set_submodule(place, nn.Identity())
    return network, layer.in_features


def _of_timm(name: str, image_size: int) -> tuple[nn.Module, int]:
    library = timm()
    if not library.is_model(name):
        raise ConfigError(f"timm has no model {name!r}: {nearest(name, library.list_models())}")
    config = library.get_pretrained_cfg(name)
    fixed = config is not None and config.fixed_input_size
    network = library.create_model(
        name, pretrained=False, num_classes=0, **({"img_size": image_size} if fixed else {})
    )
    return network, int(getattr(network, "head_hidden_size", None) or network.num_features)


def alexnet_features() -> nn.Sequential:
    """(B,3,H,W) → (B,256,h,w). Krizhevsky 2014 (arXiv 1404.5997): one column, no normalisation."""
    return nn.Sequential(
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, stride=2)),
    )


def vgg_features(name: str) -> nn.Sequential:
    """(B,3,H,W) → (B,512,H/32,W/32). Simonyan and Zisserman, ICLR 2015 (arXiv 1409.1556)."""
    plain, _, normed = name.partition("_")
    layers: list[nn.Module] = []
    below = 3
    for block, count in enumerate(VGG[plain]):
        above = min(512, 64 << block)
        for _ in range(count):
            layers.append(nn.Conv2d(below, above, 3, padding=1))
            layers += [nn.BatchNorm2d(above)] * bool(normed)
            layers.append(nn.ReLU())
            below = above
        layers.append(nn.MaxPool2d(2, stride=2))
    return nn.Sequential(*layers)
