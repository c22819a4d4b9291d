"""Square attack (Andriushchenko et al., ECCV 2020) on binary codes: random search with squares."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from advhash.attacks.base import Goal, Knowledge
from advhash.attacks.black_box.nes import CODES_OF_TARGETS, CODES_ONLY, BlackBox, QueryAttack
from advhash.chance import Chance
from advhash.registry import ATTACKS

HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # of 10,000 queries
TILES = 5  # squares along a side of the first L2 perturbation
Window = tuple[Tensor, Tensor, Tensor]


def square_side(share: float, query: int, queries: int, height: int, width: int, least: int) -> int:
    """Side of the square at a query, in pixels: √(p·H·W), between `least` and the image's.

    p begins at `share` and is halved along the published schedule of 10,000 queries, stretched to
    the number that there are.

    >>> [square_side(0.8, query, 10_000, 32, 32, 1) for query in (0, 11, 51, 9_000)]
    [29, 20, 14, 1]
    """
    halvings = sum(query * 10_000 / queries > at for at in HALVINGS)
    side = round(math.sqrt(share / 2**halvings * height * width))
    return min(max(side, least), height, width)


def pyramids(side: int) -> Tensor:
    """(s,s) of unit L2 norm: η, an upper half that is a pyramid and a lower one upside down.

    The height at a distance r (in rings) from a half's centre is Σ 1/k² for k from r+1 on.
    """

    def half(rows: int) -> Tensor:
        above = (torch.arange(rows) - rows // 2).abs().view(-1, 1)
        aside = (torch.arange(side) - side // 2).abs().view(1, -1)
        rings = max(rows // 2, side // 2) + 1
        terms = 1 / torch.arange(1, rings + 1) ** 2
        heights: Tensor = terms.flip(0).cumsum(0).flip(0)
        return heights[torch.maximum(above, aside)]

    eta = torch.cat([half(side // 2), -half(side - side // 2)])
    length: Tensor = eta.norm()
    return eta / length


def window(images: Tensor, side: int, chance: Chance) -> Window:
    """The index of one random square of each of (R,H,W,C) images: it selects (R,s,s,C)."""
    count, height, width, _ = images.shape
    steps = torch.arange(side, device=images.device)
    top = chance.integers(height - side + 1, 1)
    left = chance.integers(width - side + 1, 1)
    rows = torch.arange(count, device=images.device)
    return rows[:, None, None], (top + steps)[:, :, None], (left + steps)[:, None, :]


def unit(values: Tensor) -> Tensor:
    """(R,H,W,C) with every channel of every image of L2 norm 1, or 0 where it is 0."""
    norm: Tensor = values.flatten(1, 2).norm(dim=1)
    return values / norm.clamp_min(1e-12)[:, None, None]


def stripes(shape: Tensor, eps: float, chance: Chance) -> Tensor:
    """The first L∞ perturbation of (R,H,W,C): ±ε, one sign a column and channel."""
    _, _, width, channels = shape.shape
    return eps * chance.signs(1, width, channels).expand_as(shape)


def painted(change: Tensor, side: int, eps: float, chance: Chance) -> Tensor:
    """The L∞ step on (R,H,W,C): one square of each image at ±ε, one sign a channel."""
    moved = change.clone()
    moved[window(change, side, chance)] = eps * chance.signs(1, 1, change.shape[3])
    return moved


def tiles(shape: Tensor, eps: float, chance: Chance) -> Tensor:
    """The first L2 perturbation of (R,H,W,C): a grid of pyramids with random signs, of length ε."""
    count, height, width, channels = shape.shape
    side = max(min(height, width) // TILES, 1)
    down, across = height // side, width // side
    signs = chance.signs(down, 1, across, 1, channels)
    grid = signs * pyramids(side).to(shape)[None, None, :, None, :, None]
    top, left = (height - down * side) // 2, (width - across * side) // 2
    change = torch.zeros_like(shape)
    change[:, top : top + down * side, left : left + across * side] = grid.reshape(
        count, down * side, across * side, channels
    )
    length: Tensor = change.flatten(1).norm(dim=1)
    return eps * change / length.view(-1, 1, 1, 1)


def poured(change: Tensor, side: int, eps: float, chance: Chance) -> Tensor:
    """The L2 step on (R,H,W,C): the mass of one square moves into another, as pyramids.

    To it comes what the ball still leaves, in equal shares of the channels.
    """
    channels = change.shape[3]
    moved = change.clone()
    into, out = window(change, side, chance), window(change, side, chance)
    both = torch.zeros_like(change)
    both[into] = both[out] = 1
    unused = (eps**2 - change.flatten(1).square().sum(dim=1)).clamp_min(0) / channels
    mass = (change * both).square().sum(dim=(1, 2)) + unused[:, None]
    eta = pyramids(side).to(change)
    turned = chance.uniform() < 0.5
    eta = torch.where(turned[:, None, None], eta.T, eta)[..., None]
    shape = eta * chance.signs(1, 1, channels) + unit(change[into])
    moved[out] = 0
    moved[into] = unit(shape) * mass.sqrt()[:, None, None]
    return moved


@ATTACKS.register("square", source="Andriushchenko et al., ECCV 2020")
@dataclass(kw_only=True, eq=False, repr=False)
class Square(QueryAttack):
    """Square attack on codes: toward the target's anchor by random squares, kept if not worse.

    queries: images that may be sent for each query image
    share:   share of the pixels in the first squares (p)

    The loss is the number of wrong bits. In L∞ a square is set to ±ε, in L2 the perturbation of
    one square is moved to another; squares shrink along the published schedule.

    Deviations:
    - published is an attack on class scores; here a square that leaves the number of wrong bits as
      it is, is kept as well, since whole numbers seldom fall
    - what is sent, and kept, is rounded to 8 bits
    - L2 squares may have an even side
    """

    goal: ClassVar[Goal] = "targeted"
    knowledge: ClassVar[Knowledge] = CODES_OF_TARGETS

    share: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share <= 1:
            raise ValueError(f"expected share in (0,1], got {self.share}")

    def search(self, box: BlackBox) -> None:
        eps, (height, width) = box.budget.eps, box.clean.shape[2:]
        linf = box.budget.norm == "linf"
        clean = box.clean.permute(0, 2, 3, 1)  # channels last, as squares are cut from pixels

        def send(rows: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
            sent, wrong = box.send(rows, (clean[rows] + change).permute(0, 3, 1, 2))
            return sent.permute(0, 2, 3, 1), wrong

        moved, wrong = clean.clone(), box.wrong.clone()
        rows = box.open()
        if len(rows):
            first = (stripes if linf else tiles)(clean[rows], eps, box.chance[rows])
            moved[rows], wrong[rows] = send(rows, first)
        while len(rows := box.open()) and box.left(rows):
            spent = self.queries - box.left(rows)
            least = 1 if linf else 3
            side = square_side(self.share, spent, self.queries, height, width, least)
            step = painted if linf else poured
            change = step(moved[rows] - clean[rows], side, eps, box.chance[rows])
            sent, missed = send(rows, change)
            kept = missed <= wrong[rows]
            moved[rows[kept]], wrong[rows[kept]] = sent[kept], missed[kept]


@ATTACKS.register("square-untargeted", source="Andriushchenko et al., ECCV 2020")
class SquareUntargeted(Square):
    """Square attack on codes: away from the query's own code.

    Settings and deviations as for `square`; the goal is the opposite of the query's own code.
    """

    goal: ClassVar[Goal] = "untargeted"
    knowledge: ClassVar[Knowledge] = CODES_ONLY
