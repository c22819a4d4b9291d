"""Where an encoder comes from, by the prefix of its name: `timm:`, `hf:`, `st:` or `onnx:`.

Weights are read from safetensors or from timm's own cache and packages, never from a pickle, and
nothing is fetched from a network unless the user asked for it.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from advhash.data.dataset import Modality
from advhash.errors import UsageError, nearest
from advhash.registry import ENCODER_PREFIXES
from advhash.storage.documents import read_json, reason
from advhash.storage.files import sha256
from advhash.storage.places import user_path
from advhash.victims.encoders import onnx_file
from advhash.victims.encoders.onnx_network import OnnxFacts, OnnxNetwork
from advhash.victims.encoders.picture_files import filter_called, read_preprocessing
from advhash.victims.encoders.preprocessing import Preprocessing
from advhash.victims.encoders.text_folders import (
    TextFiles,
    check_tokeniser,
    described_side,
    model_folder,
    not_kept,
    read_text_side,
    sentence_folder,
    side_of,
    text_dimensions,
    with_dense,
)
from advhash.victims.encoders.text_side import PooledText, Pooling, TextSide
from advhash.victims.networks.backbones import IMAGENET_MEAN, IMAGENET_STD
from advhash.victims.networks.library import timm
from advhash.victims.networks.pretrained import expect_weights, pretrained_network
from advhash.victims.perceptual.resampling import Filter

MOST_PIXELS = 4096  # a side
PICTURES = ("timm", "onnx")  # prefixes of what sees pictures alone
LIBRARIES: Mapping[str, tuple[str, ...]] = {
    "hf": ("transformers", "tokenizers"),
    "st": ("transformers", "tokenizers"),
    "onnx": onnx_file.PACKAGES,
}


@dataclass(frozen=True)
class Encoder:
    """A network from prepared pictures to features, or from texts, or both.

    network:       its module; `features(network, pictures)` gives (B,D)
    dimensions:    D
    preprocessing: what comes before it; None where it sees no pictures
    texts:         how it reads texts; None where it reads none
    no_gradient:   why it gives none; empty where it does
    """

    network: nn.Module
    features: Callable[[nn.Module, Tensor], Tensor]
    dimensions: int
    preprocessing: Preprocessing | None
    texts: TextSide | None = None
    no_gradient: str = ""


@dataclass(frozen=True, kw_only=True)
class Unsaid:
    """What a file of ONNX does not say, and the user may.

    output:      the tensor that is to be the features; None: the only output
    image_size:  pixels a side of what the network is fed, where the file leaves it free
    resize:      the shorter side before the middle is cut out; None: squashed to the square
    filter:      of that resize
    pixel_range: what white is before mean and deviation: 1 or 255
    mean, std:   of each channel, in that range; None: those of ImageNet
    """

    output: str | None = None
    image_size: int | None = None
    resize: int | None = None
    filter: Filter = "bilinear"
    pixel_range: float = 1.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def check(self, name: str) -> None:
        """Raise UsageError for numbers that cannot be, and for an encoder that says it itself."""
        prefix, _ = _parts(name)
        said = [field for field, value in asdict(self).items() if value != getattr(Unsaid, field)]
        if said and prefix != "onnx":
            raise UsageError(
                f"victim.{said[0]} says what a file of ONNX does not: expected none for {name}, "
                "which brings its preprocessing"
            )
        for field, value in (("image_size", self.image_size), ("resize", self.resize)):
            if value is not None and not 1 <= value <= MOST_PIXELS:
                raise UsageError(f"expected victim.{field} from 1 to {MOST_PIXELS}, got {value}")
        if not 0 < self.pixel_range < float("inf"):
            raise UsageError(f"expected victim.pixel_range above 0, got {self.pixel_range}")
        for field, numbers in (("mean", self.mean), ("std", self.std)):
            if numbers is not None and len(numbers) != 3:
                raise UsageError(f"expected 3 numbers in victim.{field}, got {len(numbers)}")
        if self.std is not None and not min(self.std) > 0:
            raise UsageError(f"expected victim.std above 0, got {min(self.std)}")

    def preprocessing(self, side: int) -> Preprocessing:
        """What comes before a network that is fed side × side pixels."""
        mean, std = (
            tuple(
                value / self.pixel_range if given else float(value)
                for value in given or (IMAGENET_MEAN, IMAGENET_STD)[place]
            )
            for place, given in enumerate((self.mean, self.std))
        )
        return Preprocessing(
            side, self.resize or side, self.filter, mean, std, squashed=self.resize is None
        )


SAID = Unsaid()  # nothing


def open_encoder(
    name: str,
    *,
    pretrained: bool,
    online: bool,
    description: str = "",
    side: Modality | None = None,
    unsaid: Unsaid = SAID,
) -> Encoder:
    """The encoder that `prefix:what` names; without `pretrained` its structure, random weights.

    description: see `describe`; with it, a structure needs no files of the encoder
    side:        the only one that is wanted of a dual encoder
    unsaid:      what the user says of a file of ONNX

    Raises UsageError: an unknown prefix or model, weights that are not on this machine, a missing
    package or tokeniser, a side that it does not have.
    """
    prefix, what = _parts(name)
    unsaid.check(name)
    if prefix in PICTURES:
        _expect_side(name, side, ("image",))
    if prefix == "timm":
        return _timm(what, pretrained, online)
    if prefix == "onnx":
        return _onnx(what, pretrained, description, unsaid)
    return _transformer(name, pretrained, online, description, side)


def libraries(name: str) -> tuple[str, ...]:
    """The packages whose versions determine codes, besides torch and timm."""
    return LIBRARIES.get(name.partition(":")[0], ())


def sides_of(
    name: str, *, online: bool, side: Modality | None = None, unsaid: Unsaid = SAID
) -> tuple[Modality, ...]:
    """Whether an encoder sees pictures, reads texts or both. Raises UsageError."""
    prefix, _ = _parts(name)
    sides: tuple[Modality, ...] = ("image",)
    if prefix not in PICTURES:
        sides = _sides(Files.of(name, online))
    return _expect_side(name, side, sides)


def picture_side(
    name: str, *, online: bool, side: Modality | None = None, unsaid: Unsaid = SAID
) -> int | None:
    """The side of the pictures that its network is fed, in pixels; None: it sees none.

    Raises UsageError.
    """
    if "image" not in sides_of(name, online=online, side=side, unsaid=unsaid):
        return None
    if _parts(name)[0] not in PICTURES:
        return _preprocessing(Files.of(name, online)).crop
    encoder = open_encoder(name, pretrained=False, online=online, unsaid=unsaid)
    return None if encoder.preprocessing is None else encoder.preprocessing.crop


def _expect_side(
    name: str, side: Modality | None, sides: tuple[Modality, ...]
) -> tuple[Modality, ...]:
    """The sides that are wanted. Raises UsageError."""
    if side is not None and side not in sides:
        raise UsageError(f"encoder {name!r}: expected victim.side={' or '.join(sides)}, got {side}")
    return sides if side is None else (side,)


def describe(
    name: str,
    *,
    pretrained: bool,
    online: bool,
    side: Modality | None = None,
    unsaid: Unsaid = SAID,
) -> str:
    """What the files of an encoder say besides the values of its weights, as JSON.

    Configuration and preprocessing, which a checkpoint needs, and the digest or the commit of the
    weights, which tells them apart from others of that name. Empty for timm, whose release says it
    all. Raises UsageError.
    """
    prefix, what = _parts(name)
    unsaid.check(name)
    if prefix in PICTURES:
        _expect_side(name, side, ("image",))
        if prefix == "timm" and pretrained:
            expect_weights(what, online=online)
        return _read_onnx(what, unsaid)[1].text() if prefix == "onnx" else ""
    files = Files.of(name, online)
    said: dict[str, Any] = {"config": files.config.to_diff_dict()}
    sides = _expect_side(name, side, _sides(files))
    if "image" in sides:
        said["preprocessing"] = asdict(_preprocessing(files))
    if "text" in sides:
        said["text"] = _text_files(files).described()
    said["pooler"] = _has_pooler(files, sides, pretrained)
    said["weights"] = files.weights() if pretrained else ""
    return json.dumps(said, sort_keys=True, default=str)


def described_sides(description: str) -> tuple[Modality, ...]:
    """What an encoder reads that `describe` described; without a description, pictures."""
    said = json.loads(description)
    names: tuple[tuple[Modality, str], ...] = (("image", "preprocessing"), ("text", "text"))
    return tuple(side for side, key in names if key in said) or ("image",)


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


def _timm(name: str, pretrained: bool, online: bool) -> Encoder:
    """A network of timm without its classifier, prepared as timm evaluates it."""
    library = timm()
    if not library.is_model(name):
        raise UsageError(
            f"encoder 'timm:{name}': {nearest(name, library.list_models())}`timm.list_models()` "
            "has all names"
        )
    try:
        if pretrained:
            network = pretrained_network(name, online=online, num_classes=0)
        else:
            network = library.create_model(name, num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"encoder 'timm:{name}': its weights cannot be had ({reason(error)}); run once with "
            "victim.online=true and a network, so that timm keeps them"
        ) from None
    published = network.pretrained_cfg
    crop = int(published.get("input_size", (3, 224, 224))[-1])
    share = float(published.get("crop_pct") or 0.875)
    mode = published.get("crop_mode") or "center"
    if mode not in ("center", "squash"):
        raise UsageError(
            f"encoder 'timm:{name}': expected pictures that are cropped or squashed, got crop_mode "
            f"{mode!r}; bring it as onnx:FILE or as a function of yours"
        )
    preprocessing = Preprocessing(
        crop=crop,
        side=int(crop / share),
        filter=filter_called(published.get("interpolation") or "bilinear"),
        mean=tuple(published.get("mean", IMAGENET_MEAN)),
        std=tuple(published.get("std", IMAGENET_STD)),
        squashed=mode == "squash",
    )
    dimensions = int(network.num_features)
    head = getattr(network, "head_hidden_size", None)
    return Encoder(network, _channels_last, int(head or dimensions), preprocessing)


def _onnx(what: str, pretrained: bool, description: str, unsaid: Unsaid) -> Encoder:
    """A model of ONNX; without `pretrained` its place, which a checkpoint fills."""
    content = None
    if pretrained or not description:
        content, facts = _read_onnx(what, unsaid)
    else:
        facts = OnnxFacts.of_text(description)
    return Encoder(
        OnnxNetwork(facts, content),
        _call,
        facts.dimensions,
        unsaid.preprocessing(facts.side),
        no_gradient=facts.no_gradient,
    )


def _read_onnx(what: str, unsaid: Unsaid) -> tuple[bytes, OnnxFacts]:
    path = user_path(what)
    return onnx_file.read_model(path, output=unsaid.output, side=unsaid.image_size)


def _call(network: nn.Module, pictures: Tensor) -> Tensor:
    values: Tensor = network(pictures)
    return values


def _channels_last(network: nn.Module, pictures: Tensor) -> Tensor:
    """The same in the layout in which convolutions take some 0.7 of the time on a CPU."""
    return _call(network, pictures.contiguous(memory_format=torch.channels_last))


@dataclass(frozen=True)
class Files:
    """Where the files of a model of transformers lie, and its configuration.

    name:      as the user wrote it, `hf:…` or `st:…`
    what:      a folder, or an id of the hub
    place:     how the files are to be asked for
    sentences: the folder of sentence-transformers around the model
    """

    name: str
    what: str
    place: Mapping[str, Any]
    config: Any
    sentences: Path | None = None

    @classmethod
    def of(cls, name: str, online: bool) -> Files:
        """Raises UsageError."""
        prefix, what = _parts(name)
        transformers = _transformers(name)
        sentences = None
        if prefix == "st":
            sentences = sentence_folder(what, online)
            what = str(model_folder(sentences, name))
        folder = Path(what).expanduser()
        what = str(folder) if folder.is_dir() else what
        place = {} if folder.is_dir() else {"local_files_only": not online}
        try:
            config = transformers.AutoConfig.from_pretrained(what, trust_remote_code=False, **place)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise _absent(name, what, online, error) from None
        return cls(name, what, place, config, sentences)

    @property
    def folder(self) -> Path | None:
        """None where the hub's cache has the files."""
        folder = Path(self.what)
        return folder if folder.is_dir() else None

    def weights(self) -> str:
        """The digests of all weights in the folder, or the commit of the hub."""
        if self.folder is None:
            return str(getattr(self.config, "_commit_hash", None))
        around = self.sentences or self.folder
        files = sorted({*self.folder.glob("*.safetensors"), *around.rglob("*.safetensors")})
        return " ".join(
            f"{os.path.relpath(file, around)} {_digest(file.resolve(), file.stat().st_mtime_ns)}"
            for file in files
        )


