"""By which names published code keeps the tensors of a network, and which network that is.

A layout is told by names and shapes alone. The names are facts about files of DeepHash-pytorch,
HashNet, ProS-GAN, CgAT, SAAT, torchvision, timm and ports of EfficientNet; no code of theirs is
here.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from advhash.errors import CheckpointError, UsageError
from advhash.storage.foreign_text import visible
from advhash.victims.base import MOST_BITS
from advhash.victims.networks.classifiers import (
    DENSE,
    OWN,
    VGG,
    Classifier,
    build_classifier,
    last_linear,
    torchvision_network,
)
from advhash.victims.networks.pretrained import renamed

Shapes = Mapping[str, tuple[int, ...]]
MOST_WRAPPERS = 4
WRAPPERS = ("module.", "model.", "net.", "network.", "hash_model.")
LEARNING = ("hash_targets", "random_center")  # buffers of losses that live beside the network
HEADS = ("hash_layer", "fc", "classifier", "head", "head.fc", "hash", "linear", "last_linear", "1")
BACKBONES = ("", "backbone.", "encoder.", "features.", "feature_extractor.", "base.", "0.")
COUNTER = "num_batches_tracked"  # which no code depends on, and old files lack
RESNETS = {
    (False, (2, 2, 2, 2)): "resnet18",
    (False, (3, 4, 6, 3)): "resnet34",
    (True, (3, 4, 6, 3)): "resnet50",
    (True, (3, 4, 23, 3)): "resnet101",
    (True, (3, 8, 36, 3)): "resnet152",
}
WIDE = {("resnet50", 128): "wide_resnet50_2", ("resnet101", 128): "wide_resnet101_2"}
GROUPED = {
    ("resnet50", 128, 4): "resnext50_32x4d",
    ("resnet101", 256, 8): "resnext101_32x8d",
    ("resnet101", 256, 4): "resnext101_64x4d",
}
STAGES = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
ASK = "expected --arch, e.g. --arch timm:resnet50 or torchvision:densenet121"


@dataclass(frozen=True)
class Layout:
    """What was recognised.

    architecture, bits, hidden: as the victim `hash-layer` takes them
    normalise: where the layout is that of one code alone, what that code does to pixels
    publisher: whose names they are
    sources:   for each tensor of a `Classifier`, the names that it has in the file
    extra:     names of the file that no tensor goes by
    """

    architecture: str
    bits: int
    hidden: tuple[int, ...]
    normalise: str | None
    publisher: str
    sources: Mapping[str, tuple[str, ...]]
    extra: tuple[str, ...]


def recognise(shapes: Shapes, architecture: str | None, image_size: int) -> Layout:
    """The layout of a file's tensors.

    architecture: what the user says it is
    image_size:   pixels a side, on which some tensors of transformers depend

    Raises UsageError where it must be said, CheckpointError where there is no hash layer.
    """
    names = _unwrapped(shapes)
    if architecture is None:
        architecture = _architecture({name: shapes[source] for name, source in names.items()})
    recognised = _own if architecture in OWN else _other
    return recognised(architecture, names, shapes, image_size)


def empty_classifier(
    architecture: str, bits: int, hidden: tuple[int, ...], image_size: int
) -> Classifier:
    """The network without memory for its tensors. Raises ConfigError."""
    with torch.device("meta"):
        return build_classifier(
            architecture, bits=bits, hidden=hidden, normalise="none", image_size=image_size
        )


def _unwrapped(shapes: Iterable[str]) -> dict[str, str]:
    """The names without what modules around the network put before them → those of the file."""
    names = {name: name for name in shapes if name.rpartition(".")[2] not in LEARNING}
    for _ in range(MOST_WRAPPERS):
        wrapper = next((word for word in WRAPPERS if _all_begin(names, word)), "")
        names = {name.removeprefix(wrapper): source for name, source in names.items()}
    return names


def _all_begin(names: Iterable[str], word: str) -> bool:
    listed = list(names)
    return bool(listed) and all(name.startswith(word) for name in listed)


def _architecture(shapes: Shapes) -> str:
    """The network that the names are of. Raises UsageError."""
    first = shapes.get("features.0.weight", ())
    first_dense = shapes.get("features.conv0.weight", ())
    convolutions = [
        name
        for name, shape in shapes.items()
        if re.fullmatch(r"features\.\d+\.weight", name) and len(shape) == 4
    ]
    if first[2:] == (11, 11):
        return "alexnet"
    if first[1:] == (3, 3, 3):
        normed = "_bn" if "features.1.running_mean" in shapes else ""
        for name, blocks in VGG.items():
            if sum(blocks) == len(convolutions):
                return name + normed
    if "layer1.0.conv1.weight" in shapes and (resnet := _resnet(shapes)):
        return f"torchvision:{resnet}"
    if first_dense == (96, 3, 7, 7) and "hash_layer.weight" in shapes:
        return DENSE
    hint = f"; the names are those of EfficientNet: {LITE}" if "_conv_stem.weight" in shapes else ""
    shown = visible(", ".join(name[:80] for name in list(shapes)[:3])) or "none"
    raise UsageError(f"{ASK}: the network of tensors called {shown} … is not known{hint}")


LITE = "timm:tf_efficientnet_lite0 (to lite4) or timm:tf_efficientnet_b0 (to b7)"


def _resnet(shapes: Shapes) -> str | None:
    """The name of a ResNet in torchvision, by its blocks and their widths."""
    blocks = [
        len({name.split(".")[1] for name in shapes if name.startswith(f"layer{stage}.")})
        for stage in range(1, 5)
    ]
    name = RESNETS.get(("layer1.0.conv3.weight" in shapes, tuple(blocks)))  # type: ignore[arg-type]
    width, below = (*shapes.get("layer1.0.conv2.weight", ()), 0, 0)[:2]
    if name is None or width == below == 64:
        return name
    if width == below:
        return WIDE.get((name, width))
    return GROUPED.get((name, width, below))


def _own(architecture: str, names: Mapping[str, str], shapes: Shapes, image_size: int) -> Layout:
    """AlexNet or VGG: fully connected layers by the places that published code gives them."""
    alexnet = architecture == "alexnet"
    publisher = "ProS-GAN, CgAT, SAAT or torchvision"
    normalise: str | None = None
    first, second, last = ("1", "4", "6") if alexnet else ("0", "3", "6")
    places = {f"classifier.{first}": "hidden.0", f"classifier.{second}": "hidden.1"}
    places |= {f"classifier.{last}": "hash_layer", "hash_layer": "hash_layer", "cl1": "hidden.0"}
    if f"hash_layer.{last}.weight" in names:
        publisher, normalise = "DeepHash-pytorch", "imagenet"
        places = {f"hash_layer.{first}": "hidden.0", f"hash_layer.{second}": "hidden.1"}
        places |= {f"hash_layer.{last}": "hash_layer"}
    elif f"classifier.classifier{second}.weight" in names:
        publisher = "HashNet"
    sources: dict[str, list[str]] = {}
    for name, source in names.items():
        plain = re.sub(r"^feature_layers\.0\.", "features.", name)
        plain = re.sub(r"^feature_layers\.1\.", "classifier.", plain)
        plain = re.sub(r"^classifier\.classifier(\d)\.", r"classifier.\1.", plain)
        layer, _, part = plain.rpartition(".")
        sources.setdefault(f"{places.get(layer, layer)}.{part}", []).append(source)
    widths = [
        shapes[source][0]
        for place in range(2)
        for source in sources.get(f"hidden.{place}.weight", ())[:1]
        if len(shapes[source]) == 2
    ]
    if len(widths) < 2:
        raise CheckpointError(
            f"expected the two fully connected layers of {architecture}, got {len(widths)}: "
            "expected another --arch"
        )
    hidden = (widths[0], widths[1])
    return _finished(architecture, hidden, normalise, publisher, sources, shapes, image_size)


def _other(architecture: str, names: Mapping[str, str], shapes: Shapes, image_size: int) -> Layout:
    """A network of torchvision or timm, with its own last layer or a head behind it."""
    library, _, plain = architecture.partition(":")
    expected = {
        name.removeprefix("backbone.")
        for name in empty_classifier(architecture, 1, (), image_size).state_dict()
        if name.startswith("backbone.") and not name.endswith(COUNTER)
    }
    heads: tuple[str, ...] = HEADS
    if library == "torchvision":
        with torch.device("meta"):
            heads = (last_linear(torchvision_network(plain)), *HEADS)
    if architecture == DENSE:  # the classifier of ImageNet is still there, and has no part
        names = {name: source for name, source in names.items() if name[:11] != "classifier."}
    if "_conv_stem.weight" in names:
        names = _ported(architecture, names, image_size)
    listed = any(name.startswith("feature_layers.") for name in names)
    publisher = "DeepHash-pytorch, HashNet, ProS-GAN, CgAT or SAAT" if listed else library

    def hits(prefix: str) -> int:
        return sum(f"{prefix}{name}" in names for name in expected)

    prefix = max(BACKBONES, key=hits)
    places = [word for word in heads if word not in _layers(expected, prefix)]
    places += [prefix + word for word in heads if word not in _layers(expected, "")]
    head = next((place for place in places if f"{place}.weight" in names), None)
    sources: dict[str, list[str]] = {}
    for name, source in names.items():
        layer, _, part = name.rpartition(".")
        plain_name = name.removeprefix(prefix)
        if architecture == DENSE:
            target = plain_name.replace("feature_layers.0.", "features.")
        else:
            target = _of_stages(plain_name)
        sources.setdefault(f"hash_layer.{part}" if layer == head else target, []).append(source)
    return _finished(architecture, (), None, publisher, sources, shapes, image_size)


def _layers(names: Iterable[str], prefix: str) -> set[str]:
    """The layers that tensors are of."""
    return {prefix + name.rpartition(".")[0] for name in names}


def _of_stages(name: str) -> str:
    """The name in torchvision of a part of a ResNet that is listed by numbers."""
    words = name.split(".")
    if words[0] == "feature_layers" and len(words) > 2 and words[1] in STAGES:
        return ".".join([STAGES[words[1]], *words[2:]])
    return name


def _ported(architecture: str, names: Mapping[str, str], image_size: int) -> dict[str, str]:
    """Names of ports of EfficientNet under those of timm. Raises CheckpointError."""
    blocks = getattr(empty_classifier(architecture, 1, (), image_size).backbone, "blocks", ())
    try:
        moved = renamed(dict.fromkeys(names), [len(stage) for stage in blocks])  # type: ignore[arg-type]
    except (KeyError, IndexError, ValueError):
        moved = {}
    if len(moved) != len(names):
        raise CheckpointError(
            f"the file has the names of EfficientNet, which do not fit {architecture}: expected "
            f"another --arch, {LITE}"
        )
    return {new: names[old] for new, old in zip(moved, names, strict=True)}


def _finished(
    architecture: str,
    hidden: tuple[int, ...],
    normalise: str | None,
    publisher: str,
    sources: Mapping[str, list[str]],
    shapes: Shapes,
    image_size: int,
) -> Layout:
    """The layout with the names that a `Classifier` has. Raises CheckpointError: no hash layer."""
    heads = [shapes[source] for source in sources.get("hash_layer.weight", [])]
    if not heads or len(heads[0]) != 2:
        raise CheckpointError(
            f"no hash layer behind {architecture}: expected a linear layer of K outputs called "
            f"{', '.join(HEADS[:4])}, or another --arch"
        )
    bits = heads[0][0]
    if any(shape != heads[0] for shape in heads):
        raise CheckpointError(f"several hash layers, of {' and '.join(map(str, heads))}")
    if bits > MOST_BITS:
        raise CheckpointError(f"a last layer of {bits} outputs: expected at most {MOST_BITS} bits")
    targets = {
        name if name.startswith("hash_layer.") else f"backbone.{name}": tuple(listed)
        for name, listed in sources.items()
    }
    wanted = empty_classifier(architecture, bits, hidden, image_size).state_dict().keys()
    extra = [listed for name, listed in targets.items() if name not in wanted]
    return Layout(
        architecture,
        bits,
        hidden,
        normalise,
        publisher,
        {name: listed for name, listed in targets.items() if name in wanted},
        tuple(itertools.chain.from_iterable(extra)),
    )
