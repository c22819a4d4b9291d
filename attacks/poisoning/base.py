"""The contract of an attack on a store: from queries that it knows to items that it plants.

A planted item is **one input or one vector**; its code is what the store's quantiser makes of it.
An attacker who writes code and vector apart (`pairs="free"`) may do more, and is named so.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from advhash.budget import Budget
from advhash.codes.packed import HashCodes
from advhash.codes.vectors import Vectors
from advhash.data.dataset import Modality, Split
from advhash.errors import UsageError
from advhash.victims.base import HashVictim
from advhash.victims.encoders.quantisers import Cut

Floats = npt.NDArray[np.float32]
Places = npt.NDArray[np.int64]
Surface = Literal["codes", "floats"]
Kind = Literal["vectors", "texts", "pictures"]


@dataclass(frozen=True)
class Inputs:
    """What an attacker who plants inputs has beside vectors.

    victim: which embeds and quantises them as documents, with its weights
    known:  the queries of `Seen.known`
    corpus: the documents of `Seen.corpus`
    own:    pictures of the attacker's, which no query asks for and no store holds
    budget: of one item, in words for texts
    """

    victim: HashVictim
    known: Split
    corpus: Split
    own: Split
    budget: Budget


@dataclass(frozen=True)
class Seen:
    """What an attacker knows of a search.

    known:  queries of the kind that will be asked; nobody is judged by them
    corpus: what the store holds already
    cut:    the quantiser, from embeddings to the real values whose signs are the bits
    length: of the embeddings
    ranks:  what the first results are ranked by: codes, or floats that are rescored or stored
    inputs: what vectors were made of; None: nobody knows
    candidates: documents of each query that bits choose for floats to rank; None: floats rank all,
        or codes rank
    """

    known: Vectors
    corpus: Vectors
    cut: Cut
    length: float
    ranks: Surface
    inputs: Inputs | None = None
    candidates: int | None = None

    def vectors(self, floats: Floats) -> Vectors:
        """What encoder and quantiser make of embeddings (N,D)."""
        with torch.no_grad():
            real = self.cut(torch.from_numpy(np.ascontiguousarray(floats)))
        return Vectors(HashCodes.from_relaxed(real), floats, real.numpy())


@dataclass(frozen=True)
class Planted:
    """P items.

    vectors: as the store gets them
    inputs:  what they were made of, an (3,H,W) uint8 picture or (L,) characters each; () of vectors
    begun:   the picture that each of `inputs` was before the attacker moved it; () of anything else
    surface: what queries were clustered by; None: nothing was clustered
    """

    vectors: Vectors
    inputs: tuple[Tensor, ...] = ()
    begun: tuple[Tensor, ...] = ()
    surface: Surface | None = None


class Poisoning(ABC):
    """plants:    what its items are
    knowledge: what it needs to know, in words for a page
    single:    whether it plants one item, whatever the share
    budget:    of an input that nothing else is said for; None: it plants vectors
    """

    plants: ClassVar[Kind] = "vectors"
    knowledge: ClassVar[tuple[str, ...]]
    single: ClassVar[bool] = False
    budget: ClassVar[Budget | None] = None

    @property
    def free_pairs(self) -> bool:
        """Whether code and vector of an item are written apart."""
        return False

    def most(self, known: int, documents: int, own: int) -> int:
        """How many items it can plant at most, with so many known queries and own pictures."""
        return documents

    def check_inputs(  # noqa: B027
        self, victim: HashVictim, modality: Modality, budget: Budget
    ) -> None:
        """Raise UsageError for a victim or a budget that its inputs cannot be made with."""

    def settled(self, seen: Seen, count: int, seed: int) -> Self:
        """The method with what it leaves to the known queries chosen, for `count` items."""
        return self

    @abstractmethod
    def plant(self, seen: Seen, count: int, seed: int) -> Planted:
        """`count` items, at most as many as `most` says."""


def expect_gradients(name: str, victim: HashVictim) -> None:
    """Raise UsageError for a victim that has no gradient."""
    if not victim.differentiable:
        raise UsageError(
            f"{name} needs gradients: expected a differentiable victim, got one without"
            f"{f' ({victim.no_gradient})' if victim.no_gradient else ''}: plant hubs, which are "
            "vectors"
        )


def vectors_of_codes(
    codes: HashCodes, begun: Floats, cut: Cut, length: float, *, steps: int = 300
) -> Floats:
    """Embeddings (N,D) of the given length whose codes are these, as nearly as can be.

    From `begun` (N,D), a hinge on the real values pushes each bit to its side; of all steps, the
    one with the most bits right is kept for each item.
    """
    signs = torch.from_numpy(codes.signs())
    start = torch.from_numpy(np.ascontiguousarray(begun, np.float32))
    if cut.projection is None and not bool(cut.centre.any()):
        least = start.abs().mean(dim=1, keepdim=True) * 0.1
        return _of_length(signs * torch.maximum(start.abs(), least), length).numpy()
    free = _of_length(start, length).clone().requires_grad_(True)
    with torch.no_grad():
        margin = 0.1 * cut(free).abs().mean()
    optimiser = torch.optim.Adam([free], lr=0.02 * length / free.shape[1] ** 0.5)
    best, most = free.detach().clone(), torch.full((len(start),), -1)
    for _ in range(steps):
        vectors = _of_length(free, length)
        real = cut(vectors)
        right = ((real > 0) == (signs > 0)).sum(dim=1)
        better = right > most
        best[better], most[better] = vectors.detach()[better], right[better]
        if bool((most == codes.bits).all()):
            break
        optimiser.zero_grad()
        torch.relu(margin - signs * real).sum().backward()
        optimiser.step()
    return best.numpy()


def _of_length(vectors: torch.Tensor, length: float) -> torch.Tensor:
    return length * torch.nn.functional.normalize(vectors, dim=1)