def _transformer(
    name: str, pretrained: bool, online: bool, description: str, side: Modality | None
) -> Encoder:
    """A model of transformers, from a folder, a package or a hub's id, or as it is described."""
    preprocessing: Preprocessing | None = None
    texts: TextSide | None = None
    pooling: Pooling | None = None
    beside: TextFiles | None = None
    files: Files | None = None
    if description and not pretrained:
        config, preprocessing, texts, pooling, pooler = _described(name, description)
    else:
        files = Files.of(name, online)
        config, sides = files.config, _expect_side(name, side, _sides(files))
        pooler = _has_pooler(files, sides, pretrained)
        if "image" in sides:
            preprocessing = _preprocessing(files)
        if "text" in sides:
            beside = _text_files(files)
            texts, pooling = side_of(beside), beside.pooling
    model = _model(name, config, files if pretrained else None, online, pooler=pooler)
    if pooling is not None:
        reader = PooledText(model, pooling)
        network: nn.Module = reader
        if pretrained and beside is not None:
            with_dense(reader, beside)
    else:
        network = model
    network = network.eval()
    if preprocessing is None:
        dimensions = text_dimensions(config, pooling)
    else:
        probe = torch.zeros(1, 3, preprocessing.crop, preprocessing.crop)
        with torch.no_grad():
            dimensions = hf_features(network, probe).shape[1]
    return Encoder(network, hf_features, dimensions, preprocessing, texts)


