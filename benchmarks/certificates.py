"""What purifiers and certificates are worth: tables of docs/defenses/{purification,smoothing}.md.

Three parts: every purifier on digits; certificates of a smoothed hash on digits; and, on a small
ReLU hash, randomised smoothing beside bound propagation. dpsh, 32 bits, seed 0, the first 100
queries. Figures go to `benchmarks/certificates.json`, tables between the marks of the pages.

    OMP_NUM_THREADS=1 python benchmarks/certificates.py     # some 6 minutes of one thread
    python benchmarks/certificates.py --page                # only write the pages
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from pages import filled, table
from torch import Tensor, nn

from advhash.attacks.base import AttackData
from advhash.attacks.gradient.hiding import MainstayUntargeted
from advhash.budget import Budget
from advhash.codes import HashCodes
from advhash.codes.hamming import distances, histograms
from advhash.codes.metrics import average_precision, precision_within, retrieval_average_precision
from advhash.data import Batch, Dataset, Modality
from advhash.data.codec import through_codec
from advhash.defenses.wrappers.purify import JPEG
from advhash.defenses.wrappers.smoothing import Smoothed, certified_recall, certify
from advhash.experiments.config import TrainConfig
from advhash.experiments.prepare.hardened import prepare
from advhash.measures.intervals import mean_metric
from advhash.registry import DEFENSES
from advhash.victims.base import HashVictim
from advhash.victims.perceptual.resampling import straight_through

ROOT = Path(__file__).parent.parent
OUT = Path(__file__).with_suffix(".json")
PAGES = {
    ROOT / "docs/defenses/purification.md": ("purifiers",),
    ROOT / "docs/defenses/smoothing.md": ("smoothed", "certificates", "compared"),
}
QUERIES, STEPS = 100, 60
BALL = Budget("linf", 8 / 255)
PURIFIERS: list[dict[str, Any]] = [
    {"name": "jpeg", "quality": 75},
    {"name": "jpeg", "quality": 30},
    {"name": "bit-depth", "depth": 4},
    {"name": "bit-depth", "depth": 2},
    {"name": "smooth", "kernel_size": 3},
    {"name": "crop-vote", "crops": 9, "area": 0.7},
    {"name": "smoothing", "sigma": 0.25, "votes": 25},
]
SIGMAS, RADII = (0.25, 0.5), (0.25, 0.5, 1.0)
SAMPLES, ALPHA, WITHIN = 1000, 0.001, 8
ATTACKED, VOTES, LEVEL = 20, 101, 0.01


class IdentityJPEG(JPEG):
    """The real codec, with the gradient of the identity: the simplest BPDA."""

    def purify(self, images: Tensor) -> Tensor:
        return straight_through(through_codec(images, self.quality), images)


def victim_and_data(defense: dict[str, Any] | None = None) -> tuple[HashVictim, Dataset]:
    values: dict[str, Any] = {"dataset": {"name": "digits"}, "victim": {"name": "dpsh"}, "seed": 0}
    values["defense"] = defense
    trained = prepare(TrainConfig.model_validate(values))
    return trained.victim, trained.data


def moved(victim: HashVictim, data: Dataset, batch: Batch, budget: Budget, steps: int) -> Tensor:
    """Pictures that hide from their own label, made for this victim."""
    seen = AttackData(data, data_codes(victim, data), "image", "image")
    attack = MainstayUntargeted(steps=steps).fit(victim, seen, budget)
    return attack.perturb(victim, batch, None, budget).batch.inputs["image"]


STORED: WeakKeyDictionary[HashVictim, HashCodes] = WeakKeyDictionary()


def data_codes(victim: HashVictim, data: Dataset) -> HashCodes:
    """The database as the victim serves it, hashed once: votes take long."""
    if victim not in STORED:
        STORED[victim] = victim.database_codes(data, "image")
    return STORED[victim]


def precision(victim: HashVictim, data: Dataset, batch: Batch, images: Tensor) -> dict[str, Any]:
    codes, stored = victim.encode(images, "image"), data_codes(victim, data)
    labels = batch.labels.numpy(), data.database.labels.numpy()
    return vars(mean_metric(retrieval_average_precision(codes, stored, *labels), 0))


def purifiers() -> list[dict[str, Any]]:
    """MAP of each: clean, under an attack on the bare victim, under one on the defence."""
    plain, data = victim_and_data()
    batch = data.query.rows(torch.arange(QUERIES))
    clean = batch.inputs["image"]
    transferred = moved(plain, data, batch, BALL, STEPS)
    rows = [
        {
            "defense": {"name": "none"},
            "map_clean": precision(plain, data, batch, clean),
            "map_nonadaptive": precision(plain, data, batch, transferred),
            "map_adaptive": precision(plain, data, batch, transferred),
        }
    ]
    for given in PURIFIERS:
        settings = {key: value for key, value in given.items() if key != "name"}
        wrapped = DEFENSES.create(given["name"], settings).wrap(plain)
        adaptive = moved(wrapped, data, batch, BALL, STEPS)
        row = {
            "defense": given,
            "map_clean": precision(wrapped, data, batch, clean),
            "map_nonadaptive": precision(wrapped, data, batch, transferred),
            "map_adaptive": precision(wrapped, data, batch, adaptive),
        }
        if given["name"] == "jpeg":
            other = IdentityJPEG(quality=given["quality"]).wrap(plain)
            images = moved(other, data, batch, BALL, STEPS)
            row["map_identity"] = precision(wrapped, data, batch, images)
        rows.append(row)
    return rows


def flips_found(victim: Smoothed, data: Dataset, batch: Batch, radius: float) -> list[int]:
    """Bits that an attack flips, codes voted over 401 fresh draws in place of the ideal ones."""
    images = moved(victim, data, batch, Budget("l2", radius), STEPS // 2)
    judge = Smoothed(victim.victim, sigma=victim.sigma, votes=401, seed=99)
    before = judge.encode(batch.inputs["image"], "image")
    return [int(one) for one in distances(judge.encode(images, "image"), before).diagonal()]


def certificates() -> list[dict[str, Any]]:
    plain, data = victim_and_data()
    rows = [certified(plain, data, sigma, "as it is") for sigma in SIGMAS]
    for sigma in SIGMAS:
        noisy, _ = victim_and_data({"name": "noise", "sigma": sigma})
        rows.append(certified(noisy, data, sigma, "under noise"))
    return rows


def served(victim: HashVictim, data: Dataset, batch: Batch) -> dict[str, Any]:
    """Retrieval by the codes that the wrapper serves."""
    codes, stored = victim.encode(batch.inputs["image"], "image"), data_codes(victim, data)
    counts = histograms(codes, stored, batch.labels.numpy(), data.database.labels.numpy())
    return {
        "map_clean": vars(mean_metric(average_precision(counts), 0)),
        "precision_clean": vars(mean_metric(precision_within(counts, WITHIN), 0)),
    }


def certified(victim: HashVictim, data: Dataset, sigma: float, training: str) -> dict[str, Any]:
    """One smoothed hash: what it is worth, and what is certified of it."""
    batch = data.query.rows(torch.arange(QUERIES))
    few = data.query.rows(torch.arange(ATTACKED))
    relevant = (batch.labels.long() @ data.database.labels.long().T > 0).numpy()
    smooth = DEFENSES.create("smoothing", {"sigma": sigma}).wrap(victim)
    began = time.process_time()
    found = certify(smooth, batch.inputs["image"], samples=SAMPLES, alpha=ALPHA)
    seconds = time.process_time() - began
    stored = data_codes(smooth, data)
    every_bit = np.ones((QUERIES, victim.bits), dtype=bool)
    clean = certified_recall(every_bit, found.codes, stored, relevant, WITHIN)
    row: dict[str, Any] = {
        "sigma": sigma,
        "training": training,
        **served(smooth, data, batch),
        "recall_clean": vars(mean_metric(clean, 0)),
        "largest_radius": float(found.radii.max()),
        "seconds": round(seconds, 1),
        "radii": {},
    }
    for radius in RADII:
        held = found.held(radius)
        fresh = found.held_when_served(radius, votes=VOTES, level=LEVEL)
        recall = certified_recall(held, found.codes, stored, relevant, WITHIN)
        one = row["radii"][str(radius)] = {
            "bits": vars(mean_metric(held.sum(axis=1), 0)),
            "bits_served": vars(mean_metric(fresh.sum(axis=1), 0)),
            "recall": vars(mean_metric(recall, 0)),
        }
        if training == "as it is":
            flips = flips_found(smooth, data, few, radius)
            bound = found.flips(radius)[:ATTACKED]
            one["flips_found"], one["flips_bound"] = float(np.mean(flips)), float(bound.mean())
            one["broken"] = int((flips > bound).sum())
    return row


class SmallReLU(HashVictim):
    """u = W₂·relu(W₁·x + b₁) + b₂ on 12 pixels without bounds: 24 neurons, 16 bits, untrained."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.bits, self.bounds, self.history = 16, {"image": (-np.inf, np.inf)}, []
        draw = {"generator": generator, "dtype": torch.float32}
        self.first = nn.Parameter(torch.randn(24, 12, **draw) / 12**0.5)
        self.first_shift = nn.Parameter(torch.randn(24, **draw) / 4)
        self.second = nn.Parameter(torch.randn(16, 24, **draw) / 24**0.5)
        self.second_shift = nn.Parameter(torch.randn(16, **draw) / 4)

    def relax(self, inputs: Tensor, modality: Modality) -> Tensor:
        hidden = torch.relu(inputs.flatten(1) @ self.first.T + self.first_shift)
        return hidden @ self.second.T + self.second_shift

    def fit(self, data: Dataset, *, seed: int, progress: object = None) -> SmallReLU:  # type: ignore[override]
        return self


