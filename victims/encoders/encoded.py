"""An encoder of somebody else and a quantiser, as a victim: `--victim timm:NAME`, `onnx:FILE`."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset, Modality, Split, TextKind
from advhash.data.images.mixed import in_order
from advhash.data.paths import Reads
from advhash.data.text.characters import LAST, as_strings
from advhash.errors import ConfigError, DataError, UsageError
from advhash.measures.sanity import Flag
from advhash.registry import QUANTISERS, VICTIMS
from advhash.storage.places import user_path
from advhash.victims.base import HashVictim
from advhash.victims.encoders.matrix import matrix_facts, read_matrix
from advhash.victims.encoders.onnx_network import OnnxNetwork
from advhash.victims.encoders.quantisers import Cut, Quantiser
from advhash.victims.encoders.sources import (
    Unsaid,
    describe,
    described_sides,
    libraries,
    open_encoder,
    picture_side,
    sides_of,
)
from advhash.victims.encoders.text_side import TextSide
from advhash.victims.encoders.tokens import Reading, Tokeniser, Tokens
from advhash.victims.perceptual.resampling import Filter

DOCUMENT = "document"  # the side of texts that are searched, where these have a prompt
AT_ONCE = 64  # texts that are read together
MOST_BITS = 2**16
APART = 0.01  # the share of bits from which gradients are those of another model
PIXELS = 2**19  # that are hashed at once where no gradient is asked for: 10 pictures of 224 a side
COMPARED = 100  # training rows that are hashed by onnxruntime and by torch


class _Fitted(HashVictim):
    """The buffers of what is learnt, and of the user's matrix."""

    centre: Tensor
    axes: Tensor
    one_sided: Tensor
    document: Tensor
    matrix: Tensor
    bits_apart: Tensor


