"""How little suffices: the least change of a stored picture that leaves the threshold of a hash."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from advhash.budget import Budget
from advhash.data.dataset import Batch
from advhash.data.images.decode import quietly, read_picture, turned_as_noted
from advhash.data.images.edits import EDITS
from advhash.experiments.attack.changes import Change
from advhash.experiments.experiment import Place
from advhash.experiments.scan.hashes import NamedHash, ReadyHash
from advhash.experiments.scan.thresholds import PART, ThresholdsCell
from advhash.measures.intervals import median_metric, rate_metric
from advhash.registry import ATTACKS
from advhash.reports.scan import EvasionFigures
from advhash.storage.cells import CellStore, Result
from advhash.victims.base import HashVictim
from advhash.victims.perceptual.hashes import DHash, PerceptualHash
from advhash.victims.perceptual.stored_change import (
    has_map,
    least_stored,
    least_stored_level,
    map_of,
)

MOST_PIXELS = 1_000_000  # of a picture that is changed
LEVELS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # L∞ that are tried, in grey levels
SHARES = (1, 2, 4, 8, 16)
STEPS, FINE_STEPS = 12, 80  # at one L∞, and on the way of the least L2
STRIDE = 0.25  # of a grey level that the steepest colour value moves in a step
SPARE = 1.25  # bits that are pushed for one that must flip
ROUNDED = 0.5  # L2 below which the rounding of dhash's own pixels decides more than its map
QUERIES = 300  # of `square`, at each L∞, for a hash without gradients
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Least:
    """The least change that was found of one picture.

    linf: in grey levels; l2: in grey levels a colour value, the root of the mean square
    jpeg: whether the picture of least L∞ is still out once it is saved as JPEG of quality 90
    changed: (H,W,3) the picture of least L2; distance: in bits from the picture itself; level: its
             L∞, in grey levels
    """

    linf: int
    l2: float
    jpeg: bool
    changed: Pixels
    distance: int
    level: int


@dataclass(frozen=True)
class EvasionCell:
    """Pictures that are moved out of the threshold of one hash."""

    root: Path
    names: tuple[str, ...]
    hashing: NamedHash
    thresholds: ThresholdsCell
    upright: bool
    keep: bool
    seed: int
    key: str

    @property
    def parts(self) -> tuple[str, ...]:
        return (*self.thresholds.parts, PART)

    @property
    def amount(self) -> int:
        return len(self.names)

    def compute(self, place: Place) -> Result:
        """A row a picture that could be read: what `Least` says; None where none was found.

        The least and the greatest change of the cell are kept to be shown, see `_seen`.
        """
        threshold = place.part(PART).document["thresholds"][self.hashing.label]
        ready = self.hashing.build()
        rows: list[dict[str, Any]] = []
        tensors: dict[str, Tensor] = {}
        moved: dict[int, Least] = {}
        for done, name in enumerate(self.names):
            place.progress(f"least change, {self.hashing.label}", done, len(self.names))
            pixels = self._pixels(name)
            if threshold is None or pixels is None:
                continue
            result = least_change(ready, pixels, threshold, seed=self.seed + done)
            names = ("linf", "l2", "jpeg", "distance", "level")
            rows.append({"place": done, **{name: getattr(result, name, None) for name in names}})
            if result is not None:
                moved[done] = result
                if self.keep:
                    tensors[f"changed {done}"] = torch.from_numpy(result.changed)
        place.progress(f"least change, {self.hashing.label}", len(self.names), len(self.names))
        by_size = sorted(moved, key=lambda done: moved[done].l2)
        for done in dict.fromkeys((*by_size[:1], *by_size[-1:])):
            tensors |= self._seen(done, moved[done])
        return Result({"rows": rows, "method": method_of(ready.victim)}, tensors)

    def build(self, place: Place) -> Result:
        store = CellStore("scan", self.key)
        return store.result(lambda: self.compute(place.at(store)))

    def _seen(self, done: int, least: Least) -> dict[str, Tensor]:
        """What a page shows of a picture: reduced, the way up that people see it; {}: unreadable.

        "shown N": see `Change.images`.
        """
        pixels, source = self._pixels(self.names[done]), self.root / self.names[done]
        if pixels is None:  # gone meanwhile
            return {}
        if self.upright:
            return {f"shown {done}": Change.of(pixels, least.changed).images}
        try:
            change = Change.of(pixels, least.changed, partial(turned_as_noted, source=source))
        except Exception:  # a note that no decoder understands
            return {}
        return {f"shown {done}": change.images}

    def _pixels(self, name: str) -> Pixels | None:
        """(H,W,3); None of what cannot be read, and of what is too large to be moved."""
        try:
            with quietly():
                image = read_picture(self.root / name, upright=self.upright).image
        except MemoryError:
            raise
        except Exception:  # counted with the blocks
            return None
        return None if image.width * image.height > MOST_PIXELS else np.asarray(image)


def method_of(victim: HashVictim) -> str:
    if has_map(victim):
        return "by its linear map"
    return "by gradients" if victim.differentiable else f"by {QUERIES} queries at each L∞"


def least_change(ready: ReadyHash, pixels: Pixels, threshold: int, *, seed: int) -> Least | None:
    """The least change of a picture (H,W,3) that leaves the threshold; None where none was found.

    pdq, phash and dhash are linear but for roundings: see `stored_change`. Elsewhere L∞ is raised
    until signed steps on the bits nearest to their thresholds get out; for L2, colour values are
    moved by whole grey levels where the gradient is steepest, a few at a time, and as much as
    possible of that is taken back. What is returned was hashed again as it would be stored.
    """
    clean = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float()
    victim = ready.victim
    own = torch.from_numpy(_bits(ready, clean))
    if threshold >= victim.bits:
        return None
    ways = list(_by_map(ready, pixels, threshold)) if has_map(victim) else []
    if ways and isinstance(victim, DHash) and _rms(ways[-1] - clean) < ROUNDED:
        ways = [*ways, *_steepest(ready, clean, own, threshold)]
    elif not ways:  # flat pictures have too few bits that could flip by the map
        ways = list(
            _by_gradients(ready, clean, own, threshold)
            if victim.differentiable
            else _by_queries(ready, clean, own, threshold, seed)
        )
    result = [moved for moved in ways if _distance(ready, moved, own) > threshold]
    if not result:
        return None
    changes = [(moved - clean) for moved in result]
    linf = min(range(len(result)), key=lambda place: float(changes[place].abs().max()))
    norms = [_rms(change) for change in changes]
    l2 = min(range(len(result)), key=norms.__getitem__)
    saved = _image(result[linf])
    again = EDITS["jpeg90"].change(saved, 0)
    after = torch.from_numpy(np.array(again)).permute(2, 0, 1)[None].float()
    return Least(
        linf=round(float(changes[linf].abs().max())),
        l2=norms[l2],
        jpeg=_distance(ready, after, own) > threshold,
        changed=np.asarray(_image(result[l2])).copy(),
        distance=_distance(ready, result[l2], own),
        level=round(float(changes[l2].abs().max())),
    )


def _rms(change: Tensor) -> float:
    return float(change.square().mean().sqrt())


def _image(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels[0].permute(1, 2, 0).byte().numpy())


def _bits(ready: ReadyHash, pixels: Tensor) -> npt.NDArray[np.bool_]:
    """(K,) of whole grey levels (1,3,H,W)."""
    codes = ready.victim.encode(ready.tensor(_image(pixels)), "image")
    return np.asarray(codes.unpack()[0])


def _distance(ready: ReadyHash, pixels: Tensor, own: Tensor) -> int:
    return int((_bits(ready, pixels) != own.numpy()).sum())


def _by_map(ready: ReadyHash, pixels: Pixels, threshold: int) -> Iterator[Tensor]:
    """Pictures that are out, by the linear map of the hash: of least L∞, then of least L2."""
    assert isinstance(ready.victim, PerceptualHash)
    linear = map_of(ready.victim, *pixels.shape[:2])
    for moved in (
        least_stored_level(ready.victim, linear, pixels, threshold, LEVELS),
        least_stored(ready.victim, linear, pixels, threshold),
    ):
        if moved is not None:
            yield torch.from_numpy(moved).permute(2, 0, 1)[None].float()


def _by_gradients(ready: ReadyHash, clean: Tensor, own: Tensor, threshold: int) -> Iterator[Tensor]:
    """Pictures that may be out: of least L∞, then of least L2."""
    yield from _level_by_gradients(ready, clean, own, threshold)
    yield from _steepest(ready, clean, own, threshold)


def _level_by_gradients(
    ready: ReadyHash, clean: Tensor, own: Tensor, threshold: int
) -> Iterator[Tensor]:
    """By signed steps within a level that is raised."""
    steep = _Steep(ready, own, threshold)
    moved = clean
    for level in LEVELS:
        for _ in range(STEPS):
            step = max(level / 4, 1.0) * steep.gradient(moved).sign()
            moved = _within(clean, (moved - step).round(), level)
            if _distance(ready, moved, own) > threshold:
                break
        else:
            continue
        yield moved
        return


def _steepest(ready: ReadyHash, clean: Tensor, own: Tensor, threshold: int) -> Iterator[Tensor]:
    """By whole grey levels where the gradient is steepest."""
    steep = _Steep(ready, own, threshold)
    drift = torch.zeros_like(clean)
    for _ in range(FINE_STEPS):
        at = (clean + drift.round()).clamp(0, 255)
        if _distance(ready, at, own) > threshold:
            break
        gradient = steep.gradient(at)
        gradient[(at <= 0) & (gradient > 0) | (at >= 255) & (gradient < 0)] = 0
        largest = gradient.abs().max()
        if largest == 0:
            return
        drift -= STRIDE * gradient / largest
    else:
        return
    low, high = 0.0, 1.0
    for _ in range(8):
        share = (low + high) / 2
        shrunk = (clean + (share * drift).round()).clamp(0, 255)
        if _distance(ready, shrunk, own) > threshold:
            high = share
        else:
            low = share
    yield (clean + (high * drift).round()).clamp(0, 255)


def _within(clean: Tensor, moved: Tensor, level: int) -> Tensor:
    return torch.minimum(torch.maximum(moved, clean - level), clean + level).clamp(0, 255)


@dataclass(frozen=True)
class _Steep:
    """The gradient that pushes as many bits over their thresholds as must flip, nearest first."""

    ready: ReadyHash
    own: Tensor
    threshold: int

    def gradient(self, pixels: Tensor) -> Tensor:
        """(1,3,H,W) of the sum of margins that are left, in whole grey levels."""
        images = (pixels / 255).requires_grad_()
        fed = images
        if self.ready.side is not None:
            size = (self.ready.side, self.ready.side)
            fed = torch.nn.functional.interpolate(images, size, mode="bicubic", antialias=True)
        relaxed = self.ready.victim.relax(fed, "image")[0]
        margins = torch.where(self.own, relaxed, -relaxed)
        count = min(round((self.threshold + 1) * SPARE) + 1, len(margins))
        nearest = margins.topk(count, largest=False)
        scale = margins.detach().abs().mean().clamp_min(1e-9)
        loss = (nearest.values / scale + 0.05).clamp_min(0).sum()
        (result,) = torch.autograd.grad(loss, images)
        return result


def _by_queries(
    ready: ReadyHash, clean: Tensor, own: Tensor, threshold: int, seed: int
) -> Iterator[Tensor]:
    """Pictures that `square` moves, which sees hashes alone."""
    attack = ATTACKS.create("square-untargeted", {"queries": QUERIES})
    victim = _AtSide(ready)
    batch = Batch(
        {"image": clean / 255}, torch.zeros(1, 1, dtype=torch.uint8), torch.tensor([seed])
    )
    for level in LEVELS[2::2]:
        moved = attack.run(victim, batch, None, Budget("linf", level / 255))
        moved = _within(clean, (moved * 255).round(), level)
        if _distance(ready, moved, own) > threshold:
            yield moved
            return


class _AtSide(HashVictim):
    """A hash behind the resize of its pictures."""

    def __init__(self, ready: ReadyHash) -> None:
        super().__init__()
        self.inside, self.side = ready.victim, ready.side
        self.bits, self.bounds, self.history = ready.bits, {"image": (0.0, 1.0)}, []

    def relax(self, inputs: Tensor, modality: str) -> Tensor:
        if self.side is not None:
            size = (self.side, self.side)
            inputs = torch.nn.functional.interpolate(inputs, size, mode="bicubic", antialias=True)
            inputs = inputs.clamp(0, 1)
        return self.inside.relax(inputs, modality)

    def fit(self, *_: Any, **__: Any) -> _AtSide:
        return self


def evasion_figures(
    rows: Sequence[dict[str, Any]], names: Sequence[str], method: str, seed: int
) -> EvasionFigures | None:
    """What the rows of all cells of one hash say; None where nothing was tried."""
    if not rows:
        return None
    linf = [row["linf"] for row in rows]
    l2 = [row["l2"] for row in rows]
    result = [row for row in rows if row["linf"] is not None]
    infinite = [np.inf if value is None else value for value in linf]
    median = float(np.median(infinite))
    median_l2 = float(np.median([np.inf if value is None else value for value in l2]))
    return EvasionFigures(
        pictures=len(rows),
        moved_out=len(result),
        method=method,
        linf=linf,
        l2=l2,
        names=list(names),
        median_linf=median if np.isfinite(median) else None,
        least_linf=median_metric(infinite),
        median_l2=median_l2 if np.isfinite(median_l2) else None,
        shares={
            str(level): rate_metric([value <= level for value in infinite], seed)
            for level in SHARES
        },
        after_jpeg=rate_metric([row["jpeg"] for row in result], seed) if result else None,
    )


def saved_png(pixels: Tensor) -> bytes:
    """A changed picture as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(buffer, "PNG")
    return buffer.getvalue()
