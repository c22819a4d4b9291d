"""Pictures that lie near many queries at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, cast

import torch
from torch import Tensor

from advhash.attacks.base import Goal, Knowledge
from advhash.attacks.gradient.channels import channels
from advhash.attacks.gradient.descent import Aim, GradientAttack, Merit
from advhash.attacks.poisoning.base import Inputs, Kind, Planted, Seen, expect_gradients
from advhash.attacks.poisoning.hubs import Clustered
from advhash.attacks.poisoning.inputs import Pull, embedder
from advhash.budget import Budget
from advhash.data.dataset import Batch, Modality, Split
from advhash.data.images.mixed import in_order
from advhash.errors import UsageError
from advhash.registry import POISONINGS
from advhash.victims.base import HashVictim

LINEAR = 0.05  # α of tanh(α·u/s) where it is u·α/s up to 0.1 %: directions of floats stay


@POISONINGS.register("hub-image", source="Zhang et al., arXiv 2412.14113 (adversarial hubs)")
@dataclass(kw_only=True)
class HubImage(Clustered):
    """One picture for each cluster of queries, moved inside a budget on pixels.

    It begins as the attacker's own picture (of the validation split) that is nearest to the queries
    of the cluster, and descends their mean distance. The store gets it as a file, whose loss the
    descent passes through.

    knows, surface, rounds, sample: see `Clustered`, whose vectors stand for pictures where a
        surface is chosen
    steps, step: of the descent, see `GradientAttack`
    file:        the channel that the picture comes through, e.g. jpeg75; "": none

    Deviations:
    - where codes are clustered, the mean distance is one of bits, by their soft codes; the source
      has cosines
    - one picture for each of several clusters, where the source has one for all queries
    - pictures are files: the descent passes through what a file loses
    """

    plants: ClassVar[Kind] = "pictures"
    knowledge: ClassVar[tuple[str, ...]] = (
        *("queries of the same kind", "the weights and gradients of the encoder", "the quantiser"),
    )
    budget: ClassVar[Budget | None] = Budget("linf", 8 / 255)
    steps: int = 100
    step: float = 0.1
    file: str = "jpeg75"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or not self.step > 0:
            raise ValueError(
                f"expected steps >= 1 and step > 0, got steps={self.steps}, step={self.step}"
            )
        channels(self.file)

    def most(self, known: int, documents: int, own: int) -> int:
        return min(own, super().most(known, documents, own))

    def check_inputs(self, victim: HashVictim, modality: Modality, budget: Budget) -> None:
        if modality != "image":
            raise UsageError(
                "hub-image plants pictures: expected a victim of pictures and --modality image, "
                f"got {modality}"
            )
        expect_gradients("hub-image", victim)
        if budget.norm == "l0":
            raise UsageError("hub-image: expected a budget on pixels, norm linf or l2, got l0")

    def plant(self, seen: Seen, count: int, seed: int) -> Planted:
        inputs = cast(Inputs, seen.inputs)
        made = self.clusters(seen, count, seed)
        pull = Pull.toward(made.points, made.places, count, made.surface)
        encoder, embeds = pull.encoder(inputs.victim), embedder(inputs.victim)
        ways, floats = channels(self.file), list[Tensor]()
        pictures, begun = list[Tensor](), list[Tensor]()
        for item, row in enumerate(_nearest(encoder, inputs.own, pull)):
            batch = next(inputs.own.take(torch.tensor([row])).batches(1))
            descent = TowardQueries(
                pull=pull, item=item, steps=self.steps, step=self.step, survive=self.file,
                alphas=(0.5, 1.0) if pull.surface == "codes" else (LINEAR,),
            )  # fmt: skip
            moved = descent.move(encoder, batch, None, inputs.budget, "image", seed=seed)
            image = moved.inputs["image"]
            for way in ways:
                image = way.through(image)
            with torch.no_grad():
                floats.append(embeds.relax(image.to(embeds.device), "image").cpu())
            for kept, shown in ((pictures, image), (begun, batch.inputs["image"])):
                kept.append((255 * shown[0]).round().to(torch.uint8).cpu())
        vectors = seen.vectors(torch.cat(floats).numpy())
        return Planted(vectors, tuple(pictures), tuple(begun), made.surface)


@dataclass(kw_only=True, eq=False, repr=False)
class TowardQueries(GradientAttack):
    """Descend the mean distance of a picture to the queries of one cluster.

    pull: the clusters; item: which of them
    """

    goal: ClassVar[Goal] = "untargeted"
    knowledge: ClassVar[Knowledge] = frozenset({"weights", "gradients"})
    pull: Pull
    item: int

    def aim(self, clean: Tensor, own: Tensor, labels: Tensor) -> Aim:
        mean = self.pull.means[self.item].to(own)
        anchors = torch.where(mean > 0, 1.0, -1.0).expand(len(clean), -1)
        return Aim(anchors, lambda soft, images, rows: self.pull.loss(soft, self._items(rows)))

    def descend(
        self,
        victim: HashVictim,
        clean: Tensor,
        labels: Tensor,
        budget: Budget,
        merit: Merit | None = None,
        start: Tensor | None = None,
    ) -> Tensor:
        def left(real: Tensor, rows: Tensor) -> Tensor:
            return self.pull.left(real, self._items(rows))

        return super().descend(victim, clean, labels, budget, merit or left, start)

    def _items(self, rows: Tensor) -> Tensor:
        return torch.full_like(rows, self.item)


def _nearest(encoder: HashVictim, own: Split, pull: Pull) -> list[int]:
    """The row of a picture for each item, none twice: of those left the nearest to its queries."""
    parts: list[tuple[Batch, Tensor]] = []
    with torch.no_grad():
        for batch in own.batches(64):
            parts.append((batch, encoder.relax(batch.inputs["image"].to(encoder.device), "image")))
    real = torch.cat([values.cpu() for _, values in parts])
    real = real[in_order([batch.index for batch, _ in parts])]
    chosen: list[int] = []
    for item in range(len(pull.means)):
        left = pull.left(real, torch.full((len(real),), item))
        left[chosen] = torch.inf
        chosen.append(int(left.argmin()))
    return chosen
