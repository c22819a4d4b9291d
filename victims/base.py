"""The contract of a victim: a model that turns inputs into real codes, hence into binary ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from itertools import chain
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn

from advhash.codes.packed import HashCodes
from advhash.compute.progress import Progress, silent
from advhash.data.dataset import Dataset, Modality, Split, TextKind
from advhash.data.images.mixed import MixedPictures, image_batches, in_order
from advhash.data.paths import Reads
from advhash.data.text.characters import are_characters
from advhash.errors import UsageError
from advhash.measures.sanity import Flag
from advhash.victims.training.state import UNSAVED, TrainingState

MOST_BITS = 1024
History = list[dict[str, float | str]]  # one row an epoch: "phase", "epoch", losses


def expect_positive(**values: float) -> None:
    """Raise ValueError for the first setting that is not above 0, and for over 1024 bits."""
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"expected {name} above 0, got {value}")
    if values.get("bits", 1) > MOST_BITS:
        raise ValueError(f"expected at most {MOST_BITS} bits, got {values['bits']}")


class HashVictim(nn.Module, ABC):
    """A hashing model. Its constructor takes explicit keywords and stores nothing else.

    bits:    K
    bounds:  the raw range of each modality, e.g. {"image": (0, 1)}; its keys are the modalities
    history: what training recorded, one row an epoch
    training_state: where `fit` keeps what it needs to go on after a kill; nowhere by default
    differentiable: whether the gradient of `relax` in its inputs says anything
    any_size: whether it takes pictures of every size, and resizes them inside
    reads:   what data must carry, by which `--dataset PATH` finds its reader
    no_gradient: why it does not, where more is known

    Normalisation lives inside: `relax` sees [0,1] pixels and raw counts, tokens or embeddings.
    """

    bits: int
    bounds: Mapping[Modality, tuple[float, float]]
    history: History
    training_state: TrainingState = UNSAVED
    differentiable: bool = True
    any_size: ClassVar[bool] = False
    no_gradient: str = ""
    default_dataset: ClassVar[str] = "digits"
    default_texts: ClassVar[str] = "openmoji"  # for one that reads texts alone
    reads: ClassVar[Reads] = Reads()
    default_database: str = "image"  # the direction of the headline
    settings_decide: ClassVar[bool] = False  # over codes: its weights alone do not tell it apart
    from_files: ClassVar[frozenset[str]] = frozenset()  # the names of `source_arguments`
    decide_nothing: ClassVar[frozenset[str]] = frozenset()  # settings that are in no key

    @classmethod
    def data_arguments(cls, data: Dataset) -> dict[str, object]:
        """The constructor arguments that follow from the data (number of classes, sizes …)."""
        return {}

    @classmethod
    def picture_side(cls, settings: Mapping[str, object]) -> int | None:
        """The side at which pictures of a folder are read for these settings; None: as ever."""
        return None

    @classmethod
    def text_kind(cls, settings: Mapping[str, object]) -> TextKind | None:
        """How texts are read for these settings where the data leave that open; None: as ever."""
        return None

    @classmethod
    def source_arguments(cls, settings: Mapping[str, object]) -> dict[str, object]:
        """The constructor arguments that follow from files which the full settings name."""
        return {}

    @classmethod
    def libraries(cls, settings: Mapping[str, object]) -> tuple[str, ...]:
        """The packages, besides torch and timm, whose versions determine its codes."""
        return ()

    @classmethod
    def view(cls, data: Dataset, settings: Mapping[str, object]) -> Dataset:
        """The data as a victim of these settings sees them: of a federation, the parts."""
        return data

    @abstractmethod
    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        """(B,K) real codes, differentiable in `inputs` ((B,3,H,W) in [0,1] or (B,V)).

        Tokens are whole numbers, which have no gradient: their `differentiable_inputs` have.
        Characters have none either: see `loss_gradient`.
        """

    def embedded(self, inputs: Tensor, modality: Modality) -> Tensor:
        """(B,D) what a store may keep beside the codes, to rescore by: the real codes themselves.

        An encoder has its features, before they are cut.
        """
        return self.relax(inputs, modality)

    @abstractmethod
    def fit(self, data: Dataset, *, seed: int, progress: Progress = silent) -> Self:
        """Train on `data.train` and, where rows are stored, hash the database.

        A victim that trains for long does so in a `Phase`, which goes on after a kill.
        """

    @final
    def encode(self, inputs: Tensor, modality: Modality) -> HashCodes:
        """Binary codes of B inputs. Leaves the training flag as it was, keeps no gradient.

        The victim gets a copy. Raises UsageError where it lacks the modality, and where it writes
        into what it gets: in an attack that would move the clean images.
        """
        self.check_modality(modality)
        own = inputs.to(self.device)
        given = own.clone()
        training = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            with torch.no_grad():
                codes = self.binarise(given, modality)
        finally:
            for module, flag in training:
                module.training = flag
        if not torch.equal(given.nan_to_num(), own.nan_to_num()):
            raise UsageError(
                f"{type(self).__name__}.relax writes into its inputs: expected them left as they "
                "are; begin with inputs = inputs.clone()"
            )
        return codes

    def binarise(self, inputs: Tensor, modality: Modality) -> HashCodes:
        """The signs of `relax`; one with very many bits packs them without their real values."""
        return HashCodes.from_relaxed(self.relax(inputs, modality))

    @final
    def differentiable_inputs(self, inputs: Tensor, modality: Modality) -> Tensor:
        """Inputs as floats that `relax` takes with the same codes and can be derived in.

        Tokens (B,L), whole numbers up to the upper bound V−1, become one-hot (B,L,V); all others
        stay as they are. A change of one entry [i,l,v] is a step toward token v at place l.

        Raises UsageError: characters, which nothing can be derived in.
        """
        if are_characters(inputs):
            raise UsageError(
                "expected counts, tokens or embeddings to derive in, got characters: only an "
                "encoder of texts has a gradient for them"
            )
        if inputs.is_floating_point():
            return inputs
        return nn.functional.one_hot(inputs, int(self.bounds[modality][1]) + 1).float()

    def loss_gradient(
        self, inputs: Tensor, modality: Modality, loss: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """(B,K) real codes of inputs, and the gradient of a loss of them in the inputs.

        loss: from (B,K) real codes to a number, a sum over rows

        The gradient is shaped as `differentiable_inputs`; of characters, see the encoder.
        """
        given = self.differentiable_inputs(inputs, modality).detach().requires_grad_()
        with torch.enable_grad():
            relaxed = self.relax(given, modality)
            (gradient,) = torch.autograd.grad(loss(relaxed), given)
        return relaxed.detach(), gradient

    @final
    def encode_split(self, split: Split, modality: Modality, batch_size: int = 256) -> HashCodes:
        """Binary codes of all rows of a split."""
        batches = split.batches(batch_size)
        parts = [(each.index, self.encode(each.inputs[modality], modality)) for each in batches]
        codes = HashCodes.concatenate([part for _, part in parts])
        return codes if split.mixed is None else codes[in_order([rows for rows, _ in parts])]

    @final
    def encode_pictures(
        self,
        images: Tensor | MixedPictures,
        modality: Modality,
        way: Callable[[Tensor], Tensor] = lambda part: part,
        batch_size: int = 256,
    ) -> HashCodes:
        """Binary codes of N pictures, of one size or several, after each went its `way`."""
        batches = image_batches(images, batch_size)
        parts = [(rows, self.encode(way(part), modality)) for rows, part in batches]
        codes = HashCodes.concatenate([part for _, part in parts])
        return codes[in_order([rows for rows, _ in parts])]

    def is_image(self, modality: Modality) -> bool:
        """Whether inputs of this modality are pictures: (B,3,H,W) in [0,1], 8 bits a pixel."""
        return modality == "image"

    @property
    def directions(self) -> tuple[str, ...]:
        """What the database can hold: the modalities and, for some victims, "fused"."""
        return tuple(self.bounds)

    def database_codes(self, data: Dataset, database: str) -> HashCodes:
        """Codes of `data.database` as this victim serves them.

        The default hashes every row anew; a lifelong victim returns the rows that it froze.
        """
        return self.encode_split(data.database, database)

    def served_codes(self, data: Dataset) -> dict[str, HashCodes]:
        """`database_codes` of every direction."""
        return {name: self.database_codes(data, name) for name in self.directions}

    def rehashed_codes(self, data: Dataset, database: str) -> HashCodes:
        """Codes of all rows by the present networks, stored ones left aside."""
        return self.database_codes(data, database)

    def stored_rows(self, data: Dataset) -> Tensor:
        """(M,) bool, on the CPU: the database rows whose codes are stored, not hashed anew."""
        return torch.zeros(len(data.database), dtype=torch.bool)

    def flags(self) -> list[Flag]:
        """What a reader must know of this victim before believing a figure."""
        return []

    def query_modality(self, asked: Modality) -> Modality:
        """The modality that queries go through where `asked` is wanted: itself."""
        return asked

    @final
    def check_modality(self, modality: Modality) -> None:
        if modality not in self.bounds:
            raise UsageError(
                f"expected a modality of the victim ({', '.join(self.bounds)}), got {modality!r}"
            )

    @final
    def check_direction(self, database: str) -> None:
        if database not in self.directions:
            raise UsageError(
                f"expected a direction of the victim ({', '.join(self.directions)}), "
                f"got {database!r}"
            )

    @property
    def learns(self) -> bool:
        """Whether `fit` learns anything, so that a seed determines it."""
        return any(True for _ in self.parameters())

    @property
    def device(self) -> torch.device:
        """Where the weights are; a victim without any follows its buffers."""
        return next(chain(self.parameters(), self.buffers())).device
