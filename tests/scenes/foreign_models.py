"""Models as other projects keep them: their names of tensors, and random weights.

Each is written here from what its file looks like. `wrap` puts weights under those names; the
network that computes is the same few lines for all.
"""

from __future__ import annotations

import importlib
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
WIDTH = 24  # of the fully connected layers, 4096 in print

MODULES = '''
import torch
from torch import nn


class Convolutions(nn.Module):
    """Features and fully connected layers in one list; `spread` puts the last one apart."""

    def __init__(self, features, layers, tanh=True):
        super().__init__()
        self.features = features
        self.classifier = nn.Sequential(*layers)
        self.tanh = nn.Tanh()
        self.mean = torch.zeros(3, 1, 1)

    def forward(self, pictures):
        return self.tanh(self.classifier(self.features(pictures).flatten(1)))


class AliasedVGG(Convolutions):
    def __init__(self, features, layers):
        super().__init__(features, layers)
        self.cl1 = self.classifier[0]


class ListedResNet(nn.Module):
    """Its stages by name and again as a numbered list; the scale is a plain number."""

    def __init__(self, network, bits):
        super().__init__()
        names = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
        for name in [*names, "avgpool"]:
            setattr(self, name, getattr(network, name))
        self.feature_layers = nn.Sequential(*(getattr(self, name) for name in [*names, "avgpool"]))
        self.hash_layer = nn.Linear(network.fc.in_features, bits)
        self.activation = nn.Tanh()
        self.iter_num, self.scale = 400, 1.7

    def forward(self, pictures):
        values = self.hash_layer(self.feature_layers(pictures).flatten(1))
        return self.activation(self.scale * values)


class Wrapped(nn.Module):
    """A loss with the codes of its training rows around a network called `model`."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.U = torch.zeros(50, 16)
        self.model_name = "NUS-WIDE_DPH_AlexNet_16"
        self.register_buffer("hash_targets", torch.ones(21, 16))

    def forward(self, pictures):
        return self.model(pictures)
'''


def throw_away(folder: Path, name: str = "their_code") -> ModuleType:
    """A module of classes that is gone when the file is read, see `forget`."""
    (folder / f"{name}.py").write_text(textwrap.dedent(MODULES))
    sys.path.insert(0, str(folder))
    try:
        importlib.invalidate_caches()
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))


def forget(module: ModuleType) -> None:
    """Nobody can import it any more."""
    del sys.modules[module.__name__]
    assert module.__file__ is not None
    Path(module.__file__).unlink()


@dataclass(frozen=True)
class Foreign:
    """A model of somebody else in a file, and what it computes.

    z:      (B,K) real values of (B,3,H,W) pictures in [0,1], or their tanh
    size:   pixels a side
    given:  options of the import
    """

    file: Path
    z: Callable[[Tensor], Tensor]
    size: int
    given: dict[str, Any]


def linears(inside: int, bits: int = 16) -> list[nn.Linear]:
    return [nn.Linear(inside, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, bits)]


def alexnet(bits: int = 16) -> tuple[nn.Module, list[nn.Module]]:
    first, second, last = linears(256 * 6 * 6, bits)
    layers = [nn.Dropout(), first, nn.ReLU(), nn.Dropout(), second, nn.ReLU(), last]
    return torchvision.models.AlexNet(num_classes=1).features, layers


def vgg(name: str, bits: int = 16) -> tuple[nn.Module, list[nn.Module]]:
    first, second, last = linears(512 * 7 * 7, bits)
    layers = [first, nn.ReLU(), nn.Dropout(), second, nn.ReLU(), nn.Dropout(), last]
    with torch.device("meta"):
        features = getattr(torchvision.models, name)().features
    features = features.to_empty(device="cpu")
    for part in features.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
            nn.init.zeros_(part.bias)  # type: ignore[arg-type]
        elif isinstance(part, nn.BatchNorm2d):
            part.reset_parameters()
    return features, layers


def stirred(network: nn.Module) -> nn.Module:
    """Statistics of batch normalisation that are not those of a new network."""
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
            part.running_var.uniform_(0.6, 1.6)  # type: ignore[union-attr]
            nn.init.uniform_(part.weight, 0.6, 1.4)
            nn.init.uniform_(part.bias, -0.3, 0.3)
    return network.eval()