def _model(name: str, config: Any, files: Files | None, online: bool, *, pooler: bool) -> nn.Module:
    """The network of a configuration.

    files:  where its weights lie; None: random ones
    pooler: whether it has the layer behind its last hidden state

    Raises UsageError: no weights, or others than the configuration asks for.
    """
    import transformers

    more = {} if pooler or not _takes_no_pooler(config) else {"add_pooling_layer": False}
    try:
        if files is None:
            model: nn.Module = transformers.AutoModel.from_config(
                config, trust_remote_code=False, **more
            )
            return model
        with _without_reports(transformers.utils.logging):
            model, report = transformers.AutoModel.from_pretrained(
                files.what,
                config=config,
                trust_remote_code=False,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # refused below, in one line
                output_loading_info=True,
                **files.place,
                **more,
            )
    except (OSError, ValueError, KeyError, ImportError, safetensors.SafetensorError) as error:
        raise _absent(name, _parts(name)[1], online, error) from None
    _expect_whole(name, model, report)
    return model


def _expect_whole(name: str, model: nn.Module, report: Mapping[str, Any]) -> None:
    """Raise UsageError where weights lack tensors of the network, or have other ones of its layers.

    report: what transformers says of the loading. Heads of other tasks are left out.
    """
    layers = {child for child, _ in model.named_children()}
    further = [
        key
        for key in report["unexpected_keys"]
        if key.partition(".")[0] in layers and any(map(str.isdigit, key.split(".")))
    ]
    faults = {
        "too few": report["missing_keys"],
        "of another shape": [key for key, *_ in report["mismatched_keys"]],
        "of further layers": further,
    }
    for fault, keys in faults.items():
        if keys:
            raise UsageError(
                f"encoder {name!r}: expected the tensors that config.json describes, got "
                f"{len(keys)} {fault}, such as {min(keys)}; save model and configuration together "
                "with save_pretrained"
            )


