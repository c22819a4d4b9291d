"""Networks from text to real codes, one for each kind of text that a data set can hold.

words     `TextLayers`       counts (B,V), as in DCMH and DLCMH
sentence  `TextLayers`       embeddings (B,384) of a frozen network
tokens    `TextTransformer`  ids (B,L), or their relaxation (B,L,V)
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from advhash.data.dataset import Dataset, TextKind
from advhash.data.text.characters import LAST
from advhash.data.text.kinds import PADDING, UNKNOWN
from advhash.errors import DataError, UsageError


def text_arguments(data: Dataset, victim: str) -> dict[str, object]:
    """`text`, `text_size` and `image_size` of a victim of both modalities. Raises DataError.

    text_size: V columns, V tokens, or the 384 numbers of an embedding
    """
    if not {"image", "text"} <= set(data.modalities):
        raise DataError(
            f"{victim} needs images and text: {data.name!r} has {', '.join(data.modalities)}"
        )
    if data.text_kind == "characters":
        raise DataError(
            f"{victim} learns words, tokens or embeddings: expected one of these, got the texts "
            "themselves (text=characters); set dataset.text=words"
        )
    columns = data.database.tensor("text").shape[1]
    return {
        "text": data.text_kind,
        "text_size": len(data.vocabulary) if data.text_kind == "tokens" else columns,
        "image_size": data.database.tensor("image").shape[-1],
    }


def text_bounds(text: TextKind, text_size: int) -> tuple[float, float]:
    """The range of each number of a text: counts, ids, or entries of a vector of unit length.

    >>> text_bounds("tokens", 500)
    (0.0, 499.0)
    """
    ranges: Mapping[TextKind, tuple[float, float]] = {
        "words": (0.0, 255.0),
        "tokens": (0.0, text_size - 1.0),
        "sentence": (-1.0, 1.0),
        "characters": (0.0, float(LAST)),
    }
    return ranges[text]


def code_layer(size: int, bits: int) -> nn.Linear:
    """A linear layer of K outputs that begins near 0, so that no objective begins saturated."""
    layer = nn.Linear(size, bits)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.normal_(layer.bias, std=0.01)
    return layer


def text_encoder(
    text: TextKind,
    *,
    text_size: int,
    bits: int,
    width: int,
    dropout: float,
    word_dropout: float,
    normalise_text: bool,
) -> nn.Module:
    """The network for a kind of text, (B, …) → (B,K).

    width: hidden units of `TextLayers`; the transformer has its own size
    word_dropout: share of the columns, or of the tokens, that training hides
    """
    if text == "tokens":
        return TextTransformer(text_size, bits, dropout=dropout, word_dropout=word_dropout)
    return TextLayers(
        text_size,
        bits,
        width=width,
        dropout=dropout,
        word_dropout=word_dropout,
        normalise_text=normalise_text,
    )


class TextLayers(nn.Sequential):
    """(B,V) counts or (B,384) embeddings → (B,K): one hidden layer of `width` ReLU units."""

    def __init__(
        self,
        text_size: int,
        bits: int,
        *,
        width: int,
        dropout: float,
        word_dropout: float,
        normalise_text: bool,
    ) -> None:
        super().__init__(
            nn.Dropout(word_dropout),
            nn.Linear(text_size, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            code_layer(width, bits),
        )
        self.normalise_text = normalise_text

    def forward(self, text: Tensor) -> Tensor:
        if self.normalise_text:
            text = functional.normalize(text, dim=1)
        for layer in self:
            text = layer(text)
        return text


class TextTransformer(nn.Module):
    """(B,L) ids → (B,K): embeddings, positions, attention, the mean over tokens, a linear layer.

    An encoder as of Vaswani et al., NeurIPS 2017, with their sinusoidal positions, so that texts
    of any length fit, and with the normalisation before each layer. Padding (id 0) is neither
    attended to nor in the mean: how much of it follows a text changes nothing.

    The relaxation, for gradients: (B,L,V) weights of the tokens, float. One-hot rows give what
    their ids give; other rows stand for the weighted sum of embeddings. A position whose largest
    weight is that of padding counts as padding.

    width: of the embeddings and of all layers; the inner layers have twice as many units
    word_dropout: share of the tokens that training replaces by the unknown word
    """

    def __init__(
        self,
        tokens: int,
        bits: int,
        *,
        width: int = 128,
        heads: int = 4,
        layers: int = 2,
        dropout: float = 0.3,
        word_dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.word_dropout = word_dropout
        self.embedding = nn.Embedding(tokens, width, padding_idx=PADDING)
        layer = nn.TransformerEncoderLayer(
            width,
            heads,
            2 * width,
            dropout=dropout,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(
            layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        self.dropout = nn.Dropout(dropout)
        self.head = code_layer(width, bits)

    def forward(self, text: Tensor) -> Tensor:
        """Raises UsageError: neither whole ids (B,L) nor weights (B,L,V)."""
        padded = self._padding(text)
        length = max(int((~padded).sum(dim=1).max()), 1) if _trailing(padded) else text.shape[1]
        text, padded = text[:, :length], padded[:, :length]
        if self.training and self.word_dropout:
            text = self._hidden(text, padded)
        if text.dim() == 3:
            embedded = text @ self.embedding.weight
        else:
            embedded = self.embedding(text)
        width = embedded.shape[2]
        places = positions(length, width).to(embedded)
        states = self.layers(
            self.dropout(embedded * math.sqrt(width) + places), src_key_padding_mask=padded
        )
        used = (~padded).unsqueeze(2).to(states)
        codes: Tensor = self.head((states * used).sum(dim=1) / used.sum(dim=1))
        return codes

    def _padding(self, text: Tensor) -> Tensor:
        """(B,L) bool. The first position always counts, so that no text is without any."""
        if text.dim() == 2 and not text.is_floating_point():
            padded = text == PADDING
        elif text.dim() == 3 and text.is_floating_point() and text.shape[2] == self.tokens:
            padded = text.detach().argmax(dim=2) == PADDING
        else:
            raise UsageError(
                f"expected tokens as whole numbers (B,L) or their weights (B,L,{self.tokens}), "
                f"got {text.dtype} {tuple(text.shape)}"
            )
        padded[:, 0] = False
        return padded

    def _hidden(self, text: Tensor, padded: Tensor) -> Tensor:
        """A random share of the tokens as the unknown word."""
        drawn = (torch.rand(padded.shape, device=text.device) < self.word_dropout) & ~padded
        if text.dim() == 2:
            return text.masked_fill(drawn, UNKNOWN)
        unknown = functional.one_hot(torch.tensor(UNKNOWN), self.tokens).to(text)
        return torch.where(drawn.unsqueeze(2), unknown, text)


def _trailing(padded: Tensor) -> bool:
    """Whether padding stands at the end of every row only, so that it can be cut off."""
    return bool((padded[:, 1:] >= padded[:, :-1]).all())


def positions(length: int, width: int) -> Tensor:
    """(L,D): sin and cos of the place at wavelengths from 2π to 10000·2π.

    Vaswani et al., NeurIPS 2017. D is even.
    """
    place = torch.arange(length).unsqueeze(1)
    rate = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    return torch.stack([torch.sin(place * rate), torch.cos(place * rate)], dim=2).flatten(1)
