"""The text side of an encoder: from tokens to features, pooled as the model was made for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from advhash.victims.encoders.tokens import Reading, Tokens

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "lasttoken")  # in the order of joining
ACTIVATIONS = {each.__name__: each for each in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.Sigmoid)}


@dataclass(frozen=True)
class TextSide:
    """How a network reads texts.

    features:  (network, tokens) → (B,D)
    embedding: the layer of the network that makes a vector of each token
    reading:   how texts become tokens
    document:  the tokeniser; "" where only the structure is asked for: it lies with the weights
    """

    features: Callable[[nn.Module, Tokens], Tensor]
    embedding: Callable[[nn.Module], nn.Embedding]
    reading: Reading
    document: str = ""


@dataclass(frozen=True)
class Pooling:
    """From the last hidden states to features: pooled, linear layers, unit length.

    modes:     of POOLINGS, joined where there are several
    layers:    in, out, bias and activation of each linear layer
    normalise: whether features get unit length
    """

    modes: tuple[str, ...] = ("mean",)
    layers: tuple[tuple[int, int, bool, str], ...] = ()
    normalise: bool = False

    def __post_init__(self) -> None:
        known = set(self.modes) <= set(POOLINGS) and len(self.modes) > 0
        if not known or any(layer[3] not in ACTIVATIONS for layer in self.layers):
            raise ValueError(f"no pooling of {', '.join(POOLINGS)}: {self.modes}, {self.layers}")

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Pooling:
        """From JSON. Raises KeyError, TypeError, ValueError."""
        layers = tuple(
            (int(width), int(out), bool(bias), str(name))
            for width, out, bias, name in said["layers"]
        )
        return cls(tuple(map(str, said["modes"])), layers, bool(said["normalise"]))


class PooledText(nn.Module):
    """A model of transformers that reads tokens, and what its features go through behind it."""

    def __init__(self, model: nn.Module, pooling: Pooling) -> None:
        super().__init__()
        self.model = model
        self.pooling = pooling
        self.dense = nn.ModuleList(
            nn.Linear(width, out, bias=bias) for width, out, bias, _ in pooling.layers
        )

    def forward(self, tokens: Tokens) -> Tensor:
        """(B,D) features."""
        hidden = self.model(input_ids=tokens.ids, attention_mask=tokens.mask).last_hidden_state
        values = pooled(self.pooling.modes, hidden, tokens.mask)
        for layer, (_, _, _, name) in zip(self.dense, self.pooling.layers, strict=True):
            values = ACTIVATIONS[name]()(layer(values))
        return nn.functional.normalize(values, dim=1) if self.pooling.normalise else values


def pooled(modes: Sequence[str], hidden: Tensor, mask: Tensor) -> Tensor:
    """(B,D·n) of (B,T,D) hidden states and a (B,T) mask, one after the other for n modes."""
    real = mask.unsqueeze(2).to(hidden)
    count = real.sum(dim=1).clamp_min(1e-9)
    numbers = torch.arange(1, mask.shape[1] + 1, device=mask.device) * mask
    rows = torch.arange(len(hidden), device=hidden.device)
    parts = []
    for mode in [known for known in POOLINGS if known in modes]:
        if mode == "cls":
            first = torch.where(mask > 0, numbers, mask.shape[1] + 1).argmin(dim=1)
            parts.append(hidden[rows, first])
        elif mode == "lasttoken":
            parts.append(hidden[rows, numbers.argmax(dim=1)])
        elif mode == "max":
            parts.append(hidden.masked_fill(real == 0, -1e9).amax(dim=1))
        else:
            total = (hidden * real).sum(dim=1)
            parts.append(total / (count if mode == "mean" else count.sqrt()))
    return torch.cat(parts, dim=1)


def pooled_features(network: nn.Module, tokens: Tokens) -> Tensor:
    """The settings of a `PooledText`."""
    values: Tensor = network(tokens)
    return values


def pooled_embedding(network: nn.Module) -> nn.Embedding:
    assert isinstance(network, PooledText)
    return input_embedding(network.model)


def dual_features(network: nn.Module, tokens: Tokens) -> Tensor:
    """(B,D) a dual encoder's projected text."""
    given: Any = network
    values = given.get_text_features(input_ids=tokens.ids, attention_mask=tokens.mask)
    return values if isinstance(values, Tensor) else values.pooler_output


def unmasked_features(network: nn.Module, tokens: Tokens) -> Tensor:
    """The same of a model that reads padding like tokens, as SigLIP does."""
    given: Any = network
    values = given.get_text_features(input_ids=tokens.ids)
    return values if isinstance(values, Tensor) else values.pooler_output


def dual_embedding(network: nn.Module) -> nn.Embedding:
    given: Any = network
    return input_embedding(given.text_model)


def input_embedding(model: Any) -> nn.Embedding:
    layer = model.get_input_embeddings()
    assert isinstance(layer, nn.Embedding)
    return layer
