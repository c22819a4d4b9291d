"""Where an encoder comes from, by the prefix of its name: `timm:NAME`, `hf:FOLDER or ID`.

Weights are read from safetensors or from timm's own cache and packages, never from a pickle, and
nothing is fetched from a network unless the user asked for it.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advhash.errors import ConfigError, UsageError, nearest
from advhash.registry import ENCODER_PREFIXES
from advhash.storage.files import sha256
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
    """

    network: nn.Module
    features: Callable[[nn.Module, Tensor], Tensor]
    dimensions: int
    preprocessing: Preprocessing


def open_encoder(name: str, *, pretrained: bool, online: bool, description: str = "") -> Encoder:
    """The encoder that `prefix:what` names; without `pretrained` its structure, random weights.

    description: see `describe`; with it, a structure needs no files of the encoder

    Raises UsageError: an unknown prefix or model, weights that are not on this machine, a missing
    package.
    """
    prefix, what = _parts(name)
    if prefix == "timm":
        return _timm(what, pretrained)
    return _hf(what, pretrained, online, description)


def describe(name: str, *, pretrained: bool, online: bool) -> str:
    """What the files of an encoder say besides the values of its weights, as JSON.

    Configuration and preprocessing, which a checkpoint needs, and the digest or the commit of the
    weights, which tells them apart from others of that name. Empty for timm, whose release says it
    all. Raises UsageError.
    """
    prefix, what = _parts(name)
    if prefix == "timm":
        return ""
    config, place = _hf_config(what, online)
    folder = Path(what).expanduser()
    weights = ""
    if pretrained and folder.is_dir():
        files = sorted(folder.glob("*.safetensors"))
        weights = " ".join(
            f"{file.name} {_digest(file.resolve(), file.stat().st_mtime_ns)}" for file in files
        )
    elif pretrained:
        weights = str(getattr(config, "_commit_hash", None))
    said = {
        "config": config.to_diff_dict(),
        "preprocessing": asdict(_processor(what, place, _side(config))),
        "weights": weights,
    }
    return json.dumps(said, sort_keys=True, default=str)


@functools.cache
def _digest(file: Path, changed: int) -> str:
    """SHA-256 of a file, read again where its time of change is another."""
    return sha256(file)


def _parts(name: str) -> tuple[str, str]:
    prefix, _, what = name.partition(":")
    if prefix not in ENCODER_PREFIXES:
        raise UsageError(
            f"encoder {name!r}: expected {', '.join(f'{known}:…' for known in ENCODER_PREFIXES)}"
        )
    if not what:
        raise UsageError(f"encoder {name!r}: expected the name of a model behind {prefix}:")
    return prefix, what


def _timm(name: str, pretrained: bool) -> Encoder:
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
    return Encoder(network, _call, int(head or dimensions), preprocessing)


def _call(network: nn.Module, pictures: Tensor) -> Tensor:
    values: Tensor = network(pictures)
    return values


def _hf(what: str, pretrained: bool, online: bool, description: str) -> Encoder:
    """The picture side of a model of transformers, from a folder or a hub's id."""
    if description and not pretrained:
        config, preprocessing = _described(what, description)
        place: dict[str, Any] = {}
    else:
        config, place = _hf_config(what, online)
        preprocessing = _processor(what, place, _side(config))
    import transformers

    try:
        if pretrained:
            with _without_bar(transformers.utils.logging):
                network = transformers.AutoModel.from_pretrained(
                    _at(what),
                    config=config,
                    trust_remote_code=False,
                    use_safetensors=True,
                    **place,
                )
        else:
            network = transformers.AutoModel.from_config(config, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _absent(what, online, error) from None
    if not _sees(network):
        raise UsageError(
            f"encoder 'hf:{what}': expected a model of pictures, got {config.model_type}"
        )
    probe = torch.zeros(1, 3, preprocessing.crop, preprocessing.crop)
    with torch.no_grad():
        dimensions = hf_features(network.eval(), probe).shape[1]
    return Encoder(network, hf_features, dimensions, preprocessing)


@contextmanager
def _without_bar(logging: Any) -> Iterator[None]:
    """Inside, transformers draws no progress bar of its own, which `--quiet` would not silence."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _hf_config(what: str, online: bool) -> tuple[Any, dict[str, Any]]:
    """The configuration of a model, and how its files are to be asked for."""
    transformers = _transformers(what)
    place: dict[str, Any] = (
        {} if Path(what).expanduser().is_dir() else {"local_files_only": not online}
    )
    try:
        config = transformers.AutoConfig.from_pretrained(
            _at(what), trust_remote_code=False, **place
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _absent(what, online, error) from None
    return config, place


def _described(what: str, description: str) -> tuple[Any, Preprocessing]:
    """Configuration and preprocessing as `describe` wrote them."""
    transformers = _transformers(what)
    try:
        said = json.loads(description)
        config = transformers.AutoConfig.for_model(**said["config"])
        prepared = {**said["preprocessing"]}
        for key in ("mean", "std"):
            prepared[key] = tuple(map(float, prepared[key]))
        return config, Preprocessing(**prepared)
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"encoder 'hf:{what}': expected a description that advhash wrote ({_line(error)})"
        ) from None


def _at(what: str) -> str:
    """A folder with the home of the user written out, or an id of the hub."""
    folder = Path(what).expanduser()
    return str(folder) if folder.is_dir() else what


def _transformers(what: str) -> Any:
    if importlib.util.find_spec("transformers") is None:
        raise UsageError(
            f"encoder 'hf:{what}' needs transformers: `pip install transformers` (the extra [hf])"
        )
    import transformers

    return transformers


def _absent(what: str, online: bool, error: Exception) -> UsageError:
    folder = Path(what).expanduser()
    if folder.is_dir():
        cause, advice = _line(error), ""
    elif what.startswith((".", "/", "~")):  # no id of the hub looks like that
        cause, advice = "no such folder", ""
    else:
        cause, advice = _line(error), "" if online else "; victim.online=true asks the network"
    return UsageError(
        f"encoder 'hf:{what}': expected a folder or a model on this machine with config.json "
        f"and safetensors ({cause}){advice}"
    )


def _side(config: Any) -> int:
    """The side of the pictures that a model is made for."""
    size = getattr(getattr(config, "vision_config", config), "image_size", 224)
    return int(size if isinstance(size, int) else size[0])


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


def _processor(what: str, place: Mapping[str, Any], size: int) -> Preprocessing:
    """What `preprocessor_config.json` says; without one, a plain square of the model's size."""
    import transformers

    try:
        said, _ = transformers.ImageProcessingMixin.get_image_processor_dict(_at(what), **place)
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
