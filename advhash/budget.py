"""What an attacker may change, in raw units ([0,1] pixels)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from advhash.errors import ConfigError, counted

if TYPE_CHECKING:  # torch is imported where it computes: a wrong radius is told without it
    from torch import Tensor

Norm = Literal["linf", "l2", "l0", "none"]
Bounds = tuple[float, float]


def parse_eps(text: str | float) -> float:
    """`"8/255"`, `"0.03"`, a number, or `"none"` (no bound).

    >>> round(parse_eps("8/255"), 4), parse_eps("none")
    (0.0314, inf)

    Raises ConfigError: not a number, or not positive.
    """
    if str(text).strip().lower() in ("none", "inf"):
        return math.inf
    try:
        above, slash, below = str(text).partition("/")
        value = float(above) / (float(below) if slash else 1)
        if value == math.inf:
            raise ValueError
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ConfigError(
            f"eps: expected a number, a fraction such as 8/255 or none, got {text!r}"
        ) from None
    if not value > 0:
        raise ConfigError(f"eps: expected a positive number, got {text!r}")
    return value


def clipped(values: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Values in [low, high]; the gradient passes inside and at the bounds themselves.

    `torch.clamp` of torch 2.14 passes none at the bounds, so not through black or white pixels.

    >>> import torch
    >>> x = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0], requires_grad=True)
    >>> clipped(x, (0, 1)).sum().backward()
    >>> x.grad.tolist()
    [0.0, 1.0, 1.0, 1.0, 0.0]
    """
    import torch

    low, high = bounds
    raised = torch.where(values < low, torch.full_like(values, low), values)
    return torch.where(raised > high, torch.full_like(raised, high), raised)


def round_toward(clean: Tensor, moved: Tensor) -> Tensor:
    """Round [0,1] images to 8 bits, each pixel toward the clean one, so that it stays in the ball.

    Clean pixels lie on the grid of 255ths, so the result is never farther from them than `moved`.
    """
    steps = (moved - clean).mul_(255)
    whole = steps.round()
    sign = whole.sign()
    # How far rounding went away from the clean pixel, negative. A step that is whole up to float
    # error is kept: 8.0000001 and 7.9999999 are both 8. In place: this is done at every step.
    away = steps.sub_(whole).mul_(sign).le_(-1e-4)
    return (clean * 255).round_().add_(whole).sub_(sign.mul_(away)).div_(255)


def expect_room(budget: Budget, values: int, *, eight_bit: bool) -> None:
    """Raise ConfigError where a budget on pictures moves none of them, or binds none.

    values: numbers a picture, each in [0,1]; eight_bit: whether they move in steps of 1/255

    >>> expect_room(Budget("l2", 2.0), 3 * 32 * 32, eight_bit=True)
    """
    widest = {"linf": 1.0, "l2": math.sqrt(values)}.get(budget.norm)
    if widest is None:
        return
    if eight_bit and budget.eps < (1 - 1e-4) / 255:  # the tolerance of `round_toward`
        raise ConfigError(
            f"eps: expected at least 1/255, by which 8-bit pixels move, got {budget.eps:.3g}; "
            "--float keeps smaller changes"
        )
    if budget.eps > widest:
        raise ConfigError(
            f"eps: expected at most {widest:.4g} for {budget.norm}, the distance of black from "
            f"white at this size, got {budget.eps:g}; write none for no bound, and radii in "
            "[0,1] pixels"
        )


@dataclass(frozen=True)
class Budget:
    """A hard bound on the perturbation.

    norm: "linf" and "l2" in input units, "l0" in changed entries, "none" for no bound
    eps:  radius: 8/255 for images; a number of tokens for l0; inf for "none"
    """

    norm: Norm
    eps: float

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise ConfigError(f"eps: expected a positive number, got {self.eps}")
        if (self.norm == "none") != math.isinf(self.eps):
            raise ConfigError(
                "expected eps=none with norm=none and a finite eps otherwise, "
                f"got norm={self.norm} eps={self.eps}"
            )
        if self.norm == "linf" and self.eps > 1:
            raise ConfigError(
                f"eps: expected at most 1 for linf, since inputs lie in [0,1], got {self.eps:g}; "
                f"write {self.eps:g}/255 for pixel units"
            )

    def __str__(self) -> str:
        return self.text()

    def text(self, entries: str = "word") -> str:
        """For people; entries: what one changed entry is, in the singular.

        >>> str(Budget("linf", 8 / 255)), Budget("l0", 2).text(), Budget("l0", 20).text("token")
        ('L∞ 8/255', '2 words', '20 tokens')
        """
        if self.norm == "none":
            return "unbounded"
        if self.norm == "l0":
            return counted(self.eps, entries)
        return f"{'L∞' if self.norm == 'linf' else 'L2'} {self.radius}"

    @property
    def radius(self) -> str:
        """As `--eps` takes it: 8/255 rather than its digits."""
        if self.norm == "linf" and abs(self.eps * 255 - round(self.eps * 255)) < 1e-6:
            return f"{round(self.eps * 255)}/255"
        return f"{self.eps:.4g}"

    def distance(self, clean: Tensor, moved: Tensor) -> Tensor:
        """(B,) distance of each item in this budget's norm (L∞ for "none")."""
        import torch

        change = (moved - clean).flatten(1)
        if self.norm == "l2":
            length: Tensor = torch.linalg.vector_norm(change, dim=1)
            return length
        if self.norm == "l0":
            return (change != 0).sum(dim=1).float()
        return change.abs().amax(dim=1)

    def project(self, clean: Tensor, moved: Tensor, bounds: Bounds) -> Tensor:
        """A point inside ball and bounds: projected onto the ball (l0: the largest changes kept),
        then clipped to the bounds, which cannot leave the ball. Tokens stay whole numbers."""
        import torch

        change = moved - clean
        if self.norm == "linf":
            change = change.clamp_(-self.eps, self.eps)
        elif self.norm == "l2":
            length = torch.linalg.vector_norm(change.flatten(1), dim=1).clamp_min(1e-12)
            scale = (self.eps / length).clamp(max=1)
            change = change * scale.view(-1, *[1] * (change.dim() - 1))
        elif self.norm == "l0":
            flat = change.flatten(1)
            keep = min(int(self.eps), flat.shape[1])
            rows = flat.abs().topk(keep, dim=1).indices
            mask = torch.zeros_like(flat).scatter_(1, rows, 1)
            change = (flat * mask).view_as(change)
        return (clean + change).clamp(*bounds).to(clean)