def normalised(pictures: Tensor) -> Tensor:
    return (pictures - MEAN) / STD


def _deephash_alexnet(folder: Path) -> Foreign:
    features, layers = alexnet()
    network = nn.ModuleDict({"features": features, "hash_layer": nn.Sequential(*layers)}).eval()
    torch.save(network.state_dict(), folder / "model.pt")  # noqa: TID251
    return Foreign(
        folder / "model.pt",
        lambda x: network["hash_layer"](network["features"](normalised(x)).flatten(1)),
        224,
        {},
    )


def _listed(folder: Path, code: ModuleType, name: str) -> Any:
    return stirred(code.ListedResNet(getattr(torchvision.models, name)(), 16))


def _deephash_resnet50(folder: Path) -> Foreign:
    code = throw_away(folder)
    network = _listed(folder, code, "resnet50")
    torch.save(network.state_dict(), folder / "model.pt")  # noqa: TID251
    return Foreign(
        folder / "model.pt",
        lambda x: network.hash_layer(network.feature_layers(normalised(x)).flatten(1)),
        64,
        {"normalise": "imagenet"},
    )


def _hashnet_alexnet(folder: Path) -> Foreign:
    features, layers = alexnet()
    head = layers.pop()
    plain = nn.Sequential()
    for number, layer in enumerate(layers):
        plain.add_module(f"classifier{number}", layer)
    parts = {"features": features, "classifier": plain}
    parts |= {"feature_layers": nn.Sequential(features, plain), "hash_layer": head}
    network = nn.ModuleDict(parts).eval()
    torch.save(network.state_dict(), folder / "iter_10000_model.pth.tar")  # noqa: TID251
    return Foreign(
        folder / "iter_10000_model.pth.tar",
        lambda x: head(plain(features(normalised(x)).flatten(1))),
        224,
        {"normalise": "imagenet"},
    )


def _hashnet_resnet(folder: Path) -> Foreign:
    code = throw_away(folder)
    network = _listed(folder, code, "resnet18")
    torch.save(network, folder / "whole.pth")  # noqa: TID251
    forget(code)
    return Foreign(
        folder / "whole.pth", lambda x: network(normalised(x)), 64, {"normalise": "imagenet"}
    )


def _prosgan_vgg(folder: Path) -> Foreign:
    code = throw_away(folder)
    network = code.AliasedVGG(*vgg("vgg11")).eval()
    torch.save(network, folder / "FLICKR-25K_DPH_VGG11_16.pth")  # noqa: TID251
    forget(code)
    return Foreign(folder / "FLICKR-25K_DPH_VGG11_16.pth", network, 224, {"normalise": "none"})


def _prosgan_alexnet(folder: Path) -> Foreign:
    code = throw_away(folder)
    network = code.Convolutions(*alexnet()).eval()
    file = folder / "legacy.pth"
    torch.save(network, file, _use_new_zipfile_serialization=False)  # noqa: TID251
    forget(code)
    return Foreign(file, network, 224, {"normalise": "none"})


def _cgat_vgg(folder: Path) -> Foreign:
    features, layers = vgg("vgg11_bn")
    stirred(features)
    network = nn.ModuleDict({"features": features, "classifier": nn.Sequential(*layers)}).eval()
    torch.save(network.state_dict(), folder / "cgat_CSQ.pth")  # noqa: TID251
    pool = nn.AdaptiveAvgPool2d(7)
    return Foreign(
        folder / "cgat_CSQ.pth",
        lambda x: network["classifier"](pool(features(normalised(x))).flatten(1)).tanh(),
        32,
        {"normalise": "imagenet"},
    )


def _cgat_densenet(folder: Path) -> Foreign:
    """With the classifier of ImageNet beside it, and features that go by two names."""
    whole = stirred(torchvision.models.densenet161())
    layers = nn.Sequential(whole.features, nn.AvgPool2d(1))  # of 7 places for 224 pixels
    parts = {"features": whole.features, "classifier": whole.classifier, "feature_layers": layers}
    network = nn.ModuleDict({**parts, "hash_layer": nn.Linear(2208, 16)}).eval()
    torch.save(network.state_dict(), folder / "cgat_DenseNet161.pth")  # noqa: TID251
    return Foreign(
        folder / "cgat_DenseNet161.pth",
        lambda x: network["hash_layer"](layers(normalised(x)).flatten(1)).tanh(),
        32,
        {"normalise": "imagenet"},
    )