@VICTIMS.register("encoder", source="the encoder's own; its bits by `victim.quantise`")
@dataclass(kw_only=True, eq=False, repr=False)
class Encoded(_Fitted):
    """`timm:NAME`, `hf:FOLDER`, `st:FOLDER`, `onnx:FILE`: features of somebody else, cut to bits.

    Only the cut is learnt, from training rows: a centre for each side, and one projection for all.
    Pictures are resized, cropped and normalised inside, texts (characters) cut into tokens, as the
    encoder was made for, so that attacks move pictures and texts as they are stored. A dual encoder
    has two sides, each a direction.

    encoder:    `timm:NAME`, `hf:` and a folder or id of transformers, `st:` and a folder or package
                of sentence-transformers, or `onnx:` and a file
    quantise:   sign, mean, median, itq, lsh, pca-sign or head
    bits:       K; by default one a feature
    dimensions: how many of the first features are used; by default all
    projection: a file of a matrix (P,D), see `read_matrix`: P products with the D features of the
                network take their place
    side:       image or text, where only one side of a dual encoder is wanted
    prompt:     what is put before every text; by default what the encoder's files say
    document_prompt: what is put before texts of the database, which are a side of their own then,
                `document`, as E5 wants it: "query: " and "passage: "
    pretrained: with the encoder's weights; a checkpoint has its own
    online:     whether the encoder may be fetched from the network
    output, image_size, resize, filter, pixel_range, mean, std: of `onnx:FILE` alone, see `Unsaid`
    description, matrix_file: what its files say, see `describe`; it follows from them
    """

    encoder: str
    quantise: str = "mean"
    bits: int | None = None  # type: ignore[assignment]
    dimensions: int | None = None
    projection: str | None = None
    side: Literal["image", "text"] | None = None
    prompt: str | None = None
    document_prompt: str | None = None
    pretrained: bool = True
    online: bool = False
    output: str | None = None
    image_size: int | None = None
    resize: int | None = None
    filter: Filter = "bilinear"
    pixel_range: float = 1.0
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    description: str = ""
    matrix_file: str = ""
    any_size: ClassVar[bool] = True
    settings_decide: ClassVar[bool] = True  # over the preprocessing, which no weight tells
    from_files: ClassVar[frozenset[str]] = frozenset({"description", "matrix_file"})
    decide_nothing: ClassVar[frozenset[str]] = frozenset({"online"})
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
            unsaid=_unsaid(vars(self)),
        )
        self._features, self._preprocessing = source.features, source.preprocessing
        self._texts = source.texts
        self.bounds = {"image": (0.0, 1.0)} if source.preprocessing is not None else {}
        self._readings = self._prompted(source.texts)
        self.bounds = {**self.bounds, **dict.fromkeys(self._readings, (0.0, float(LAST)))}
        self.default_database = next(
            side for side in ("image", DOCUMENT, "text") if side in self.bounds
        )
        self.no_gradient, self.differentiable = source.no_gradient, not source.no_gradient
        self.register_buffer("matrix", self._matrix(source.dimensions))
        self.all_dimensions = source.dimensions if self.projection is None else len(self.matrix)
        used = self.all_dimensions if self.dimensions is None else self.dimensions
        if not 1 <= used <= self.all_dimensions:
            raise ConfigError(
                f"{self.encoder} has {self.all_dimensions} features: expected dimensions from 1 to "
                f"that, got {used}"
            )
        self.used, self.bits = used, used if self.bits is None else self.bits
        if not 1 <= self.bits <= MOST_BITS:
            raise ConfigError(f"expected bits from 1 to {MOST_BITS}, got {self.bits}")
        self._quantiser.check(self.quantise, used, self.bits)
        self.network = source.network.requires_grad_(False).eval()
        self.register_buffer("centre", torch.zeros(len(self.bounds), used))
        width = self.bits if self._quantiser.projects else 0
        self.register_buffer("axes", torch.zeros(used, width))
        self.register_buffer("one_sided", torch.zeros(len(self.bounds), dtype=torch.bool))
        self.register_buffer("bits_apart", torch.tensor(0.0))
        if source.texts is not None:
            octets = source.texts.document.encode() or bytes(source.texts.reading.octets)
            self.register_buffer("document", torch.tensor(list(octets), dtype=torch.uint8))

    def _prompted(self, texts: TextSide | None) -> dict[Modality, Reading]:
        """How each side of texts reads them. Raises UsageError: a prompt that nothing reads."""
        prompts = {"text": self.prompt, DOCUMENT: self.document_prompt}
        given = {side: prompt for side, prompt in prompts.items() if prompt is not None}
        if texts is None or (given and not texts.reading.pools_prompt):
            if given:
                raise UsageError(
                    f"{self.encoder}: expected no prompt, as it "
                    + ("reads no texts" if texts is None else "leaves prompts out of its pooling")
                )
            return {}
        sides = {"text": texts.reading.prompt, **given}
        return {side: replace(texts.reading, prompt=prompt) for side, prompt in sides.items()}

    def _matrix(self, features: int) -> Tensor:
        """The user's matrix, or the place of one that a checkpoint fills; no rows: there is none.

        Raises DataError, CheckpointError, UsageError.
        """
        if self.projection is None:
            return torch.zeros(0, features)
        if self.matrix_file and not self.pretrained:
            return torch.zeros(int(json.loads(self.matrix_file)["rows"]), features)
        return read_matrix(user_path(self.projection), features)

    @classmethod
    def picture_side(cls, settings: Mapping[str, object]) -> int | None:
        return picture_side(**_named(settings)) if "encoder" in settings else None

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
        pretrained = settings["pretrained"] is True
        said: dict[str, object] = {
            "description": describe(**_named(settings), pretrained=pretrained)
        }
        if settings["projection"] is not None:
            said["matrix_file"] = matrix_facts(user_path(str(settings["projection"])))
        return said

    @classmethod
    def libraries(cls, settings: Mapping[str, object]) -> tuple[str, ...]:
        return libraries(str(settings["encoder"]))

    @classmethod
    def view(cls, data: Dataset, settings: Mapping[str, object]) -> Dataset:
        """The data, whose texts are documents, too, where these have a prompt of their own.

        Raises DataError: they lack a side of the encoder.
        """
        said = str(settings.get("description") or "")
        sides = described_sides(said) if said else cls._sides(settings)
        _expect_sides(data, str(settings["encoder"]), sides)
        if settings.get("document_prompt") is None or "text" not in sides:
            return data
        parts = {
            name: replace(part, inputs={**part.inputs, DOCUMENT: part.inputs["text"]})
            for name, part in data.stored.items()
        }
        return replace(data, **parts)  # type: ignore[arg-type]

    def query_modality(self, asked: Modality) -> Modality:
        """Texts where pictures, the default, are asked for and it sees none; else what is asked."""
        return next(iter(self.bounds)) if asked == "image" else asked

    @property
    def learns(self) -> bool:
        return True  # the cut, also where the network is no module of torch

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def features(self, inputs: Tensor) -> Tensor:
        """(B,D) the encoder's features of (B,3,H,W) pictures in [0,1], before the cut."""
        assert self._preprocessing is not None  # since it has pictures
        size = len(inputs)
        if not (torch.is_grad_enabled() and inputs.requires_grad):
            size = max(PIXELS // self._preprocessing.crop**2, 1)
        parts = [
            self._values(self._features(self.network, self._preprocessing(part)))
            for part in inputs.split(max(size, 1))
        ]
        return torch.cat(parts)

    def _values(self, features: Tensor) -> Tensor:
        """(B,D) what is cut of the network's (B,N) features, or of their products."""
        values = features.float()
        if self.projection is not None:
            values = values @ self.matrix.T
        return values[:, : self.used]

    def text_features(self, texts: Sequence[str], side: Modality = "text") -> Tensor:
        """(B,D) the encoder's features of texts, before the cut; side: text or document."""
        tokeniser = self.tokeniser(side)
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))  # little padding
        parts = [
            self._read(tokeniser([texts[row] for row in order[start : start + AT_ONCE]]))
            for start in range(0, len(order), AT_ONCE)
        ]
        features = torch.cat([*parts, torch.zeros(0, self.used, device=self.device)])
        return torch.empty_like(features).index_copy(
            0, torch.tensor(order, device=self.device), features
        )

    def _read(self, tokens: Tokens) -> Tensor:
        assert self._texts is not None
        return self._values(self._texts.features(self.network, tokens.to(self.device)))

    def tokeniser(self, side: Modality = "text") -> Tokeniser:
        """How texts of a side become tokens. Raises UsageError: no such side, a broken document."""
        known: dict[Modality, Tokeniser] = self.__dict__.setdefault("_tokenisers", {})
        if side not in known:
            if side not in self._readings:
                raise UsageError(f"{self.encoder} reads no texts")
            text = bytes(self.document.tolist()).decode(errors="replace")
            known[side] = Tokeniser(self._readings[side], text)
        return known[side]

    def load_state_dict(self, *given: Any, **more: Any) -> Any:
        """The tokeniser comes with the weights."""
        self.__dict__.pop("_tokenisers", None)
        return super().load_state_dict(*given, **more)

    def tokens(self, texts: Tensor, side: Modality = "text") -> Tokens:
        """The tokens of (B,L) characters; side: text or document."""
        return self.tokeniser(side)(as_strings(texts)).to(self.device)

    @property
    def token_vectors(self) -> Tensor:
        """(V,D) what the network has in the place of each token."""
        assert self._texts is not None
        return self._texts.embedding(self.network).weight

    def whole_words(self) -> list[str]:
        """(V,) what each token is as a word of its own; "" for pieces, signs and digits."""
        words = self.tokeniser().whole_words()
        size = len(self.token_vectors)
        return (words + [""] * size)[:size]

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        return self._cut(self.embedded(inputs, modality), modality)

    def embedded(self, inputs: Tensor, modality: Modality) -> Tensor:
        if modality == "image":
            return self.features(inputs)
        return self.text_features(as_strings(inputs), modality)

    def cut_of(self, modality: Modality) -> Cut:
        """From the encoder's features to the real code."""
        place = list(self.bounds).index(modality)
        return Cut(self.centre[place], self.axes if self._quantiser.projects else None)

    def uncut(self) -> Self:
        """The same encoder, whose real codes are its features: one bit a feature, by its sign."""
        bare = copy.copy(self)
        bare._buffers = {**self._buffers, "centre": torch.zeros_like(self.centre)}
        bare._quantiser, bare.bits = QUANTISERS.create("sign"), self.used
        return bare

    def reading_documents(self) -> Self:
        """The same encoder, which reads every text as a document; itself where all are alike."""
        if DOCUMENT not in self.bounds:
            return self
        other, sides = copy.copy(self), list(self.bounds)
        other.__dict__.pop("_tokenisers", None)
        other._readings = {**self._readings, "text": self._readings[DOCUMENT]}
        centre = self.centre.clone()
        centre[sides.index("text")] = centre[sides.index(DOCUMENT)]
        other._buffers = {**self._buffers, "centre": centre}
        return other

    def _cut(self, features: Tensor, modality: Modality) -> Tensor:
        return self.cut_of(modality)(features)

    def loss_gradient(
        self, inputs: Tensor, modality: Modality, loss: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """For texts, the gradient at the vectors of their `tokens`: (B,T,D)."""
        if modality == "image":
            return super().loss_gradient(inputs, modality, loss)
        assert self._texts is not None
        with torch.no_grad():
            relaxed = self.relax(inputs, modality)
        with torch.enable_grad():
            moved = relaxed.clone().requires_grad_()
            (slope,) = torch.autograd.grad(loss(moved), moved)
        tokens, embedding = self.tokens(inputs, modality), self._texts.embedding(self.network)
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
        _expect_sides(data, self.encoder, tuple(side for side in self.bounds if side != DOCUMENT))
        assert self.bits is not None  # since the constructor
        if self.projection is not None:  # where only its place was made
            self.matrix.copy_(read_matrix(user_path(self.projection), self.matrix.shape[1]))
        generator, labels = torch.Generator().manual_seed(seed), data.train_labels
        sides = [self.split_features(data.train, side, progress) for side in self.bounds]
        for rows in sides:
            if not bool(rows.isfinite().all()):
                raise DataError(
                    f"{self.encoder}: expected finite features of the training rows, got NaN or "
                    "infinity; check its weights and its preprocessing"
                )
            if bool((rows == rows[0]).all()):
                raise DataError(
                    f"{self.encoder}: expected features that differ between training rows, got "
                    "the same for all; check its weights, or take other data"
                )
        self.one_sided.copy_(torch.stack([(rows >= 0).all() for rows in sides]))
        if len(sides) > 1 and self._quantiser.projects:
            means = [rows.mean(dim=0) for rows in sides]
            centred = [rows - mean for rows, mean in zip(sides, means, strict=True)]
            both = torch.cat([labels] * len(sides))
            cut = self._quantiser.fit_labelled(torch.cat(centred), both, self.bits, generator)
            cuts = [Cut(mean + cut.centre, cut.projection) for mean in means]
        else:
            cuts = [
                self._quantiser.fit_labelled(rows, labels, self.bits, generator) for rows in sides
            ]
        self.centre.copy_(torch.stack([cut.centre for cut in cuts]))
        if cuts[0].projection is not None:
            self.axes.copy_(cuts[0].projection)
        if isinstance(self.network, OnnxNetwork) and self.differentiable:
            self.bits_apart.fill_(self._bits_apart(self.network, data.train))
        return self

    def _bits_apart(self, network: OnnxNetwork, split: Split) -> float:
        """The share of bits in which onnxruntime and the graph in torch differ, on some rows."""
        apart = []
        assert self._preprocessing is not None  # since it has pictures
        for batch in split.take(torch.arange(min(COMPARED, len(split)))).batches(20):
            with torch.no_grad():
                prepared = self._preprocessing(batch.inputs["image"].to(self.device))
                first, second = (
                    self._cut(self._values(run(prepared)), "image") > 0
                    for run in (network.deployed, network.converted)
                )
            apart.append((first != second).float())
        return float(torch.cat(apart).mean())

    def split_features(self, split: Split, side: Modality, progress: Progress = silent) -> Tensor:
        """(N,D) features of all rows of a split, on the CPU."""
        parts, rows = [], []
        with torch.no_grad():
            for batch in split.batches(64):
                inputs = batch.inputs[side].to(self.device)
                parts.append(self.embedded(inputs, side).cpu())
                rows.append(batch.index)
                progress("features", sum(map(len, parts)), len(split))
        return torch.cat(parts)[in_order(rows)]

    def flags(self) -> list[Flag]:
        flags = []
        if bool(self.one_sided.any()) and not self.axes.numel() and not bool(self.centre.any()):
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
        others = self._texts.reading.others if self._texts is not None else ()
        if others and self.prompt is None and self.document_prompt is None:
            flags.append(
                Flag(
                    "prompts",
                    "info",
                    f"The encoder's files state prompts ({', '.join(map(repr, others[:4]))}) that "
                    "no text has here; victim.prompt and victim.document_prompt put one before "
                    "queries and documents.",
                )
            )
        if isinstance(self.network, OnnxNetwork):
            flags += self._onnx_flags()
        return flags

    def _onnx_flags(self) -> list[Flag]:
        """What its file does not say was taken as what, and whose gradients those are."""
        prepared = self._preprocessing
        assert prepared is not None  # since it has pictures
        size = f"{prepared.crop}×{prepared.crop} pixels"
        cut = "squashed" if prepared.squashed else f"shorter side {prepared.side}, cut"
        numbers = [
            ", ".join(f"{value:.4g}" for value in values)
            for values in (prepared.mean, prepared.std)
        ]
        flags = [
            Flag(
                "onnx_pictures",
                "info",
                f"No file of ONNX says how its pictures are prepared: here {cut} to {size} "
                f"({prepared.filter}), less {numbers[0]}, over {numbers[1]} of white; other "
                "numbers are another victim.",
            )
        ]
        if self.differentiable:
            share = float(self.bits_apart)
            flags.append(
                Flag(
                    "onnx_gradients",
                    "warning" if share > APART else "info",
                    f"Codes are of onnxruntime, gradients of a conversion to torch: "
                    f"{100 * share:.2f} % of the bits of {COMPARED} training rows differ between "
                    "them.",
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
        "unsaid": _unsaid(settings),
    }


def _unsaid(settings: Mapping[str, object]) -> Unsaid:
    """What the user says of a file of ONNX, among other settings."""
    names = [field.name for field in fields(Unsaid)]
    return Unsaid(**{name: settings[name] for name in names if name in settings})  # type: ignore[arg-type]


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