def propagated(victim: SmallReLU, image: Tensor, radius: float) -> Tensor:
    """(K,) bool, the bits that linear bound propagation certifies on ‖δ‖₂ ≤ radius.

    CROWN (Zhang et al., NeurIPS 2018): an unstable neuron z in [l,u] is bounded by z ≥ 0 or z
    (whichever is nearer) from below and by u(z − l)/(u − l) from above; what is left is linear in
    the picture, and exact on a ball.
    """
    first, second = victim.first.detach().double(), victim.second.detach().double()
    point = image.flatten().double()
    middle = first @ point + victim.first_shift.detach().double()
    spread = radius * first.norm(dim=1)
    low, high = middle - spread, middle + spread
    unstable = (low < 0) & (high > 0)
    slope = torch.where(unstable, high / (high - low), (low >= 0).double())
    above = torch.where(unstable, -slope * low, torch.zeros_like(low))
    below = torch.where(unstable, (high > -low).double(), slope)
    code = second @ torch.relu(middle) + victim.second_shift.detach().double()
    sides = torch.where(code > 0, 1.0, -1.0).double()
    weights = second * sides[:, None]  # the bit holds iff this output stays above 0
    kind = weights >= 0
    through = weights * torch.where(kind, below, slope)
    constant = (weights * torch.where(kind, torch.zeros_like(above), above)).sum(dim=1)
    constant = constant + sides * victim.second_shift.detach().double()
    constant = constant + through @ victim.first_shift.detach().double()
    linear = through @ first
    return linear @ point + constant - radius * linear.norm(dim=1) > 0


