"""Black-box attacks on binary codes alone, with a hard number of queries.

The attacker sends 8-bit images and gets the code of each: no gradient, no real code. So they work
on every victim, on perceptual hashes and functions without a gradient too.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from advhash.attacks.base import Goal, Knowledge
from advhash.attacks.goals import GoalAttack
from advhash.attacks.gradient.steps import step_length, stepped
from advhash.budget import Budget, Norm, round_toward
from advhash.chance import Chance
from advhash.data.dataset import Batch, Modality
from advhash.registry import ATTACKS
from advhash.victims.base import HashVictim

CODES_ONLY: Knowledge = frozenset({"query codes"})
CODES_OF_TARGETS: Knowledge = CODES_ONLY | {"database codes", "labels"}
RULES: dict[Norm, Literal["sign", "l2"]] = {"linf": "sign", "l2": "l2"}


class BlackBox:
    """The victim from outside: images in, codes out, every image counted, the best one kept.

    The first query of an image is the clean one; `aim` turns these (B,K) ±1 codes into the goals.

    clean: (B,3,H,W) images in [0,1]
    limit: queries that each image may cost
    chance: what the search draws from; by default images count from 0
    spent: (B,) queries that each image has cost
    best:  (B,3,H,W) of the images sent inside the budget, that with the fewest wrong bits
    wrong: (B,) its wrong bits
    """

    def __init__(
        self,
        victim: HashVictim,
        clean: Tensor,
        budget: Budget,
        limit: int,
        aim: Callable[[Tensor], Tensor],
        chance: Chance | None = None,
    ) -> None:
        self.chance = chance or Chance(torch.initial_seed(), torch.arange(len(clean)))
        self.clean, self.budget, self.limit = clean, budget, limit
        self.bounds = victim.bounds["image"]
        self._victim = victim
        self.spent = torch.zeros(len(clean), dtype=torch.long, device=clean.device)
        rows = torch.arange(len(clean), device=clean.device)
        own = self._codes(rows, clean)
        self._goal = aim(own)
        self.best, self.wrong = clean.clone(), (own != self._goal).sum(dim=1)

    def _codes(self, rows: Tensor, images: Tensor) -> Tensor:
        """(R,K) ±1. Raises RuntimeError beyond the limit: the search counted wrongly."""
        self.spent[rows] += 1
        if int(self.spent[rows].max()) > self.limit:
            raise RuntimeError(f"expected at most {self.limit} queries for an image, got one more")
        return torch.from_numpy(self._victim.encode(images, "image").signs()).to(self.clean)

    def send(self, rows: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
        """One query for each of R different rows, inside the budget, from (R,3,H,W) `moved`.

        Returns the images that were sent, projected and rounded to 8 bits, and (R,) wrong bits.
        """
        origin = self.clean[rows]
        images = round_toward(origin, self.budget.project(origin, moved, self.bounds))
        wrong = (self._codes(rows, images) != self._goal[rows]).sum(dim=1)
        better = wrong < self.wrong[rows]
        self.best[rows[better]], self.wrong[rows[better]] = images[better], wrong[better]
        return images, wrong

    def probe(self, rows: Tensor, moved: Tensor) -> Tensor:
        """(R,) wrong bits of 8-bit images that may lie outside the budget: never returned."""
        images = (moved.clamp(*self.bounds) * 255).round() / 255
        return (self._codes(rows, images) != self._goal[rows]).sum(dim=1)

    def open(self) -> Tensor:
        """(R,) the images whose best code is not the goal yet."""
        return (self.wrong > 0).nonzero().flatten()

    def left(self, rows: Tensor) -> int:
        """Queries that each of these images has left at least."""
        return self.limit - int(self.spent[rows].max())


@dataclass(kw_only=True, eq=False, repr=False)
class QueryAttack(GoalAttack):
    """A search with queries only. An image rests once its code is the goal.

    queries: how many images the attacker may send for each query image, the clean one included

    The returned image is one that was sent, 8 bits and inside the budget: that with the fewest
    wrong bits. The mean of what was sent is the indicator "queries_per_image".
    """

    modalities: ClassVar[frozenset[Modality]] = frozenset({"image"})
    norms = frozenset({"linf", "l2"})

    queries: int = 1000

    def __post_init__(self) -> None:
        if self.queries < 2:
            raise ValueError(f"expected queries >= 2, got {self.queries}")
        self.history = []

    def run(
        self, victim: HashVictim, batch: Batch, targets: Tensor | None, budget: Budget
    ) -> Tensor:
        """(B,3,H,W) 8-bit images. Raises UsageError: targeted before `fit`."""
        with self.drawing(batch) as chance:
            box = BlackBox(
                victim,
                batch.inputs["image"],
                budget,
                self.queries,
                lambda own: self.goals(own, targets),
                chance,
            )
            self.search(box)
        self.note("queries_per_image", box.spent)
        return box.best

    @abstractmethod
    def search(self, box: BlackBox) -> None:
        """Send images until each has reached its goal or spent its queries."""


@ATTACKS.register("nes", source="Ilyas et al., ICML 2018")
@dataclass(kw_only=True, eq=False, repr=False)
class NES(QueryAttack):
    """Natural evolution strategies on codes: toward the target's anchor by estimated gradients.

    queries:  images that may be sent for each query image
    pairs:    antithetic pairs x ± σz of which a step's gradient is estimated, z Gaussian
    spread:   σ in [0,1] pixels
    cell:     side, in pixels, of the squares in which z is constant; 1 is white noise
    momentum: share of the earlier estimates that a step keeps
    step:     length of a step as a fraction of the budget's radius (see `step_length`)

    The loss is the share of wrong bits. A step follows its sign (L∞) or its direction (L2).

    Deviations:
    - published are attacks on class scores; here the loss is a share of bits, which is constant
      nearly everywhere, so that by default σ is wide (18/255) and z constant in squares of 4 pixels
    - probes x ± σz may leave the budget, which binds only the image that is returned
    - the best image that was sent is returned, not the last iterate
    """

    goal: ClassVar[Goal] = "targeted"
    knowledge: ClassVar[Knowledge] = CODES_OF_TARGETS

    pairs: int = 5
    spread: float = 0.07
    cell: int = 4
    momentum: float = 0.95
    step: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        above = self.spread > 0 and self.step > 0 and 0 <= self.momentum < 1
        if min(self.pairs, self.cell) < 1 or not above:
            raise ValueError(
                "expected pairs >= 1, cell >= 1, spread > 0, step > 0 and 0 <= momentum < 1, got "
                f"pairs={self.pairs}, cell={self.cell}, spread={self.spread}, step={self.step}, "
                f"momentum={self.momentum}"
            )

    def search(self, box: BlackBox) -> None:
        clean, rule = box.clean, RULES[box.budget.norm]
        length = step_length(self.step, rule, box.budget, clean[0].numel())
        moved, velocity = clean.clone(), torch.zeros_like(clean)
        while len(rows := box.open()) and box.left(rows) >= 3:  # a pair, and where it leads
            pairs = min(self.pairs, (box.left(rows) - 1) // 2)
            slope = self.slope(box, rows, moved[rows], pairs)
            norm = slope.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, 1, 1, 1)
            velocity[rows] = self.momentum * velocity[rows] + slope / norm
            ahead = stepped(moved[rows], velocity[rows], rule, length)
            moved[rows] = box.budget.project(clean[rows], ahead, box.bounds)
            box.send(rows, moved[rows])

    def slope(self, box: BlackBox, rows: Tensor, images: Tensor, pairs: int) -> Tensor:
        """(R,3,H,W) ∝ the gradient of the wrong bits, from `pairs` antithetic pairs of queries."""
        slope = torch.zeros_like(images)
        height, width = images.shape[2:]
        cells = (-(-height // self.cell), -(-width // self.cell))
        for noise in box.chance[rows].normal(pairs, images.shape[1], *cells).unbind(dim=1):
            wide = noise.repeat_interleave(self.cell, 2).repeat_interleave(self.cell, 3)
            direction = self.spread * wide[:, :, :height, :width]
            change = box.probe(rows, images + direction) - box.probe(rows, images - direction)
            slope += change.view(-1, 1, 1, 1) * direction
        return slope


@ATTACKS.register("nes-untargeted", source="Ilyas et al., ICML 2018")
class NESUntargeted(NES):
    """Natural evolution strategies on codes: away from the query's own code.

    Settings and deviations as for `nes`; the goal is the opposite of the query's own code.
    """

    goal: ClassVar[Goal] = "untargeted"
    knowledge: ClassVar[Knowledge] = CODES_ONLY