def _kind(config: Any) -> Any:
    """The class of the network of a configuration; None for one that transformers does not have."""
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    kind = MODEL_MAPPING.get(type(config), None)
    return kind[0] if isinstance(kind, tuple) else kind


def _takes_no_pooler(config: Any) -> bool:
    return "add_pooling_layer" in inspect.signature(_kind(config).__init__).parameters


def _has_pooler(files: Files, sides: Collection[Modality], pretrained: bool) -> bool:
    """Whether features go through the pooler: those of pictures, where the weights have it.

    A model that was saved for another task lacks it, and a random one would say nothing.
    """
    if "image" not in sides:
        return False
    return not pretrained or any("pooler" in key for key in _tensor_names(files))


def _tensor_names(files: Files) -> set[str]:
    """What is in the weights, of one file or several; nothing where there are none."""
    from transformers.utils import cached_file

    try:
        index = cached_file(files.what, "model.safetensors.index.json", **files.place)
        return set(read_json(Path(index))["weight_map"])
    except (OSError, ValueError, LookupError, TypeError):
        pass  # not in several files
    try:
        file = cached_file(files.what, "model.safetensors", **files.place)
        with safetensors.safe_open(file, framework="pt") as stored:
            return set(stored.keys())
    except (OSError, safetensors.SafetensorError):
        return set()  # refused where they are loaded