def attacked(victim: HashVictim, images: Tensor, radius: float, steps: int = 60) -> np.ndarray:
    """(N,K) bool, bits that a descent on each bit alone flips inside the ball, from four starts."""
    count, bits = len(images), victim.bits
    clean = victim.encode(images, "image").unpack()
    sides = torch.from_numpy(np.where(clean, 1.0, -1.0)).float()
    flipped = np.zeros((count, bits), dtype=bool)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        start = torch.randn(count, bits, 12, generator=generator)
        move = radius * start / start.norm(dim=2, keepdim=True)
        for _ in range(steps):
            move.requires_grad_()
            points = images.flatten(1)[:, None] + move
            codes = victim.relax(points.view(-1, 3, 2, 2), "image").view(count, bits, bits)
            own = (codes * sides[:, None]).diagonal(dim1=1, dim2=2)
            flipped |= (own <= 0).numpy()
            (slope,) = torch.autograd.grad(own.sum(), move)
            move = move.detach() - radius / 8 * slope / slope.norm(dim=2, keepdim=True).clamp(1e-9)
            move = move / (move.norm(dim=2, keepdim=True) / radius).clamp_min(1)
    return flipped


def compared() -> list[dict[str, Any]]:
    """Shares of bits: not flipped by descent, certified by propagation, certified by smoothing."""
    victim = SmallReLU()
    images = torch.rand(50, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    found = {
        sigma: certify(
            Smoothed(victim, sigma=sigma, votes=25, seed=0),
            images,
            samples=10_000,
            alpha=ALPHA,
            batch_size=10_000,
        )
        for sigma in (0.1, 0.25, 0.5)
    }
    rows = []
    for radius in (0.05, 0.1, 0.2, 0.4, 0.8):
        bits = torch.stack([propagated(victim, image, radius) for image in images])
        flipped = attacked(victim, images, radius)
        assert not (flipped & bits.numpy()).any(), "bound propagation broken by an attack"
        rows.append(
            {
                "radius": radius,
                "not_flipped": float((~flipped).mean()),
                "propagated": float(bits.double().mean()),
                "smoothed": {str(s): float(c.held(radius).mean()) for s, c in found.items()},
            }
        )
    return rows


def shown(metric: dict[str, Any]) -> str:
    value, low, high = (metric[name] for name in ("value", "low", "high"))
    return f"{value:.3f}" if low is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def label(defense: dict[str, Any]) -> str:
    settings = [f"{key}={value}" for key, value in defense.items() if key != "name"]
    return f"`{defense['name']}`" + (f" {', '.join(settings)}" if settings else "")


def tables(found: dict[str, Any]) -> dict[str, str]:
    """Mark → table."""
    pure = [
        [
            label(row["defense"]),
            *(shown(row[key]) for key in ("map_clean", "map_nonadaptive", "map_adaptive")),
            shown(row["map_identity"]) if "map_identity" in row else "",
        ]
        for row in found["purifiers"]
    ]
    head = ["defence", "clean", "not adaptive", "adaptive", "identity as gradient"]
    bits, recall = [], []
    for row in found["certificates"]:
        for radius, one in row["radii"].items():
            bits.append(
                [
                    *(row["training"], str(row["sigma"]), radius),
                    *(shown(one[key]) for key in ("bits", "bits_served", "recall")),
                    f"{one['flips_found']:.2f} ≤ {one['flips_bound']:.2f}"
                    if "broken" in one
                    else "",
                ]
            )
        figures = (shown(row[f"{key}_clean"]) for key in ("map", "precision", "recall"))
        recall.append(
            [row["training"], str(row["sigma"]), *figures, f"{row['largest_radius']:.2f}"]
        )
    compare = [
        [
            str(row["radius"]),
            *(f"{100 * row[key]:.1f}" for key in ("not_flipped", "propagated")),
            *(f"{100 * share:.1f}" for share in row["smoothed"].values()),
        ]
        for row in found["compared"]
    ]
    sigmas = [f"smoothing, σ = {sigma}" for sigma in found["compared"][0]["smoothed"]]
    return {
        "purifiers": table(head, pure),
        "smoothed": table(
            [
                "trained",
                "σ",
                "MAP",
                f"precision within {WITHIN}",
                f"recall within {WITHIN}",
                "largest radius",
            ],
            recall,
        ),
        "certificates": table(
            [
                *("trained", "σ", "r", "bits certified, ideal", f"served ({VOTES} votes)"),
                *(f"certified recall within {WITHIN}", "flips found ≤ bound"),
            ],
            bits,
        ),
        "compared": table(["r", "not flipped by descent", "bound propagation", *sigmas], compare),
    }


def write_pages(found: dict[str, Any]) -> None:
    for page in PAGES:
        page.write_text(written(page, found), "utf-8")


def written(page: Path, found: dict[str, Any]) -> str:
    """A page with its tables written anew."""
    made = tables(found)
    return filled(page.read_text("utf-8"), {name: made[name] for name in PAGES[page]})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true")
    given = parser.parse_args()
    if not given.page:
        torch.set_num_threads(1)
        began = time.process_time()
        parts = {"compared": compared, "certificates": certificates, "purifiers": purifiers}
        found: dict[str, Any] = {}
        for name, part in parts.items():
            found[name] = part()
            print(f"{name}: {time.process_time() - began:.0f} s CPU so far", flush=True)
            OUT.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    write_pages(json.loads(OUT.read_text("utf-8")))


if __name__ == "__main__":
    main()