def _saat_alexnet(folder: Path) -> Foreign:
    code = throw_away(folder)
    network = code.Wrapped(code.Convolutions(*alexnet())).eval()
    torch.save(network, folder / "saat_DPH.pth")  # noqa: TID251
    forget(code)
    return Foreign(
        folder / "saat_DPH.pth", lambda x: network(normalised(x)), 224, {"normalise": "imagenet"}
    )


def _saat_resnet(folder: Path) -> Foreign:
    code = throw_away(folder)
    network = nn.DataParallel(_listed(folder, code, "resnet34"))
    torch.save(  # noqa: TID251
        {"epoch": 20, "state_dict": network.state_dict(), "optimizer": {"state": {}}},
        folder / "checkpoint.pth.tar",
    )
    return Foreign(
        folder / "checkpoint.pth.tar",
        lambda x: network.module(normalised(x)),
        64,
        {"normalise": "imagenet", "scale": 1.7},
    )


def _torchvision(folder: Path) -> Foreign:
    network = torchvision.models.mobilenet_v3_small(num_classes=48)
    stirred(network)
    torch.save(network.state_dict(), folder / "mobile.pt")  # noqa: TID251
    return Foreign(
        folder / "mobile.pt",
        lambda x: network(normalised(x)),
        64,
        {"architecture": "torchvision:mobilenet_v3_small", "normalise": "imagenet"},
    )


def _timm(folder: Path) -> Foreign:
    from safetensors.torch import save_file

    network = stirred(timm.create_model("test_resnet", num_classes=24))
    save_file(network.state_dict(), folder / "model.safetensors")
    return Foreign(
        folder / "model.safetensors",
        lambda x: network((x - 0.5) / 0.5),
        64,
        {"architecture": "timm:test_resnet", "normalise": "half"},
    )


def _timm_and_head(folder: Path) -> Foreign:
    backbone = timm.create_model("test_vit", num_classes=0, img_size=64)
    network = nn.Sequential(backbone, nn.Linear(backbone.num_features, 32)).eval()
    torch.save({"model": network.state_dict(), "step": 9}, folder / "head.pt")  # noqa: TID251
    return Foreign(
        folder / "head.pt",
        network,
        64,
        {"architecture": "timm:test_vit", "normalise": "none"},
    )


def _lite0(folder: Path) -> Foreign:
    from advhash.victims.networks.pretrained import lite0_file, pretrained_network

    network = pretrained_network("tf_efficientnet_lite0").eval()
    file = lite0_file()
    assert file is not None
    return Foreign(
        file,
        lambda x: network((x - 0.5) / 0.5),
        64,
        {"architecture": "timm:tf_efficientnet_lite0", "normalise": "half"},
    )


MODELS: dict[str, Callable[[Path], Foreign]] = {
    "DeepHash-pytorch AlexNet": _deephash_alexnet,
    "DeepHash-pytorch ResNet-50": _deephash_resnet50,
    "HashNet AlexNet": _hashnet_alexnet,
    "HashNet ResNet-18, whole": _hashnet_resnet,
    "ProS-GAN VGG-11, whole": _prosgan_vgg,
    "ProS-GAN AlexNet, whole, before torch 1.6": _prosgan_alexnet,
    "CgAT VGG-11 with batch normalisation": _cgat_vgg,
    "CgAT DenseNet-161": _cgat_densenet,
    "SAAT AlexNet, whole": _saat_alexnet,
    "SAAT ResNet-34, DataParallel": _saat_resnet,
    "torchvision MobileNetV3": _torchvision,
    "timm ResNet, safetensors": _timm,
    "timm ViT with a head": _timm_and_head,
    "EfficientNet-Lite0": _lite0,
}


def foreign(name: str, folder: Path) -> Foreign:
    """The same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS[name](folder)