def _sides(files: Files) -> tuple[Modality, ...]:
    """What a model of that configuration is fed. Raises UsageError: neither pictures nor texts."""
    config = files.config
    kind = _kind(config)
    if config.model_type == "timm_wrapper":
        raise UsageError(f"encoder {files.name!r} is a network of timm: name it timm:NAME")
    if hasattr(kind, "get_image_features") and hasattr(kind, "get_text_features"):
        return ("image", "text")
    wanted = getattr(kind, "main_input_name", None)
    if wanted == "pixel_values":
        return ("image",)
    if wanted == "input_ids" and not getattr(config, "is_encoder_decoder", False):
        return ("text",)
    raise UsageError(
        f"encoder {files.name!r}: expected a model of pictures or an encoder of texts, got "
        f"{config.model_type}"
    )


def _text_files(files: Files) -> TextFiles:
    """Raises UsageError: no tokeniser, or one that cannot be kept."""
    import transformers

    if files.folder is not None:
        check_tokeniser(files.folder, files.name)
    try:
        tokeniser = transformers.AutoTokenizer.from_pretrained(
            files.what, trust_remote_code=False, **files.place
        )
    except (OSError, ValueError, KeyError, ImportError, TypeError) as error:
        raise UsageError(
            f"encoder {files.name!r}: expected a tokeniser beside the model, got one that "
            f"transformers does not read ({reason(error)}); save it anew with "
            "tokenizer.save_pretrained"
        ) from None
    dual = len(_sides(files)) == 2
    return read_text_side(
        files.folder, files.config, tokeniser, files.name, dual=dual, sentences=files.sentences
    )


@contextmanager
def _without_reports(logging: Any) -> Iterator[None]:
    """Inside, transformers draws no progress bar and reports nothing: advhash does."""
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _described(
    name: str, description: str
) -> tuple[Any, Preprocessing | None, TextSide | None, Pooling | None, bool]:
    """Configuration, preprocessing, text side and pooler as `describe` wrote them."""
    transformers = _transformers(name)
    try:
        said = json.loads(description)
        config = transformers.AutoConfig.for_model(**said["config"])
        preprocessing = texts = pooling = None
        if "preprocessing" in said:
            prepared = {**said["preprocessing"]}
            for key in ("mean", "std"):
                prepared[key] = tuple(map(float, prepared[key]))
            preprocessing = Preprocessing(**prepared)
        if "text" in said:
            texts, pooling = described_side(said["text"])
        if preprocessing is None and texts is None:
            raise ValueError("neither pictures nor texts")
        return config, preprocessing, texts, pooling, bool(said["pooler"])
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"encoder {name!r}: expected a description that advhash wrote ({reason(error)})"
        ) from None


def _preprocessing(files: Files) -> Preprocessing:
    return read_preprocessing(files.what, files.place, files.name)


def _transformers(name: str) -> Any:
    if importlib.util.find_spec("transformers") is None:
        raise UsageError(
            f"encoder {name!r} needs transformers: `pip install transformers` (the extra [hf])"
        )
    import transformers

    return transformers


def _absent(name: str, what: str, online: bool, error: Exception) -> UsageError:
    folder = Path(what).expanduser()
    if folder.is_dir():
        cause, advice = reason(error), "; save it there with model.save_pretrained"
    elif what.startswith((".", "/", "~")):  # no id of the hub looks like that
        cause, advice = "no such folder", ""
    else:
        cause, advice = not_kept(error, online), ""
    return UsageError(
        f"encoder {name!r}: expected a folder or a model on this machine with config.json "
        f"and safetensors ({cause}){advice}"
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
