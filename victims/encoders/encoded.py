"""An encoder of somebody else and a quantiser, as a victim: `--victim timm:NAME`, `st:FOLDER`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset, Modality, Split, TextKind
from advhash.data.paths import Reads
from advhash.data.text.characters import LAST, as_strings
from advhash.errors import ConfigError, DataError, UsageError
from advhash.measures.sanity import Flag
from advhash.registry import QUANTISERS, VICTIMS
from advhash.victims.base import HashVictim
from advhash.victims.encoders.quantisers import Cut, Quantiser
from advhash.victims.encoders.sources import describe, described_sides, open_encoder, sides_of
from advhash.victims.encoders.tokens import Tokeniser, Tokens

AT_ONCE = 64  # texts that are read together


class _Fitted(HashVictim):
    """The buffers of what is learnt."""

    centre: Tensor
    projection: Tensor
    one_sided: Tensor
    document: Tensor


@VICTIMS.register("encoder", source="the encoder's own; its bits by `victim.quantise`")
@dataclass(kw_only=True, eq=False, repr=False)
class Encoded(_Fitted):
    """`timm:NAME`, `hf:FOLDER`, `st:FOLDER`: features of somebody else's network, cut to bits.

    Only the cut is learnt, from training rows: a centre for each side, and one projection for all.
    Pictures are resized, cropped and normalised inside, texts (characters) cut into tokens, as the
    encoder was made for, so that attacks move pictures and texts as they are stored. A dual encoder
    has two sides, each a direction.

    encoder:    `timm:NAME`, `hf:` and a folder or id of transformers, or `st:` and a folder or
                package of sentence-transformers
    quantise:   sign, mean, median, itq, lsh or pca-sign
    bits:       K; by default one a feature
    dimensions: how many of the first features are used; by default all
    side:       image or text, where only one side of a dual encoder is wanted
    pretrained: with the encoder's weights; a checkpoint has its own
    online:     whether the encoder may be fetched from the network
    description: what its files say, see `describe`; it follows from them
    """

    encoder: str
    quantise: str = "mean"
    bits: int | None = None  # type: ignore[assignment]
    dimensions: int | None = None
    side: Literal["image", "text"] | None = None
    pretrained: bool = True
    online: bool = False
    description: str = ""
    settings_decide: ClassVar[bool] = True  # over the preprocessing, which no weight tells
    from_files: ClassVar[frozenset[str]] = frozenset({"description"})
    reads: ClassVar[Reads] = Reads(
        tuple(map(frozenset, (("image",), ("text",), ("image", "text")))), classes=False
    )

    def __post_init__(self) -> None:
        super().__init__()
        self.history = []
        self._quantiser: Quantiser = QUANTISERS.create(self.quantise)
        source = open_encoder(
            self.encoder,
            pretrained=self.pretrained,
            online=self.online,
            description=self.description,
            side=self.side,
        )
        self._features, self._preprocessing = source.features, source.preprocessing
        self._texts = source.texts
        self.bounds = {"image": (0.0, 1.0)} if source.preprocessing is not None else {}
        if source.texts is not None:
            self.bounds = {**self.bounds, "text": (0.0, float(LAST))}
        self.default_database = next(iter(self.bounds))
        self.all_dimensions = source.dimensions
        used = source.dimensions if self.dimensions is None else self.dimensions
        if not 1 <= used <= source.dimensions:
            raise ConfigError(
                f"{self.encoder} has {source.dimensions} features: expected dimensions from 1 to "
                f"that, got {used}"
            )
        self.used, self.bits = used, used if self.bits is None else self.bits
        if self.bits < 1:
            raise ConfigError(f"expected bits above 0, got {self.bits}")
        self._quantiser.check(used, self.bits)
        self.network = source.network.requires_grad_(False).eval()
        self.register_buffer("centre", torch.zeros(len(self.bounds), used))
        width = self.bits if self._quantiser.projects else 0
        self.register_buffer("projection", torch.zeros(used, width))
        self.register_buffer("one_sided", torch.zeros(len(self.bounds), dtype=torch.bool))
        if source.texts is not None:
            octets = source.texts.document.encode() or bytes(source.texts.reading.octets)
            self.register_buffer("document", torch.tensor(list(octets), dtype=torch.uint8))

    @classmethod
    def picture_side(cls, settings: Mapping[str, object]) -> int | None:
        if "image" not in cls._sides(settings):
            return None
        source = open_encoder(**_named(settings), pretrained=False)
        return None if source.preprocessing is None else source.preprocessing.crop

    @classmethod
    def text_kind(cls, settings: Mapping[str, object]) -> TextKind | None:
        return "characters" if "text" in cls._sides(settings) else None

    @classmethod
    def _sides(cls, settings: Mapping[str, object]) -> tuple[Modality, ...]:
        """The modalities of an encoder of these settings; of one without a name none."""
        if "encoder" not in settings:  # refused with the other settings
            return ()
        return sides_of(**_named(settings))

    @classmethod
    def source_arguments(cls, settings: Mapping[str, object]) -> dict[str, object]:
        return {
            "description": describe(**_named(settings), pretrained=settings["pretrained"] is True)
        }

    @classmethod
    def view(cls, data: Dataset, settings: Mapping[str, object]) -> Dataset:
        """The data themselves. Raises DataError: they lack a side of the encoder."""
        said = str(settings.get("description") or "")
        sides = described_sides(said) if said else cls._sides(settings)
        _expect_sides(data, str(settings["encoder"]), sides)
        return data

    def query_modality(self, asked: Modality) -> Modality:
        """An encoder of one side has no other queries."""
        return next(iter(self.bounds)) if len(self.bounds) == 1 else asked

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def features(self, inputs: Tensor) -> Tensor:
        """(B,D) the encoder's features of (B,3,H,W) pictures in [0,1], before the cut."""
        assert self._preprocessing is not None  # since it has pictures
        values = self._features(self.network, self._preprocessing(inputs))
        return values[:, : self.used].float()

    def text_features(self, texts: Sequence[str]) -> Tensor:
        """(B,D) the encoder's features of texts, before the cut."""
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))  # little padding
        parts = [
            self._read(self.tokeniser([texts[row] for row in order[start : start + AT_ONCE]]))
            for start in range(0, len(order), AT_ONCE)
        ]
        features = torch.cat([*parts, torch.zeros(0, self.used, device=self.device)])
        return torch.empty_like(features).index_copy(
            0, torch.tensor(order, device=self.device), features
        )

    def _read(self, tokens: Tokens) -> Tensor:
        assert self._texts is not None
        values = self._texts.features(self.network, tokens.to(self.device))
        return values[:, : self.used].float()

    @property
    def tokeniser(self) -> Tokeniser:
        """How texts become tokens. Raises UsageError: no such side, or a broken document."""
        known: Tokeniser | None = self.__dict__.get("_tokeniser")
        if known is None:
            if self._texts is None:
                raise UsageError(f"{self.encoder} reads no texts")
            text = bytes(self.document.tolist()).decode(errors="replace")
            known = self.__dict__["_tokeniser"] = Tokeniser(self._texts.reading, text)
        return known

    def load_state_dict(self, *given: Any, **more: Any) -> Any:
        """The tokeniser comes with the weights."""
        self.__dict__.pop("_tokeniser", None)
        return super().load_state_dict(*given, **more)

    def tokens(self, texts: Tensor) -> Tokens:
        """The tokens of (B,L) characters."""
        return self.tokeniser(as_strings(texts)).to(self.device)

    @property
    def token_vectors(self) -> Tensor:
        """(V,D) what the network has in the place of each token."""
        assert self._texts is not None
        return self._texts.embedding(self.network).weight

    def whole_words(self) -> list[str]:
        """(V,) what each token is as a word of its own; "" for pieces, signs and digits."""
        words = self.tokeniser.whole_words()
        size = len(self.token_vectors)
        return (words + [""] * size)[:size]

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        if modality == "image":
            return self._cut(self.features(inputs), modality)
        return self._cut(self.text_features(as_strings(inputs)), modality)

    def _cut(self, features: Tensor, modality: Modality) -> Tensor:
        place = list(self.bounds).index(modality)
        projection = self.projection if self._quantiser.projects else None
        return Cut(self.centre[place], projection)(features)

    def loss_gradient(
        self, inputs: Tensor, modality: Modality, loss: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Of texts, the gradient at the vectors of their `tokens`: (B,T,D)."""
        if modality == "image":
            return super().loss_gradient(inputs, modality, loss)
        assert self._texts is not None
        with torch.no_grad():
            relaxed = self.relax(inputs, modality)
        with torch.enable_grad():
            moved = relaxed.clone().requires_grad_()
            (slope,) = torch.autograd.grad(loss(moved), moved)
        tokens, embedding = self.tokens(inputs), self._texts.embedding(self.network)
        parts: list[Tensor] = []
        for start in range(0, len(inputs), AT_ONCE):
            rows = slice(start, start + AT_ONCE)
            with torch.enable_grad(), _leaves(embedding) as leaves:
                codes = self._cut(self._read(tokens[rows]), modality)
                parts += torch.autograd.grad((codes * slope[rows]).sum(), leaves)
        return relaxed, torch.cat(parts)

    def fit(self, data: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """Learn the cut from the features of the training rows.

        Of two sides each has a centre of its own, and the projection is learnt from both, centred.

        Raises DataError where these are not finite, or where none differs from another.
        """
        _expect_sides(data, self.encoder, tuple(self.bounds))
        assert self.bits is not None  # since the constructor
        generator = torch.Generator().manual_seed(seed)
        sides = [self.split_features(data.train, side, progress) for side in self.bounds]
        for rows in sides:
            if not bool(rows.isfinite().all()):
                raise DataError(f"{self.encoder}: expected finite features, got NaN or infinity")
            if bool((rows == rows[0]).all()):
                raise DataError(
                    f"{self.encoder}: expected features that differ, got the same for all"
                )
        self.one_sided.copy_(torch.stack([(rows >= 0).all() for rows in sides]))
        if len(sides) > 1 and self._quantiser.projects:
            means = [rows.mean(dim=0) for rows in sides]
            centred = [rows - mean for rows, mean in zip(sides, means, strict=True)]
            cut = self._quantiser.fit(torch.cat(centred), self.bits, generator)
            cuts = [Cut(mean + cut.centre, cut.projection) for mean in means]
        else:
            cuts = [self._quantiser.fit(rows, self.bits, generator) for rows in sides]
        self.centre.copy_(torch.stack([cut.centre for cut in cuts]))
        if cuts[0].projection is not None:
            self.projection.copy_(cuts[0].projection)
        return self

    def split_features(self, split: Split, side: Modality, progress: Progress = silent) -> Tensor:
        """(N,D) features of all rows of a split, on the CPU."""
        parts = []
        with torch.no_grad():
            for batch in split.batches(64):
                inputs = batch.inputs[side].to(self.device)
                read = (
                    self.features(inputs)
                    if side == "image"
                    else self.text_features(as_strings(inputs))
                )
                parts.append(read.cpu())
                progress("features", sum(map(len, parts)), len(split))
        return torch.cat(parts)

    def flags(self) -> list[Flag]:
        flags = []
        if (
            bool(self.one_sided.any())
            and not self.projection.numel()
            and not bool(self.centre.any())
        ):
            flags.append(
                Flag(
                    "one_sided",
                    "warning",
                    "No feature of the training rows is below 0, as after a ReLU: their signs say "
                    "only which are exactly 0; use quantise=mean.",
                )
            )
        if self.used < self.all_dimensions:
            flags.append(
                Flag(
                    "cut_dimensions",
                    "warning",
                    f"Only the first {self.used} of {self.all_dimensions} features are used: "
                    "unless the model was trained for that (Matryoshka), they are as good as any "
                    "others.",
                )
            )
        return flags


def _named(settings: Mapping[str, object]) -> dict[str, Any]:
    """What `sources` asks of the settings of an encoder."""
    side = settings.get("side")
    return {
        "name": str(settings["encoder"]),
        "online": settings.get("online") is True,
        "side": side if side in ("image", "text") else None,
    }


def _expect_sides(data: Dataset, encoder: str, sides: Sequence[Modality]) -> None:
    """Raise DataError where data lack what an encoder reads, or have texts of another kind."""
    lacking = [side for side in sides if side not in data.modalities]
    if lacking:
        advice = f"; victim.side={next(iter(set(sides) - set(lacking)), '')} takes one side alone"
        raise DataError(
            f"{encoder} reads {' and '.join(sides)}: expected a data set with "
            f"{' and '.join(f'{side}s' for side in sides)}, got {data.name!r} with "
            f"{', '.join(data.modalities)}{advice if len(lacking) < len(sides) else ''}"
        )
    if "text" in sides and data.text_kind != "characters":
        raise DataError(
            f"{encoder} reads texts as they are: expected text=characters, got "
            f"{data.text_kind}; add --set dataset.text=characters"
        )


@contextmanager
def _leaves(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Inside, what a layer gives begins a graph of its own, and is listed."""
    leaves: list[Tensor] = []

    def cut(_: nn.Module, __: object, output: Tensor) -> Tensor:
        leaves.append(output.detach().requires_grad_())
        return leaves[-1]

    hook = layer.register_forward_hook(cut)
    try:
        yield leaves
    finally:
        hook.remove()
