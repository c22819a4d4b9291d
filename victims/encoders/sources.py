"""Where an encoder comes from, by the prefix of its name: `timm:NAME`, `hf:FOLDER or ID`.

Weights are read from safetensors or from timm's own cache and packages, never from a pickle, and
nothing is fetched from a network unless the user asked for it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advhash.errors import ConfigError, UsageError, nearest
from advhash.victims.encoders.preprocessing import Preprocessing
from advhash.victims.networks.backbones import IMAGENET_MEAN, IMAGENET_STD
from advhash.victims.networks.library import timm
from advhash.victims.networks.pretrained import pretrained_network
from advhash.victims.perceptual.resampling import Filter

FILTERS: Mapping[object, Filter] = {  # names of timm and numbers of Pillow
    "bilinear": "bilinear", "bicubic": "bicubic", "lanczos": "lanczos", 2: "bilinear",
    3: "bicubic", 1: "lanczos",
}  # fmt: skip


@dataclass(frozen=True)
class Encoder:
    """A network from prepared pictures to features.

    network:       its module; `features(network, pictures)` gives (B,D)
    dimensions:    D
    preprocessing: what comes before it
    revision:      what tells this network apart from others of its name
    """

    network: nn.Module
    features: Callable[[nn.Module, Tensor], Tensor]
    dimensions: int
    preprocessing: Preprocessing
    revision: str


def open_encoder(name: str, *, pretrained: bool, online: bool) -> Encoder:
    """The encoder that `prefix:what` names; without `pretrained` its structure, random weights.

    Raises UsageError: an unknown prefix or model, weights that are not on this machine, a missing
    package.
    """
    prefix, _, what = name.partition(":")
    if prefix not in SOURCES:
        raise UsageError(
            f"encoder {name!r}: expected {', '.join(f'{known}:…' for known in SOURCES)}"
        )
    if not what:
        raise UsageError(f"encoder {name!r}: expected the name of a model behind {prefix}:")
    return SOURCES[prefix](what, pretrained, online)


def _timm(name: str, pretrained: bool, online: bool) -> Encoder:
    """A network of timm without its classifier, prepared as timm evaluates it."""
    library = timm()
    if not library.is_model(name):
        raise UsageError(
            f"encoder 'timm:{name}': {nearest(name, library.list_models())}`timm.list_models()` "
            "has all names"
        )
    try:
        create = pretrained_network if pretrained else library.create_model
        network = create(name, num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"encoder 'timm:{name}': its weights cannot be had ({_line(error)}); run once with a "
            "network, so that timm keeps them"
        ) from None
    published = network.pretrained_cfg
    crop = int(published.get("input_size", (3, 224, 224))[-1])
    share = float(published.get("crop_pct") or 0.875)
    square = published.get("crop_mode") == "squash"
    preprocessing = Preprocessing(
        crop=crop,
        side=None if square else int(crop / share),
        filter=_filter(published.get("interpolation") or "bilinear"),
        mean=tuple(published.get("mean", IMAGENET_MEAN)),
        std=tuple(published.get("std", IMAGENET_STD)),
    )
    dimensions = int(network.num_features)
    head = getattr(network, "head_hidden_size", None)
    tag = published.get("tag") or ""
    return Encoder(network, _call, int(head or dimensions), preprocessing, f"timm {name} {tag}")


def _call(network: nn.Module, pictures: Tensor) -> Tensor:
    values: Tensor = network(pictures)
    return values


def _hf(what: str, pretrained: bool, online: bool) -> Encoder:
    """The picture side of a model of transformers, from a folder or a hub's id."""
    if importlib.util.find_spec("transformers") is None:
        raise UsageError(
            f"encoder 'hf:{what}' needs transformers: `pip install transformers` (the extra [hf])"
        )
    import transformers

    folder = Path(what).expanduser()
    place: dict[str, Any] = {} if folder.is_dir() else {"local_files_only": not online}
    at = str(folder) if folder.is_dir() else what
    try:
        config = transformers.AutoConfig.from_pretrained(at, trust_remote_code=False, **place)
        if pretrained:
            network = transformers.AutoModel.from_pretrained(
                at, config=config, trust_remote_code=False, use_safetensors=True, **place
            )
        else:
            network = transformers.AutoModel.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        advice = "" if online or folder.is_dir() else "; victim.online=true asks the network"
        raise UsageError(
            f"encoder 'hf:{what}': expected a folder or a model on this machine with config.json "
            f"and safetensors ({_line(error)}){advice}"
        ) from None
    if not _sees(network):
        raise UsageError(
            f"encoder 'hf:{what}': expected a model of pictures, got {config.model_type}"
        )
    size = getattr(getattr(config, "vision_config", config), "image_size", 224)
    preprocessing = _processor(at, place, int(size if isinstance(size, int) else size[0]))
    probe = torch.zeros(1, 3, preprocessing.crop, preprocessing.crop)
    with torch.no_grad():
        dimensions = hf_features(network.eval(), probe).shape[1]
    digest = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True, default=str).encode())
    revision = getattr(config, "_commit_hash", None) or digest.hexdigest()[:12]
    return Encoder(network, hf_features, dimensions, preprocessing, f"hf {what} {revision}")


def _sees(network: nn.Module) -> bool:
    return (
        hasattr(network, "get_image_features")
        or getattr(network, "main_input_name", "") == "pixel_values"
    )


def hf_features(network: nn.Module, pictures: Tensor) -> Tensor:
    """(B,D): a dual encoder's projected picture, else the pooled output, else the mean token."""
    given: Any = network
    if hasattr(given, "get_image_features"):
        values = given.get_image_features(pixel_values=pictures)
        return values if isinstance(values, Tensor) else values.pooler_output
    output = given(pixel_values=pictures)
    pooled: Tensor | None = getattr(output, "pooler_output", None)
    if pooled is None:
        hidden: Tensor = output.last_hidden_state  # (B,L,D) tokens, or (B,D,H,W) maps
        pooled = hidden.mean(dim=1) if hidden.dim() == 3 else hidden.flatten(2).mean(dim=2)
    return pooled.flatten(1)


def _processor(at: str, place: Mapping[str, Any], size: int) -> Preprocessing:
    """What `preprocessor_config.json` says; without one, a plain square of the model's size."""
    import transformers

    try:
        said, _ = transformers.ImageProcessingMixin.get_image_processor_dict(at, **place)
    except OSError:
        said = {}

    def sides(given: object) -> tuple[int | None, int | None]:
        if isinstance(given, Mapping):
            return given.get("shortest_edge"), given.get("height")
        return (given, given) if isinstance(given, int) else (None, None)

    shortest, height = sides(said.get("size"))
    crop = sides(said.get("crop_size"))[1] or height or shortest or size
    cropped = bool(said.get("do_center_crop", "crop_size" in said))
    return Preprocessing(
        crop=int(crop),
        side=int(shortest or height or crop) if cropped or (shortest and not height) else None,
        filter=_filter(said.get("resample", 2)),
        mean=tuple(said.get("image_mean") or (0.5, 0.5, 0.5)),
        std=tuple(said.get("image_std") or (0.5, 0.5, 0.5)),
    )


def _filter(name: object) -> Filter:
    if name not in FILTERS:
        raise ConfigError(f"expected a resize by {', '.join(map(str, FILTERS))}, got {name}")
    return FILTERS[name]


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


SOURCES: Mapping[str, Callable[[str, bool, bool], Encoder]] = {"timm": _timm, "hf": _hf}
